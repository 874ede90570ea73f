"""Means and most frequent values of cells of voxels: the loops of `downsampling`, compiled.

Imported only where they are worth it. Arrays are (channels, z, y, x) in C order. Cell ``i`` of an axis holds the voxels
``[i * factor - phase, (i + 1) * factor - phase)`` that are there: all but the first and the last are whole. A row of
cells is made of whole rows of voxels, so that inner loops run along x, where the compiler takes many at a time. Parts
of rows are slices of their own: there it sees that indices begin at zero.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from chunkinfer.support.jit import compiled
from chunkinfer.volumes.arrays.downsampling import MOST

Array = NDArray[Any]
Triple = tuple[int, int, int]


@compiled
def span(cell: int, factor: int, phase: int, size: int) -> tuple[int, int]:
    """The voxels of a cell along an axis: from, to."""
    return max(0, cell * factor - phase), min(size, (cell + 1) * factor - phase)


@compiled
def add(row: Array, factor: int, phase: int, sums: Array) -> None:
    """Add the voxels of a row to the sums of their cells, in their order."""
    kind = sums.dtype.type
    first = factor - phase if phase else 0  # voxels of a first cell that is cut
    for x in range(min(first, len(row))):
        sums[0] = sums[0] + kind(row[x])
    voxels, cells = row[first:], sums[1 if phase else 0 :]
    whole = len(voxels) // factor
    if factor == 2:
        for x in range(whole):
            cells[x] = cells[x] + kind(voxels[2 * x]) + kind(voxels[2 * x + 1])
    else:
        for x in range(whole):
            total = cells[x]
            for i in range(factor):
                total = total + kind(voxels[x * factor + i])
            cells[x] = total
    for x in range(whole * factor, len(voxels)):
        cells[whole] = cells[whole] + kind(voxels[x])


@compiled
def mean(array: Array, factors: Triple, phase: Triple, whole: bool, sums: Array, result: Array) -> None:
    """The mean of each cell; ``sums`` is room for a row of them, and its type is that in which they are taken.

    Whole numbers in int32: exact, because a quotient that is no half is farther from one than round-off. float32:
    summed in C order, and divided in float64, which rounds to what float32's division gives.
    """
    depth, height, width = array.shape[1:]
    last = len(sums) - 1
    head = span(0, factors[2], phase[2], width)
    tail = span(last, factors[2], phase[2], width)
    for c in range(result.shape[0]):
        for z in range(result.shape[1]):
            above, below = span(z, factors[0], phase[0], depth)
            for y in range(result.shape[2]):
                front, back = span(y, factors[1], phase[1], height)
                sums[:] = 0
                for plane in range(above, below):
                    for line in range(front, back):
                        add(array[c, plane, line], factors[2], phase[2], sums)
                rows, row = (below - above) * (back - front), result[c, z, y]
                divide(sums, rows * factors[2], whole, row)
                divide(sums[:1], rows * (head[1] - head[0]), whole, row[:1])
                divide(sums[last:], rows * (tail[1] - tail[0]), whole, row[last:])


@compiled
def divide(sums: Array, voxels: int, whole: bool, result: Array) -> None:
    """Sums of so many voxels, divided; whole numbers are rounded, halves to even."""
    exact = np.float64(voxels)
    if whole:
        for x in range(len(result)):
            result[x] = np.int32(np.rint(sums[x] / exact))
    else:
        for x in range(len(result)):
            result[x] = sums[x] / exact


@compiled
def mode(array: Array, factors: Triple, phase: Triple, result: Array) -> None:
    """The most frequent value of each cell; of several, the smallest."""
    depth, height, width = array.shape[1:]
    cell, differ = np.empty(MOST, array.dtype), np.empty(width, array.dtype)
    for c in range(result.shape[0]):
        for z in range(result.shape[1]):
            above, below = span(z, factors[0], phase[0], depth)
            for y in range(result.shape[2]):
                front, back = span(y, factors[1], phase[1], height)
                # Most cells lie inside of one object; where voxels differ is found for many at a time.
                row, one = result[c, z, y], array[c, above, front]
                differ[:] = 0
                for plane in range(above, below):
                    for line in range(front, back):
                        other = array[c, plane, line]
                        for x in range(len(other)):
                            differ[x] |= other[x] ^ one[x]
                for x in range(len(row)):
                    start, stop = span(x, factors[2], phase[2], width)
                    row[x] = one[start]
                    changes = differ[start]
                    for i in range(start + 1, stop):
                        changes |= differ[i] | (one[i] ^ one[start])
                    if changes:
                        n = 0
                        for plane in range(above, below):
                            for line in range(front, back):
                                for i in range(start, stop):
                                    cell[n] = array[c, plane, line, i]
                                    n += 1
                        row[x] = most_frequent(cell, n)


@compiled
def most_frequent(values: Array, n: int) -> Any:
    """The most frequent of the first ``n`` values; of several, the smallest."""
    most, found = 0, values[0]
    for i in range(n):
        count = 0
        for k in range(n):
            count += values[k] == values[i]
        if count > most or (count == most and values[i] < found):
            most, found = count, values[i]
            if 2 * most > n:
                break
    return found
