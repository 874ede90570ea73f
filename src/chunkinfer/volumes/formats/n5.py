"""N5: ``attributes.json`` of a dataset or a multiscale group, in the words of n5-viewer, Paintera, Neuroglancer, COSEM.

N5 counts axes from x on, and its attributes follow: ``resolution: [4, 4, 40]`` is x, y, z.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from chunkinfer.errors import SourceError
from chunkinfer.volumes.arrays.axes import BY_RANK, SPATIAL, canonical, recognise
from chunkinfer.volumes.arrays.meta import Described
from chunkinfer.volumes.arrays.placement import Placement, cell_corner, common_unit, from_attributes, short_unit, whole

MARKER = "attributes.json"

VERSIONS = ("1", "2", "3", "4")
"""First parts of the versions that are read. Most datasets state none: their container does."""

KNOWN = ("n5", "dimensions", "blockSize", "dataType", "compression", "compressionType", "axes", "units", "resolution",
         "pixelResolution", "downsamplingFactors", "scales", "offset", "transform", "multiScale", "multiscales",
         "voxel_size", "dimension_units")  # fmt: skip
"""Attributes that are read here, or say how bytes are stored; all others are kept as names."""


def of_level(group: Mapping[str, Any], meta: Mapping[str, Any], level: int) -> dict[str, Any]:
    """The attributes of a level of a multiscale group, which has the group's where it has none of its own."""
    scales = group.get("downsamplingFactors", group.get("scales"))
    if isinstance(scales, Sequence) and level < len(scales) and isinstance(scales[level], Sequence):
        group = {**group, "downsamplingFactors": scales[level]}
    for image in group.get("multiscales") or []:  # COSEM says it twice
        listed = {dataset["path"]: dataset.get("transform") for dataset in image["datasets"]}
        group = {**group, **({"transform": listed[f"s{level}"]} if listed.get(f"s{level}") else {})}
    return {**group, **meta}


def describe(meta: Mapping[str, Any], url: str, finest: Mapping[str, Any] | None = None) -> tuple[Described, str]:
    """What the attributes of a dataset say, and its data type.

    Parameters
    ----------
    meta
        Its attributes, those of its group included.
    url
        For messages.
    finest
        Of a coarser level: the attributes of the finest one.
    """
    if meta.get("n5") is not None and str(meta["n5"]).partition(".")[0] not in VERSIONS:
        raise SourceError(
            f"{url} is of N5's version {meta['n5']!r}.",
            f"Known are versions {', '.join(VERSIONS)}.",
            ["write it anew as version 4, or as zarr", "or, if it is of one of these: correct n5 in attributes.json"],
        )
    rank = len(meta["dimensions"])
    stored = recognise(meta.get("axes"), rank, url, instead="or remove the names: then axes count from x on")
    if not meta.get("axes"):
        stored = BY_RANK[rank][::-1]
    extra = {name: value for name, value in meta.items() if name not in KNOWN}
    return Described(stored, canonical(stored), _placement(meta, stored, finest or meta), extra), str(meta["dataType"])


def _placement(meta: Mapping[str, Any], stored: tuple[str, ...], finest: Mapping[str, Any]) -> Placement:
    transform, of_finest = meta.get("transform"), finest.get("transform")
    if transform is not None:
        if not isinstance(transform, Mapping):
            raise ValueError(f"transform is {transform!r}, and not COSEM's, with axes, scale and translate")
        return _cosem(transform, of_finest if isinstance(of_finest, Mapping) else transform, stored)
    named = meta.get("pixelResolution")
    if isinstance(named, Mapping):
        meta = {**meta, "resolution": named.get("dimensions"), "units": named.get("unit")}
    elif named is not None:
        meta = {**meta, "resolution": named}
    elif "resolution" not in meta and meta.get("axes") and meta.get("units"):
        meta = {**meta, "resolution": [1.0] * len(stored)}  # as Neuroglancer and tensorstore have it
    given = {name: value for name, value in meta.items() if name != "axes"}
    base = from_attributes(given, stored)
    factors = meta.get("downsamplingFactors")
    if factors is None or (isinstance(factors, list) and factors and isinstance(factors[0], list)):  # of all levels
        return base
    if not isinstance(factors, list) or not all(factor > 0 for factor in factors):
        raise ValueError(f"downsamplingFactors are {factors!r}")
    times = dict(zip(stored, factors, strict=True))
    return Placement(
        {dim: size * times[dim] for dim, size in base.voxel_size.items()},
        base.unit,
        {dim: whole(value / times[dim]) for dim, value in base.offset.items()},
    )


def _cosem(transform: Mapping[str, Any], finest: Mapping[str, Any], stored: tuple[str, ...]) -> Placement:
    """Out of COSEM's transforms of a level and of the finest one, whose translations are of centres."""
    axes = [str(axis) for axis in transform["axes"]]
    if not {dim for dim in stored if dim in SPATIAL} <= set(axes) <= set(stored):
        raise ValueError(f"the transform has the axes {axes}, and the array {stored}")
    size, centre = _along(transform, axes)
    units = dict(zip(axes, map(short_unit, transform.get("units") or [""] * len(axes)), strict=True))
    world = dict(zip(axes, cell_corner(size, centre, *_along(finest, axes)), strict=True))
    sizes = {dim: value for dim, value in zip(axes, size, strict=True) if dim in SPATIAL}
    voxel_size, unit = common_unit(sizes, units)
    return Placement(voxel_size, unit, {dim: whole(world[dim] / sizes[dim]) for dim in sizes})


def _along(transform: Mapping[str, Any], axes: list[str]) -> tuple[list[float], list[float]]:
    """Scale and translation of a transform along given axes."""
    named = transform["axes"]
    size = dict(zip(named, transform["scale"], strict=True))
    start = dict(zip(named, transform.get("translate") or [0] * len(named), strict=True))
    return [float(size[axis]) for axis in axes], [float(start[axis]) for axis in axes]
