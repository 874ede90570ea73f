"""Workers of a local cluster that die come back, however often they do."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import cloudpickle
import dask
import dask.array as da
import numpy as np
import pytest
import zarr
from distributed import Client

import chunkinfer as ci
from chunkinfer.runs.events import WORKER_LOST, Event
from chunkinfer.volumes.arrays import layout
from tests.lib.clusters import PATIENCE, modules

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers do not see this file

KILLING = 60.0
"""Seconds for which workers are killed: with dask's own cluster all were gone after that."""


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Two workers, each a process."""
    monkeypatch.setenv("PYTHONPATH", modules())
    with (
        dask.config.set({"distributed.deploy.lost-worker-timeout": "100 ms"}),
        ci.clusters.local(2, cores=1, slots=1, memory="1 GiB") as found,
    ):
        yield found


def until(condition: Callable[[], bool]) -> None:
    limit = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < limit, "it never came to pass"
        time.sleep(0.1)


def pids(cluster: Any) -> list[int]:
    """Processes of workers that are there, starting ones too."""
    processes = [nanny.process and nanny.process.process for nanny in list(cluster.workers.values())]
    return [process.pid for process in processes if process and process.pid]


@pytest.mark.slow
def test_a_nanny_that_gave_up_is_replaced_and_one_that_is_late_is_not(cluster: Any) -> None:
    first, second = cluster.workers.values()
    with Client(cluster) as client:
        os.kill(second.process.process.pid, signal.SIGKILL)  # dask would close its nanny after 100 ms
        cluster.loop.add_callback(first.close)
        until(lambda: first not in cluster.workers.values() and len(cluster.workers) == 2)
        until(lambda: len(client.scheduler_info()["workers"]) == 2)
        assert second in cluster.workers.values()
        cluster.scale(1)
        until(lambda: len(cluster.workers) == 1)
        time.sleep(6)  # longer than between two looks
        assert len(cluster.workers) == 1, "what was scaled down came back"


def doubled_slowly(block: Any) -> Any:
    time.sleep(0.3)
    return 2 * block


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_run_outlives_workers_that_are_killed_every_few_seconds(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of something light: where a worker that came back lives too short to open a network, no block is ever done."""
    monkeypatch.setattr(layout, "COPY_BYTES", 16**3)
    values = np.random.default_rng(0).integers(1, 100, (96, 96, 96)).astype(np.uint8)
    zarr.create_array(tmp_path / "volume.zarr", data=values, chunks=(16, 16, 16), dimension_names=["z", "y", "x"])
    volume = da.map_blocks(doubled_slowly, ci.open_volume(tmp_path / "volume.zarr").data, dtype=np.uint8)
    rng, kills = random.Random(0), 0
    with Client(cluster, set_as_default=False) as client, ThreadPoolExecutor(1) as pool:
        running = pool.submit(
            ci.save, volume, tmp_path / "out.zarr", chunks=(16, 16, 16), client=client, progress=False
        )
        end = time.monotonic() + KILLING
        while time.monotonic() < end and not running.done():
            time.sleep(rng.uniform(2, 5))
            for pid in rng.sample(found, 1) if (found := pids(cluster)) else ():
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                    kills += 1
        report = running.result(200)
    assert kills >= 8
    assert (report.computed, report.failed) == (report.blocks, [])
    assert np.array_equal(ci.open_volume(tmp_path / "out.zarr").values, 2 * values)


@pytest.mark.slow
def test_a_worker_that_dask_ended_for_its_memory_is_told_so(
    cluster: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Once: the second try finds a file, and takes less."""
    flag, told = tmp_path / "tried", list[Event]()

    def greedy(block: Any) -> Any:
        if not flag.exists():
            flag.touch()
            held = np.ones(1100 << 20, np.uint8)
            time.sleep(60)
            return block + held[0]
        return 2 * block

    array = da.map_blocks(
        greedy, da.ones((8, 8, 8), dtype=np.uint8), dtype=np.uint8, meta=np.empty((0, 0, 0), np.uint8)
    )
    with Client(cluster, set_as_default=False) as client:
        ci.save(array, tmp_path / "out.zarr", client=client, progress=False, events=[told.append])
    whys = [event.facts["why"] for event in told if event.kind == WORKER_LOST]
    assert any(why.startswith("dask ended it because it used") and why.endswith(" of 1.00 GiB") for why in whys), whys
    assert "dask ended it because it used" in caplog.text
    assert (ci.open_volume(tmp_path / "out.zarr").values == 2).all()
