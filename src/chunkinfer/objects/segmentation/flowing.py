"""Loops of the watershed over a block, compiled: from affinities to numbered fragments.

Arrays are framed: the block and one voxel around it, so that a neighbour is a fixed step away everywhere. The six
directions of a voxel are bits of a byte, in the order of the keys of the edges that they go over: -z, -y, -x, +x, +y,
+z. So a voxel's exit with the largest key is its highest bit, and direction k is answered by 5 - k.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from chunkinfer.support.jit import compiled

Array = NDArray[Any]
Bytes = NDArray[np.uint8]
Shorts = NDArray[np.int32]
Longs = NDArray[np.int64]
Corner = tuple[int, int, int]

LAST = np.array([max(bits.bit_length() - 1, 0) for bits in range(64)])
"""The direction of the highest bit."""


@compiled
def steps_of(framed: Corner) -> Longs:
    """How far the neighbour in each direction is."""
    y, z = framed[2], framed[1] * framed[2]
    return np.array([-z, -y, -1, 1, y, z])


@compiled
def place_of(voxel: int, framed: Corner) -> Corner:
    """The z, y, x of a voxel."""
    return voxel // (framed[1] * framed[2]), voxel // framed[2] % framed[1], voxel % framed[2]


@compiled
def plane_of(k: int, framed: Corner) -> tuple[int, int, int, int, int]:
    """The block's face in a direction: its first voxel, two steps and two lengths."""
    depth, height, width = framed
    z, y = height * width, width
    corner = z + y + 1
    if k == 3:
        corner += width - 3
    elif k == 4:
        corner += (height - 3) * y
    elif k == 5:
        corner += (depth - 3) * z
    if k == 0 or k == 5:
        return corner, y, 1, height - 2, width - 2
    if k == 1 or k == 4:
        return corner, z, 1, depth - 2, width - 2
    return corner, z, y, depth - 2, height - 2


@compiled
def _edges(
    result: Array, affinities: Array, mask: Bytes, d: int, z: int, y: int, first: Corner, low: Any, high: Any
) -> None:
    """An x-row of edges, and one beyond its end: w clamped at high, 0 where there is no edge."""
    _, depth, height, width = affinities.shape
    if z >= depth or y >= height or (d == 0 and z == 0 and first[0]) or (d == 1 and y == 0 and first[1]):
        result[:] = 0
        return
    source, target = affinities[d, z, y], result[:width]
    for x in range(width):
        w = source[x]
        target[x] = min(w, high) if w > low else low * 0
    result[width] = 0
    if d == 2:
        result[0] = 0  # over the volume's face, or further away than anything that is asked for
    if mask.size:
        here, there = mask[z, y], mask[max(z - (d == 0), 0), max(y - (d == 1), 0)]
        shift = 1 if d == 2 else 0
        for x in range(shift, width):
            if here[x] == 0 or there[x - shift] == 0:
                result[x] = 0


