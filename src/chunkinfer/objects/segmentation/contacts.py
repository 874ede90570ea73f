"""Contacts of a block's fragments, compiled: rows of the region graph, and what lies at the block's faces.

Arrays are framed, and directions numbered, as in `flowing`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from chunkinfer.objects.segmentation.flowing import Array, Bytes, Corner, Longs, Shorts, place_of, plane_of, steps_of
from chunkinfer.objects.segmentation.graph import COLUMNS, SCALE
from chunkinfer.support.jit import compiled

ENTRY = np.dtype([("other", np.int32), ("most", np.int32), ("total", np.int64), ("count", np.int64), ("key", np.int64)])
"""What is known of a fragment and one that it touches, while its contacts are counted."""

ROWS = 1 << 12
"""Rows for which a region graph has room at least."""


def region_graph(
    fragments: Shorts,
    order: Shorts,
    label: NDArray[np.uint64],
    size: Longs,
    affinities: Array,
    offset: Corner,
    start: Corner,
    volume: Corner,
    scale: float,
) -> dict[str, Array]:
    """The region graph inside a block, by the names of its columns.

    ``order``, as long as ``fragments``, is overwritten: voxels sorted by fragment. So a fragment's contacts are
    counted one after the other, in a table that stays in the processor's cache.
    """
    starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(size)])
    _sort(fragments.ravel(), order, starts)
    columns = [np.empty(0, dtype) for dtype in COLUMNS.values()]
    slots, entries = np.zeros(len(size) + 1, np.int32), np.empty(len(size) + 1, ENTRY)
    fragment, filled = 1, 0
    while fragment <= len(size):
        room = max(2 * filled, 4 * len(size), ROWS)  # at least what one fragment can touch
        for i, column in enumerate(columns):
            columns[i] = np.empty(room, column.dtype)  # no memory before it is written to
            columns[i][:filled] = column[:filled]
        del column
        fragment, filled = _count(
            fragments, order, starts, fragment, filled, label, affinities.ravel(), affinities.shape, offset, start,
            volume, scale, slots, entries, *columns,
        )  # fmt: skip
    return {name: columns.pop(0)[:filled].copy() for name in COLUMNS}


@compiled
def cuts(
    steepest: Bytes, fragments: Shorts, affinities: Array, offset: Corner, faces: Longs, scale: float
) -> tuple[NDArray[np.uint32], NDArray[np.bool_], Shorts]:
    """What lies at the block's faces: fragments, whether plateaus are shared, affinities of the block's own edges."""
    depth, height, width = steepest.shape
    framed = (depth, height, width)
    steps, bits, numbers = steps_of(framed), steepest.ravel(), fragments.ravel()
    room, own = 0, 0
    for k in faces:
        _, _, _, wide, long = plane_of(k, framed)
        room += wide * long
        own += wide * long if k < 3 else 0
    row, tie, weight = np.zeros(room, np.uint32), np.zeros(room, np.bool_), np.zeros(own, np.int32)
    n = 0
    for k in faces:
        corner, across, along, wide, long = plane_of(k, framed)
        for p in range(wide):
            for q in range(long):
                v = corner + p * across + q * along
                out = v + steps[k]
                z, y, x = place_of(v if k < 3 else out, framed)
                w = affinities[min(k, 5 - k), z + offset[0], y + offset[1], x + offset[2]]
                if bits[v] != 0 and bits[out] != 0 and w == w:
                    row[n] = numbers[v]
                    tie[n] = bits[v] >> k & 1 and bits[out] >> (5 - k) & 1
                    if k < 3:
                        weight[n] = _scaled(w, scale)
                n += 1
    return row, tie, weight


@compiled
def volume_keys(keys: Longs, framed: Corner, start: Corner, volume: Corner) -> Longs:
    """Keys that count voxels of the framed block, as keys that count those of the volume."""
    result = np.empty_like(keys)
    for n in range(len(keys)):
        z, y, x = place_of(keys[n] // 3, framed)
        linear = ((start[0] + z - 1) * volume[1] + start[1] + y - 1) * volume[2] + start[2] + x - 1
        result[n] = 3 * linear + keys[n] % 3
    return result


@compiled
def _scaled(w: Any, scale: float) -> int:
    """An affinity as an integer; what is outside [0, 1] counts as its end."""
    return int(np.rint(min(max(w * scale, 0.0), float(SCALE))))


@compiled
def _sort(numbers: Shorts, order: Shorts, starts: Longs) -> None:
    """Voxels by fragment, each fragment's ascending, those of fragment k from starts[k - 1] on."""
    free = starts.copy()
    for v in range(len(numbers)):
        k = numbers[v]
        if k > 0:
            order[free[k - 1]] = v
            free[k - 1] += 1


