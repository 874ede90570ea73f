"""What a task tells of itself: seconds that it spends reading, waiting for the device, computing and writing, what it
counts, and what computed it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_running = threading.local()


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Add the time inside to a stage of the running task."""
    start = time.perf_counter()
    try:
        yield
    finally:
        seconds = _table("seconds")
        seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - start


def count(name: str, number: int) -> None:
    """Add to a count of the running task."""
    counts = _table("counts")
    counts[name] = counts.get(name, 0) + number


def computed_by(engine: str) -> None:
    """Say which engine computes the running task."""
    _running.engine = engine


def drain() -> dict[str, Any]:
    """What was told on this thread since the last call: ``seconds`` per stage, ``counts``, and the ``engine``, empty
    where none computed."""
    told = {"seconds": _table("seconds"), "counts": _table("counts"), "engine": getattr(_running, "engine", "")}
    vars(_running).clear()
    return told


def _table(name: str) -> dict[str, Any]:
    table: dict[str, Any] = vars(_running).setdefault(name, {})
    return table
