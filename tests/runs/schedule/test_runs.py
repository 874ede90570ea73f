"""What a run does when it is paused, when blocks kill their workers, and when the scheduler goes away."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from distributed import Client

import chunkinfer as ci
from chunkinfer.errors import RunError
from chunkinfer.runs.events import BLOCK_DONE, KINDS, RETRY, RUN_ENDED, RUN_STARTED, WINDOW_SENT, WORKER_CAME, Event
from chunkinfer.runs.record.ledger import Ledger
from chunkinfer.stores.files import Files
from tests.lib.clusters import PATIENCE, Cluster, modules
from tests.lib.probes import Deadly, Watched, break_the_driver, convolution, events

Start = Callable[..., Cluster]
Stored = Callable[..., str]

RUN = """
import sys
import chunkinfer as ci
from chunkinfer.errors import RunPaused
from tests.lib.probes import Watched
if __name__ == "__main__":
    volume, output, log = sys.argv[1:]
    try:
        print(ci.save(ci.infer(ci.open_volume(volume), Watched(log, seconds=0.1), patch=18, block=16), output).computed)
    except RunPaused as paused:
        print("paused:", paused.what)
"""


def started(volume: str, output: Path, log: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": modules()}
    command = [sys.executable, "-c", RUN, volume, str(output), str(log)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def until(condition: Callable[[], bool]) -> None:
    limit = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < limit, "it never came to pass"
        time.sleep(0.02)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_pauses(stored: Stored, tmp_path: Path, number: signal.Signals) -> None:
    volume, output, log = stored(64, 48, 32), tmp_path / "out.zarr", tmp_path / "log"
    with started(volume, output, log) as process:
        until(lambda: len(events(log)) >= 3 or process.poll() is not None)
        process.send_signal(number)
        told, said = process.communicate(timeout=PATIENCE)
    assert told.startswith("paused: Paused:"), said
    assert "Pausing" in said
    done = Ledger(Files(str(output))).done(24)
    assert 3 <= done.count < 24
    assert len(events(log)) == done.count, "a block that had begun was not recorded"
    status = ci.status(output)
    assert status.done == done.count
    result = ci.infer(ci.open_volume(volume), Watched(log, seconds=0.1), patch=18, block=16)
    report = ci.save(result, output, progress=False)
    assert (report.computed, report.skipped) == (24 - done.count, done.count)
    assert np.array_equal(ci.open_volume(output).values, result.compute(scheduler="threads").values)


@pytest.mark.slow
def test_the_second_stops_at_once(stored: Stored, tmp_path: Path) -> None:
    volume, output, log = stored(64, 48, 32), tmp_path / "out.zarr", tmp_path / "log"
    with started(volume, output, log) as process:
        until(lambda: Ledger(Files(str(output))).done(24).count >= 1 or process.poll() is not None)
        for _ in range(2):
            process.send_signal(signal.SIGINT)
            time.sleep(0.1)
        _, said = process.communicate(timeout=PATIENCE)
    assert "KeyboardInterrupt" in said
    report = ci.save(
        ci.infer(ci.open_volume(volume), Watched(log, seconds=0.1), patch=18, block=16), output, progress=False
    )
    assert report.computed + report.skipped == 24
    assert report.skipped >= 1


def test_what_happens_is_told(client: Client, stored: Stored, tmp_path: Path) -> None:
    told: list[Event] = []
    result = ci.infer(ci.open_volume(stored(48, 32, 32)), convolution(), patch=18, block=16)
    report = ci.save(result, tmp_path / "out.zarr", progress=False, events=[told.append])
    kinds = [event.kind for event in told]
    assert set(kinds) <= set(KINDS)
    assert (kinds[0], kinds[-1]) == (RUN_STARTED, RUN_ENDED)
    assert kinds.count(WORKER_CAME) == 2
    assert kinds.count(WINDOW_SENT) >= 1
    done = [event.facts for event in told if event.kind == BLOCK_DONE]
    assert sorted(facts["block"] for facts in done) == list(range(12))
    assert sum(facts["voxels"] for facts in done) == report.voxels == 48 * 32 * 32
    assert {facts["engine"] for facts in done} == {"torch"}
    assert all({"read", "compute", "write"} <= facts["seconds"].keys() for facts in done)


@pytest.mark.slow
def test_a_block_that_kills_its_workers_is_reported_alone(start_cluster: Start, stored: Stored, tmp_path: Path) -> None:
    path = stored(48, 48, 32)
    zarr.open_array(path)[24, 24, 8] = 255
    cluster = start_cluster(nannies=2, config={"DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "0"})
    result = ci.infer(ci.open_volume(path), Deadly(1.0), patch=18, block=16)
    told: list[Event] = []
    with cluster.client(2) as client, pytest.raises(RunError, match="1 of 18 blocks failed") as caught:
        ci.save(result, tmp_path / "out.zarr", client=client, progress=False, events=[told.append])
    assert "[0:1, 16:32, 16:32, 0:16]" in str(caught.value)
    assert "workers that ran this block died" in str(caught.value)
    assert Ledger(Files(str(tmp_path / "out.zarr"))).done(18).count == 17
    assert any(event.kind == RETRY for event in told)
    cluster.close()


@pytest.mark.slow
def test_a_run_outlives_its_scheduler(start_cluster: Start, stored: Stored, tmp_path: Path) -> None:
    """Another scheduler at the same address, with other workers: what ran is sent again."""
    log, output = tmp_path / "log", tmp_path / "out.zarr"
    cluster = start_cluster("")
    result = ci.infer(ci.open_volume(stored(64, 48, 32)), Watched(log, seconds=0.2), patch=18, block=16)
    with cluster.client(1) as client, ThreadPoolExecutor(1) as pool:
        future = pool.submit(ci.save, result, output, client=client, progress=False)
        until(lambda: len(events(log)) >= 4)
        cluster.restart_scheduler()
        cluster.worker()
        report = future.result(PATIENCE)
    assert (report.computed, report.failed) == (24, [])
    assert np.array_equal(ci.open_volume(output).values, result.compute(scheduler="threads").values)
    cluster.close()


@pytest.mark.slow
def test_a_kernel_on_a_worker_without_its_device_is_moved(start_cluster: Start, stored: Stored, tmp_path: Path) -> None:
    """Two workers declare a GPU, and the one whose driver is broken refuses."""
    cluster = start_cluster()
    cluster.worker(resources="GPU=1", environment={"BROKEN_DRIVER": "1"})
    cluster.worker(resources="GPU=1")
    result = ci.infer(ci.open_volume(stored(64, 48, 32)), convolution(), patch=18, block=16)
    with cluster.client(2) as client:
        client.run(break_the_driver)
        report = ci.save(result, tmp_path / "out.zarr", client=client, progress=False)
    assert (report.computed, report.failed) == (24, [])
    assert report.retried >= 1
    cluster.close()


@pytest.mark.slow
def test_two_engines_finish_one_volume(start_cluster: Start, stored: Stored, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    cluster = start_cluster("GPU=1", "")
    net: Any = convolution()
    result = ci.infer(ci.open_volume(stored(64, 64, 64)), net, patch=18, block=16, cpu_engine="openvino")
    with cluster.client(2) as client:
        report = ci.save(result, tmp_path / "out.zarr", client=client, progress=False)
    assert set(report.engines) == {"torch", "openvino"}
    assert sum(report.engines.values()) == 64
    assert "openvino" in str(report)
    done = Ledger(Files(str(tmp_path / "out.zarr"))).done(64)
    assert {done.engines[i] for i in done.engine[done.flags]} == {"torch", "openvino"}
    expected = result.compute(scheduler="threads").values
    np.testing.assert_allclose(ci.open_volume(tmp_path / "out.zarr").values, expected, atol=1e-5)
    cluster.close()
