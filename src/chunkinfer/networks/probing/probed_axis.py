"""The search for one axis of a network that nobody can look into."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction
from functools import partial
from itertools import chain
from math import ceil, gcd, lcm

import numpy as np

from chunkinfer.geometry.contract import AxisContract, Uncut
from chunkinfer.networks.network import ROUND_OFF, Array, Flags, Network, largest_error
from chunkinfer.networks.probing.verifying import Seen, seen_at
from chunkinfer.networks.trace.contract import smallest_size, split_crop

_STEPS = (192, 64, 96, 160, 224)
"""Differences of two sizes that give the stride: common multiples of strides."""
_SHIFTS = (64, 96, 80, 112, 144, 224)
"""Shifts tried: a network's period divides one of them, or is not found."""
_LIMIT = 1024
"""Voxels along the probed axis beyond which an influence counts as endless."""
_SLACK = 32
"""Voxels by which a reach measured at one cut may be short of the true one: about a period."""
_TOLERANCES = (64 * float(np.finfo(np.float32).eps), ROUND_OFF)
"""Differences, as shares of the values at the same place, that are put down to round-off: what deep layers give to an
output may be little more, so the stricter one is tried first."""


class Refused(Exception):
    """Why an axis cannot be tiled exactly, in words."""


class AxisProbe:
    """The search along one axis, with the others at their size in the first run.

    Parameters
    ----------
    network
        What is run.
    base
        A spatial shape that it takes.
    axis
        Which spatial axis.
    output
        Output voxels along the axis at that shape.
    """

    def __init__(self, network: Network, base: tuple[int, ...], axis: int, output: int) -> None:
        self.network, self.base, self.axis = network, base, axis
        self.free = network.shape is None or network.shape[axis] is None
        self.stride = Fraction(base[axis], output)
        self.total = Fraction(0)
        self.period = self.stride.numerator
        self.trusts_nan = True
        self._shown: dict[int, tuple[Flags, Flags]] = {}
        self._outputs: dict[int, Array | None] = {}

    def contract(self) -> tuple[AxisContract, Seen]:
        """The axis' contract, with its context rounded up to whole periods, and what was seen of it.

        Raises
        ------
        Refused
            What was seen speaks against exactness.
        """
        first = self.base[self.axis]
        larger = next((first + step for step in _STEPS if self.runs(first + step) is not None), None)
        if not self.free or larger is None:
            raise Refused(f"takes this axis only at the size of {first} voxels, as far as was tried")
        here, there = self._at(first), self._at(larger)
        if here.shape == there.shape:
            raise Refused("gives an output of one size, whatever the size of the input")
        self.stride = Fraction(larger - first, len(there) - len(here))
        self.total = first - len(here) * self.stride
        self.period = self.stride.numerator
        reach = self._reach()
        size, self.period = self._period(reach)
        residues = self._residues(reach, size)
        seen = self._context(size)
        low, high = (ceil(n / self.period) * self.period for n in (seen.low, seen.high))
        smallest = min(smallest_size(self._size_with(r, first), self.period, self._takes) for r in residues)
        contract = AxisContract(
            self.period, self.stride, low, high, split_crop(self.total), tuple(residues), max(1, smallest)
        )
        return contract, seen

    def at(self, size: int, contract: AxisContract) -> AxisContract:
        """The contract for a volume of a length at which the network, if it runs, is not what the contract says; as
        `chunkinfer.networks.trace.axis.AxisSearch.at` finds it for traced networks."""
        self.period, self.stride = contract.period, contract.stride
        first = contract.smallest + (size - contract.smallest) % self.period
        runs = next((n for n in range(first, first + 8 * self.period + 64, self.period) if self.runs(n) is not None), 0)
        if not runs:
            return contract
        self.total = runs - len(self._at(runs)) * self.stride
        high = self.total - contract.crop[0]
        here = replace(
            contract,
            residues=(size % self.period,),
            smallest=runs,
            crop=(contract.crop[0], int(high) if high.denominator == 1 else high),
        )
        reach = max(contract.low, contract.high) + _SLACK
        least = 2 * (reach + _SLACK) + self._lost + 4 * self.period
        at = least + (size - least) % self.period
        if not self._takes(at):
            return uncut_at(contract, here, size, "its output does not follow from its input at lengths like this")
        if self._shift_error(at, self.period, reach) > ROUND_OFF:
            return uncut_at(contract, here, size, f"the output does not follow shifts by {self.period} voxels")
        seen = self._context(at)
        low, high_read = (ceil(n / self.period) * self.period for n in (seen.low, seen.high))
        return replace(here, low=max(low, contract.low), high=max(high_read, contract.high))

    def without_context(self) -> AxisContract:
        """What is known of the axis of a network that is not exact: its sizes, for blending."""
        first = self.base[self.axis]
        steps = [step for step in range(1, max(_STEPS) // 2 + 1) if self.free and self._takes(first + step)]
        if not steps:
            crop, residues = split_crop(self.total), (first % self.period,)
            return AxisContract(self.period, self.stride, 0, 0, crop, residues, first, only=True)
        period = lcm(self.stride.numerator, gcd(*steps))
        smallest = smallest_size(first, period, self._takes)
        return AxisContract(period, self.stride, 0, 0, split_crop(self.total), (first % period,), max(1, smallest))

    @property
    def _lost(self) -> int:
        """Whole voxels by which the output is smaller."""
        return max(0, ceil(self.total))

    # ---- runs --------------------------------------------------------------------------------------------------------

    def _shape(self, size: int) -> tuple[int, ...]:
        return (*self.base[: self.axis], size, *self.base[self.axis + 1 :])

    def runs(self, size: int) -> Array | None:
        """The output at a size, with the axis in front; None if it does not run. Remembered."""
        if size not in self._outputs:
            try:
                self._outputs[size] = self._run(self._long()[:size])
            except Exception:  # whatever the network raises on a size that it does not take
                self._outputs[size] = None
        return self._outputs[size]

    def _at(self, size: int) -> Array:
        found = self.runs(size)
        assert found is not None
        return found

    def _run(self, x: Array) -> Array:
        """The output for an input that has the axis in front."""
        return self.network(np.ascontiguousarray(x.swapaxes(0, 2 + self.axis))).swapaxes(0, 2 + self.axis)

    def _long(self) -> Array:
        """Noise, longer than any size along the axis, of which every run takes a part."""
        if not hasattr(self, "_noise"):
            shape = self._shape(2 * _LIMIT + max(_SHIFTS))
            self._noise = self.network.uneven(shape, self.axis).swapaxes(0, 2 + self.axis)
        return self._noise

    def _takes(self, size: int) -> bool:
        found = self.runs(size)
        return found is not None and size - len(found) * self.stride == self.total

    def _size_at_least(self, size: int) -> int:
        """A size that runs, of those that lose what most lose; a multiple of 64 where one does."""
        step = 64
        for candidate in chain([-(-size // step) * step], range(size, size + max(_SHIFTS))):
            if self._takes(candidate):
                return candidate
        raise Refused(f"takes no size from {size} to {size + max(_SHIFTS)}")

    def _size_with(self, residue: int, size: int) -> int:
        """The smallest size from ``size`` on that is ``residue`` modulo the period and is taken."""
        size += (residue - size) % self.period
        taken = (n for n in range(size, 2 * _LIMIT, self.period) if self._takes(n))
        return next(taken, size)

    # ---- steps -------------------------------------------------------------------------------------------------------

    def _reach(self) -> int:
        """Voxels within which an influence ends, about; sizes grow until it does.

        NaN that does not end is not believed where changes do: a running sum (scipy's uniform_filter) hands it on and
        on, and so do weights of zero.
        """
        size = self._size_at_least(max(64, self.base[self.axis]))
        changed = None
        while size <= _LIMIT:
            cut = size // 2
            found = self.network.changes(self._shape(size), self.axis, cut)
            more = self.network.changes_of_patterns(self._shape(size), self.axis, cut)
            below, above = self._shown[cut] = found[0] | more[0], found[1] | more[1]
            if not (below.any() and above.any()):
                raise Refused("no change of the input changed the output: it is constant on random inputs")
            changed = self._end((below, above), cut)
            poisoned = self._end(self.network.reached_by_nan(self._shape(size), self.axis, cut), cut)
            if changed is not None and poisoned is not None:
                return max(changed, poisoned) + _SLACK
            size = self._size_at_least(2 * size)
        if changed is not None:
            self.trusts_nan = False
            return changed + _SLACK
        raise Refused(
            f"a change of the input reaches outputs at every distance, as far as {_LIMIT // 2} voxels were tried: it "
            "uses statistics of the whole patch (instance or group normalisation, global pooling, attention), or its "
            "context is larger than that"
        )

    def _end(self, flags: tuple[Flags, Flags], cut: int) -> int | None:
        """Voxels from the cut at which an influence ends; None if it does not end well before the borders."""
        below, above = flags
        # Free of influence, from the far ends inwards.
        last = int(np.flatnonzero(below)[-1]) if below.any() else 0
        first = int(np.flatnonzero(above)[0]) if above.any() else len(above) - 1
        margin = max(1, len(below) // 8)
        if first < margin or last >= len(below) - margin:
            return None
        return max(0, ceil(last * self.stride) - cut, cut - int(first * self.stride))

    def _period(self, reach: int) -> tuple[int, int]:
        """The smallest shift under which the output only shifts, and the size at which it was found."""
        size = self._size_at_least(2 * (reach + _SLACK) + self._lost + 128)

        def error(shift: int) -> float:
            # Sizes repeat with the period too, and they are known where a deep layer is too weak to show.
            possible = (shift / self.stride).denominator == 1 and self._takes(size + shift)
            return self._shift_error(size, shift, reach + _SLACK) if possible else np.inf

        def holds(tolerance: float, shift: int) -> bool:
            return error(shift) <= tolerance

        errors = {shift: error(shift) for shift in _SHIFTS}
        for tolerance in _TOLERANCES:
            if whole := next((shift for shift, e in errors.items() if e <= tolerance), 0):
                return size, _smallest_divisor(whole, partial(holds, tolerance))
        raise Refused(
            f"the output does not follow shifts of the input by {', '.join(map(str, _SHIFTS))} voxels: it depends on "
            "where the patch lies (a position embedding, a resize to the size of the input, align_corners)"
        )

    def _shift_error(self, size: int, shift: int, margin: int) -> float:
        """By how much the output away from the borders does more than shift, as a share of the largest."""
        here, there = self._at(size), self._run(self._long()[shift : shift + size])
        first, stop = ceil(margin / self.stride), int((size - self._lost - margin) / self.stride)
        steps = int(shift / self.stride)
        return largest_error(here[first + steps : stop], there[first : stop - steps])

    def _residues(self, reach: int, size: int) -> list[int]:
        """Sizes modulo the period at which the network gives, away from the far border, what it gives at ``size``."""
        found = []
        for residue in range(self.period):
            least = reach + _SLACK + self._lost + 2 * self.period
            other = least + (residue - least) % self.period
            if residue == size % self.period or (self._takes(other) and self._agree(size, other, reach + _SLACK)):
                found.append(residue)
        return found

    def _agree(self, size: int, other: int, margin: int) -> bool:
        stop = int((min(size, other) - self._lost - margin) / self.stride)
        return stop > 0 and largest_error(self._at(size)[:stop], self._at(other)[:stop]) <= ROUND_OFF

    def _context(self, size: int) -> Seen:
        """The most that was seen to be read: at two cuts, both multiples of the period, of bars, and until now.

        From such a cut the context of whole blocks is seen to less than a period, and rounding up covers the rest.
        """
        p = self.period
        here = AxisContract(p, self.stride, 0, 0, (0, 0), (0,), p)
        seen = [seen_at(here, *flags, cut) for cut, flags in self._shown.items()]
        for cut in self._cuts(size):
            below, above = self.network.changes(self._shape(size), self.axis, cut)
            if self.trusts_nan:
                more = self.network.reached_by_nan(self._shape(size), self.axis, cut)
                below, above = below | more[0], above | more[1]
            seen.append(seen_at(here, below, above, cut))
        shortest = self._size_at_least(64)
        cut = shortest // 2 // p * p
        seen.append(seen_at(here, *self.network.changes_of_bars(self._shape(shortest), self.axis, cut), cut))
        return Seen(max(s.low for s in seen), max(s.high for s in seen), len(seen))

    def _cuts(self, size: int) -> Iterator[int]:
        middle = size // 2 // self.period * self.period
        yield middle
        yield middle - self.period


def uncut_at(contract: AxisContract, here: AxisContract, size: int, reason: str) -> AxisContract:
    """The contract at a length at which the axis cannot be cut; the other one says where it can."""
    shorter = next((n for n in range(size, 0, -1) if contract.accepts(n)), 0)
    uncut = Uncut(f"at {size} voxels {reason}", shorter, contract.accepted_at_least(size))
    return replace(here, uncut=uncut, smallest=size)


def _smallest_divisor(whole: int, holds: Callable[[int], bool]) -> int:
    """The smallest divisor for which something holds that holds for all multiples of one number."""
    for prime in (2, 3, 5, 7):
        while whole % prime == 0 and holds(whole // prime):
            whole //= prime
    return whole
