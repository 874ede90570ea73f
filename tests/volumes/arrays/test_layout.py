"""How an output is stored: chunks that readers like, blocks that are whole ones, and what that costs."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import chunkinfer as ci
from chunkinfer.geometry.boxes import BlockGrid
from chunkinfer.geometry.contract import AxisContract
from chunkinfer.geometry.lattice import PatchLattice, blended_axis
from chunkinfer.tiling.plan.aligning import Found, Room, aligned
from chunkinfer.tiling.plan.blocks import Budget, choose_block, most_patches
from chunkinfer.tiling.plan.search import Network, exact_lattices
from chunkinfer.volumes.arrays.chunk_shape import default_chunks

FLAT = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 3, padding=1)).eval()
CUBIC = nn.Sequential(nn.Conv3d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv3d(4, 2, 3, padding=1)).eval()


@pytest.mark.parametrize(
    ("shape", "dims", "voxel_size", "chunks"),
    [
        ((1000, 1000, 1000), "zyx", {}, (64, 64, 64)),
        ((3, 500, 500, 500), "czyx", {"z": 8, "y": 8, "x": 8}, (3, 64, 64, 64)),
        ((500, 5000, 5000), "zyx", {"z": 40, "y": 4, "x": 4}, (32, 128, 128)),
        ((500, 5000, 5000), "zyx", {"z": 16, "y": 8, "x": 8}, (64, 64, 64)),
        ((20, 5000, 5000), "zyx", {}, (20, 128, 128)),
        ((1, 5000, 5000), "zyx", {}, (1, 512, 512)),
        ((3, 20000, 20000), "cyx", {}, (3, 512, 512)),
        ((5, 2, 100, 40, 100), "tczyx", {}, (1, 2, 64, 40, 64)),
    ],
)
def test_chunks_are_about_cubes_in_space(shape: Any, dims: str, voxel_size: Any, chunks: Any) -> None:
    assert default_chunks(shape, dims, voxel_size) == chunks


# ---- the search, on contracts of all kinds ---------------------------------------------------------------------------


@st.composite
def networks(draw: st.DrawFn) -> Network:
    """Networks of two or three axes, same-padded or valid, over volumes of any size."""
    ndim, contracts, sizes = draw(st.integers(2, 3)), [], []
    alike = draw(st.sampled_from([1, 2, 4, 8])), draw(st.integers(1, 48)), draw(st.booleans())
    for d in range(ndim):
        period, context, valid = alike
        if d == 0 and ndim == 3:
            period, context = draw(st.sampled_from([1, period])), draw(st.integers(1, context))
        crop, period = ((context, context), 1) if valid else ((0, 0), period)
        low, high = (0, 2 * context) if valid else (context, context)
        contracts.append(AxisContract(period, Fraction(1), low, high, crop, (0,), period))
        sizes.append(draw(st.integers(*((400, 3000) if ndim == 3 else (2000, 20000)))))
    return Network(
        tuple(contracts),
        tuple(sizes),
        ("z", "y", "x")[-ndim:],
        draw(st.floats(50, 2000)),
        draw(st.sampled_from([1, 4, 12])),
    )


def rooms(output: tuple[int, ...], names: tuple[str, ...]) -> list[Room]:
    wanted = default_chunks(output, names)
    return [Room(name, n, w, None, None) for name, n, w in zip(names, output, wanted, strict=True)]


def check(chunks: tuple[int, ...], block: tuple[int, ...], output: tuple[int, ...]) -> None:
    """Whole chunks, none of them small or odd, the same along y and x."""
    for chunk, size, n in zip(chunks, block, output, strict=True):
        assert chunk == n or (chunk >= 32 and chunk % 2 == 0)
        assert size == n or size % chunk == 0
        assert chunk <= (128 if len(output) == 3 and output[0] >= 32 else 1024)
    y, x = chunks[-2:]
    assert y == x or min(chunks[-2:]) in output[-2:]


@settings(max_examples=12, deadline=None)
@given(networks(), st.integers(27, 32))
def test_whole_chunks_cost_little_more_than_the_freest_choice(network: Network, memory: int) -> None:
    budget, nothing = Budget(activations=1 << memory), (None,) * len(network.names)

    def search(chunks: tuple[int, ...]) -> Found:
        return exact_lattices(network, nothing, nothing, (False,) * len(chunks), budget, chunks, 1)

    free = search((1,) * len(network.names))
    found = aligned(rooms(free.lattices[0].output, network.names), search, free)
    lattice = found.lattices[0]
    block = choose_block(lattice, network.output, nothing, budget, 2, found.chunks)
    check(found.chunks, block, lattice.output)
    grid = BlockGrid.regular(lattice.output, block)
    computed = prod(
        sum(len(axis.touching(a, b)) for a, b in pairwise(edges)) * axis.patch
        for axis, edges in zip(lattice.axes, grid.edges, strict=True)
    )
    least = len(free.lattices[0]) * prod(free.lattices[0].patch)
    assert computed <= 1.15 * least
    assert found.over <= 1.15 * free.over
    assert found.computed == computed


@settings(max_examples=4, deadline=None)
@given(
    st.tuples(*[st.integers(600, 3000)] * 3), st.tuples(*[st.integers(3, 18)] * 2), st.tuples(*[st.integers(1, 4)] * 2)
)
def test_blended_blocks_are_whole_chunks_at_little_cost(
    sizes: tuple[int, ...], patches: tuple[int, int], parts: tuple[int, int]
) -> None:
    """Patches as people give them: multiples of 16, alike along y and x."""
    cuts = [(n, 16 * patches[d > 0], parts[d > 0]) for d, n in enumerate(sizes)]
    anywhere = AxisContract(1, Fraction(1), 0, 0, (0, 0), (0,), 1)
    lattice = PatchLattice(tuple(blended_axis(anywhere, n, patch, patch * part // 8) for n, patch, part in cuts))
    nothing, budget = (None,) * 3, Budget()

    def search(chunks: tuple[int, ...]) -> Found:
        block = choose_block(lattice, 4, nothing, budget, 2, chunks)
        cost = most_patches(lattice, block, 2)
        return Found([lattice], chunks, max(0.0, prod(block) * 4 / budget.block - 1), cost, int(cost))

    free = search((1, 1, 1))
    axes = [
        replace(room, zone=a.zone) for room, a in zip(rooms(lattice.output, tuple("zyx")), lattice.axes, strict=True)
    ]
    found = aligned(axes, search, free)
    block = choose_block(lattice, 4, nothing, budget, 2, found.chunks)
    check(found.chunks, block, lattice.output)
    assert found.cost <= 1.15 * free.cost


# ---- plans, and what is stored ---------------------------------------------------------------------------------------


def lazy(*shape: int) -> da.Array:
    return da.zeros(shape, dtype="u1", chunks=[min(n, 256) for n in shape])


def test_a_plan_of_a_plane() -> None:
    plan = ci.plan(lazy(19997, 20011), FLAT)
    assert plan.layout.chunks == (2, 512, 512)
    assert all(b % 512 == 0 or b == n for b, n in zip(plan.block, plan.lattice.output, strict=True))
    assert plan.freest > 0.87
    assert plan.patches == len(plan.lattice), "blocks cut no clean zone"


def test_the_plan_says_what_whole_chunks_cost() -> None:
    plan = ci.plan(lazy(300, 300, 300), CUBIC)
    assert "whole chunks cost 25% of the work" in str(replace(plan, freest=0.8))
    assert "whole chunks cost" not in str(replace(plan, freest=1.0))


@pytest.mark.parametrize(
    ("block", "chunk"), [(192, 64), (96, 96), (100, 100), (48, 48), (24, 24), (106, 106), (130, 130)]
)
def test_a_block_of_the_caller_is_whole_chunks(block: int, chunk: int) -> None:
    plan = ci.plan(lazy(500, 500, 500), CUBIC, block=block)
    assert plan.block == (block,) * 3
    assert plan.layout.chunks == (2, *(chunk,) * 3)


def test_a_block_that_nothing_divides_cuts_clean_zones_where_that_is_cheaper() -> None:
    plan = ci.plan(lazy(20000, 20000), FLAT, block=5716)
    assert plan.block == (5716, 5716)
    assert plan.recompute < 1.2
    assert min(plan.layout.chunks[1:]) >= 512


@pytest.mark.parametrize("patch", [48, 100, 131])
def test_a_patch_of_the_caller_leaves_chunks_to_the_plan(patch: int) -> None:
    plan = ci.plan(lazy(1000, 1000, 1000), CUBIC, patch=patch)
    check(plan.layout.chunks[1:], plan.block, plan.lattice.output)
    assert plan.lattice.patch == (patch,) * 3


V = np.random.default_rng(0).integers(0, 255, (70, 80, 90), dtype="u1")


def test_blocks_follow_the_chunks_that_a_destination_asks_for(tmp_path: Path) -> None:
    whole = ci.infer(V, CUBIC).compute()
    for name, asked, unit in [
        ("a.zarr", {"chunks": (2, 20, 20, 20)}, 20),
        ("b.zarr", {"chunks": (2, 10, 10, 10), "shards": (2, 30, 30, 30)}, 30),
        ("c.precomputed", {"chunks": (2, 8, 8, 8), "shards": (2, 32, 32, 32)}, 32),
    ]:
        for _ in range(2):  # the second one finds all of it done
            report = ci.save(ci.infer(V, CUBIC, patch=24), tmp_path / name, progress=False, **asked)
        assert report.computed == 0
        stored = ci.open_volume(tmp_path / name)
        assert np.abs(stored.values - whole).max() < 1e-5
        from chunkinfer.volumes.arrays.open import open_source

        source = open_source(str(tmp_path / name))
        assert dict(zip(source.dims, source.chunks, strict=True))["z"] == asked["chunks"][1]
        assert dict(zip(source.dims, source.shards, strict=True))["x"] % unit == 0


def test_blocks_of_the_caller_are_kept_or_refused(tmp_path: Path) -> None:
    from chunkinfer.errors import PlanError

    with pytest.raises(PlanError, match="not a whole number of chunks"):
        ci.save(ci.infer(V, CUBIC, block=24), tmp_path / "a.zarr", chunks=(2, 16, 16, 16), progress=False)


def test_tiny_chunks_are_in_the_sum_of_memory() -> None:
    few, many = (dict(ci.plan(lazy(2000, 2000), FLAT, patch=516, block=1024, chunks=(n, n)).memory()) for n in (512, 4))
    name = next(term for term in many if "on their way" in term)
    assert many[name] > 16000 * few[name]
    assert {k: v for k, v in many.items() if k != name} == {k: v for k, v in few.items() if k != name}
