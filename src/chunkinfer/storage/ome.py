"""OME-Zarr multiscales, 0.4 (zarr v2) and 0.5 (zarr v3): levels, axes, scale, translation, units."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from chunkinfer.errors import SourceError
from chunkinfer.storage.axes import SPATIAL
from chunkinfer.storage.placement import Placement, common_unit, short_unit, whole


def multiscale(attributes: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The first multiscale image that a group's attributes describe."""
    block = attributes.get("ome", attributes)
    images = block.get("multiscales") if isinstance(block, Mapping) else None
    if isinstance(images, list) and images and isinstance(images[0], Mapping) and images[0].get("datasets"):
        return images[0]
    return None


def levels(image: Mapping[str, Any]) -> list[str]:
    """Paths of the levels, finest first."""
    return [str(dataset["path"]) for dataset in image["datasets"]]


def axis_names(image: Mapping[str, Any]) -> list[str] | None:
    """Names of the axes in stored order; None for versions that do not name them."""
    axes = image.get("axes")
    if not axes:
        return None
    return [axis["name"] if isinstance(axis, Mapping) else str(axis) for axis in axes]


def channel_names(attributes: Mapping[str, Any]) -> list[str] | None:
    """Labels of the channels, from the rendering block ``omero``."""
    block = attributes.get("ome", attributes)
    channels = (block.get("omero") or {}).get("channels") or []
    labels = [str(channel["label"]) for channel in channels if isinstance(channel, Mapping) and "label" in channel]
    return labels if labels and len(labels) == len(channels) else None


def placement(image: Mapping[str, Any], level: int, stored: tuple[str, ...], url: str) -> Placement:
    """Voxel size, unit and offset of a level: its own transformations, then those of the whole image.

    Raises
    ------
    SourceError
        A transformation other than scale, translation and identity.
    """
    scale, shift = [1.0] * len(stored), [0.0] * len(stored)
    of_level = image["datasets"][level].get("coordinateTransformations") or []
    of_image = image.get("coordinateTransformations") or []
    for step in [*of_level, *of_image]:
        values = step.get(step.get("type"))
        if step.get("type") == "identity":
            continue
        if step.get("type") not in ("scale", "translation") or not values or len(values) != len(stored):
            raise SourceError(
                f"Level {level} of {url} is placed by the transformation {dict(step)!r}.",
                "Understood are scale and translation with one number per axis.",
                ["repair the multiscales metadata", f"or open the array itself: array={levels(image)[level]!r}"],
            )
        if step["type"] == "scale":
            scale = [a * b for a, b in zip(scale, values, strict=True)]
            shift = [a * b for a, b in zip(shift, values, strict=True)]
        else:
            shift = [a + b for a, b in zip(shift, values, strict=True)]
    sizes = {dim: float(size) for dim, size in zip(stored, scale, strict=True) if dim in SPATIAL}
    world = {dim: value for dim, value in zip(stored, shift, strict=True) if dim in SPATIAL}
    if not all(size > 0 for size in sizes.values()):
        raise SourceError(
            f"Level {level} of {url} has the voxel size {sizes}.",
            "A voxel size is positive on every axis.",
            ["repair the multiscales metadata", f"or open the array itself: array={levels(image)[level]!r}"],
        )
    axes = image.get("axes") or []
    units = {
        dim: short_unit(axis.get("unit"))
        for dim, axis in zip(stored, axes, strict=False)
        if isinstance(axis, Mapping) and dim in sizes
    }
    # In voxels first: the offset does not depend on the unit.
    offset = {dim: whole(world[dim] / sizes[dim]) for dim in sizes}
    voxel_size, unit = common_unit(sizes, units)
    return Placement(voxel_size, unit, offset)
