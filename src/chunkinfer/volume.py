"""Volumes: axes, voxel size and origin; DataArray <-> array and back.

The coordinates are the only truth about where voxels are. ``attrs["voxel_size"]`` serves only axes of length one, whose
single coordinate cannot tell it; the origin is never an attribute, because after ``volume[100:200]`` it would lie.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np

from chunkinfer.blockwise import (
    NetworkPayload,
    Reader,
    SourceFacts,
    check_voxels,
    lazy_array,
    lazy_source,
    networks_of,
    origin_of,
)
from chunkinfer.coordinates import fixed_of, grid_of, order_of, size_stated, unit_of
from chunkinfer.errors import VolumeError
from chunkinfer.geometry import Box
from chunkinfer.planning import every_axis
from chunkinfer.storage import Source, open_source
from chunkinfer.storage.axes import SPATIAL as SPACE
from chunkinfer.storage.placement import METRES, short_unit

if TYPE_CHECKING:
    import xarray as xr


def open_volume(
    url: Any,
    *,
    level: int = 0,
    array: str | None = None,
    box: Sequence[slice] | Mapping[str, slice] | None = None,
    voxel_size: Sequence[float] | None = None,
    offset: Sequence[float] | None = None,
    missing: str = "error",
    chunks: Sequence[int] | None = None,
) -> xr.DataArray:
    """Open an image volume lazily; no voxel is read.

    Parameters
    ----------
    url
        A path, or a ``file://``, ``s3://`` or ``gs://`` URL of a zarr array (v2, v3, sharded), an OME-Zarr image, a
        Neuroglancer precomputed volume or a .npy file.
    level
        Of a multiscale image: 0 is the finest.
    array
        Which array of a zarr group, where it holds several.
    box
        Open only this part: slices in voxels of the stored array, per spatial axis (z, y, x), or by name. For parts of
        volumes of more than 10^5 chunks it is much faster than slicing what was opened whole.
    voxel_size
        (z, y, x), overrides the metadata; in the metadata's unit, or nanometres where it names none.
    offset
        (z, y, x) of the first stored voxel, in voxels of the volume's coordinate system; overrides the metadata.
    missing
        ``"error"``: a chunk that is not stored raises when it is read; ``"fill"``: it reads as the fill value.
    chunks
        Of the lazy array, in the order of its axes; by default whole stored chunks of at least 64^3 voxels.

    Returns
    -------
    xarray.DataArray
        dims out of (t, c, z, y, x); coordinates of the spatial axes are positions in the unit of the voxel size:
        ``(offset + i) * voxel_size``. ``attrs`` holds ``voxel_size`` (by axis), ``unit`` and ``source``.

    Raises
    ------
    SourceError
        Nothing is there, it cannot be read, it is ambiguous, or it is known to read as silent zeros.
    VolumeError
        ``voxel_size``, ``offset`` or ``box`` do not fit the volume.
    PlanError
        ``chunks`` do not fit its axes.
    """
    source = open_source(url, level=level, array=array, missing=missing)
    space = tuple(d for d in source.dims if d in SPACE)
    sizes = _per_axis("voxel_size", voxel_size, space) or source.voxel_size
    origin = _per_axis("offset", offset, space) or source.offset
    if any(not np.isfinite(s) or s <= 0 for s in sizes.values()):
        raise VolumeError(
            f"A voxel size of {tuple(sizes.values())} is not positive.",
            "Sizes are edge lengths of a voxel, in (z, y, x).",
            ["voxel_size=(40, 4, 4)", "leave voxel_size= out to take the metadata's"],
        )
    lengths = dict(zip(source.dims, source.shape, strict=True))
    if box is not None:
        cut = _box_of(box, space, lengths)
        source = source.cropped(tuple(cut.get(d, (0, n)) for d, n in lengths.items()))
        origin = {d: origin[d] + cut[d][0] for d in space}
    data = lazy_source(source, None if chunks is None else every_axis("chunks", chunks, source.dims))
    frame = Frame(
        space=space,
        voxel_size={d: float(sizes[d]) for d in space},
        origin={d: float(origin[d]) for d in space},
        unit=source.unit or ("nm" if voxel_size is not None else ""),
    )
    names = source.names.get("channel_names")
    channel = None if "c" not in source.dims or not names or len(names) != lengths["c"] else list(names)
    # Which sections a stack has, its coordinates say, also after it was cut.
    kept = {k: v for k, v in source.names.items() if k not in ("channel_names", "sections")}
    if short_unit(str(kept.get("unit"))) not in METRES:  # of what the numbers count, such as electrons
        kept.pop("unit", None)
    attrs = {**kept, "source": source.url}
    result = frame.label(data, source.dims, name=_stem(source.url), attrs=attrs, channel=channel)
    if lengths.get("t") == 1:
        result = result.isel(t=0, drop=True)
    return result


def _stem(url: str) -> str:
    """The last part of a URL without its suffix: a name to show."""
    return url.rstrip("/").rpartition("/")[2].partition(".")[0] or "volume"


@dataclass(frozen=True)
class Frame:
    """Where the voxels of an array are."""

    space: tuple[str, ...]
    """Spatial axes, in order."""
    voxel_size: dict[str, float]
    """Edge length of a voxel per axis, in ``unit``."""
    origin: dict[str, float]
    """Volume coordinate of index 0 per axis, in voxels."""
    unit: str = ""
    """nm, um, ...; empty if unknown."""
    coords: dict[str, Any] = field(default_factory=dict, compare=False)
    """Coordinates of the volume this frame was read from: an output on the same grid takes these very objects."""
    fixed: dict[str, Any] = field(default_factory=dict, compare=False)
    """Coordinates with one value for all voxels, such as the position of the section that was selected."""
    fixed_size: dict[str, float] = field(default_factory=dict, compare=False)
    """Edge length of a voxel along the spatial axes among them."""

    def label(
        self,
        data: Any,
        dims: Sequence[str],
        *,
        name: str,
        attrs: Mapping[str, Any],
        channel: Sequence[Any] | None = None,
    ) -> xr.DataArray:
        """An array with this frame's coordinates."""
        import xarray as xr

        coords: dict[str, Any] = {}
        for d, n in zip(dims, data.shape, strict=True):
            if d in self.coords and self.coords[d].sizes[d] == n:
                coords[d] = self.coords[d]
            elif d in self.space:
                unit = {"units": self.unit} if self.unit else {}
                coords[d] = xr.Variable(d, coordinates(self.origin[d], n, self.voxel_size[d]), unit)
        if channel is not None:
            coords["c"] = list(channel)
        coords |= {name: value for name, value in self.fixed.items() if name not in dims}
        sizes = {d: size for d, size in self.fixed_size.items() if d not in dims}
        about = {"voxel_size": {**sizes, **self.voxel_size}, **({"unit": self.unit} if self.unit else {})}
        return xr.DataArray(data, dims=tuple(dims), coords=coords, attrs={**attrs, **about}, name=name)

    def moved(self, crop: Sequence[float], stride: Sequence[float]) -> Frame:
        """The frame of a network's output, per spatial axis: ``crop`` voxels lost at the low end, ``stride`` input
        voxels per output voxel."""
        if not any(crop) and all(s == 1 for s in stride):
            return self
        return Frame(
            self.space,
            {d: self.voxel_size[d] * s for d, s in zip(self.space, stride, strict=True)},
            {d: (self.origin[d] + c) / s for d, c, s in zip(self.space, crop, stride, strict=True)},
            self.unit,
            {d: self.coords[d] for d, c, s in zip(self.space, crop, stride, strict=True)
             if d in self.coords and not c and s == 1},
            self.fixed,
            self.fixed_size,
        )  # fmt: skip


