"""Blocks that are quicker than a task is worth run several to a task, and nothing else changes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from distributed import Client

import chunkinfer as ci
from chunkinfer.errors import RunError
from chunkinfer.runs.record.ledger import Ledger
from chunkinfer.runs.schedule import runner
from chunkinfer.runs.schedule.batches import Block, Windows
from chunkinfer.stores.files import Files
from tests.lib.probes import Deadly, Sensitive, Watched, events, failing

Start = Callable[..., Any]


@pytest.fixture
def tasks(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """The blocks of every task that is sent; on a busy machine too, no block is too slow to share one."""
    monkeypatch.setattr(runner, "TASK_SECONDS", 5.0)
    sent: list[list[int]] = []
    submit = Windows.submit

    def spy(self: Windows, blocks: Sequence[Block], in_turn: int = 1) -> Iterator[tuple[Any, list[Block]]]:
        for future, some in submit(self, blocks, in_turn):
            sent.append([block.position for block in some])
            yield future, some

    monkeypatch.setattr(Windows, "submit", spy)
    return sent


def quick(network: Any, volume: np.ndarray) -> Any:
    """A lazy run in blocks of 4 voxels per axis."""
    return ci.infer(volume, network, patch=6, block=4, device="cpu", check=0)


def random(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(1, 200, shape).astype(np.uint8)


@pytest.mark.slow
@pytest.mark.smoke
def test_they_share_tasks(client: Client, tasks: list[list[int]], tmp_path: Path) -> None:
    result = quick(Watched(tmp_path / "log"), random(24, 32, 32))
    report = ci.save(result, tmp_path / "out.zarr", progress=False)
    assert (report.computed, report.retried) == (384, 0)
    assert sorted(i for blocks in tasks for i in blocks) == list(range(384))
    assert max(map(len, tasks)) > 1
    assert len(tasks) < 300
    done = Ledger(Files(str(tmp_path / "out.zarr"))).done(384)
    assert (done.count, len(events(tmp_path / "log"))) == (384, 384)
    assert np.array_equal(ci.open_volume(tmp_path / "out.zarr").values, result.compute(scheduler="threads"))
    assert ci.verify(tmp_path / "out.zarr").ok


@pytest.mark.slow
@pytest.mark.smoke
def test_where_a_gpu_is_declared_they_run_there(gpu_client: Client, tasks: list[list[int]], tmp_path: Path) -> None:
    def gpu(dask_worker: Any) -> tuple[int, bool]:
        import os

        return os.getpid(), "GPU" in dask_worker.state.total_resources

    report = ci.save(quick(Watched(tmp_path / "log"), random(16, 32, 32)), tmp_path / "out.zarr", progress=False)
    assert report.computed == 256
    assert max(map(len, tasks)) > 1
    (expected,) = [pid for pid, declared in gpu_client.run(gpu).values() if declared]
    assert {event.pid for event in events(tmp_path / "log")} == {expected}


def test_one_that_fails_takes_no_others_with_it(client: Client, tasks: list[list[int]], tmp_path: Path) -> None:
    volume = random(16, 32, 32)
    volume[6, 30, 30] = 255  # others come after it, so that it is never alone in the last window
    with (
        failing(tmp_path / "failures", "always") as folder,
        pytest.raises(RunError, match="1 of 256 blocks failed") as caught,
    ):
        ci.save(quick(Sensitive(folder, 1.0), volume), tmp_path / "out.zarr", progress=False)
    assert "[0:1, 4:8, 28:32, 28:32]" in str(caught.value)
    assert any(127 in blocks and len(blocks) > 1 for blocks in tasks)
    assert Ledger(Files(str(tmp_path / "out.zarr"))).done(256).count == 255


@pytest.mark.slow
def test_one_that_kills_its_workers_takes_no_others_with_it(start_cluster: Start, tmp_path: Path) -> None:
    volume = random(16, 32, 32)
    volume[14, 30, 30] = 255
    cluster = start_cluster(nannies=2, config={"DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "0"})
    with cluster.client(2) as client, pytest.raises(RunError, match="1 of 256 blocks failed"):
        ci.save(quick(Deadly(1.0), volume), tmp_path / "out.zarr", client=client, progress=False)
    assert Ledger(Files(str(tmp_path / "out.zarr"))).done(256).count == 255
    cluster.close()
