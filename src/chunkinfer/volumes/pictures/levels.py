"""Levels of a stored volume, and planes of any volume."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from itertools import count
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from chunkinfer.errors import SourceError
from chunkinfer.stores.urls import locate
from chunkinfer.support.thinning import step, thinned
from chunkinfer.volumes.arrays.axes import recognise
from chunkinfer.volumes.arrays.nodes import Node, look
from chunkinfer.volumes.arrays.open import describe_zarr, open_source
from chunkinfer.volumes.arrays.source import Source
from chunkinfer.volumes.formats import ome
from chunkinfer.volumes.open import open_volume
from chunkinfer.volumes.volume import Volume, as_volume


class Stored(NamedTuple):
    """What lies at a URL."""

    source: Source
    """Its finest level."""
    node: Node | None
    """Its metadata; None of other formats than zarr and precomputed."""

    @property
    def image(self) -> Mapping[str, Any] | None:
        """OME-Zarr's description of a multiscale image."""
        return (
            None
            if self.node is None or not self.node.is_group
            else ome.described(self.node.attributes, self.node.location.url)
        )

    @property
    def levels(self) -> int:
        """How many there are."""
        if self.node is not None and self.node.format == "precomputed":
            return len(self.node.meta["scales"])
        if self.source.format == "n5":
            return next(level for level in count(1) if not _is_there(self.source.url, level))
        return 1 if self.image is None else len(ome.levels(self.image))

    @property
    def axes(self) -> dict[str, str]:
        """The axes of a zarr array or image, as they are stored, and Neuroglancer's names for them."""
        assert self.node is not None
        if (image := self.image) is not None:
            dims = recognise(ome.axis_names(image), len(image["axes"]), self.source.url)
            names = [axis["name"] + "'" * (axis.get("type") == "channel") for axis in image["axes"]]
            return dict(zip(dims, names, strict=True))
        dims = describe_zarr(self.node)[0].stored
        second = self.source.format == "zarr2"
        given = self.node.attributes.get("_ARRAY_DIMENSIONS") if second else self.node.meta.get("dimension_names")
        names = given or [None] * len(dims)
        return {d: n or f"{'d' if second else 'dim_'}{i}" for i, (d, n) in enumerate(zip(dims, names, strict=True))}


def stored(url: str | os.PathLike[str]) -> Stored:
    """What lies at a URL; only metadata is read."""
    source = open_source(url)
    known = source.format in ("precomputed", "zarr2", "zarr3")
    return Stored(source, look(replace(locate(source.url), format=source.format)) if known else None)


def _is_there(url: str, level: int) -> bool:
    """Whether an N5 group has such a level: it is not told how many there are."""
    try:
        open_source(f"n5://{url}", level=level)
    except SourceError:
        return False
    return True


def opened(volume: Any, level: int = 0) -> Volume:
    """A URL's level, or a lazy volume, in one form; the first of several times. Absent chunks are the fill value:
    what is not finished yet can be looked at."""
    if isinstance(volume, str | os.PathLike):
        volume = open_volume(volume, level=level, missing="fill")
    found = as_volume(volume)
    return replace(found, array=found.array[0], dims=found.dims[1:]) if found.dims[0] == "t" else found


def channels_of(volume: Volume) -> int:
    """How many there are; 1 without an axis for them."""
    return int(volume.array.shape[0]) if volume.channels else 1


def plane(volume: Volume, cut: Mapping[str, int | slice], pixels: int | None = None) -> NDArray[Any]:
    """What is cut out of a volume, at most three channels of it: (channels, ...). Only that is read.

    Parameters
    ----------
    volume
        Where from.
    cut
        Index or slice per spatial axis; axes that are not named are taken whole.
    pixels
        Of an axis that is taken whole, so many voxels at most: every few-th of a longer one.
    """
    array, shape = volume.origin, volume.array.shape
    key = tuple(slice(0, 3) if d == "c" else cut.get(d, slice(None)) for d in volume.dims)
    steps = {axis: step(shape[axis], pixels or shape[axis]) for axis, part in enumerate(key) if part == slice(None)}
    steps = {axis: k for axis, k in steps.items() if k > 1}
    found = thinned(array, volume.array.chunks, key, steps) if steps else np.asarray(array[key])
    return found if volume.channels else found[np.newaxis]


def middle(volume: Volume, pixels: int) -> NDArray[Any]:
    """The section in the middle, at most so many pixels wide and high: (channels, y, x)."""
    lengths = dict(zip(volume.frame.space, volume.space_shape, strict=True))
    cut: dict[str, int | slice] = {"z": lengths["z"] // 2} if "z" in lengths else {}
    for d in "yx":
        start = max(0, lengths[d] - pixels) // 2
        cut[d] = slice(start, start + min(lengths[d], pixels))
    return plane(volume, cut)
