"""The watershed of one block: equal to its definition, to waterz in number, within the memory that is stated."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from math import prod
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from chunkinfer.errors import PlanError, VolumeError
from chunkinfer.geometry.boxes import BlockGrid, Box
from chunkinfer.objects.segmentation.basins import block_step
from tests.lib.segmentation.watersheds import Watershed, by_definition, random_watershed, watersheds

GRAPH = ("a", "b", "most", "total", "count", "key")


def many_neighbours() -> Watershed:
    """A row that touches forty pairs of voxels, by turns below and behind it: more than are sorted by insertion."""
    affinities = np.full((3, 2, 2, 40), 0.05, np.float32)
    affinities[2, ..., 1::2] = 0.8
    affinities[2, 0, 0] = 0.8
    return Watershed(affinities, 0.1, 0.9)


@given(watersheds(5))
@example(many_neighbours())
def test_a_volume_as_one_block_is_the_definition(watershed: Watershed) -> None:
    labels, tables = watershed.whole()
    expected, graph = by_definition(watershed)
    assert np.array_equal(labels, expected)
    found = [tuple(int(v) for v in row) for row in zip(*(tables[name] for name in GRAPH), strict=True)]
    assert found == graph
    label, size = np.unique(expected[expected > 0], return_counts=True)
    assert np.array_equal(tables["label"], label)
    assert np.array_equal(tables["size"], size)
    assert [len(tables[name]) for name in ("cut_row", "cut_tie", "cut_weight", "exit_row")] == [0] * 4


def test_a_plateau_leaves_by_its_largest_key() -> None:
    """Five voxels in a row at 0.5, a higher pair at either end: they all go to the second."""
    affinities = np.zeros((3, 1, 1, 9), np.float32)
    affinities[2, 0, 0] = [0, 0.9, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.8]
    labels, _ = Watershed(affinities, 0.1, 0.95).whole()
    assert labels[0, 0].tolist() == [1, 1, 3, 3, 3, 3, 3, 3, 3]
    clamped, _ = Watershed(affinities, 0.1, 0.5).whole()
    assert clamped[0, 0].tolist() == [1] * 9
    dropped, _ = Watershed(affinities, 0.5, 0.95).whole()
    assert dropped[0, 0].tolist() == [1, 1, 0, 0, 0, 0, 0, 8, 8]


@pytest.mark.parametrize("dtype", [np.float32, np.uint8])
def test_an_affinity_counts_up_to_one(dtype: Any) -> None:
    affinities = np.zeros((3, 1, 1, 4), np.float32)
    affinities[2, 0, 0] = [0, 1, 0.2, 1]
    if dtype == np.float32:
        affinities[2, 0, 0, 1::2] = np.inf, 7
        affinities[0], affinities[1] = np.nan, -np.inf  # of the volume's faces: edges that do not exist
    values = (affinities * 255).astype(dtype) if dtype == np.uint8 else affinities
    _, tables = Watershed(values, 0.3, 0.9).whole()
    assert tables["label"].tolist() == [1, 3]
    assert tables["most"].tolist() == tables["total"].tolist() == [51 * 2**16]


@given(watersheds(), st.data())
def test_tables_of_faces_are_as_large_as_the_faces(watershed: Watershed, data: st.DataObject) -> None:
    start = [data.draw(st.integers(0, n - 1)) for n in watershed.shape]
    stop = [data.draw(st.integers(a + 1, n)) for a, n in zip(start, watershed.shape, strict=True)]
    box = Box(tuple(start), tuple(stop))
    _, tables = watershed.block(box)
    planes = [box.size // n for n in box.shape]
    below = sum(plane for plane, a in zip(planes, box.start, strict=True) if a > 0)
    above = sum(plane for plane, b, n in zip(planes, box.stop, watershed.shape, strict=True) if b < n)
    assert len(tables["cut_row"]) == len(tables["cut_tie"]) == below + above
    assert len(tables["cut_weight"]) == below
    assert len(np.unique(tables["exit_row"])) == len(tables["exit_row"]) <= below + above
    assert np.isin(tables["exit_row"], tables["cut_row"]).all()


def test_arguments_that_do_not_fit_are_refused() -> None:
    ones, whole = np.ones((3, 4, 5, 6), np.float32), Box((0, 0, 0), (4, 5, 6))
    half, shape = Box((0, 0, 0), (2, 5, 6)), (4, 5, 6)
    with pytest.raises(VolumeError, match="float64"):
        block_step(ones.astype(np.float64), whole, whole, shape, 0.1, 0.9)
    with pytest.raises(VolumeError, match=r"\(3, 4, 5, 6\)"):
        block_step(ones[:, 1:], whole, whole, shape, 0.1, 0.9)
    with pytest.raises(VolumeError, match="mask"):
        block_step(ones, whole, whole, shape, 0.1, 0.9, np.ones((4, 5, 5), bool))
    with pytest.raises(VolumeError, match="2 voxels beyond"):
        block_step(ones[:, :3], half, Box((0, 0, 0), (3, 5, 6)), shape, 0.1, 0.9)
    for low, high in ((-0.1, 0.5), (0.5, 0.5), (0.1, np.nan)):
        with pytest.raises(PlanError, match="0 <= low < high"):
            block_step(ones, whole, whole, shape, low, high)


def test_threads_do_not_disturb_each_other() -> None:
    watershed = random_watershed((40, 40, 40), "8 bit", True, 3)
    grid = BlockGrid.regular(watershed.shape, (20, 20, 20))
    boxes = [grid.box(index) for index in grid.indices()] * 4
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(watershed.block, boxes))
    for box, (fragments, tables) in zip(boxes, found, strict=True):
        again, once = watershed.block(box)
        assert np.array_equal(fragments, again)
        assert all(np.array_equal(tables[name], once[name]) for name in once)


@pytest.mark.parametrize("kind", ["float32", "float32, few levels", "8 bit", "4 bit", "8 bit, two levels"])
def test_basins_and_background_are_as_many_as_those_of_waterz(kind: str, capfd: pytest.CaptureFixture[str]) -> None:
    waterz = pytest.importorskip("waterz")
    for random in range(8):
        made = random_watershed((20, 21, 22), kind, False, random)
        # Not a value of the affinities: waterz compares in float32 what we compare exactly.
        watershed = Watershed(made.affinities, 0.4567, 0.8765)
        values = made.affinities / np.float32(255) if made.affinities.dtype == np.uint8 else made.affinities
        theirs = next(iter(waterz.agglomerate(values, [0.0], aff_threshold_low=0.4567, aff_threshold_high=0.8765)))
        labels, tables = watershed.whole()
        assert len(tables["label"]) == len(np.unique(theirs[theirs > 0]))
        assert np.array_equal(labels == 0, theirs == 0)
    capfd.readouterr()  # what waterz prints


MEASURED = """
import re, sys
import numpy as np
from pathlib import Path
from chunkinfer.geometry.boxes import Box
from chunkinfer.objects.segmentation.basins import block_step, working_bytes

def status(name):
    return int(re.search(name + r":\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024

def step(values):
    whole = Box.of_shape(values.shape[1:])
    return block_step(values, whole, whole, whole.shape, 0.1, 0.95)

rng = np.random.default_rng(0)
values = rng.random((3, 96, 96, 96), np.float32)
step(values[:, :8].copy())  # compiled, loaded
before = status("VmRSS")
Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
fragments, tables = step(values)
print(status("VmHWM") - before, working_bytes(fragments.shape, len(tables["label"]), len(tables["a"])))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the system's count of resident memory is read from /proc")
def test_memory_is_what_is_stated() -> None:
    found = subprocess.run([sys.executable, "-c", MEASURED], check=True, stdout=subprocess.PIPE, text=True)
    measured, stated = map(int, found.stdout.split())
    assert 0.7 * stated < measured < 1.05 * stated
    assert stated < 120 * prod((96, 96, 96))  # five voxels a fragment
