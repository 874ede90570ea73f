"""A network as a function of numpy arrays, whatever computes it, and how its outputs answer to changes of its input."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from chunkinfer.networks.probing.patterns import bar_pairs, pattern_pairs

Array = npt.NDArray[Any]
Flags = npt.NDArray[np.bool_]

ROUND_OFF = 2e-4
"""Difference, as a share of the values at the same place, that is put down to round-off between runs of one network at
different shapes: float32 kernels of different shapes were seen to differ by 3e-5."""

_CHANGES = ((1.0, 0), (1e3, 1), (1e3, -1), (1e6, 0))
"""Size and sign (0 for both) of the changes made. Large ones carry through the many small weights at the rim of a
context; ordinary ones through gates and normalisations that large ones saturate."""


class OtherAxes(ValueError):
    """A network runs, and its output has other axes than its input."""

    def __init__(self, found: tuple[int, ...], axes: int) -> None:
        super().__init__(f"its output has shape {found} instead of (1, channels, {axes} spatial axes)")
        self.found = found


@dataclass(frozen=True)
class Network:
    """A network that nobody can look into: a function of arrays."""

    name: str
    run: Callable[[Array], Any]
    """(1, channels, *space) -> (1, channels, *space)."""
    channels: int
    ndim: int
    dtype: str = "float32"
    """Of what it takes."""
    shape: tuple[int | None, ...] | None = None
    """The only spatial shape that it takes, with None for free axes; None where nothing is stated."""
    samples: tuple[Array, ...] = ()
    """Voxels of the volume that it will run on, (channels, *space) each, scaled as it takes them: probes are drawn from
    them too."""

    def __call__(self, x: Array) -> Array:
        """The output for one input, or whatever the network raises on a shape that it does not take."""
        y = np.array(self.run(x))  # a copy: an engine may write its next result into the same memory
        if y.ndim != x.ndim or y.shape[0] != 1 or 0 in y.shape:
            raise OtherAxes(y.shape, self.ndim)
        return y

    def noise(self, shape: Sequence[int], seed: int = 0) -> Array:
        """An input of random voxels: normal, or anything from 0 to 127 where it takes integers."""
        rng = np.random.default_rng(seed)
        size = (1, self.channels, *shape)
        if np.issubdtype(self.dtype, np.floating):
            return rng.standard_normal(size).astype(self.dtype)
        return rng.integers(0, 128, size).astype(self.dtype)

    def uneven(self, shape: Sequence[int], axis: int) -> Array:
        """Noise that along one axis is ten thousand times as large in some stretches as in others.

        Beside a large stretch the little that deep layers carry over outweighs what lies there itself.
        """
        x = self.noise(shape)
        if not np.issubdtype(x.dtype, np.floating):
            return x
        lengths = np.random.default_rng(1).choice([16, 32, 64, 128], size=shape[axis] // 16 + 2)
        large = np.repeat(np.arange(len(lengths)) % 2, lengths)[: shape[axis]]
        sizes = np.where(large, 1e4, 1).astype(x.dtype)
        return np.asarray(x * sizes.reshape(-1, *[1] * (len(shape) - 1 - axis)))

    def changes(self, shape: Sequence[int], axis: int, cut: int) -> tuple[Flags, Flags]:
        """A `Spread`: outputs that change, beyond round-off, when one side of noise does.

        What no change shows is not found: this is a lower bound of what the network reads.
        """
        x = self.noise(shape)
        y = self(x)
        sides = [_where(x, axis, side) for side in (slice(0, cut), slice(cut, None))]
        below, above = (self._changed(y, axis, self._other_inputs(x, where)) for where in sides)
        return below, above

    def changes_of_patterns(self, shape: Sequence[int], axis: int, cut: int) -> tuple[Flags, Flags]:
        """A `Spread`: as `changes`, for inputs that are no noise: see `chunkinfer.networks.probing.patterns`."""
        pairs = pattern_pairs((1, self.channels, *shape), axis, self.samples, self.dtype)
        return self._replacing(pairs, axis, cut)

    def changes_of_bars(self, shape: Sequence[int], axis: int, cut: int) -> tuple[Flags, Flags]:
        """A `Spread`: as `changes`, for bars across the cut of which one side is taken away.

        They show how far openings and closings read, which blocks at random seldom do to the last voxel.
        """
        return self._replacing(bar_pairs((1, self.channels, *shape), axis, cut, self.samples, self.dtype), axis, cut)

    def _replacing(self, pairs: Iterable[tuple[Array, Sequence[Array]]], axis: int, cut: int) -> tuple[Flags, Flags]:
        """A `Spread`: outputs that change when one side of an input becomes that of another."""
        below = above = np.zeros(1, bool)
        for one, others in pairs:
            y = self(one)
            low, high = (_where(one, axis, side) for side in (slice(0, cut), slice(cut, None)))
            below = below | self._changed(y, axis, (_replaced(one, low, other[low]) for other in others))
            above = above | self._changed(y, axis, (_replaced(one, high, other[high]) for other in others))
        return below, above

    def reached_by_nan(self, shape: Sequence[int], axis: int, cut: int) -> tuple[Flags, Flags]:
        """A `Spread`: outputs that change when one side of the input becomes NaN; none of a network of integers.

        NaN reaches what is read with a weight too small to show, and also what only passes through running sums.
        """
        x = self.noise(shape)
        y = self(x)
        if not np.issubdtype(x.dtype, np.floating):
            nothing = np.zeros(y.shape[2 + axis], bool)
            return nothing, nothing
        sides = (_where(x, axis, side) for side in (slice(0, cut), slice(cut, None)))
        below, above = (self._changed(y, axis, [_replaced(x, where, np.nan)]) for where in sides)
        return below, above

    def _changed(self, y: Array, axis: int, others: Iterable[Array]) -> Flags:
        """Outputs along an axis that differ for any of some other inputs."""
        found = np.zeros(y.shape[2 + axis], bool)
        kept = tuple(k for k in range(y.ndim) if k != 2 + axis)
        for other in others:
            with np.errstate(all="ignore"):
                found |= _differ(y, self(other), self.dtype).any(axis=kept)
        return found

    def _other_inputs(self, x: Array, where: Any) -> Iterator[Array]:
        """Noise with changes of several sizes on one side."""
        if not np.issubdtype(x.dtype, np.floating):
            others = (self.noise(x.shape[2:], seed) for seed in (1, 2, 3))
            yield from (_replaced(x, where, other[where]) for other in others)
            return
        for seed, (size, sign) in enumerate(_CHANGES, 1):
            with np.errstate(over="ignore"):
                change = (self.noise(x.shape[2:], seed)[where] * size).astype(x.dtype)
            yield _replaced(x, where, x[where] + (sign * abs(change) if sign else change))


def _where(x: Array, axis: int, side: slice) -> Any:
    """The index of one side of an input."""
    return (..., *[slice(None)] * axis, side, *[slice(None)] * (x.ndim - 3 - axis))


def _replaced(x: Array, where: Any, value: Any) -> Array:
    out = x.copy()
    out[where] = value
    return out


def _differ(one: Array, other: Array, taken: str) -> Flags:
    """Where two outputs differ by more than the round-off of the first, whose voxels are of ordinary size.

    What is computed in double precision from inputs in single precision (``taken``) is stored in that again, so only
    differences that survive it count.
    """
    if not np.issubdtype(one.dtype, np.floating):
        return np.asarray(one != other)
    scale = _largest(np.abs(one), tuple(range(2, one.ndim)))
    kinds = [one.dtype, np.dtype(taken if np.issubdtype(taken, np.floating) else np.float32)]
    limit = 32 * max(float(np.finfo(kind).eps) for kind in kinds) * scale
    return np.asarray(~(_difference(one, other) <= limit))


def _difference(one: Array, other: Array) -> Array:
    """Absolute differences: 0 where both are NaN, or both the same infinity; NaN where one of them is."""
    with np.errstate(all="ignore"):
        same = (one == other) | (np.isnan(one) & np.isnan(other))
        return np.asarray(np.where(same, 0, np.abs(one - other)))


def _largest(values: Array, axes: tuple[int, ...]) -> Array:
    """The largest finite value along some axes, which stay."""
    return np.asarray(np.where(np.isfinite(values), values, 0).max(axis=axes, keepdims=True))


def largest_error(one: Array, other: Array) -> float:
    """The largest difference of two outputs, as a share of the values at the same place.

    Parameters
    ----------
    one, other
        With the axis in front along which places are told apart. Infinite where the shapes differ.
    """
    if one.shape != other.shape or not one.size:
        return np.inf
    first, second = (y.reshape(len(y), -1).astype(float) for y in (one, other))
    sizes = np.maximum(_largest(np.abs(first), (1,)), 1e-30)
    return float((_difference(first, second) / sizes).max())
