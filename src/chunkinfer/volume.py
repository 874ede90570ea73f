"""Volumes: axes, voxel size and origin; DataArray <-> array and back.

The coordinates are the only truth about where voxels are. ``attrs["voxel_size"]`` serves only axes of length one, whose
single coordinate cannot tell it; the origin is never an attribute, because after ``volume[100:200]`` it would lie.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np

from chunkinfer.blockwise import lazy_source, origin_of
from chunkinfer.errors import VolumeError
from chunkinfer.geometry import Box
from chunkinfer.planning import every_axis
from chunkinfer.storage import Source, open_source
from chunkinfer.storage.axes import ORDER as DIMS
from chunkinfer.storage.axes import SPATIAL as SPACE

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
    attrs = {**{k: v for k, v in source.names.items() if k != "channel_names"}, "source": source.url}
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
        about = {"voxel_size": dict(self.voxel_size), **({"unit": self.unit} if self.unit else {})}
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
        return "c" in self.dims

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
    import os

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
    if isinstance(volume, xr.DataArray):
        _check_voxels(volume, tuple(map(str, volume.dims)))
        return _from_dataarray(volume)
    if isinstance(volume, da.Array | np.ndarray):
        _check_voxels(volume, ("t", "c", "z", "y", "x")[-volume.ndim :])
    if isinstance(volume, da.Array):
        array = volume
    elif hasattr(volume, "shape") and hasattr(volume, "dtype") and hasattr(volume, "__getitem__"):
        module = type(volume).__module__.partition(".")[0]
        array = da.from_zarr(volume) if module == "zarr" else _lazy(volume)
    else:
        raise VolumeError(
            f"A {type(volume).__name__} is no volume.",
            "A volume is an xarray.DataArray, a dask, zarr or numpy array, or a URL.",
            ['chunkinfer.open_volume("em.zarr")', "numpy.asarray(...) of what you have"],
        )
    count = min(array.ndim, 3) if ndim is None else ndim
    if not (count in (2, 3) and array.ndim - count in (0, 1)):
        raise VolumeError(
            f"An array of {array.ndim} axes {array.shape} does not say what its axes are.",
            "Unlabelled arrays are (z, y, x), (c, z, y, x), (y, x) or (c, y, x).",
            ["xarray.DataArray(array, dims=('c', 'z', 'y', 'x'))", "array[0] for one time point"],
        )
    space = SPACE[-count:]
    dims = ("c",) * (array.ndim - count) + space
    frame = Frame(space, dict.fromkeys(space, 1.0), dict.fromkeys(space, 0.0))
    return Volume(array, dims, frame, labelled=False, attrs={})


class _Whole(np.ndarray[Any, Any]):
    """An array in memory that dask leaves whole: it cuts others when it sees them, and then each block's task carries
    its part, instead of one copy for each worker."""

    def __getitem__(self, key: Any) -> Any:
        return self.view(np.ndarray)[key]


def _lazy(array: Any) -> da.Array:
    """An array that is read by boxes, as a dask array."""
    meta = np.empty((0,) * array.ndim, array.dtype)
    lazy: da.Array = da.from_array(array.view(_Whole) if type(array) is np.ndarray else array, meta=meta)
    return lazy


def _check_voxels(volume: Any, names: tuple[str, ...]) -> None:
    """Refuse what is no image, before anything is made of it."""
    if np.dtype(volume.dtype).kind not in "biuf":
        raise VolumeError(
            f"A volume of dtype {volume.dtype} is no image.",
            "Voxels are integers or floating-point numbers.",
            ["convert it: volume.astype('float32')", "choose another array"],
        )
    for name, n in zip(names, volume.shape[-len(names) :], strict=True):
        if n < 1:
            raise VolumeError(
                f"The volume has no voxels along {name}.",
                "A selection came out empty.",
                ["look at volume.sizes", "select a range that lies inside the volume"],
            )


def _from_dataarray(volume: xr.DataArray) -> Volume:
    dims = tuple(map(str, volume.dims))
    if unknown := [d for d in dims if d not in DIMS]:
        renames = dict(zip(dims, SPACE[-len(dims) :], strict=False)) if len(dims) <= 3 else {unknown[0]: "z"}
        raise VolumeError(
            f"The volume's axes are {dims}; {unknown[0]!r} is not one of {DIMS}.",
            "Axes are known by name, because a transposed volume gives wrong results in silence.",
            [f"volume.rename({renames})", 'xarray.DataArray(volume.data, dims=("z", "y", "x"))'],
        )
    order = tuple(d for d in DIMS if d in dims)
    if not {"y", "x"} <= set(dims):
        raise VolumeError(
            f"The volume's axes are {dims}; an image has at least y and x.",
            "A selection with one index drops an axis.",
            ["select a range: volume.isel(y=slice(5, 6))", "volume.expand_dims('y')"],
        )
    volume = volume.transpose(*order)  # lazy; free where the order is right already
    space = tuple(d for d in order if d in SPACE)
    sizes, origin, kept = {}, {}, {}
    stated = volume.attrs.get("voxel_size", {})
    stated = stated if isinstance(stated, Mapping) else dict(zip(SPACE[-len(stated) :], stated, strict=False))
    for d in space:
        sizes[d], origin[d] = _grid_of(volume, d, stated.get(d))
        if d in volume.coords:
            kept[d] = volume.coords[d]
    unit = str(volume.attrs.get("unit", "")) or next(
        (str(volume.coords[d].attrs["units"]) for d in space if "units" in getattr(volume.coords.get(d), "attrs", {})),
        "",
    )
    array = volume.data if isinstance(volume.data, da.Array) else _lazy(volume.data)
    attrs = {str(k): v for k, v in volume.attrs.items() if k not in ("voxel_size", "unit")}
    channel = volume.coords["c"].values if "c" in volume.coords and "c" in order else None
    return Volume(
        array, order, Frame(space, sizes, origin, unit, kept), True, attrs, str(volume.name or "volume"), channel
    )


def _grid_of(volume: xr.DataArray, d: str, stated: Any) -> tuple[float, float]:
    """Voxel size and origin (in voxels) along an axis, from its coordinates."""
    if d not in volume.coords:
        return float(stated or 1.0), 0.0
    try:
        values = np.asarray(volume.coords[d].values, dtype=np.float64)
    except (TypeError, ValueError):
        values = np.full(2, np.nan)
    if not np.isfinite(values).all():
        raise VolumeError(
            f"The coordinates of axis {d} are not numbers.",
            "Positions of voxels are multiples of the voxel size.",
            [f"drop them: volume.drop_vars({d!r})", f"state them: volume.assign_coords({d}=numpy.arange(...) * size)"],
        )
    if len(values) == 0:
        return float(stated or 1.0), 0.0
    size = (values[-1] - values[0]) / (len(values) - 1) if len(values) > 1 else float(stated or 1.0)
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
    example = "box=(slice(0, 100), slice(0, 512), slice(0, 512))"
    if not named or set(given) - set(space) or not all(isinstance(part, slice) for part in given.values()):
        raise VolumeError(
            f"box={box!r} does not give slices of the axes {space}.",
            "Other axes are opened whole.",
            [example, "box={'z': slice(0, 100)}"],
        )
    cut = {}
    for d in space:
        part = given.get(d, slice(None))
        start, stop = part.start or 0, lengths[d] if part.stop is None else part.stop
        if part.step not in (None, 1) or not 0 <= start < stop <= lengths[d]:
            raise VolumeError(
                f"box= takes [{part.start}:{part.stop}:{part.step}] of axis {d}, which has {lengths[d]} voxels.",
                "It counts stored voxels from 0, whatever the volume's offset.",
                [example, f"open it whole and select by position: volume.sel({d}=slice(...))"],
            )
        cut[d] = int(start), int(stop)
    return cut


def describe_source(volume: Volume) -> dict[str, Any]:
    """The source, as far as it can be named: for fingerprints and reports."""
    origin = origin_of(volume.array)
    if isinstance(origin, Source):
        part = {"start": list(origin.start), "shape": list(origin.shape)} if origin.start else {}
        return {"url": origin.url, "digest": origin.digest, "version": origin.version, **part}
    return {"array": volume.array.name, "url": volume.attrs.get("source")}
