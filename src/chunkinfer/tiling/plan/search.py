"""Choosing the patch where the caller leaves it open, by a model of the cost."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, reduce
from math import ceil, lcm

import numpy as np
from numpy.typing import NDArray

from chunkinfer.geometry.contract import AxisContract
from chunkinfer.geometry.lattice import AxisLattice, PatchLattice, exact_axis, least_half, round_up, uncut
from chunkinfer.tiling.plan.aligning import Found
from chunkinfer.tiling.plan.blocks import FEWEST_BLOCKS, Budget, block_unit, touched

Numbers = NDArray[np.float64]

CONSIDERED = 64
"""Lattices that a search keeps, the ones that compute least."""

IDLE = 3
"""Kernels that wait, in the model of the cost, while the last block is computed: few blocks are shared badly."""

_ZONES = (16, 24, 32, 48, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384, 448, 512)


@dataclass(frozen=True)
class Network:
    """What a search knows of a network and a volume, along each axis."""

    contracts: tuple[AxisContract, ...]
    sizes: tuple[int, ...]
    """Input voxels of the volume."""
    names: tuple[str, ...]
    activations: float
    """Bytes per patch voxel."""
    output: int
    """Bytes per output voxel, all channels."""


@dataclass(frozen=True)
class _Options:
    """Ways to lay patches along one axis, and the blocks that they are computed in at least: an entry each."""

    lattices: tuple[AxisLattice, ...]
    patch: Numbers
    """Input voxels of a patch."""
    patches: Numbers
    zone: Numbers
    """Output voxels of a clean zone."""
    zones: Numbers
    block: Numbers
    """Output voxels of the smallest block."""
    blocks: Numbers
    computed: Numbers
    """Patches that blocks compute, those that two share counted twice."""


def exact_lattices(
    network: Network,
    asked: Sequence[int | None],
    blocks: Sequence[int | None],
    halves: Sequence[int],
    budget: Budget,
    chunks: Sequence[int],
    most: int = CONSIDERED,
) -> Found:
    """Exact lattices, those of the fewest patch voxels, in the fewest patches, first; with activations in the budget.

    That is a model of the cost: a network's time is proportional to the voxels it sees.

    Parameters
    ----------
    network
        The network on a volume.
    asked, blocks
        Patch in input voxels and block in output voxels where the caller gave them.
    halves
        Whether a given patch is one of two that share an axis; see `exact_axis`.
    budget
        For one patch's activations and the smallest possible block; where no lattice keeps it, those that exceed it
        least. A block may always be a clean zone.
    chunks
        Output voxels of which blocks are whole numbers.
    most
        Lattices that are wanted.
    """
    named = dict(zip(network.names, zip(network.contracts, network.sizes, strict=True), strict=True))
    small = {
        name: p
        for (name, (c, n)), p in zip(named.items(), asked, strict=True)
        if p and c.uncut is not None and p < c.accepted_at_least(n)
    }
    if small:
        raise uncut({name: named[name] for name in small}, min(small.values()))
    options = [
        _axis_options(*axis)
        for axis in zip(network.contracts, network.sizes, network.names, asked, halves, blocks, chunks, strict=True)
    ]
    over, cost, computed = _costs(options, network, budget)
    if over.min() > 0:  # too large, though an axis that cannot be cut would be needed whole
        whole = {name: (contract, size) for name, (contract, size) in named.items() if contract.uncut is not None}
        if whole:
            raise uncut(whole)
    best = np.lexsort((_product([o.patches for o in options]), cost, over))[:most]
    shape = [len(axis.lattices) for axis in options]
    lattices = [
        PatchLattice(tuple(axis.lattices[i] for axis, i in zip(options, np.unravel_index(k, shape), strict=True)))
        for k in best
        if over[k] <= over[best[0]]
    ]
    first = best[0]
    return Found(lattices, tuple(chunks), float(over[first]), float(cost[first]), int(computed[first]))


def _costs(options: Sequence[_Options], network: Network, budget: Budget) -> tuple[Numbers, Numbers, Numbers]:
    """Of all products of the options: by what share they exceed the budget, their cost, and the patch voxels that they
    compute."""
    patch, zone = _product([o.patch for o in options]), _product([o.zone for o in options])
    over = np.maximum(
        patch * network.activations / budget.activations,
        _product([o.block for o in options]) * network.output / np.maximum(budget.block, zone * network.output),
    )
    parts = np.minimum(_product([o.zones for o in options]), FEWEST_BLOCKS)
    fewer = np.minimum(_product([o.blocks for o in options]), parts)
    computed = patch * _product([o.computed for o in options])
    return np.maximum(over - 1, 0), computed * (1 + IDLE / fewer) / (1 + IDLE / parts), computed


def _product(numbers: Sequence[Numbers]) -> Numbers:
    """The product of one number of each axis, for all choices, the last axis fastest."""
    return reduce(np.multiply.outer, numbers).ravel()


@lru_cache(maxsize=4096)
def _axis_options(
    contract: AxisContract, size: int, name: str, patch: int | None, half: int, block: int | None, chunk: int
) -> _Options:
    """The patch of the caller, or those worth comparing, without those that another one is never worse than."""
    output = contract.output_size(size)
    whole = block if block and block < output else None
    found = (exact_axis(contract, size, patch, name, half),) if patch else _lattices(contract, size, whole, chunk, name)
    by_cost = {}
    for lattice in found:
        cut = whole or block_unit(lattice, chunk)
        patches = touched(lattice, cut)[0] if cut % lattice.zone else len(lattice.starts)
        by_cost[lattice.patch, lattice.patch * patches, cut] = lattice, cut, patches
    kept = [option for mine, option in by_cost.items() if not any(_beats(other, mine) for other in by_cost)]
    lattices = tuple(lattice for lattice, _, _ in kept)

    def numbers(values: Iterable[int]) -> Numbers:
        return np.array(list(values), float)

    return _Options(
        lattices,
        patch=numbers(a.patch for a in lattices),
        patches=numbers(len(a.starts) for a in lattices),
        zone=numbers(min(a.zone, output) for a in lattices),
        zones=numbers(ceil(output / a.zone) for a in lattices),
        block=numbers(cut for _, cut, _ in kept),
        blocks=numbers(ceil(output / cut) for _, cut, _ in kept),
        computed=numbers(patches for _, _, patches in kept),
    )


def _beats(other: tuple[int, int, int], mine: tuple[int, int, int]) -> bool:
    """Whether one way to lay patches is never worse than another, and better: of patch, voxels computed and block.

    Where both compute the same, as without context, a smaller patch only means more of them.
    """
    if other[1] == mine[1] and other[0] < mine[0]:
        return False
    return other != mine and all(a <= b for a, b in zip(other, mine, strict=True))


def _lattices(contract: AxisContract, size: int, block: int | None, chunk: int, name: str) -> tuple[AxisLattice, ...]:
    """Lattices worth comparing on one axis: one patch for all, two halves, few equal zones, round zones, and those that
    agree with the block or the chunk."""
    padded, period = contract.accepted_at_least(size), contract.period
    low, grain = round_up(contract.low, period), int(period / contract.stride)
    found = {(padded, 0): exact_axis(contract, size, padded, name)}
    if contract.uncut is not None:
        return tuple(found.values())
    zones = {round_up(z, period) for z in _ZONES} | {round_up(ceil(padded / k), period) for k in range(2, 9)} | {period}
    zones |= {z for z in (int(n * contract.stride) for n in _agreeing(block, chunk, grain)) if z and z % period == 0}
    for zone in zones:
        patch = low + zone + contract.high
        while not contract.accepts(patch) or (padded - patch) % period:
            patch += 1
        if patch < padded and (lattice := exact_axis(contract, size, patch, name)).step == zone:
            found[patch, 0] = lattice
    least = least_half(contract, size)
    if least < padded:
        found[least, 1] = exact_axis(contract, size, least, name, halves=True)
    first = int(round_up(ceil(contract.output_size(size) / 2), lcm(chunk, grain)) * contract.stride)
    patch = first + contract.high
    while not contract.accepts(patch) or (padded - patch) % period:
        patch += 1
    if least <= patch < padded and (lattice := exact_axis(contract, size, patch, name, halves=first)).step == first:
        found[patch, first] = lattice
    return tuple(found.values())


def _agreeing(block: int | None, chunk: int, grain: int) -> Iterator[int]:
    """Zones, in output voxels, of which few make a block or whole chunks."""
    if block:
        yield from (block // k for k in range(1, 33) if block % k == 0)
        return
    if chunk > 1:
        yield from (chunk * quarters // 4 for quarters in range(1, 33) if chunk * quarters % 4 == 0)
        yield from (lcm(chunk, grain) * k for k in range(1, 9))


def choose_blended_patch(contract: AxisContract, size: int, overlap: int) -> int:
    """A patch that overlaps its neighbours by a quarter: chunkflow's and MONAI's usual share."""
    return contract.accepted_at_least(max(4 * overlap, min(size, 64), ceil(sum(contract.crop)) + overlap + 1))
