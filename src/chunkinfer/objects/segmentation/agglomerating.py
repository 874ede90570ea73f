"""Mean affinity agglomeration: a dendrogram, whole or in a tree of regions.

The pair with the largest mean affinity merges, ties going to the largest key; the contacts of the two with a third
object become one row, sums added; and so on while the mean is at least a floor. Means are compared as fractions of
integers, exactly.

The order is *reducible*: the mean of two rows lies between theirs, and where both means are equal, the key is one of
the two keys. So no merge makes a row that comes before both rows that went into it. Three things follow:

- Two objects that are each other's best stay so until they merge, whatever merges elsewhere: any schedule gives one
  tree, and its rows descend in (mean, key) from each merge to those that hold it.
- So the merges down to any threshold are the first rows: another threshold costs a relabel, `Dendrogram.labels_at`.
- In a tree of regions, objects that touch what is outside are *frozen*: their rows are not all known, and two of them
  may turn out to be one. An object whose best row leads to a frozen one waits, and so does one whose best leads to one
  that waits. Two others that are each other's best merge now: what is not known yet lies between other objects, or
  joins two rows of these to others, which then comes before neither. An object with no row left at the floor or above
  is done, and its rows go.

Objects with different seeds never merge, nor does anything that holds them. Rows between such are passed over, and so
is every sum that one goes into: what is left of an object's rows still never moves up.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from chunkinfer.errors import VolumeError
from chunkinfer.objects.segmentation.graph import SCALE, Graph, Integers, Labels, positions, renamed, scaled
from chunkinfer.objects.segmentation.merging import Seeds, seed_numbers
from chunkinfer.support.jit import compiled

MERGE = {"a": np.uint64, "b": np.uint64, "total": np.int64, "count": np.int64, "key": np.int64}


@dataclass(frozen=True, eq=False)
class Dendrogram:
    """Merges of pairs of objects in the order of merging: equally long columns, 40 bytes a merge.

    An object's name is the least label in it. Each label is in ``b`` at most once: from there on it is no name.
    """

    a: Labels
    """The name that stays, the lesser one, uint64."""
    b: Labels
    """The name that goes, uint64."""
    total: Integers
    """The sum of the affinities between the two objects, times `SCALE`, int64."""
    count: Integers
    """Contacts between them, int64."""
    key: Integers
    """The key of their strongest contact, int64: it decides among equal means."""

    @property
    def score(self) -> NDArray[np.float64]:
        """The mean affinity at which each pair merged, descending, float64."""
        return self.total / self.count / SCALE

    def labels_at(self, threshold: float) -> tuple[Labels, Labels]:
        """Labels that are no more, ascending, and what each became, where pairs merge at ``threshold`` or above.

        Parameters
        ----------
        threshold
            A mean affinity in [0, 1]. Below the floor of the dendrogram it gives what the floor gives.
        """
        merged = self.total // self.count >= scaled(threshold)
        order = np.argsort(self.b[merged])
        old, new = self.b[merged][order], self.a[merged][order]
        # Each round doubles the merges that a name takes at once.
        while ((further := renamed(new, old, new)) != new).any():
            new = further
        return old, new

    @classmethod
    def joined(cls, parts: Iterable[Dendrogram]) -> Dendrogram:
        """The merges of all regions of a tree, in the order in which one call makes them."""
        arrays = [part.arrays() for part in parts]
        columns = {name: np.concatenate([array[name] for array in arrays] or [np.empty(0)]) for name in MERGE}
        whole = cls.from_arrays(columns)
        order = np.lexsort((-whole.key, -whole.score))
        _order_exactly(order, whole.total, whole.count, whole.key)
        return cls.from_arrays({name: column[order] for name, column in columns.items()})

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Dendrogram:
        """What `arrays` gave, from an npz file for example."""
        columns: list[NDArray[Any]] = [np.asarray(arrays[name], dtype) for name, dtype in MERGE.items()]
        return cls(*columns)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """The columns by name."""
        return {name: getattr(self, name) for name in MERGE}

    def __len__(self) -> int:
        return len(self.a)


class Agglomerated(NamedTuple):
    """What became of a region."""

    dendrogram: Dendrogram
    """The merges that are decided, down to the floor."""
    graph: Graph
    """Rows that later knowledge may still merge, in new labels; none without frozen labels."""


def agglomerate(
    graph: Graph, floor: float = 0.0, *, frozen: Labels | None = None, seeds: Seeds | None = None
) -> Agglomerated:
    """Merge by mean affinity, the best pair first.

    It takes about 90 bytes a row beside the graph, and time in proportion to n log n rows.

    Parameters
    ----------
    graph
        Which objects touch, how strongly.
    floor
        The least mean affinity that merges, in [0, 1]: the lowest threshold that the dendrogram can be asked for.
    frozen
        Labels with contacts, or parts, outside of what ``graph`` covers. Only what these cannot change is decided.
    seeds
        Labels with a seed number each: objects with different seeds never merge.

    Raises
    ------
    VolumeError
        A label has two seeds, or the graph has 2**30 rows or more.
    """
    if len(graph) >= 2**30:
        raise VolumeError(
            f"The region graph has {len(graph):,} rows, and one call takes fewer than 2**30.",
            "The graph of a large volume is agglomerated region by region, what is left of regions joined in a tree.",
            ["agglomerate(graph_of_region, floor, frozen=labels_that_touch_its_outside)", "Raise merge_size."],
        )
    labels = np.unique(np.concatenate([graph.a, graph.b]))
    seed = seed_numbers(labels, seeds)
    waiting = np.zeros(len(labels), np.bool_)
    if frozen is not None:
        waiting[np.isin(labels, frozen)] = True
    rows = np.empty(len(graph), ROW)
    rows["u"], rows["v"] = positions(labels, graph.a), positions(labels, graph.b)
    for column in ("most", "total", "count", "key"):
        rows[column] = getattr(graph, column)
    if seeds is not None:
        u, v = seed[rows["u"]], seed[rows["v"]]
        rows = rows[(u == v) | (u == 0) | (v == 0)]
    name = np.arange(len(labels))
    merges = np.empty(len(labels), MERGED)
    merges = merges[: _agglomerate(rows, name, seed, waiting, scaled(floor), merges)]
    columns = {"a": labels[merges["a"]], "b": labels[merges["b"]], **{k: merges[k] for k in ("total", "count", "key")}}
    left = rows[rows["u"] >= 0]
    left = left[waiting[left["u"]] & waiting[left["v"]]]
    up = Graph.of(
        labels[name[left["u"]]], labels[name[left["v"]]], left["most"], left["total"], left["count"], left["key"]
    )
    return Agglomerated(Dendrogram.from_arrays(columns), up)


ROW = np.dtype(
    [
        ("u", np.int32),  # places of the two objects; u is -1 when the row is no more
        ("v", np.int32),
        ("most", np.int64),
        ("total", np.int64),
        ("count", np.int64),
        ("key", np.int64),
        ("at", np.int32),  # where in the heap, -1 for nowhere
    ],
    align=True,
)
MERGED = np.dtype([(name, np.int64) for name in MERGE])


@compiled
def _agglomerate(
    rows: NDArray[Any], name: Integers, seed: Integers, waiting: NDArray[np.bool_], floor: int, merges: NDArray[Any]
) -> int:
    """Merge while a row is at the floor or above: those are in the heap; the number of merges.

    An object is a place. A row is in the lists of both of its objects and in a hash table; the rows of the object with
    the shorter list go to the other, which keeps its place and takes the lesser name.
    """
    heap, means = np.empty(len(rows), np.int32), np.empty(len(rows))
    first, further = np.full(len(name), -1, np.int32), np.empty(2 * len(rows), np.int32)
    length = np.zeros(len(name), np.int32)
    slots = 4
    while slots < 2 * len(rows):
        slots *= 2
    table = np.full(slots, -1, np.int32)
    size = 0
    for e in range(len(rows)):
        row = rows[e]
        row.at = -1
        if row.total // row.count >= floor:
            row.at, heap[size], means[size] = size, e, row.total / row.count
            size += 1
        for half, i in ((2 * e, row.u), (2 * e + 1, row.v)):
            further[half] = first[i]
            first[i] = half
            length[i] += 1
    filled = _fill(table, rows)
    for at in range(size // 2 - 1, -1, -1):
        _sink(heap, means, rows, size, at)
    done = 0
    while size:
        best = heap[0]
        i, j = rows[best].u, rows[best].v
        size = _leave(heap, means, rows, size, best)
        if seed[i] and seed[j] and seed[i] != seed[j]:
            continue
        if waiting[i] or waiting[j]:
            waiting[i] = waiting[j] = True
            continue
        merge = merges[done]
        merge.a, merge.b = min(name[i], name[j]), max(name[i], name[j])
        merge.total, merge.count, merge.key = rows[best].total, rows[best].count, rows[best].key
        done += 1
        if length[i] < length[j]:
            i, j = j, i
        name[i] = merge.a
        seed[i] = max(seed[i], seed[j])
        rows[best].u = -1
        half = first[j]
        while half >= 0:
            e, after = half >> 1, further[half]
            row = rows[e]
            if row.u >= 0:
                other = row.v if row.u == j else row.u
                f = _look_up(table, rows, i, other)
                if f < 0:
                    row.u, row.v = (i, row.v) if row.u == j else (row.u, i)
                    further[half] = first[i]
                    first[i] = half
                    length[i] += 1
                    filled += _enter(table, rows, e)
                    if 4 * filled > 3 * slots:
                        filled = _fill(table, rows)
                else:
                    size = _join(heap, means, rows, size, f, e, floor)
            half = after
    return done


@compiled
def _join(
    heap: NDArray[np.int32], means: NDArray[np.float64], rows: NDArray[Any], size: int, f: int, e: int, floor: int
) -> int:
    """Row e becomes part of row f, which is in the heap from then on if it is at the floor; the heap's new size."""
    row, part = rows[f], rows[e]
    if part.at >= 0:
        size = _leave(heap, means, rows, size, e)
    if part.most > row.most or (part.most == row.most and part.key > row.key):
        row.most, row.key = part.most, part.key
    row.total += part.total
    row.count += part.count
    part.u = -1
    if row.total // row.count < floor:
        return _leave(heap, means, rows, size, f) if row.at >= 0 else size
    if row.at < 0:
        row.at, heap[size] = size, f
        size += 1
    means[row.at] = row.total / row.count
    _rise(heap, means, rows, row.at)
    _sink(heap, means, rows, size, row.at)
    return size


