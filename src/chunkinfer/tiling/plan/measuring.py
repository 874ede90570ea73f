"""The time that measuring before a run may take, all of it together, and what is said meanwhile."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

QUIET = 5.0
"""Seconds of measuring of which nothing is said."""


class Measuring:
    """A stretch of time for what is measured.

    Parameters
    ----------
    seconds
        That it lasts, from now on.
    clock
        Seconds that only grow.
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = time.perf_counter) -> None:
        self.seconds, self._clock, self._start = seconds, clock, clock()

    @property
    def spent(self) -> float:
        """Seconds since it began."""
        return self._clock() - self._start

    @property
    def left(self) -> float:
        """Seconds until it ends; negative after that."""
        return self.seconds - self.spent

    def first(self, share: float) -> Measuring:
        """The first part of it."""
        part = Measuring(self.seconds * share, self._clock)
        part._start = self._start
        return part

    def tell(self, what: str, expected: float = 0.0) -> None:
        """Say on stderr what is measured now, unless it will soon be over.

        Parameters
        ----------
        what
            The rest of a sentence that begins with "measuring".
        expected
            Seconds that this takes, about.
        """
        if self.spent + expected > QUIET:
            print(f"chunkinfer: measuring {what} ({self.spent:.0f} s so far)", file=sys.stderr, flush=True)
