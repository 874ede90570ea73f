"""`view`: volumes in Neuroglancer, from stores and from lazy arrays."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, count
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chunkinfer.errors import VolumeError
from chunkinfer.stores.urls import locate
from chunkinfer.support.colours import limits
from chunkinfer.support.picture import Picture
from chunkinfer.tools.viewers import browser as browsers
from chunkinfer.tools.viewers.layers import (
    Layer,
    layer_of,
    layer_state,
    on_one_grid,
    readable,
    remote_url,
    shown_dtype,
    stored_source,
    transform,
    view_state,
)
from chunkinfer.tools.viewers.serving import Stores, require_neuroglancer, started, viewer
from chunkinfer.volumes.arrays.source import Source
from chunkinfer.volumes.pictures.levels import middle, opened, stored
from chunkinfer.volumes.volume import Volume

SAMPLE = 1024
"""Voxels on a side of the section, of the finest level that small, by which contrast is chosen."""

READERS = ("browser", "process")
LAYOUTS = ("4panel", "xy", "xz", "yz", "3d", "xy-3d", "xz-3d", "yz-3d")


class View:
    """A Neuroglancer that runs until `close`, or until the process ends. A notebook shows it in a frame.

    ::

        with chunkinfer.view("em.zarr") as view:
            view.screenshot("em.png")
    """

    def __init__(self, server: Any, made: Any) -> None:
        self._server, self._viewer = server, made

    @property
    def url(self) -> str:
        """The page. Whoever has it can see what is shown, and nobody else."""
        return f"{self._server.server_url}/v/{self._viewer.token}/"

    @property
    def state(self) -> dict[str, Any]:
        """Neuroglancer's state, as JSON values, with what was changed in the browser since."""
        return dict(self._viewer.state.to_json())

    def screenshot(
        self,
        path: str | os.PathLike[str] | None = None,
        *,
        size: tuple[int, int] = (1200, 900),
        browser: str | os.PathLike[str] | None = None,
        timeout: float = 120,
    ) -> Picture:
        """Draw the view into a PNG, by a Chromium or Chrome without a window, once all in sight is loaded.

        Parameters
        ----------
        path
            The PNG to write.
        size
            Width and height in pixels.
        browser
            The program; by default one that is on the path.
        timeout
            Seconds.

        Raises
        ------
        MissingExtra
            There is no such browser.
        ViewError
            It was not drawn in time.
        """
        picture = Picture(browsers.drawn(self._viewer, self.url, size, browser, timeout))
        return picture if path is None else picture.save(path)

    def close(self) -> None:
        """End it: nothing is served any more."""
        self._server.stop()
        self._server.executor.shutdown(wait=False)

    def __enter__(self) -> View:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<View {self.url}>"

    def _repr_html_(self) -> str:
        return f'<iframe src="{self.url}" width="100%" height="600" style="border: 0"></iframe>'


def view(
    image: Any = None,
    affinities: Any = None,
    segmentation: Any = None,
    *,
    layers: Any = None,
    position: Sequence[float] | None = None,
    contrast: tuple[float, float] | None = None,
    segments: Sequence[int] | None = None,
    layout: str = "4panel",
    reader: str = "browser",
    host: str = "127.0.0.1",
    port: int = 0,
) -> View:
    """Show volumes in Neuroglancer.

    A volume is a URL, or lazy: an xarray.DataArray, a dask, zarr or numpy array. What is stored as zarr, OME-Zarr or
    precomputed is read by the browser, level by level; local folders are served to it on this machine. What is lazy is
    computed chunk by chunk, as the browser asks for it.

    Parameters
    ----------
    image, affinities, segmentation
        A volume each, or several: a list, or a dict from names to volumes. Images are grey, affinities of several
        channels red, green and blue, affinities of one channel black, red, yellow, white; labels are integers.
    layers
        Further volumes, one or several; what they are is told from data type and channels.
    position
        (z, y, x) to look at, in voxels of the first layer and of its coordinate system; by default its middle.
    contrast
        Values of images that are black and white; by default half a percent of a section is darker and brighter.
    segments
        Labels of the objects to show in segmentations; by default all, and of a stored segmentation with meshes the
        first thousand that have one.
    layout
        Neuroglancer's: ``"4panel"``, ``"xy"``, ``"xz"``, ``"yz"``, ``"3d"``, ``"xy-3d"``, ...
    reader
        ``"process"``: this process reads what is stored, too, with its credentials, the finest level only.
    host, port
        Where the page is served; by default to this machine only, at a free port.

    Returns
    -------
    View
        ``url``, ``state``, ``screenshot(path)``, ``close()``; a notebook shows it in a frame.

    Raises
    ------
    VolumeError
        There is nothing to show, two layers have one name, or something is no volume.
    SourceError
        Nothing is at a URL, or it cannot be read.
    ViewError
        Nothing can be served at that address.
    MissingExtra
        neuroglancer is absent.
    """
    require_neuroglancer()
    asked = list(_named(image, affinities, segmentation, layers))
    _check(asked, layout, reader)
    shown = on_one_grid([_layer(*one) for one in asked])
    ranges = [_contrast(layer, what, contrast) for layer, (_, _, what) in zip(shown, asked, strict=True)]
    stores = Stores()
    server = started(host, port, stores)
    try:
        made = viewer(server)
        states = [
            layer_state(layer, _source(layer, reader, server, stores, made), shades, segments)
            for layer, shades in zip(shown, ranges, strict=True)
        ]
        made.set_state(view_state(shown, states, position, layout))
    except BaseException:
        server.stop()
        raise
    return View(server, made)


