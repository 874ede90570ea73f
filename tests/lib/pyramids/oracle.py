"""Levels of a whole array, one cell at a time: what no cut can change."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np


def coarser(array: np.ndarray, factors: Sequence[int], method: str, phase: Sequence[int] | None = None) -> np.ndarray:
    """An array with one voxel per cell; the first cell begins ``phase`` voxels before the array."""
    phase = phase or (0,) * array.ndim
    shape = [-(-(n + p) // f) for n, f, p in zip(array.shape, factors, phase, strict=True)]
    out = np.empty(shape, array.dtype)
    for index in np.ndindex(*shape):
        spans = zip(index, factors, phase, strict=True)
        out[index] = _of_cell(array[tuple(slice(max(0, i * f - p), (i + 1) * f - p) for i, f, p in spans)], method)
    return out


def _of_cell(cell: np.ndarray, method: str) -> Any:
    values = cell.ravel().tolist()  # Python's numbers, which do not overflow
    if method == "mean" and cell.dtype.kind == "f":
        total = cell.dtype.type(0)
        for value in cell.ravel():
            total += value
        return total / cell.dtype.type(cell.size)
    if method == "mean":
        whole, rest = divmod(sum(values), len(values))
        return whole + (2 * rest > len(values) or (2 * rest == len(values) and whole % 2))
    if method == "mode":
        counts = Counter(values)
        most = max(counts.values())
        return min(value for value, n in counts.items() if n == most)
    return {"min": min, "max": max, "stride": lambda them: them[0]}[method](values)
