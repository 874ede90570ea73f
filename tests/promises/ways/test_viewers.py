"""Ways out of errors about views and pictures."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import chunkinfer as ci
from chunkinfer.api.tiling_error.curves import Point, pareto
from chunkinfer.errors import ChunkinferError
from chunkinfer.tools.viewers.plots import side_by_side
from tests.lib.ways.advice import followed
from tests.lib.ways.rows import LABELS, NAMES, VOLUME, save

pytestmark = pytest.mark.slow


def seen(*args: Any, **given: Any) -> str:
    """A view that is closed at once."""
    with ci.view(*args, **given) as shown:
        return shown.url


def ways(says: str, lines: int, call: Callable[..., Any], names: dict[str, Any] | None = None, **given: Any) -> None:
    """The call is refused, and what its error advises works."""
    with pytest.raises(ChunkinferError) as refused:
        call(**given)
    assert says in str(refused.value).replace("\n", " ")
    done = [way for way, _ in followed(refused.value, call, given, {**NAMES, **(names or {})})]
    assert len(done) == lines, (done, refused.value.ways)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save(VOLUME, "em.zarr")
    save(LABELS, "labels.zarr")
    save(VOLUME, "image.ome.zarr", pyramid=2)


def test_lines_about_views() -> None:
    names = {"view": seen, "a": VOLUME, "b": VOLUME}
    ways("There is nothing to show", 2, seen, names)
    ways("is not an option", 2, seen, names, image=VOLUME, reader="socket")
    ways("is none of Neuroglancer's", 2, seen, names, image=VOLUME, layout="5panel")
    ways("is not a place in the volume", 2, seen, names, image=VOLUME, position=(1,))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ways("Nothing can be served", 1, seen, names, image=VOLUME, port=taken.getsockname()[1])
    ways("Nothing can be served", 1, seen, names, image=VOLUME, host="192.0.2.1")


def test_lines_about_screenshots() -> None:
    with ci.view(VOLUME) as shown:
        ways("A screenshot needs", 0, shown.screenshot, browser="no-such-browser")

        def drawn(timeout: float = 5, browser: str = "/bin/false") -> Any:
            """By a program that ends at once; whoever waits longer has a browser."""
            return shown.screenshot(browser=browser, timeout=timeout) if timeout < 9 else timeout

        ways("The browser false", 1, drawn)


def test_lines_about_pictures() -> None:
    names = {"url": "image.ome.zarr", "pareto": pareto, "Point": Point, "path": "p.png", "side_by_side": side_by_side}
    ways("was asked of a volume that is no URL", 2, ci.show, names, volume=VOLUME, level=1)
    ways("does not end in .png", 0, ci.show, names, volume=VOLUME, out="em.jpg")
    about = {"path": "p.png", "cost": "time", "error": "rmse"}
    point = Point(1.0, 1e-3, "halo", "halo 8")
    ways("and a floor of 0", 2, pareto, names, points=[point], floor=0, **about)
    ways("There are 0 points", 1, pareto, names, points=[], **about)
    ways("has the cost", 1, pareto, names, points=[Point(1.0, -1.0, "halo", "halo 8")], **about)
    image, output = VOLUME.values, np.stack([VOLUME.values] * 3)
    names |= {"image": image, "output": output}
    ways("The output has shape", 1, side_by_side, names, image=image, output=output[:, 1:], path="p.png")
