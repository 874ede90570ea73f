"""A run without workers: it warns, says what was there last, and is paused where that was asked for."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pytest
from distributed import Client, LocalCluster

import chunkinfer as ci
from chunkinfer.errors import ClusterError, PlanError, RunError, RunPaused
from chunkinfer.runs.events import WORKERS_AWAITED, Event
from chunkinfer.runs.schedule import placement, workers
from tests.lib.clusters import PATIENCE, Cluster, modules
from tests.lib.probes import Watched, convolution, events

Stored = Callable[..., str]
Start = Callable[..., Cluster]


@pytest.fixture
def nobody(monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    """The client of a cluster without workers, where a second is as good as a minute."""
    monkeypatch.setattr(workers, "WARN_AFTER", 0.3)
    monkeypatch.setattr(workers, "LOOK_EVERY", 0.1)
    with (
        LocalCluster(processes=False, n_workers=0, dashboard_address="127.0.0.1:0") as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client


def test_a_run_without_workers_warns_and_goes_on(
    nobody: Client, stored: Stored, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    volume, told = ci.open_volume(stored(32, 32, 32)), list[Event]()
    cluster: Any = nobody.cluster

    def come(event: Event) -> None:
        told.append(event)
        if event.kind == WORKERS_AWAITED:
            cluster.scale(1)

    ci.save(volume, tmp_path / "out.zarr", client=nobody, progress=False, events=[come])
    (first, *_) = [event.facts for event in told if event.kind == WORKERS_AWAITED]
    assert first["awaited"] == "a worker"
    assert 0.3 <= first["seconds"] < 5
    assert f"dask worker {nobody.scheduler.address}" in first["advice"]
    (warning, *_) = [r for r in caplog.records if r.name == "chunkinfer"]
    assert warning.levelno == logging.WARNING
    assert "None came since the run began." in warning.getMessage()
    assert np.array_equal(ci.open_volume(tmp_path / "out.zarr").values, volume.values)


@pytest.mark.parametrize("where", ["argument", "configuration"])
def test_a_run_without_workers_is_paused_in_time(nobody: Client, stored: Stored, tmp_path: Path, where: str) -> None:
    volume, output = ci.open_volume(stored(32, 32, 32)), tmp_path / "out.zarr"
    given = {"worker_timeout": 0.5} if where == "argument" else {}
    start = time.monotonic()
    with (
        dask.config.set({"chunkinfer.run.worker-timeout": "500 ms" if where == "configuration" else None}),
        pytest.raises(RunPaused, match=r"without worker: worker_timeout is 0\.5 s\. None came since the run began"),
    ):
        ci.save(volume, output, client=nobody, progress=False, **given)
    assert time.monotonic() - start < 10
    assert ci.save(volume, output, progress=False).computed == 1  # here, without that client
    assert np.array_equal(ci.open_volume(output).values, volume.values)


@pytest.mark.parametrize("value", ["soon", -3, 0])
def test_no_time_is_refused(stored: Stored, tmp_path: Path, value: Any) -> None:
    with pytest.raises(PlanError, match="is not a time"):
        ci.save(ci.open_volume(stored(16, 16, 16)), tmp_path / "out.zarr", worker_timeout=value)
    assert not (tmp_path / "out.zarr").exists()


@pytest.mark.slow
def test_workers_that_all_die_in_a_run(
    start_cluster: Start, stored: Stored, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is told which was the last one, and the run is paused; the same call with new workers goes on."""
    monkeypatch.setattr(workers, "WARN_AFTER", 0.5)
    log, output = tmp_path / "log", tmp_path / "out.zarr"
    cluster = start_cluster("")
    told: list[Event] = []
    result = ci.infer(ci.open_volume(stored(64, 48, 32)), Watched(log, seconds=0.2), patch=18, block=16)
    with cluster.client(1) as client, ThreadPoolExecutor(1) as pool:
        (address,) = placement.workers_of(client)
        saving: dict[str, Any] = {"client": client, "progress": False, "events": [told.append]}
        future = pool.submit(ci.save, result, output, worker_timeout="3 s", **saving)
        limit = time.monotonic() + PATIENCE
        while len(events(log)) < 4 and time.monotonic() < limit:
            time.sleep(0.05)
        cluster.processes[-1].kill()
        with pytest.raises(RunPaused, match=f"The last one, {address}, is gone"):
            future.result(PATIENCE)
        assert next(e.facts["last"] for e in told if e.kind == WORKERS_AWAITED) == address
        cluster.worker()
        report = ci.save(result, output, **saving)
    assert report.skipped >= 1
    assert report.skipped + report.computed == report.blocks
    assert np.array_equal(ci.open_volume(output).values, result.compute(scheduler="threads").values)
    cluster.close()


@pytest.mark.slow
def test_workers_without_chunkinfer_are_named(
    start_cluster: Start, stored: Stored, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Blocks go to the others; where there are none, the run ends at once and says why."""
    broken = tmp_path / "broken" / "chunkinfer"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text('raise ImportError("no chunkinfer here")')
    cluster = start_cluster()
    cluster.worker(environment={"PYTHONPATH": os.pathsep.join([str(broken.parent), modules()])})
    result = ci.infer(ci.open_volume(stored(32, 32, 32)), convolution(), patch=18, block=16)
    with cluster.client(1) as client:
        with pytest.raises(ClusterError, match=r"None of 1 workers can run a block: .*no chunkinfer here"):
            ci.save(result, tmp_path / "out.zarr", client=client, progress=False)
        cluster.worker()
        client.wait_for_workers(2, timeout=PATIENCE)
        report = ci.save(result, tmp_path / "out.zarr", client=client, progress=False)
    assert (report.computed, report.failed, report.retried) == (8, [], 0)
    assert "No block goes there." in caplog.text
    cluster.close()


@pytest.mark.slow
def test_a_device_that_only_another_worker_could_have(start_cluster: Start, stored: Stored, tmp_path: Path) -> None:
    """The only worker that declares a GPU has a broken driver, and one without is idle: the blocks fail, and say so."""
    cluster = start_cluster("GPU=1", "")

    def broken(dask_worker: Any) -> None:
        from chunkinfer.errors import DeviceError
        from chunkinfer.tiling.kernel import task

        def missing(name: str) -> None:
            raise DeviceError("This process sees no device.")

        task.require_device = missing

    result = ci.infer(ci.open_volume(stored(32, 32, 32)), convolution(), patch=18, block=16)
    with cluster.client(2) as client:
        client.run(broken)
        with pytest.raises(RunError, match="This process sees no device"):
            ci.save(result, tmp_path / "out.zarr", client=client, progress=False)
    cluster.close()
