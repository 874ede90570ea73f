"""Levels of detail of a mesh, cut into the cubes of an octree: what Neuroglancer's multi-resolution format holds.

Everything is in integers on a lattice of `STEPS` per cube, so that the pieces on both sides of a cut have equal
vertices there. The format splits each cube but the finest once more, at `MIDDLE`: no triangle may cross that.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chunkinfer.geometry.morton import code
from chunkinfer.objects.meshes.simplifying import simplified
from chunkinfer.objects.meshes.welding import Faces, Vertices, welded

BITS = 16
"""Of a coordinate in a cube."""
STEPS = 2**BITS - 1
"""Lattice steps along a cube: both of its faces are on the lattice."""
MIDDLE = 2 ** (BITS - 1)
"""Where Neuroglancer takes a cube to be split; half a step beyond its middle."""

TRIANGLES = 2**13
"""A mesh of fewer has one level."""
LEVELS = 6
"""At most."""


@dataclass(frozen=True)
class Level:
    """A mesh at one level of detail."""

    scale: float
    """Mean length of its edges."""
    cubes: list[tuple[int, int, int]]
    """In x, y, z and in Z order: those that hold triangles, or lie above a cube that does."""
    pieces: list[tuple[NDArray[np.int64], Faces]]
    """Of each cube: vertices (n, 3) in x, y, z from its corner, in steps; triangles, none where it is empty."""


@dataclass(frozen=True)
class Octree:
    """A mesh at several levels of detail, finest first; cubes of a level are twice as long as those below."""

    origin: NDArray[np.float32]
    """Corner of the cubes, in x, y, z."""
    edge: np.float32
    """Of a cube of the finest level."""
    levels: list[Level]


def octree(vertices: Vertices, faces: Faces, max_error: float) -> Octree:
    """The levels of a mesh: each has a quarter of the triangles of the one below, if twice its error allows it.

    Parameters
    ----------
    vertices
        (n, 3) along z, y, x.
    faces
        Its triangles.
    max_error
        Of the finest level, which the mesh is; as for `simplified`.
    """
    meshes = [(vertices, faces)]
    for level in range(1, LEVELS):
        if len(meshes[-1][1]) < TRIANGLES:
            break
        meshes.append(simplified(*meshes[-1], len(meshes[-1][1]) // 4, max_error * 2**level))
    low = np.min([points.min(0) for points, _ in meshes], 0)[::-1]
    high = np.max([points.max(0) for points, _ in meshes], 0)[::-1]
    origin = np.floor(low).astype(np.float32)
    count = 2 ** (len(meshes) - 1)  # cubes of the finest level along the whole
    edge = np.float32(np.ceil(max(1.0, float((high - origin).max())) / count))
    levels: list[Level] = []
    for number, (points, triangles) in enumerate(meshes):
        size, across = float(edge) * 2**number, count >> number
        lattice = np.rint((points[:, ::-1] - origin) * (STEPS / size)).astype(np.int64).clip(0, across * STEPS)
        found = dict(_cubes(lattice, triangles, across, halved=number > 0))
        below = levels[-1].cubes if levels else []
        cubes = {*found, *((x // 2, y // 2, z // 2) for x, y, z in below)}
        ordered = sorted(cubes, key=lambda cube: code(cube, (across,) * 3))
        empty = np.empty((0, 3), np.int64), np.empty((0, 3), np.uint32)
        scale = max(_edge_length(points, triangles), levels[-1].scale * 1.01 if levels else 0.0)
        levels.append(Level(scale, ordered, [found.get(cube, empty) for cube in ordered]))
    return Octree(origin, edge, levels)


def _cubes(
    lattice: NDArray[np.int64], faces: Faces, across: int, halved: bool
) -> Iterator[tuple[tuple[int, int, int], tuple[NDArray[np.int64], Faces]]]:
    """The cubes that hold triangles, and what they hold."""
    for axis in range(3):
        for cube in range(across):
            if cube:
                lattice, faces = cut(lattice, faces, axis, cube * STEPS)
            if halved:
                lattice, faces = cut(lattice, faces, axis, cube * STEPS + MIDDLE)
    lattice, faces = welded([(lattice, faces)])
    if not len(faces):
        return
    where = (lattice[faces].min(1) // STEPS).clip(0, across - 1)
    key = where @ (across * across, across, 1)
    order = np.argsort(key, kind="stable")
    starts = np.flatnonzero(np.diff(key[order], prepend=-1))
    for start, stop in pairwise([*starts, len(order)]):
        cube = where[order[start]]
        used, numbers = np.unique(faces[order[start:stop]], return_inverse=True)
        x, y, z = map(int, cube)
        yield (x, y, z), (lattice[used] - cube * STEPS, numbers.reshape(-1, 3).astype(np.uint32))


def cut(lattice: NDArray[np.int64], faces: Faces, axis: int, plane: int) -> tuple[NDArray[np.int64], Faces]:
    """The same mesh without a triangle that crosses a plane: those that did are two or three.

    ::

            p                    p
           / \\                  / \\
        --/---\\--  plane  ->  i---j      an edge is cut once, for both of its triangles
         /     \\              | / |
        q-------r             q---r
    """
    side = np.sign(lattice[:, axis] - plane)[faces]
    crossing = (side.min(1) < 0) & (side.max(1) > 0)
    if not crossing.any():
        return lattice, faces
    kept, faces, side = faces[~crossing], faces[crossing].astype(np.int64), side[crossing]
    # First of each triangle the vertex that is alone on its side; or, where one is on the plane, that one.
    flat = (side == 0).any(1)
    alone = np.where(flat, (side == 0).argmax(1), (side == -np.sign(side.sum(1, keepdims=True))).argmax(1))
    turn = (alone[:, None] + np.arange(3)) % 3
    p, q, r = np.take_along_axis(faces, turn, 1).T
    first, second = np.where(flat, q, p), np.where(flat, r, q)  # the edges that are cut: qr, or pq and pr
    a, b = np.concatenate([first, p[~flat]]), np.concatenate([second, r[~flat]])
    edges, number = np.unique(np.stack([np.minimum(a, b), np.maximum(a, b)], 1), axis=0, return_inverse=True)
    number = number.reshape(-1) + len(lattice)
    lattice = np.concatenate([lattice, _between(lattice[edges[:, 0]], lattice[edges[:, 1]], axis, plane)])
    i, j = number[: len(faces)], number[len(faces) :]
    parts: list[Any] = [
        kept,
        np.stack([p, q, i], 1)[flat], np.stack([p, i, r], 1)[flat],
        np.stack([p[~flat], i[~flat], j], 1),
        np.stack([i[~flat], q[~flat], r[~flat]], 1),
        np.stack([i[~flat], r[~flat], j], 1),
    ]  # fmt: skip
    return lattice, np.concatenate(parts).astype(np.uint32)


def _between(a: NDArray[np.int64], b: NDArray[np.int64], axis: int, plane: int) -> NDArray[np.int64]:
    """The lattice points nearest to where edges meet a plane."""
    share = (plane - a[:, axis]) / (b[:, axis] - a[:, axis])
    made: NDArray[np.int64] = a + np.rint((b - a) * share[:, None]).astype(np.int64)
    made[:, axis] = plane
    return made


def _edge_length(points: Vertices, faces: Faces) -> float:
    """Mean length of the edges."""
    corners = points[faces]
    return float(np.linalg.norm(corners - np.roll(corners, 1, 1), axis=2).mean())
