"""Ways out of errors about chains of steps: commands to run, words to add, and files."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from chunkinfer.errors import ChunkinferError
from chunkinfer.tools.pipelines.files import read_file
from chunkinfer.tools.pipelines.pipeline import Pipeline
from tests.lib.ways.advice import followed
from tests.lib.ways.commands import commanded
from tests.lib.ways.rows import VOLUME, save

pytestmark = pytest.mark.slow


def chain(words: str, *plugins: str) -> Pipeline:
    return Pipeline.from_words(shlex.split(words), plugins)


def advised(call: Callable[..., Any], says: str) -> tuple[ChunkinferError, list[str]]:
    """The error of a call, and the commands among its ways, which have run; none of its lines is Python."""
    with pytest.raises(ChunkinferError) as refused:
        call()
    assert says in str(refused.value).replace("\n", " ")
    assert all(way.startswith("steps: [{") for way, _ in followed(refused.value, call, {}, {}))
    return refused.value, commanded(refused.value)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save(VOLUME, "em.zarr")


def only(error: ChunkinferError, begins: str) -> str:
    """What follows these words in one of the ways."""
    (line,) = [way.partition(begins)[2] for way in error.ways if begins in way]
    return line


@pytest.mark.parametrize(
    ("words", "says", "commands"),
    [
        ("open em.zarr gaussian wide save out.zarr", "gaussian: sigma is", 0),
        ("open em.zarr gaussian 1 --sigmas 2 save out.zarr", "gaussian takes no 'sigmas'", 1),
        ("open em.zarr gaussian 1 --unit", "Nothing follows", 1),
        ("open em.zarr gauss 1 save out.zarr", "no such operator: gauss", 1),
        ("open em.zarr gaussian save out.zarr", "gaussian", 0),
        ("open em.zarr gaussian", "gaussian needs sigma", 0),
        ("open em.zarr show --out picture.jpg", "does not end in .png", 0),
    ],
)
def test_words_that_are_refused(words: str, says: str, commands: int) -> None:
    _, ran = advised(lambda: chain(words).plan(), says)
    assert len(ran) == commands


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("gaussian 1 save out.zarr", "The pipeline begins with gaussian"),
        ("open em.zarr gaussian 1 --from raw save out.zarr", "no earlier step has that name"),
        ("open em.zarr save out.zarr --as stored", "only passes its volume on"),
        ("open em.zarr --as a gaussian 1 --as a save out.zarr", "Two steps are called a"),
    ],
)
def test_links_that_are_refused(words: str, says: str) -> None:
    advised(lambda: chain(words), says)


def test_chains_that_are_advised() -> None:
    error, _ = advised(lambda: Pipeline(()), "has no steps")
    chain(error.ways[0]).run(progress=False)
    error, _ = advised(lambda: chain("gaussian 1"), "begins with gaussian")
    assert chain(error.ways[0].replace("...", "1"))
    error, _ = advised(lambda: chain("open em.zarr gaussian 1 --from raw"), "no earlier step")
    assert chain(f"{only(error, ': ')} gaussian 1 --from raw")
    error, _ = advised(lambda: chain("open em.zarr --as a gaussian 1 --as a"), "Two steps")
    assert chain(f"open em.zarr --as a gaussian 1 {error.ways[0]}")
    error, _ = advised(lambda: chain("open em.zarr gaussian 1").run(), "saves nothing")
    chain(f"open em.zarr gaussian 1 {only(error, 'a last step: ')}").run(progress=False)
    error, _ = advised(lambda: chain("open em.zarr").with_outputs(["a.zarr"]), "saves 0 volumes")
    assert chain(f"open em.zarr {only(error, 'a step: ')}").with_outputs(["a.zarr"])
    error, _ = advised(lambda: chain("open em.zarr save a.zarr save b.zarr").with_outputs(["c.zarr"]), "saves 2")
    assert error.ways == ("--output a.zarr --output b.zarr",)


def test_a_plugin_that_would_hide_a_step(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    Path("mine.py").write_text("def gaussian(voxels):\n    return voxels\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    error, _ = advised(lambda: chain("open em.zarr gaussian", "mine:gaussian"), "would hide")
    chain(f"open em.zarr {only(error, 'its own: ')} save out.zarr").run(progress=False)
    sys.modules.pop("mine", None)


def test_files_that_are_advised(capsys: pytest.CaptureFixture[str]) -> None:
    error, _ = advised(lambda: read_file("pipeline.yaml"), "There is no pipeline file")
    Path("pipeline.yaml").write_text(chain("open em.zarr save out.zarr").to_yaml())
    assert read_file("pipeline.yaml")
    error, _ = advised(lambda: Pipeline.from_yaml("[1, 2]"), "no list of steps")
    assert isinstance(yaml.safe_load(error.ways[0]), dict)
    assert len(Pipeline.from_yaml(error.ways[0]).steps) == 3
    code = chain("open em.zarr apply numpy:negative save out.zarr").to_yaml()
    Path("pipeline.yaml").write_text(code)
    _, ran = advised(lambda: Pipeline.from_yaml(code), "names the function numpy:negative")
    assert ran == ["run pipeline.yaml --trust"]
    assert Path("out.zarr").exists()
