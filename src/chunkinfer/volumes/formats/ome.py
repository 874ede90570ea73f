"""OME-Zarr multiscales: levels, axes, scale, translation, units; 0.4 (zarr v2) and 0.5 (zarr v3) are written.

A translation names the centre of a level's first voxel, as Neuroglancer and ome-zarr-py understand it. Offsets are of
corners, which the levels of a pyramid share: where the centres of a level lie as those of averaged cells do, its corner
is that of the finest level::

    level 0   |-o-|-o-|-o-|-o-|        translation  t
    level 1   |---o---|---o---|                     t + (scale 1 - scale 0) / 2
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from chunkinfer.errors import SourceError
from chunkinfer.volumes.arrays.axes import SPATIAL
from chunkinfer.volumes.arrays.meta import ZARR, Request, unsupported
from chunkinfer.volumes.arrays.placement import LONG_NAMES, Placement, cell_corner, common_unit, short_unit, whole
from chunkinfer.volumes.formats import zarr
from chunkinfer.volumes.formats.ome_versions import TYPES, alone, one_form, steps_of

FINEST = "0/"
"""Where outputs keep their finest level."""

COLORS = ("FF0000", "00FF00", "0000FF")
"""Of the first channels, where there are no more than these; one, or many, are white."""


def multiscale(attributes: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The first multiscale image that a group's attributes describe."""
    block = attributes.get("ome", attributes)
    images = block.get("multiscales") if isinstance(block, Mapping) else None
    if isinstance(images, list) and images and isinstance(images[0], Mapping) and images[0].get("datasets"):
        return images[0]
    return None


def levels(image: Mapping[str, Any]) -> list[str]:
    """Paths of the levels, finest first."""
    paths = [dataset["path"] for dataset in image["datasets"]]
    if wrong := [path for path in paths if not isinstance(path, str)]:
        raise TypeError(f"the path of a level is {wrong[0]!r}")
    return paths


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


def described(attributes: Mapping[str, Any], url: str) -> Mapping[str, Any] | None:
    """As `multiscale`, in the one form that the functions below read.

    Raises
    ------
    SourceError
        The version is not known, or its coordinate systems are not understood.
    """
    image = multiscale(attributes)
    return None if image is None else one_form(attributes, image, url)


def is_placed(image: Mapping[str, Any], level: int) -> bool:
    """Whether a level says where its voxels are, itself or with all others."""
    return bool(steps_of(image["datasets"][level]) or steps_of(image))


def placed_by_shape(
    image: Mapping[str, Any], level: int, shape: Sequence[int], finest: Sequence[int], url: str
) -> dict[str, Any]:
    """The image with a place for a level that states none: its voxels are cells of the finest level's.

    Parameters
    ----------
    image, level, url
        As for `placement`.
    shape, finest
        Voxels of the level and of the finest one, along each stored axis.

    Raises
    ------
    SourceError
        The shapes do not tell how large the cells are.
    """
    fitting = [_factors(n, whole) for n, whole in zip(shape, finest, strict=True)]
    sure = {factors[0] for factors in fitting if len(factors) == 1 and factors[0] > 1}
    chosen = [list(factors) if len(factors) == 1 else [f for f in sure if f in factors] for factors in fitting]
    if any(len(factors) != 1 for factors in chosen):
        raise SourceError(
            f"Level {level} of {url} does not say how large its voxels are.",
            f"Its shape {tuple(shape)} beside {tuple(finest)} of the finest level does not tell it either.",
            [
                f"open the array itself, and give its size if it is known: {alone(image, level, url)}",
                "or repair the multiscales metadata",
            ],
        )
    times = [factors[0] for factors in chosen]
    made = with_levels(image, [levels(image)[level]], [times], "", url)["datasets"][1]
    datasets = list(image["datasets"])
    datasets[level] = {**datasets[level], "coordinateTransformations": made["coordinateTransformations"]}
    if is_placed(image, 0):
        return {**image, "datasets": datasets}
    # No size is stated: what is known is how many cells make one.
    return {**image, "datasets": datasets, "axes": axis_names(image)}


