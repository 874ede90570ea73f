"""Steps that show a volume, and what is refused of the last steps of a chain before anything runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from dask.base import tokenize

from chunkinfer.api.save import check_save
from chunkinfer.errors import PipelineError
from chunkinfer.objects.meshes import surfaces
from chunkinfer.objects.meshes.formats import require_draco
from chunkinfer.support.colours import kind_of
from chunkinfer.support.picture import Picture, require_matplotlib
from chunkinfer.tools.viewers import viewing
from chunkinfer.tools.viewers.browser import found as found_browser
from chunkinfer.tools.viewers.serving import require_neuroglancer
from chunkinfer.tools.viewers.viewing import View
from chunkinfer.volumes.arrays.source import Source
from chunkinfer.volumes.pictures import slices
from chunkinfer.volumes.pictures.levels import channels_of
from chunkinfer.volumes.volume import Volume, as_volume


def show(volume: Any, out: str, *, position: Sequence[float] | None = None, kind: str | None = None) -> Picture:
    """Draw three orthogonal slices of the volume into one PNG; nothing else of it is computed.

    Parameters
    ----------
    volume
        What to draw.
    out
        The PNG to write.
    position
        z, y, x where the slices meet, in voxels of the volume's coordinate system; by default the middle.
    kind
        image, affinities or segmentation; by default told from data type and channels.
    """
    check_picture(volume, out, kind)
    return slices.show(volume, out, position=position, kind=kind)


def view(
    volume: Any,
    *,
    other: Any = None,
    kind: str | None = None,
    position: Sequence[float] | None = None,
    contrast: Sequence[float] | None = None,
    layout: str = "4panel",
    screenshot: str | None = None,
    size: Sequence[int] = (1200, 900),
    port: int = 0,
) -> View | Picture:
    """Show the volume in Neuroglancer, computed as it is looked at, until Ctrl-C; or draw a screenshot of it.

    Parameters
    ----------
    volume
        What to show.
    other
        Another volume to show with it: the name of an earlier step, or a URL.
    kind
        image, affinities or segmentation; by default told from data type and channels.
    position
        z, y, x to look at, in voxels; by default the middle.
    contrast
        Values of images that are black and white; by default half a percent of a section is darker and brighter.
    layout
        4panel, xy, xz, yz, 3d, xy-3d, ...
    screenshot
        Draw the view into this PNG, by a Chromium or Chrome on the path, and end it.
    size
        Width and height of the screenshot in pixels.
    port
        Of this machine's loopback interface, where the page is served; by default a free one.
    """
    check_picture(volume, screenshot, kind)
    about = as_volume(volume)
    named: dict[str, Any] = {_kind(about, kind): _where_stored(about) or volume}
    if other is not None:  # drawn in this order: an image would hide what was found in it
        what = _kind(as_volume(other))
        named["layers" if what in named else what] = other
    shades = None if contrast is None else (contrast[0], contrast[1])
    shown = viewing.view(position=position, contrast=shades, layout=layout, port=port, **named)
    if screenshot is None:
        return shown
    with shown:
        return shown.screenshot(screenshot, size=(size[0], size[1]))


def _kind(volume: Volume, kind: str | None = None) -> str:
    return kind_of(volume.array.dtype, channels_of(volume), kind)


def _where_stored(volume: Volume) -> str | None:
    """The URL of a volume that is as it is stored: Neuroglancer finds levels and meshes there."""
    origin = volume.origin
    if not isinstance(origin, Source):
        return None
    whole = as_volume(origin.url)
    return origin.url if tokenize(whole.origin) == tokenize(origin) and whole.frame == volume.frame else None


def check_picture(volume: Any, out: str | None, kind: str | None) -> None:
    """Refuse a file that is no PNG: a pipeline's file may be somebody else's, and must not overwrite any other.

    Raises
    ------
    PipelineError
        Its name does not end in .png.
    VolumeError
        The volume cannot be shown as such a kind.
    """
    about = as_volume(volume)
    _kind(about, kind)
    if out is not None and not out.lower().endswith(".png"):
        better = f"{out.rpartition('.')[0] or out}.png"
        raise PipelineError(f"{out} does not end in .png.", "Pictures are written as PNG.", [f"call it {better}"])


def _check_mesh(volume: Any, *, format: str = "legacy", **_: Any) -> None:
    surfaces.require()
    if format == "multires":
        require_draco()


def _check_show(volume: Any, *, out: str, kind: str | None = None, **_: Any) -> None:
    check_picture(volume, out, kind)
    require_matplotlib()


def _check_view(volume: Any, *, screenshot: str | None = None, kind: str | None = None, **_: Any) -> None:
    check_picture(volume, screenshot, kind)
    require_neuroglancer()
    if screenshot is not None:
        found_browser(None)


CHECKS: dict[str, Callable[..., None]] = {
    "save": check_save,
    "mesh": _check_mesh,
    "show": _check_show,
    "view": _check_view,
}
"""The steps that do something with a volume and pass it on, and what is refused of each before anything runs."""
