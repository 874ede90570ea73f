"""Regions: any cut and any tree give what the whole volume as one block gives."""

from __future__ import annotations

import io
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from chunkinfer.geometry.boxes import BlockGrid
from chunkinfer.objects.segmentation.joining import Region, Renames, join, relabelled
from tests.lib.segmentation.watersheds import Watershed, join_in_a_tree, random_grid, random_watershed, watersheds

SEEDS = st.integers(0, 2**32)


def assert_same(region: Region, other: Region) -> None:
    for (name, one), two in zip(region.arrays().items(), other.arrays().values(), strict=True):
        assert one.dtype == two.dtype, name
        assert np.array_equal(one, two), name


def assert_whole(watershed: Watershed, grid: BlockGrid, tree: int) -> None:
    """Labels, nodes and graph of a cut volume are those of the volume in one piece."""
    expected, tables = watershed.whole()
    blocks = watershed.cut(grid)
    regions = [Region.of_block(tables) for _, _, tables in blocks]
    region, steps = join_in_a_tree(regions, tree)
    labels = np.zeros(watershed.shape, np.uint64)
    for box, fragments, tables_of in blocks:
        labels[box.slices] = relabelled(fragments, tables_of["label"], steps)
    assert np.array_equal(labels, expected), grid.sizes
    assert_same(region, Region.of_block(tables))
    assert_same(join(regions)[0], region)
    assert len(region.cut_key) == len(region.exit_key) == len(region.open) == 0


# In these a plateau takes a lesser label, of what flows into it, while it waits for its exit.
@example(random_watershed((5, 3, 2), "8 bit", False, 39), 39, 39)
@example(random_watershed((2, 5, 2), "float32", False, 120), 120, 120)
@given(watersheds(), SEEDS, SEEDS)
def test_any_cut_and_any_tree_give_the_volume(watershed: Watershed, cut: int, tree: int) -> None:
    assert_whole(watershed, random_grid(watershed.shape, cut), tree)


@given(watersheds(), SEEDS, SEEDS, SEEDS)
def test_a_region_is_what_its_voxels_are(watershed: Watershed, cut: int, some: int, tree: int) -> None:
    """A part of the volume, of any shape, joined in two ways; then with the rest, in one table of renames."""
    regions = [Region.of_block(tables) for _, _, tables in watershed.cut(random_grid(watershed.shape, cut))]
    part = np.random.default_rng(some).random(len(regions)) < 0.5
    part[0] = True
    inside = [region for region, picked in zip(regions, part, strict=True) if picked]
    outside = [region for region, picked in zip(regions, part, strict=True) if not picked]
    region, first = join(inside)
    other, steps = join_in_a_tree(inside, tree)
    assert_same(other, region)
    once = reduce(Renames.then, steps, Renames(np.empty(0, np.uint64), np.empty(0, np.uint64)))
    assert np.array_equal(once.old, first.old)
    assert np.array_equal(once.new, first.new)
    whole, last = join([region, *outside])
    every = join(regions)
    assert_same(whole, every[0])
    both = first.then(last)
    assert np.array_equal(both.old, every[1].old)
    assert np.array_equal(both.new, every[1].new)


@given(watersheds(), SEEDS)
def test_what_is_not_open_is_final(watershed: Watershed, cut: int) -> None:
    blocks = watershed.cut(random_grid(watershed.shape, cut))
    whole = Region.of_block(watershed.whole()[1])
    for _, _, block in blocks:
        region = Region.of_block(block)
        assert np.isin(region.exit_label, region.open).all()
        for label in np.setdiff1d(region.label, region.open):
            assert seen_of(label, whole) == seen_of(label, region)


def seen_of(label: Any, region: Region) -> tuple[int, ...]:
    """Voxels of a fragment, contacts, and the sum of their affinities."""
    graph = region.graph
    rows = (graph.a == label) | (graph.b == label)
    return int(region.size[region.label == label][0]), int(graph.count[rows].sum()), int(graph.total[rows].sum())


def test_a_plateau_stays_open_until_all_of_it_is_there() -> None:
    """Voxels 2 to 6 of a row, with an exit at either end, are joined voxel by voxel."""
    affinities = np.zeros((3, 1, 1, 9), np.float32)
    affinities[2, 0, 0] = [0, 0.9, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.8]
    watershed = Watershed(affinities, 0.1, 0.95)
    region, *others = (Region.of_block(tables) for _, _, tables in watershed.cut(BlockGrid(((1,), (1,), (1,) * 9))))
    for last, voxel in enumerate(others, 1):
        region, renames = join([region, voxel])
        assert region.label.tolist() == ([1] if last == 1 else [1, 3])
        # The first exit is known at once and not followed. The second, which is better, is followed when it can be.
        assert region.exit_to.tolist() == {1: [], 7: [], 8: [], 6: [0]}.get(last, [1])
        # What the plateau may flow into is open with it.
        assert region.open.tolist() == ([1] if last == 1 else [1, 3] if last < 6 else [3] if last < 8 else [])
    assert region.size.tolist() == [2, 7]
    assert renames.old.tolist() == [9]
    assert renames.new.tolist() == [3]


def test_an_edge_that_is_nan_on_a_face_is_no_contact() -> None:
    affinities = np.full((3, 1, 4, 4), 0.5, np.float32)
    affinities[2, :, :, 2] = np.nan
    watershed = Watershed(affinities, 0.1, 0.9)
    assert_whole(watershed, BlockGrid(((1,), (2, 2), (2, 2))), 0)
    region, _ = join([Region.of_block(tables) for _, _, tables in watershed.cut(BlockGrid(((1,), (2, 2), (2, 2))))])
    assert region.label.tolist() == [1, 3]
    assert len(region.graph) == 0


@given(watersheds(), SEEDS)
def test_a_region_survives_a_file_without_pickles(watershed: Watershed, cut: int) -> None:
    _, _, tables = watershed.cut(random_grid(watershed.shape, cut))[0]
    region, file = Region.of_block(tables), io.BytesIO()
    np.savez(file, **region.arrays())
    file.seek(0)
    with np.load(file, allow_pickle=False) as arrays:
        assert_same(Region.from_arrays(arrays), region)


@pytest.fixture(scope="module")
def real(fib25: Path, real_models: Path) -> Any:
    """Affinities of real data by a network trained on it."""
    image = np.load(fib25 / "sample2_image.npy", mmap_mode="r")[40:104, 60:160, 80:180]
    network = torch.jit.load(real_models / "fib25_affinity.pt").eval()
    with torch.inference_mode():
        return network(torch.from_numpy(image[None, None].astype(np.float32) / 255))[0].numpy()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["float32", "8 bit", "4 bit"])
def test_twenty_cuts_of_real_affinities(real: Any, kind: str) -> None:
    levels = {"float32": 0, "8 bit": 255, "4 bit": 15}[kind]
    values = real if not levels else np.rint(real * levels).astype(np.uint8) * np.uint8(255 // levels)
    watershed = Watershed(values, 0.01, 0.9999)
    sizes = [(32, 50, 50), (17, 100, 33), (64, 23, 41), (1, 100, 100), (64, 100, 3), (40, 40, 40), (63, 99, 99)]
    grids = [BlockGrid.regular(watershed.shape, size) for size in sizes]
    grids += [random_grid(watershed.shape, random) for random in range(13)]
    for number, grid in enumerate(grids):
        assert_whole(watershed, grid, number)