@compiled
def steepest_of(
    result: Bytes, affinities: Array, mask: Bytes, offset: Corner, first: Corner, low: Any, high: Any
) -> None:
    """The directions of each voxel's highest edges, as bits, also in the frame; ``result`` holds zeros.

    ``offset`` is where the framed block begins in ``affinities``: -1 where these end with the volume, as ``first``
    says. A mask of size 0 is none.
    """
    _, depth, height, width = affinities.shape
    begin, end = max(0, offset[2]), min(width, offset[2] + result.shape[2])
    rows = np.zeros((5, width + 1), affinities.dtype)
    for i in range(max(0, -offset[0]), min(result.shape[0], depth - offset[0])):
        for j in range(max(0, -offset[1]), min(result.shape[1], height - offset[1])):
            z, y = i + offset[0], j + offset[1]
            _edges(rows[0], affinities, mask, 0, z, y, first, low, high)
            _edges(rows[1], affinities, mask, 1, z, y, first, low, high)
            _edges(rows[2], affinities, mask, 2, z, y, first, low, high)
            _edges(rows[3], affinities, mask, 1, z, y + 1, first, low, high)
            _edges(rows[4], affinities, mask, 0, z + 1, y, first, low, high)
            a, b, c = rows[0, begin:end], rows[1, begin:end], rows[2, begin:end]
            d, e, f = rows[2, begin + 1 : end + 1], rows[3, begin:end], rows[4, begin:end]
            target = result[i, j, begin - offset[2] : end - offset[2]]
            for x in range(len(target)):
                most = max(max(max(a[x], b[x]), max(c[x], d[x])), max(e[x], f[x]))
                bits = (
                    np.uint8(a[x] == most)
                    | np.uint8(b[x] == most) << 1
                    | np.uint8(c[x] == most) << 2
                    | np.uint8(d[x] == most) << 3
                    | np.uint8(e[x] == most) << 4
                    | np.uint8(f[x] == most) << 5
                )
                target[x] = np.uint8(bits) if most > 0 else np.uint8(0)


@compiled
def find(parent: Array, i: int) -> int:
    """The root of a set, which is its least member; the way to it is halved."""
    while parent[i] != i:
        parent[i] = parent[parent[i]]
        i = parent[i]
    return i


@compiled
def unite(parent: Array, i: int, j: int) -> None:
    """One set of two."""
    i, j = find(parent, i), find(parent, j)
    parent[max(i, j)] = min(i, j)


@compiled
def _unite_flowing(parent: Shorts, exits: Shorts, i: int, j: int) -> None:
    """One set of two, whose root keeps the best exit of both."""
    i, j = find(parent, i), find(parent, j)
    if i != j:
        i, j = min(i, j), max(i, j)
        parent[j] = i
        exits[i] = max(exits[i], exits[j])
        exits[j] = -1


@compiled
def _ties(result: Bytes, bits: Bytes, row: int, steps: Longs) -> None:
    """The directions in which the voxels of an x-row share a plateau with their neighbours."""
    n = len(result)
    here = bits[row:][:n]
    a, b, c = bits[row + steps[0] :][:n], bits[row + steps[1] :][:n], bits[row + steps[2] :][:n]
    d, e, f = bits[row + steps[3] :][:n], bits[row + steps[4] :][:n], bits[row + steps[5] :][:n]
    for x in range(n):
        answers = (a[x] >> 5 & 1) | (b[x] >> 3 & 2) | (c[x] >> 1 & 4)
        answers |= (d[x] << 1 & 8) | (e[x] << 3 & 16) | (f[x] << 5 & 32)
        result[x] = here[x] & np.uint8(answers)


@compiled
def flow(steepest: Bytes, parent: Shorts, exits: Shorts) -> None:
    """Unite plateaus, and with them the single voxels that flow into them.

    ``parent`` counts the voxels, and ``exits`` holds -1. Afterwards a set is all that flows into one last plateau,
    whose best exit its root holds, as 2 * key + (1 if it leads to the voxel that the edge belongs to). Keys are local:
    they count framed voxels, which are in the volume's order.
    """
    depth, height, width = steepest.shape
    steps, bits = steps_of((depth, height, width)), steepest.ravel()
    ties = np.empty(width - 2, np.uint8)
    for i in range(1, depth - 1):
        for j in range(1, height - 1):
            row = (i * height + j) * width + 1
            _ties(ties, bits, row, steps)
            row_inside = 63 - (i == 1) - 2 * (j == 1) - 16 * (j == height - 2) - 32 * (i == depth - 2)
            for x in range(width - 2):
                v = row + x
                if bits[v] == 0:
                    continue
                inside = row_inside - 4 * (x == 0) - 8 * (x == width - 3)
                for k in range(3):
                    if ties[x] & inside & (1 << k):
                        _unite_flowing(parent, exits, v, v + steps[k])
                leaving = bits[v] ^ ties[x]
                if leaving == 0:
                    continue
                k = LAST[leaving]
                if ties[x] == 0 and inside & (1 << k):
                    _unite_flowing(parent, exits, v, v + steps[k])
                else:
                    root = find(parent, v)
                    over = 2 * (3 * v + k) if k < 3 else 2 * (3 * (v + steps[k]) + 5 - k) + 1
                    exits[root] = max(exits[root], over)


