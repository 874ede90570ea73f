"""Downsampling: the arithmetic of coarser levels, in one place.

A voxel of the result stands for a cell of ``factors`` voxels; cells at the ends hold only what is there. Every cell is
computed from its own voxels alone, so the result is the same, bit for bit, however the array was cut along cells.

======  ==================================================================================================
mean    integers: the exact mean, rounded to the nearest, halves to even
        floats: summed in C order, in their own type; float16 in float32
mode    the most frequent value; of several, the smallest
min     the smallest value
max     the largest value
stride  the first voxel of the cell that is there
======  ==================================================================================================
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chunkinfer.support.tokens import keep_tokens

METHODS = ("mean", "mode", "min", "max", "stride")
"""What a cell can become."""

MOST = 32
"""Voxels of a cell whose most frequent value is found by comparing each with each."""

COMPILED = {"mean": ("u1", "u2", "f4"), "mode": ("u1", "u4", "u8")}
"""Methods and types with loops of their own, three to nine times as fast as tensorstore's; it does all others."""

WORTH_COMPILING = 2**18
"""Voxels: fewer are downsampled before loops are compiled or loaded."""


def downsampled_shape(shape: Sequence[int], factors: Sequence[int], phase: Sequence[int] | None = None) -> list[int]:
    """Cells along each axis."""
    phase = phase or (0,) * len(shape)
    return [-(-(n + p) // f) for n, f, p in zip(shape, factors, phase, strict=True)]


def downsample(
    array: NDArray[Any], factors: Sequence[int], method: str, phase: Sequence[int] | None = None
) -> NDArray[Any]:
    """An array with one voxel per cell.

    Parameters
    ----------
    array
        Of any rank; numbers or bool.
    factors
        Voxels of a cell along each axis; 1 leaves an axis as it is.
    method
        Out of `METHODS`.
    phase
        Voxels by which the first cell begins before the array, along each axis: less than its factor; 0 by default.

    Returns
    -------
    numpy.ndarray
        Of the array's type, and the shape of `downsampled_shape`.
    """
    phase = tuple(phase) if phase is not None else (0,) * array.ndim
    if method == "stride":
        # tensorstore's keeps multiples of the factor only, so a first cell that is cut would be lost.
        cells = zip(downsampled_shape(array.shape, factors, phase), factors, phase, strict=True)
        return array[np.ix_(*(np.maximum(np.arange(n) * f - p, 0) for n, f, p in cells))]
    if all(f == 1 for f in factors):
        return array
    array = np.ascontiguousarray(array)  # whatever its order was: the one in which floats are summed
    if array.size >= WORTH_COMPILING and _is_compiled(array, factors, method):
        return _compiled(array, factors, method, phase)
    import tensorstore as ts

    voxels = ts.array(array)[ts.d[:].translate_to[phase]]
    kind: Any = method
    result: NDArray[Any] = ts.downsample(voxels, factors, kind).read().result()
    return result


def _is_compiled(array: NDArray[Any], factors: Sequence[int], method: str) -> bool:
    """Whether `_compiled` does it: of four axes the first is as it was, and no sum of integers overflows."""
    most = {"mean": 2**15, "mode": MOST}
    known = array.dtype.str[1:] in COMPILED.get(method, ())
    return known and prod(factors) <= most[method] and (array.ndim <= 3 or (array.ndim == 4 and factors[0] == 1))


def _compiled(array: NDArray[Any], factors: Sequence[int], method: str, phase: tuple[int, ...]) -> NDArray[Any]:
    """As `downsample`, several times as fast."""
    from chunkinfer.volumes.arrays import cells

    absent = 4 - array.ndim
    voxels = array.reshape((1,) * absent + array.shape)
    by: Any = ((1,) * absent + tuple(factors))[1:]
    cut: Any = ((0,) * absent + phase)[1:]
    shape = downsampled_shape(array.shape, factors, phase)
    result = np.empty(shape, array.dtype)
    rows = result.reshape((1,) * absent + tuple(shape))
    if method == "mode":
        cells.mode(voxels, by, cut, rows)
    else:
        whole = array.dtype.kind != "f"
        cells.mean(voxels, by, cut, whole, np.empty(shape[-1], np.int32 if whole else array.dtype), rows)
    return result


keep_tokens(globals(), "chunkinfer.storage.downsampling")
