"""Pictures, affinities, labels: what the voxels of a volume can be, before a pass takes them for something else.

All of these come as small integers. What is known tells them apart: where a volume comes from, what its channels are
called, how wide its type is; and of labels of a narrow type, a look at some voxels. Where that leaves it open, the
error asks for a type that says it: labels of 32 bits or more, affinities that are floating.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from chunkinfer.errors import VolumeError
from chunkinfer.geometry.boxes import Box
from chunkinfer.support.payload import networks_of
from chunkinfer.volumes.derived import voxels
from chunkinfer.volumes.volume import Volume, as_volume, count_axes

COLOURS = {"red", "green", "blue", "alpha", "grey"}
"""Names of channels that readers of pictures give."""

LOOK = 128
"""Voxels in a row, and rows, that are looked at."""

VALUES, ALIKE = 32, 0.5
"""A picture has more different values than this in a look, and a smaller share of neighbours that are alike."""


def refuse_picture_for_labels(volume: Volume, name: str) -> None:
    """Refuse a grey picture where labels are asked.

    Labels are alike in most neighbouring voxels, and the grey values of a microscope are not. Types of 32 bits or more
    are believed, and so is a volume that is stored as a segmentation.

    Raises
    ------
    VolumeError
        It looks like a picture.
    """
    dtype = volume.array.dtype
    if dtype.kind not in "iu" or dtype.itemsize > 2 or volume.attrs.get("type") == "segmentation":
        return
    seen = _look(volume)
    values, alike = len(np.unique(seen)), float(np.mean(seen[..., 1:] == seen[..., :-1])) if seen.shape[-1] > 1 else 1.0
    if values > VALUES and alike < ALIKE:
        raise VolumeError(
            f"{name} looks like a picture: {dtype}, {values} different values in {seen.size} voxels, and {alike:.0%} "
            "of the neighbours alike.",
            "Labels are the numbers of objects, so most neighbouring voxels have the same.",
            [
                f"segment it first: chunkinfer.segment(chunkinfer.infer({name}, model)).labels",
                f'if these are labels, say so by the type: chunkinfer.operators.cast({name}, "uint32")',
            ],
        )


def refuse_picture_for_affinities(volume: Volume) -> None:
    """Refuse a grey or coloured picture where affinities or a boundary map are asked.

    Floating-point values are believed, for blocks are checked to lie in [0, 1]; so is what a network computed, here or
    before it was stored; and so are three channels that are no colours.

    Raises
    ------
    VolumeError
        It is a picture, or may be one.
    """
    array = volume.array
    if array.dtype != np.uint8 or networks_of(array.dask) or "provenance" in volume.attrs:
        return
    count = array.shape[0] if volume.channels else 1
    colours = volume.channel is not None and {str(c) for c in volume.channel} <= COLOURS
    if count == 3 and not colours:
        return
    what = (
        f"channels {', '.join(map(str, volume.channel))}" if volume.channel is not None and colours else "one channel"
    )
    raise VolumeError(
        f"A volume of uint8 with {what} may be a picture.",
        "What is cut into objects is a network's output: affinities, or a map that is bright at boundaries.",
        [
            "segment(infer(volume, model))",
            "if 255 means a boundary, say so by the type: segment(chunkinfer.operators.dequantize(volume))",
        ],
    )


def as_labels(volume: Volume) -> str:
    """What makes labels (z, y, x) of a volume: a line to paste, in which it is called labels."""
    cut = "[0]" if volume.channels else ""
    if len(volume.frame.space) == 2:
        cut += ".expand_dims('z')" if volume.labelled else "[None]"
    return f"labels{cut}" + ("" if volume.array.dtype.kind == "u" else ".astype('uint64')")


def in_three_axes(volume: Any, name: str) -> Volume:
    """A volume along z, y and x in one form.

    Raises
    ------
    VolumeError
        It has two axes.
    """
    if count_axes(volume) == 2:
        section = f'{name}.expand_dims("z")' if hasattr(volume, "dims") else f"{name}[None]"
        raise VolumeError(
            f"{name} of the shape {tuple(volume.shape)} has two axes.",
            "Objects are found along z, y and x; one section is a volume of one.",
            [section, 'all sections, where they are files: open_volume("stack/*.png")'],
        )
    return as_volume(volume, 3)


def _look(volume: Volume) -> NDArray[Any]:
    """Some rows of the section in the middle."""
    lead, shape = volume.array.ndim - len(volume.space_shape), volume.space_shape
    sides = [1] * (len(shape) - 2) + [min(n, LOOK) for n in shape[-2:]]
    start = [(n - side) // 2 for n, side in zip(shape, sides, strict=True)]
    stop = [a + side for a, side in zip(start, sides, strict=True)]
    return voxels(volume.origin, Box((0,) * lead + tuple(start), (1,) * lead + tuple(stop)))
