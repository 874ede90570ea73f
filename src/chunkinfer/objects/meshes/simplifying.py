"""Fewer triangles for the same surface, within an error; closed meshes stay closed.

Of the libraries, fast-simplification and zmesh's relative of it leave edges with four triangles in most objects of real
data, and lose volume; zmesh's older one keeps surfaces, takes five times as long, and stops early. See docs/meshes.md.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from chunkinfer.objects.meshes.welding import Faces, Vertices

ROUNDS = 12
"""Rounds over all edges, the error that is allowed growing each time."""
GROWTH = 1.5
"""By which it grows."""


def simplified(
    vertices: Vertices, faces: Faces, target: int, max_error: float, locked: NDArray[np.bool_] | None = None
) -> tuple[NDArray[np.float64], Faces]:
    """A mesh of no more than so many triangles, if the error allows it.

    Each edge keeps two triangles, the mesh encloses the volume that it did to round-off, and the result depends on
    nothing but the arguments.

    Parameters
    ----------
    vertices, faces
        A mesh whose vertices are anywhere in space, in the unit of ``max_error``.
    target
        Triangles at which it ends.
    max_error
        The farthest, as root of the mean square, that a vertex may lie from the planes of the triangles for which it
        stands.
    locked
        Vertices that stay where they are; where the mesh is open, its border must be.
    """
    from chunkinfer.objects.meshes.collapsing import collapse

    low = vertices.min(0)
    points, left = np.ascontiguousarray(vertices - low, np.float64), faces.astype(np.int32)
    limits = (max_error * GROWTH ** np.arange(1.0 - ROUNDS, 1.0)) ** 2
    collapse(points, left, np.zeros(len(points), bool) if locked is None else locked, target, limits)
    left = left[left[:, 0] >= 0]
    used, numbers = np.unique(left, return_inverse=True)
    return points[used] + low, numbers.reshape(-1, 3).astype(np.uint32)
