"""What the elements of a tensor read of the network's input: one interval of voxels per position.

A dimension of a tensor is a product of factors, outermost first, so that views (space-to-depth, windows of attention,
flattening) are followed. A factor runs along an input axis (``reach``), is the same at every position (``uniform``),
or is anything else: channels, constants, the position inside a group of voxels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import prod

import numpy as np
import numpy.typing as npt

Integers = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

NOTHING = 1 << 40
"""Lower end of an interval that holds no voxel; its upper end is ``-NOTHING``."""


class Unfollowed(Exception):
    """A rule's answer when it cannot say what an operator reads; the message says why."""


@dataclass(frozen=True)
class Reason:
    """Why a network cannot be tiled exactly."""

    layer: str
    """Dotted path and class of the module, or the operator where modules cannot be seen (TorchScript)."""
    text: str
    """The cause, in words."""

    def __str__(self) -> str:
        return f"{self.layer}: {self.text}"


@dataclass(frozen=True, eq=False)
class Reach:
    """What the positions along a factor read of one input axis."""

    axis: int
    """The input axis, 0 for the first spatial one."""
    stride: Fraction
    """Input voxels per position."""
    low: Integers
    """First input voxel that each position reads."""
    high: Integers
    """Last input voxel that each position reads."""
    padded_low: Flags
    """Whether a position reads padding at the low end of the axis."""
    padded_high: Flags
    """Whether a position reads padding at the high end of the axis."""

    @classmethod
    def identity(cls, axis: int, size: int) -> Reach:
        """The input itself."""
        here, no = np.arange(size), np.zeros(size, bool)
        return cls(axis, Fraction(1), here, here, no, no)

    def gather(
        self,
        taps: Integers,
        stride: Fraction,
        present: Flags | None = None,
        padded: tuple[Flags, Flags] | None = None,
    ) -> Reach:
        """The reach of positions that read ``taps[position, tap]`` of this one; taps outside it are padding.

        Parameters
        ----------
        taps
            Indices along this factor.
        stride
            Input voxels per new position.
        present
            Which taps exist at all.
        padded
            Positions that additionally count as reading padding, at the low and at the high end.
        """
        size = len(self.low)
        there = np.ones(taps.shape, bool) if present is None else present
        inside = there & (taps >= 0) & (taps < size)
        at = np.clip(taps, 0, size - 1)
        below: Flags = np.any(there & (taps < 0), axis=1)
        above: Flags = np.any(there & (taps >= size), axis=1)
        if padded is not None:
            below, above = below | padded[0], above | padded[1]
        return Reach(
            self.axis,
            stride,
            np.where(inside, self.low[at], NOTHING).min(1),
            np.where(inside, self.high[at], -NOTHING).max(1),
            np.logical_or(below, (inside & self.padded_low[at]).any(1)),
            np.logical_or(above, (inside & self.padded_high[at]).any(1)),
        )

    def hull(self, other: Reach) -> Reach:
        """The reach of positions that read both."""
        return Reach(
            self.axis,
            self.stride,
            np.minimum(self.low, other.low),
            np.maximum(self.high, other.high),
            self.padded_low | other.padded_low,
            self.padded_high | other.padded_high,
        )

    def same(self, other: Reach) -> bool:
        """Whether both read the same."""
        return (
            (self.axis, self.stride) == (other.axis, other.stride)
            and np.array_equal(self.low, other.low)
            and np.array_equal(self.high, other.high)
            and np.array_equal(self.padded_low, other.padded_low)
            and np.array_equal(self.padded_high, other.padded_high)
        )


@dataclass(frozen=True, eq=False)
class Factor:
    """One factor of a tensor's dimension."""

    size: int
    reach: Reach | None = None
    uniform: bool = False
    """Every position holds the same value: a freshly filled tensor, or an expanded one."""

    def gather(
        self,
        taps: Integers,
        stride: Fraction,
        present: Flags | None = None,
        padded: tuple[Flags, Flags] | None = None,
    ) -> Factor:
        """As `Reach.gather`, with ``stride`` in positions of this factor."""
        if self.reach is None:
            return Factor(len(taps))
        return Factor(len(taps), self.reach.gather(taps, self.reach.stride * stride, present, padded))

    def take(self, indices: Integers, stride: Fraction) -> Factor:
        """The factor at some of its positions, ``stride`` positions apart."""
        if self.reach is None:
            return Factor(len(indices), uniform=self.uniform)
        return self.gather(indices[:, None], stride)


Dim = tuple[Factor, ...]
Dims = tuple[Dim, ...]


@dataclass(frozen=True, eq=False)
class Dependence:
    """What a tensor reads, and why that is not all there is to say."""

    dims: Dims
    reasons: tuple[Reason, ...] = ()