@compiled
def _before(mean: float, row: Any, mean2: float, row2: Any) -> bool:
    """Whether a row comes before another: by mean as a fraction, then by key."""
    # Three roundings a mean are less than this margin: outside of it the fractions differ as the floats do.
    if mean > mean2 * (1 + 2.0**-50):
        return True
    if mean2 > mean * (1 + 2.0**-50):
        return False
    order = _compare(row.total, row.count, row2.total, row2.count)
    return row.key > row2.key if order == 0 else order > 0


@compiled
def _compare(total: int, count: int, total2: int, count2: int) -> int:
    """The sign of total / count - total2 / count2, by their continued fractions: no product, so no overflow."""
    sign = 1
    while True:
        whole, whole2 = total // count, total2 // count2
        if whole != whole2:
            return sign if whole > whole2 else -sign
        total, total2 = total - whole * count, total2 - whole2 * count2
        if total == 0 or total2 == 0:
            return sign * (int(total > 0) - int(total2 > 0))
        total, count, total2, count2 = count, total, count2, total2
        sign = -sign


@compiled
def _order_exactly(order: Integers, total: Integers, count: Integers, key: Integers) -> None:
    """Mend an order, in place, that rounded means and keys gave: only means that differ by a rounding move."""
    for k in range(1, len(order)):
        row, at = order[k], k
        while at > 0:
            before = order[at - 1]
            sign = _compare(total[row], count[row], total[before], count[before])
            if sign < 0 or (sign == 0 and key[row] < key[before]):
                break
            order[at] = before
            at -= 1
        order[at] = row


