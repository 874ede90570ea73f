"""The page about segmentation runs."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from click.testing import CliRunner
from scipy import ndimage

import chunkinfer as ci
from chunkinfer.tools.cli import main
from chunkinfer.tools.pipelines.pipeline import Pipeline

PAGE = Path(__file__).parents[3] / "docs" / "segmentation.md"


@pytest.fixture
def affinities(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    noise = ndimage.gaussian_filter(np.random.default_rng(0).random((3, 24, 24, 24)), (0, 2, 2, 2))
    array = ((noise - noise.min()) / (noise.max() - noise.min())).astype("f4")
    ci.save(xr.DataArray(array, dims=("c", "z", "y", "x")), tmp_path / "affinities.zarr", progress=False)
    monkeypatch.chdir(tmp_path)
    return array


@pytest.mark.slow
@pytest.mark.smoke
def test_the_code_of_the_page_runs(affinities: np.ndarray) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    names: dict[str, object] = {}
    exec(block, names)
    found = ci.segment(affinities, progress=False)
    assert np.array_equal(ci.open_volume("objects.precomputed").values, found.labels.values)
    assert np.array_equal(ci.open_volume("finer.precomputed").values, found.at(0.7).labels.values)


@pytest.mark.slow
@pytest.mark.smoke
def test_the_command_and_the_step_give_the_same(affinities: np.ndarray) -> None:
    words = ["segment", "affinities.zarr", "a.precomputed", "--agglomerate", "0.5", "--pyramid", "--merge-size", "20"]
    result = CliRunner().invoke(main, words, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert "objects" in result.output
    again = CliRunner().invoke(main, words, catch_exceptions=False)
    assert "0 computed" in again.output
    chain = [
        "open",
        "affinities.zarr",
        "segment",
        "--agglomerate",
        "0.5",
        "--merge-size",
        "20",
        "save",
        "b.precomputed",
    ]
    pipeline = Pipeline.from_words(chain)
    assert "objects: found by passes over the volume" in pipeline.plan()
    assert not Path("b.precomputed").exists()
    pipeline.run(progress=False)
    expected = ci.segment(affinities, agglomerate=0.5, merge_size=20, progress=False).labels.values
    for name in ("a", "b"):
        stored = ci.open_volume(f"{name}.precomputed")
        assert np.array_equal(stored.values, expected)
        assert stored.attrs["type"] == "segmentation"
    assert Pipeline.from_yaml(pipeline.to_yaml()) == pipeline


def test_components_as_a_step(affinities: np.ndarray) -> None:
    mask = affinities[0] > 0.5
    ci.save(mask.astype("u1"), "mask.zarr", progress=False)
    chain = ["open", "mask.zarr", "components", "--connectivity", "26", "--consecutive", "save", "parts.zarr"]
    Pipeline.from_words(chain).run(progress=False)
    expected, _ = ndimage.label(mask, np.ones((3, 3, 3)))
    assert np.array_equal(ci.open_volume("parts.zarr").values, expected)