@compiled
def follow(steepest: Bytes, parent: Shorts, exits: Shorts, faces: Longs) -> tuple[Longs, Longs, Longs]:
    """Let plateaus follow their exits, save those that are cut by a face or whose exit leads outside.

    ``faces`` are the directions towards the rest of the volume. Returns of each plateau left a voxel, the key of its
    exit, and the voxel that this leads to, -1 if that is outside.
    """
    depth, height, width = steepest.shape
    framed = (depth, height, width)
    steps, bits = steps_of(framed), steepest.ravel()
    room = 2 * ((depth - 2) * (height - 2) + (depth - 2) * (width - 2) + (height - 2) * (width - 2))
    at, over, to = np.empty(room, np.int64), np.empty(room, np.int64), np.empty(room, np.int64)
    found = 0
    # Plateaus that a face cuts: what their exit is depends on the rest of them.
    for k in faces:
        corner, across, along, wide, long = plane_of(k, framed)
        for p in range(wide):
            for q in range(long):
                v = corner + p * across + q * along
                if bits[v] >> k & 1 and bits[v + steps[k]] >> (5 - k) & 1:
                    root = find(parent, v)
                    if exits[root] >= 0:
                        at[found], over[found], to[found] = root, exits[root] >> 1, _target(exits[root], framed, steps)
                        exits[root] = -1
                        found += 1
    for i in range(len(exits)):
        if exits[i] >= 0:
            target = _target(exits[i], framed, steps)
            if target >= 0:
                unite(parent, i, target)
            else:
                at[found], over[found], to[found] = i, exits[i] >> 1, -1
                found += 1
    return at[:found], over[:found], to[:found]


@compiled
def _target(over: int, framed: Corner, steps: Longs) -> int:
    """The voxel that an exit leads to, -1 if it is not in the block."""
    voxel, d = (over >> 1) // 3, (over >> 1) % 3
    if not over & 1:
        voxel += steps[d]
    z, y, x = place_of(voxel, framed)
    inside = 0 < z < framed[0] - 1 and 0 < y < framed[1] - 1 and 0 < x < framed[2] - 1
    return voxel if inside else -1


@compiled
def number(steepest: Bytes, parent: Shorts, start: Corner, volume: Corner) -> tuple[NDArray[np.uint64], Longs]:
    """Replace parents by numbers from 1 on, in the order of least members, and 0 for background and frame.

    Returns the labels, 1 + the least linear index in the volume, and the sizes.
    """
    depth, height, width = steepest.shape
    bits, last = steepest.ravel(), 0
    for v in range(len(parent)):
        last += parent[v] == v and bits[v] != 0
    label, size = np.empty(last, np.uint64), np.zeros(last, np.int64)  # the frame's voxels were counted too
    last = 0
    for i in range(depth):
        for j in range(height):
            row = (i * height + j) * width
            if i == 0 or j == 0 or i == depth - 1 or j == height - 1:
                parent[row : row + width] = 0
                continue
            least = ((start[0] + i - 1) * volume[1] + start[1] + j - 1) * volume[2] + start[2]
            parent[row] = parent[row + width - 1] = 0
            for v in range(row + 1, row + width - 1):
                if bits[v] == 0:
                    parent[v] = 0
                    continue
                if parent[v] == v:
                    label[last] = np.uint64(least + v - row)
                    last += 1
                    parent[v] = last
                else:
                    parent[v] = parent[parent[v]]  # a parent comes earlier, so it has its number
                size[parent[v] - 1] += 1
    return label[:last].copy(), size[:last].copy()
