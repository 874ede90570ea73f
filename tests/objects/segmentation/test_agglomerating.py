"""Mean affinity agglomeration: what a plain heap gives, whole or in any tree of regions."""

from __future__ import annotations

import heapq
from collections import defaultdict
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from chunkinfer.errors import VolumeError
from chunkinfer.objects.segmentation.agglomerating import Dendrogram, _compare, agglomerate
from chunkinfer.objects.segmentation.graph import SCALE, Graph, renamed
from tests.lib.segmentation.pieces import Pieces, at_once, in_a_tree, pieces, united

Merge = tuple[int, int, int, int, int]
"""Name that stays, name that goes, total, count, key."""


def plain_heap(given: Pieces, floor: int) -> list[Merge]:
    """The definition, contact by contact, with a heap of fractions whose old entries are passed over."""
    n = len(given.sizes)
    owner = united(n, given.same)
    seeds = {k: max(s for s, o in zip([*given.seeds, 0], [*owner, k], strict=True) if o == k) for k in range(n)}
    touching: dict[int, dict[int, list[tuple[int, int]]]] = defaultdict(dict)
    for i, j, w, key in given.contacts:
        a, b = owner[i], owner[j]
        if a != b:
            touching[a][b] = touching[b][a] = [*touching[a].get(b, []), (w, key)]
    heap: list[Any] = []

    def push(a: int, b: int) -> None:
        contacts = touching[a][b]
        mean = Fraction(sum(w for w, _ in contacts), len(contacts))
        heapq.heappush(heap, (-mean, -max(contacts)[1], min(a, b), max(a, b), contacts))

    for a in list(touching):
        for b in touching[a]:
            push(a, b)
    merges = []
    while heap:
        mean, key, a, b, contacts = heapq.heappop(heap)
        if -mean < floor:
            break
        if touching.get(a, {}).get(b) is not contacts or 0 < seeds[a] != seeds[b] > 0:
            continue
        labels = given.labels
        merges.append((int(labels[a]), int(labels[b]), sum(w for w, _ in contacts), len(contacts), -key))
        seeds[a] = max(seeds[a], seeds[b])
        del touching[a][b]
        for c, others in touching.pop(b).items():
            if c != a:
                del touching[c][b]
                touching[a][c] = touching[c][a] = [*touching[a].get(c, []), *others]
                push(a, c)
    return merges


def listed(dendrogram: Dendrogram) -> list[Merge]:
    return [tuple(int(v) for v in row) for row in zip(*dendrogram.arrays().values(), strict=True)]


@given(pieces(), st.integers(0, 6))
@settings(max_examples=150)
def test_any_tree_gives_what_a_plain_heap_gives(given: Pieces, floor: int) -> None:
    check(given, floor << 20)


@given(pieces(seeded=True), st.integers(0, 6))
@settings(max_examples=150)
def test_seeds_hold_objects_apart_in_any_tree(given: Pieces, floor: int) -> None:
    check(given, floor << 20)


def check(given: Pieces, floor: int) -> None:
    expected = plain_heap(given, floor)
    for run in (at_once, in_a_tree):
        parts, last = [], []

        def step(labels: Any, sizes: Any, graph: Graph, frozen: Any, seeds: Any) -> Any:
            dendrogram, left = agglomerate(graph, floor / SCALE, frozen=frozen, seeds=seeds)
            parts.append(dendrogram)  # noqa: B023
            last[:] = [left]  # noqa: B023
            return *dendrogram.labels_at(0), left

        run(given, step)
        assert len(last[0]) == 0, "nothing is undecided in the end"
        assert listed(Dendrogram.joined(parts)) == expected


