"""Write a whole array, for tests that read it back."""

from __future__ import annotations

import itertools

import numpy as np

from chunkinfer.volumes.arrays.destination import Destination


def fill(destination: Destination, array: np.ndarray) -> None:
    """Write an array, one write unit at a time."""
    spans = [range(0, size, unit) for size, unit in zip(destination.shape, destination.shards, strict=True)]
    for corner in itertools.product(*spans):
        box = tuple(
            slice(start, min(start + unit, size))
            for start, unit, size in zip(corner, destination.shards, destination.shape, strict=True)
        )
        assert destination.write(box, array[box]) == array[box].nbytes
