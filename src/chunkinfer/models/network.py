"""A network as a function of numpy arrays, whatever computes it, and how its outputs answer to changes of its input."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Flags = npt.NDArray[np.bool_]

ROUND_OFF = 2e-4
"""Difference, as a share of the values at the same place, that is put down to round-off between runs of one network at
different shapes: float32 kernels of different shapes were seen to differ by 3e-5."""

_CHANGES = ((1.0, 0), (1e3, 1), (1e3, -1), (1e6, 0))
"""Size and sign (0 for both) of the changes made. Large ones carry through the many small weights at the rim of a
context; ordinary ones through gates and normalisations that large ones saturate."""


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

    def __call__(self, x: Array) -> Array:
        """The output for one input, or whatever the network raises on a shape that it does not take."""
        y = np.array(self.run(x))  # a copy: an engine may write its next result into the same memory
        if y.ndim != x.ndim or y.shape[0] != 1 or 0 in y.shape:
            raise ValueError(f"its output has shape {y.shape} instead of (1, channels, {self.ndim} spatial axes)")
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
        """A `Spread`: outputs that change, beyond round-off, when one side of the input does; and those that NaN
        reaches, where there is NaN.

        What no change shows is not found: this is a lower bound of what the network reads.
        """
        x = self.noise(shape)
        y = self(x)
        sides = (slice(0, cut), slice(cut, None))
        below, above = (self._changed(x, y, axis, side) for side in sides)
        return below, above

    def _changed(self, x: Array, y: Array, axis: int, side: slice) -> Flags:
        found = np.zeros(y.shape[2 + axis], bool)
        kept = tuple(k for k in range(y.ndim) if k != 2 + axis)
        for other in self._other_inputs(x, axis, side):
            with np.errstate(all="ignore"):
                found |= _differ(y, self(other)).any(axis=kept)
        return found

    def _other_inputs(self, x: Array, axis: int, side: slice) -> list[Array]:
        where: Any = (..., *[slice(None)] * axis, side, *[slice(None)] * (x.ndim - 3 - axis))
        if not np.issubdtype(x.dtype, np.floating):
            others = [self.noise(x.shape[2:], seed) for seed in (1, 2, 3)]
            return [_replaced(x, where, other[where]) for other in others]
        found = [_replaced(x, where, np.nan)]
        for seed, (size, sign) in enumerate(_CHANGES, 1):
            with np.errstate(over="ignore"):
                change = (self.noise(x.shape[2:], seed)[where] * size).astype(x.dtype)
            found.append(_replaced(x, where, x[where] + (sign * abs(change) if sign else change)))
        return found


def _replaced(x: Array, where: Any, value: Any) -> Array:
    out = x.copy()
    out[where] = value
    return out


def _differ(one: Array, other: Array) -> Flags:
    """Where two outputs differ by more than the round-off of the first, whose voxels are of ordinary size."""
    if not np.issubdtype(one.dtype, np.floating):
        return np.asarray(one != other)
    scale = np.abs(one).max(axis=tuple(range(2, one.ndim)), keepdims=True)
    equal = np.abs(one - other) <= 32 * np.finfo(one.dtype).eps * scale
    return np.asarray(~equal)  # NaN is not equal either


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
    return float((np.abs(first - second).max(1) / np.maximum(np.abs(first).max(1), 1e-30)).max())
