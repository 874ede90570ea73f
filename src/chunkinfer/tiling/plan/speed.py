"""The speed of a network on this machine: measured once per patch, and remembered."""

from __future__ import annotations

import json
import os
import platform
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chunkinfer.networks.files import user_cache

Array = NDArray[Any]

SECONDS = 60.0
"""That a calibration may take."""

PASSES = 2
"""Timed passes of each patch, after one that is not."""


@dataclass(frozen=True)
class Speed:
    """What was measured for a plan."""

    batch_seconds: float
    """Of one batch from its voxels to its place in the block, while all kernels of the process run."""
    read_seconds: float
    """To read a block's haloed input."""
    write_seconds: float
    """To encode and store a block, on a local disk."""
    where: str
    """Processor or GPU."""
    watts: float | None = None
    """Of the device while it computed, where it tells."""
    unmeasured: int = 0
    """Patches that there was no time for: they were taken to be as fast per voxel as the largest one measured."""

    @property
    def transfer_seconds(self) -> float:
        """To read and write a block."""
        return self.read_seconds + self.write_seconds


def time_kernels(run: Callable[[], Any], kernels: int, passes: int, left: Callable[[], float] = lambda: inf) -> float:
    """Seconds of one call, while as many threads as a process has kernels call it at the same time.

    Each thread makes one call first that does not count: kernels are compiled, and memory is obtained, then. Where it
    took more than the seconds that are ``left``, it does count, and is the only one.
    """
    ready = threading.Barrier(kernels)

    def work() -> float:
        begun = time.perf_counter()
        try:
            run()
        except BaseException:
            ready.abort()  # the others would wait for ever
            raise
        ready.wait()
        start = time.perf_counter()
        if start - begun > left():
            return start - begun
        for _ in range(passes):
            run()
        return (time.perf_counter() - start) / passes

    with ThreadPoolExecutor(kernels) as pool:
        running = [pool.submit(work) for _ in range(kernels)]
    failures = [e for f in running if (e := f.exception()) and not isinstance(e, threading.BrokenBarrierError)]
    if failures:
        raise failures[0]
    return sum(f.result() for f in running) / kernels


@cache
def processor() -> str:
    """The name of this machine's processor."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def device_name(device: str) -> str:
    """The name of the processor or the GPU."""
    if device == "cpu":
        return processor()
    import torch

    return str(torch.cuda.get_device_name())


def device_watts(device: str) -> float | None:
    """What a GPU draws now, in watts; None where it is not told, as for processors."""
    if device == "cpu":
        return None
    import torch

    try:
        return float(torch.cuda.power_draw()) / 1000
    except Exception:  # needs NVIDIA's management library, which raises errors of its own
        return None


class Remembered:
    """Speeds measured on this machine before, in one small file of the user's cache.

    Parameters
    ----------
    digest
        Of the model.
    conditions
        All else that a speed depends on: device, precision, threads, kernels, engine and its version.
    """

    def __init__(self, digest: str, *conditions: object) -> None:
        self.path = user_cache() / "speed.json"
        self.key = " ".join(map(str, (digest, *conditions)))

    def get(self, what: str) -> float | None:
        """Seconds, or None."""
        found = self._all().get(self.key, {}).get(what)
        return float(found) if isinstance(found, int | float) else None

    def put(self, what: str, seconds: float) -> None:
        """Remember; a cache that cannot be written is no error."""
        table = self._all()
        table.setdefault(self.key, {})[what] = seconds
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile("w", dir=self.path.parent, delete=False) as file:
                json.dump(table, file)
            os.replace(file.name, self.path)
        except OSError:
            return

    def _all(self) -> dict[str, Any]:
        try:
            table = json.loads(self.path.read_text())
        except (OSError, ValueError):
            return {}
        return table if isinstance(table, dict) else {}


def time_writing(block: Sequence[int], chunks: Sequence[int], shards: Sequence[int] | None, values: Array) -> float:
    """Seconds to encode a block (c, *space) of these values and store it as zarr v3 on a local disk."""
    from chunkinfer.volumes.arrays.create import ArraySpec, create

    shape = tuple(block)
    dims = ("c", *"zyx"[-(len(shape) - 1) :])
    array = np.ascontiguousarray(np.broadcast_to(np.resize(values, shape), shape))
    with tempfile.TemporaryDirectory() as folder:
        stored = create(
            f"{folder}/block.zarr",
            ArraySpec(format="zarr3", shape=shape, dtype=array.dtype, dims=dims, chunks=chunks, shards=shards),
        )
        start = time.perf_counter()
        stored.write(tuple(slice(0, n) for n in shape), array)
        return time.perf_counter() - start
