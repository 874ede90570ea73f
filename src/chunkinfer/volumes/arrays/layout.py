"""Chunks and shards of an output, and blocks that are whole ones: each unit has one writer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import gcd, log, prod
from typing import Any

from chunkinfer.errors import PlanError
from chunkinfer.geometry.lattice import round_up
from chunkinfer.volumes.arrays.create import write_unit

ROW = 1 << 14
"""Bytes of a row of a flat file that a block takes as a whole: rows that follow each other are read in one run."""

COPY_BYTES = 64 << 20
"""Bytes of a block of an array without a network: at least so many where the array has them, at most twice."""

WORTH_A_TASK = 8 << 20
"""Bytes of a computed chunk from which on it is stored as it is."""


@dataclass(frozen=True)
class Layout:
    """How an output is stored."""

    chunks: tuple[int, ...]
    """Voxels per axis of what a reader fetches."""
    shards: tuple[int, ...] | None
    """Voxels per axis of what is stored as one object; None where each chunk is."""


def choose_layout(
    url: Any,
    format: str,
    shape: Sequence[int],
    dims: Sequence[str],
    block: Sequence[int],
    asked: Mapping[str, Any],
    wanted: Sequence[int],
) -> Layout:
    """Chunks that divide the block, as near as can be to those that are wanted; for zarr3, the block as a shard.

    Parameters
    ----------
    url, format, shape, dims
        Of the output.
    block
        What one task writes.
    asked
        ``chunks`` and ``shards`` where the caller gave them; ``shards=False`` for none.
    wanted
        The chunks where any would do, such as `default_chunks`.

    Raises
    ------
    PlanError
        A block is no whole number of the units asked for.
    """
    chunks = tuple(asked.get("chunks") or _dividing_chunks(shape, dims, block, wanted))
    shards = asked.get("shards")
    if shards is None and format in ("zarr3", "ome-zarr"):
        shards = [round_up(min(b, n), c) for b, n, c in zip(block, shape, chunks, strict=True)]
    shards = tuple(shards) if shards else None
    unit = write_unit(url, format=format, shape=shape, dims=dims, chunks=chunks, shards=shards)
    if shards and asked.get("shards") and unit != shards:
        raise PlanError(
            f"Shards of {shards} voxels are not what {format} can store with chunks of {chunks}.",
            "A shard is a whole number of chunks; in precomputed volumes a power of two of them along each axis.",
            [f"shards={unit}", "leave shards= out"],
        )
    what, owned = ("shard", unit) if asked.get("shards") else ("chunk", chunks)
    for d, b, u, n in zip(dims, block, owned, shape, strict=True):
        if b < n and b % u:
            raise PlanError(
                f"A block of {b} voxels on axis {d} is not a whole number of {what}s of {u} voxels.",
                f"Two tasks would write one {what}, and one of them would be lost.",
                [
                    f"leave {what}s= out, or choose a {what} that divides {b} on this axis",
                    f"choose the block: infer(volume, model, block={_whole(shape, dims, block, owned)})",
                ],
            )
    return Layout(chunks, unit if shards else None)


def _whole(shape: Sequence[int], dims: Sequence[str], block: Sequence[int], owned: Sequence[int]) -> dict[str, int]:
    """The block of each spatial axis as whole chunks or shards."""
    axes = zip(dims, block, owned, shape, strict=True)
    return {d: min(b, n) if b >= n else round_up(b, u) for d, b, u, n in axes if d != "c"}


def copy_block(
    url: Any,
    format: str,
    shape: Sequence[int],
    dims: Sequence[str],
    itemsize: int,
    asked: Mapping[str, Any],
    source: Sequence[int],
    wanted: Sequence[int],
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The write unit of an output, and a block of whole units of about `COPY_BYTES`.

    It begins as a chunk of its source where that is whole units and not too large, and grows along the axis where it
    holds the fewest of them, so that few blocks read a chunk: sections are read by blocks that are wide.
    """
    chunks = asked.get("chunks") or wanted
    shards = asked.get("shards") or None
    unit = write_unit(url, format=format, shape=shape, dims=dims, chunks=chunks, shards=shards)
    block = [min(u if c % u else c, n) for c, u, n in zip(source, unit, shape, strict=True)]
    if prod(block) * itemsize > COPY_BYTES:
        block = [min(u, n) for u, n in zip(unit, shape, strict=True)]
    while prod(block) * itemsize <= COPY_BYTES and (short := [d for d, n in enumerate(shape) if block[d] < n]):
        d = min(short, key=lambda i: block[i] / source[i])
        block[d] = min(block[d] * 2, round_up(shape[d], unit[d]))
    return unit, tuple(block)


def _dividing_chunks(
    shape: Sequence[int], dims: Sequence[str], block: Sequence[int], wanted: Sequence[int]
) -> list[int]:
    """Along each axis what is wanted if it divides the block, else the nearest divisor, the same along y and x; any
    chunk divides a block that is all."""
    cut = {d: b for d, n, b in zip(dims, shape, block, strict=True) if b < n}
    alike = {d: max(w for e, w in zip(dims, wanted, strict=True) if e in "yx") for d in "yx"}
    both = gcd(*(cut[d] for d in "yx" if d in cut))
    chunks = []
    for d, n, w in zip(dims, shape, wanted, strict=True):
        whole, w = both if d in "yx" else cut.get(d, 0), alike.get(d, w)
        chunks.append(max(1, min(n, nearest_divisor(whole, w) if whole % w else w)))
    return chunks


def nearest_divisor(block: int, wanted: int) -> int:
    """The divisor of a block that is nearest to what is wanted; an even one, because pyramids halve chunks, if any."""
    divisors = [n for n in range(1, block + 1) if block % n == 0]
    return min(divisors, key=lambda n: (n % 2, abs(log(n / wanted))))
