"""Sections of any size as arrays of a picture's size: every few-th voxel, few chunks at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate, pairwise, product
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

Key = tuple[int | slice, ...]

AT_ONCE = 1 << 23
"""Bytes that are read at a time, chunks cut through included."""


def step(n: int, pixels: int) -> int:
    """Every how many-th of n voxels is drawn, so that there are at most ``pixels``."""
    return max(1, -(-n // pixels))


def thinned(array: Any, chunks: Sequence[Sequence[int]], key: Key, steps: Mapping[int, int]) -> NDArray[Any]:
    """What ``array[key]`` holds, of some axes only every few-th voxel: those whose index the step divides.

    Parameters
    ----------
    array
        Anything that is read by boxes.
    chunks
        Sizes along each axis of what is read at a time; what is larger than `AT_ONCE` is read as it is.
    key
        Integers, and slices without a step.
    steps
        By axis; these are whole in the key.
    """
    room = AT_ONCE // array.dtype.itemsize
    for axis, (part, sizes) in enumerate(zip(key, chunks, strict=True)):
        if axis not in steps:
            room //= max(sizes) if isinstance(part, int) else len(range(*part.indices(sum(sizes))))
    room = max(1, room)
    axes = sorted(steps, reverse=True)  # rows are read as long as can be
    parts = dict[int, list[tuple[int, int]]]()
    for axis in axes:
        parts[axis] = list(_merged(chunks[axis], room))
        room = max(1, room // max(b - a for a, b in parts[axis]))
    taken = [axis for axis, part in enumerate(key) if isinstance(part, slice)]
    lengths = {axis: len(range(sum(sizes))[part]) for axis, (part, sizes) in enumerate(zip(key, chunks, strict=True))
               if isinstance(part, slice)}  # fmt: skip
    lengths |= {axis: -(-lengths[axis] // k) for axis, k in steps.items()}
    result = np.empty([lengths[axis] for axis in taken], array.dtype)
    for spans in product(*(parts[axis] for axis in axes)):
        here, there = list(key), dict[int, slice]()
        for axis, (a, b) in zip(axes, spans, strict=True):
            k = steps[axis]
            first, last = -(-a // k), -(-b // k)
            here[axis], there[axis] = slice(first * k, b, k), slice(first, last)
        if prod(part.stop - part.start for part in there.values()):
            result[tuple(there.get(axis, slice(None)) for axis in taken)] = array[tuple(here)]
    return result


def _merged(sizes: Sequence[int], most: int) -> Iterator[tuple[int, int]]:
    """Chunks along an axis, as many together as have so many voxels: start and stop."""
    start = 0
    for edge, after in pairwise([*accumulate(sizes), None]):
        if after is None or after - start > most:
            assert edge is not None
            yield start, edge
            start = edge
