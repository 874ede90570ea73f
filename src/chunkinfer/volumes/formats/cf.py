"""The CF conventions, by which xarray stores a Dataset as zarr: packed numbers, and coordinates as arrays beside.

::

    em.zarr/  raw/   dimensions (z, y, x), perhaps "scale_factor": 0.01
              z/     400.0, 440.0, 480.0, ...   "units": "nm"
"""

from __future__ import annotations

import base64
import math
import struct
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np

from chunkinfer.errors import SourceError
from chunkinfer.stores import failures
from chunkinfer.stores.store import opened
from chunkinfer.stores.urls import Location
from chunkinfer.volumes.arrays.axes import SPATIAL
from chunkinfer.volumes.arrays.nodes import Node, look, read_objects
from chunkinfer.volumes.arrays.placement import BLOCK, Placement, common_unit, short_unit, whole

COORDINATES = 2**24
"""Voxels per axis up to which coordinates are read."""


def refuse_packed(node: Node, dtype: Any) -> None:
    """Refuse an array whose stored numbers are not its values.

    Raises
    ------
    SourceError
        They are to be scaled, shifted or taken for missing.
    """
    about = node.attributes
    kind = np.dtype(dtype).kind
    packed = {
        name: about[name]
        for name, plain in (("scale_factor", 1), ("add_offset", 0))
        if about.get(name) is not None and about[name] != plain
    }
    if str(about.get("_Unsigned", "")).lower() == {"i": "true", "u": "false"}.get(kind):
        packed["_Unsigned"] = about["_Unsigned"]
    for name in ("_FillValue", "missing_value"):
        if about.get(name) is not None and not (kind == "f" and _is_nan(about[name])):
            packed[name] = about[name]
    _refuse(node, packed)


def _refuse(node: Node, packed: Mapping[str, Any]) -> None:
    if packed:
        said = ", ".join(f"{name} = {value!r}" for name, value in packed.items())
        raise SourceError(
            f"The numbers stored in {node.location.url} are not its values: {said}.",
            "By the CF conventions, values are number * scale_factor + add_offset, and _FillValue marks missing ones.",
            _ways(node, packed),
        )


def _ways(node: Node, packed: Mapping[str, Any]) -> list[str]:
    """What reads the values, and what the numbers: a DataArray or a dask array is a volume too."""
    url = node.location.url
    if above := _group(node):
        name = url.rpartition("/")[2]
        return [
            f"the values: xarray.open_zarr({above!r})[{name!r}]",
            f"the stored numbers: xarray.open_zarr({above!r}, mask_and_scale=False)[{name!r}]",
        ]
    numbers = f"dask.array.from_zarr({url!r})"
    values = f"{numbers} * {packed.get('scale_factor', 1)} + {packed.get('add_offset', 0)}"
    for name in ("_FillValue", "missing_value"):
        if name in packed:
            values = f"dask.array.where({numbers} == {packed[name]!r}, float('nan'), {values})"
    return [f"the values: {values}", f"the stored numbers: {numbers}"]


def _group(node: Node) -> str:
    """The URL of the group that an array lies in, which xarray opens; '' where it is in none."""
    above = _above(node.location)
    return above.url if above is not None and any(_objects(above, [".zgroup", "zarr.json"]).values()) else ""


def _is_nan(value: Any) -> bool:
    """Whether an attribute is NaN: a number, its name, or, as xarray has it in version 3, the bytes of a float64."""
    if isinstance(value, str):
        with suppress(ValueError, struct.error):
            return math.isnan(struct.unpack("<d", base64.b64decode(value, validate=True))[0])
        return value.lower() == "nan"
    return isinstance(value, float) and math.isnan(value)


