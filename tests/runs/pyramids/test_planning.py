"""Which levels there are, and that each of their units has one writer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chunkinfer.errors import PlanError
from chunkinfer.runs.pyramids.planning import Finest, Pyramid, method_of, plan_pyramid


def finest(**change: Any) -> Finest:
    told: dict[str, Any] = {
        "url": "/nowhere", "format": "ome-zarr", "dims": ("z", "y", "x"), "shape": (500, 4000, 3000),
        "dtype": np.dtype("u1"), "voxel_size": {"z": 40.0, "y": 4.0, "x": 4.0}, "offset": {}, "chunks": (64, 64, 64),
        "sharded": False, "whole_offsets": False,
    }  # fmt: skip
    return Finest(**{**told, **change})


FACTORS = [
    ((40, 4, 4), (500, 4000, 3000), [(1, 2, 2)] * 3 + [(2, 2, 2)] * 3, "until 40 x 32 x 32"),
    ((8, 8, 8), (300, 300, 300), [(2, 2, 2)] * 3, "isotropic from the beginning"),
    ((30, 4, 4), (64, 900, 900), [(1, 2, 2)] * 3 + [(2, 2, 2)], "30 x 32 x 32 is nearer than 30 x 16 x 16"),
    ((40, 4, 4), (1, 300, 300), [(1, 2, 2)] * 3, "one section"),
    ((4, 40, 4), (200, 20, 50), [(2, 1, 2)] * 2, "whatever the axis"),
    ((40, 4, 4), (60, 50, 64), [], "small enough"),
]


@pytest.mark.parametrize(("voxel_size", "shape", "expected", "why"), FACTORS)
def test_factors_make_voxels_isotropic(voxel_size: Any, shape: Any, expected: Any, why: str) -> None:
    about = finest(voxel_size=dict(zip("zyx", voxel_size, strict=True)), shape=shape)
    assert [level.factors for level in plan_pyramid(about, "mean", None, None).levels] == expected, why


def test_what_is_asked_for() -> None:
    assert [level.shape for level in plan_pyramid(finest(), "mean", 2, (2, 4, 4)).levels] == [
        (250, 1000, 750), (125, 250, 188),
    ]  # fmt: skip
    plan = plan_pyramid(finest(), "mean", None, [(1, 2, 2), (3, 1, 1)])
    assert [level.times for level in plan.levels] == [(1, 2, 2), (3, 2, 2)]
    assert plan_pyramid(finest(), "mean", 12, None).levels[-1].shape == (1, 1, 1)


REFUSED = [
    ({"count": 40}, "as large as the one below"),
    ({"count": 0}, "no number of levels"),
    ({"factors": (2, 2)}, "along"),
    ({"factors": (1, 1, 1)}, "one of them above 1"),
    ({"factors": [(2, 2, 2), (1, 1, 1)]}, "one of them above 1"),
    ({"factors": "2"}, "whole numbers"),
]


@pytest.mark.parametrize(("asked", "message"), REFUSED)
def test_what_makes_no_sense(asked: dict[str, Any], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        plan_pyramid(finest(), "mean", **{"count": None, "factors": None, **asked})


def test_methods() -> None:
    chosen = {name: method_of("auto", np.dtype(name), False) for name in ("u1", "u2", "f4", "u4", "u8", "?")}
    assert chosen == {"u1": "mean", "u2": "mean", "f4": "mean", "u4": "mode", "u8": "mode", "?": "mode"}
    assert method_of("auto", np.dtype("u1"), True) == "mode"
    with pytest.raises(PlanError, match="mean, mode, min, max, stride"):
        method_of("median", np.dtype("u1"), False)


@st.composite
def plans(draw: st.DrawFn) -> tuple[Finest, Pyramid, list[int] | None]:
    """A plan, and the block of the finest level, if that is written with others."""
    precomputed, channels = draw(st.booleans()), draw(st.integers(0, 3))
    about = finest(
        format="precomputed" if precomputed else "ome-zarr",
        dims=("c", "z", "y", "x") if channels else ("z", "y", "x"),
        shape=((channels,) if channels else ()) + tuple(draw(st.integers(1, 3000)) for _ in "zyx"),
        chunks=((channels,) if channels else ()) + tuple(draw(st.sampled_from([16, 32, 48, 64, 128])) for _ in "zyx"),
        dtype=np.dtype(draw(st.sampled_from(["u1", "f4"]))),
        voxel_size={d: draw(st.sampled_from([4.0, 8.0, 30.0, 40.0])) for d in "zyx"},
        offset={d: draw(st.integers(-20, 20)) for d in "zyx"} if draw(st.booleans()) else {},
        sharded=draw(st.booleans()),
        whole_offsets=precomputed,
    )
    lead = [channels] if channels else []
    block = lead + [draw(st.sampled_from([1, 2, 3, 4, 8])) * c for c in about.chunks[len(lead) :]]
    with_block = block if draw(st.booleans()) else None
    factors = draw(st.sampled_from([None, None, (2, 2, 2), (1, 3, 2)]))
    return about, plan_pyramid(about, "mean", None, factors, with_block), with_block


@given(plans())
def test_every_unit_of_every_level_has_one_writer(case: tuple[Finest, Pyramid, list[int] | None]) -> None:
    about, plan, block = case

    def whole(size: Any, number: int) -> None:
        level = plan.levels[number - 1]
        for b, u, n in zip(size, about.unit(level), level.shape, strict=True):
            assert b >= n or b % u == 0

    shape = about.shape
    for level in plan.levels:
        cells = zip(shape, level.factors, level.phase, strict=True)
        assert level.shape == tuple(-(-(n + p) // f) for n, f, p in cells)
        shape = level.shape
    made = plan.with_finest
    size, shape = block, about.shape
    for number in range(1, plan.with_finest + 1):
        level = plan.levels[number - 1]
        assert not any(level.phase)
        pairs = list(zip(size or (), level.factors, shape, strict=True))
        assert all(b >= n or b % f == 0 for b, f, n in pairs)  # no cell is cut
        size = [m if b >= n else b // f for (b, f, n), m in zip(pairs, level.shape, strict=True)]
        whole(size, number)
        shape = level.shape
    for each in plan.passes:
        assert each.first == made + 1
        size = list(each.block)
        whole(size, each.first)
        for number in range(each.first + 1, each.first + each.count):
            level, below = plan.levels[number - 1], plan.levels[number - 2]
            assert not any(level.phase)
            pairs = list(zip(size, level.factors, below.shape, strict=True))
            assert all(b >= n or b % f == 0 for b, f, n in pairs)
            size = [-(-b // f) for b, f, _ in pairs]
            whole(size, number)
        made += each.count
    assert made == len(plan.levels)