def _named(image: Any, affinities: Any, segmentation: Any, layers: Any) -> Iterator[tuple[str, str | None, Any]]:
    """Name, kind and volume of each layer. Names that nobody gave are told apart by numbers."""
    taken: set[str] = set()
    given = ("image", image), ("affinities", affinities), ("segmentation", segmentation), (None, layers)
    for kind, some in given:
        if isinstance(some, Mapping):
            yield from ((name, kind, volume) for name, volume in some.items())
            taken.update(some)
            continue
        several = isinstance(some, list | tuple)
        for volume in some if several else () if some is None else (some,):
            stem = kind if kind and not several else _stem(volume)
            name = next(n for n in chain([stem], (f"{stem} {k}" for k in count(2))) if n not in taken)
            taken.add(name)
            yield name, kind, volume


def _stem(volume: Any) -> str:
    """The last part of a URL, or a DataArray's name."""
    if isinstance(volume, str | os.PathLike):
        return os.fspath(volume).rstrip("/").rpartition("/")[2]
    return str(getattr(volume, "name", None) or "volume")


def _check(asked: list[tuple[str, str | None, Any]], layout: str, reader: str) -> None:
    names = [name for name, _, _ in asked]
    ways = ['view("em.zarr", segmentation="labels.zarr")', 'view(image={"raw": a, "new": b})']
    if not names:
        what, means = "There is nothing to show.", "A view has at least one layer."
    elif len(set(names)) < len(names):
        what, means = f"Layers share a name: {', '.join(names)}.", "Neuroglancer tells layers apart by their names."
    elif reader not in READERS:
        what, means = f"reader={reader!r} is not an option.", f"There are {' and '.join(READERS)}."
        ways = ['reader="process"', "leave reader= out"]
    elif layout not in LAYOUTS:
        what, means = f"layout={layout!r} is none of Neuroglancer's.", f"There are {', '.join(LAYOUTS)}."
        ways = ['layout="4panel"', "leave layout= out"]
    else:
        return
    raise VolumeError(what, means, ways)


def _layer(name: str, kind: str | None, what: Any) -> Layer:
    url = isinstance(what, str | os.PathLike)
    return layer_of(name, kind, opened(what), stored(what) if url else None)


def _contrast(layer: Layer, what: Any, asked: tuple[float, float] | None) -> tuple[float, float] | None:
    """The darkest and brightest value; None where looking at the volume would compute it, and Neuroglancer's holds."""
    volume = layer.volume
    if layer.kind != "image":
        return None
    if asked is not None:
        return asked
    if volume.array.dtype == bool:
        return 0, 1
    if layer.stored is not None:
        for level in range(1, layer.stored.levels):
            if max(volume.space_shape) <= SAMPLE:
                break
            volume = opened(what, level)
    elif not isinstance(volume.origin, Source | np.ndarray):
        return None
    return limits([middle(volume, SAMPLE)], "image")


def _source(layer: Layer, reader: str, server: Any, stores: Stores, made: Any) -> dict[str, Any]:
    """A layer's source in Neuroglancer's words."""
    if layer.stored is not None and reader == "browser" and readable(layer):
        url = layer.stored.source.url
        folder = locate(url).path
        return stored_source(layer, remote_url(url) if folder is None else server.server_url + stores.add(folder))
    from neuroglancer import CoordinateSpace, LocalVolume

    volume, frame = layer.volume, layer.volume.frame
    channel = "c'" if layer.kind == "segmentation" else "c^"
    placed = transform({d: d for d in volume.dims}, frame, frame.origin, channel)
    local = LocalVolume(
        _Lazy(volume, shown_dtype(volume.array.dtype, layer.kind)),
        dimensions=CoordinateSpace(placed["inputDimensions"]),
        volume_type="segmentation" if layer.kind == "segmentation" else "image",
        voxel_offset=[0] * len(volume.dims),
    )
    # Meshes of labels would read the volume whole.
    return {
        "url": made.volume_manager.register_volume(local),
        "transform": placed,
        "enableDefaultSubsources": False,
        "subsources": {"default": True, "bounds": True},
    }


class _Lazy:
    """A volume as Neuroglancer's server reads it."""

    def __init__(self, volume: Volume, dtype: np.dtype[Any]) -> None:
        self._array = volume.origin
        self.shape, self.dtype = tuple(volume.array.shape), dtype

    def __getitem__(self, key: Any) -> NDArray[Any]:
        return np.asarray(self._array[key]).astype(self.dtype, copy=False)
