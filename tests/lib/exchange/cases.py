"""What is exchanged with other tools, and how both sides are compared.

Volumes are small and awkward: no side is a multiple of a chunk, voxels are anisotropic and one size is no integer, the
origin is negative along one axis.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

import chunkinfer as ci

Array = np.ndarray[Any, Any]

VOXEL = {"z": 40.0, "y": 4.5, "x": 4.0}
"""nm"""
OFFSET = {"z": -3, "y": 5, "x": 7}
"""Voxels; coarser levels begin between theirs."""
CHANNELS = ("second", "first")
FACTORS = {"z": 1, "y": 2, "x": 2}
"""Of the coarser level of what is written here: the voxels' long side stays."""


def _arrays() -> dict[str, Array]:
    rng = np.random.default_rng(0)
    wave = np.add.outer(np.add.outer(np.linspace(0, 2, 13), np.linspace(0, 3, 22)), np.linspace(0, 4, 35))
    cells = rng.integers(0, 9, (5, 6, 9)).repeat(3, 0).repeat(4, 1).repeat(4, 2)[:13, :22, :35]
    image = rng.integers(0, 2**16, (2, 13, 22, 35)).astype("u2")
    image[:, 8:, :8, :8] = 0  # whole chunks of zeros
    return {
        "image": image,
        "smooth": (127 + 120 * np.sin(np.stack([wave, wave[::-1]]))).astype("u1"),
        "labels32": (cells * 2**20 + 7 * (cells > 0)).astype("u4"),
        "labels64": (cells.astype("u8") * 2**40 + 7 * (cells > 0)).astype("u8"),
    }


ARRAYS = _arrays()
"""Images have two channels."""


