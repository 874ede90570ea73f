"""Killed clients and killed workers: what was stored stays, what is missing is computed, the result is the same."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from distributed import Client

import chunkinfer as ci
from chunkinfer.geometry.boxes import BlockGrid
from chunkinfer.runs.record.ledger import Ledger
from chunkinfer.stores.files import Files
from tests.lib.clusters import PATIENCE, Cluster, modules
from tests.lib.probes import Watched, events

Start = Callable[..., Cluster]
Stored = Callable[..., str]

GRID = BlockGrid.regular((1, 64, 48, 32), (1, 16, 16, 16))
"""Of the runs below: 24 blocks, each of which is a shard and takes one forward pass."""

RUN = """
import sys
import chunkinfer as ci
from tests.lib.probes import Watched
if __name__ == "__main__":
    volume, output, log, scheduler = sys.argv[1:]
    client = None
    if scheduler:
        from distributed import Client
        client = Client(scheduler)
    result = ci.infer(ci.open_volume(volume), Watched(log, seconds=0.1), patch=18, block=16)
    report = ci.save(result, output, client=client)
    print(report.computed, report.skipped)
"""


class Run:
    """The same call in as many processes as it takes.

    Parameters
    ----------
    folder
        For the output and the network's log.
    volume
        Path of the volume.
    scheduler
        Address; without one, the process has its own cluster.
    """

    def __init__(self, folder: Path, volume: str, scheduler: str = "") -> None:
        self.output, self.log = folder / "out.zarr", folder / "log"
        self.arguments = [volume, str(self.output), str(self.log), scheduler]

    def start(self) -> subprocess.Popen[str]:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": modules()}
        command = [sys.executable, "-c", RUN, *self.arguments]
        return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)

    def kill_after(self, blocks: int) -> set[int]:
        """Start it and kill it when the ledger lists so many blocks; returns those that it lists."""
        with self.start() as process:
            wait_until(lambda: len(self.done()) >= blocks or process.poll() is not None)
            process.kill()
        return self.done()

    def finish(self) -> tuple[int, int]:
        """Start it and wait; returns how many blocks it computed, and how many it found."""
        with self.start() as process:
            text, _ = process.communicate(timeout=2 * PATIENCE)
        assert process.returncode == 0
        computed, skipped = map(int, text.split())
        return computed, skipped

    def done(self) -> set[int]:
        return set(map(int, Ledger(Files(str(self.output))).done(len(GRID)).flags.nonzero()[0]))

    def written(self, block: int) -> int:
        """When the shard of a block was written, in nanoseconds."""
        path = self.output.joinpath("c", *map(str, GRID.unravel(block)))
        return path.stat().st_mtime_ns

    def assert_right(self) -> None:
        """The output is what an undisturbed run gives, bit for bit."""
        expected = ci.infer(ci.open_volume(self.arguments[0]), Watched(self.log), patch=18, block=16)
        assert np.array_equal(ci.open_volume(self.output).values, expected.compute(scheduler="threads").values)


def wait_until(condition: Callable[[], bool]) -> None:
    limit = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < limit, "it never came to pass"
        time.sleep(0.02)


@pytest.mark.slow
def test_a_killed_run_goes_on_where_it_was(stored: Stored, tmp_path: Path) -> None:
    run = Run(tmp_path, stored(64, 48, 32))
    done = run.kill_after(blocks=4)
    assert 4 <= len(done) < len(GRID)
    before = {block: run.written(block) for block in done}
    ran_before = len(events(run.log))
    assert run.finish() == (len(GRID) - len(done), len(done))
    assert len(events(run.log)) - ran_before == len(GRID) - len(done)
    assert {block: run.written(block) for block in done} == before
    run.assert_right()


@pytest.mark.slow
def test_a_run_that_is_killed_again_and_again_ends_right(stored: Stored, tmp_path: Path) -> None:
    run = Run(tmp_path, stored(64, 48, 32))
    done: set[int] = set()
    while len(done) < len(GRID) - 4:
        more = run.kill_after(len(done) + 3)
        assert done < more
        done = more
    assert run.finish() == (len(GRID) - len(done), len(done))
    assert run.finish() == (0, len(GRID))
    run.assert_right()


@pytest.mark.slow
def test_a_cluster_outlives_its_client(start_cluster: Start, stored: Stored, tmp_path: Path) -> None:
    """The next client meets tasks of the same names that still run."""
    cluster = start_cluster("GPU=1", "")
    run = Run(tmp_path, stored(64, 48, 32), cluster.address)
    done = run.kill_after(blocks=4)
    assert run.finish() == (len(GRID) - len(done), len(done))
    run.assert_right()
    cluster.close()


@contextmanager
def saving(client: Client, run: Run) -> Iterator[Any]:
    """The run in a thread, so that workers can be killed meanwhile; gives the future of its report."""
    result = ci.infer(ci.open_volume(run.arguments[0]), Watched(run.log, seconds=0.1), patch=18, block=16)
    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(ci.save, result, run.output, client=client, progress=False)


@pytest.mark.slow
def test_a_killed_worker_is_replaced(start_cluster: Start, stored: Stored, tmp_path: Path) -> None:
    cluster = start_cluster()
    workers = [cluster.worker(), cluster.worker()]
    run = Run(tmp_path, stored(64, 48, 32))
    with cluster.client(2) as client, saving(client, run) as future:
        wait_until(lambda: len(events(run.log)) >= 4)
        workers[0].kill()
        cluster.worker()
        report = future.result(PATIENCE)
    assert (report.computed, report.failed) == (len(GRID), [])
    run.assert_right()
    cluster.close()


@pytest.mark.slow
def test_the_only_gpu_dies_six_times(start_cluster: Start, stored: Stored, tmp_path: Path) -> None:
    """Tasks bound to a resource are all assigned at once, and every one counts as suspicious when the worker dies: dask
    itself gives them up after four deaths."""
    cluster = start_cluster("", threads=1)
    run = Run(tmp_path, stored(64, 48, 32))
    worker = cluster.worker(resources="GPU=1")
    with cluster.client(2) as client, saving(client, run) as future:
        for _ in range(6):
            before = len(events(run.log))
            wait_until(lambda before=before: len(events(run.log)) > before)
            worker.kill()
            worker = cluster.worker(resources="GPU=1")
        report = future.result(PATIENCE)
    assert (report.computed, report.failed) == (len(GRID), [])
    run.assert_right()
    cluster.close()
