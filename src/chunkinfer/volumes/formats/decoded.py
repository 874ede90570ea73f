"""Decoded parts of files, kept for a while: blocks that meet one section do not decode it again and again."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from threading import Lock
from typing import Any

from numpy.typing import NDArray

FORMATS = ("sections", "tiff")
"""Whose parts are decoded as a whole."""

LIMIT = 2**28
"""Bytes per process."""


class Decoded:
    """Arrays that were made once, up to so many bytes; the one that was used longest ago goes first.

    Of several threads that want one array, one makes it and the others wait.
    """

    def __init__(self, limit: int = LIMIT) -> None:
        self.limit = limit
        self.size = 0
        self._held: OrderedDict[Hashable, NDArray[Any]] = OrderedDict()
        self._making: dict[Hashable, Lock] = {}
        self._lock = Lock()

    def __contains__(self, key: Hashable) -> bool:
        return key in self._held

    def get(self, key: Hashable, make: Callable[[], NDArray[Any]]) -> NDArray[Any]:
        """The array of a key, which nobody may change."""
        with self._lock:
            if (found := self._look_up(key)) is not None:
                return found
            making = self._making.setdefault(key, Lock())
        with making:
            with self._lock:
                if (found := self._look_up(key)) is not None:
                    return found
            try:
                made = make()
                self._keep(key, made)
            finally:
                self._making.pop(key, None)
        return made

    def _look_up(self, key: Hashable) -> NDArray[Any] | None:
        found = self._held.get(key)
        if found is not None:
            self._held.move_to_end(key)
        return found

    def _keep(self, key: Hashable, made: NDArray[Any]) -> None:
        made.flags.writeable = False
        if made.nbytes > self.limit:
            return
        with self._lock:
            self._held[key] = made
            self.size += made.nbytes
            while self.size > self.limit:
                self.size -= self._held.popitem(last=False)[1].nbytes


DECODED = Decoded()
"""Of this process."""
