"""Blocks in the order that keeps neighbours together."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from chunkinfer.geometry.boxes import BlockGrid
from chunkinfer.geometry.morton import code


@given(st.lists(st.integers(1, 16), min_size=1, max_size=3))
def test_z_order_is_the_order_of_morton_codes(counts: list[int]) -> None:
    grid = BlockGrid.regular(counts, (1,) * len(counts))
    ordered = list(grid.z_order())
    assert sorted(ordered) == list(range(len(grid)))
    codes = [code(grid.unravel(p)[::-1], grid.counts[::-1]) for p in ordered]
    assert codes == sorted(codes)


def test_z_order_goes_round_each_cube_of_eight_blocks() -> None:
    grid = BlockGrid.regular((4, 4, 4), (1, 1, 1))
    ordered = [grid.unravel(p) for p in grid.z_order()]
    assert ordered[:8] == [(z, y, x) for z in (0, 1) for y in (0, 1) for x in (0, 1)]
    raster = [grid.unravel(p) for p in range(64)]
    assert _steps(ordered) < _steps(raster)


def _steps(order: list[tuple[int, ...]]) -> int:
    """Largest distance that successive blocks of the order have, summed over the order's groups of eight."""
    groups = [order[i : i + 8] for i in range(0, len(order), 8)]
    return sum(max(abs(a - b) for p, q in pairwise(group) for a, b in zip(p, q, strict=True)) for group in groups)
