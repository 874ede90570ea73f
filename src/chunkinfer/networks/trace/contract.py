"""From what a network reads to the contract of one axis: period, context, crop, and the sizes that it takes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from math import lcm
from typing import cast

import numpy as np

from chunkinfer.networks.trace.dependence import NOTHING, Integers, Reach

_BLOCKS = 3
"""Blocks of one period that must be free of padding before the context is read off."""


def period_of(strides: Iterable[Fraction], output: Fraction) -> int:
    """The smallest shift, in input voxels, that is a whole number of positions on every map and in the output."""
    return lcm(output.numerator, *(stride.numerator for stride in strides))


@dataclass(frozen=True)
class Sizes:
    """Which sizes an axis takes."""

    total: Fraction
    """Input voxels by which the output field is smaller than the input field."""
    taken: tuple[int, ...]
    """Of the sizes tried, those that run and lose ``total``."""
    residues: tuple[int, ...]
    """Residues modulo the period all of whose tried sizes are taken; empty for a network of one fixed size."""


def sizes_taken(outputs: Mapping[int, int], tried: Iterable[int], stride: Fraction, period: int) -> Sizes:
    """Sort the sizes that ran by what they lose.

    The output field of a network is smaller than its input by what valid convolutions cut. A size at which rows are
    dropped or invented on top of that (a strided convolution on an odd size) does not count as taken.

    Parameters
    ----------
    outputs
        Output size by input size, for sizes that ran.
    tried
        All sizes tried.
    """
    lost = {size: size - output * stride for size, output in outputs.items()}
    often = Counter(lost.values())
    total = min(often, key=lambda t: (abs(t), -often[t], -t))
    taken = tuple(sorted(size for size, t in lost.items() if t == total))
    missed = {size % period for size in tried if size not in taken}
    return Sizes(total, taken, tuple(sorted({size % period for size in taken} - missed)))


def split_crop(total: Fraction) -> tuple[int, int]:
    """The crop at the low and the high end; even kernels lose the odd voxel at the high end, as torch pads for it.

    The high end is a Fraction only for outputs finer than the input that lose a part of an input voxel.
    """
    low = total // 2
    high = total - low
    return low, int(high) if high.denominator == 1 else cast("int", high)


def smallest_size(size: int, period: int, takes: Callable[[int], bool]) -> int:
    """The smallest size that is taken, of those that are ``size`` modulo the period: by bisection downwards."""
    refused, taken = -1, size // period
    while taken - refused > 1:
        middle = (taken + refused) // 2
        candidate = size % period + middle * period
        if candidate > 0 and takes(candidate):
            taken = middle
        else:
            refused = middle
    return size % period + taken * period


@dataclass(frozen=True)
class Context:
    """What whole blocks of one period read around themselves."""

    low: int
    high: int
    periodic: bool
    """Whether every block reads the same, relative to itself."""


def context(reach: Reach, period: int, size: int) -> Context | None:
    """The context of blocks that read no padding; None if there are fewer than a few of them.

    Padding counts as read where the network puts it: a network that drops the last voxels of an odd size and then pads
    is wrong a little earlier than its reads tell.

    Parameters
    ----------
    reach
        What the output reads at one size.
    period
        Voxels of a block.
    size
        Voxels of the input.
    """
    per_block = int(period / reach.stride)
    count = len(reach.low) // per_block
    shape = (count, per_block)
    cut = slice(0, count * per_block)
    clean = ~(reach.padded_low | reach.padded_high)[cut].reshape(shape).any(1)
    blocks = np.flatnonzero(clean)
    if len(blocks) < _BLOCKS:
        return None
    origin = blocks[:, None] * period
    below = _offsets(reach.low[cut].reshape(shape)[blocks], origin)
    above = _offsets(reach.high[cut].reshape(shape)[blocks], origin)
    first, last = int(blocks[0]), int(blocks[-1])
    return Context(
        low=max(0, int(-below.min()), (first - 1) * period + 1),
        # Blocks up to `size - high`, rounded down to whole ones, are taken for clean.
        high=max(0, int(above.max()) - (period - 1), size - (last + 1) * period - period + 1),
        periodic=bool((np.diff(blocks) == 1).all() and (below == below[0]).all() and (above == above[0]).all()),
    )


def _offsets(ends: Integers, origin: Integers) -> Integers:
    """Ends of intervals relative to their block; those of outputs that read nothing count as the block's origin."""
    return np.where(np.abs(ends) >= NOTHING // 2, 0, ends - origin)


def agree(one: Reach, other: Reach) -> bool:
    """Whether two runs at different sizes read the same, where neither reads padding."""
    size = min(len(one.low), len(other.low))
    padded = one.padded_low | one.padded_high
    others = other.padded_low | other.padded_high
    clean = ~(padded[:size] | others[:size])
    return (
        one.stride == other.stride
        and bool(clean.any())
        and np.array_equal(one.low[:size][clean], other.low[:size][clean])
        and np.array_equal(one.high[:size][clean], other.high[:size][clean])
    )
