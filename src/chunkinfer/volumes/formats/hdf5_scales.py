"""Dimension scales of HDF5, by which netCDF and xarray name axes, and place voxels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from chunkinfer.errors import SourceError
from chunkinfer.volumes.arrays.axes import SPATIAL
from chunkinfer.volumes.arrays.numbers import in_voxels
from chunkinfer.volumes.arrays.placement import Placement, common_unit, short_unit

NAMELESS = b"This is a netCDF dimension but not a netCDF variable"
"""How the name of a scale begins that has no values."""


def names(dataset: Any) -> list[str | None] | None:
    """What the scales of each axis are called; None where no axis has any."""
    found = [dim[0].name.rpartition("/")[2] if len(dim) else None for dim in dataset.dims]
    return found if any(found) else None


def placement(dataset: Any, stored: Sequence[str], place: tuple[str, str]) -> Placement:
    """Where the positions in the scales put the voxels; ``place`` is the file's URL and the dataset's name in it.

    Raises
    ------
    SourceError
        Positions are not ascending in even steps.
    """
    sizes, units, offset = {}, {}, {}
    for dim, scales in zip(stored, dataset.dims, strict=True):
        if dim not in SPATIAL or not len(scales):
            continue
        scale = scales[0]
        numeric = scale.dtype.kind in "iuf" and scale.ndim == 1 and len(scale) > 1
        if not numeric or bytes(scale.attrs.get("NAME", b"")).startswith(NAMELESS):
            continue
        at = scale[...].astype(np.float64)
        size = float(at[-1] - at[0]) / (len(at) - 1)
        if not np.isfinite(at).all() or size <= 0 or np.abs(np.diff(at / size) - 1).max() > 1e-3:
            raise _uneven(place, dim, scale.name)
        sizes[dim] = float(f"{size:.7g}") if scale.dtype.itemsize < 8 else size
        offset[dim] = in_voxels(float(at[0]), sizes[dim])
        unit = scale.attrs.get("units", "")
        units[dim] = short_unit(unit.decode() if isinstance(unit, bytes) else str(unit))
    return Placement(*common_unit(sizes, units), offset) if sizes else Placement()


def refuse_packed(attributes: Mapping[str, Any], place: tuple[str, str]) -> None:
    """Refuse an array whose stored numbers are not its values, by the CF conventions.

    Raises
    ------
    SourceError
        They are to be scaled or shifted.
    """
    packed = {
        name: attributes[name]
        for name, plain in (("scale_factor", 1), ("add_offset", 0))
        if attributes.get(name) not in (None, plain, [plain])
    }
    if packed:
        factor, shift = packed.get("scale_factor", 1), packed.get("add_offset", 0)
        raise SourceError(
            f"The numbers stored in {'/'.join(place)} are not its values: {packed}.",
            "By the CF conventions, values are number * scale_factor + add_offset.",
            [
                f"the values: {by_h5py(place)} * {_number(factor)} + {_number(shift)}",
                f"the stored numbers: {by_h5py(place)}",
            ],
        )


def _number(value: Any) -> Any:
    """A number that may be stored as an array of one."""
    return value[0] if isinstance(value, list) and len(value) == 1 else value


def _uneven(place: tuple[str, str], dim: str, scale: str) -> SourceError:
    return SourceError(
        f"The positions of {'/'.join(place)} along {dim} do not ascend in even steps.",
        "Sections are missing, or the axis is reversed.",
        [f"look at them: h5py.File({place[0]!r})[{scale!r}][:]", f"without positions: {by_h5py(place)}"],
    )


def by_h5py(place: tuple[str, str]) -> str:
    """The line that gives the stored numbers of a dataset, whatever its attributes say."""
    return f"dask.array.from_array(h5py.File({place[0]!r})[{place[1]!r}])"
