"""The region graph: a row per pair of labels that touch, in integers, so that tables join in any order alike.

::

    contact (a face between two voxels)    affinity w, key k = 3 * lin(v) + d: no two contacts share a key
    row (all contacts of a and b)          most, key: those of the strongest contact, ties to the largest key
                                           total, count: the sum of affinities, the number of contacts

``most`` and ``key`` go together: the key is the one of the contact that gave ``most``, not the largest of all. So
(most, key) orders rows as their strongest contacts are ordered, whatever is joined first: with the two maxima taken
apart, joining b and c could move a's row past others, and a region that knows b only would decide differently.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from chunkinfer.errors import VolumeError
from chunkinfer.support.jit import compiled

if TYPE_CHECKING:
    import pandas as pd

Labels = NDArray[np.uint64]
Integers = NDArray[np.int64]

SCALE = 255 << 16
"""Affinities are integers here: ``rint(w * SCALE)``, 65536 times the uint8 that they are stored as.

A multiple of 255, so that a mean of uint8 that is exactly a threshold, as 153 is of 0.6, is not decided by rounding;
and below 2^24, so that float32 quotients of uint8 by 255, which are off by up to 2^-25, round to the same integers.
"""

COLUMNS = {"a": np.uint64, "b": np.uint64, "most": np.int64, "total": np.int64, "count": np.int64, "key": np.int64}


def scaled(affinity: float) -> int:
    """An affinity or a threshold in [0, 1] as the integer that rows hold."""
    return int(np.rint(affinity * SCALE))


def renamed(labels: Labels, old: Labels, new: Labels) -> Labels:
    """Labels through a table of renames; those that are not in ``old``, which ascends, stay."""
    if len(old) == 0 or len(labels) == 0:
        return labels
    at = np.searchsorted(old, labels)
    at[at == len(old)] = 0
    return np.where(old[at] == labels, new[at], labels)


def positions(labels: Labels, wanted: Labels) -> Integers:
    """Where each of ``wanted`` is in ``labels``, which ascends and has no label twice.

    Raises
    ------
    VolumeError
        One of them is not there.
    """
    at = np.searchsorted(labels, wanted)
    missing = at == len(labels)
    missing[~missing] = labels[at[~missing]] != wanted[~missing]
    if missing.any():
        raise VolumeError(
            f"{missing.sum()} labels of the graph are not in the table of labels, {wanted[missing][0]} for example.",
            "Graph and labels come from different segmentations, or labels were renamed in one of them only.",
            [
                "rename those of the graph too: graph.renamed(old, new)",
                "take the graph's own: numpy.unique([graph.a, graph.b])",
            ],
        )
    return at


@dataclass(frozen=True, eq=False)
class Graph:
    """Pairs of labels that touch: equally long columns, sorted by (a, b), each pair once.

    A row takes 48 bytes. Making a graph takes up to 80 bytes a row given, beside the rows and the result.
    """

    a: Labels
    """The lesser label of a pair, uint64."""
    b: Labels
    """The greater label, uint64."""
    most: Integers
    """The largest affinity of the pair's contacts, times `SCALE`, int64."""
    total: Integers
    """The sum of the affinities, each times `SCALE` and rounded, int64."""
    count: Integers
    """Contacts: faces between voxels of the one and voxels of the other, int64."""
    key: Integers
    """``3 * lin(v) + d`` of the strongest contact, the largest of several, int64: no two rows share one."""

    @classmethod
    def of(
        cls, a: ArrayLike, b: ArrayLike, most: ArrayLike, total: ArrayLike, count: ArrayLike, key: ArrayLike
    ) -> Graph:
        """The graph of rows in any order, pairs either way round, once or many times.

        Rows of one pair become one. Rows of a label with itself or with the background, 0, are dropped.
        """
        columns: list[NDArray[Any]] = [
            np.asarray(c, dtype) for c, dtype in zip((a, b, most, total, count, key), COLUMNS.values(), strict=True)
        ]
        low, high = np.minimum(columns[0], columns[1]), np.maximum(columns[0], columns[1])
        kept = (low != high) & (low != 0)
        columns[:2] = low, high
        if not kept.all():
            columns = [column[kept] for column in columns]
        # Stable, because that sort is linear on a few sorted tables in a row, which most calls bring.
        order = np.argsort(columns[0], kind="stable")
        _order_runs(order, columns[0], columns[1])
        return cls(*_reduced(order, *columns))

    @classmethod
    def empty(cls) -> Graph:
        """No rows."""
        return cls.from_arrays(dict.fromkeys(COLUMNS, np.empty(0)))

    @classmethod
    def joined(cls, graphs: Iterable[Graph]) -> Graph:
        """One graph with the contacts of all, each contact being in one of them."""
        kept = [graph for graph in graphs if len(graph)]
        if not kept:
            return cls.empty()
        if len(kept) == 1:
            return kept[0]
        return cls.of(*(np.concatenate([getattr(graph, name) for graph in kept]) for name in COLUMNS))

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Graph:
        """What `arrays` gave, from an npz file for example."""
        columns: list[NDArray[Any]] = [np.asarray(arrays[name], dtype) for name, dtype in COLUMNS.items()]
        return cls(*columns)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """The columns by name."""
        return {name: getattr(self, name) for name in COLUMNS}

    def __len__(self) -> int:
        return len(self.a)

    def __getitem__(self, rows: NDArray[np.bool_]) -> Graph:
        """The rows where a mask is true."""
        return Graph(*(getattr(self, name)[rows] for name in COLUMNS))

    def renamed(self, old: Labels, new: Labels) -> Graph:
        """The graph with labels replaced; rows that become the same pair are joined, those within a label go.

        Parameters
        ----------
        old, new
            Labels and what they become; ``old`` ascends. Labels that are not in it stay.
        """
        a, b = renamed(self.a, old, new), renamed(self.b, old, new)
        moved = (a != self.a) | (b != self.b)
        if not moved.any():
            return self
        # What did not move is still sorted: few rows are sorted, then two tables are merged.
        values = [getattr(self, name)[moved] for name in list(COLUMNS)[2:]]
        return Graph.joined([self[~moved], Graph.of(a[moved], b[moved], *values)])

    def frame(self) -> pd.DataFrame:
        """A row per pair: ``label_a``, ``label_b``, ``max`` and ``mean`` affinity, ``size`` (contact area in faces)."""
        import pandas as pd

        return pd.DataFrame(
            {
                "label_a": self.a,
                "label_b": self.b,
                "max": self.most / SCALE,
                "mean": self.total / self.count / SCALE,
                "size": self.count,
            }
        )


