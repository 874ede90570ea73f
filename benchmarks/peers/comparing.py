"""A stored result against the network on the whole volume."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

SLAB = 64
"""Sections that are compared at a time."""


@dataclass(frozen=True)
class Errors:
    """Over all voxels and channels that are compared."""

    largest: float
    """Largest difference."""
    mean: float
    """Mean difference."""
    flipped: float
    """Share of values that are on the other side of 0.5."""
    values: int
    """Values compared."""


def open_result(folder: Path) -> Any:
    """A result, (c, z, y, x): y.zarr or y.npy; MONAI's merger keeps its batch axis, of one."""
    if (folder / "y.npy").exists():
        return np.load(folder / "y.npy", mmap_mode="r")
    import zarr

    return zarr.open_array(folder / "y.zarr", mode="r")


def compare(result: Any, reference: Path) -> Errors:
    """A result against the boxes of a reference, slab by slab.

    Raises
    ------
    ValueError
        The result does not have the reference's extent or channels.
    """
    largest = total = 0.0
    flipped = values = 0
    for number, box in enumerate(json.loads((reference / "boxes.json").read_text())):
        expected = np.load(reference / f"{number}.npy", mmap_mode="r")
        (low, high), *rest = box
        for start in range(low, high, SLAB):
            stop = min(start + SLAB, high)
            where = (slice(None), slice(start, stop), *(slice(*span) for span in rest))
            seen = np.asarray(result[(0, *where)] if result.ndim == 5 else result[where])
            true = expected[:, start - low : stop - low]
            if seen.shape != true.shape:
                raise ValueError(f"the result has {seen.shape} where the reference has {true.shape}")
            difference = np.abs(seen.astype(np.float32) - true)
            # NaN is larger than everything: max() would pass over it.
            largest = max(largest, float(np.nan_to_num(difference, nan=np.inf).max()))
            total += float(difference.sum(dtype=np.float64))
            flipped += int(np.count_nonzero((seen > 0.5) != (true > 0.5)))
            values += true.size
    return Errors(largest, total / values, flipped / values, values)
