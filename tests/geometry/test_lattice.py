"""The lattice against a plain oracle: every claim that the kernel relies on, for random axes."""

from __future__ import annotations

import re
from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from chunkinfer.errors import PlanError
from chunkinfer.geometry.boxes import BlockGrid, Box
from chunkinfer.geometry.contract import AxisContract
from chunkinfer.geometry.lattice import AxisLattice, PatchLattice, blended_axis, exact_axis, least_half
from tests.lib.random_axes import contracts


@st.composite
def exact_axes(draw: st.DrawFn) -> AxisLattice:
    contract = draw(contracts())
    size = draw(st.integers(contract.smallest, 300))
    least = contract.low + contract.high + 3 * contract.period
    patch = contract.accepted_at_least(least + draw(st.integers(0, 60)))
    halves = draw(st.booleans())  # two patches, each flush with an end
    if halves and draw(st.booleans()):
        patch = least_half(contract, size)
    try:
        return exact_axis(contract, size, patch, halves=halves)
    except PlanError:
        assume(False)
        raise


@st.composite
def blended_axes(draw: st.DrawFn) -> AxisLattice:
    contract = draw(contracts())
    patch = contract.accepted_at_least(draw(st.integers(8, 60)))
    overlap = draw(st.integers(sum(contract.crop), patch - 1))
    assume((patch - overlap) % contract.stride.numerator == 0)
    return blended_axis(contract, draw(st.integers(1, 300)), patch, overlap)


@given(exact_axes())
def test_zones_tile_the_output(axis: AxisLattice) -> None:
    zones = [axis.owned(k) for k in range(len(axis.starts))]
    assert zones[0][0] == 0
    assert zones[-1][1] == axis.output
    assert all(a[1] == b[0] for a, b in pairwise(zones))
    assert all(a < b for a, b in zones)


@given(exact_axes())
def test_every_zone_has_its_context_or_a_flush_border(axis: AxisLattice) -> None:
    c = axis.contract
    for k, start in enumerate(axis.starts):
        low, high = axis.owned(k)
        first, last = int(low * axis.stride), -(-int(high * axis.stride) // c.period) * c.period
        assert start % c.period == 0
        assert 0 <= start <= start + axis.patch <= axis.padded
        assert start == 0 or first - start >= c.low
        assert start + axis.patch == axis.padded or start + axis.patch - last >= c.high
        local = low - axis.origin(k)
        assert 0 <= local <= local + high - low <= axis.patch_output


@given(blended_axes(), st.data())
def test_a_block_finds_exactly_the_patches_that_touch_it(axis: AxisLattice, data: st.DataObject) -> None:
    assume(axis.output > 0)
    low = data.draw(st.integers(0, axis.output - 1))
    high = data.draw(st.integers(low + 1, axis.output))
    spans = [(axis.origin(k), axis.origin(k) + axis.patch_output) for k in range(len(axis.starts))]
    assert list(axis.touching(low, high)) == [k for k, (a, b) in enumerate(spans) if a < high and b > low]
    assert all(start % axis.stride == 0 for start in axis.starts)
    for voxel in (low, high - 1):
        assert any(a <= voxel < b for a, b in spans)


@given(st.one_of(exact_axes(), blended_axes()), st.data())
def test_what_a_block_sees_holds_all_its_patches(axis: AxisLattice, data: st.DataObject) -> None:
    assume(axis.output > 0)
    low = data.draw(st.integers(0, axis.output - 1))
    high = data.draw(st.integers(low + 1, axis.output))
    seen = axis.seen(low, high)
    for k in axis.touching(low, high):
        assert seen[0] <= axis.starts[k]
        assert min(axis.starts[k] + axis.patch, axis.size) <= seen[1] <= axis.size


@given(contracts(), st.data())
def test_the_least_half_makes_two_patches_and_no_smaller_one_does(c: AxisContract, data: st.DataObject) -> None:
    assume(not any(c.crop))  # what a valid network crops, a patch has to spare
    size = data.draw(st.integers(c.smallest, 300))
    half = least_half(c, size)
    assert len(exact_axis(c, size, half, halves=True).starts) <= 2
    for smaller in range(half - 1, max(half - 4 * c.period, 0), -1):
        if not c.accepts(smaller) or smaller >= c.accepted_at_least(size):
            continue
        try:
            assert len(exact_axis(c, size, smaller, halves=True).starts) > 2
        except PlanError:
            continue


@given(exact_axes(), st.data())
def test_blocks_of_whole_zones_run_each_patch_once(axis: AxisLattice, data: st.DataObject) -> None:
    grid = BlockGrid.regular((axis.output,), (data.draw(st.integers(1, 4)) * axis.zone,))
    lattice = PatchLattice((axis,))
    ran = [i for b in grid.indices() for i in lattice.touching(grid.box(b))]
    assert sorted(ran) == [(k,) for k in range(len(axis.starts))]


@pytest.mark.parametrize(
    ("patch", "words"),
    [
        (50, "does not fit"),  # no multiple of the period
        (40, "no clean zone"),  # 22 + 22 of context leave nothing
    ],
)
def test_impossible_patches_are_refused_with_a_number_that_works(patch: int, words: str) -> None:
    contract = AxisContract(4, Fraction(1), 22, 22, (0, 0), (0,), 4)
    with pytest.raises(PlanError, match=words) as caught:
        exact_axis(contract, 200, patch, "z")
    better = int(re.search(r"patch={'z': (\d+)}", caught.value.ways[0])[1])  # type: ignore[index]
    assert exact_axis(contract, 200, better).step > 0


@given(st.lists(st.integers(1, 50), min_size=1, max_size=3), st.data())
def test_block_grid_covers_and_numbers_its_blocks(shape: list[int], data: st.DataObject) -> None:
    block = [data.draw(st.integers(1, n)) for n in shape]
    thinnest = [data.draw(st.integers(1, b)) for b in block]
    grid = BlockGrid.regular(shape, block, thinnest)
    assert grid.shape == tuple(shape)
    for sizes, thin in zip(grid.sizes, thinnest, strict=True):
        assert len(sizes) == 1 or min(sizes) >= thin
    for position, index in enumerate(grid.indices()):
        assert grid.unravel(position) == index
    assert sum(grid.box(i).size for i in grid.indices()) == Box.of_shape(shape).size
