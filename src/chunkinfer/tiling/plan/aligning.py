"""The chunks of an output, before its patches and blocks: these follow from them where that costs little."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, product
from math import gcd, log

from chunkinfer.geometry.lattice import PatchLattice
from chunkinfer.volumes.arrays.layout import nearest_divisor

LEAST, MOST = 32, 128
"""Voxels of a chunk along an axis, where it has so many and planes are not wider anyway."""

WORTH = 1.12
"""More than this share of the least cost, and other chunks are tried."""


TRIED = 40
"""Chunks that are tried at most."""


@dataclass(frozen=True)
class Found:
    """Lattices, the best first, for blocks that are whole chunks."""

    lattices: list[PatchLattice]
    chunks: tuple[int, ...]
    """Output voxels of which blocks are whole numbers; 1 where any block will do."""
    over: float
    """By what share the best one exceeds its budget; 0 where it keeps it."""
    cost: float
    """Of the best one, in any unit."""
    computed: int
    """Patch voxels that the best one's blocks compute."""
    freest: float = 1.0
    """Patch voxels that the best choice of any blocks computes, as a fraction of that."""


@dataclass(frozen=True)
class Room:
    """Along an axis: what a chunk should be, and what limits it."""

    name: str
    output: int
    """Voxels of the output."""
    wanted: int
    """Voxels of a chunk, see `default_chunks`."""
    block: int | None
    """Of the caller: a whole number of chunks, where it is not the axis."""
    zone: int | None
    """Clean zone or stride, where these do not follow from the chunk."""

    @property
    def cut(self) -> bool:
        """Whether blocks of the caller cut the axis."""
        return self.block is not None and self.block < self.output


def aligned(axes: Sequence[Room], search: Callable[[tuple[int, ...]], Found], free: Found) -> Found:
    """What is found for the first chunks that cost little more than the freest choice; else for those that cost least.

    Parameters
    ----------
    axes
        The output.
    search
        The best choice whose blocks are whole chunks.
    free
        The best choice of any blocks.
    """
    best: Found | None = None
    for chunks in islice(candidates(axes), TRIED):
        found = search(chunks)
        if found.over <= free.over * WORTH and found.cost <= free.cost * WORTH:
            return found
        if best is None or (found.over > free.over * WORTH, found.cost) < (best.over > free.over * WORTH, best.cost):
            best = found
    return free if best is None else best


def candidates(axes: Sequence[Room]) -> Iterator[tuple[int, ...]]:
    """Chunks, those that are wanted first, then round ones, then any even ones; y and x are alike."""
    deep, wide = [a for a in axes if a.name not in "yx"], [a for a in axes if a.name in "yx"]
    lists = [_sizes([a]) for a in deep] + [_sizes(wide)]
    ranks = sorted(product(*(range(len(sizes)) for sizes in lists)), key=lambda ranks: (max(ranks), sum(ranks)))
    for rank in ranks:
        *depths, width = (sizes[i] for sizes, i in zip(lists, rank, strict=True))
        by_name = {a.name: depth for a, depth in zip(deep, depths, strict=True)}
        yield tuple(min(by_name.get(a.name, width), a.output) for a in axes)


def _sizes(axes: Sequence[Room]) -> list[int]:
    """Voxels of a chunk along axes that are alike, the best first."""
    wanted = max(a.wanted for a in axes)
    low, high = max(LEAST, wanted // 16 * 8), 2 * wanted if wanted > MOST else MOST
    if all(a.output <= low for a in axes):
        return [wanted]
    zones = [a.zone * k for a in axes if a.zone and a.zone < a.output for k in (1, 2, 3, 4)]
    sizes = {wanted, *range(low, high + 1, 8)}
    agree = {n for zone in zones for n in range(low, high + 1, 2) if zone % n == 0}
    sizes |= agree
    cut = [a.block for a in axes if a.cut and a.block]
    if cut:
        block = gcd(*cut)
        sizes = {n for n in range(low, high + 1) if n % 2 == 0 and block % n == 0} or {nearest_divisor(block, wanted)}
    return sorted(sizes, key=lambda n: (n != wanted, n not in agree, -(n & -n), abs(log(n / wanted))))