def placed(node: Node, stored: Sequence[str], stated: Placement) -> Placement:
    """The placement by coordinates: arrays beside this one that have the names of its axes.

    Parameters
    ----------
    node
        The array; its axes have names.
    stored
        What its axes are.
    stated
        What its attributes say: of axes without coordinates, and of the size of a single voxel.

    Raises
    ------
    SourceError
        Coordinates are not evenly spaced, or run backwards; or some values are missing.
    """
    names = _names(node)
    above = _above(node.location)
    if names is None or above is None or BLOCK in node.attributes:
        return stated
    beside = {dim: str(name) for dim, name in zip(stored, names, strict=True) if dim in SPATIAL and name}
    lengths = dict(zip(stored, node.meta["shape"], strict=True))
    marker = ".zarray" if node.format == "zarr2" else "zarr.json"
    there = _objects(above, [f"{name}/{marker}" for name in beside.values()])
    units = dict.fromkeys(stated.voxel_size, stated.unit)
    sizes, offset = dict(stated.voxel_size), dict(stated.offset)
    for dim, name in beside.items():
        if not there.get(f"{name}/{marker}"):
            continue
        coordinate = look(above.child(name))
        if _names(coordinate) != [name]:
            continue  # another array that happens to have the name
        if coordinate.meta["shape"] != [lengths[dim]] or lengths[dim] > COORDINATES:
            raise ValueError(f"{name} has the shape {coordinate.meta['shape']}, and its axis {lengths[dim]} voxels")
        units[dim] = short_unit(coordinate.attributes.get("units", node.attributes.get("unit", stated.unit)))
        sizes[dim], offset[dim] = _grid(_values(coordinate), sizes.get(dim, 1.0), name, node)
        # Of version 2, xarray keeps _FillValue as the fill value, and none where no value is missing.
        if node.format == "zarr2" and (fill := node.meta.get("fill_value")) is not None and not _is_nan(fill):
            _refuse(node, {"fill_value": fill})
    voxel_size, unit = common_unit(sizes, units)
    return Placement(voxel_size, unit, offset)


def _names(node: Node) -> list[Any] | None:
    """Names of an array's axes, where it has some."""
    named = node.meta.get("dimension_names") or node.attributes.get("_ARRAY_DIMENSIONS")
    if named is not None and (not isinstance(named, list) or len(named) != len(node.meta["shape"])):
        raise ValueError(f"the axes of {node.location.url} are named {named!r}, and its shape is {node.meta['shape']}")
    return named


def _above(location: Location) -> Location | None:
    """The group that an array may lie in; None at the top of a store."""
    return location.parent() if location.kvstore["path"].strip("/") else None


def _objects(place: Location, names: list[str]) -> Mapping[str, Any]:
    """Objects that may be there; none where it is not allowed to look."""
    with suppress(SourceError):
        return read_objects(place, names)
    return {}


def _values(node: Node) -> np.ndarray[Any, np.dtype[np.float64]]:
    spec = {
        "driver": {"zarr2": "zarr"}.get(node.format, node.format),
        "kvstore": node.location.kvstore,
        "fill_missing_data_reads": True,  # xarray leaves out chunks that are their fill value
    }
    try:
        stored = opened(spec, "".join(map(str, node.raw)) + node.version)
        refuse_packed(node, stored.dtype.numpy_dtype)
        failures.refuse_huge(node.location.url, stored.chunk_layout.read_chunk.shape, stored.dtype.numpy_dtype.itemsize)
        return np.asarray(stored.read().result(), np.float64)
    except SourceError:
        raise
    except (*failures.FAILURES, TypeError) as error:
        raise failures.unreadable(node.location.url, error) from error


def _grid(values: np.ndarray[Any, np.dtype[np.float64]], stated: float, axis: str, node: Node) -> tuple[float, float]:
    """Size of a voxel, and the first one's position in voxels, of the values along an axis, by its stored name."""
    size = float(values[-1] - values[0]) / (len(values) - 1) if len(values) > 1 else float(stated)
    even = np.isfinite(values).all() and size != 0 and np.abs(np.diff(values) / size - 1).max(initial=0) <= 1e-3
    if not even or size < 0:
        url, above = node.location.url, _group(node)
        volume = f"xarray.open_zarr({above!r})[{url.rpartition('/')[2]!r}]" if above else ""
        turned = f"turn it round: {volume}.isel({axis}=slice(None, None, -1))"
        raise SourceError(
            f"The coordinates of axis {axis} beside {node.location.url} run from {values[0]:g} to {values[-1]:g}, "
            "and not evenly upwards.",
            "Positions of voxels are multiples of a voxel size. Sections are missing, or the axis is reversed.",
            [
                f"without them: {volume}.drop_vars({axis!r})" if above else f"without: dask.array.from_zarr({url!r})",
                turned if even and above else f"or repair what {axis} holds",
            ],
        )
    size = float(f"{size:.12g}")  # 0.3 - 0.2 is 0.1
    return size, whole(float(values[0]) / size)
