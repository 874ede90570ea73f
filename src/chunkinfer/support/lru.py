"""A table that keeps what was used last."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Lru(OrderedDict[K, V]):
    """Values by key; the least recently used is dropped first.

    Threads that share one hold a lock of theirs: whether it is held while a value is made is theirs to decide.

    Parameters
    ----------
    most
        How many values are kept.
    """

    def __init__(self, most: int = 8) -> None:
        super().__init__()
        self.most = most

    def get_or_make(self, key: K, make: Callable[[], V]) -> V:
        """The value of a key, made where there is none."""
        if key not in self:
            self[key] = make()
            while len(self) > self.most:
                self.popitem(last=False)
        self.move_to_end(key)
        return self[key]
