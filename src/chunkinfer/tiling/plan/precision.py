"""What reduced precision changes, measured on samples of the user's own volume before a run."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chunkinfer.errors import PrecisionError
from chunkinfer.geometry.boxes import Box
from chunkinfer.geometry.lattice import AxisLattice, PatchLattice, round_up
from chunkinfer.networks.engines.contract import Run
from chunkinfer.support.lru import Lru
from chunkinfer.tiling.kernel.block import run_block
from chunkinfer.tiling.kernel.block_task import BlockTask
from chunkinfer.tiling.kernel.job import Job

Array = NDArray[Any]

TOLERANCE = 0.01
"""Share of the decisions that reduced precision may flip, unless the caller says otherwise."""

SAMPLES, VOXELS = 4, 2**18
"""Crops of the volume that are compared, and voxels of each, about: seconds, where whole patches might take minutes."""

_known: Lru[Hashable, PrecisionCheck] = Lru(64)


@dataclass(frozen=True)
class PrecisionCheck:
    """Reduced precision against fp32 of the reference engine, on samples of the volume."""

    precision: str
    crops: int
    """Crops of the volume that were compared."""
    voxels: int
    """Output voxels compared, channels counted."""
    largest: float
    """Largest difference."""
    mean: float
    """Mean difference."""
    spread: float
    """Standard deviation of the output in fp32, which the mean difference is judged by where nothing is decided."""
    flipped: float | None
    """Share of decisions that come out otherwise: the largest channel, or whether a probability is above its
    threshold. None for outputs that are neither."""

    @property
    def change(self) -> float:
        """What the tolerance is compared with: decisions flipped, or else the mean difference over the spread."""
        return self.mean / max(self.spread, 1e-30) if self.flipped is None else self.flipped

    def __str__(self) -> str:
        decided = (
            f"{self.flipped:.2g} of the decisions flipped"
            if self.flipped is not None
            else f"mean {self.change:.2g} of the output's standard deviation"
        )
        return (
            f"{self.precision} against fp32 on {self.crops} crop(s) of this volume: {decided}, "
            f"largest difference {self.largest:.2g}, mean {self.mean:.2g}"
        )

    def excess(self, tolerance: float) -> PrecisionError | None:
        """The error of a run that changes more than it may; None if it does not."""
        if self.change <= tolerance:
            return None
        return PrecisionError(
            f"precision={self.precision!r} changes more than precision_tolerance={tolerance:g} allows: {self}.",
            "Some networks need the digits: their outputs lie close to the threshold, or grow on the way.",
            [
                'keep full precision: infer(volume, model, precision="fp32")',
                f"accept it: infer(volume, model, precision={self.precision!r}, "
                f"precision_tolerance={2 * self.change:.1g})",
            ],
        )


def check_precision(
    job: Job,
    precision: str,
    reference: Run,
    opened: Callable[[PatchLattice], Run],
    read: Callable[[Box], Array],
    known_as: Hashable,
) -> PrecisionCheck:
    """Compare a network in reduced precision with the reference in fp32, crop by crop.

    Parameters
    ----------
    job
        Of the run.
    precision
        Its name.
    reference
        The network in fp32, for any size.
    opened
        Opens the network in reduced precision for the one patch of a lattice.
    read
        Reads a box of the volume, (c, *space).
    known_as
        What else the result depends on; equal calls in one process are made once.
    """
    key = (known_as, precision, str(job.output.describe()))
    return _known.get_or_make(key, lambda: _compare(job, precision, reference, opened, read))


def _compare(
    job: Job, precision: str, reference: Run, opened: Callable[[PatchLattice], Run], read: Callable[[Box], Array]
) -> PrecisionCheck:
    largest = total = squares = summed = 0.0
    voxels = flips = decisions = 0
    decided = True
    crop = crop_of(job.lattice)
    whole, network = Box.of_shape(job.lattice.shape), opened(crop)
    boxes = sample(job.lattice.shape, crop.patch)
    for box in boxes:
        data = read(box & whole)
        one = crop.alone(data.shape[1:])
        plain = replace(
            job, lattice=one, batch=1, dtype=job.compute, output=replace(job.output, argmax=False, threshold=None),
            empty=None,
        )  # fmt: skip
        task = BlockTask.of(plain, data, Box.of_shape(data.shape[1:]), Box.of_shape(one.output))
        before, after = (run_block(run, task).astype(np.float64) for run in (reference, network))
        difference = np.abs(after - before)
        largest, total = max(largest, float(difference.max())), total + float(difference.sum())
        summed, squares = summed + float(before.sum()), squares + float((before**2).sum())
        voxels += before.size
        changed = _decisions(job, before, after)
        decided = decided and changed is not None
        if changed is not None:
            flips, decisions = flips + int(changed.sum()), decisions + changed.size
    spread = float(np.sqrt(max(squares / voxels - (summed / voxels) ** 2, 0.0)))
    flipped = flips / decisions if decided else None
    return PrecisionCheck(precision, len(boxes), voxels, largest, total / voxels, spread, flipped)


def _decisions(job: Job, before: Array, after: Array) -> Array | None:
    """Where the two decide differently; None where the output decides nothing."""
    if job.output.argmax:
        return np.asarray(before.argmax(0) != after.argmax(0))
    threshold = job.output.threshold
    if threshold is None:
        if before.min() < -1e-3 or before.max() > 1 + 1e-3:
            return None
        threshold = 0.5
    return np.asarray((before > threshold) != (after > threshold))


def crop_of(lattice: PatchLattice) -> PatchLattice:
    """One patch, as large as the run's or smaller."""
    side = round(VOXELS ** (1 / len(lattice.axes)))
    axes = []
    for a in lattice.axes:
        n = min(a.patch, a.contract.accepted_at_least(side))
        axes.append(AxisLattice(a.contract, n, n, n, round_up(n, a.contract.period), (0,), exact=True))
    return PatchLattice(tuple(axes))


def sample(shape: Sequence[int], crop: Sequence[int]) -> list[Box]:
    """Boxes of a volume, spread evenly along its diagonal; beyond its end where it is smaller than they are."""
    boxes = []
    for i in range(SAMPLES):
        start = tuple(int(max(n - c, 0) * (i + 0.5) / SAMPLES) for n, c in zip(shape, crop, strict=True))
        boxes.append(Box(start, tuple(s + c for s, c in zip(start, crop, strict=True))))
    return list(dict.fromkeys(boxes))
