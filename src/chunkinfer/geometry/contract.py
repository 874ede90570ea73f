"""How a network maps one axis: the contract between tracing, planning and the kernel.

Output voxel ``o`` of an axis is anchored at input voxel ``o * stride``::

    input    |----- low -----|== period-aligned block ==|----- high -----|
    output                   |== block / stride ========|
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction


@dataclass(frozen=True)
class Uncut:
    """Why one patch has to span an axis: the network runs at the volume's length, and is another one there."""

    reason: str
    """In words, beginning with the layer."""
    shorter: int
    """The next length below at which the axis can be cut; 0 if there is none."""
    longer: int
    """The next length above at which it can be cut."""


@dataclass(frozen=True)
class AxisContract:
    """What one axis of a network needs, gives and accepts."""

    period: int
    """Smallest shift of the input, in voxels, under which the network is shift-equivariant."""
    stride: Fraction
    """Input voxels per output voxel; 2 halves the sampling, 1/2 doubles it. ``period / stride`` is an integer."""
    low: int
    """Input voxels below a block of whole periods, in anchor coordinates, that the block's output reads; >= 0."""
    high: int
    """Input voxels above a block of whole periods, in anchor coordinates, that the block's output reads; >= 0."""
    crop: tuple[int | Fraction, int | Fraction]
    """Input voxels by which the output field is smaller than the input field, at the low and high end; (0, 0) for
    same-padded networks, positive for valid ones, negative where the output reaches beyond the input."""
    residues: tuple[int, ...]
    """Sizes that the network takes, modulo the period."""
    smallest: int
    """The smallest size that the network takes."""
    uncut: Uncut | None = None
    """Set where one patch has to span the axis; None where it may be cut."""
    only: bool = False
    """Whether it takes no other size: a file that was exported for one."""

    def accepts(self, size: int) -> bool:
        """Whether the network takes this many input voxels on the axis."""
        if self.only:
            return size == self.smallest
        return size >= self.smallest and size % self.period in self.residues

    def accepted_at_least(self, size: int) -> int:
        """The smallest accepted size that is not below ``size``; the only one where there is no other."""
        if self.only:
            return self.smallest
        size = max(size, self.smallest)
        while not self.accepts(size):
            size += 1
        return size

    def output_size(self, size: int) -> int:
        """Output voxels for an accepted input size: ``(size - sum(crop)) / stride``, rounded up.

        Only far-padded sizes need the rounding: the last output voxel then covers the volume's last voxels.
        """
        return max(0, -int(-(size - sum(self.crop)) // self.stride))
