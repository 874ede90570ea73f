"""compressed_segmentation: Neuroglancer's encoding of labels, as compiled loops.

https://github.com/google/neuroglancer/tree/master/src/sliceview/compressed_segmentation

A chunk is 32-bit words: where each channel begins; of each channel a header of two words per block (where its table is
and bits per voxel; where its voxels are), and tables and voxels behind. Voxels are numbers of rows in the table, x
fastest. Blocks with equal tables share one. Imported only where it is needed.
"""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chunkinfer.compiling import compiled
from chunkinfer.errors import DestinationError

Words = NDArray[np.uint32]
Triple = tuple[int, int, int]

ADDRESSED = 1 << 24
"""Words in which tables lie: a header has 24 bits for where one begins."""


def room_for(channels: int, itemsize: int, shape: Triple, block: Triple) -> Words:
    """Room for a chunk of this shape, however its labels are: most of it is never touched."""
    blocks = prod(-(-n // b) for n, b in zip(shape, block, strict=True))
    return np.empty(channels * (1 + blocks * (2 + prod(block) * (itemsize // 4 + 1))), np.uint32)


def encode(labels: NDArray[Any], start: Triple, shape: Triple, block: Triple, room: Words) -> Words:
    """A chunk of labels (c, z, y, x) in C order, uint32 or uint64: the box of a shape from ``start`` on.

    ``block`` is the format's: voxels (z, y, x) that share a table.

    Raises
    ------
    DestinationError
        The chunk has more labels than the format can address.
    """
    end = len(labels)
    for c in range(len(labels)):
        room[c] = end
        words = encode_channel(labels[c], start, shape, block, labels.itemsize // 4, room[end:])
        if words < 0:
            raise DestinationError(
                f"A chunk of {shape} voxels (z, y, x) has too many different labels for compressed_segmentation.",
                f"The encoding finds tables of labels within {4 * ADDRESSED >> 20} MiB, which random labels exceed.",
                ["take smaller chunks: chunks=(64, 64, 64)", 'or another encoding: encoding="raw"'],
            )
        end += words
    return room[:end].astype("<u4")


@compiled
def encode_channel(labels: NDArray[Any], start: Triple, shape: Triple, block: Triple, width: int, room: Words) -> int:
    """Encode one channel into ``room``; returns how many words it took, -1 where a table lies out of reach.

    A label has ``width`` words.
    """
    grid = -(-shape[0] // block[0]), -(-shape[1] // block[1]), -(-shape[2] // block[2])
    end = 2 * grid[0] * grid[1] * grid[2]
    size = block[0] * block[1] * block[2]
    table, rows = np.empty(size, labels.dtype), np.empty(size, np.uint16)
    slots = 1
    while slots < end:  # twice as many as tables
        slots *= 2
    known: Any = np.zeros((slots, 2), np.int64)  # where a table is, and its length; 0 where none is
    header, differ = 0, np.empty(shape[2], labels.dtype)
    for z in range(start[0], start[0] + shape[0], block[0]):
        below = min(z + block[0], start[0] + shape[0])
        for y in range(start[1], start[1] + shape[1], block[1]):
            back = min(y + block[1], start[1] + shape[1])
            # Most blocks lie inside of one object; where labels differ is found for a row of blocks at a time.
            one = labels[z, y, start[2] : start[2] + shape[2]]
            differ[:] = 0
            for plane in range(z, below):
                for line in range(y, back):
                    other = labels[plane, line, start[2] : start[2] + shape[2]]
                    for x in range(len(other)):
                        differ[x] |= other[x] ^ one[x]
            for x in range(0, shape[2], block[2]):
                right, count = min(x + block[2], shape[2]), 1
                table[0], changes = one[x], differ[x]
                for i in range(x + 1, right):
                    changes |= differ[i] | (one[i] ^ one[x])
                if changes:
                    part = labels[z:below, y:back, start[2] + x : start[2] + right]
                    count = tabulate(part, block, table, rows)
                slot = slot_of(known, table, count, room, width)
                if not known[slot, 1]:
                    if end >= ADDRESSED:
                        return -1
                    known[slot] = end, count
                    for i in range(count):
                        room[end] = np.uint32(table[i] & labels.dtype.type(0xFFFFFFFF))
                        if width == 2:
                            room[end + 1] = np.uint32(table[i] >> labels.dtype.type(32))
                        end += width
                bits = 0
                while 1 << bits < count:
                    bits = 2 * bits if bits else 1
                room[header], room[header + 1] = known[slot, 0] | bits << 24, end
                header += 2
                if bits:
                    words = (size * bits + 31) // 32
                    pack(rows, bits, room[end : end + words])
                    end += words
    return int(end)


@compiled
def tabulate(part: NDArray[Any], block: Triple, table: NDArray[Any], rows: NDArray[np.uint16]) -> int:
    """The labels of a block in order, and which of them each voxel has; returns how many there are."""
    count, last, known = 1, 0, part[0, 0, 0]
    table[0] = known
    rows[:] = 0  # also of voxels beyond the end of the volume
    for z in range(part.shape[0]):
        for y in range(part.shape[1]):
            row = (z * block[1] + y) * block[2]
            for x in range(part.shape[2]):
                label = part[z, y, x]
                if label != known:  # neighbours are mostly alike
                    known, last = label, 0
                    while last < count and table[last] != known:
                        last += 1
                    if last == count:
                        table[count] = known
                        count += 1
                rows[row + x] = last
    if ordered(table, count):
        return count
    places = np.arange(count).astype(np.uint16)  # of labels in the order in which they were met
    for i in range(1, count):
        label, met, k = table[i], places[i], i
        while k and table[k - 1] > label:
            table[k], places[k] = table[k - 1], places[k - 1]
            k -= 1
        table[k], places[k] = label, met
    row_of = np.empty(count, np.uint16)
    for i in range(count):
        row_of[places[i]] = i
    for i in range(len(rows)):
        rows[i] = row_of[rows[i]]
    return count


@compiled
def ordered(table: NDArray[Any], count: int) -> bool:
    """Whether labels ascend."""
    for i in range(1, count):  # noqa: SIM110 (numba compiles no generators)
        if table[i] < table[i - 1]:
            return False
    return True


@compiled
def slot_of(known: Any, table: NDArray[Any], count: int, room: Words, width: int) -> int:
    """Where a table is known, by a hash of its labels; a free slot where it is not in the room yet."""
    slot = count
    for i in range(count):
        slot = (slot * 31 + int(table[i])) & 0xFFFFFFFFFFFF
    slot &= len(known) - 1
    while known[slot, 1] and not (known[slot, 1] == count and holds(room, known[slot, 0], table, count, width)):
        slot = (slot + 1) & (len(known) - 1)
    return int(slot)


@compiled
def holds(room: Words, start: int, table: NDArray[Any], count: int, width: int) -> bool:
    """Whether the table at a place in the room is this one."""
    for i in range(count):
        if room[start + i * width] != np.uint32(table[i] & table.dtype.type(0xFFFFFFFF)):
            return False
        if width == 2 and room[start + i * width + 1] != np.uint32(table[i] >> table.dtype.type(32)):
            return False
    return True


@compiled
def pack(rows: NDArray[np.uint16], bits: int, words: Words) -> None:
    """Numbers of so many bits, the first in the lowest."""
    each = 32 // bits
    for w in range(len(words)):
        word, shift, part = np.uint32(0), np.uint32(0), rows[w * each : (w + 1) * each]
        for i in range(len(part)):
            word |= np.uint32(part[i]) << shift
            shift += np.uint32(bits)
        words[w] = word
