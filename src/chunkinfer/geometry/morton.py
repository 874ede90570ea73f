"""Morton codes: the order of a grid's cells that keeps neighbours close, bits of the axes interleaved.

Compressed: an axis takes no more bits than its size needs.
"""

from __future__ import annotations

from collections.abc import Sequence


def bit_axes(grid: Sequence[int]) -> list[int]:
    """The axis of every bit of the code, lowest first."""
    bits = [max(0, size - 1).bit_length() for size in grid]
    return [axis for level in range(max(bits, default=0)) for axis in range(len(grid)) if level < bits[axis]]


def code(cell: Sequence[int], grid: Sequence[int]) -> int:
    """The compressed Morton code of a cell, the first axis in the lowest bit.

    >>> code((1, 0, 1), (2, 1, 2))
    3
    """
    value, seen = 0, [0] * len(grid)
    for position, axis in enumerate(bit_axes(grid)):
        value |= (cell[axis] >> seen[axis] & 1) << position
        seen[axis] += 1
    return value
