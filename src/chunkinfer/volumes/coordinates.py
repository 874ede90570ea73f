"""What a DataArray says of its axes: their names, the grid of each, and the unit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from chunkinfer.errors import VolumeError
from chunkinfer.volumes.arrays.axes import ORDER as DIMS
from chunkinfer.volumes.arrays.axes import SPATIAL as SPACE
from chunkinfer.volumes.arrays.numbers import shortest

if TYPE_CHECKING:
    import xarray as xr

CALLED = {
    "x": ("x", "col", "cols", "column", "columns", "width", "lon", "longitude"),
    "y": ("y", "row", "rows", "height", "lat", "latitude"),
    "z": ("z", "plane", "planes", "pln", "slice", "section", "sections", "depth"),
    "c": ("c", "channel", "channels", "ch", "band", "bands"),
    "t": ("t", "time", "times", "frame", "frames"),
}
"""Axis -> what others call it, in lower case."""


def order_of(volume: xr.DataArray) -> tuple[str, ...]:
    """The axes in the order (t, c, z, y, x).

    Raises
    ------
    VolumeError
        Their names are others, or y or x is not among them.
    """
    dims = tuple(map(str, volume.dims))
    if unknown := [d for d in dims if d not in DIMS]:
        raise VolumeError(
            f"The volume's axes are {dims}; {', '.join(map(repr, unknown))} "
            f"{'is not one of' if len(unknown) == 1 else 'are not among'} {DIMS}.",
            "Axes are known by name, because a transposed volume gives wrong results in silence.",
            _renames(dims, tuple(volume.dims)),
        )
    if not {"y", "x"} <= set(dims):
        raise VolumeError(
            f"The volume's axes are {dims}; an image has at least y and x.",
            "A selection with one index drops an axis.",
            [
                "select a range of one where an index was taken, as slice(5, 6) instead of 5",
                f"put it back: volume.expand_dims({[d for d in ('y', 'x') if d not in dims]})",
            ],
        )
    return tuple(d for d in DIMS if d in dims)


def _renames(dims: tuple[str, ...], called: tuple[Any, ...]) -> list[str]:
    """Lines that name all axes at once: by what they seem to be called, the others from the last one on.

    Parameters
    ----------
    dims, called
        Names of the axes as texts, and as they are.
    """
    seem = {name: axis for axis, names in CALLED.items() for name in names}
    found = {d: d for d in dims if d in DIMS}
    for d in dims:
        axis = seem.get(d.lower())
        if d not in found and axis is not None and axis not in found.values():
            found[d] = axis
    free = [axis for axis in ("x", "y", "z", "c", "t") if axis not in found.values()]
    more: list[str] = []
    for d in reversed(dims):
        if d not in found and free:
            found[d] = free.pop(0)
        elif d not in found:
            more.insert(0, d)
    renames = {name: found[d] for d, name in zip(dims, called, strict=True) if found.get(d, name) != name}
    line = f"volume.rename({renames})" if renames else "volume"
    if more:
        line = f"{line}.isel({', '.join(f'{d}=0' for d in more)})" if all(d.isidentifier() for d in more) else line
        return [line, "or another index of these axes, or the mean over them"]
    return [line, "where the names mean other axes: rename all of them at once, as in this line"]


def grid_of(volume: xr.DataArray, d: str) -> tuple[float, float]:
    """Voxel size and origin (in voxels) along an axis, from its coordinates.

    Raises
    ------
    VolumeError
        They are no evenly spaced, ascending numbers; or they cannot tell the size and ``attrs["voxel_size"]`` does not
        either.
    """
    if d not in volume.coords:
        return size_stated(volume, d) or 1.0, 0.0
    values = np.asarray(volume.coords[d].values)
    # Dates would become nanoseconds, and texts such as "1" numbers.
    if values.dtype.kind not in "iuf" or not np.isfinite(values := values.astype(np.float64)).all():
        raise VolumeError(
            f"The coordinates of axis {d} are not numbers.",
            "Positions of voxels are multiples of the voxel size.",
            [f"drop them: volume.drop_vars({d!r})", f"state them: volume.assign_coords({d}=numpy.arange(...) * size)"],
        )
    if len(values) == 0:
        return size_stated(volume, d) or 1.0, 0.0
    size = (values[-1] - values[0]) / (len(values) - 1) if len(values) > 1 else size_stated(volume, d) or 1.0
    if size <= 0:
        raise VolumeError(
            f"The coordinates of axis {d} run from {values[0]:g} to {values[-1]:g}.",
            "The axis is reversed, and a network would see mirrored data.",
            [f"volume.sortby({d!r})", f"volume.isel({d}=slice(None, None, -1))"],
        )
    position = values / size
    if np.abs(np.diff(position) - 1).max(initial=0) > 1e-3:
        raise VolumeError(
            f"The coordinates of axis {d} are not evenly spaced.",
            "Sections are missing, or the volume was put together from parts.",
            [f"resample: volume.interp({d}=numpy.arange(...))", f"drop them: volume.drop_vars({d!r})"],
        )
    origin = float(position[0])
    near = float(np.rint(origin))
    return float(size), near if abs(origin - near) < min(1e-3, 1e-6 * max(1.0, abs(origin))) else origin


def size_stated(volume: xr.DataArray, d: str) -> float | None:
    """Size of a voxel along an axis by ``attrs["voxel_size"]``, for axes whose coordinates cannot tell it.

    Raises
    ------
    VolumeError
        The attribute is something, and no size.
    """
    stated: Any = volume.attrs.get("voxel_size")
    size: Any = None
    axes = [name for name in SPACE if name in volume.dims]
    if isinstance(stated, Sequence | np.ndarray) and not isinstance(stated, str):
        axes = axes if len(stated) <= len(axes) else [name for name in SPACE if name in (*volume.dims, *volume.coords)]
        size = dict(zip(axes, stated, strict=False)).get(d) if len(stated) in (0, len(axes)) else stated
    else:
        size = stated.get(d) if isinstance(stated, Mapping) else stated
    if size is None:
        return None
    number = isinstance(size, int | float | np.integer | np.floating) and not isinstance(size, bool)
    if not number or not 0 < float(size) < np.inf:
        raise VolumeError(
            f"attrs['voxel_size'] is {stated!r}, which gives no size along {d}.",
            "It is read where coordinates cannot tell the size: for axes without them, and of length one.",
            [
                f"volume.assign_attrs(voxel_size={dict.fromkeys(axes, 8.0)})",
                "leave it unknown: volume.assign_attrs(voxel_size=None)",
            ],
        )
    return shortest(size) if isinstance(size, np.floating) else float(size)


def unit_of(volume: xr.DataArray, space: Sequence[str]) -> str:
    """The unit of positions: of ``attrs["unit"]``, or else of a coordinate's ``attrs["units"]``; '' if unknown."""
    told = [volume.attrs.get("unit"), *(volume.coords[d].attrs.get("units") for d in space if d in volume.coords)]
    return next((unit for unit in told if isinstance(unit, str) and unit), "")


def fixed_of(volume: xr.DataArray) -> dict[str, Any]:
    """Coordinates that hold for the whole volume: those of axes of which one index was taken, and other single values.

    They stay with what is made of the volume, so that ``xarray.concat`` of results has positions again.
    """
    return {str(name): coordinate.variable for name, coordinate in volume.coords.items() if not coordinate.dims}
