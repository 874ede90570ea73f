"""Ways out of errors about outputs: what is there already, levels, tables, runs that ended early, and their logs."""

from __future__ import annotations

import shutil
import signal
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dask import array as da
from torch import nn

import chunkinfer as ci
from chunkinfer.errors import ChunkinferError, RunError, RunPaused, SettingsDiffer
from chunkinfer.runs import passes
from chunkinfer.runs.events import BLOCK_DONE
from chunkinfer.runs.exporters.jsonlines import JsonLines, read_events
from chunkinfer.runs.exporters.prometheus import Metrics
from chunkinfer.volumes.arrays.erase import PLAN
from tests.lib.differing import Called
from tests.lib.ways.advice import followed
from tests.lib.ways.commands import commanded
from tests.lib.ways.rows import LABELS, NAMES, QUIET, VOLUME, VOXELS, Row, each, infer, refusals, row, save


def twice(array: Any, url: str, **given: Any) -> Any:
    """After another run wrote there."""
    if not Path(url).exists():
        save(VOLUME * 2, url)
    return save(array, url, **given)


pytestmark = pytest.mark.slow

IMAGE = "image.ome.zarr"


def image(url: str = IMAGE, *, pyramid: int = 2) -> Path:
    """A stored volume, with coarser levels or without."""
    save(VOLUME, url, pyramid=pyramid, overwrite=True)
    return Path(url)


def changed(change: Callable[[Path], Any], **first: Any) -> Callable[..., Any]:
    """The pyramid of an image to which something was done."""

    def made(**given: Any) -> Any:
        change(image())
        return ci.pyramid(IMAGE, **QUIET, **(given or first))

    return made


def by_others(place: Path) -> None:
    shutil.rmtree(place / ".chunkinfer")


def damaged(place: Path) -> None:
    (place / ".chunkinfer" / PLAN).write_text("{")


def replaced(place: Path) -> None:
    save(VOLUME[:, :6], "other.ome.zarr", overwrite=True)
    shutil.rmtree(place / "0")
    shutil.copytree("other.ome.zarr/0", place / "0")


def fails(voxels: Any) -> Any:
    """Where a file says so."""
    if voxels.size and Path("broken").exists():
        raise ZeroDivisionError
    return voxels


BLOCKS = da.from_array(VOXELS, chunks=(4, 12, 12))


def unfinished(url: str, **given: Any) -> da.Array:
    """A run one of whose blocks failed; the same call finishes it."""
    array = da.map_blocks(fails, BLOCKS, dtype="f4", name="fails")
    Path("broken").touch()
    with pytest.raises(RunError):
        save(array, url, chunks=(4, 12, 12), shards=False, **given)
    Path("broken").unlink()
    return array


def objects(url: str = "objects", **given: Any) -> Any:
    return ci.connected_components(VOLUME > 0.5, url, **QUIET, **given)


def other_objects(**given: Any) -> Any:
    """Where those of another volume are."""
    if not given:
        ci.connected_components(VOLUME > 0.9, "objects", **QUIET)
    return objects(**given)


def without_a_table(**given: Any) -> Any:
    """Numbers of objects, after one of the tables was deleted that they are joined from."""
    if not given:
        ci.statistics(LABELS, url="tables", **QUIET)
        next(Path("tables").glob(".chunkinfer/*-tables/0.npz")).unlink()
    return ci.statistics(LABELS, url="tables", **QUIET, **given)


SAVED = [
    row("is what this run reads", 0, save, array=ci.open_volume, url="em.zarr", overwrite=True),
    row("a run with other settings", 1, twice, {"url": "b.zarr"}, array=VOLUME, url="b.zarr"),
]
LEVELS = [
    row("a pyramid with other settings", 2, changed(lambda _: None, factors=(1, 2, 2))),
    row("coarser levels already", 2, changed(by_others)),
    row("made for another image", 1, changed(replaced)),
    row("is damaged", 1, changed(damaged)),
    row("as large as the one below", 2, lambda **given: ci.pyramid(
        image(pyramid=0), **QUIET, **{"factors": [(1, 1, 2), (1, 1, 2), (1, 1, 3), (1, 1, 2)], **given})),
]  # fmt: skip
PASSES = [
    row("was begun with other settings", 1, other_objects),
    row("is gone", 1, without_a_table),
]


