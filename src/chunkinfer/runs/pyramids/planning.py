"""Which levels a pyramid has, and which of them are computed together: integers, before anything is read.

::

    level 0   stored      |=====block=====|=====block=====|
    level 1   first pass  |---unit|---unit|---unit|---unit|     a block of level 0 holds whole units of levels 1 and 2,
    level 2   first pass  |-----unit------|-----unit------|     so each unit has one writer
    level 3   next pass, from blocks of level 2
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import repeat
from math import lcm, prod
from typing import Any

import numpy as np

from chunkinfer.errors import PlanError
from chunkinfer.geometry.lattice import round_up
from chunkinfer.volumes.arrays.create import write_unit
from chunkinfer.volumes.arrays.downsampling import METHODS, downsampled_shape
from chunkinfer.volumes.arrays.levels import Level

SMALLEST = 64
"""Voxels: an image that is no longer than this, or than a chunk, along each axis needs no coarser level."""

BLOCK_BYTES = 128 << 20
"""Of voxels that a task reads, at most where one level allows it; a task holds some twice as much."""

WORTH_A_TASK = 16 << 20
"""Bytes that a task reads at least, where there are so many."""


@dataclass(frozen=True)
class Finest:
    """The finest level of an image; everything along its axes."""

    url: str
    format: str
    """As for `create`."""
    dims: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    voxel_size: Mapping[str, float]
    """Per spatial axis, in any unit."""
    offset: Mapping[str, float]
    """Volume coordinate of index 0 per spatial axis, in voxels."""
    chunks: tuple[int, ...]
    sharded: bool
    """Whether levels are stored in shards."""
    whole_offsets: bool
    """Whether levels lie on whole voxels of their own from coordinate 0 on; otherwise they begin with this one."""

    def unit(self, level: Level) -> tuple[int, ...]:
        """What one writer of a level must own."""
        return write_unit(
            self.url, format=self.format, shape=level.shape, dims=self.dims, chunks=level.chunks, shards=level.shards
        )


@dataclass(frozen=True)
class Pass:
    """Levels that are computed together, out of the one below them."""

    first: int
    """Number of the first of them."""
    count: int
    """How many there are."""
    block: tuple[int, ...]
    """Voxels of the first one that a task computes."""


@dataclass(frozen=True)
class Pyramid:
    """A plan: the levels of an image, and how they are computed."""

    method: str
    levels: tuple[Level, ...]
    """From number 1 on."""
    with_finest: int
    """How many of them are written with the blocks of the finest level."""
    passes: tuple[Pass, ...]
    """The others."""

    @property
    def factors(self) -> list[list[int]]:
        """Of each level, along each axis."""
        return [list(level.factors) for level in self.levels]


def method_of(method: str, dtype: np.dtype[Any], labels: bool) -> str:
    """The method that is asked for; "auto" is mode for labels and the mean for everything else.

    Raises
    ------
    PlanError
        There is no such method.
    """
    if method == "auto":
        return "mode" if labels or dtype in (np.uint32, np.uint64, np.bool_) else "mean"
    if method not in METHODS:
        raise PlanError(
            f"method={method!r} is not a way to downsample.",
            f"There are {', '.join(METHODS)}; auto is mode for labels and mean for images.",
            ["method='mean'", "leave method= out"],
        )
    return method


def plan_pyramid(
    finest: Finest, method: str, count: int | None, factors: Any, block: Sequence[int] | None = None
) -> Pyramid:
    """The levels of an image and how they are computed.

    Parameters
    ----------
    finest
        The image.
    method
        Out of `METHODS`.
    count
        How many levels; None until the image is as small as a chunk.
    factors
        Voxels of the level below per voxel: one number per spatial axis for all levels, or such a list for each level.
        None halves the axes whose voxels are small until voxels are about isotropic, and then all.
    block
        What one task writes of the finest level, where levels are to be written with it.

    Raises
    ------
    PlanError
        Factors that are none, or levels that would be no smaller than the one below.
    """
    shapes = _levels(finest, count, _factors(finest, factors))
    together = [] if block is None else _with_finest(finest, shapes, block)
    levels, passes = list(together), list[Pass]()
    while len(levels) < len(shapes):
        made, size = _pass(finest, levels[-1].shape if levels else finest.shape, shapes[len(levels) :])
        passes.append(Pass(len(levels) + 1, len(made), size))
        levels += made
    return Pyramid(method, tuple(levels), len(together), tuple(passes))


# Levels


def _factors(finest: Finest, asked: Any) -> Iterator[tuple[int, ...]] | None:
    """What the caller asks for, along all axes; None where that is left open."""
    if asked is None:
        return None
    space = [dim for dim in finest.dims if dim in "zyx"]
    asked = (asked,) * len(space) if isinstance(asked, int) else asked
    rows = list(asked) if isinstance(asked, Sequence) and not isinstance(asked, str) else [asked]
    nested = bool(rows) and all(isinstance(row, Sequence) and not isinstance(row, str) for row in rows)
    for row in rows if nested else [rows]:
        if len(row) != len(space) or not all(isinstance(f, int) and f >= 1 for f in row) or max(row) == 1:
            raise PlanError(
                f"factors={asked!r} does not give whole numbers from 1 on along {tuple(space)}, one of them above 1.",
                "They say how many voxels of the level below a voxel covers.",
                [f"factors={(2,) * len(space)} for all levels", f"factors=[{(1, 2, 2)[-len(space):]}, "
                 f"{(2,) * len(space)}] for two levels"],
            )  # fmt: skip
    along = [dict(zip(space, row, strict=True)) for row in (rows if nested else [rows])]
    per_axis = [tuple(row.get(d, 1) for d in finest.dims) for row in along]
    return iter(per_axis) if nested else repeat(per_axis[0])


def _levels(finest: Finest, count: int | None, factors: Iterator[tuple[int, ...]] | None) -> list[Level]:
    """Shapes and places of the levels, without chunks."""
    if count is not None and (isinstance(count, bool) or not isinstance(count, int) or count < 1):
        raise PlanError(
            f"levels={count!r} is no number of levels.",
            "It counts those above the finest one.",
            ["levels=4", "leave levels= out: as many as make the image as small as a chunk"],
        )
    given = factors is not None and not isinstance(factors, repeat)
    levels: list[Level] = []
    size = {d: finest.voxel_size.get(d, 1.0) for d in finest.dims}
    shape, times = finest.shape, (1,) * len(finest.shape)
    offset = tuple(finest.offset.get(d, 0) for d in finest.dims)
    while count is None or len(levels) < count:
        each = next(factors, None) if factors is not None else _isotropic(finest.dims, shape, size)
        if each is None:
            break
        shrinking = [d for d, f in enumerate(each) if f > 1 or (factors is None and finest.dims[d] in "zyx")]
        if count is None and not given and all(shape[d] <= max(SMALLEST, finest.chunks[d]) for d in shrinking):
            break
        phase = tuple(int(o) % f if finest.whole_offsets else 0 for o, f in zip(offset, each, strict=True))
        smaller = tuple(downsampled_shape(shape, each, phase))
        if smaller == shape:
            raise PlanError(
                f"Level {len(levels) + 1} would be as large as the one below it, {shape}.",
                "Axes of one voxel cannot be made shorter.",
                [f"levels={len(levels)}" if levels else "leave the image as it is", _along(finest.dims, shape)],
            )
        offset = tuple(
            o // f if finest.whole_offsets else o / f if f > 1 else o for o, f in zip(offset, each, strict=True)
        )
        times = tuple(t * f for t, f in zip(times, each, strict=True))
        size = {d: size[d] * f for d, f in zip(finest.dims, each, strict=True)}
        levels.append(Level(each, times, smaller, phase, offset, finest.chunks))
        shape = smaller
    return levels


def _along(dims: Sequence[str], shape: Sequence[int]) -> str:
    """Factors that make a level smaller, as an argument."""
    factors = tuple(2 if n > 1 else 1 for d, n in zip(dims, shape, strict=True) if d in "zyx")
    return f"halve what is longer: factors={factors}" if 2 in factors else "it is one voxel: stop there"


def _isotropic(dims: Sequence[str], shape: Sequence[int], size: Mapping[str, float]) -> tuple[int, ...]:
    """2 along the axes whose voxels are nearer to the longest edge when doubled; along all where there are none."""
    space = [d for d, n in zip(dims, shape, strict=True) if d in "zyx" and n > 1]
    longest = max((size[d] for d in space), default=1.0)
    short = [d for d in space if size[d] * 2**0.5 <= longest] or space
    return tuple(2 if d in short else 1 for d in dims)


# Levels that are computed together


def _with_finest(finest: Finest, shapes: Sequence[Level], block: Sequence[int]) -> list[Level]:
    """The levels of which the blocks of the finest one hold whole units."""
    made: list[Level] = []
    shape, size = finest.shape, tuple(min(b, n) for b, n in zip(block, finest.shape, strict=True))
    for level in shapes:
        cuts = [b < n for b, n in zip(size, shape, strict=True)]
        if any(level.phase) or any(c and b % f for c, b, f in zip(cuts, size, level.factors, strict=True)):
            break
        shape = level.shape
        size = tuple(b // f if c else n for c, b, f, n in zip(cuts, size, level.factors, shape, strict=True))
        level = _stored(finest, level, size)
        if any(c and b % u for c, b, u in zip(cuts, size, finest.unit(level), strict=True)):
            break
        made.append(level)
    return made


def _pass(finest: Finest, below: Sequence[int], shapes: Sequence[Level]) -> tuple[list[Level], tuple[int, ...]]:
    """The most levels that blocks of a good size make together, and the block of the first of them."""
    aligned = 1
    while aligned < len(shapes) and not any(shapes[aligned].phase):
        aligned += 1
    for count in range(aligned, 0, -1):
        made, block = _together(finest, below, shapes[:count])
        if count == 1 or _bytes(finest, below, made[0], block) <= BLOCK_BYTES:
            break
    return made, block


def _together(finest: Finest, below: Sequence[int], shapes: Sequence[Level]) -> tuple[list[Level], tuple[int, ...]]:
    """Levels that are computed together, with their shards, and the smallest block that holds whole units of them."""
    steps = [[1] * len(finest.shape)]
    for level in shapes[1:]:
        steps.append([s * f for s, f in zip(steps[-1], level.factors, strict=True)])
    block = tuple(c * s for c, s in zip(finest.chunks, steps[-1], strict=True))
    first, most = shapes[0], BLOCK_BYTES if finest.sharded else WORTH_A_TASK
    space = [d for d, dim in enumerate(finest.dims) if dim in "zyx"]
    while short := [d for d in space if block[d] < first.shape[d]]:
        d = min(short, key=lambda d: (block[d], -d))  # x first, as precomputed shards grow
        larger = (*block[:d], 2 * block[d], *block[d + 1 :])
        if _bytes(finest, below, first, larger) > most:
            break
        block = larger
    while True:
        made = [
            _stored(finest, level, tuple(b // s for b, s in zip(block, step, strict=True)))
            for level, step in zip(shapes, steps, strict=True)
        ]
        # A precomputed shard may have to be longer than that along some axis.
        needed = block
        for level, step in zip(made, steps, strict=True):
            units = zip(needed, finest.unit(level), step, level.shape, strict=True)
            needed = tuple(lcm(b, u * s) if u < n else max(b, u * s) for b, u, s, n in units)
        if needed == block:
            return made, block
        block = needed


def _stored(finest: Finest, level: Level, size: Sequence[int]) -> Level:
    """A level with shards that cover so many voxels, where levels have shards."""
    if not finest.sharded:
        return level
    whole = zip(size, level.shape, level.chunks, strict=True)
    wanted = replace(level, shards=tuple(round_up(min(b, n), c) for b, n, c in whole))
    return replace(level, shards=finest.unit(wanted))


def _bytes(finest: Finest, below: Sequence[int], first: Level, block: Sequence[int]) -> int:
    """What a task reads of the level below."""
    return finest.dtype.itemsize * prod(min(b * f, n) for b, f, n in zip(block, first.factors, below, strict=True))
