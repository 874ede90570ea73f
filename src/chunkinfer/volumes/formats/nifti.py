"""NIfTI, 1 and 2. Boxes are read from ``.nii``; ``.nii.gz`` cannot be entered in the middle and is held in memory."""

from __future__ import annotations

import gzip
import io
from collections.abc import Mapping
from typing import Any, cast

import numpy as np

from chunkinfer.stores import ranges
from chunkinfer.stores.ranges import Stored
from chunkinfer.volumes.arrays.meta import Contents
from chunkinfer.volumes.arrays.numbers import in_voxels, is_size, shortest
from chunkinfer.volumes.arrays.placement import Placement
from chunkinfer.volumes.formats import flat

SUFFIXES = (".nii", ".nii.gz")
WHAT = "NIfTI files"
NEEDS = "nibabel"

STORED = ("x", "y", "z", "t", "c")
"""Axes as the format orders them."""
UNITS = {1: "m", 2: "mm", 3: "um"}
"""Code in the three lowest bits of ``xyzt_units`` -> unit; other codes are none."""


def describe(file: Stored, inside: str, level: int) -> Contents:
    """What the header says. Voxels stay in stored order, whatever way the scanner's axes point."""
    zipped = file.url.lower().endswith(".gz")
    spec = {**file.spec, "gzip": zipped}
    image = _image(spec)
    header = image.header
    shape = tuple(map(int, header.get_data_shape()))
    if not 2 <= len(shape) <= len(STORED):
        raise ValueError(f"it has {len(shape)} axes, and a volume two to five")
    stored, dtype = STORED[: len(shape)], header.get_data_dtype()
    if (image.dataobj.slope, image.dataobj.inter) != (1, 0) and dtype.kind in "iuf":
        dtype = np.result_type(dtype, np.float32)
    sizes = {d: size for d, size in zip("xyz", map(shortest, header.get_zooms()), strict=False) if is_size(size)}
    unit = UNITS.get(int(header["xyzt_units"]) % 8, "")
    offset: dict[str, float] = {}
    names: dict[str, Any] = {}
    if header["sform_code"] > 0 or header["qform_code"] > 0:
        affine = header.get_best_affine()
        if np.allclose(affine[:3, :3], np.diag([sizes.get(d, 1.0) for d in "xyz"]), rtol=1e-5, atol=1e-6):
            offset = {d: in_voxels(affine[i, 3], sizes[d]) for i, d in enumerate("xyz") if d in sizes}
        else:
            names["affine"] = affine.tolist()
    chunks = shape if zipped else flat.chunks(stored, shape)
    return Contents(stored, shape, dtype, chunks, spec, Placement(sizes, unit, offset), names)


def opened(spec: Mapping[str, Any], version: str) -> Any:
    """The voxels, by boxes, in the order (x, y, z, t, c); intensities are scaled as the header says."""
    values = _image(spec).dataobj
    if not spec["gzip"]:
        return values
    decoded = np.asanyarray(values)
    decoded.flags.writeable = False  # all boxes are views of it
    return decoded


def _image(spec: Mapping[str, Any]) -> Any:
    import nibabel

    stream: io.BufferedIOBase = ranges.opened(dict(spec))
    if spec["gzip"]:
        stream = cast(io.BufferedIOBase, gzip.GzipFile(fileobj=stream))
    size = int.from_bytes(stream.read(4), "little")
    stream.seek(0)
    newer = 540 in (size, int.from_bytes(size.to_bytes(4, "little"), "big"))
    image = (nibabel.Nifti2Image if newer else nibabel.Nifti1Image).from_stream(stream)
    return image
