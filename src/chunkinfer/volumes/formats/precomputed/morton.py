"""Shards of precomputed volumes: which box of chunks one shard holds.

A chunk at cell (i, j, k) of the grid in x, y, z has the compressed Morton code: bit 0 of i, bit 0 of j, bit 0 of k,
bit 1 of i, ..., leaving out axes whose grid has no more bits. A shard holds the chunks that agree in all but the lowest
``preshift_bits + minishard_bits`` bits, so it covers a box of 2^a x 2^b x 2^c chunks::

    bits       0  1  2 | 3  4  5 | 6  7        grid of 8 x 8 x 4 chunks
    axis       x  y  z | x  y  z | x  y
    shard of 2^4 chunks: x, y, z, x  ->  4 x 2 x 2 chunks

Source: the neuroglancer specification, "sharded format", with the identity hash.
"""

from __future__ import annotations

from collections.abc import Sequence

from chunkinfer.geometry.morton import bit_axes

Cell = tuple[int, int, int]

MAX_PRESHIFT = 9
"""Chunks per minishard, as a power of two: an index of 512 entries is 12 kB before compression."""


def shard_box(grid: Sequence[int], bits: int) -> Cell:
    """The box of chunks that share all but the lowest ``bits`` bits of their code."""
    box = [1, 1, 1]
    for axis in bit_axes(grid)[:bits]:
        box[axis] *= 2
    return box[0], box[1], box[2]


def shard_bits(grid: Sequence[int], box: Sequence[int]) -> int:
    """The fewest low bits whose box covers ``box`` chunks, or the whole grid on an axis where that is smaller."""
    axes = bit_axes(grid)
    for bits in range(len(axes) + 1):
        if all(have >= min(want, size) for have, want, size in zip(shard_box(grid, bits), box, grid, strict=True)):
            return bits
    return len(axes)


def sharding(grid: Sequence[int], bits: int, data_encoding: str) -> dict[str, object]:
    """The ``sharding`` member of an info file for shards of ``2 ** bits`` chunks."""
    preshift = min(bits, MAX_PRESHIFT)
    return {
        "@type": "neuroglancer_uint64_sharded_v1",
        "hash": "identity",
        "preshift_bits": preshift,
        "minishard_bits": bits - preshift,
        "shard_bits": len(bit_axes(grid)) - bits,
        "minishard_index_encoding": "gzip",
        "data_encoding": data_encoding,
    }
