"""One picture of a volume: three orthogonal slices, or a section of every level. Needs matplotlib.

::

    x, y at z | z, y at x
    ----------+----------
    x, z at y |
"""

from __future__ import annotations

import io
import math
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from chunkinfer.errors import VolumeError
from chunkinfer.support.colours import kind_of, limits, pixels
from chunkinfer.support.drawing import ACCENT, DPI, FAINT, GAP, INK, scale_bar
from chunkinfer.support.picture import Picture, check_name, require_matplotlib
from chunkinfer.support.thinning import step
from chunkinfer.volumes.frame import Frame
from chunkinfer.volumes.pictures.levels import channels_of, middle, opened, plane, stored
from chunkinfer.volumes.volume import Volume

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PIXELS = 2000
"""Where a multiscale image has more voxels than this along an axis, a coarser level is drawn; else every few-th."""
LONGEST = 9.0
"""Inches that the longer side of a picture has for its slices."""
LEFT, RIGHT, TOP, BOTTOM, BETWEEN = 0.35, 0.15, 0.65, 0.15, 0.35
"""Margins, and the room between slices, in inches."""
THUMBNAIL, COLUMNS, THUMBNAIL_PIXELS = 2.6, 4, 1024
"""Side of a thumbnail in inches; thumbnails in a row; voxels of a section that are drawn at most."""


class Panel(NamedTuple):
    """Where a slice is drawn."""

    down: str
    across: str
    held: str | None
    """The axis that has one index; None in 2D."""
    box: tuple[float, float, float, float]
    """Left, bottom, width and height, as shares of the figure."""


def show(
    volume: Any,
    out: str | os.PathLike[str] | None = None,
    *,
    level: int | None = None,
    position: Sequence[float] | None = None,
    kind: str | None = None,
) -> Picture:
    """Draw three orthogonal slices of a volume into one PNG.

    Only the slices are read. Of more than 2000 voxels along an axis every few-th is drawn, and the title says which, so
    a volume of any size takes little memory. Lengths are true to the voxel size, and a bar gives the scale. Chunks that
    are not stored are drawn as the fill value.

    Parameters
    ----------
    volume
        A URL, or a lazy volume: an xarray.DataArray, a dask, zarr or numpy array.
    out
        The PNG to write.
    level
        Of a multiscale image; by default the finest that has at most 2000 voxels along every axis.
    position
        (z, y, x) where the slices meet, in voxels of the finest level and of the volume's coordinate system, as
        Neuroglancer shows them; by default the middle.
    kind
        ``"image"``: grey, the darkest and brightest half percent clipped; ``"affinities"``: red, green and blue, or for
        one channel black, red, yellow, white; ``"segmentation"``: one colour per label. By default told from data type
        and channels.

    Returns
    -------
    Picture
        The PNG; a notebook draws it, and ``save(path)`` writes it.

    Raises
    ------
    VolumeError
        The position lies outside, or ``kind`` or ``level`` do not fit the volume.
    SourceError
        Nothing is at the URL, or it cannot be read.
    MissingExtra
        matplotlib is absent.
    """
    require_matplotlib()
    check_name(out)
    finest, drawn, name = _chosen(volume, level)
    where = _place(finest.frame, drawn, position)
    kind = kind_of(drawn.array.dtype, channels_of(drawn), kind)
    frame, sizes = drawn.frame, dict(zip(drawn.frame.space, drawn.space_shape, strict=True))
    width, height, panels = layout(sizes, frame.voxel_size)
    figure = _figure(width, height)
    cuts = [_turned(plane(drawn, {} if p.held is None else {p.held: where[p.held]}, PIXELS), p) for p in panels]
    low, high = limits(cuts, kind)
    named = _named(finest.frame, frame, where, position)
    figure.text(LEFT / width, 1 - 0.13 / height, name, va="top", size=11, weight="bold", color=INK)
    for panel in panels:
        axes = _panel(figure, panel.box, pixels(cuts.pop(0), kind, low, high))  # which isn't needed any more
        held = f" at {panel.held} = {named[panel.held]:g}" if panel.held else ""
        axes.set_title(f"{panel.across}, {panel.down}{held}", loc="left", size=9, color=FAINT, pad=5)
        if panel.held:  # where the other slices cross this one
            across, down = (where[d] / step(sizes[d], PIXELS) for d in (panel.across, panel.down))
            axes.set(xticks=[across], yticks=[down])
            axes.tick_params(color=ACCENT, width=1, length=4, labelleft=False, labelbottom=False, top=True, right=True)
        if panel is panels[0]:
            scale_bar(axes, sizes["x"], frame.voxel_size["x"], frame.unit or "voxels")
    return _png(figure, out)


