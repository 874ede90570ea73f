"""compressed_segmentation: Neuroglancer's encoding of labels, as compiled loops.

https://github.com/google/neuroglancer/tree/master/src/sliceview/compressed_segmentation

A chunk is 32-bit words: where each channel begins; of each channel a header of two words per block (where its table is
and bits per voxel; where its voxels are), and tables and voxels behind. Voxels are numbers of rows in the table, x
fastest. Blocks with equal tables share one. Imported only where it is needed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from chunkinfer.compiling import compiled

Words = NDArray[np.uint32]
Triple = tuple[int, int, int]


def encode(chunk: NDArray[Any], block: Triple) -> bytes:
    """A chunk of labels (c, z, y, x), uint32 or uint64, in blocks of so many voxels (z, y, x)."""
    blocks = int(np.prod([-(-n // b) for n, b in zip(chunk.shape[1:], block, strict=True)]))
    voxels, width = int(np.prod(block)), chunk.itemsize // 4
    room = np.empty(len(chunk) * (1 + blocks * (2 + voxels * width + voxels)), np.uint32)
    end = len(chunk)
    for c in range(len(chunk)):
        room[c] = end
        end += encode_channel(chunk[c], block, width, room[end:])
    return room[:end].tobytes()


@compiled
def encode_channel(labels: NDArray[Any], block: Triple, width: int, room: Words) -> int:
    """Encode one channel into ``room``; returns how many words it took. A label has ``width`` words."""
    depth, height, length = labels.shape
    grid = -(-depth // block[0]), -(-height // block[1]), -(-length // block[2])
    end = 2 * grid[0] * grid[1] * grid[2]
    size = block[0] * block[1] * block[2]
    table, rows = np.empty(size, labels.dtype), np.empty(size, np.uint16)
    slots = 1
    while slots < end:  # twice as many as tables
        slots *= 2
    known: Any = np.zeros((slots, 2), np.int64)  # where a table is, and its length; 0 where none is
    header = 0
    for z in range(0, depth, block[0]):
        for y in range(0, height, block[1]):
            for x in range(0, length, block[2]):
                part = labels[z : z + block[0], y : y + block[1], x : x + block[2]]
                count = tabulate(part, block, table, rows)
                # Tables that are in the room already are found by a hash of their labels.
                slot = count
                for i in range(count):
                    slot = (slot * 31 + int(table[i])) & 0xFFFFFFFFFFFF
                slot &= slots - 1
                while known[slot, 1] and not (
                    known[slot, 1] == count and holds(room, known[slot, 0], table, count, width)
                ):
                    slot = (slot + 1) & (slots - 1)
                if not known[slot, 1]:
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
    first, same = part[0, 0, 0], True
    for z in range(part.shape[0]):
        for y in range(part.shape[1]):
            for x in range(part.shape[2]):
                same &= part[z, y, x] == first
    table[0] = first
    if same:
        return 1
    rows[:] = 0  # also of voxels beyond the end of the volume
    count, last = 1, 0
    for z in range(part.shape[0]):
        for y in range(part.shape[1]):
            for x in range(part.shape[2]):
                label = part[z, y, x]
                if label != table[last]:  # neighbours are mostly alike
                    last = 0
                    while last < count and table[last] != label:
                        last += 1
                    if last == count:
                        table[count] = label
                        count += 1
                rows[(z * block[1] + y) * block[2] + x] = last
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
        word = np.uint32(0)
        for i in range(min(each, len(rows) - w * each)):
            word |= np.uint32(rows[w * each + i]) << np.uint32(i * bits)
        words[w] = word
