"""Connected components: for any cut and any tree what scipy gives on the whole volume, bit for bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from chunkinfer.errors import VolumeError
from chunkinfer.geometry.boxes import BlockGrid, Box
from chunkinfer.objects.segmentation.components import Components, components_join, components_step
from chunkinfer.objects.segmentation.graph import renamed

RANKS = {6: 1, 18: 2, 26: 3}


def oracle(volume: Any, connectivity: int) -> Any:
    """Labels 1 + least linear index, by scipy, value by value."""
    near = ndimage.generate_binary_structure(3, RANKS[connectivity])
    labels = np.zeros(volume.shape, np.uint64)
    for value in set(np.unique(volume).tolist()) - {0}:
        numbers, _ = ndimage.label(volume == value, near)
        first = np.unique(numbers, return_index=True)
        lookup = np.zeros(numbers.max() + 1, np.uint64)
        lookup[first[0]] = first[1] + 1
        lookup[0] = 0
        labels += lookup[numbers]
    return labels


def boxes(sizes: Any) -> list[Box]:
    """The blocks of a grid."""
    grid = BlockGrid(sizes)
    return [grid.box(index) for index in grid.indices()]


def blockwise(volume: Any, sizes: Any, connectivity: int, multilabel: bool, rng: np.random.Generator) -> Any:
    """Each block, then joins of a few regions at a time, picked at random; the volume's labels and the last region."""
    shape, labels, regions = volume.shape, np.zeros(volume.shape, np.uint64), []
    for box in boxes(sizes):
        fragments, table = components_step(volume[box.slices], box, shape, connectivity, multilabel)
        labels[box.slices] = np.concatenate([np.zeros(1, np.uint64), table.label])[fragments]
        regions.append(Components.from_arrays(table.arrays()))
    while True:
        some = [regions.pop(int(rng.integers(len(regions)))) for _ in range(min(len(regions), int(rng.integers(1, 4))))]
        region, old, new = components_join(some, shape, connectivity)
        labels = renamed(labels, old, new)
        if not regions:
            return labels, region
        regions.append(region)


@st.composite
def cut(draw: st.DrawFn) -> tuple[tuple[int, ...], ...]:
    """Block sizes along each axis."""
    part = st.integers(1, 5)
    return tuple(tuple(draw(st.lists(part, min_size=1, max_size=4))) for _ in range(3))


@given(cut(), st.sampled_from([6, 18, 26]), st.booleans(), st.integers(0, 2**32), st.sampled_from([0.1, 0.3, 0.6]))
@settings(max_examples=100)
def test_any_cut_and_tree_is_scipy(sizes: Any, connectivity: int, multilabel: bool, seed: int, part: float) -> None:
    rng = np.random.default_rng(seed)
    shape = tuple(map(sum, sizes))
    volume = (rng.random(shape) < part) * rng.integers(1, 3 if multilabel else 2, shape, np.uint16)
    if not multilabel:
        volume = volume > 0
    expected = oracle(volume, connectivity)
    labels, region = blockwise(volume, sizes, connectivity, multilabel, rng)
    np.testing.assert_array_equal(labels, expected)
    found, first, counts = np.unique(expected, return_index=True, return_counts=True)
    foreground = found > 0
    np.testing.assert_array_equal(region.label, found[foreground])
    np.testing.assert_array_equal(region.size, counts[foreground])
    np.testing.assert_array_equal(region.value, volume.ravel()[first[foreground]])
    assert region.boxes == (Box.of_shape(shape),)
    assert len(region.face) == 0, "nothing is outside of the volume"


@pytest.mark.parametrize("connectivity", [6, 18, 26])
def test_numbers_of_one_block_are_scipys(connectivity: int) -> None:
    volume = np.random.default_rng(4).random((40, 50, 60)) < 0.25
    fragments, _ = components_step(volume, Box.of_shape(volume.shape), volume.shape, connectivity)
    expected, _ = ndimage.label(volume, ndimage.generate_binary_structure(3, RANKS[connectivity]))
    np.testing.assert_array_equal(fragments, expected)


def test_faces_hold_a_surface_and_regions_drop_what_is_inside() -> None:
    shape = (8, 8, 16)
    volume = np.ones(shape, np.uint8)
    tables = [components_step(volume[box.slices], box, shape)[1] for box in boxes(((8,), (8,), (4, 4, 4, 4)))]
    assert [len(table.face) for table in tables] == [64, 128, 128, 64]
    left, _, _ = components_join(tables[:2], shape)
    assert (left.boxes, len(left.face)) == ((Box((0, 0, 0), (8, 8, 8)),), 64)
    apart, _, _ = components_join([tables[0], tables[3]], shape)
    assert len(apart.boxes) == 2
    whole, old, new = components_join([left, *tables[2:]], shape)
    assert (whole.label.tolist(), whole.size.tolist()) == ([1], [8 * 8 * 16])
    assert (old.tolist(), new.tolist()) == ([9, 13], [1, 1])


@pytest.mark.parametrize("dtype", ["bool", "int8", "uint16", "int32", "uint64", "int64"])
def test_labels_of_any_integers(dtype: str) -> None:
    volume = np.random.default_rng(2).integers(-2, 3, (6, 7, 8)).astype(dtype)
    labels, _ = blockwise(volume, ((3, 3), (7,), (5, 3)), 18, True, np.random.default_rng(1))
    np.testing.assert_array_equal(labels, oracle(volume, 18))


def test_large_labels_keep_their_bits() -> None:
    volume = np.array([[[2**60, 2**60 + 1]]], np.uint64)
    fragments, table = components_step(volume, Box.of_shape(volume.shape), volume.shape, multilabel=True)
    assert fragments.tolist() == [[[1, 2]]]
    assert table.value.tolist() == [2**60, 2**60 + 1]


@pytest.mark.parametrize(
    ("settings_", "message"),
    [
        ({"connectivity": 8}, "connectivity=8 is not one of 6, 18 and 26"),
        ({"multilabel": True}, "Labels are integers, and these voxels are float32"),
    ],
)
def test_refusals(settings_: dict[str, Any], message: str) -> None:
    with pytest.raises(VolumeError, match=message):
        components_step(np.ones((2, 2, 2), np.float32), Box.of_shape((2, 2, 2)), (2, 2, 2), **settings_)
