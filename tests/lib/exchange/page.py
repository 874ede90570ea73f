"""Neuroglancer as a reader: its own page, in a Chromium without a window, opens a store by its URL.

Voxels of images are asked of the page, chunk by chunk, as it decoded them. Those of segmentations it hands out as they
are stored, so these are compared as it draws them: every label has a colour, and the middle of every voxel is seen.
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from chunkinfer.tools.viewers import browser
from chunkinfer.tools.viewers.serving import Stores, started, viewer
from tests.lib.exchange.cases import ARRAYS, FACTORS, Row

Array = np.ndarray[Any, Any]
SCHEMES = {"ome-zarr-0.4": "zarr2", "ome-zarr": "zarr3"}
WAIT = 60
"""Seconds"""
PIXELS = (900, 600)
ZOOM = 12
"""Pixels per voxel along x."""


class Page:
    """A page that shows one store after the other."""

    def __init__(self, server: Any, made: Any, stores: Stores) -> None:
        self.server, self.viewer, self.stores = server, made, stores

    def read(self, row: Row, path: Path, level: int) -> dict[str, Any]:
        """What the page knows of a level of a store."""
        if "labels" in row.voxels:
            return self.labels(path, row.format, np.unique(ARRAYS[row.voxels])) if level == 0 else {}
        if level and row.format.startswith("ome"):
            return {}  # it begins between voxels of its own, which the page can draw and not tell
        return self.image(path, row.format, FACTORS if level else None)

    def show(self, path: Path, format: str, **layer: Any) -> None:
        """Open a store, and nothing else."""
        source = f"{SCHEMES.get(format, format)}://{self.server.server_url}{self.stores.add(path)}/"
        self.viewer.set_state({"layers": [{"name": "it", "type": "image", "source": source, **layer}], "layout": "xy"})

    def place(self, times: Mapping[str, int] | None = None) -> tuple[Any, dict[str, Any]]:
        """Neuroglancer's description of what is shown, and what it means; also of a level of larger voxels."""
        info = self.viewer.volume_info("it").result(WAIT)
        if times is not None:
            sizes = zip(info.dimensions.names, info.dimensions.scales, strict=True)
            larger = type(info.dimensions)(
                names=info.dimensions.names, units=info.dimensions.units, scales=[n * times.get(d, 1) for d, n in sizes]
            )
            info = self.viewer.volume_info("it", dimensions=larger).result(WAIT)
        axes = [name.strip("'^") for name in info.dimensions.names]
        told: dict[str, Any] = {}
        for kind, values in (("voxel_size", info.dimensions.scales), ("offset", info.lower_bound)):
            told[kind] = {d: float(n) for d, n in zip(axes, values, strict=True) if d in "zyx"}
        if all(unit == "m" for d, unit in zip(axes, info.dimensions.units, strict=True) if d in "zyx"):
            told["voxel_size"] = {d: n * 1e9 for d, n in told["voxel_size"].items()}
        else:
            del told["voxel_size"]
        return info, told

    def image(self, path: Path, format: str, times: Mapping[str, int] | None = None) -> dict[str, Any]:
        """All voxels of an image, and its place; of the level whose voxels are so many times larger, if asked."""
        self.show(path, format)
        info, told = self.place(times)
        low, high, chunk = (np.asarray(n) for n in (info.lower_bound, info.upper_bound, info.chunk_shape))
        values = np.zeros(high - low, info.data_type)
        for cell in itertools.product(*(range(int(n)) for n in -(-(high - low) // chunk))):
            # Not by viewer.volume(): of precomputed volumes it counts the offset twice (2.41).
            part = self.viewer._volume_chunk("it", info, list(cell)).result(WAIT)
            box = tuple(slice(k * int(n), k * int(n) + m) for k, n, m in zip(cell, chunk, part.shape, strict=True))
            part = part[tuple(slice(0, s) for s in values[box].shape)]
            values[box] = part
        axes = [name.strip("'^") for name in info.dimensions.names]
        values = values.transpose([axes.index(d) for d in "czyx" if d in axes])
        if format in ("zarr2", "zarr3", "n5"):
            del told["offset"]  # it knows no words for it there, and says 0
        return {"values": values[0] if values.shape[0] == 1 and values.ndim == 4 else values, **told}

    def labels(self, path: Path, format: str, labels: Array) -> dict[str, Any]:
        """The labels in all sections, by the colours they are drawn in, and the volume's place.

        ``labels`` are all that may be there.
        """
        from PIL import Image

        ids = [int(label) for label in labels if label]
        colours = {label: ((k * 67 + 40) % 200 + 56, (k * 41) % 256, (k * 97) % 256) for k, label in enumerate(ids)}
        shown = {str(label): "#{:02x}{:02x}{:02x}".format(*colour) for label, colour in colours.items()}
        self.show(
            path, format, type="segmentation", segments=list(shown), segmentColors=shown, selectedAlpha=1,
            notSelectedAlpha=0,
        )  # fmt: skip
        info, told = self.place()
        axes = [name.strip("'^") for name in info.dimensions.names]
        low = {d: int(n) for d, n in zip(axes, info.lower_bound, strict=True)}
        n = {d: int(h) - low[d] for d, h in zip(axes, info.upper_bound, strict=True)}
        size = told["voxel_size"]
        values = np.zeros((n["z"], n["y"], n["x"]), info.data_type)
        middle = {d: low[d] + n[d] / 2 for d in "yx"}
        for z in range(n["z"]):
            at = {"x": middle["x"], "y": middle["y"], "z": low["z"] + z + 0.5}
            state = self.viewer.state.to_json() | {
                "dimensions": info.dimensions.to_json(), "position": [at[d] for d in axes],
                "crossSectionScale": size["x"] / min(size.values()) / ZOOM, "crossSectionBackgroundColor": "#000000",
                "showAxisLines": False, "showScaleBar": False, "showDefaultAnnotations": False,
            }  # fmt: skip
            self.viewer.set_state(state)
            pixels = np.asarray(Image.open(io.BytesIO(self._picture())).convert("RGB")).astype(int)
            row = PIXELS[1] / 2 + (np.arange(n["y"]) + 0.5 - n["y"] / 2) * ZOOM * size["y"] / size["x"]
            column = PIXELS[0] / 2 + (np.arange(n["x"]) + 0.5 - n["x"] / 2) * ZOOM
            seen = pixels[row.astype(int)[:, None], column.astype(int)]
            for label, colour in colours.items():
                values[z][(np.abs(seen - colour) <= 2).all(-1)] = label
        return {"values": values, **told}

    def _picture(self) -> bytes:
        """Two in a row are the same: the first may be taken before the page knows its size, or what it is to load."""
        before = b""
        while True:
            reply = self.viewer.screenshot(size=list(PIXELS)).screenshot
            now = bytes(reply.image)
            if now == before and (reply.width, reply.height) == PIXELS:
                return now
            before = now


@contextmanager
def page() -> Iterator[Page]:
    """A browser with an empty page, until the end of the block.

    Raises
    ------
    MissingExtra
        There is no browser, or neuroglancer is absent.
    """
    program, stores = browser.found(None), Stores()
    server = started("127.0.0.1", 0, stores)
    try:
        made = viewer(server)
        with made.config_state.txn() as settings:
            settings.show_ui_controls = settings.show_panel_borders = False
            settings.viewer_size = PIXELS
        with browser.running(program, f"{server.server_url}/v/{made.token}/", PIXELS):
            yield Page(server, made, stores)
    finally:
        server.stop()
