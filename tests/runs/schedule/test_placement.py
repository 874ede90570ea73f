"""Where kernels run, and how many at a time."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pytest
from distributed import Client

import chunkinfer as ci
from chunkinfer.runs.pyramids import planning as levels
from chunkinfer.runs.schedule import placement, runner
from chunkinfer.volumes.arrays import layout
from tests.lib.probes import Watched, events, most_at_once

Stored = Callable[..., str]


def pids(client: Client) -> dict[int, dict[str, float]]:
    """The process of each worker, and what it declares."""

    def look(dask_worker: Any) -> tuple[int, dict[str, float]]:
        import os

        return os.getpid(), dict(dask_worker.state.total_resources)

    return dict(client.run(look).values())


@pytest.mark.slow
@pytest.mark.smoke
@pytest.mark.parametrize("exchange", [False, True], ids=["reading", "exchanging"])
def test_kernels_run_one_at_a_time_where_a_gpu_is_declared(
    gpu_client: Client, stored: Stored, tmp_path: Path, exchange: bool
) -> None:
    log = tmp_path / "log"
    volume = ci.open_volume(stored(48, 32, 64))
    result = ci.infer(volume, Watched(log, seconds=0.03), patch=18, block=16, exchange=exchange)
    report = ci.save(result, tmp_path / "out.zarr", progress=False)
    ran = events(log)
    assert len(ran) == report.blocks == 24
    (gpu,) = [pid for pid, declared in pids(gpu_client).items() if declared.get("GPU")]
    assert {event.pid for event in ran} == {gpu}
    assert most_at_once(ran) == 1
    assert report.stages["wait"] > 0.3 * report.stages["compute"], "only one block was in flight at a time"


@pytest.mark.slow
def test_a_plain_compute_works_there_too(gpu_client: Client, stored: Stored, tmp_path: Path) -> None:
    """It promises no placement, but a process that declares one GPU still runs one kernel at a time."""
    log = tmp_path / "log"
    result = ci.infer(ci.open_volume(stored(64, 48, 32)), Watched(log, seconds=0.03), patch=18, block=16)
    values = result.compute().values
    by_process = {pid: [e for e in events(log) if e.pid == pid] for pid in pids(gpu_client)}
    assert sum(map(len, by_process.values())) == 24
    (gpu,) = [pid for pid, declared in pids(gpu_client).items() if declared.get("GPU")]
    assert most_at_once(by_process[gpu]) <= 1
    assert np.array_equal(result.compute(scheduler="synchronous").values, values)


def test_without_a_declared_gpu_every_worker_helps(client: Client, stored: Stored, tmp_path: Path) -> None:
    log = tmp_path / "log"
    result = ci.infer(ci.open_volume(stored(64, 48, 32)), Watched(log, seconds=0.05), patch=18, block=16)
    ci.save(result, tmp_path / "out.zarr", progress=False)
    ran = events(log)
    assert len(ran) == 24
    assert {event.pid for event in ran} == set(pids(client))
    assert most_at_once(ran) >= 2


@pytest.fixture
def counted(gpu_client: Client) -> Callable[[], dict[bool, int]]:
    """Blocks that workers have stored in this test, by whether they declare a GPU."""

    def begin(dask_worker: Any) -> None:
        from distributed.diagnostics.plugin import WorkerPlugin

        class Counting(WorkerPlugin):
            name = "counting"
            stored = 0

            def transition(self, key: Any, start: str, finish: str, **options: Any) -> None:
                self.stored += finish == "memory" and isinstance(key, tuple) and start == "executing"

        dask_worker.plugins.pop("counting", None)
        dask_worker.plugins["counting"] = Counting()

    def look(dask_worker: Any) -> tuple[bool, int]:
        return bool(dask_worker.state.total_resources.get("GPU")), dask_worker.plugins["counting"].stored

    gpu_client.run(begin)
    return lambda: dict(gpu_client.run(look).values())


@pytest.mark.slow
@pytest.mark.smoke
def test_what_needs_no_device_runs_on_every_worker(
    gpu_client: Client, counted: Callable[[], dict[bool, int]], stored: Stored, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """A copy, the levels of a pyramid and a pass of tables, on a worker with a GPU beside one without."""
    monkeypatch.setattr(runner, "TASK_SECONDS", 0.0)  # no block is so quick that it shares a task
    monkeypatch.setattr(layout, "COPY_BYTES", 16**3)
    monkeypatch.setattr(levels, "BLOCK_BYTES", 32**3)
    volume = ci.open_volume(stored(64, 64, 64))
    output = tmp_path / "out.ome.zarr"
    # Blocks that take a while, or the worker that is asked first may have done them all.
    slowly = ci.operators.apply(volume, lambda block: (time.sleep(0.1), block)[1])
    ci.save(slowly, output, chunks=(16, 16, 16), progress=False, client=gpu_client)
    copied = counted()
    assert sum(copied.values()) == 32
    assert min(copied.values()) >= 8, copied
    ci.pyramid(output, levels=1, progress=False, client=gpu_client)
    made = {gpu: n - copied[gpu] for gpu, n in counted().items()}
    assert min(made.values()) > 0, made
    before = counted()
    ci.statistics(ci.operators.cast(volume, "uint32"), block=16, progress=False, client=gpu_client)
    measured = {gpu: n - before[gpu] for gpu, n in counted().items()}
    assert min(measured.values()) > 0, measured
    assert np.array_equal(ci.open_volume(output).values, volume.values)


@pytest.mark.slow
@pytest.mark.parametrize("exchange", [False, True], ids=["reading", "exchanging"])
def test_a_chain_with_a_network_runs_where_the_gpu_is(
    gpu_client: Client, counted: Callable[[], dict[bool, int]], stored: Stored, tmp_path: Path, exchange: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """What is computed of a network's values is fused with it: a task for each block, and none elsewhere."""
    monkeypatch.setattr(runner, "TASK_SECONDS", 0.0)
    volume = ci.open_volume(stored(48, 32, 64))
    log = tmp_path / "log"
    result = ci.infer(volume, Watched(log), patch=18, block=16, exchange=exchange) * 2 + 1
    report = ci.save(result, tmp_path / "out.zarr", progress=False)
    (gpu,) = [pid for pid, declared in pids(gpu_client).items() if declared.get("GPU")]
    assert {event.pid for event in events(log)} == {gpu}
    if not exchange:
        assert counted() == {True: report.blocks, False: 0}
    assert np.array_equal(ci.open_volume(tmp_path / "out.zarr").values, result.compute(scheduler="synchronous").values)


def test_workers_are_seen_while_dask_asks_for_something_else() -> None:
    """dask's own question, without workers, overwrites what the client keeps: a run would wait for a worker."""
    with (
        dask.config.set({"distributed.client.scheduler-info-interval": "1ms"}),
        Client(processes=False, n_workers=1, dashboard_address="127.0.0.1:0", set_as_default=False) as client,
    ):
        assert all(len(placement.workers_of(client)) == 1 for _ in range(300))