def _factors(n: int, whole: int) -> range:
    """Voxels per cell that make ``n`` cells of the whole: the quotient, or else any that cut or leave out the last."""
    if n and whole % n == 0:
        return range(whole // n, whole // n + 1)
    return range(whole // (n + 1) + 1, -(-whole // (n - 1)) if n > 1 else whole + 1)


def placement(image: Mapping[str, Any], level: int, stored: tuple[str, ...], url: str) -> Placement:
    """Voxel size, unit and offset of a level: its own transformations, then those of the whole image.

    Raises
    ------
    SourceError
        A transformation other than scale, translation and identity.
    """
    scale, centre = transformation(image, level, len(stored), url)
    shift = cell_corner(scale, centre, *transformation(image, 0, len(stored), url))
    sizes = {dim: float(size) for dim, size in zip(stored, scale, strict=True) if dim in SPATIAL}
    world = {dim: value for dim, value in zip(stored, shift, strict=True) if dim in SPATIAL}
    if not all(size > 0 for size in sizes.values()):
        raise SourceError(
            f"Level {level} of {url} has the voxel size {sizes}.",
            "A voxel size is positive on every axis.",
            ["repair the multiscales metadata", f"or open the array itself: {alone(image, level, url)}"],
        )
    units = {
        dim: short_unit(axis.get("unit"))
        for dim, axis in zip(stored, image.get("axes") or [], strict=False)
        if isinstance(axis, Mapping) and dim in sizes
    }
    if not is_placed(image, level):
        units = {}  # no size is stated that could be in a unit
    # In voxels first: the offset does not depend on the unit.
    offset = {dim: whole(world[dim] / sizes[dim]) for dim in sizes}
    voxel_size, unit = common_unit(sizes, units)
    return Placement(voxel_size, unit, offset)


def transformation(
    image: Mapping[str, Any], level: int, rank: int, url: str, of_image: bool = True
) -> tuple[list[float], list[float]]:
    """Scale and translation of a level along each stored axis; without those of the whole image if asked.

    Raises
    ------
    SourceError
        A transformation other than scale, translation and identity.
    """
    scale, shift = [1.0] * rank, [0.0] * rank
    steps = steps_of(image["datasets"][level])
    for step in [*steps, *(steps_of(image) if of_image else [])]:
        kind = step.get("type")
        values = step.get(str(kind))
        if kind == "identity":
            continue
        if kind not in ("scale", "translation") or not isinstance(values, list) or len(values) != rank:
            raise SourceError(
                f"Level {level} of {url} is placed by the transformation {kind!r}: {dict(step)}.",
                "Understood are scale, translation and identity, with one number for each axis.",
                ["resample it onto an upright grid", f"or open the array itself: {alone(image, level, url)}"],
            )
        if kind == "scale":
            scale = [a * b for a, b in zip(scale, values, strict=True)]
            shift = [a * b for a, b in zip(shift, values, strict=True)]
        else:
            shift = [a + b for a, b in zip(shift, values, strict=True)]
    return scale, shift


# Writing


def files5(request: Request, name: str) -> dict[str, bytes]:
    """``zarr.json`` of a group, version 0.5, and of the finest level in it."""
    image = _image(request, name)
    group = {
        "zarr_format": 3,
        "node_type": "group",
        "attributes": {"ome": {"version": "0.5", "multiscales": [image], **_omero(request)}},
    }
    return {**_finest(zarr.files3(request)), "zarr.json": json.dumps(group, indent=1).encode()}


def files4(request: Request, name: str) -> dict[str, bytes]:
    """``.zattrs`` and ``.zgroup`` of a group, version 0.4, and the objects of the finest level in it."""
    attributes = {"multiscales": [{"version": "0.4", **_image(request, name)}], **_omero(request)}
    return {
        **_finest(zarr.files2(request, "ome-zarr")),
        ".zattrs": json.dumps(attributes, indent=1).encode(),
        ".zgroup": json.dumps({"zarr_format": 2}).encode(),
    }


def dataset(path: str, scale: Sequence[float], translation: Sequence[float]) -> dict[str, Any]:
    """What the metadata of an image says of a level; numbers along each stored axis, in units of the axes."""
    steps = [{"type": "scale", "scale": list(scale)}, {"type": "translation", "translation": list(translation)}]
    return {"path": path, "coordinateTransformations": steps}


def with_levels(
    image: Mapping[str, Any], paths: Sequence[str], times: Sequence[Sequence[int]], method: str, url: str
) -> dict[str, Any]:
    """The metadata of an image whose finest level was downsampled.

    Parameters
    ----------
    image
        As it is.
    paths, times
        Of each coarser level: where it lies, and voxels of the finest level per voxel, along each stored axis.
    method
        How it was downsampled.
    url
        For messages.
    """
    finest = image["datasets"][0]
    coarser = []
    for path, factors in zip(paths, times, strict=True):
        size, start = transformation(image, 0, len(factors), url, of_image=False)
        scale = [_short(s * f) for s, f in zip(size, factors, strict=True)]
        # The first voxel of a cell keeps its centre; what is made of a whole cell has the cell's.
        shift = [0.0 if method == "stride" else (b - a) / 2 for a, b in zip(size, scale, strict=True)]
        coarser.append(dataset(path, scale, [_short(a + b) for a, b in zip(start, shift, strict=True)]))
    about = {"type": method, "metadata": {"method": "chunkinfer.pyramid"}} if coarser else {}
    kept = {name: value for name, value in image.items() if name not in ("type", "metadata")}
    return {**kept, "datasets": [finest, *coarser], **about}


def _finest(objects: Mapping[str, bytes]) -> dict[str, bytes]:
    return {f"{FINEST}{name}": content for name, content in objects.items()}


def _image(request: Request, name: str) -> dict[str, Any]:
    """An image with one level."""
    if not {"y", "x"} <= set(request.dims):
        listed = "y and x, with any of t, c and z"
        raise unsupported("The axes of an OME-Zarr image", request.dims, listed, (ZARR, "or rename the axes"))
    place = request.placement
    unit = {"unit": LONG_NAMES.get(place.unit, place.unit)} if place.unit else {}
    axes = [{"name": dim, "type": TYPES[dim], **(unit if dim in SPATIAL else {})} for dim in request.dims]
    scale = [place.voxel_size.get(dim, 1.0) for dim in request.dims]
    start = [_short(place.offset.get(dim, 0) * size) for dim, size in zip(request.dims, scale, strict=True)]
    return {"name": name, "axes": axes, "datasets": [dataset(FINEST.strip("/"), scale, start)]}


def _omero(request: Request) -> dict[str, Any]:
    """How viewers should show the channels, where they have names."""
    names = request.attributes.get("channel_names")
    if "c" not in request.dims or not names:
        return {}
    whole_numbers = np.issubdtype(request.dtype, np.integer)
    low, high = (np.iinfo(request.dtype).min, np.iinfo(request.dtype).max) if whole_numbers else (0.0, 1.0)
    window = {"min": low, "max": high, "start": low, "end": high}
    colors = COLORS if 1 < len(names) <= len(COLORS) else ("FFFFFF",) * len(names)
    channels = [
        {"label": str(name), "color": color, "window": window, "active": True}
        for name, color in zip(names, colors, strict=False)
    ]
    return {"omero": {"channels": channels}}


def _short(value: float) -> float:
    """Without the round-off of a product: 0.004 * 2 is 0.008."""
    return float(f"{value:.12g}")
