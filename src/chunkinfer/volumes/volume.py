"""Volumes: axes, voxel size and origin; DataArray <-> array and back.

The coordinates are the only truth about where voxels are. ``attrs["voxel_size"]`` serves only axes of length one, whose
single coordinate cannot tell it; the origin is never an attribute, because after ``volume[100:200]`` it would lie.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import dask.array as da

from chunkinfer.errors import VolumeError
from chunkinfer.support.facts import SourceFacts
from chunkinfer.support.payload import NetworkPayload, networks_of
from chunkinfer.volumes.arrays.axes import SPATIAL as SPACE
from chunkinfer.volumes.arrays.source import Source
from chunkinfer.volumes.coordinates import fixed_of, grid_of, order_of, size_stated, unit_of
from chunkinfer.volumes.frame import Frame
from chunkinfer.volumes.given_arrays import check_voxels, lazy_array
from chunkinfer.volumes.lazy import Reader, origin_of
from chunkinfer.volumes.open import open_volume

if TYPE_CHECKING:
    import xarray as xr


@dataclass(frozen=True)
class Volume:
    """What a verb was given, in one form."""

    array: da.Array
    """(c, *space), (*space), or with t in front."""
    dims: tuple[str, ...]
    frame: Frame
    labelled: bool
    """Whether a DataArray goes back to the caller."""
    attrs: dict[str, Any]
    name: str = "volume"
    channel: Any = None
    """Coordinates of the channels, if any."""

    @property
    def channels(self) -> bool:
        """Whether there is an axis of channels."""
        return "c" in self.dims

    @cached_property
    def origin(self) -> Any:
        """What boxes of the array are read from: see `origin_of`."""
        return origin_of(self.array)

    @cached_property
    def networks(self) -> list[NetworkPayload]:
        """The networks that compute it."""
        return networks_of(self.array.dask)

    @property
    def reader(self) -> Reader:
        """Reads boxes of it, (channels, *space)."""
        return Reader(self.origin, self.channels)

    @property
    def space_shape(self) -> tuple[int, ...]:
        return tuple(self.array.shape[self.array.ndim - len(self.frame.space) :])


def as_volume(volume: Any, ndim: int | None = None) -> Volume:
    """A DataArray, URL, dask, zarr or numpy array as a `Volume`.

    Parameters
    ----------
    volume
        What the caller gave.
    ndim
        Spatial axes of an unlabelled array, by default as many as it has and no more than three; another axis, in
        front, holds channels.

    Raises
    ------
    VolumeError
        The axes are not out of (t, c, z, y, x), or coordinates are reversed or irregular.
    """
    import xarray as xr

    if isinstance(volume, str | os.PathLike):
        volume = open_volume(volume)
    if isinstance(volume, xr.Dataset):
        names = list(map(str, volume.data_vars))
        raise VolumeError(
            f"A Dataset holds several volumes: {', '.join(names)}." if names else "The Dataset holds no variables.",
            "A verb works on one volume.",
            [f"dataset[{name!r}]" for name in names[:2]] or ['chunkinfer.open_volume("em.zarr")'],
        )
    if isinstance(volume, xr.Variable):
        volume = xr.DataArray(volume)
    if isinstance(volume, xr.DataArray):
        check_voxels(volume, tuple(map(str, volume.dims)))
        return _from_dataarray(volume)
    array = lazy_array(volume)
    count = min(array.ndim, 3) if ndim is None else ndim
    if not (count in (2, 3) and array.ndim - count in (0, 1)):
        raise _unlabelled(array.shape, ndim)
    space = SPACE[-count:]
    dims = ("c",) * (array.ndim - count) + space
    frame = Frame(space, dict.fromkeys(space, 1.0), dict.fromkeys(space, 0.0))
    return Volume(array, dims, frame, labelled=False, attrs={})


def count_axes(given: Any) -> int | None:
    """How many axes an array has; None for what has none, or cannot tell, as an array in a file that is closed."""
    with suppress(RuntimeError):
        count: int | None = getattr(given, "ndim", None)
        return count
    return None


def _unlabelled(shape: tuple[int, ...], ndim: int | None) -> VolumeError:
    """The error for an array whose axes are not told by how many there are."""
    if ndim == 3 and len(shape) == 2:
        return VolumeError(
            f"An array of 2 axes {shape} is one section, and three axes are needed here.",
            "Unlabelled arrays are (z, y, x) or (c, z, y, x).",
            ["make a volume of one section: volume[None]", "stack all sections, where there are more"],
        )
    kinds = {2: "(y, x) or (c, y, x)", 3: "(z, y, x) or (c, z, y, x)"}
    more = len(shape) > (4 if ndim is None else ndim + 1)
    dims = ("t", "c", *SPACE[-(ndim or 3) :])
    named = f"name them: xarray.DataArray(volume, dims={dims}), as they are"
    return VolumeError(
        f"An array of {len(shape)} axes {shape} does not say what its axes are.",
        f"Unlabelled arrays are {kinds.get(ndim or 0, '(z, y, x), (c, z, y, x), (y, x) or (c, y, x)')}.",
        ["volume[0] for one time point", named if len(shape) == len(dims) else "select, until no other axes are left"]
        if more
        else ["reshape it to the image's own axes first", "open it where it is stored: its metadata has the axes"],
    )


def _from_dataarray(volume: xr.DataArray) -> Volume:
    order = order_of(volume)
    array = lazy_array(volume.transpose(*order).data)  # lazy; free where the order is right already
    space = tuple(d for d in order if d in SPACE)
    grids = {d: grid_of(volume, d) for d in space}
    fixed = fixed_of(volume)
    stated = {d: size_stated(volume, d) for d in SPACE if d in fixed and d not in space}
    frame = Frame(
        space=space,
        voxel_size={d: size for d, (size, _) in grids.items()},
        origin={d: origin for d, (_, origin) in grids.items()},
        unit=unit_of(volume, space),
        coords={d: volume.coords[d] for d in space if d in volume.coords},
        fixed=fixed,
        fixed_size={d: size for d, size in stated.items() if size is not None},
    )
    attrs = {str(k): v for k, v in volume.attrs.items() if k not in ("voxel_size", "unit")}
    channel = volume.coords["c"].values if "c" in volume.coords and "c" in order else None
    return Volume(array, order, frame, True, attrs, str(volume.name or "volume"), channel)


def source_of(volume: Volume) -> SourceFacts:
    """The source of a volume, as far as it can be named: for fingerprints and reports."""
    origin = volume.origin
    if isinstance(origin, Source):
        shape = origin.shape if origin.start else None
        return SourceFacts(origin.url, origin.digest, origin.version, origin.start or None, shape)
    return SourceFacts(volume.attrs.get("source"), array=volume.array.name)
