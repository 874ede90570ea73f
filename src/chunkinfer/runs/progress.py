"""What a run shows while it goes: a bar in terminals and notebooks, lines elsewhere, and warnings everywhere."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections import Counter
from typing import Any

from chunkinfer.runs.events import (
    BLOCK_DONE,
    BLOCK_FAILED,
    RUN_STARTED,
    WORKER_CAME,
    WORKER_LOST,
    WORKER_UNFIT,
    WORKERS_AWAITED,
    Event,
)
from chunkinfer.support.redacting import redacted

logger = logging.getLogger("chunkinfer")
"""Takes warnings; where nobody configured logging, Python writes them to stderr."""

FIRST, LONGEST = 30.0, 600.0
"""Seconds to the first line where there is no terminal, and between lines at most: each time twice as long."""


class Progress:
    """The progress of blocks: a bar in voxels with blocks beside it, or lines. What hinders the run is a warning.

    Parameters
    ----------
    voxels, blocks
        To compute.
    show
        True for a bar, False for nothing but warnings. None for a bar in terminals and notebooks, and lines elsewhere.
    """

    def __init__(self, voxels: int, blocks: int, show: bool | None) -> None:
        self._blocks, self._done, self._failed = blocks, 0, 0
        self._voxels, self._seen = voxels, 0
        self._workers, self._waiting = 0, False
        self._url = ""
        self._warned = Counter[str]()
        self._start = time.monotonic()
        self._bar: Any = None
        self._lines: _Lines | None = None
        bar = ("ipykernel" in sys.modules or sys.stderr.isatty()) if show is None else show
        if bar and blocks:
            from tqdm.auto import tqdm

            self._bar = tqdm(total=voxels, unit="voxel", unit_scale=True, dynamic_ncols=True)
            self._describe()
        elif show is None and blocks:
            self._lines = _Lines(self)

    def told(self, event: Event) -> None:
        """Show what happened; a subscriber of the run's events."""
        facts = event.facts
        self._failed += event.kind == BLOCK_FAILED
        self._workers += (event.kind == WORKER_CAME) - (event.kind == WORKER_LOST)
        self._waiting = self._workers == 0 or event.kind == WORKERS_AWAITED
        if event.kind == BLOCK_DONE:
            self.advance(facts["voxels"])
            return
        self._describe()
        if event.kind == RUN_STARTED:
            self._url = str(redacted(facts["url"]))
            if self._lines is not None:
                self._lines.write(f"{facts['todo']} of {facts['blocks']} blocks of {self._url} to compute")
        elif event.kind == WORKERS_AWAITED:
            self._warn(
                f"the run has waited {_duration(facts['seconds'])} for {facts['awaited']}. {facts['history']} "
                f"What to do: {facts['advice']}. Ctrl-C pauses: the same call goes on."
            )
        elif event.kind == WORKER_UNFIT:
            use = "Blocks go there all the same." if facts["used"] else "No block goes there."
            self._warn_of(event.kind, f"worker {facts['worker']}: {facts['why']}. {use}")
        elif event.kind == WORKER_LOST and facts["why"]:
            self._warn_of(event.kind, f"worker {facts['worker']} is lost: {facts['why']}.")

    def advance(self, voxels: int) -> None:
        """A block is done."""
        self._done += 1
        self._seen += voxels
        self._describe()
        if self._bar is not None:
            self._bar.update(voxels)

    def close(self) -> None:
        """Show where it ended."""
        if self._bar is not None:
            self._bar.close()
        if self._lines is not None:
            self._lines.close(f"{self._state()} in {_duration(self.seconds)}")

    @property
    def seconds(self) -> float:
        """Since it began."""
        return time.monotonic() - self._start

    def line(self) -> str:
        """How far it is, in a line."""
        parts = [self._state()]
        if self._seen:
            rate = self._seen / self.seconds
            parts.append(f"{rate / 1e6:.3g} Mvoxel/s, about {_duration((self._voxels - self._seen) / rate)} left")
        parts.append("waiting for workers" if self._waiting else f"workers: {self._workers}")
        return ", ".join(parts)

    def _state(self) -> str:
        failed = f", {self._failed} failed" if self._failed else ""
        return f"{self._done} of {self._blocks} blocks{failed}"

    def _describe(self) -> None:
        if self._bar is not None:
            failed = f", {self._failed} failed" if self._failed else ""
            waiting = ", waiting for workers" if self._waiting else ""
            self._bar.set_description(f"{self._done}/{self._blocks} blocks{failed}{waiting}", refresh=self._waiting)

    def _warn_of(self, kind: str, text: str) -> None:
        """Warn of what may happen to each of many workers: of the first, the second, the fourth, the eighth, ..."""
        self._warned[kind] += 1
        count = self._warned[kind]
        if count & (count - 1) == 0:
            self._warn(text if count == 1 else f"{text} So it was with {count} by now.")

    def _warn(self, text: str) -> None:
        if self._bar is not None:
            self._bar.clear()
        logger.warning("chunkinfer: %s", redacted(text))
        if self._bar is not None:
            self._bar.refresh()


class _Lines:
    """Lines on stderr, ever more rarely, from a thread: whatever the run waits for, it isn't silent."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._go_on, name="progress", daemon=True)
        self._thread.start()

    def _go_on(self) -> None:
        pause = FIRST
        while not self._ended.wait(pause):
            self.write(self._progress.line())
            pause = min(2 * pause, LONGEST)

    def write(self, text: str) -> None:
        print(f"chunkinfer: {text}", file=sys.stderr, flush=True)

    def close(self, text: str) -> None:
        self._ended.set()
        self._thread.join()
        self.write(text)


def _duration(seconds: float) -> str:
    """Seconds for people."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
