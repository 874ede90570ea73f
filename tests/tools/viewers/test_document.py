"""The page about looking at volumes runs."""

import re
from pathlib import Path

import numpy as np
import pytest

from chunkinfer.errors import MissingExtra
from chunkinfer.tools.viewers import browser

pytest.importorskip("neuroglancer", reason="the extra view is not installed")
pytest.importorskip("matplotlib")

BLOCKS = re.findall(r"```python\n(.*?)```", (Path(__file__).parents[3] / "docs" / "viewing.md").read_text(), re.DOTALL)


@pytest.fixture
def files(stored, tmp_path, monkeypatch):
    image = np.random.default_rng(0).integers(0, 255, (24, 40, 40), np.uint8)
    for name, array in (("em", image), ("affinities", np.stack([image] * 3)), ("labels", image.astype("uint32"))):
        stored(f"{name}.zarr", array)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_blocks_without_a_browser_run(files):
    names = {}
    for block in BLOCKS:
        if "screenshot" not in block:
            exec(block, names)
    assert len(BLOCKS) == 3
    assert sorted(p.name for p in files.glob("*.png")) == ["aff.png", "em.png", "levels.png"]


@pytest.mark.slow
def test_the_screenshot_is_taken(files):
    try:
        browser.found(None)
    except MissingExtra as problem:
        pytest.skip(str(problem))
    exec("import chunkinfer as ci\n" + BLOCKS[1])
    assert (files / "view.png").stat().st_size > 10_000