@compiled
def _rise(heap: NDArray[np.int32], means: NDArray[np.float64], rows: NDArray[Any], at: int) -> None:
    """Move a row of the heap up until none above comes after it."""
    e, mean = heap[at], means[at]
    while at > 0:
        above = (at - 1) // 2
        if not _before(mean, rows[e], means[above], rows[heap[above]]):
            break
        heap[at], means[at] = heap[above], means[above]
        rows[heap[at]].at = at
        at = above
    heap[at], means[at] = e, mean
    rows[e].at = at


@compiled
def _sink(heap: NDArray[np.int32], means: NDArray[np.float64], rows: NDArray[Any], size: int, at: int) -> None:
    """Move a row of the heap down until none below comes before it."""
    e, mean = heap[at], means[at]
    while 2 * at + 1 < size:
        below = 2 * at + 1
        if below + 1 < size and _before(means[below + 1], rows[heap[below + 1]], means[below], rows[heap[below]]):
            below += 1
        if not _before(means[below], rows[heap[below]], mean, rows[e]):
            break
        heap[at], means[at] = heap[below], means[below]
        rows[heap[at]].at = at
        at = below
    heap[at], means[at] = e, mean
    rows[e].at = at


@compiled
def _leave(heap: NDArray[np.int32], means: NDArray[np.float64], rows: NDArray[Any], size: int, e: int) -> int:
    """Take a row out of the heap; its new size."""
    at, size = rows[e].at, size - 1
    rows[e].at = -1
    if at < size:
        heap[at], means[at] = heap[size], means[size]
        rows[heap[at]].at = at
        _rise(heap, means, rows, at)
        _sink(heap, means, rows, size, rows[heap[at]].at)
    return size