def thumbnails(url: str | os.PathLike[str], out: str | os.PathLike[str] | None = None) -> Picture:
    """Draw the middle section of every level of a multiscale volume into one PNG.

    Of sections with more than 1024 voxels along an axis, only the middle is read and drawn.

    Parameters
    ----------
    url
        Of an OME-Zarr image or a precomputed volume; any other has one level.
    out
        The PNG to write.

    Raises
    ------
    SourceError
        Nothing is at the URL, or it cannot be read.
    MissingExtra
        matplotlib is absent.
    """
    require_matplotlib()
    check_name(out)
    volumes = [opened(url, level) for level in range(stored(url).levels)]
    columns, rows = min(len(volumes), COLUMNS), math.ceil(len(volumes) / COLUMNS)
    width = LEFT + columns * THUMBNAIL + (columns - 1) * GAP + RIGHT
    height = rows * (THUMBNAIL + TOP) + BOTTOM
    figure = _figure(width, height)
    for number, volume in enumerate(volumes):
        row, column = divmod(number, COLUMNS)
        kind = kind_of(volume.array.dtype, channels_of(volume))
        section = middle(volume, THUMBNAIL_PIXELS)
        size = volume.frame.voxel_size
        tall, wide = section.shape[1] * size["y"], section.shape[2] * size["x"]
        across, down = THUMBNAIL * wide / max(tall, wide), THUMBNAIL * tall / max(tall, wide)
        left, top = LEFT + column * (THUMBNAIL + GAP), height - row * (THUMBNAIL + TOP) - TOP
        box = (left / width, (top - down) / height, across / width, down / height)
        axes = _panel(figure, box, pixels(section, kind, *limits([section], kind)))
        part = section.shape[1:] != volume.space_shape[-2:]
        head = f"{number}: {_times(volume.space_shape)}" + (", the middle" if part else "")
        axes.set_title(f"{head}\n{_lengths(volume.frame)}", loc="left", size=8, color=INK, pad=4)
        scale_bar(axes, section.shape[2], size["x"], volume.frame.unit or "voxels")
    return _png(figure, out)


def layout(sizes: dict[str, int], voxel_size: dict[str, float]) -> tuple[float, float, list[Panel]]:
    """Width and height of the figure in inches, and where each slice is drawn. One section alone has one panel."""
    x, y = sizes["x"] * voxel_size["x"], sizes["y"] * voxel_size["y"]
    z = sizes["z"] * voxel_size["z"] if sizes.get("z", 1) > 1 else 0.0
    inch = (LONGEST - (BETWEEN if z else 0)) / max(x + z, y + z)
    x, y, z = x * inch, y * inch, z * inch
    room = z + BETWEEN if z else 0.0
    width, height = LEFT + x + room + RIGHT, TOP + y + room + BOTTOM

    def box(left: float, top: float, wide: float, tall: float) -> tuple[float, float, float, float]:
        return (LEFT + left) / width, (height - TOP - top - tall) / height, wide / width, tall / height

    panels = [Panel("y", "x", "z" if "z" in sizes else None, box(0, 0, x, y))]
    if z:
        panels += [Panel("y", "z", "x", box(x + BETWEEN, 0, z, y)), Panel("z", "x", "y", box(0, y + BETWEEN, x, z))]
    return width, height, panels


