"""N5: ``attributes.json`` of a dataset or a multiscale group, in the words of n5-viewer, Paintera, Neuroglancer, COSEM.

N5 counts axes from x on, and its attributes follow: ``resolution: [4, 4, 40]`` is x, y, z.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from chunkinfer.storage.axes import BY_RANK, canonical, recognise
from chunkinfer.storage.described import Described
from chunkinfer.storage.placement import Placement, common_unit, from_attributes, short_unit, whole

MARKER = "attributes.json"

KNOWN = ("n5", "dimensions", "blockSize", "dataType", "compression", "compressionType", "axes", "units", "resolution",
         "pixelResolution", "downsamplingFactors", "scales", "offset", "transform", "multiScale", "multiscales",
         "voxel_size", "dimension_units")  # fmt: skip
"""Attributes that are read here, or say how bytes are stored; all others are kept as names."""


def of_level(group: Mapping[str, Any], meta: Mapping[str, Any], level: int) -> dict[str, Any]:
    """The attributes of a level of a multiscale group, which has the group's where it has none of its own."""
    scales = group.get("downsamplingFactors", group.get("scales"))
    if isinstance(scales, Sequence) and level < len(scales) and isinstance(scales[level], Sequence):
        group = {**group, "downsamplingFactors": scales[level]}
    return {**group, **meta}


def describe(meta: Mapping[str, Any], url: str) -> tuple[Described, str]:
    """What the attributes of a dataset say, those of its group included, and its data type."""
    rank = len(meta["dimensions"])
    stored = recognise(meta.get("axes"), rank, url)
    if not meta.get("axes"):
        stored = BY_RANK[rank][::-1]
    extra = {name: value for name, value in meta.items() if name not in KNOWN}
    return Described(stored, canonical(stored), _placement(meta, stored), extra), str(meta["dataType"])


def _placement(meta: Mapping[str, Any], stored: tuple[str, ...]) -> Placement:
    transform = meta.get("transform")
    if isinstance(transform, Mapping) and "scale" in transform:
        return _cosem(transform)
    named = meta.get("pixelResolution")
    if isinstance(named, Mapping):
        meta = {**meta, "resolution": named.get("dimensions"), "units": named.get("unit")}
    elif named is not None:
        meta = {**meta, "resolution": named}
    given = {name: value for name, value in meta.items() if name != "axes"}
    base = from_attributes(given, stored)
    factors = meta.get("downsamplingFactors")
    if not isinstance(factors, Sequence) or not base.voxel_size or isinstance(factors[0], Sequence):
        return base
    times = dict(zip(stored, factors, strict=False))
    return Placement(
        {dim: size * times.get(dim, 1) for dim, size in base.voxel_size.items()},
        base.unit,
        {dim: whole(value / times.get(dim, 1)) for dim, value in base.offset.items()},
    )


def _cosem(transform: Mapping[str, Any]) -> Placement:
    axes = [str(axis) for axis in transform["axes"]]
    sizes = dict(zip(axes, map(float, transform["scale"]), strict=True))
    units = dict(zip(axes, map(short_unit, transform.get("units") or [""] * len(axes)), strict=True))
    world = dict(zip(axes, transform.get("translate") or [0] * len(axes), strict=True))
    voxel_size, unit = common_unit(sizes, units)
    return Placement(voxel_size, unit, {dim: whole(world[dim] / sizes[dim]) for dim in axes})
