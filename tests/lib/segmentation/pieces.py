"""Region graphs of random volumes, cut into regions that are joined in a random tree."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from hypothesis import strategies as st

from chunkinfer.objects.segmentation.graph import Graph, renamed

Contact = tuple[int, int, int, int]
"""Two fragments, an affinity times SCALE, a key."""


@dataclass(frozen=True)
class Pieces:
    """Fragments of objects, each in one region; contacts between them; pairs that are parts of one object."""

    sizes: list[int]
    """Voxels of fragment k, whose label is ``labels[k]``."""
    region: list[int]
    """The region of fragment k."""
    contacts: list[Contact]
    same: list[tuple[int, int]]
    """Fragments of different regions that are one object: known as soon as both regions are in one."""
    seeds: list[int]
    """The seed number of fragment k, 0 for none."""
    tree: list[tuple[int, int]]
    """Which regions are joined, one pair after the other; the second goes into the first."""

    @property
    def labels(self) -> Any:
        return np.arange(len(self.sizes), dtype=np.uint64) * np.uint64(7) + np.uint64(3)


def pieces(seeded: bool = False) -> st.SearchStrategy[Pieces]:
    """Few affinities and sizes, so that ties and sizes at the limit are frequent.

    The random numbers are numpy's: hypothesis' own are mostly tiny graphs, which few mistakes show on.
    """
    return st.builds(random_pieces, st.integers(0, 2**32), st.integers(2, 30), st.integers(1, 5), st.just(seeded))


def random_pieces(random: int, n: int, regions: int, seeded: bool) -> Pieces:
    """``n`` fragments in ``regions`` regions."""
    rng = np.random.default_rng(random)
    region = rng.integers(0, regions, n).tolist()
    pairs = rng.integers(0, n, (int(rng.integers(1, 4 * n)), 2))
    pairs = pairs[pairs[:, 0] != pairs[:, 1]]
    levels = int(rng.integers(1, 16))
    contacts = [
        (int(i), int(j), int(w) << 20, int(key))
        for (i, j), w, key in zip(pairs, rng.integers(0, levels, len(pairs)), rng.permutation(len(pairs)), strict=True)
    ]
    same = [(i, j) for i, j in rng.integers(0, n, (n // 6, 2)).tolist() if region[i] != region[j]]
    seeds = [0] * n
    if seeded:
        # Fragments of one object have one seed, and some of them do not know.
        number = rng.choice([0, 0, 1, 2], n)
        seeds = (number[united(n, same)] * rng.integers(0, 2, n)).tolist()
    left, tree = rng.permutation(regions).tolist(), []
    while len(left) > 1:
        tree.append((left[0], left.pop()))
        rng.shuffle(left)
    return Pieces(rng.integers(1, 7, n).tolist(), region, contacts, same, seeds, tree)


def united(n: int, pairs: list[tuple[int, int]]) -> list[int]:
    """The least member of the set that each of n belongs to."""
    owner = list(range(n))
    for i, j in pairs:
        low, high = sorted((owner[i], owner[j]))
        owner = [low if k == high else k for k in owner]
    return owner


Step = Callable[[Any, Any, Graph, Any, Any], tuple[Any, Any, Graph]]
"""(labels, sizes, graph, frozen, (labels, seeds)) -> (old, new, the graph that goes up)."""


def in_a_tree(given: Pieces, step: Step) -> Any:
    """Run a step on each region, then on each union of two; the last label of every fragment."""
    names = given.labels
    members = {r: {r} for r in {*given.region, *(r for pair in given.tree for r in pair)}}
    graphs = {r: Graph.empty() for r in members}

    def reduce(r: int, known: list[set[int]]) -> None:
        nonlocal names
        inside = np.array([k in members[r] for k in given.region])

        def news(i: int, j: int) -> bool:
            pair = {given.region[i], given.region[j]}
            return pair <= members[r] and not any(pair <= part for part in known)

        for i, j in given.same:
            if news(i, j):
                names = np.where(names == max(names[i], names[j]), min(names[i], names[j]), names)
        new = np.array([c for c in given.contacts if news(c[0], c[1])], np.int64).reshape(-1, 4)
        rows = Graph.of(names[new[:, 0]], names[new[:, 1]], new[:, 2], new[:, 2], np.ones(len(new)), new[:, 3])
        graph = Graph.joined([graphs[r].renamed(given.labels, names), rows])
        labels = np.unique(names[inside])
        sizes = np.zeros(len(labels), np.int64)
        np.add.at(sizes, np.searchsorted(labels, names[inside]), np.array(given.sizes)[inside])
        outward = [
            names[i]
            for pair in [*given.same, *(c[:2] for c in given.contacts)]
            for i, j in (pair, pair[::-1])
            if inside[i] and not inside[j]
        ]
        frozen = np.unique(np.array(outward, np.uint64))
        old, to, graphs[r] = step(labels, sizes, graph, frozen, (names[inside], np.array(given.seeds)[inside]))
        names = renamed(names, old, to)

    for r in members:
        reduce(r, [])
    for first, second in given.tree:
        known = [members[first].copy(), members[second].copy()]
        members[first] |= members.pop(second)
        graphs[first] = Graph.joined([graphs[first].renamed(given.labels, names), graphs.pop(second)])
        reduce(first, known)
    return names


def at_once(given: Pieces, step: Step) -> Any:
    """The same with everything in one region."""
    return in_a_tree(replace(given, region=[0] * len(given.sizes), tree=[]), step)
