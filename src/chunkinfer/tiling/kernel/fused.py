"""Loops over voxels, compiled: each passes over memory once.

Imported only where a kernel runs on a CPU. Arrays are (channels, z, y, x), in C order; a part of one is given by where
it starts. Checks are comparisons joined by "or", which the compiler may reorder as it likes, and never sums.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from chunkinfer.support.jit import compiled
from chunkinfer.tiling.kernel import canvas

Array = NDArray[Any]
Floats = NDArray[np.float32]
Corner = tuple[int, int, int]

LARGEST = np.finfo(np.float32).max
LOWEST, HIGHEST = np.float32(canvas.LOWEST), np.float32(canvas.HIGHEST)


@compiled
def gather(data: Array, start: Corner, patch: Floats, offset: np.float32, scale: np.float32) -> None:
    """``patch = (data - offset) / scale`` from ``start`` on; beyond the end of ``data`` its last voxel is repeated."""
    channels, depth, height, width = patch.shape
    inside = min(width, data.shape[3] - start[2])
    for c in range(channels):
        for z in range(depth):
            plane = min(start[0] + z, data.shape[1] - 1)
            for y in range(height):
                line = min(start[1] + y, data.shape[2] - 1)
                source, target = data[c, plane, line, start[2] : start[2] + inside], patch[c, z, y]
                for x in range(inside):
                    target[x] = (np.float32(source[x]) - offset) / scale
                for x in range(inside, width):
                    target[x] = target[inside - 1]


@compiled
def add(
    total: Floats,
    at: Corner,
    values: Floats,
    start: Corner,
    shape: Corner,
    by_z: Floats,
    by_y: Floats,
    by_x: Floats,
    held: Corner,
) -> bool:
    """``total += by_z * by_y * by_x * values`` over a box of ``shape``, from ``at`` in one and ``start`` in the other.

    What ``total`` holds at ``held`` and beyond, on all axes, counts as zero. Returns whether a value is not finite.
    """  # fmt: skip
    bad = False
    for c in range(values.shape[0]):
        for z in range(shape[0]):
            for y in range(shape[1]):
                source = values[c, start[0] + z, start[1] + y, start[2] : start[2] + shape[2]]
                target = total[c, at[0] + z, at[1] + y, at[2] : at[2] + shape[2]]
                weight = by_z[z] * by_y[y]
                known = held[2] if z >= held[0] and y >= held[1] else shape[2]
                for x in range(known):
                    target[x] = target[x] + weight * by_x[x] * source[x]
                    bad |= not abs(source[x]) <= LARGEST
                # Slices of their own: the compiler sees that their indices begin at zero.
                new, fresh, weights = source[known:], target[known:], by_x[known : shape[2]]
                for x in range(len(new)):
                    fresh[x] = np.float32(0) + weight * weights[x] * new[x]  # as if added to zero: no negative zeros
                    bad |= not abs(new[x]) <= LARGEST
    return bad


@compiled
def copy(values: Floats, start: Corner, result: Floats, at: Corner, shape: Corner) -> bool:
    """``result = values`` over a box of ``shape``. Returns whether a value is not finite."""
    bad = False
    for c in range(values.shape[0]):
        for z in range(shape[0]):
            for y in range(shape[1]):
                source = values[c, start[0] + z, start[1] + y, start[2] : start[2] + shape[2]]
                target = result[c, at[0] + z, at[1] + y, at[2] : at[2] + shape[2]]
                for x in range(shape[2]):
                    target[x] = source[x]
                    bad |= not abs(source[x]) <= LARGEST
    return bad


@compiled
def quantise(values: Floats, start: Corner, result: NDArray[np.uint8], at: Corner, shape: Corner) -> bool:
    """``result = round(255 values)``, halves to even. Returns whether a value is NaN or outside [0, 1]."""
    bad = False
    for c in range(values.shape[0]):
        for z in range(shape[0]):
            for y in range(shape[1]):
                source = values[c, start[0] + z, start[1] + y, start[2] : start[2] + shape[2]]
                target = result[c, at[0] + z, at[1] + y, at[2] : at[2] + shape[2]]
                for x in range(shape[2]):
                    # What is inside the bounds rounds to 0 ... 255; what is not is refused.
                    target[x] = np.uint8(np.int32(np.rint(source[x] * np.float32(255))))
                    bad |= not ((source[x] >= LOWEST) & (source[x] <= HIGHEST))
    return bad


@compiled
def exceeds(
    values: Floats, start: Corner, result: NDArray[np.uint8], at: Corner, shape: Corner, threshold: np.float32
) -> bool:
    """``result = values > threshold``. Returns whether a value is not finite."""
    bad = False
    for c in range(values.shape[0]):
        for z in range(shape[0]):
            for y in range(shape[1]):
                source = values[c, start[0] + z, start[1] + y, start[2] : start[2] + shape[2]]
                target = result[c, at[0] + z, at[1] + y, at[2] : at[2] + shape[2]]
                for x in range(shape[2]):
                    target[x] = np.uint8(source[x] > threshold)
                    bad |= not abs(source[x]) <= LARGEST
    return bad


@compiled
def argmax(values: Floats, start: Corner, result: Array, at: Corner, shape: Corner) -> bool:
    """``result`` = the first channel with the largest value. Returns whether a value is not finite."""
    bad = False
    largest = np.empty(shape[2], np.float32)
    for z in range(shape[0]):
        for y in range(shape[1]):
            target = result[0, at[0] + z, at[1] + y, at[2] : at[2] + shape[2]]
            target[:] = 0
            for c in range(values.shape[0]):
                source = values[c, start[0] + z, start[1] + y, start[2] : start[2] + shape[2]]
                for x in range(shape[2]):
                    more = c == 0 or source[x] > largest[x]
                    largest[x] = source[x] if more else largest[x]
                    target[x] = c if more else target[x]
                    bad |= not abs(source[x]) <= LARGEST
    return bad
