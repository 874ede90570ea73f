"""Where kernels run, and how many at a time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pytest
from distributed import Client

import chunkinfer as ci
from chunkinfer.blockwise import placement
from probes import Watched, events, most_at_once

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


def test_workers_are_seen_while_dask_asks_for_something_else() -> None:
    """dask's own question, without workers, overwrites what the client keeps: a run would wait for a worker."""
    with (
        dask.config.set({"distributed.client.scheduler-info-interval": "1ms"}),
        Client(processes=False, n_workers=1, dashboard_address="127.0.0.1:0", set_as_default=False) as client,
    ):
        assert all(len(placement.workers_of(client)) == 1 for _ in range(300))
