"""Ways out of errors in blocks, of leases, and of clusters that lose workers or the scheduler."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dask
import numpy as np
import pytest
from dask import array as da
from distributed import Client, LocalCluster
from distributed.scheduler import KilledWorker

import chunkinfer as ci
import chunkinfer.runs.session
from chunkinfer.errors import ChunkinferError
from chunkinfer.networks.model import Model, open_model
from chunkinfer.runs.events import BLOCK_DONE, Events
from chunkinfer.runs.record.lease import Lease
from chunkinfer.runs.schedule import runner, workers
from chunkinfer.stores.files import LEASE, Files
from tests.lib.ways.advice import followed
from tests.lib.ways.commands import commanded
from tests.lib.ways.rows import NAMES, NET, VOLUME, VOXELS, Row, computed, each, infer, refusals, row, save

pytestmark = pytest.mark.slow

LAZY = da.from_array(VOXELS, chunks=(1, 3, 3))
LONG = da.from_array(np.tile(VOXELS, (3, 2, 2)), chunks=(1, 3, 3))
GROWN = LAZY.map_blocks(lambda block: np.repeat(block, 2, 0), dtype="f4")


class Opened:
    """A function that reads further than noise shows: 8 voxels on, where a value is one of a few."""

    __name__ = "opened"

    def __call__(self, x: np.ndarray) -> np.ndarray:
        y = x.copy()
        y[..., 8:] += np.abs(x[..., :-8] - np.float32(0.7)) < 1e-5
        return y


BLOCKS = [
    row(
        "times the voxels of the chunks",
        3,
        infer,
        {"volume": LONG},
        volume=LONG - LONG.mean(),
        model=NET,
        patch=4,
        block=2,
        exchange=False,
    ),
    row("of the volume declares the shape", 1, infer, volume=GROWN, model=NET, exchange=False),
    row("is not a time", 2, save, {"array": VOLUME, "dask": dask}, array=VOLUME, url="a.zarr", worker_timeout="soon"),
]


@pytest.mark.parametrize("row", each({"blocks": BLOCKS}))
def test_lines_about_blocks(row: Row, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with dask.config.set({"chunkinfer.run.worker-timeout": None}):
        refusals(row, tmp_path, monkeypatch)


def test_lines_of_a_check_that_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = open_model(Opened())
    honest = opened.trace(1, 2)
    blind = replace(honest, axes=tuple(replace(a, low=0, high=0) for a in honest.axes), reasons=())
    volume = np.random.default_rng(0).choice(np.array([0.2, 0.7], "f4"), (64, 64))
    with monkeypatch.context() as patch:
        patch.setattr(Model, "trace", lambda *_, **__: blind)
        with pytest.raises(ChunkinferError, match="own check failed") as refused:
            ci.infer(volume, opened, patch=(64, 16)).compute()
    names = {**NAMES, "volume": volume, "model": Opened(), "ci": ci}
    done = [computed(found) is not None for _, found in followed(refused.value, infer, {}, names)]
    assert len(done) == 3


def test_lines_about_leases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save(VOLUME, "out.zarr")
    files, theirs = Files(str(tmp_path / "out.zarr")), b'{"run": "another", "every": 0.2, "beat": 1}'
    with (
        Lease(files, every=0.1),
        pytest.raises(ChunkinferError, match="being written by another run") as held,
        Lease(Files(files.url), every=0.1),
    ):
        pass
    assert not list(followed(held.value, save, {}, NAMES))
    assert commanded(held.value) == [f"status {files.url}"]
    monkeypatch.setattr(chunkinfer.runs.session, "Lease", partial(Lease, every=0.1))

    def taken(event: Any) -> None:
        if event.kind == BLOCK_DONE and files.read(LEASE) != theirs:
            files.write(LEASE, theirs)
            time.sleep(0.6)

    result = ci.infer(VOLUME, NET, patch=6, block=4)
    with pytest.raises(ChunkinferError, match="lost its lease") as lost:
        save(result, "out.zarr", overwrite=True, events=[taken])
    assert not list(followed(lost.value, save, {}, NAMES))
    files.delete(LEASE)
    assert commanded(lost.value) == [f"status {files.url}"]


def test_lines_where_nobody_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    nobody = LocalCluster(n_workers=0, processes=False, dashboard_address=None)
    with nobody, Client(nobody) as client, pytest.raises(ChunkinferError, match="without worker") as paused:
        save(VOLUME, "a.zarr", worker_timeout=0.3, client=client)
    assert not list(followed(paused.value, save, {}, NAMES))
    unfit = LocalCluster(n_workers=1, processes=False, protocol="tcp", dashboard_address=None)
    monkeypatch.setattr(
        workers, "_versions", lambda client, some: dict.fromkeys(some, ImportError("No module named 'chunkinfer'"))
    )
    with unfit, Client(unfit) as client, pytest.raises(ChunkinferError, match="can run a block") as refused:
        save(VOLUME, "b.zarr", client=client)
    assert not list(followed(refused.value, save, {}, NAMES))


def test_lines_of_workers_that_died_and_of_a_scheduler_that_is_gone() -> None:
    """What the runner makes of dask's answers; real crashes are in the tests of distributed runs."""
    made = runner._Run.__new__(runner._Run)
    made.events, made.again, made.suspects = Events([]), deque(), deque()
    made.windows = SimpleNamespace(given_up=9)  # type: ignore[assignment]
    made.workers = SimpleNamespace(ended="")  # type: ignore[assignment]
    made.client = SimpleNamespace(status="closed")
    block = runner.Block(0, 0, 0, runner.DEATHS - 1)
    died = KilledWorker("block", SimpleNamespace(address="tcp://1.2.3.4:5"), 3)  # type: ignore[arg-type]
    (outcome,) = made._failed([block], died, "block")
    assert isinstance(outcome.error, ChunkinferError)
    assert "The workers that ran this block died" in str(outcome.error)
    assert not list(followed(outcome.error, save, {}, NAMES))
    with pytest.raises(ChunkinferError, match="The scheduler is gone") as gone:
        made._look()
    assert not list(followed(gone.value, save, {}, NAMES))
