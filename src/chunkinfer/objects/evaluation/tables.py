"""Tables with keys: rows of one key are one row, made by integer sums, least and most.

That is the whole reduction of this room. Its operations are associative and commutative and exact, so no cut into
blocks, and no order in which their tables are joined, changes a bit of what comes out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Table = Mapping[str, NDArray[Any]]
"""Columns of one length, by name."""


@dataclass(frozen=True)
class Columns:
    """What the columns of a table are, and so how rows of one key become one."""

    keys: tuple[str, ...]
    """Labels (uint64); a table is sorted by them, the first one first."""
    sums: tuple[str, ...] = ()
    """Counts (int64)."""
    least: tuple[str, ...] = ()
    most: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Of all columns, in order."""
        return self.keys + self.sums + self.least + self.most

    def reduced(self, rows: Table) -> dict[str, NDArray[Any]]:
        """Rows in any order as a table: sorted, each key once."""
        order = np.lexsort([rows[name] for name in reversed(self.keys)])
        keys = {name: rows[name][order] for name in self.keys}
        first = starts(*keys.values())
        table = {name: column[first] for name, column in keys.items()}
        for names, reduce in ((self.sums, np.add), (self.least, np.minimum), (self.most, np.maximum)):
            for name in names:
                column = rows[name][order]
                table[name] = reduce.reduceat(column, first) if len(first) else column
        return table

    def joined(self, tables: Iterable[Table]) -> dict[str, NDArray[Any]]:
        """One table out of many, which are taken one at a time: what waits is never larger than what is joined."""
        whole: dict[str, NDArray[Any]] = {}
        waiting: list[Table] = []
        for table in tables:
            waiting.append(table)
            if sum(map(self._length, waiting)) > max(LEAST_JOIN, self._length(whole)):
                whole, waiting = self._together([whole, *waiting]), []
        return self._together([whole, *waiting])

    def _length(self, table: Table) -> int:
        return len(table[self.keys[0]]) if table else 0

    def _together(self, tables: Iterable[Table]) -> dict[str, NDArray[Any]]:
        filled = [table for table in tables if table]
        if not filled:
            raise ValueError("There is nothing to join: a grid has at least one block.")
        return self.reduced({name: np.concatenate([table[name] for table in filled]) for name in self.names})


LEAST_JOIN = 1 << 20
"""Rows that wait at least before they are joined: fewer cost more in sorting again than in memory."""


def starts(*columns: NDArray[Any], every: int | None = None) -> NDArray[np.intp]:
    """Where a row differs from the one before it, in any column; also, if asked, every so many rows from the first."""
    n = len(columns[0])
    changes = np.zeros(n, bool)
    changes[: 1 if every is None else None : every] = True
    for column in columns:
        changes[1:] |= column[1:] != column[:-1]
    return np.flatnonzero(changes)


def lengths(first: NDArray[np.intp], n: int) -> NDArray[np.int64]:
    """How many rows each group has, of the starts of all and the number of rows."""
    return np.diff(first, append=n).astype(np.int64)


def renamed(labels: NDArray[Any], old: NDArray[np.uint64], new: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Labels of which some, sorted and each once, become others."""
    every: NDArray[np.uint64] = labels.astype(np.uint64)
    if len(old):
        rows = found(old, every.reshape(-1)).reshape(labels.shape)
        every = np.where(rows >= 0, new[rows], every)
    return every


def found(sorted_labels: NDArray[np.uint64], labels: NDArray[np.uint64]) -> NDArray[np.intp]:
    """The row of each label; -1 where there is none. There is at least one row."""
    rows = np.minimum(np.searchsorted(sorted_labels, labels), len(sorted_labels) - 1)
    return np.where(sorted_labels[rows] == labels, rows, -1)
