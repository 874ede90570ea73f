"""Edges of a triangle mesh collapsed, cheapest first by rounds: the loops of `simplifying`, compiled.

After Garland and Heckbert, "Surface simplification using quadric error metrics" (1997), the new vertex moved along the
normal so that the volume stays (Lindstrom and Turk, "Fast and memory efficient polygonal simplification", 1998). An
edge is collapsed only where the surface stays a surface (the link condition of Dey and others, 1999) and no triangle
turns over. What a vertex's quadric says is the mean of the squared distances to the planes of the triangles that it
stands for, weighted by their areas.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from chunkinfer.support.jit import compiled

Array = NDArray[Any]


@compiled
def quadrics(points: Array, faces: Array, q: Array) -> None:
    """Add the plane of each triangle to its vertices, as xx xy xz xw yy yz yw zz zw ww and area; in ``points``."""
    n, plane = np.empty(3), np.empty(4)
    for f in range(len(faces)):
        a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
        normal(points, a, b, c, n)
        size = np.sqrt(n[0] * n[0] + n[1] * n[1] + n[2] * n[2])
        if size == 0:
            continue
        for d in range(3):
            plane[d] = n[d] / size
        plane[3] = -(plane[0] * points[a, 0] + plane[1] * points[a, 1] + plane[2] * points[a, 2])
        for v in (a, b, c):
            at = 0
            for i in range(4):
                for j in range(i, 4):
                    q[v, at] += size * plane[i] * plane[j]
                    at += 1
            q[v, 10] += size


@compiled
def normal(points: Array, a: int, b: int, c: int, n: Array) -> None:
    """The normal of a triangle, twice its area long."""
    x0, x1, x2 = points[b, 0] - points[a, 0], points[b, 1] - points[a, 1], points[b, 2] - points[a, 2]
    y0, y1, y2 = points[c, 0] - points[a, 0], points[c, 1] - points[a, 1], points[c, 2] - points[a, 2]
    n[0], n[1], n[2] = x1 * y2 - x2 * y1, x2 * y0 - x0 * y2, x0 * y1 - x1 * y0


@compiled
def distance(q: Array, p: Array) -> float:
    """The mean squared distance of a point to the planes of a quadric."""
    x, y, z = p[0], p[1], p[2]
    total = x * (q[0] * x + 2 * (q[1] * y + q[2] * z + q[3])) + y * (q[4] * y + 2 * (q[5] * z + q[6]))
    total += z * (q[7] * z + 2 * q[8]) + q[9]
    mean: float = max(0.0, total) / max(q[10], 1e-300)
    return mean


@compiled
def apart(a: Array, b: Array) -> float:
    """The squared distance of two points."""
    x, y, z = a[0] - b[0], a[1] - b[1], a[2] - b[2]
    squared: float = x * x + y * y + z * z
    return squared


@compiled
def best(q: Array, a: Array, b: Array, p: Array, middle: Array) -> None:
    """The point nearest to the planes of a quadric; where they do not say one, the best on the edge from a to b."""
    xx, xy, xz, yy, yz, zz = q[0], q[1], q[2], q[4], q[5], q[7]
    i, j, k = yy * zz - yz * yz, xz * yz - xy * zz, xy * yz - xz * yy
    determinant = xx * i + xy * j + xz * k
    for d in range(3):
        middle[d] = (a[d] + b[d]) / 2
    if abs(determinant) > 1e-4 * q[10] * q[10] * q[10]:
        r, s, t = -q[3], -q[6], -q[8]
        p[0] = (i * r + j * s + k * t) / determinant
        p[1] = (j * r + (xx * zz - xz * xz) * s + (xy * xz - xx * yz) * t) / determinant
        p[2] = (k * r + (xy * xz - xx * yz) * s + (xx * yy - xy * xy) * t) / determinant
        if apart(p, middle) <= apart(a, b):
            return
    least = np.inf
    for point in (middle, a, b):
        far = distance(q, point)
        if far < least:
            least = far
            for d in range(3):
                p[d] = point[d]


@compiled
def valence(faces: Array, head: Array, following: Array, v: int) -> int:
    """Triangles at a vertex."""
    number, c = 0, head[v]
    while c >= 0:
        number += faces[c // 3, 0] >= 0
        c = following[c]
    return number


@compiled
def linked(faces: Array, head: Array, following: Array, u: int, v: int, mark: Array, stamp: int) -> bool:
    """Whether the surface stays one where two neighbours become one: they share two neighbours, and no more."""
    c = head[u]
    while c >= 0:
        if faces[c // 3, 0] >= 0:
            for k in range(3):
                mark[faces[c // 3, k]] = stamp
        c = following[c]
    mark[u] = mark[v] = 0
    shared, of_u, of_v = 0, valence(faces, head, following, u), 0
    c = head[v]
    while c >= 0:
        f = c // 3
        if faces[f, 0] >= 0:
            of_v += 1
            for k in range(3):
                w = faces[f, k]
                if mark[w] == stamp:
                    mark[w] = 0
                    shared += 1
                    if valence(faces, head, following, w) <= 3:
                        return False
        c = following[c]
    return shared == 2 and of_u + of_v >= 7


@compiled
def keeping_volume(points: Array, faces: Array, head: Array, following: Array, u: int, v: int, p: Array) -> None:
    """Move a point that replaces two so that the mesh encloses what it did."""
    n0, n1, n2, before = 0.0, 0.0, 0.0, 0.0
    o0, o1, o2 = points[u, 0], points[u, 1], points[u, 2]
    for w in (u, v):
        c = head[w]
        while c >= 0:
            f, k = c // 3, c % 3
            if faces[f, 0] >= 0:
                i, j = faces[f, (k + 1) % 3], faces[f, (k + 2) % 3]
                a0, a1, a2 = points[i, 0] - o0, points[i, 1] - o1, points[i, 2] - o2
                b0, b1, b2 = points[j, 0] - o0, points[j, 1] - o1, points[j, 2] - o2
                x0, x1, x2 = a1 * b2 - a2 * b1, a2 * b0 - a0 * b2, a0 * b1 - a1 * b0
                if w == v:  # those at u enclose nothing with it
                    before += (points[v, 0] - o0) * x0 + (points[v, 1] - o1) * x1 + (points[v, 2] - o2) * x2
                if i != u and i != v and j != u and j != v:
                    n0, n1, n2 = n0 + x0, n1 + x1, n2 + x2
            c = following[c]
    size = n0 * n0 + n1 * n1 + n2 * n2
    if size > 0:
        step = (before - n0 * (p[0] - o0) - n1 * (p[1] - o1) - n2 * (p[2] - o2)) / size
        p[0], p[1], p[2] = p[0] + step * n0, p[1] + step * n1, p[2] + step * n2


@compiled
def turned(points: Array, faces: Array, head: Array, following: Array, u: int, v: int, p: Array) -> bool:
    """Whether a triangle at u, without those at v too, turns over or becomes a needle where u moves to a point."""
    n, p0, p1, p2 = np.empty(3), p[0], p[1], p[2]
    c = head[u]
    while c >= 0:
        f, k = c // 3, c % 3
        i, j = faces[f, (k + 1) % 3], faces[f, (k + 2) % 3]
        if faces[f, 0] >= 0 and i != v and j != v:
            normal(points, u, i, j, n)
            e0, e1, e2 = points[i, 0] - p0, points[i, 1] - p1, points[i, 2] - p2
            g0, g1, g2 = points[j, 0] - p0, points[j, 1] - p1, points[j, 2] - p2
            m0, m1, m2 = e1 * g2 - e2 * g1, e2 * g0 - e0 * g2, e0 * g1 - e1 * g0
            area = np.sqrt(m0 * m0 + m1 * m1 + m2 * m2)
            longest = max(e0 * e0 + e1 * e1 + e2 * e2, g0 * g0 + g1 * g1 + g2 * g2, apart(points[i], points[j]))
            along = n[0] * m0 + n[1] * m1 + n[2] * m2
            if area < 0.02 * longest or along < 0.3 * area * np.sqrt(n[0] * n[0] + n[1] * n[1] + n[2] * n[2]):
                return True
        c = following[c]
    return False


@compiled
def merge(faces: Array, head: Array, following: Array, u: int, v: int) -> int:
    """Let u take the triangles of v; how many vanish."""
    last, gone = -1, 0
    for w in (u, v):
        c = head[w]
        while c >= 0:
            after, f = following[c], c // 3
            if faces[f, 0] >= 0:
                if w == v and (faces[f, 0] == u or faces[f, 1] == u or faces[f, 2] == u):
                    faces[f, 0] = -1
                    gone += 1
                else:
                    faces[f, c % 3] = u
                    following[c] = -1
                    if last < 0:
                        head[u] = c
                    else:
                        following[last] = c
                    last = c
            c = after
    head[v] = -1
    return gone


@compiled
def collapse(points: Array, faces: Array, locked: Array, target: int, limits: Array) -> None:
    """Collapse edges, in place; triangles that vanish begin with -1.

    Parameters
    ----------
    points
        (n, 3), float64.
    faces
        (m, 3), int32.
    locked
        Of each vertex, whether it stays where it is.
    target
        Triangles at which it ends.
    limits
        For each round, the largest mean squared distance of a new vertex to the planes that it stands for.
    """
    head, following = np.full(len(points), -1, np.int64), np.full(3 * len(faces), -1, np.int64)
    for c in range(3 * len(faces) - 1, -1, -1):
        v = faces[c // 3, c % 3]
        following[c] = head[v]
        head[v] = c
    q = np.zeros((len(points), 11))
    quadrics(points, faces, q)
    mark, stamp, alive = np.zeros(len(points), np.int64), 0, len(faces)
    version, seen, cost = np.ones(len(points), np.int64), np.zeros(3 * len(faces), np.int64), np.zeros(3 * len(faces))
    p, middle, together = np.empty(3), np.empty(3), np.empty(11)
    for limit in limits:
        for c in range(3 * len(faces)):
            if alive <= target:
                return
            f = c // 3
            if faces[f, 0] < 0:
                continue
            u, v = faces[f, c % 3], faces[f, (c + 1) % 3]
            if u > v or locked[u] or locked[v]:  # the triangle on the other side has it the other way round
                continue
            now = version[u] + version[v]
            if seen[c] == now and cost[c] > limit:
                continue
            for i in range(11):
                together[i] = q[u, i] + q[v, i]
            best(together, points[u], points[v], p, middle)
            seen[c], cost[c] = now, distance(together, p)
            if cost[c] > limit:
                continue
            stamp += 1
            if not linked(faces, head, following, u, v, mark, stamp):
                continue
            keeping_volume(points, faces, head, following, u, v, p)
            if (
                distance(together, p) > limit
                or turned(points, faces, head, following, u, v, p)
                or turned(points, faces, head, following, v, u, p)
            ):
                continue
            alive -= merge(faces, head, following, u, v)
            for d in range(3):
                points[u, d] = p[d]
            for i in range(11):
                q[u, i] = together[i]
            version[u] = now + 1
