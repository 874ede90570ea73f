"""Ctrl-C: the first pauses a run, a second stops it at once."""

from __future__ import annotations

import signal
import sys
import threading
from types import FrameType, TracebackType
from typing import Any


class Interrupts:
    """A context in which SIGINT asks for a pause, and so does SIGTERM where nobody else listens to it: what a cluster's
    manager sends before it takes a node back. Outside the main thread nothing changes.
    """

    def __init__(self) -> None:
        self.paused = False
        """Whether a pause was asked for."""
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            self._before[signal.SIGINT] = signal.signal(signal.SIGINT, self._asked)
            if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
                self._before[signal.SIGTERM] = signal.signal(signal.SIGTERM, self._asked)
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _asked(self, number: int, frame: FrameType | None) -> None:
        if self.paused:
            raise KeyboardInterrupt
        self.paused = True
        print("\nPausing: blocks that run are finished. Ctrl-C again stops at once.", file=sys.stderr, flush=True)
