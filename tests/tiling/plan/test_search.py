"""The cut into blocks, against a plain count of the patches that each block computes."""

from __future__ import annotations

from fractions import Fraction
from itertools import product
from math import prod

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import chunkinfer as ci
from chunkinfer.geometry.boxes import BlockGrid
from chunkinfer.geometry.contract import AxisContract
from chunkinfer.geometry.lattice import PatchLattice, blended_axis
from chunkinfer.tiling.plan.blocks import STRIDES_PER_BLOCK, Budget, choose_block, most_patches
from chunkinfer.tiling.plan.search import Network, exact_lattices
from tests.lib.random_axes import contracts

ANY_SIZE = AxisContract(1, Fraction(1), 0, 0, (0, 0), (0,), 1)


@st.composite
def lattices(draw: st.DrawFn) -> PatchLattice:
    axes = []
    for _ in range(2):
        patch = draw(st.integers(2, 12))
        axes.append(blended_axis(ANY_SIZE, draw(st.integers(1, 60)), patch, draw(st.integers(0, patch - 1))))
    return PatchLattice(tuple(axes))


def patches_of(lattice: PatchLattice, block: tuple[int, ...]) -> list[int]:
    """Patches of each block, counted one by one."""
    grid = BlockGrid.regular(lattice.output, block)
    return [sum(1 for _ in lattice.touching(box)) for box in map(grid.box, grid.indices())]


@given(lattices(), st.lists(st.integers(1, 60), min_size=2, max_size=2), st.integers(1, 5))
def test_no_kernel_computes_more_than_the_bound(lattice: PatchLattice, block: list[int], kernels: int) -> None:
    loads = [0] * kernels
    for patches in patches_of(lattice, tuple(block)):
        loads[loads.index(min(loads))] += patches  # whoever is free takes the next
    assert max(loads) <= most_patches(lattice, block, kernels)


@given(lattices(), st.integers(1, 4), st.integers(100, 4000), st.integers(4, 60))
def test_a_blended_block_lets_the_last_kernel_end_first(
    lattice: PatchLattice, kernels: int, voxels: int, most: int
) -> None:
    chosen = choose_block(lattice, 8, (None, None), Budget(block=8 * voxels), kernels, (1, 1), most)
    options = [range(1, STRIDES_PER_BLOCK + 1)] * 2
    bounds = []
    for counts in product(*options):
        block = tuple(min(k * a.zone, a.output) for k, a in zip(counts, lattice.axes, strict=True))
        patches = patches_of(lattice, block)
        if prod(block) <= voxels and max(patches) <= most:
            bounds.append((sum(patches) + (kernels - 1) * max(patches)) / kernels)
    if bounds:
        assert most_patches(lattice, chosen, kernels) == min(bounds)


@given(contracts(), st.integers(1, 300), st.none() | st.integers(1, 200), st.integers(1, 128))
def test_a_search_finds_a_lattice_for_every_axis(
    contract: AxisContract, size: int, block: int | None, chunk: int
) -> None:
    """Also for outputs finer than the input, contexts longer than half of the volume, and blocks of any size."""
    size = max(size, contract.smallest)
    network = Network((contract,), (size,), ("z",), 4.0, 4)
    found = exact_lattices(network, (None,), (block,), (0,), Budget(1 << 30, 1 << 30), (chunk,))
    for lattice in found.lattices:
        (axis,) = lattice.axes
        assert axis.exact
        assert 0 < axis.patch <= contract.accepted_at_least(size)
        assert contract.accepts(axis.patch)


def test_memory_buys_blended_blocks_that_share_no_patch() -> None:
    volume, net = np.zeros((120, 120, 120), "u1"), nn.Sequential(nn.Conv3d(1, 8, 3, padding=1)).eval()
    settings = {"patch": 24, "overlap": 8, "block": None}
    plan = ci.plan(volume, net, memory="4 GiB", **settings)
    assert (plan.patches, plan.kernels, plan.fits) == (len(plan.lattice), 1, True), "one block, one kernel, all threads"
    assert ci.plan(volume, net, memory="4 GiB", threads=1, **settings).patches > len(plan.lattice)


@pytest.mark.parametrize("block", [None, (32, 64, 64)])
def test_a_network_without_context_is_not_cut_into_single_voxels(block: tuple[int, ...] | None) -> None:
    """All patches compute the same there; the fewest are the best."""
    plan = ci.plan(np.zeros((64, 64, 64), "f4"), nn.Conv3d(1, 1, 1), block=block)
    assert plan.patches <= 2
