"""Scores against scikit-image's, and errors against plain loops."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.typing import NDArray
from skimage.metrics import adapted_rand_error, variation_of_information

from chunkinfer.objects.evaluation.mistakes import Errors
from chunkinfer.objects.evaluation.pairing import pairs
from chunkinfer.objects.evaluation.report import asked_of
from chunkinfer.objects.evaluation.run_length import Nodes, run_length
from chunkinfer.objects.evaluation.scoring import Parts, rand_scores
from chunkinfer.objects.evaluation.skeletons import Skeletons
from tests.lib.evaluation import oracles


def both(truth: NDArray[Any], segments: NDArray[Any], ignore: tuple[int, ...]) -> tuple[Any, Parts, Parts]:
    table = asked_of(pairs(truth, segments), ignore)
    return table, Parts.of(table, "truth", "segment"), Parts.of(table, "segment", "truth")


@given(st.data())
def test_as_scikit_image(data: st.DataObject) -> None:
    shape = data.draw(oracles.shapes)
    truth, segments = data.draw(oracles.labels(shape)), data.draw(oracles.labels(shape))
    ignore = data.draw(st.sampled_from([(0,), (), (0, 2)]))
    kept = ~np.isin(truth, ignore)
    assume(kept.any())
    table, split, merge = both(truth, segments, ignore)
    # scikit-image makes a matrix with a column per label: it needs small ones.
    a, b = (np.searchsorted(oracles.LABELS, labels) for labels in (truth, segments))
    ignored = np.searchsorted(oracles.LABELS, np.array(ignore, np.uint64)).tolist()
    voi = variation_of_information(a, b, ignore_labels=ignored)
    assert [split.bits.sum(), merge.bits.sum()] == pytest.approx(voi.tolist(), abs=1e-12)
    sizes = [max(np.unique(labels[kept], return_counts=True)[1]) for labels in (truth, segments)]
    if min(sizes) < 2:  # it divides by no pairs at all
        return
    # It calls precision what its documentation calls recall: scikit-image#6485.
    error, recall, precision = adapted_rand_error(a, b, ignore_labels=ignored)
    assert rand_scores(table) == pytest.approx((error, precision, recall), abs=1e-12)


def test_precision_is_low_where_objects_are_merged() -> None:
    one, two = np.ones((4, 4), np.uint64), np.repeat([[1, 1, 2, 2]], 4, 0).astype(np.uint64)
    assert rand_scores(pairs(one, two))[1:] == pytest.approx((1, 7 / 15))
    assert rand_scores(pairs(two, one))[1:] == pytest.approx((7 / 15, 1))


@given(st.integers(1, 9))
def test_no_pairs_are_no_errors(n: int) -> None:
    singles = np.arange(1, n + 1, dtype=np.uint64)
    assert rand_scores(pairs(singles, singles)) == (0, 1, 1)


@given(st.data())
def test_which_voxels_are_wrong(data: st.DataObject) -> None:
    shape = data.draw(oracles.shapes)
    truth, segments = data.draw(oracles.labels(shape)), data.draw(oracles.labels(shape))
    ignore = data.draw(st.sampled_from([(0,), (), (1, 3)]))
    asked = ~np.isin(truth, ignore)
    assume(asked.any())
    _, split, merge = both(truth, segments, ignore)

    def largest(labels: NDArray[Any]) -> int:
        found, counts = np.unique(labels, return_counts=True)
        return int(found[counts.argmax()])  # the least of equally large ones

    wrong = np.zeros(shape, int)
    for v in zip(*asked.nonzero(), strict=True):
        t, s = truth[v], segments[v]
        if s == 0 or s != largest(segments[asked & (truth == t)]):
            wrong[v] = 1
        if s and t != largest(truth[asked & (segments == s)]):
            wrong[v] = 2
    assert Errors.of(split, merge, ignore)(truth, segments).tolist() == wrong.tolist()
    for parts, whole, other in ((split, truth, segments), (merge, segments, truth)):
        rows = parts.frame().to_dict("records")
        named = [int(label) for label in np.unique(whole[asked]) if len(np.unique(other[asked & (whole == label)])) > 1]
        assert sorted(row["label"] for row in rows) == named
        assert [row["voi"] for row in rows] == sorted((row["voi"] for row in rows), reverse=True)
        for row in rows:
            on = other[asked & (whole == row["label"])]
            found, counts = np.unique(on, return_counts=True)
            ordered = [int(label) for _, label in sorted(zip(-counts, found.tolist(), strict=True))]
            assert row["partners"] == tuple(ordered)
            assert (row["parts"], row["voxels"], row["lost"]) == (len(found), on.size, on.size - counts.max())


@st.composite
def traced(draw: Any) -> tuple[Skeletons, NDArray[np.uint64]]:
    n = draw(st.integers(2, 12))
    ids = np.array(draw(st.lists(st.integers(0, 3), min_size=n, max_size=n)), np.int64)
    nodes = np.array(draw(st.lists(st.tuples(*(st.integers(0, 20),) * 3), min_size=n, max_size=n)), np.float64)
    able = [(u, v) for u in range(n) for v in range(u) if ids[u] == ids[v]]
    edges = draw(st.lists(st.sampled_from(able), unique=True)) if able else []
    labels = np.array(draw(st.lists(st.integers(0, 4), min_size=n, max_size=n)), np.uint64)
    return Skeletons.of({"nodes": nodes, "edges": edges, "skeletons": ids}), labels


@given(traced(), st.integers(1, 3))
def test_run_length_by_its_definition(case: tuple[Skeletons, NDArray[np.uint64]], merge_nodes: int) -> None:
    skeletons, labels = case
    steps = skeletons.nodes[skeletons.edges]
    lengths = np.linalg.norm(steps[:, 0] - steps[:, 1], axis=1)
    found = run_length(Nodes(skeletons, lengths, np.ones(len(labels), bool), labels, merge_nodes))
    plain = (skeletons.nodes, skeletons.edges, skeletons.skeletons.tolist())
    assert found.erl == pytest.approx(oracles.expected_run_length(*plain, labels.tolist(), merge_nodes))
    perfect = oracles.expected_run_length(*plain, (skeletons.skeletons + 1).tolist(), 1)
    assert found.longest == pytest.approx(perfect)
    assert found.correct + found.split + found.omitted + found.merged == len(skeletons.edges)
    assert found.skeletons.length.sum() == pytest.approx(found.length)
    assert (found.skeletons.erl * found.skeletons.length).sum() == pytest.approx(found.erl * found.length)
    json.dumps(found.as_dict())


def test_a_merging_segment_counts_as_zero_and_others_stay() -> None:
    """Two skeletons of three unit edges each; one node of the second lies in a segment of the first."""
    nodes = [(0, 0, x) for x in range(4)] + [(0, 1, x) for x in range(4)]
    edges = [(0, 1), (1, 2), (2, 3), (4, 5), (5, 6), (6, 7)]
    skeletons = Skeletons.of({"nodes": nodes, "edges": edges, "skeletons": [5] * 4 + [6] * 4})
    labels = np.array([1, 1, 2, 2, 1, 3, 3, 3], np.uint64)
    found = run_length(Nodes(skeletons, np.ones(6), np.ones(8, bool), labels))
    assert found.mergers.to_dict("records") == [{"label": 1, "skeletons": (5, 6), "nodes": 3}]
    assert (found.correct, found.split, found.merged) == (3, 2, 1)
    assert found.erl == pytest.approx((1**2 + 2**2) / 6)
    assert run_length(Nodes(skeletons, np.ones(6), np.ones(8, bool), labels, merge_nodes=2)).merged == 0
    outside = run_length(Nodes(skeletons, np.ones(6), np.arange(8) != 7, labels))
    assert (outside.outside, outside.length, outside.erl) == (1, 5, pytest.approx((1 + 1) / 5))
