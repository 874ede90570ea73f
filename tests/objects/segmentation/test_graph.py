"""Region graphs: rows reduced by maxima and integer sums."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chunkinfer.errors import VolumeError
from chunkinfer.objects.segmentation.graph import SCALE, Graph, positions, renamed, scaled

ROWS = st.lists(st.tuples(*[st.integers(0, 6)] * 2, *[st.integers(0, 3)] * 2, st.integers(1, 3)), max_size=60).map(
    lambda rows: [(*row, key) for key, row in enumerate(rows)]
)


def reduced(rows: list[Any]) -> list[Any]:
    """The definition, with a dictionary."""
    pairs: dict[Any, Any] = {}
    for a, b, most, total, count, key in rows:
        if a != b and a and b:
            pair = (min(a, b), max(a, b))
            before = pairs.get(pair, ((-1, -1), 0, 0))
            pairs[pair] = (max(before[0], (most, key)), before[1] + total, before[2] + count)
    return [(*pair, m, total, count, key) for pair, ((m, key), total, count) in sorted(pairs.items())]


def columns(rows: list[Any]) -> list[Any]:
    return list(np.array(rows, np.int64).reshape(-1, 6).T)


def listed(graph: Graph) -> list[Any]:
    return [tuple(int(v) for v in row) for row in zip(*graph.arrays().values(), strict=True)]


@given(ROWS, st.randoms(use_true_random=False))
def test_rows_are_reduced_in_any_order_and_any_parts(rows: list[Any], random: Any) -> None:
    expected = reduced(rows)
    assert listed(Graph.of(*columns(rows))) == expected
    random.shuffle(rows)
    cuts = sorted(random.randrange(len(rows) + 1) for _ in range(3))
    parts = [rows[i:j] for i, j in zip([0, *cuts], [*cuts, len(rows)], strict=True)]
    assert listed(Graph.joined(Graph.of(*columns(part)) for part in parts)) == expected


@given(ROWS, st.lists(st.integers(0, 6), min_size=7, max_size=7))
def test_renaming_is_reducing_renamed_rows(rows: list[Any], names: list[int]) -> None:
    old, new = np.arange(1, 7, dtype=np.uint64), np.array(names[1:], np.uint64)
    names[0] = 0
    expected = reduced([(names[a], names[b], *rest) for a, b, *rest in rows])
    assert listed(Graph.of(*columns(rows)).renamed(old, new)) == expected


def test_long_runs_are_sorted_too() -> None:
    rng = np.random.default_rng(3)
    rows = [(1 if k % 3 else 5, int(b), 1, 1, 1, k) for k, b in enumerate(rng.integers(6, 400, 2000))]
    assert listed(Graph.of(*columns(rows))) == reduced(rows)


def test_labels_keep_all_of_their_bits() -> None:
    high = np.array([2**64 - 1], np.uint64)
    graph = Graph.of(high, high - np.uint64(1), [1], [1], [1], [2**62])
    assert listed(graph) == [(2**64 - 2, 2**64 - 1, 1, 1, 1, 2**62)]


def test_arrays_come_back() -> None:
    graph = Graph.of([1, 2], [2, 3], [5, 6], [7, 8], [1, 2], [0, 1])
    assert listed(Graph.from_arrays(graph.arrays())) == listed(graph)
    assert listed(Graph.joined([])) == listed(Graph.empty()) == []


def test_frame_is_in_affinities() -> None:
    frame = Graph.of([2], [1], [SCALE], [SCALE], [2], [0]).frame()
    assert frame.to_dict("records") == [{"label_a": 1, "label_b": 2, "max": 1.0, "mean": 0.5, "size": 2}]


def test_uint8_and_its_float32_quotient_are_the_same_integers() -> None:
    for value in range(256):
        assert scaled(value / 255) == scaled(float(np.float32(value) / np.float32(255))) == value * 2**16


def test_renames_leave_other_labels() -> None:
    labels = np.array([1, 9, 4, 9, 12], np.uint64)
    got = renamed(labels, np.array([4, 9], np.uint64), np.array([2, 3], np.uint64))
    assert got.tolist() == [1, 3, 2, 3, 12]


def test_a_missing_label_is_named() -> None:
    with pytest.raises(VolumeError, match=r"1 labels of the graph .* 8 for example"):
        positions(np.array([1, 5], np.uint64), np.array([5, 8], np.uint64))
