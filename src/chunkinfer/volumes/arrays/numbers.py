"""Numbers of headers: sizes that are none, decimals of 32 bits, positions in voxels."""

from __future__ import annotations

import math
from typing import Any

from chunkinfer.volumes.arrays.placement import whole


def is_size(value: object) -> bool:
    """Whether a value can be the edge length of a voxel: a finite number above 0."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf


def shortest(value: Any) -> float:
    """The shortest decimal that a number of 32 or 16 bits stands for: 0.1 is not 0.10000000149."""
    return float(str(value))


def in_voxels(position: float, size: float) -> int | float:
    """A position in voxels; 0 where either number is none."""
    known = is_size(size) and math.isfinite(position) and math.isfinite(position / size)
    return whole(position / size) if known else 0
