"""Merging by size: size-dependent single linkage, whole or in a tree of regions.

Rows of the region graph are taken from the strongest down, in the order of (most, key), while their affinity is at
least ``merge_threshold``; one merges its two objects if either is smaller than ``merge_size`` voxels at that moment.
This is Kruskal's algorithm with a condition, and what it gives depends on the graph only.

In a tree, a region holds objects that touch what is outside of it. They are *frozen*: their contacts, their sizes and
even whether two of them are one object is not known yet. Everything that later knowledge can change is left for the
next region up. What is decided here, and why it holds for every completion of the graph:

- *live* objects have had no undecided row yet. All their contacts are known, so the strongest row left of a live object
  is its strongest in the whole volume too. When it comes up between two live objects, both are in the whole volume what
  they are here, and so is the decision.
- Two objects of ``merge_size`` or more never merge through a row of their own: sizes only grow. This holds for frozen
  ones too.
- A live small object whose strongest row leads to an object X of ``merge_size`` or more that is frozen or waiting: it
  merges into X, whatever X has become by then, because it is small itself. Adding its size to X too early changes
  nothing, because X is large with it and without it.
- Everything else waits: the row goes up undecided, and a live object at its end is live no longer. In particular a
  small object does not join a small frozen one, though it is certain that it will: its size would come too early, and
  could turn a merge of the frozen one through a stronger row, not known yet, into a refusal.

Two objects with different seeds never merge. Seeds stay with an object, so a refusal for that reason is final; a merge
of a seeded object into one that waits is only certain if that has the same seed already.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from chunkinfer.errors import VolumeError
from chunkinfer.objects.segmentation.flowing import find
from chunkinfer.objects.segmentation.graph import Graph, Integers, Labels, positions, scaled
from chunkinfer.support.jit import compiled

Seeds = tuple[Labels, Integers]
"""Labels and their seed numbers: objects with different numbers never merge; 0 is no seed."""


class Merged(NamedTuple):
    """What became of a region."""

    old: Labels
    """Labels that are no more, ascending."""
    new: Labels
    """What each became: the least label of its object."""
    labels: Labels
    """Labels after merging, ascending."""
    sizes: Integers
    """Voxels of each."""
    graph: Graph
    """Rows that later knowledge decides, in new labels; none without frozen labels."""
    rest: Graph
    """Rows that are decided and still join two objects, in new labels. Later renames apply to them too."""


def merge_by_size(
    labels: Labels,
    sizes: Integers,
    graph: Graph,
    merge_threshold: float,
    merge_size: int,
    *,
    frozen: Labels | None = None,
    seeds: Seeds | None = None,
) -> Merged:
    """Merge small objects into the neighbour they touch most strongly.

    Parameters
    ----------
    labels
        Every label once, ascending, uint64.
    sizes
        Voxels of each, int64.
    graph
        Which of them touch, how strongly.
    merge_threshold
        The least affinity, in [0, 1], of a pair's strongest contact for the pair to merge.
    merge_size
        In voxels. A pair merges if one of the two is smaller than this.
    frozen
        Labels with contacts, or parts, outside of what ``graph`` covers. Only what these cannot change is decided.
    seeds
        Labels with a seed number each: objects with different seeds never merge.

    Raises
    ------
    VolumeError
        The graph has a label that is not in ``labels``, or a label has two seeds.
    """
    order = np.flatnonzero(graph.most >= scaled(merge_threshold))
    order = order[np.lexsort((graph.key[order], graph.most[order]))[::-1]]
    root = np.arange(len(labels))
    waiting = np.zeros(len(labels), np.bool_)
    if frozen is not None:
        waiting[positions(labels, frozen)] = True
    undecided = np.zeros(len(graph), np.bool_)
    sizes = sizes.copy()
    undecided[order] = _merge(
        positions(labels, graph.a[order]),
        positions(labels, graph.b[order]),
        root,
        sizes,
        waiting,
        seed_numbers(labels, seeds),
        merge_size,
    )
    kept = root == np.arange(len(labels))
    old, new = labels[~kept], labels[root[~kept]]
    up, rest = graph[undecided].renamed(old, new), graph[~undecided].renamed(old, new)
    return Merged(old, new, labels[kept], sizes[kept], up, rest)


def seed_numbers(labels: Labels, seeds: Seeds | None) -> Integers:
    """The seed number of each of ``labels``, which ascend: 0 where there is none.

    Raises
    ------
    VolumeError
        Two rows of ``seeds`` give one label different numbers.
    """
    numbers = np.zeros(len(labels), np.int64)
    if seeds is None or len(labels) == 0:
        return numbers
    at = np.searchsorted(labels, seeds[0])
    at[at == len(labels)] = 0
    given = (labels[at] == seeds[0]) & (seeds[1] != 0)
    at, values = at[given], np.asarray(seeds[1][given], np.int64)
    numbers[at] = values
    twice = numbers[at] != values
    if twice.any():
        label, first, second = labels[at[twice][0]], values[twice][0], numbers[at[twice][0]]
        raise VolumeError(
            f"Object {label} has two seeds: {first} and {second}.",
            "Both lie in one basin of the watershed, or in parts of one object that a threshold joined already.",
            ["Give the two one number.", "Raise low, or lower high, so that the watershed makes smaller basins."],
        )
    return numbers


@compiled
def _merge(
    a: Integers,
    b: Integers,
    root: Integers,
    size: Integers,
    waiting: NDArray[np.bool_],
    seed: Integers,
    merge_size: int,
) -> NDArray[np.bool_]:
    """Take rows in order; ``root`` becomes the least place of each object. Which rows are undecided."""
    undecided = np.zeros(len(a), np.bool_)
    for row in range(len(a)):
        i, j = find(root, a[row]), find(root, b[row])
        if i == j or min(size[i], size[j]) >= merge_size or (seed[i] and seed[j] and seed[i] != seed[j]):
            continue
        if waiting[i]:
            i, j = j, i
        if waiting[j]:
            certain = size[i] < merge_size <= size[j] and (seed[i] == 0 or seed[i] == seed[j])
            if waiting[i] or not certain:
                waiting[i] = undecided[row] = True
                continue
        low, high = min(i, j), max(i, j)
        root[high] = low
        size[low] += size[high]
        waiting[low] |= waiting[high]
        seed[low] = max(seed[low], seed[high])
    for i in range(len(root)):
        root[i] = find(root, i)
    return undecided
