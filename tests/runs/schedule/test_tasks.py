"""What the scheduler is asked to do: one task per block, and nothing that needs torch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from distributed import Client

import chunkinfer as ci
from chunkinfer.runs.schedule import runner
from tests.lib.probes import Watched, convolution, events

Stored = Callable[..., str]


@contextmanager
def tasks_of(client: Client) -> Iterator[list[str]]:
    """The keys of all tasks that the scheduler receives inside; filled at the end."""

    def watch(dask_scheduler: Any) -> None:
        from distributed.diagnostics.plugin import SchedulerPlugin

        class Received(SchedulerPlugin):
            name = "received"

            def __init__(self) -> None:
                self.keys: list[str] = []

            def transition(self, key: Any, start: str, finish: str, *args: Any, **kwargs: Any) -> None:
                if start == "released" and finish in ("waiting", "processing", "queued", "no-worker"):
                    self.keys.append(str(key))

        dask_scheduler.add_plugin(Received())

    def report(dask_scheduler: Any) -> list[str]:
        keys: list[str] = dask_scheduler.plugins["received"].keys
        dask_scheduler.remove_plugin("received")
        return keys

    found: list[str] = []
    client.run_on_scheduler(watch)
    try:
        yield found
    finally:
        found += client.run_on_scheduler(report)


def loaded(client: Client, module: str) -> bool:
    """Whether the scheduler's process has imported a module."""

    def look() -> bool:
        return module in sys.modules

    return bool(client.run_on_scheduler(look))


def test_one_task_per_block_and_three_per_run(
    client: Client, stored: Stored, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "TASK_SECONDS", 0.0)  # no block is so quick that it shares a task
    volume = ci.open_volume(stored(64, 64, 64))
    result = ci.infer(volume, convolution(), patch=18, block=16)
    with tasks_of(client) as received:
        report = ci.save(result, tmp_path / "out.zarr", progress=False)
    assert report.computed == report.blocks == 64
    saves = [key for key in received if "save-" in key]
    assert len(saves) == 64
    assert len(received) <= 64 + 3, sorted(received)[-5:]
    expected = result.compute(scheduler="synchronous")
    assert np.array_equal(ci.open_volume(tmp_path / "out.zarr").compute().values, expected.values)


def test_a_copy_takes_one_task_per_block_too(client: Client, stored: Stored, tmp_path: Path) -> None:
    volume = ci.open_volume(stored(64, 64, 64))[3:, 5:60]
    with tasks_of(client) as received:
        report = ci.save(volume, tmp_path / "out.zarr", chunks=(16, 16, 16), shards=False, progress=False)
    assert len(received) <= report.blocks + 2
    assert np.array_equal(ci.open_volume(tmp_path / "out.zarr").values, volume.values)


@pytest.mark.parametrize("form", ["module", "script"])
def test_the_scheduler_never_imports_torch(client: Client, stored: Stored, tmp_path: Path, form: str) -> None:
    model: Any = convolution()
    if form == "script":
        model = str(tmp_path / "model.pt")
        torch.jit.save(torch.jit.trace(convolution(), torch.zeros(1, 1, 8, 8, 8)), model)
    result = ci.infer(ci.open_volume(stored(32, 32, 32)), model, patch=18, block=16)
    expected = result.compute(scheduler="synchronous").values
    assert np.array_equal(result.compute().values, expected)
    ci.save(result, tmp_path / "out.zarr", progress=False)
    assert np.array_equal(ci.open_volume(tmp_path / "out.zarr").values, expected)
    assert not loaded(client, "torch")
    assert not loaded(client, "tensorstore")
    assert loaded(client, "chunkinfer")  # or this test would look at the wrong process


def test_a_process_opens_the_model_once(client: Client, stored: Stored, tmp_path: Path) -> None:
    log = tmp_path / "log"
    result = ci.infer(ci.open_volume(stored(64, 64, 32)), Watched(log), patch=18, block=16)
    ci.save(result, tmp_path / "out.zarr", progress=False)
    opened = [event.pid for event in events(log, "opened") if event.pid != os.getpid()]  # tracing copies it here
    assert len(opened) == len(set(opened))
    assert {event.pid for event in events(log)} == set(opened)
    assert len(opened) == 2


@pytest.mark.slow
def test_the_graph_of_100_000_blocks_takes_seconds() -> None:
    """Around one second where nothing else runs; the limit leaves room for a busy machine."""
    benchmark = Path(__file__).parents[3] / "benchmarks" / "graph.py"
    command = [sys.executable, str(benchmark), "--direct", "100000", "--exchange", "0", "--json"]
    (row,) = json.loads(subprocess.run(command, check=True, capture_output=True).stdout).values()
    assert row["blocks"] >= 100_000
    assert row["tasks per block"] == 1
    assert row["build"] + row["windows"] < 15