@dataclass(frozen=True)
class Row:
    """A kind of store."""

    format: str
    """As for `save`."""
    voxels: str = "image"
    """Which of `ARRAYS`."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """For `save`."""
    shards: int = 0
    """Voxels on a side of a shard."""
    levels: int = 1
    tolerance: int = 0
    """Of a lossy encoding."""
    unit: str = "nm"
    channels: Sequence[int] = (1, 2)
    """Volumes of how many channels there are."""


SEGMENTATION: dict[str, Any] = {"channels": (1,), "options": {"encoding": "compressed_segmentation"}}
ROWS = {
    "zarr 2": Row("zarr2"),
    "zarr 3": Row("zarr3"),
    "zarr 3, shards": Row("zarr3", shards=16),
    "OME-Zarr 0.4, 2 levels": Row("ome-zarr-0.4", levels=2, unit="um"),
    "OME-Zarr 0.5, 2 levels": Row("ome-zarr", levels=2, unit="um"),
    "OME-Zarr 0.5, shards, 2 levels": Row("ome-zarr", shards=16, levels=2, unit="um"),
    "N5": Row("n5"),
    "precomputed, raw, 2 levels": Row("precomputed", levels=2),
    "precomputed, raw, shards, 2 levels": Row("precomputed", shards=16, levels=2),
    "precomputed, jpeg": Row("precomputed", "smooth", {"encoding": "jpeg"}, tolerance=8, channels=(1,)),
    "segmentation, uint32, 2 levels": Row("precomputed", "labels32", levels=2, **SEGMENTATION),
    "segmentation, uint64": Row("precomputed", "labels64", **SEGMENTATION),
    "segmentation, uint64, shards, 2 levels": Row("precomputed", "labels64", shards=16, levels=2, **SEGMENTATION),
}


def array_of(row: Row, channels: int) -> Array:
    """(c, z, y, x), or (z, y, x) where there is one channel."""
    array = ARRAYS[row.voxels]
    return array[0] if array.ndim == 4 and channels == 1 else array


def about(row: Row) -> dict[str, Any]:
    """What another tool is to write."""
    encoding = row.options.get("encoding", "raw")
    known = {"voxel_size": VOXEL, "offset": OFFSET, "channels": list(CHANNELS), "encoding": encoding}
    return {**known, "shards": row.shards, "levels": row.levels}


def write(row: Row, channels: int, url: Path) -> None:
    """Save a volume, with its place in the world."""
    array = array_of(row, channels)
    dims = ("c", "z", "y", "x")[-array.ndim :]
    times = {"nm": 1.0, "um": 1e-3}[row.unit]
    coords: dict[str, Any] = {
        d: (OFFSET[d] + np.arange(n)) * (VOXEL[d] * times)
        for d, n in zip(dims[-3:], array.shape[-3:], strict=True)
    }  # fmt: skip
    if array.ndim == 4:
        coords["c"] = list(CHANNELS)
    volume = xr.DataArray(array, dims=dims, coords=coords, attrs={"unit": row.unit})
    front = () if array.ndim == 3 else (channels,)
    ci.save(
        volume, url, format=row.format, chunks=(*front, 8, 8, 8), pyramid=row.levels - 1, progress=False,
        shards=(*front, *(row.shards,) * 3) if row.shards else False, **row.options,
    )  # fmt: skip


def expected(row: Row, channels: int, level: int, values: Array) -> dict[str, Any]:
    """What any reader shall find at a level of what `write` wrote."""
    times = {d: FACTORS[d] ** level for d in "zyx"}
    size = {d: VOXEL[d] * times[d] for d in "zyx"}
    offset: dict[str, float] = {d: OFFSET[d] / times[d] for d in "zyx"}
    if row.format == "precomputed":  # whole voxels: the first one begins before the volume
        offset = {d: OFFSET[d] // times[d] for d in "zyx"}
    centre = {d: offset[d] * size[d] + (size[d] - VOXEL[d]) / 2 for d in "zyx"}
    kind = "segmentation" if "labels" in row.voxels else "image"
    return {
        "values": values, "voxel_size": size, "offset": offset, "centre": centre, "kind": kind,
        "channels": list(CHANNELS), "made_by": [],
    }  # fmt: skip


def read_here(url: Path | str, level: int = 0, missing: str = "error") -> dict[str, Any]:
    """What `open_volume` says, in the words of the other readers."""
    volume = ci.open_volume(url, level=level, missing=missing)
    nm = {"nm": 1.0, "um": 1e3, "angstrom": 0.1, "": 1.0}[volume.attrs.get("unit", "")]
    size = {d: float(volume[d][1] - volume[d][0]) for d in "zyx"}
    told: dict[str, Any] = {
        "values": volume.values,
        "voxel_size": {d: size[d] * nm for d in "zyx"},
        "offset": {d: float(volume[d][0]) / size[d] for d in "zyx"},
    }
    if "c" in volume.coords:
        told["channels"] = [str(name) for name in volume.c.values]
    return told


def differences(told: Mapping[str, Any], wanted: Mapping[str, Any], tolerance: int = 0) -> dict[str, str]:
    """What is not equal, of all that was told: name -> how it differs.

    Voxels are compared with their shape and data type.
    """
    found = {}
    for name, value in told.items():
        right = wanted[name]
        if name == "values":
            if (value.shape, value.dtype) != (right.shape, right.dtype):
                found[name] = f"{value.dtype} {value.shape} for {right.dtype} {right.shape}"
            elif (far := np.abs(value.astype("f8") - right.astype("f8")).max()) > tolerance or (
                not tolerance and not np.array_equal(value, right)
            ):
                found[name] = f"{np.mean(value != right):.0%} of voxels, by up to {far:g}"
        elif isinstance(right, Mapping):
            if set(value) != set(right) or any(abs(value[d] - right[d]) > 1e-6 * max(1, abs(right[d])) for d in right):
                found[name] = f"{_axes(value)} for {_axes(right)}"
        elif value != right:
            found[name] = f"{value} for {right}"
    return found


def _axes(values: Mapping[str, float]) -> str:
    return "(" + ", ".join(f"{d} {values[d]:.6g}" for d in "zyx" if d in values) + ")"
