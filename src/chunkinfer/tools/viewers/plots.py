"""Pictures of a result, as PNG files. Needs matplotlib, of the extra ``demo``."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from chunkinfer.errors import VolumeError
from chunkinfer.support.drawing import ACCENT, DPI, FAINT, GAP, INK, scale_bar
from chunkinfer.support.picture import check_name, require_matplotlib

PANEL, LEFT, RIGHT = 3.2, 0.34, 0.12
"""Width of a panel, and of the margins, in inches."""


class Cut(NamedTuple):
    """A plane through the volume: the axes that run down and across it, and its place on the third one."""

    down: int
    across: int
    at: tuple[int, int] | None
    """Axis and index that are held; None in 2D."""
    name: str

    def of(self, array: Any, lead: int = 0) -> NDArray[Any]:
        """The plane out of an array, ``lead`` axes before the spatial ones kept; of a lazy one, only that is read."""
        index: list[Any] = [slice(None)] * len(array.shape)
        if self.at is not None:
            index[lead + self.at[0]] = self.at[1]
        return np.asarray(array[tuple(index)])


def side_by_side(
    image: Any,
    output: Any,
    path: str | os.PathLike[str],
    *,
    blocks: Sequence[Sequence[int]] | None = None,
    segmentation: Any = None,
    voxel_size: Sequence[float] | None = None,
    title: str | None = None,
) -> Path:
    """Draw an image, a network's output of it, the blocks it was computed in and its segmentation, side by side.

    ::

        image | output | output, blocks | segmentation      x-y, in the middle of z
        image | output | output, blocks | segmentation      x-z, in the middle of y; not in 2D

    Parameters
    ----------
    image
        (z, y, x) or (y, x). This and the other arrays may be lazy: only the planes drawn are read.
    output
        (c, z, y, x), (z, y, x), or the same without z: integers as fractions of their type's maximum, or floats in
        [0, 1]. Three channels are red, green and blue.
    path
        The PNG to write.
    blocks
        Sizes of the blocks along each spatial axis, in voxels: dask's ``chunks``; drawn over the output.
    segmentation
        Ids, 0 for background, axes as the image: drawn in colours over it.
    voxel_size
        Extent of a voxel along each spatial axis, in nm; without it, voxels are cubes and the scale bar counts them.
    title
        A line above the panels.

    Raises
    ------
    VolumeError
        The arrays do not fit each other.
    MissingExtra
        matplotlib is absent.
    """
    require_matplotlib("Plots", "demo")
    check_name(path)
    from matplotlib.figure import Figure

    shape = tuple(map(int, image.shape))
    channels = len(output.shape) - len(shape)
    check(shape, tuple(output.shape), segmentation, blocks)
    size = tuple(voxel_size) if voxel_size is not None else (1.0,) * len(shape)
    cuts = planes(shape)
    columns = ["image", "output"]
    if blocks is not None:
        columns.append("output, in " + " \N{MULTIPLICATION SIGN} ".join(str(len(axis)) for axis in blocks) + " blocks")
    if segmentation is not None:
        columns.append("segmentation")

    heights = [PANEL * shape[c.down] * size[c.down] / (shape[c.across] * size[c.across]) for c in cuts]
    head = 0.64 if title else 0.3
    width = LEFT + RIGHT + len(columns) * (PANEL + GAP) - GAP
    height = head + sum(heights) + GAP * (len(cuts) - 1) + RIGHT
    figure = Figure(figsize=(width, height), facecolor="white")
    if title:
        figure.text(LEFT / width, 1 - 0.15 / height, title, va="top", size=13, weight="bold", color=INK)

    top = height - head
    for row, (cut, tall) in enumerate(zip(cuts, heights, strict=True)):
        top -= tall
        grey = stretched(cut.of(image))
        pictures = [grey, result := coloured(cut.of(output, channels))]
        if blocks is not None:
            pictures.append(result)
        if segmentation is not None:
            pictures.append(painted(grey, cut.of(segmentation)))
        for column, (name, picture) in enumerate(zip(columns, pictures, strict=True)):
            left = LEFT + column * (PANEL + GAP)
            axes = figure.add_axes((left / width, top / height, PANEL / width, tall / height))
            axes.imshow(picture, cmap="gray", vmin=0, vmax=1, aspect="auto", interpolation="antialiased")
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set(linewidth=0.6, color=INK)
            if row == 0:
                axes.set_title(name, loc="left", size=10, color=INK, pad=4)
            if column == 0:
                axes.set_ylabel(cut.name, size=9, color=FAINT, labelpad=4)
            if row == column == 0:
                scale_bar(axes, shape[cut.across], size[cut.across], "nm" if voxel_size is not None else "voxels")
            if blocks is not None and column == 2:
                for edge in list(accumulate(blocks[cut.across]))[:-1]:
                    axes.axvline(edge - 0.5, color=ACCENT, linewidth=0.9)
                for edge in list(accumulate(blocks[cut.down]))[:-1]:
                    axes.axhline(edge - 0.5, color=ACCENT, linewidth=0.9)
        top -= GAP
    figure.savefig(path, dpi=DPI, format="png")
    return Path(path)


def check(
    shape: tuple[int, ...], output: tuple[int, ...], segmentation: Any, blocks: Sequence[Sequence[int]] | None
) -> None:
    """`VolumeError` unless everything covers an image of ``shape``."""
    if len(shape) not in (2, 3):
        what, means = f"The image has shape {shape}.", "A picture is made of (z, y, x) or of (y, x)."
    elif output != shape and output[1:] != shape:
        what = f"The output has shape {output} and the image {shape}."
        means = "Both cover the same voxels; the output may have channels in front."
    elif segmentation is not None and tuple(segmentation.shape) != shape:
        what = f"The segmentation has shape {tuple(segmentation.shape)} and the image {shape}."
        means = "Both cover the same voxels."
    elif blocks is not None and (covered := tuple(map(sum, blocks))) != shape:
        what = f"The blocks cover {covered} voxels and the image has {shape}."
        means = "Blocks are sizes along each axis, as in dask's chunks, and add up to the image."
    else:
        return
    raise VolumeError(what, means, ["side_by_side(image, output, path)  # image (z, y, x), output (c, z, y, x)"])


def planes(shape: tuple[int, ...]) -> list[Cut]:
    """The planes to draw: through the middle, or the only one."""
    if len(shape) == 2:
        return [Cut(0, 1, None, "x, y")]
    z, y = shape[0] // 2, shape[1] // 2
    return [Cut(1, 2, (0, z), f"x, y at z = {z}"), Cut(0, 2, (1, y), f"x, z at y = {y}")]


def stretched(plane: NDArray[Any]) -> NDArray[np.float32]:
    """Grey values in [0, 1], the darkest and brightest half percent clipped."""
    values = plane.astype(np.float32)
    low, high = np.percentile(values, (0.5, 99.5))
    result: NDArray[np.float32] = np.clip((values - low) / max(float(high - low), 1e-6), 0, 1)
    return result


def coloured(plane: NDArray[Any]) -> NDArray[np.float32]:
    """A plane (y, x) or (c, y, x) of an output as grey (y, x), or as red, green and blue (y, x, 3)."""
    scale = np.iinfo(plane.dtype).max if np.issubdtype(plane.dtype, np.integer) else 1
    values: NDArray[np.float32] = np.clip(plane.astype(np.float32) / scale, 0, 1)
    if values.ndim == 2 or len(values) == 1:
        return values.reshape(values.shape[-2:])
    if len(values) == 2:
        values = np.stack([values[0], values[1], values.mean(0)])
    return np.moveaxis(values[:3], 0, -1)


def painted(grey: NDArray[np.float32], ids: NDArray[Any]) -> NDArray[np.float32]:
    """Ids in colours over the image; an id has the same colour in every picture."""
    from matplotlib.colors import hsv_to_rgb

    turn = ids.astype(np.float64) * (math.sqrt(5) - 1) / 2 % 1  # the golden angle keeps consecutive ids apart
    hues = np.stack([turn, 0.4 + 0.1 * (ids % 3), np.ones(ids.shape)], -1)
    colours = np.where((ids > 0)[..., None], hsv_to_rgb(hues), 0)
    result: NDArray[np.float32] = (colours * (0.45 + 0.55 * grey[..., None])).astype(np.float32)
    return result
