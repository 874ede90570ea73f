"""How an output is cut into blocks: whole chunks, and whole clean zones or strides where these agree."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from math import ceil, inf, lcm, prod

from chunkinfer.geometry.lattice import AxisLattice, PatchLattice, round_up


@dataclass(frozen=True)
class Budget:
    """Bytes that a choice may take. The defaults are constants, not shares of the memory found, so that the same call
    gives the same patch, and so the same bits, on every machine."""

    activations: int = 1 << 30
    """Of one batch."""
    block: int = 128 << 20
    """Of a block's output in the network's own type."""


FEWEST_BLOCKS = 16
"""Blocks that a volume is cut into where it is large enough, so that workers share it and a crash loses little."""

STRIDES_PER_BLOCK = 8
"""Along an axis, of a blended block at most: it recomputes the patches at its faces, ((k + 1) / k)^3 times the work at
k strides, so there more would save little."""


def block_unit(axis: AxisLattice, chunk: int) -> int:
    """The smallest block of whole chunks that cuts no clean zone; all of the axis where that is longer."""
    return min(lcm(axis.zone, chunk), axis.output)


def choose_block(
    lattice: PatchLattice,
    bytes_per_voxel: int,
    asked: Sequence[int | None],
    budget: Budget,
    kernels: int,
    chunks: Sequence[int],
    most: float = inf,
) -> tuple[int, ...]:
    """Blocks, in output voxels, of whole chunks: as large as memory likes, as many as workers like.

    Parameters
    ----------
    lattice
        The patches.
    bytes_per_voxel
        Of the output in the network's own type, all channels.
    asked
        Block in output voxels where the caller gave it.
    budget
        For a block's output.
    kernels
        Blocks that one process computes at a time.
    chunks
        Output voxels of which blocks are whole numbers; 1 where any block will do.
    most
        Patches of a block, for blocks that must end before a walltime.
    """

    def fits(block: Sequence[int]) -> bool:
        computed = prod(touched(axis, n)[1] for axis, n in zip(lattice.axes, block, strict=True))
        return prod(block) * bytes_per_voxel <= budget.block and computed <= most

    if lattice.exact:
        chosen = _even_block(
            lattice, asked, fits, [block_unit(a, c) for a, c in zip(lattice.axes, chunks, strict=True)]
        )
    else:
        chosen = _shared_block(lattice, asked, fits, kernels, chunks)
    return tuple(min(b, a.output) for b, a in zip(chosen, lattice.axes, strict=True))


def _even_block(
    lattice: PatchLattice, asked: Sequence[int | None], fits: Callable[[Sequence[int]], bool], units: Sequence[int]
) -> Sequence[int]:
    """Exact blocks share no work. The shortest axis grows by one unit at a time, so blocks come out near cubes, which
    read the least halo."""
    most = [round_up(a.output, u) for a, u in zip(lattice.axes, units, strict=True)]
    block = [given or u for given, u in zip(asked, units, strict=True)]
    open_axes = {d for d, given in enumerate(asked) if not given}
    while open_axes:
        d = min(open_axes, key=lambda i: block[i])
        larger = [*block[:d], min(block[d] + units[d], most[d]), *block[d + 1 :]]
        blocks = prod(ceil(a.output / n) for a, n in zip(lattice.axes, larger, strict=True))
        if block[d] < most[d] and fits(larger) and blocks >= FEWEST_BLOCKS:
            block = larger
        else:
            open_axes.discard(d)
    return block


def _shared_block(
    lattice: PatchLattice,
    asked: Sequence[int | None],
    fits: Callable[[Sequence[int]], bool],
    kernels: int,
    chunks: Sequence[int],
) -> Sequence[int]:
    """Blended blocks compute the patches at their faces again, so they are cut where the last kernel ends first."""
    options = []
    for given, axis, chunk in zip(asked, lattice.axes, chunks, strict=True):
        strides = [axis.zone * k for k in range(1, min(STRIDES_PER_BLOCK, ceil(axis.output / axis.zone)) + 1)]
        whole = {max(n // chunk, 1) * chunk for n in strides} | {round_up(n, chunk) for n in strides}
        options.append([given] if given else sorted({min(n, axis.output) for n in whole}))

    def rank(block: Sequence[int]) -> tuple[bool, float, int]:
        return not fits(block), most_patches(lattice, block, kernels), prod(block)

    return min(product(*options), key=rank)


def most_patches(lattice: PatchLattice, block: Sequence[int], kernels: int) -> float:
    """Patches that the kernel which ends last may compute: ``(all + (kernels - 1) * those of the largest block) /
    kernels``, Graham's bound for tasks that are taken up in order.

    .. R. L. Graham, Bounds on multiprocessing timing anomalies, SIAM J. Appl. Math. 17, 1969, equation 3.
    """
    counts = [touched(axis, b) for axis, b in zip(lattice.axes, block, strict=True)]
    computed, largest = prod(c for c, _ in counts), prod(n for _, n in counts)
    return (computed + (kernels - 1) * largest) / kernels


@lru_cache(maxsize=4096)
def touched(axis: AxisLattice, block: int) -> tuple[int, int]:
    """Patches of an axis that its blocks compute, and that one block computes at most."""
    found = [len(axis.touching(low, min(low + block, axis.output))) for low in range(0, axis.output, block)]
    return sum(found), max(found)