@compiled
def _order_runs(order: Integers, a: Labels, b: Labels) -> None:
    """Sort by b, in place, where an order by a has runs of equal a."""
    start = 0
    while start < len(order):
        stop = start + 1
        while stop < len(order) and a[order[stop]] == a[order[start]]:
            stop += 1
        if stop - start > 32:
            run = order[start:stop].copy()
            order[start:stop] = run[np.argsort(b[run], kind="mergesort")]
        else:
            for k in range(start + 1, stop):
                row, place = order[k], k
                while place > start and b[order[place - 1]] > b[row]:
                    order[place] = order[place - 1]
                    place -= 1
                order[place] = row
        start = stop


@compiled
def _reduced(
    order: Integers, a: Labels, b: Labels, most: Integers, total: Integers, count: Integers, key: Integers
) -> tuple[Labels, Labels, Integers, Integers, Integers, Integers]:
    """Rows in an order that puts equal pairs side by side, reduced."""
    pairs = 0
    for k in range(len(order)):
        i, j = order[k], order[max(k, 1) - 1]
        pairs += k == 0 or a[i] != a[j] or b[i] != b[j]
    a2, b2 = np.empty(pairs, np.uint64), np.empty(pairs, np.uint64)
    most2, total2 = np.empty(pairs, np.int64), np.zeros(pairs, np.int64)
    count2, key2 = np.zeros(pairs, np.int64), np.empty(pairs, np.int64)
    row = -1
    for i in order:
        if row < 0 or a[i] != a2[row] or b[i] != b2[row]:
            row += 1
            a2[row], b2[row], most2[row], key2[row] = a[i], b[i], most[i], key[i]
        elif most[i] > most2[row] or (most[i] == most2[row] and key[i] > key2[row]):
            most2[row], key2[row] = most[i], key[i]
        total2[row] += total[i]
        count2[row] += count[i]
    return a2, b2, most2, total2, count2, key2
