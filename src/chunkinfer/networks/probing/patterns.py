"""Inputs of several kinds, for networks that can only be run: what noise does not show, another kind may.

Noise almost never holds a block of bright voxels, so an opening by 3 voxels makes nothing of it, and looks as if it
read nothing; nor does it hold large even regions, in which a distance transform reads far. So probes are drawn from
patterns of two values as well, each of them and what is bright in it dark, and from voxels of the volume.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.generic]
Shape = tuple[int, ...]

_LOW, _HIGH = -1.0, 1.0
"""The two values of a pattern where no voxels of the volume are known."""

_LONGEST = 12
"""Voxels on each side of a cut that the longest bar covers."""


def pattern_pairs(shape: Shape, axis: int, samples: Sequence[Array], dtype: str) -> Iterator[tuple[Array, list[Array]]]:
    """Inputs, each with others of which one side is put into it.

    Parameters
    ----------
    shape
        Shape of the input, (1, channels, *space).
    axis
        The spatial axis that is cut.
    samples
        Voxels of the volume, (channels, *space) each, as the network takes them; may be empty.
    dtype
        Name of the dtype that the network takes.
    """
    low, high = _values(samples, dtype)
    rng = np.random.default_rng(7)
    for dark, bright in ((low, high), (high, low)):
        made = [blocks(shape, rng), blocks(shape, rng), blocks(shape, rng), *(rng.random((2, *shape)) < 0.9)]
        boxes, *_, dense, other = drawn = [np.where(one, bright, dark).astype(dtype) for one in made]
        yield boxes, drawn[1:3]
        yield dense, [other]
        yield np.full(shape, bright, dtype), [other]  # what is even throughout has no end that is near
    laid = [_laid(sample, shape, dtype) for sample in samples]
    for k, one in enumerate(laid):
        other = laid[(k + 1) % len(laid)]
        yield one, [np.ascontiguousarray(np.flip(other, 2 + axis))]


def bar_pairs(
    shape: Shape, axis: int, cut: int, samples: Sequence[Array], dtype: str
) -> Iterator[tuple[Array, list[Array]]]:
    """Bars as wide as the input that lie across a cut, of every length up to twice `_LONGEST`, each with an even input.

    Parameters
    ----------
    shape, axis, samples, dtype
        As for `pattern_pairs`.
    cut
        The first voxel of the upper side.
    """
    low, high = _values(samples, dtype)
    for length in range(1, _LONGEST + 1):
        bar = np.zeros(shape, bool)
        np.moveaxis(bar, 2 + axis, 0)[max(0, cut - length) : cut + length] = True
        for dark, bright in ((low, high), (high, low)):
            yield np.where(bar, bright, dark).astype(dtype), [np.full(shape, dark, dtype)]


def whole_inputs(shape: Shape, samples: Sequence[Array], dtype: str) -> Iterator[Array]:
    """Inputs for comparing tiles with a whole: blocks, bright and dark, and voxels of the volume."""
    low, high = _values(samples, dtype)
    drawn = blocks(shape, np.random.default_rng(8))
    for one in (drawn, ~drawn):
        yield np.where(one, high, low).astype(dtype)
    for sample in samples[:1]:
        yield _laid(sample, shape, dtype)


def blocks(shape: Shape, rng: np.random.Generator) -> npt.NDArray[np.bool_]:
    """Boxes of 1 to 9 voxels a side, laid over each other."""
    found = np.zeros(shape, bool)
    space = shape[2:]
    for _ in range(max(8, int(np.prod(space)) // 200)):
        size = rng.integers(1, 10, len(space))
        start = [rng.integers(-int(s) + 1, n) for s, n in zip(size, space, strict=True)]
        box = tuple(slice(max(0, int(a)), max(0, int(a + s))) for a, s in zip(start, size, strict=True))
        found[(slice(None), slice(None), *box)] ^= True
    return found


def _values(samples: Sequence[Array], dtype: str) -> tuple[float, float]:
    """The two values of a pattern: the least and the largest voxel of the volume, where some are known and differ."""
    values = [float(end) for sample in samples for end in (sample.min(), sample.max())]
    if values and np.isfinite(values).all() and min(values) < max(values):
        return min(values), max(values)
    return (_LOW, _HIGH) if np.issubdtype(dtype, np.floating) else (0.0, 127.0)


def _laid(sample: Array, shape: Shape, dtype: str) -> Array:
    """A sample made as large as an input, mirrored at its ends."""
    missing = [(0, max(0, n - have)) for n, have in zip(shape[2:], sample.shape[1:], strict=True)]
    whole = np.pad(sample, [(0, 0), *missing], mode="symmetric")
    return whole[(np.newaxis, slice(None), *(slice(n) for n in shape[2:]))].astype(dtype)