@compiled
def _count(
    fragments: Shorts,
    order: Shorts,
    starts: Longs,
    fragment: int,
    filled: int,
    label: NDArray[np.uint64],
    affinities: Array,
    seen: tuple[int, int, int, int],
    offset: Corner,
    start: Corner,
    volume: Corner,
    scale: float,
    slots: Shorts,
    entries: Array,
    a: NDArray[np.uint64],
    b: NDArray[np.uint64],
    most: Longs,
    total: Longs,
    count: Longs,
    key: Longs,
) -> tuple[int, int]:
    """Rows of the region graph, fragment by fragment while there is room; the next fragment, and the rows so far.

    ``slots`` says where in ``entries`` a fragment was met last. It is never cleared: what the entry says of itself
    tells whether that was by this one.
    """
    framed, numbers = fragments.shape, fragments.ravel()
    steps = steps_of(framed)
    # The edge in each direction, from a voxel's place in the first channel, and from three times its linear index.
    channel, plane, line = seen[1] * seen[2] * seen[3], seen[2] * seen[3], seen[3]
    edges = np.array([0, channel, 2 * channel, 2 * channel + 1, channel + line, plane])
    keys = np.array([0, 1, 2, 3 + 2, 3 * volume[2] + 1, 3 * volume[1] * volume[2]])
    while fragment < len(starts):
        degree = 0
        for v in order[starts[fragment - 1] : starts[fragment]]:
            place, linear = -1, 0
            for k in range(6):
                other = numbers[v + steps[k]]
                if other <= fragment:  # the same, background, or counted from the other side
                    continue
                if place < 0:
                    z, y, x = place_of(v, framed)
                    place = ((z + offset[0]) * seen[2] + y + offset[1]) * seen[3] + x + offset[2]
                    linear = ((start[0] + z - 1) * volume[1] + start[1] + y - 1) * volume[2] + start[2] + x - 1
                w = affinities[place + edges[k]]
                if w != w:
                    continue
                weight, edge = _scaled(w, scale), 3 * linear + keys[k]
                entry = entries[slots[other]]
                if slots[other] >= degree or entry.other != other:
                    slots[other] = degree
                    entry = entries[degree]
                    entry.other, entry.most, entry.total, entry.count, entry.key = other, weight, weight, 1, edge
                    degree += 1
                    continue
                entry.total += weight
                entry.count += 1
                if weight > entry.most or (weight == entry.most and edge > entry.key):
                    entry.most, entry.key = weight, edge
        if filled + degree > len(a):
            break
        _ascend(entries[:degree])
        for n in range(degree):
            entry = entries[n]
            a[filled], b[filled] = label[fragment - 1], label[entry.other - 1]
            most[filled], total[filled] = entry.most, entry.total
            count[filled], key[filled] = entry.count, entry.key
            filled += 1
        fragment += 1
    return fragment, filled


@compiled
def _ascend(entries: Array) -> None:
    """Sort by the fragment that is touched, in place."""
    if len(entries) > 32:
        entries[:] = entries[np.argsort(entries["other"])]
        return
    for n in range(1, len(entries)):
        place = n
        while place > 0 and entries[place - 1].other > entries[place].other:
            _swap(entries[place - 1], entries[place])
            place -= 1


@compiled
def _swap(one: Any, two: Any) -> None:
    """Exchange two entries."""
    one.other, two.other = two.other, one.other
    one.most, two.most = two.most, one.most
    one.total, two.total = two.total, one.total
    one.count, two.count = two.count, one.count
    one.key, two.key = two.key, one.key
