"""Size-dependent merging: what Kruskal's algorithm gives, whole or in any tree of regions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chunkinfer.errors import VolumeError
from chunkinfer.objects.segmentation.graph import SCALE, Graph, renamed
from chunkinfer.objects.segmentation.joining import Region, join
from chunkinfer.objects.segmentation.merges import contracted
from chunkinfer.objects.segmentation.merging import merge_by_size
from tests.lib.segmentation.pieces import Pieces, at_once, in_a_tree, pieces, united
from tests.lib.segmentation.watersheds import Watershed, random_grid, watersheds

THRESHOLD = (3 << 20) / SCALE
"""The fourth of the affinities that `pieces` draws."""


def kruskal(given: Pieces, merge_size: int) -> Any:
    """The definition, contact by contact: the label of every fragment."""
    n = len(given.sizes)
    owner = united(n, given.same)
    size = [sum(s for s, o in zip(given.sizes, owner, strict=True) if o == k) for k in range(n)]
    seed = [max(s for s, o in zip([*given.seeds, 0], [*owner, k], strict=True) if o == k) for k in range(n)]
    for i, j, w, _ in sorted(given.contacts, key=lambda contact: contact[2:], reverse=True):
        a, b = sorted((owner[i], owner[j]))
        if w < THRESHOLD * SCALE or a == b or min(size[a], size[b]) >= merge_size or 0 < seed[a] != seed[b] > 0:
            continue
        owner = [a if k == b else k for k in owner]
        size[a] += size[b]
        seed[a] = max(seed[a], seed[b])
    return given.labels[owner]


@given(pieces(), st.integers(1, 25))
@settings(max_examples=150)
def test_any_tree_gives_what_kruskal_gives(given: Pieces, merge_size: int) -> None:
    check(given, merge_size)


@given(pieces(seeded=True), st.integers(1, 25))
@settings(max_examples=150)
def test_seeds_hold_objects_apart_in_any_tree(given: Pieces, merge_size: int) -> None:
    check(given, merge_size)


def check(given: Pieces, merge_size: int) -> None:
    """Labels, sizes and the graph that is left: as by the definition, in one call and in the tree."""
    expected = kruskal(given, merge_size)
    for run in (at_once, in_a_tree):
        rests, last = [], []

        def step(labels: Any, sizes: Any, graph: Graph, frozen: Any, seeds: Any) -> Any:
            merged = merge_by_size(labels, sizes, graph, THRESHOLD, merge_size, frozen=frozen, seeds=seeds)
            rests.append(merged.rest)  # noqa: B023
            last[:] = [merged]  # noqa: B023
            return merged.old, merged.new, merged.graph

        names = run(given, step)
        np.testing.assert_array_equal(names, expected)
        assert len(last[0].graph) == 0, "nothing is undecided in the end"
        labels, at = np.unique(expected, return_inverse=True)
        np.testing.assert_array_equal(last[0].labels, labels)
        np.testing.assert_array_equal(last[0].sizes, np.bincount(at, given.sizes))
        contacts = np.array(given.contacts, np.int64).reshape(-1, 4)
        w, one = contacts[:, 2], np.ones(len(contacts))
        whole = Graph.of(expected[contacts[:, 0]], expected[contacts[:, 1]], w, w, one, contacts[:, 3])
        left = Graph.joined([rest.renamed(given.labels, names) for rest in rests])
        for name, column in whole.arrays().items():
            np.testing.assert_array_equal(getattr(left, name), column)


@given(watersheds(), st.integers(0, 2**32), st.integers(0, 2**32), st.integers(2, 40), st.sampled_from([0.0, 0.3, 0.6]))
@settings(max_examples=100)
def test_blocks_of_a_watershed_merge_on_their_way_up(
    watershed: Watershed, cut: int, tree: int, merge_size: int, threshold: float
) -> None:
    """Basins that are cut, plateaus that are open: what `Region.open` names is enough to freeze."""
    rng = np.random.default_rng(tree)
    rests: list[Graph] = []

    def step(region: Region) -> Region:
        nonlocal names
        merged = merge_by_size(region.label, region.size, region.graph, threshold, merge_size, frozen=region.open)
        names = renamed(names, merged.old, merged.new)
        rests.append(merged.rest)
        return contracted(region, merged)

    regions = [Region.of_block(tables) for _, _, tables in watershed.cut(random_grid(watershed.shape, cut))]
    names = labels = np.sort(np.concatenate([region.label for region in regions]))
    regions = [step(region) for region in regions]
    while len(regions) > 1:
        some = [regions.pop(int(rng.integers(len(regions)))) for _ in range(min(len(regions), int(rng.integers(2, 4))))]
        region, steps = join(some)
        names = renamed(names, *steps)
        regions.append(step(region))
    whole = Region.of_block(watershed.whole()[1])
    expected = merge_by_size(whole.label, whole.size, whole.graph, threshold, merge_size)
    assert len(regions[0].graph) == 0
    np.testing.assert_array_equal(regions[0].label, expected.labels)
    np.testing.assert_array_equal(regions[0].size, expected.sizes)
    left = Graph.joined([rest.renamed(labels, names) for rest in rests])
    for name, column in expected.rest.arrays().items():
        np.testing.assert_array_equal(getattr(left, name), column)


def line(*rows: tuple[int, int, int]) -> Graph:
    """Rows (a, b, most), keys in order."""
    a, b, most = np.array(rows).T
    return Graph.of(a, b, most << 20, most << 20, np.ones(len(rows)), np.arange(len(rows)))


@pytest.mark.parametrize(
    ("frozen", "merged"),
    [
        ([], {2: 1, 3: 1}),  # the stronger row first: 1 + 2 is small still and takes 3
        ([3], {2: 1}),  # 1 + 2 touches 3, small and frozen: later
        ([1], {}),  # all hangs on 1
    ],
)
def test_what_a_frozen_object_leaves_undecided(frozen: list[int], merged: dict[int, int]) -> None:
    labels = np.array([1, 2, 3], np.uint64)
    graph = line((1, 2, 9), (2, 3, 8))
    got = merge_by_size(labels, np.array([2, 2, 2]), graph, 0.1, 5, frozen=np.array(frozen, np.uint64))
    assert dict(zip(got.old.tolist(), got.new.tolist(), strict=True)) == merged
    assert len(got.graph) == 2 - len(merged)
    assert len(got.rest) == 0


def test_a_small_object_joins_a_large_frozen_one_now() -> None:
    labels = np.array([1, 2], np.uint64)
    got = merge_by_size(labels, np.array([2, 50]), line((1, 2, 9)), 0.1, 5, frozen=labels[1:])
    assert got.labels.tolist() == [1]
    assert got.sizes.tolist() == [52]


@pytest.mark.parametrize(
    ("seeds", "left"), [([0, 0], [1]), ([0, 7], [1]), ([7, 7], [1]), ([7, 0], [1, 2]), ([7, 8], [1, 2])]
)
def test_a_seeded_object_joins_a_frozen_one_of_its_seed_only(seeds: list[int], left: list[int]) -> None:
    labels = np.array([1, 2], np.uint64)
    graph, sizes = line((1, 2, 9)), np.array([2, 50])
    got = merge_by_size(labels, sizes, graph, 0.1, 5, frozen=labels[1:], seeds=(labels, np.array(seeds)))
    assert got.labels.tolist() == left
    # An object with a seed may still join one without; one of another seed never.
    assert len(got.graph) == (seeds == [7, 0])


def test_the_threshold_includes_itself() -> None:
    labels = np.array([1, 2], np.uint64)
    for threshold, left in (((8 << 20) / SCALE, [1]), ((8 << 20) / SCALE + 1 / SCALE, [1, 2])):
        got = merge_by_size(labels, np.array([1, 1]), line((1, 2, 8)), threshold, 5)
        assert got.labels.tolist() == left


def test_two_seeds_in_one_object_are_refused() -> None:
    labels = np.array([1, 2], np.uint64)
    seeds = (np.array([2, 2], np.uint64), np.array([4, 5]))
    with pytest.raises(VolumeError, match="Object 2 has two seeds: 4 and 5"):
        merge_by_size(labels, np.array([1, 1]), line((1, 2, 8)), 0.5, 5, seeds=seeds)


def test_a_graph_of_other_labels_is_refused() -> None:
    with pytest.raises(VolumeError, match="not in the table of labels, 2 for example"):
        merge_by_size(np.array([1, 3], np.uint64), np.array([1, 1]), line((1, 2, 8)), 0.5, 5)


def test_renames_are_to_the_least_label() -> None:
    labels = np.array([4, 6, 9], np.uint64)
    got = merge_by_size(labels, np.array([1, 1, 1]), line((9, 6, 8), (4, 9, 7)), 0.1, 5)
    np.testing.assert_array_equal(renamed(labels, got.old, got.new), [4, 4, 4])
