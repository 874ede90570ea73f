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
from typing import Any

import numpy as np
from numpy.typing import NDArray

METHODS = ("mean", "mode", "min", "max", "stride")
"""What a cell can become."""


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
    import tensorstore as ts

    # In C order, whatever the array's: the order in which floats are summed.
    voxels = ts.array(np.ascontiguousarray(array))[ts.d[:].translate_to[phase]]
    kind: Any = method
    result: NDArray[Any] = ts.downsample(voxels, factors, kind).read().result()
    return result
