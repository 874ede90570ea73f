"""Search for the contract of one axis: which sizes run, what is read there, and whether that is all."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

from chunkinfer.geometry.contract import AxisContract, Uncut
from chunkinfer.networks.trace.contract import Sizes, agree, context, period_of, sizes_taken, smallest_size, split_crop
from chunkinfer.networks.trace.dependence import Reach, Reason
from chunkinfer.networks.trace.follow import Followed
from chunkinfer.networks.trace.subject import Ran, Subject

_FREE_LIMIT, _REAL_LIMIT = 16384, 256
"""Voxels on the searched axis beyond which a context is not looked for: without data, and where it must flow."""


class AxisSearch:
    """The search along one axis, with the others at their size in the first run.

    Parameters
    ----------
    subject
        The network.
    start
        What its first run told.
    axis
        Which spatial axis.
    """

    def __init__(self, subject: Subject, start: Followed, axis: int) -> None:
        self.subject, self.start, self.axis = subject, start, axis
        self.reasons: list[Reason] = []
        self.base = tuple(start.input_shape)
        reach = start.reach(axis)
        self.period = period_of(start.strides[axis], reach.stride if reach is not None else Fraction(1))
        self.stride = reach.stride if reach is not None else self._measured_stride()
        if reach is None:
            self.period = period_of(start.strides[axis], self.stride)
            if not start.reasons:
                self._refuse("what the output reads along this axis could not be followed")

    def contract(self) -> AxisContract:
        """The axis' contract; ``reasons`` then holds what speaks against exactness along it."""
        first = self.base[self.axis]
        sizes = self._sizes()
        if not sizes.residues:
            self._refuse(f"takes this axis only at the size of {first} voxels, so patches of other sizes do not run")
            residues: tuple[int, ...] = (first % self.period,)
            reference, low, high = first, 0, 0
        else:
            residues, low, high = self._context(sizes)
            reference = next(n for n in sizes.taken if n % self.period in residues)
        smallest = reference if not sizes.residues else self._smallest(sizes, residues)
        exact = not (self.reasons or self.start.reasons)
        return AxisContract(
            period=self.period,
            stride=self.stride,
            low=low if exact else 0,
            high=high if exact else 0,
            crop=split_crop(sizes.total),
            residues=residues,
            smallest=smallest,
            only=not sizes.residues,
        )

    def at(self, size: int, contract: AxisContract) -> AxisContract:
        """The contract for a volume of a length at which the network, if it runs, is not what the contract says.

        A network that takes the length gives ``model(volume)`` there: what it reads and loses is searched for among
        sizes of the same residue. Where it cannot be cut there, the contract says so in ``uncut``. A length that it
        refuses is left to far padding.

        Parameters
        ----------
        size
            Voxels of the volume along this axis.
        contract
            What `contract` gave, without a reason against exactness.
        """
        if contract.accepts(size) or self._output_size(size) is None:
            return contract
        residue, first = size % self.period, self.base[self.axis]
        first += (residue - first) % self.period
        tried = range(first, first + 2 * self.period, self.period)
        outputs = {n: out for n in (*tried, size) if (out := self._output_size(n)) is not None}
        lost = size - outputs[size] * self.stride
        here = replace(contract, residues=(residue,), smallest=size, crop=self._crop(contract, lost))
        sizes = sizes_taken(outputs, tried, self.stride, self.period)
        if sizes.residues and sizes.total == lost:
            _, low, high = self._context(sizes)
            if not self.reasons:
                # A volume below the least is one patch, whatever the network is there.
                return replace(here, low=low, high=high, smallest=min(size, self._least(first, lost)))
        else:
            self._refuse(f"{size} voxels give {outputs[size]}, which does not follow from other lengths")
        shorter = next((n for n in range(size, 0, -1) if contract.accepts(n)), 0)
        return replace(here, uncut=Uncut(str(self.reasons[0]), shorter, contract.accepted_at_least(size)))

    def _crop(self, contract: AxisContract, total: Fraction) -> tuple[int | Fraction, int | Fraction]:
        """What is lost at each end: at the low one what all lengths lose, because the output's voxels lie there."""
        high = total - contract.crop[0]
        return contract.crop[0], int(high) if high.denominator == 1 else high

    def _refuse(self, text: str) -> None:
        self.reasons.append(Reason(f"axis {self.axis}", text))

    def _shape(self, size: int) -> tuple[int, ...]:
        return (*self.base[: self.axis], size, *self.base[self.axis + 1 :])

    def _output_size(self, size: int) -> int | None:
        found = self.subject.ran(self._shape(size))
        return None if isinstance(found, Exception) else found.shape[2 + self.axis]

    def _measured_stride(self) -> Fraction:
        """Input per output voxels, where only sizes are known."""
        size = self.base[self.axis]
        here, there = self._output_size(size), self._output_size(size + self.period)
        if here is None or there is None or here == there:
            return Fraction(size, here) if here else Fraction(1)
        return Fraction(self.period, there - here)

    def _sizes(self) -> Sizes:
        first = self.base[self.axis]
        tried = range(first, first + 2 * self.period)
        outputs = {size: out for size in tried if (out := self._output_size(size)) is not None}
        return sizes_taken(outputs, tried, self.stride, self.period)

    def _smallest(self, sizes: Sizes, residues: tuple[int, ...]) -> int:
        firsts = {size % self.period: size for size in reversed(sizes.taken)}
        return min(self._least(firsts[r], sizes.total) for r in residues)

    def _least(self, first: int, total: Fraction) -> int:
        """The smallest size, of those that are ``first`` modulo the period, at which it is the network of ``first``."""
        reference = self.subject.ran(self._shape(first))

        def takes(size: int) -> bool:
            found = self.subject.ran(self._shape(size))
            return (
                isinstance(found, Ran)
                and isinstance(reference, Ran)
                and size - found.shape[2 + self.axis] * self.stride == total
                and found.program.first_difference(reference.program) is None
            )

        return smallest_size(first, self.period, takes)

    def _context(self, sizes: Sizes) -> tuple[tuple[int, ...], int, int]:
        """The residues at which the network reads the same, and the context there."""
        if self.start.reasons or self.reasons:
            return sizes.residues, 0, 0
        residue = sizes.residues[0]
        size = next(n for n in sizes.taken if n % self.period == residue)
        limit = _FREE_LIMIT if self.subject.is_free else _REAL_LIMIT
        while size <= limit:
            reach = self._reach(size)
            found = context(reach, self.period, size) if reach is not None else None
            if reach is None or found is not None:
                break
            size = 2 * size + (residue - 2 * size) % self.period
        if reach is None or found is None:
            self._refuse(f"no part of the output is free of padding, up to a size of {limit} voxels")
            return sizes.residues, 0, 0
        if not found.periodic:
            self._refuse(
                f"what it reads does not repeat every {self.period} voxels, though no single layer explains that"
            )
            return sizes.residues, 0, 0
        agreeing = tuple(r for r in sizes.residues if self._agrees(reach, size, r))
        if residue not in agreeing:
            if not self.reasons:
                self._refuse("what it reads depends on the size of the patch, though no single layer explains that")
            return sizes.residues, 0, 0
        return agreeing, found.low, found.high

    def _reach(self, size: int) -> Reach | None:
        """What the output reads at this size, or None if that is not all."""
        followed = self.subject.follow(self._shape(size))
        if followed.reasons:
            self.reasons.extend(followed.reasons)
            return None
        return followed.reach(self.axis)

    def _agrees(self, reach: Reach, size: int, residue: int) -> bool:
        """Whether another size, with this residue and half as large again, reads the same as the size of reference."""
        larger = 3 * size // 2 + 1
        larger += (residue - larger) % self.period
        if residue == size % self.period and (other := self.subject.difference(self._shape(size), self._shape(larger))):
            self.reasons.append(other)
            return False
        followed = self.subject.follow(self._shape(larger))
        found = followed.reach(self.axis)
        return not followed.reasons and found is not None and agree(reach, found)
