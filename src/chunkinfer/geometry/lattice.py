"""The patch lattice: where every patch of a volume lies, decided from the volume alone, never from a block.

Exact: zones tile the output from its origin, and each comes from one patch::

    anchor    0        S        2S       3S      N
    zones     |---0----|---1----|---2----|--3----|
    patch 0   |===========|                            flush with the low border
    patch 2          |===============|                 [2S - L, 3S + H), T = S + L + H
    patch 3                      |===============|     flush with the high border

Blended: patches start every ``patch - overlap`` voxels, the last one flush with the end; an output voxel is the
weighted mean of all patches that contain it.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from itertools import product
from math import ceil, prod

from chunkinfer.errors import NotExact, PlanError
from chunkinfer.geometry.boxes import Box
from chunkinfer.geometry.contract import AxisContract


def round_up(value: int, multiple: int) -> int:
    """The smallest multiple of ``multiple`` that is not below ``value``."""
    return -(-value // multiple) * multiple


@dataclass(frozen=True)
class AxisLattice:
    """The patches along one axis."""

    contract: AxisContract
    size: int
    """Input voxels of the volume."""
    padded: int
    """Input voxels after far padding to a size that the network takes."""
    patch: int
    """Input voxels that the network sees."""
    step: int
    """Input voxels from one patch to the next: the clean zone (exact) or the stride (blended)."""
    starts: tuple[int, ...]
    """Input voxel at which each patch starts."""
    exact: bool

    @property
    def stride(self) -> Fraction:
        """Input voxels per output voxel."""
        return self.contract.stride

    @property
    def halved(self) -> int:
        """The clean zone of the first of two patches that share the axis with less context than three would need, True
        where it is the least that does; False of any other axis. See `exact_axis`."""
        low = round_up(self.contract.low, self.contract.period)
        if not self.exact or len(self.starts) != 2 or self.step <= self.patch - low - self.contract.high:
            return False
        return self.step == _halves(self.contract, self.padded, self.patch, low) or self.step

    @cached_property
    def output(self) -> int:
        """Output voxels of the volume."""
        return self.contract.output_size(self.size)

    @cached_property
    def patch_output(self) -> int:
        """Output voxels of one patch."""
        return self.contract.output_size(self.patch)

    @cached_property
    def zone(self) -> int:
        """Output voxels from one patch to the next."""
        return int(self.step / self.stride)

    def origin(self, k: int) -> int:
        """The volume's output voxel at which the output of patch ``k`` starts."""
        return self.starts[k] * self.stride.denominator // self.stride.numerator

    def owned(self, k: int) -> tuple[int, int]:
        """The output voxels to which patch ``k`` contributes, half-open."""
        if self.exact:
            return k * self.zone, min((k + 1) * self.zone, self.output)
        return self.origin(k), min(self.origin(k) + self.patch_output, self.output)

    def touching(self, low: int, high: int) -> range:
        """The patches that contribute to the output voxels ``[low, high)``."""
        if self.exact:
            return range(low // self.zone, -(-high // self.zone))
        first = bisect_right(self.starts, (low - self.patch_output) * self.stride)
        return range(first, bisect_left(self.starts, high * self.stride))

    def seen(self, low: int, high: int) -> tuple[int, int]:
        """The input voxels, half-open and inside the volume, that the output ``[low, high)`` is computed from."""
        patches = self.touching(low, high)
        return self.starts[patches[0]], min(self.starts[patches[-1]] + self.patch, self.size)


def exact_axis(contract: AxisContract, size: int, patch: int, axis: str = "", halves: int = False) -> AxisLattice:
    """Patches whose clean zones tile the axis.

    Parameters
    ----------
    contract
        How the network maps the axis.
    size, patch
        Input voxels of the volume and of a patch. A volume that fits in one patch gets one patch of its own size.
    axis
        Its name, for errors.
    halves
        Two patches where two suffice because each is flush with an end and needs context at its inner side only: larger
        clean zones, which depend on the volume's size. True for the least that the first one may have, otherwise its
        voxels.

    Raises
    ------
    PlanError
        The patch does not end where the volume ends, or leaves no clean zone.
    NotExact
        The axis cannot be cut at the volume's length.
    """
    padded = contract.accepted_at_least(size)
    if padded <= patch:
        return AxisLattice(contract, size, padded, padded, _whole(contract, padded), (0,), exact=True)
    if contract.uncut is not None:
        raise uncut({axis: (contract, size)}, patch)
    if not contract.accepts(patch) or (padded - patch) % contract.period:
        raise PlanError(*_unfit(contract, size, padded, patch, axis))
    low = round_up(contract.low, contract.period)
    step = (patch - low - contract.high) // contract.period * contract.period
    if halves:
        least = _halves(contract, padded, patch, low)
        step = max(step, halves if halves > 1 and 0 < least <= halves <= patch - contract.high else least)
    if step <= 0:
        least = contract.accepted_at_least(low + contract.high + contract.period)
        raise PlanError(
            f"A patch of {patch} voxels on axis {axis} leaves no clean zone: the network reads {contract.low} voxels "
            f"below and {contract.high} above each output block.",
            "An exact patch must be larger than its context.",
            [f"patch={{{axis!r}: {least}}}, or more", f"blend patches of this size instead: overlap={patch // 4}"],
        )
    zones = ceil(Fraction(contract.output_size(size)) * contract.stride / step)
    starts = tuple(min(max(k * step - low, 0), padded - patch) for k in range(zones))
    return AxisLattice(contract, size, padded, patch, step, starts, exact=True)


def _whole(contract: AxisContract, padded: int) -> int:
    """The clean zone of the only patch: all of its output, which may reach beyond the input."""
    return round_up(max(padded, ceil(contract.output_size(padded) * contract.stride), 1), contract.period)


def uncut(axes: Mapping[str, tuple[AxisContract, int]], patch: int | None = None) -> NotExact:
    """The error of axes that cannot be cut at the volume's lengths.

    Parameters
    ----------
    axes
        By name, with the volume's voxels.
    patch
        The smallest that was asked for; None where any may be taken.
    """
    why = {axis: contract.uncut for axis, (contract, _) in axes.items() if contract.uncut is not None}
    axis, first = next(iter(why.items()))
    shorter = ", ".join(f"{name}=slice(0, {one.shorter})" for name, one in why.items())
    longer = " and ".join(f"{one.longer} along {name}" for name, one in why.items())
    return NotExact(
        f"A volume of {axes[axis][1]} voxels along {axis} cannot be cut exactly: {first.reason}.",
        "The network takes this length, and is another one there than at the lengths that it can be cut at, so no "
        "patch gives what it gives on the whole volume.",
        [
            f'say that another volume is meant, longer by edge voxels, {longer}: infer(volume, model, pad="edge")',
            *(
                [f"take a part that can be cut: infer(volume.isel({shorter}), model)"]
                if all(one.shorter for one in why.values())
                else []
            ),
            f"blend overlapping patches: infer(volume, model, overlap={32 if patch is None else min(32, patch // 4)})",
        ],
    )


def _unfit(contract: AxisContract, size: int, padded: int, patch: int, axis: str) -> tuple[str, str, list[str]]:
    """The error's parts for a patch of a size that no lattice of the axis has."""
    near = patch
    while not contract.accepts(near) or (padded - near) % contract.period:
        near += 1
    end = f"{size} voxels" if padded == size else f"{size} voxels, far-padded to {padded}"
    return (
        f"A patch of {patch} voxels on axis {axis} does not fit a volume of {end}.",
        f"Patches start at multiples of the network's period, {contract.period}, and the last one ends where the "
        f"volume ends, so their size is {padded % contract.period} modulo {contract.period}, and "
        f"{contract.smallest} or more: on fewer voxels the network does not run, or is another one.",
        [f"patch={{{axis!r}: {near}}}", "leave patch= out: the plan chooses one that fits"],
    )


def least_half(contract: AxisContract, size: int) -> int:
    """The smallest patch two of which compute an axis exactly, each flush with one of its ends."""
    padded, low = contract.accepted_at_least(size), round_up(contract.low, contract.period)
    patch = ceil(padded / 2)
    while (
        not contract.accepts(patch) or (padded - patch) % contract.period or not _halves(contract, padded, patch, low)
    ):
        patch += 1
    return patch


def _halves(contract: AxisContract, padded: int, patch: int, low: int) -> int:
    """The clean zone of the first of two patches, each of which needs context at its inner side only; 0 if two do not
    suffice.

    ::

        patch 0   |==========S====|          S + high <= T
        patch 1         |====S==========|    N' - T + low <= S
    """
    most = (patch - contract.high) // contract.period * contract.period
    least = max(round_up(padded - patch + low, contract.period), round_up(ceil(padded / 2), contract.period))
    return least if 0 < least <= most else 0


def blended_axis(contract: AxisContract, size: int, patch: int, overlap: int, axis: str = "") -> AxisLattice:
    """Patches that overlap, on a lattice that starts at the volume's origin.

    Parameters
    ----------
    contract
        How the network maps the axis; context and period may be unknown, stride and crop are needed.
    size, patch, overlap
        Input voxels. A volume smaller than the patch is far-padded to it.

    Raises
    ------
    PlanError
        Overlap and patch leave no stride, gaps, or positions that are no whole output voxel.
    """
    grain = contract.stride.numerator
    if not contract.accepts(patch):
        residues = " or ".join(map(str, contract.residues))
        taken = f"sizes that are {residues} modulo {contract.period}, from {contract.smallest} on"
        raise PlanError(
            f"A patch of {patch} voxels on axis {axis} is not a size that this network takes.",
            f"It takes {f'{contract.smallest} and nothing else' if contract.only else taken}.",
            [f"patch={{{axis!r}: {contract.accepted_at_least(patch)}}}", "leave patch= out"],
        )
    lost = sum(contract.crop)
    if not 0 <= overlap < patch or overlap < lost:
        least = max(lost, 0)
        raise PlanError(
            f"An overlap of {overlap} voxels does not fit a patch of {patch} on axis {axis}.",
            f"It must lie between {least}{' (what the network crops)' if least else ''} and {patch - 1}.",
            [f"overlap={{{axis!r}: {least + (patch - least) // 4}}}", "leave overlap= out for exact tiling"],
        )
    step = patch - overlap
    if step % grain:
        sizes = (p for p in range(patch, patch + grain * contract.period) if contract.accepts(p))
        larger = [f"patch={{{axis!r}: {p}}}" for p in sizes if not (p - overlap) % grain][:1]
        raise PlanError(
            f"A stride (patch - overlap) of {step} voxels on axis {axis} is not a whole number of output voxels.",
            f"One output voxel of this network spans {contract.stride} input voxels.",
            [f"overlap={{{axis!r}: {overlap + step % grain}}}", *larger],
        )
    padded = patch if size <= patch else patch + round_up(size - patch, grain)
    starts = (*range(0, padded - patch, step), padded - patch)
    return AxisLattice(contract, size, padded, patch, step, starts, exact=False)


@dataclass(frozen=True)
class PatchLattice:
    """The positions of all patches of a volume: the product of its axes."""

    axes: tuple[AxisLattice, ...]

    @property
    def exact(self) -> bool:
        return self.axes[0].exact

    @property
    def patch(self) -> tuple[int, ...]:
        """Input voxels that the network sees."""
        return tuple(a.patch for a in self.axes)

    @property
    def shape(self) -> tuple[int, ...]:
        """Input voxels of the volume."""
        return tuple(a.size for a in self.axes)

    @property
    def output(self) -> tuple[int, ...]:
        """Output voxels of the volume."""
        return tuple(a.output for a in self.axes)

    def __len__(self) -> int:
        return prod(len(a.starts) for a in self.axes)

    def alone(self, shape: Sequence[int] | None = None) -> PatchLattice:
        """One patch of this kind over a volume of its own size, or of a smaller shape that is far-padded to it."""
        axes = []
        for a, n in zip(self.axes, shape or self.patch, strict=True):
            step = _whole(a.contract, a.patch) if a.exact else a.step
            axes.append(AxisLattice(a.contract, n, a.patch, a.patch, step, (0,), a.exact))
        return PatchLattice(tuple(axes))

    def touching(self, out: Box) -> Iterator[tuple[int, ...]]:
        """Indices of the patches that contribute to an output box, the last axis fastest."""
        return product(*(a.touching(lo, hi) for a, lo, hi in zip(self.axes, out.start, out.stop, strict=True)))

    def seen(self, out: Box) -> Box:
        """The input box, inside the volume, that an output box is computed from: the block with its halo."""
        spans = [a.seen(lo, hi) for a, lo, hi in zip(self.axes, out.start, out.stop, strict=True)]
        return Box(tuple(lo for lo, _ in spans), tuple(hi for _, hi in spans))

    def patch_box(self, index: Sequence[int]) -> Box:
        """The input box of a patch; reaches beyond the volume where that is far-padded."""
        start = tuple(a.starts[k] for a, k in zip(self.axes, index, strict=True))
        return Box(start, tuple(s + a.patch for s, a in zip(start, self.axes, strict=True)))

    def owned_box(self, index: Sequence[int]) -> Box:
        """The output box to which a patch contributes."""
        spans = [a.owned(k) for a, k in zip(self.axes, index, strict=True)]
        return Box(tuple(lo for lo, _ in spans), tuple(hi for _, hi in spans))

    def origin(self, index: Sequence[int]) -> tuple[int, ...]:
        """The volume's output voxel at which a patch's output starts."""
        return tuple(a.origin(k) for a, k in zip(self.axes, index, strict=True))
