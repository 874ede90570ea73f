"""Seconds that a task spends reading, waiting for the device, computing and writing."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

_seconds = threading.local()


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Add the time inside to a stage of the running task."""
    start = time.perf_counter()
    try:
        yield
    finally:
        table = vars(_seconds)
        table[name] = table.get(name, 0.0) + time.perf_counter() - start


def drain() -> dict[str, float]:
    """Seconds per stage on this thread since the last call."""
    table = dict(vars(_seconds))
    vars(_seconds).clear()
    return table