@pytest.mark.parametrize("row", each({"saved": SAVED, "levels": LEVELS, "passes": PASSES}))
def test_lines_about_outputs(row: Row, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save(VOLUME, "em.zarr")
    if row.given.get("array") is ci.open_volume:
        row.given["array"] = ci.open_volume("em.zarr")
    commanded(refusals(row._replace(names={"pyramid": ci.pyramid, **row.names}), tmp_path, monkeypatch))


def test_lines_about_an_unfinished_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    array = unfinished("a.ome.zarr")
    names = {**NAMES, "chunkinfer": ci, "array": array}
    with pytest.raises(ChunkinferError, match="0 of 1 blocks") as refused:
        ci.pyramid("a.ome.zarr", **QUIET)
    assert not list(followed(refused.value, ci.pyramid, {}, names))
    assert commanded(refused.value) == [f"status {tmp_path / 'a.ome.zarr'}"]
    given = {"volume": ci.open_volume("a.ome.zarr") > 0.5, **QUIET}
    with pytest.raises(ChunkinferError, match="is not finished: 0 of 1") as refused:
        ci.connected_components(**given)
    assert len(list(followed(refused.value, ci.connected_components, given, names))) == 3


def test_lines_of_runs_that_failed_or_were_paused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    array = da.map_blocks(fails, BLOCKS, dtype="f4", name="fails")
    Path("broken").touch()
    with pytest.raises(RunError, match="1 of 1 blocks failed") as refused:
        save(array, "a.zarr", chunks=(4, 12, 12), shards=False)
    assert not list(followed(refused.value, save, {}, NAMES))
    assert Path("a.zarr/.chunkinfer/run.json").exists()

    stopped: list[Any] = []

    def stop(event: Any) -> None:
        if event.kind == BLOCK_DONE and not stopped:  # a second one would end this process
            stopped.append(event)
            signal.raise_signal(signal.SIGINT)

    many = ci.infer(np.ones((8, 8, 8), "f4"), nn.Conv3d(1, 1, 1).eval(), patch=2, block=2)
    with pytest.raises(RunPaused, match="Paused: ") as paused:
        save(many, "b.zarr", events=[stop])
    assert not list(followed(paused.value, save, {}, NAMES))
    assert commanded(paused.value) == [f"status {tmp_path / 'b.zarr'}"]


def test_lines_of_a_folder_that_workers_do_not_reach(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, threads: Any
) -> None:
    monkeypatch.setattr(passes, "NEAR", ())
    monkeypatch.chdir(tmp_path)
    given = {"volume": VOLUME > 0.5, "client": threads, **QUIET}
    with pytest.raises(ChunkinferError, match="may be on other machines") as refused:
        ci.connected_components(**given)
    assert len(list(followed(refused.value, ci.connected_components, given, NAMES))) == 1


def test_lines_about_logs_and_metrics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = {**NAMES, "JsonLines": JsonLines, "Metrics": Metrics, "array": VOLUME, "url": "a.zarr", "save": save}
    with pytest.raises(ChunkinferError, match="cannot be written") as refused:
        JsonLines("logs/run.jsonl")
    assert len(list(followed(refused.value, JsonLines, {}, names))) == 1
    with pytest.raises(ChunkinferError, match="cannot be read") as refused:
        list(read_events("log"))
    assert len(list(followed(refused.value, JsonLines, {}, names))) == 1
    assert list(read_events("log"))
    Path("log").write_text("{}\n")
    with pytest.raises(ChunkinferError, match="is no event") as refused:
        list(read_events("log"))
    assert not list(followed(refused.value, JsonLines, {}, names))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        with pytest.raises(ChunkinferError, match="Metrics cannot be shown") as refused:
            Metrics(port=taken.getsockname()[1])
        for _, metrics in followed(refused.value, Metrics, {}, names):
            metrics.close()


def test_lines_about_what_is_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save(VOLUME, "folder/em.zarr")
    with pytest.raises(ChunkinferError, match="No volume is at") as refused:
        ci.delete("folder")
    assert not list(followed(refused.value, ci.delete, {}, NAMES))
    assert len(commanded(refused.value)) == 1


class Locked(Called):
    """A function whose state nobody can look into."""

    def __init__(self) -> None:
        super().__init__(2.0)
        self.lock = threading.Lock()


def test_a_line_for_a_network_that_cannot_be_told(tmp_path: Path) -> None:
    given = {"array": infer(VOLUME, Locked()), "url": str(tmp_path / "out.zarr")}
    save(**given)
    with pytest.raises(SettingsDiffer, match="cannot be told") as caught:
        save(**given)
    names = {**NAMES, **given, "volume": VOLUME, "model": Locked(), "save": save}
    assert len([*followed(caught.value, save, given, names)]) == 1
