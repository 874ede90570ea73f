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

from chunkinfer.errors import DestinationError
from chunkinfer.support.jit import compiled

Words = NDArray[np.uint32]
Triple = tuple[int, int, int]

ADDRESSED = 1 << 24
"""Words in which tables lie: a header has 24 bits for where one begins."""


def room_for(channels: int, itemsize: int, shape: Triple, block: Triple) -> int:
    """Words that a chunk of this shape can take."""
    blocks = prod(-(-n // b) for n, b in zip(shape, block, strict=True))
    return channels * (1 + blocks * (2 + prod(block) * (itemsize // 4 + 1)))


def encode_row(
    labels: NDArray[Any], start: Triple, shape: Triple, chunk: int, block: Triple, rooms: NDArray[np.uint32]
) -> list[Words]:
    """A row of chunks along x, of labels (c, z, y, x) in C order, uint32 or uint64.

    A row, because memory is read in long lines several times as fast as in those of a chunk.

    Parameters
    ----------
    labels
        All labels.
    start, shape
        Where the row begins in them (z, y, x), and its voxels.
    chunk
        Voxels of a chunk along x; the last one may have fewer.
    block
        The format's: voxels (z, y, x) that share a table.
    rooms
        (chunks, words) to work in, see `room_for`: most of it is never touched.

    Raises
    ------
    DestinationError
        A chunk has more labels than the format can address.
    """
    ends = np.full(-(-shape[2] // chunk), len(labels))
    for c in range(len(labels)):
        rooms[: len(ends), c] = ends
        if not encode_channel(labels[c], start, shape, chunk, block, labels.itemsize // 4, rooms, ends):
            raise DestinationError(
                f"A chunk of {(*shape[:2], chunk)} voxels (z, y, x) has too many different labels for "
                "compressed_segmentation.",
                f"The encoding finds tables of labels within {4 * ADDRESSED >> 20} MiB, which random labels exceed.",
                [
                    "another encoding: encoding='raw'",
                    "smaller chunks: chunks=(64, 64, 64)" if len(labels) == 1 and shape[0] > 1 else "or smaller chunks",
                ],
            )
    return [room[:end].astype("<u4") for room, end in zip(rooms, ends, strict=True)]


@compiled
def encode_channel(
    labels: NDArray[Any], start: Triple, shape: Triple, chunk: int, block: Triple, width: int,
    rooms: NDArray[np.uint32], ends: NDArray[np.int64],
) -> bool:  # fmt: skip
    """Encode one channel behind the ``ends`` of its rooms, which move; whether all tables lie within reach.

    A label has ``width`` words.
    """
    begins, headers = ends.copy(), np.zeros(len(ends), np.int64)
    layers = -(-shape[0] // block[0]) * -(-shape[1] // block[1])
    for i in range(len(ends)):
        ends[i] = 2 * layers * -(-min(chunk, shape[2] - i * chunk) // block[2])
    size = block[0] * block[1] * block[2]
    table, rows = np.empty(size, labels.dtype), np.empty(size, np.uint16)
    slots = 1
    while slots < 2 * layers * -(-chunk // block[2]):  # twice as many as tables
        slots *= 2
    known: Any = np.zeros((len(ends), slots, 2), np.int32)  # where a table is, and its length; 0 where none is
    differ = np.empty(shape[2], labels.dtype)
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
            for i in range(len(ends)):
                room, tables, header, end = rooms[i, begins[i] :], known[i], headers[i], ends[i]
                stop = min((i + 1) * chunk, shape[2])
                for x in range(i * chunk, stop, block[2]):
                    right, count = min(x + block[2], stop), 1
                    table[0], changes = one[x], differ[x]
                    for n in range(x + 1, right):
                        changes |= differ[n] | (one[n] ^ one[x])
                    if changes:
                        corner, inside = (z, y, start[2] + x), (below - z, back - y, right - x)
                        count = tabulate(labels, corner, inside, block, table, rows)
                    slot = slot_of(tables, table, count, room, width)
                    if not tables[slot, 1]:
                        if end >= ADDRESSED:
                            return False
                        tables[slot] = end, count
                        for n in range(count):
                            room[end] = np.uint32(table[n] & labels.dtype.type(0xFFFFFFFF))
                            if width == 2:
                                room[end + 1] = np.uint32(table[n] >> labels.dtype.type(32))
                            end += width
                    bits = 0
                    while 1 << bits < count:
                        bits = 2 * bits if bits else 1
                    room[header], room[header + 1] = tables[slot, 0] | bits << 24, end
                    header += 2
                    if bits:
                        words = (size * bits + 31) // 32
                        pack(rows, bits, room[end : end + words])
                        end += words
                headers[i], ends[i] = header, end
    ends += begins
    return True


@compiled
def tabulate(
    labels: NDArray[Any], corner: Triple, shape: Triple, block: Triple, table: NDArray[Any], rows: NDArray[np.uint16]
) -> int:
    """The labels of a block in order, and which of them each voxel has; returns how many there are.

    Of ``block`` voxels (z, y, x) those in ``shape`` are in the chunk, from ``corner`` on.
    """
    flat, count, last, known = labels.reshape(-1), 1, 0, labels[corner]
    table[0] = known
    rows[:] = 0  # also of voxels beyond the end of the chunk
    for z in range(shape[0]):
        for y in range(shape[1]):
            # Unsigned numbers, because numba looks at each index whether it counts from the end.
            voxel = np.uint64(((corner[0] + z) * labels.shape[1] + corner[1] + y) * labels.shape[2] + corner[2])
            row = np.uint64((z * block[1] + y) * block[2])
            for _ in range(shape[2]):
                label = flat[voxel]
                if label != known:  # neighbours are mostly alike
                    known, last = label, 0
                    while last < count and table[last] != known:
                        last += 1
                    if last == count:
                        table[count] = known
                        count += 1
                rows[row] = last
                voxel += np.uint64(1)
                row += np.uint64(1)
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