@compiled
def _slot(i: int, j: int, slots: int) -> int:
    """Where to look for the row of two objects first."""
    mixed = (np.uint64(min(i, j)) << np.uint64(32) | np.uint64(max(i, j))) * np.uint64(0x9E3779B97F4A7C15)
    return int(np.int64((mixed ^ mixed >> np.uint64(32)) & np.uint64(slots - 1)))


@compiled
def _look_up(table: NDArray[np.int32], rows: NDArray[Any], i: int, j: int) -> int:
    """The row of two objects, or -1. Entries of rows that moved or are no more are passed over."""
    at = _slot(i, j, len(table))
    while table[at] >= 0:
        row = rows[table[at]]
        if (row.u == i and row.v == j) or (row.u == j and row.v == i):
            return int(table[at])
        at = (at + 1) & (len(table) - 1)
    return -1


@compiled
def _enter(table: NDArray[np.int32], rows: NDArray[Any], e: int) -> int:
    """Enter a row that is not there, in the place of one that is no more or in a free one: 1 if it took a free one."""
    at = _slot(rows[e].u, rows[e].v, len(table))
    while table[at] >= 0 and rows[table[at]].u >= 0:
        at = (at + 1) & (len(table) - 1)
    free = table[at] < 0
    table[at] = e
    return int(free)


@compiled
def _fill(table: NDArray[np.int32], rows: NDArray[Any]) -> int:
    """Enter all rows anew; how many there are."""
    table[:] = -1
    filled = 0
    for e in range(len(rows)):
        if rows[e].u >= 0:
            filled += _enter(table, rows, e)
    return filled