@given(pieces(seeded=True), st.integers(0, 15))
def test_another_threshold_is_a_relabel(given: Pieces, threshold: int) -> None:
    contacts = np.array(given.contacts, np.int64).reshape(-1, 4)
    labels, w = given.labels, contacts[:, 2]
    graph = Graph.of(labels[contacts[:, 0]], labels[contacts[:, 1]], w, w, np.ones(len(w)), contacts[:, 3])
    number = np.array(given.seeds)
    whole, _ = agglomerate(graph, seeds=(labels, number))
    there, _ = agglomerate(graph, (threshold << 20) / SCALE, seeds=(labels, number))
    means = [Fraction(t, c) for t, c in zip(whole.total.tolist(), whole.count.tolist(), strict=True)]
    assert means == sorted(means, reverse=True)
    assert listed(there) == listed(whole)[: len(there)]
    names = labels
    for a, b, *_ in listed(there):
        names = np.where(names == b, np.uint64(a), names)
    np.testing.assert_array_equal(renamed(labels, *whole.labels_at((threshold << 20) / SCALE)), names)


@given(*[st.integers(0, 2**62), st.integers(1, 2**62)] * 2)
@example(2**62 - 1, 2**62 - 2, 2**62 - 2, 2**62 - 3)  # equal as floats, and their products overflow
@example(2**60, 2**59, 2, 1)
def test_means_are_compared_exactly(total: int, count: int, total2: int, count2: int) -> None:
    first, second = Fraction(total, count), Fraction(total2, count2)
    assert _compare(total, count, total2, count2) == (first > second) - (first < second)


def test_means_that_are_one_float_are_ordered_exactly() -> None:
    big = 2**55
    graph = Graph.of([1, 3, 5], [2, 4, 6], [9, 9, 9], [big + 1, big + 3, big + 2], [big, big, big], [7, 5, 6])
    dendrogram, _ = agglomerate(graph)
    assert dendrogram.a.tolist() == [3, 5, 1]
    backwards = Dendrogram.from_arrays({name: column[::-1] for name, column in dendrogram.arrays().items()})
    assert listed(Dendrogram.joined([backwards])) == listed(dendrogram)


def test_a_large_graph_fills_the_table_again_and_again() -> None:
    """A wheel: its hub, its rim or both take in the rest, and it ends as one object."""
    n = 3000
    rng = np.random.default_rng(5)
    spokes, ring = np.arange(2, n), np.arange(2, n - 1)
    a, b = np.concatenate([np.ones(n - 2, int), ring]), np.concatenate([spokes, ring + 1])
    total = rng.integers(1, 100, len(a))
    dendrogram, _ = agglomerate(Graph.of(a, b, total, total, rng.integers(1, 9, len(a)), rng.permutation(len(a))))
    assert len(dendrogram) == n - 2
    old, new = dendrogram.labels_at(0)
    assert old.tolist() == list(range(2, n))
    assert set(new.tolist()) == {1}


def test_what_a_region_leaves_undecided() -> None:
    mean = np.array([8, 7, 1, 6, 2]) << 20
    graph = Graph.of([1, 3, 2, 5, 4], [2, 4, 5, 6, 7], mean, mean, np.ones(5), np.arange(5))
    dendrogram, left = agglomerate(graph, 3 / 16, frozen=np.array([4, 5, 7], np.uint64))
    assert dendrogram.b.tolist() == [2]  # 3 waits for 4, 6 for 5
    # 1 + 2 is done: what it has left is below the floor. Between 4 and 7 there may be more than is known.
    assert left.arrays()["a"].tolist() == [3, 4, 5]
    assert left.arrays()["b"].tolist() == [4, 7, 6]


def test_scores_are_affinities() -> None:
    dendrogram, _ = agglomerate(Graph.of([1], [2], [SCALE], [SCALE], [4], [0]), 0.25)
    assert dendrogram.score.tolist() == [0.25]
    assert len(agglomerate(Graph.of([1], [2], [SCALE], [SCALE - 1], [4], [0]), 0.25).dendrogram) == 0


def test_nothing_at_all() -> None:
    dendrogram, left = agglomerate(Graph.empty())
    assert len(dendrogram) == len(left) == len(Dendrogram.joined([])) == 0
    assert [len(part) for part in dendrogram.labels_at(0.5)] == [0, 0]


def test_two_seeds_in_one_object_are_refused() -> None:
    graph = Graph.of([1], [2], [5], [5], [1], [0])
    with pytest.raises(VolumeError, match="Object 1 has two seeds"):
        agglomerate(graph, seeds=(np.array([1, 1], np.uint64), np.array([1, 2])))
