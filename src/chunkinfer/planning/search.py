"""Choosing patch and block where the caller leaves them open."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from heapq import nsmallest
from itertools import product
from math import ceil, inf, prod

from chunkinfer.geometry import AxisContract, AxisLattice, PatchLattice, exact_axis, least_half, round_up, uncut


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

CONSIDERED = 64
"""Lattices that a search keeps, the ones that compute least."""

_ZONES = (16, 24, 32, 48, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384, 448, 512)


def exact_lattices(
    contracts: Sequence[AxisContract],
    sizes: Sequence[int],
    names: Sequence[str],
    bytes_per_voxel: float,
    asked: Sequence[int | None],
    blocks: Sequence[int | None],
    halves: Sequence[bool],
    budget: Budget,
) -> list[PatchLattice]:
    """Exact lattices, those of the fewest patch voxels, in the fewest patches, first; with activations in the budget.

    That is a model of the cost: a network's time is proportional to the voxels it sees.

    Parameters
    ----------
    contracts, sizes, names
        The network's contract, the volume's voxels and the name of each axis.
    bytes_per_voxel
        Activations, per patch voxel.
    asked, blocks
        Patch in input voxels and block in output voxels where the caller gave them; a clean zone must divide the block.
    halves
        Whether a given patch is one of two that share an axis; see `exact_axis`.
    budget
        For one patch's activations; where no lattice keeps it, those that exceed it least.
    """
    options = [
        [exact_axis(c, n, patch, name, half)] if patch else _axis_options(c, n, block, name)
        for c, n, name, patch, block, half in zip(contracts, sizes, names, asked, blocks, halves, strict=True)
    ]

    def rank(axes: tuple[AxisLattice, ...]) -> tuple[float, int, int]:
        over = max(0.0, prod(a.patch for a in axes) * bytes_per_voxel / budget.activations - 1)
        return over, prod(a.patch * len(a.starts) for a in axes), prod(len(a.starts) for a in axes)

    ranked = nsmallest(CONSIDERED, ((rank(axes), i, axes) for i, axes in enumerate(product(*options))))
    if ranked[0][0][0]:  # too large, though an axis that cannot be cut would be needed whole
        for c, n, name in zip(contracts, sizes, names, strict=True):
            if c.uncut is not None:
                raise uncut(c, n, name)
    return [PatchLattice(axes) for (over, *_), _, axes in ranked if over <= ranked[0][0][0]]


def _axis_options(contract: AxisContract, size: int, block: int | None, name: str) -> list[AxisLattice]:
    """Lattices worth comparing on one axis: one patch for all, few equal zones, and round zones."""
    padded, period = contract.accepted_at_least(size), contract.period
    if contract.uncut is not None:
        return [exact_axis(contract, size, padded, name)]
    low = round_up(contract.low, period)
    grain = int(period / contract.stride)
    whole_block = int(block * contract.stride) if block and block < contract.output_size(size) else None
    if whole_block and block and block % grain:
        whole_block = None  # no zone divides such a block; the check of blocks says so in words
    found = {} if whole_block else {padded: exact_axis(contract, size, padded, name)}
    equal = {round_up(ceil(padded / k), period) for k in range(2, 9)}
    if whole_block:
        equal |= {whole_block // k for k in range(1, 33) if whole_block % k == 0}
    for zone in equal | {round_up(z, period) for z in _ZONES} | {period}:
        if zone % period or (whole_block and whole_block % zone):
            continue
        patch = low + zone + contract.high
        while not contract.accepts(patch) or (padded - patch) % period:
            patch += 1
        if patch < padded and (lattice := exact_axis(contract, size, patch, name)).step == zone:
            found[patch] = lattice
    half = least_half(contract, size)
    if half < padded:
        lattice = exact_axis(contract, size, half, name, halves=True)
        if not whole_block or whole_block % lattice.step == 0:
            found[half] = lattice
    return list(found.values()) or [exact_axis(contract, size, padded, name)]


def choose_blended_patch(contract: AxisContract, size: int, overlap: int) -> int:
    """A patch that overlaps its neighbours by a quarter: chunkflow's and MONAI's usual share."""
    return contract.accepted_at_least(max(4 * overlap, min(size, 64), ceil(sum(contract.crop)) + overlap + 1))


def choose_block(
    lattice: PatchLattice,
    channels: int,
    itemsize: int,
    asked: Sequence[int | None],
    budget: Budget,
    kernels: int,
    most: float = inf,
) -> tuple[int, ...]:
    """Blocks, in output voxels, of whole zones or strides: as large as memory likes, as many as workers like.

    Parameters
    ----------
    lattice
        The patches.
    channels, itemsize
        Of the output in the network's own type.
    asked
        Block in output voxels where the caller gave it.
    budget
        For a block's output.
    kernels
        Blocks that one process computes at a time.
    most
        Patches of a block, for blocks that must end before a walltime.
    """

    def fits(block: Sequence[int]) -> bool:
        computed = prod(_touched(axis, n)[1] for axis, n in zip(lattice.axes, block, strict=True))
        return prod(block) * channels * itemsize <= budget.block and computed <= most

    chosen = _even_block(lattice, asked, fits) if lattice.exact else _shared_block(lattice, asked, fits, kernels)
    return tuple(min(b, a.output) for b, a in zip(chosen, lattice.axes, strict=True))


def _even_block(
    lattice: PatchLattice, asked: Sequence[int | None], fits: Callable[[Sequence[int]], bool]
) -> Sequence[int]:
    """Exact blocks share no work. The shortest axis grows by one zone at a time, so blocks come out near cubes, which
    read the least halo."""
    most = [round_up(a.output, a.zone) for a in lattice.axes]
    block = [given or min(a.zone, m) for given, a, m in zip(asked, lattice.axes, most, strict=True)]
    open_axes = {d for d, given in enumerate(asked) if not given}
    while open_axes:
        d = min(open_axes, key=lambda i: block[i])
        larger = [*block[:d], min(block[d] + lattice.axes[d].zone, most[d]), *block[d + 1 :]]
        blocks = prod(ceil(a.output / n) for a, n in zip(lattice.axes, larger, strict=True))
        if block[d] < most[d] and fits(larger) and blocks >= FEWEST_BLOCKS:
            block = larger
        else:
            open_axes.discard(d)
    return block


def _shared_block(
    lattice: PatchLattice, asked: Sequence[int | None], fits: Callable[[Sequence[int]], bool], kernels: int
) -> Sequence[int]:
    """Blended blocks compute the patches at their faces again, so they are cut where the last kernel ends first."""
    options = []
    for given, axis in zip(asked, lattice.axes, strict=True):
        most = min(STRIDES_PER_BLOCK, ceil(axis.output / axis.zone))
        options.append([given] if given else [min(axis.zone * k, axis.output) for k in range(1, most + 1)])

    def rank(block: Sequence[int]) -> tuple[bool, float, int]:
        return not fits(block), most_patches(lattice, block, kernels), prod(block)

    return min(product(*options), key=rank)


def most_patches(lattice: PatchLattice, block: Sequence[int], kernels: int) -> float:
    """Patches that the kernel which ends last may compute: ``(all + (kernels - 1) * those of the largest block) /
    kernels``, Graham's bound for tasks that are taken up in order.

    .. R. L. Graham, Bounds on multiprocessing timing anomalies, SIAM J. Appl. Math. 17, 1969, equation 3.
    """
    counts = [_touched(axis, b) for axis, b in zip(lattice.axes, block, strict=True)]
    computed, largest = prod(c for c, _ in counts), prod(n for _, n in counts)
    return (computed + (kernels - 1) * largest) / kernels


@lru_cache(maxsize=1024)
def _touched(axis: AxisLattice, block: int) -> tuple[int, int]:
    """Patches of an axis that its blocks compute, and that one block computes at most."""
    touched = [len(axis.touching(low, min(low + block, axis.output))) for low in range(0, axis.output, block)]
    return sum(touched), max(touched)
