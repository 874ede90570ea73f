"""Meshes as arrays: pieces joined where their vertices are equal, in one order whatever the pieces."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Vertices = NDArray[Any]
"""(n, 3) along z, y, x."""
Faces = NDArray[np.uint32]
"""(n, 3) numbers of vertices."""


def welded(pieces: Sequence[tuple[Vertices, Faces]]) -> tuple[Vertices, Faces]:
    """One mesh of pieces: vertices at one place become one.

    Vertices are sorted by z, y, x, and triangles by their vertices, beginning with the least: so the mesh depends on
    the set of its triangles, and not on how they were cut into pieces. Triangles of which two vertices fall together
    are left out: what they joined is joined without them.

    Parameters
    ----------
    pieces
        Vertices as integers, at one scale and from one origin; triangles of each piece.
    """
    sizes = np.cumsum([0, *(len(vertices) for vertices, _ in pieces)])
    every = np.concatenate([vertices for vertices, _ in pieces]).astype(np.int64)
    faces = np.concatenate([part.astype(np.int64) + first for (_, part), first in zip(pieces, sizes, strict=False)])
    low = every.min(0)
    z, y, x = every.max(0) - low + 1
    key = ((every[:, 0] - low[0]) * y + (every[:, 1] - low[1])) * x + every[:, 2] - low[2]
    key, number = np.unique(key, return_inverse=True)
    faces = number[faces]
    first = faces.argmin(1)
    faces = faces[np.arange(len(faces))[:, None], (first[:, None] + np.arange(3)) % 3]
    faces = faces[(faces[:, 0] != faces[:, 1]) & (faces[:, 1] != faces[:, 2]) & (faces[:, 2] != faces[:, 0])]
    order = np.lexsort(faces.T[::-1])
    vertices = np.stack(np.unravel_index(key, (z, y, x)), 1) + low
    return vertices, faces[order].astype(np.uint32)


def volume(vertices: Vertices, faces: Faces) -> float:
    """What a closed mesh encloses; positive where its triangles are anticlockwise, seen from outside."""
    if not len(faces):
        return 0.0
    centred = vertices.astype(np.float64) - vertices.mean(0)
    a, b, c = (centred[faces[:, i], ::-1] for i in range(3))
    return float(np.einsum("ij,ij->", a, np.cross(b, c)) / 6)


def borders(vertices: int, faces: Faces) -> NDArray[np.bool_]:
    """Of each vertex, whether the mesh is open there: an edge has a triangle on one side only."""
    a = faces.astype(np.int64)
    edges = np.concatenate([a[:, [0, 1]], a[:, [1, 2]], a[:, [2, 0]]])
    _, inverse, times = np.unique(np.sort(edges, 1) @ (vertices, 1), return_inverse=True, return_counts=True)
    marked = np.zeros(vertices, bool)
    marked[edges[times[inverse] != 2]] = True
    return marked
