"""The chunks of an output where nobody asks for others: what viewers and readers like to fetch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import sqrt

VOXELS = 1 << 18
"""Of a chunk, about: a cube of 64, or a square of 512 of a plane."""

THICK = 2.0
"""Sections of more than so many widths of a voxel make chunks flat, which are then nearer to cubes in space."""


def default_chunks(
    shape: Sequence[int], dims: Sequence[str], voxel_size: Mapping[str, float] | None = None
) -> tuple[int, ...]:
    """About `VOXELS` voxels, the same along y and x; all channels, one time point.

    64 x 64 x 64; 32 x 128 x 128 where sections are thick; wider where there are few sections, 512 x 512 in a plane.

    Parameters
    ----------
    shape, dims
        Of the output. No chunk is longer than its axis.
    voxel_size
        Per spatial axis, in any unit; 1 where it is not known.
    """
    size = {dim: (voxel_size or {}).get(dim, 1.0) for dim in "zyx"}
    thick = size["z"] > THICK * sqrt(size["y"] * size["x"])
    depth, width = min(32 if thick else 64, max(1, dict(zip(dims, shape, strict=True)).get("z", 1))), 64
    while depth * width**2 <= VOXELS // 2:
        width *= 2
    wanted = {"t": 1, "z": depth, "y": width, "x": width}
    return tuple(max(1, min(n, wanted.get(dim, n))) for dim, n in zip(dims, shape, strict=True))
