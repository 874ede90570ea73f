"""Any cut, any order: the same tables, and those of plain loops."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from chunkinfer.errors import VolumeError
from chunkinfer.objects.evaluation.contacts import CONTACTS, Touching
from chunkinfer.objects.evaluation.objects import LARGEST, SIZES, VALUES, Measured, in_steps
from chunkinfer.objects.evaluation.pairing import PAIRS, Compared, labels_at
from chunkinfer.objects.evaluation.tables import Columns
from tests.lib.evaluation import oracles

NONE = np.zeros((0, 3), np.int64)


@given(st.data())
def test_contingency_tables(data: st.DataObject) -> None:
    shape = data.draw(oracles.shapes)
    a, b, grid = (data.draw(s) for s in (oracles.labels(shape), oracles.labels(shape), oracles.grids(shape)))
    shuffle = data.draw(st.randoms()).shuffle
    step = Compared(oracles.part(b), oracles.part(a), NONE)
    assert oracles.joined(step, PAIRS, grid, shuffle) == oracles.contingency(a, b)


@given(st.data())
def test_sizes_and_intensities(data: st.DataObject) -> None:
    shape = data.draw(oracles.shapes)
    labels, grid = data.draw(oracles.labels(shape)), data.draw(oracles.grids(shape))
    dtype = data.draw(st.sampled_from(["u1", "i2", "u2", "f4"]))
    elements: Any = {"allow_nan": False, "min_value": -30000, "max_value": 30000} if dtype == "f4" else {}
    values = data.draw(hnp.arrays(dtype, shape, elements=elements))
    shuffle = data.draw(st.randoms()).shuffle
    sizes = oracles.joined(Measured(oracles.part(labels), None), SIZES, grid, shuffle)
    table = oracles.joined(Measured(oracles.part(labels), oracles.part(values)), VALUES, grid, shuffle)
    assert {name: table[name] for name in SIZES.names} == sizes
    assert sizes["label"] == np.unique(labels).tolist()
    whole = np.rint(values.astype(np.float64) * 65536) if dtype == "f4" else values
    for row, label in enumerate(sizes["label"]):
        at = np.argwhere(labels == label)
        assert sizes["voxels"][row] == len(at)
        assert [sizes[f"sum_{d}"][row] for d in "zyx"] == at.sum(0).tolist()
        assert [sizes[f"start_{d}"][row] for d in "zyx"] == at.min(0).tolist()
        assert [sizes[f"stop_{d}"][row] for d in "zyx"] == (at.max(0) + 1).tolist()
        own = [int(v) for v in whole[labels == label]]
        assert (table["sum_high"][row] << 32) + table["sum_low"][row] == sum(own)
        assert (table["squares_high"][row] << 32) + table["squares_low"][row] == sum(v * v for v in own)
        assert (table["min"][row], table["max"][row]) == (values[labels == label].min(), values[labels == label].max())


@given(st.data())
def test_contacts(data: st.DataObject) -> None:
    shape = data.draw(oracles.shapes)
    labels, grid = data.draw(oracles.labels(shape)), data.draw(oracles.grids(shape))
    table = oracles.joined(Touching(oracles.part(labels)), CONTACTS, grid, data.draw(st.randoms()).shuffle)
    found = {
        (table["label_a"][row], table["label_b"][row]): tuple(
            [table[f"{name}_{d}"][row] for d in "zyx"] for name in ("faces", "start", "stop")
        )
        for row in range(len(table["label_a"]))
    }
    assert found == oracles.touching(labels)


@given(st.data())
def test_labels_at_nodes(data: st.DataObject) -> None:
    """With a truth, which is read anyway, and without, where only the boxes around nodes are read."""
    shape = data.draw(oracles.shapes)
    labels, grid = data.draw(oracles.labels(shape)), data.draw(oracles.grids(shape))
    nodes = data.draw(hnp.arrays(np.int64, (data.draw(st.integers(0, 8)), 3), elements=st.integers(-2, 9)))
    inside = ((nodes >= 0) & (nodes < shape)).all(axis=1)
    wanted = [int(labels[tuple(v)]) if i else 0 for v, i in zip(nodes, inside, strict=True)]
    for truth in (None, oracles.part(labels)):
        step = Compared(oracles.part(labels), truth, nodes)
        tables = [step.read(grid.box(index)) for index in grid.indices()]
        assert labels_at(tables, len(nodes)).tolist() == wanted


def test_only_blocks_with_nodes_are_read() -> None:
    class Watched:
        """An array that tells what was read of it."""

        shape, dtype, ndim = (8, 8, 8), np.dtype("u1"), 3

        def __init__(self) -> None:
            self.read: list[Any] = []

        def __getitem__(self, key: Any) -> Any:
            self.read.append(key)
            return np.ones([part.stop - part.start for part in key], np.uint8)

    array: Any = Watched()
    step = Compared(oracles.part(array), None, np.array([[5, 1, 1], [6, 3, 1]]))
    grid = oracles.BlockGrid.regular((8, 8, 8), (4, 4, 4))
    for index in grid.indices():
        step.read(grid.box(index))
    assert array.read == [(slice(5, 7), slice(1, 4), slice(1, 2))]


def test_waiting_tables_are_joined_before_they_outgrow_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    reduced = Columns.reduced

    def watched(self: Columns, rows: Any) -> Any:
        sizes.append(len(rows["label"]))
        return reduced(self, rows)

    monkeypatch.setattr(Columns, "reduced", watched)
    monkeypatch.setattr("chunkinfer.objects.evaluation.tables.LEAST_JOIN", 10)
    columns = Columns(keys=("label",), sums=("n",))
    label, ones = np.arange(6, dtype=np.uint64), np.ones(6, np.int64)
    table = columns.joined({"label": label, "n": ones} for _ in range(100))
    assert table["n"].tolist() == [100] * 6
    assert max(sizes) <= 6 + 12


@pytest.mark.parametrize("value", [np.nan, np.inf, float(LARGEST), -float(LARGEST)])
def test_values_whose_sums_are_not_exact(value: float) -> None:
    with pytest.raises(VolumeError, match=r"isfinite|normalize"):
        in_steps(np.array([0.5, value], np.float32))
    with pytest.raises(VolumeError, match="within"):
        in_steps(np.array([LARGEST], np.int64))