def coordinates(origin: float, n: int, voxel_size: float) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Positions of ``n`` voxels: ``(origin + i) * voxel_size``. The only place where coordinates are computed."""
    return np.asarray((origin + np.arange(n)) * voxel_size, np.float64)


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


def _per_axis(name: str, values: Sequence[float] | None, space: tuple[str, ...]) -> dict[str, float] | None:
    if values is None:
        return None
    try:
        numbers = [float(v) for v in values]
    except (TypeError, ValueError):
        numbers = []
    if len(numbers) != len(space) or not np.isfinite(numbers).all():
        raise VolumeError(
            f"{name}={values!r} does not give one number for each of {space}.",
            "It is in numpy's order, (z, y, x).",
            [f"{name}={tuple(8 for _ in space)}", f"leave {name}= out to take the metadata's"],
        )
    return dict(zip(space, numbers, strict=True))


def _box_of(box: Any, space: tuple[str, ...], lengths: Mapping[str, int]) -> dict[str, tuple[int, int]]:
    """Start and stop of ``box=`` along each axis, inside the volume."""
    parts = box.slices if isinstance(box, Box) else box
    named = isinstance(parts, Mapping) or (isinstance(parts, Sequence) and len(parts) == len(space))
    given = dict(parts if isinstance(parts, Mapping) else zip(space, parts, strict=True)) if named else {}
    ends = [min(lengths[d], n) for d, n in zip(space, (512, 512, 100)[: len(space)][::-1], strict=True)]
    example = f"box=({', '.join(f'slice(0, {n})' for n in ends)})"
    if not named or set(given) - set(space) or not all(isinstance(part, slice) for part in given.values()):
        raise VolumeError(
            f"box={box!r} does not give slices of the axes {space}.",
            "Other axes are opened whole.",
            [example, f"box={{{space[0]!r}: slice(0, {ends[0]})}}"],
        )
    cut = {}
    for d in space:
        part = given.get(d, slice(None))
        start, stop = part.start or 0, lengths[d] if part.stop is None else part.stop
        if part.step not in (None, 1) or not 0 <= start < stop <= lengths[d]:
            raise VolumeError(
                f"box= takes [{part.start}:{part.stop}:{part.step}] of axis {d}, which has {lengths[d]} voxels.",
                "It counts stored voxels from 0, whatever the volume's offset.",
                [example, f"open it whole, and select along {d} by position with sel"],
            )
        cut[d] = int(start), int(stop)
    return cut


def source_of(volume: Volume) -> SourceFacts:
    """The source of a volume, as far as it can be named: for fingerprints and reports."""
    origin = volume.origin
    if isinstance(origin, Source):
        shape = origin.shape if origin.start else None
        return SourceFacts(origin.url, origin.digest, origin.version, origin.start or None, shape)
    return SourceFacts(volume.attrs.get("source"), array=volume.array.name)