def _chosen(volume: Any, level: int | None) -> tuple[Volume, Volume, str]:
    """The finest level, the one to draw, and a line about it."""
    if not isinstance(volume, str | os.PathLike):
        if level not in (None, 0):
            raise VolumeError(
                f"level={level} was asked of a volume that is no URL.",
                "Levels belong to stored multiscale images.",
                ["show(chunkinfer.open_volume(url, level=1))", "leave level= out"],
            )
        finest = opened(volume)
        return finest, finest, _about(finest, finest.name)
    levels = stored(volume).levels
    finest = drawn = opened(volume)
    number = 0
    if level is not None:
        number, drawn = level, opened(volume, level)
    else:
        while max(drawn.space_shape) > PIXELS and number + 1 < levels:
            number += 1
            drawn = opened(volume, number)
    of = f", level {number} of 0 to {levels - 1}" if levels > 1 else ""
    return finest, drawn, _about(drawn, str(volume).rstrip("/").rpartition("/")[2] + of)


def _about(volume: Volume, name: str) -> str:
    every = {d: step(n, PIXELS) for d, n in zip(volume.frame.space, volume.space_shape, strict=True)}
    thin = "".join(f", every {k}th in {d}" for d, k in every.items() if k > 1)
    return f"{name}: {_times(volume.space_shape)}, {volume.array.dtype}, {_lengths(volume.frame)}{thin}"


def _times(numbers: Sequence[int]) -> str:
    return " \N{MULTIPLICATION SIGN} ".join(map(str, numbers))


def _lengths(frame: Frame) -> str:
    lengths = " \N{MULTIPLICATION SIGN} ".join(f"{frame.voxel_size[d]:g}" for d in frame.space)
    return f"voxels of {lengths} {frame.unit or '(no unit)'}"


def _place(finest: Frame, drawn: Volume, position: Sequence[float] | None) -> dict[str, int]:
    """Where slices meet, as indices of the level that is drawn."""
    frame, sizes = drawn.frame, dict(zip(drawn.frame.space, drawn.space_shape, strict=True))
    if position is None:
        return {d: n // 2 for d, n in sizes.items()}
    given = dict(zip(frame.space, position, strict=False))
    found = {
        # The centre of the voxel of the finest level that was named.
        d: math.floor((p + 0.5) * finest.voxel_size[d] / frame.voxel_size[d] - frame.origin[d])
        for d, p in given.items()
    }
    if len(position) != len(frame.space) or any(not 0 <= found[d] < sizes[d] for d in found):
        ends = {d: finest.origin[d] + n * frame.voxel_size[d] / finest.voxel_size[d] for d, n in sizes.items()}
        extent = ", ".join(f"{d} {finest.origin[d]:g} to {ends[d]:g}" for d in frame.space)
        raise VolumeError(
            f"position={tuple(position)} is not a place in the volume.",
            f"It has one number per axis, in voxels; the volume reaches from {extent}.",
            [f"position={tuple(int((finest.origin[d] + ends[d]) / 2) for d in frame.space)}", "leave position= out"],
        )
    return found


def _named(finest: Frame, drawn: Frame, where: dict[str, int], position: Sequence[float] | None) -> dict[str, float]:
    """Where slices meet, in voxels of the finest level."""
    if position is not None:
        return dict(zip(drawn.space, position, strict=True))
    return {d: (i + drawn.origin[d]) * drawn.voxel_size[d] / finest.voxel_size[d] for d, i in where.items()}


def _turned(cut: NDArray[Any], panel: Panel) -> NDArray[Any]:
    """(channels, down, across): the slice beside the first one lies on its side."""
    return np.swapaxes(cut, 1, 2) if (panel.down, panel.across) == ("y", "z") else cut


def _figure(width: float, height: float) -> Figure:
    require_matplotlib()
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), facecolor="white")


def _panel(figure: Figure, box: tuple[float, float, float, float], picture: NDArray[np.uint8]) -> Axes:
    axes = figure.add_axes(box)
    smaller = picture.shape[1] > box[2] * figure.get_figwidth() * DPI
    opaque = np.dstack([picture, np.full(picture.shape[:2], 255, np.uint8)])  # else matplotlib takes double
    axes.imshow(opaque, aspect="auto", interpolation="antialiased" if smaller else "nearest")
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set(linewidth=0.6, color=INK)
    return axes


def _png(figure: Figure, out: str | os.PathLike[str] | None) -> Picture:
    content = io.BytesIO()
    figure.savefig(content, dpi=DPI, format="png")
    picture = Picture(content.getvalue())
    return picture if out is None else picture.save(out)
