"""Seconds that a task spends reading, waiting for the device, computing and writing, and what it counts."""

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


def count(name: str, number: int) -> None:
    """Add to a count of the running task."""
    table = vars(_seconds)
    table[name] = table.get(name, 0.0) + number


def drain() -> dict[str, float]:
    """Seconds per stage, and counts, on this thread since the last call."""
    table = dict(vars(_seconds))
    vars(_seconds).clear()
    return table