def size_of(dim: Dim) -> int:
    """Positions along a dimension."""
    return prod(factor.size for factor in dim)


def is_spatial(dim: Dim) -> bool:
    """Whether a dimension runs along an input axis."""
    return any(factor.reach is not None for factor in dim)


def plain(shape: Sequence[int], uniform: bool = False) -> Dims:
    """Dimensions that run along no input axis."""
    return tuple((Factor(int(size), uniform=uniform),) for size in shape)


def collapse(dim: Dim) -> Factor:
    """A dimension as a single factor.

    Raises
    ------
    Unfollowed
        The dimension mixes several axes.
    """
    spatial = [i for i, factor in enumerate(dim) if factor.reach is not None]
    if len(spatial) > 1:
        spatial = [i for i in spatial if dim[i].size > 1] or spatial[:1]
    if not spatial:
        return Factor(size_of(dim), uniform=all(factor.uniform or factor.size == 1 for factor in dim))
    if len(spatial) > 1:
        raise Unfollowed("it works along a dimension that mixes spatial axes")
    (i,) = spatial
    inner = size_of(dim[i + 1 :])
    if inner == 1 and size_of(dim[:i]) == 1:
        return dim[i]
    indices = np.tile(np.repeat(np.arange(dim[i].size), inner), size_of(dim[:i]))
    return dim[i].take(indices, Fraction(1, inner))


def merge(dims: Sequence[Dim], refuse: Callable[[str], None]) -> Dim:
    """A dimension whose elements read those of several dimensions of the same size.

    Parameters
    ----------
    dims
        At least one.
    refuse
        Called with the reason, in words, where the combination is not shift-equivariant.

    Raises
    ------
    Unfollowed
        The dimensions run along different axes.
    """
    spatial = [dim for dim in dims if is_spatial(dim)]
    rest = [collapse(dim) for dim in dims if not is_spatial(dim)]
    if not spatial:
        return (Factor(rest[0].size, uniform=all(factor.uniform for factor in rest)),)
    if any(not factor.uniform and factor.size > 1 for factor in rest):
        refuse(
            "combines the volume with values that change along a spatial axis (a position embedding, a mask, or "
            "statistics of the patch), so the result depends on where the patch lies"
        )
    layouts = {tuple((f.size, f.reach and f.reach.axis) for f in dim if f.size > 1) for dim in spatial}
    if len(layouts) > 1:
        spatial = [(collapse(dim),) for dim in spatial]
    else:
        spatial = [tuple(f for f in dim if f.size > 1) or (collapse(dim),) for dim in spatial]
    merged = list(spatial[0])
    for dim in spatial[1:]:
        for i, (ours, theirs) in enumerate(zip(merged, dim, strict=True)):
            if ours.reach is None and theirs.reach is None:
                continue
            if ours.reach is None or theirs.reach is None or ours.reach.axis != theirs.reach.axis:
                raise Unfollowed("it combines tensors that run along different axes")
            if ours.reach.stride != theirs.reach.stride:
                refuse(
                    f"combines maps of different sampling ({ours.reach.stride} and {theirs.reach.stride} input "
                    "voxels per position)"
                )
            merged[i] = Factor(ours.size, ours.reach.hull(theirs.reach))
    return tuple(merged)


def regroup(dims: Dims, shape: Sequence[int]) -> Dims:
    """The same elements in the same order, seen with another shape (``view``).

    Raises
    ------
    Unfollowed
        A new dimension starts or ends inside a factor that does not divide.
    """
    left = [factor for dim in dims for factor in dim if factor.size > 1 or factor.reach is not None]
    out: list[Dim] = []
    for size in shape:
        taken: list[Factor] = []
        have = 1
        if size == 1 and left and left[0].size == 1:
            taken.append(left.pop(0))
        while have < size:
            factor = left.pop(0)
            if size % (have * factor.size) == 0:
                taken.append(factor)
                have *= factor.size
                continue
            if size % have or factor.size % (size // have):
                raise Unfollowed("it reshapes space into parts that do not divide")
            outer, inner = _split(factor, size // have)
            taken.append(outer)
            left.insert(0, inner)
            have = size
        out.append(tuple(taken) or (Factor(1),))
    if left and out:
        out[-1] += tuple(left)
    return tuple(out)


def _split(factor: Factor, outer: int) -> tuple[Factor, Factor]:
    """A factor as groups, and the position inside a group; each group counts as reading all that its members read."""
    inner = factor.size // outer
    groups = np.arange(factor.size).reshape(outer, inner)
    if factor.reach is None:
        return Factor(outer, uniform=factor.uniform), Factor(inner, uniform=factor.uniform)
    return factor.gather(groups, Fraction(inner)), Factor(inner)
