"""Calibration: the patch and batch that give the most useful voxels per second, measured on this machine."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from chunkinfer.geometry.boxes import Box
from chunkinfer.geometry.lattice import PatchLattice
from chunkinfer.networks.engines.contract import Setup
from chunkinfer.networks.engines.opening import ENGINES, open_network
from chunkinfer.tiling.kernel.block import run_block
from chunkinfer.tiling.kernel.block_task import BlockTask
from chunkinfer.tiling.kernel.job import Job
from chunkinfer.tiling.plan.measuring import Measuring
from chunkinfer.tiling.plan.speed import (
    PASSES,
    Remembered,
    Speed,
    device_name,
    device_watts,
    time_kernels,
    time_writing,
)

if TYPE_CHECKING:
    from chunkinfer.networks.model import Model
    from chunkinfer.tiling.plan.plan import Plan

WORTH_TRYING = 2.0
"""Lattices are tried that compute at most this many times the voxels of the one that computes least."""

STEP = 1.3
"""Patches tried differ in their voxels by this factor at least: speed changes slowly with size."""


class Calibration:
    """Times patches with the kernel of the run, on random voxels, while as many kernels run as a process has.

    Parameters
    ----------
    job
        Makes the kernel's job of a lattice and a batch.
    setup
        Makes what the network is opened for, of the same.
    model, engine
        The network, and what runs it.
    dtype
        Of the volume.
    time
        That measuring may take.
    """

    def __init__(
        self,
        job: Callable[[PatchLattice, int], Job],
        setup: Callable[[PatchLattice, int], Setup],
        model: Model,
        engine: str,
        dtype: np.dtype[Any],
        time: Measuring,
    ) -> None:
        self.job, self.setup, self.model, self.engine, self.dtype = job, setup, model, engine, dtype
        self.time = time
        self.unmeasured = 0
        self.watts: float | None = None
        self._per_voxel: float | None = None

    def _remembered(self, setup: Setup) -> Remembered:
        """What was measured before under the same conditions."""
        return Remembered(
            self.model.digest, device_name(setup.device), setup.kernels, self.engine, ENGINES[self.engine].version(),
            setup.patch[1], self.dtype, setup.precision, setup.threads,
        )  # fmt: skip

    def fastest(self, lattices: Sequence[PatchLattice], batch: int, fixed: bool) -> tuple[PatchLattice, int, float]:
        """The lattice and batch with the most useful voxels per second, and the seconds of a batch.

        Small patches are timed first, and tell for which of the larger ones there is time: those without are taken to
        be as fast per voxel as the largest one timed. ``fixed`` keeps the batch.
        """
        timed: dict[tuple[float, int], tuple[PatchLattice, int, float]] = {}

        def consider(lattice: PatchLattice, n: int) -> None:
            seconds = self.batch_seconds(lattice, n)
            timed[seconds * len(lattice) / n, len(timed)] = lattice, n, seconds

        for lattice in sorted(worth_trying(lattices), key=lambda a: prod(a.patch)):
            consider(lattice, batch)
        lattice, *_ = timed[min(timed)]
        device = self.setup(lattice, batch).device
        for more in () if fixed else (2, 4) if device == "cpu" else (2, 4, 8):
            if not self._passes(lattice, more):
                break
            try:
                consider(lattice, more)
            except Exception:  # whatever a network raises that was exported for batches of one
                break
        return timed[min(timed)]

    def batch_seconds(self, lattice: PatchLattice, batch: int) -> float:
        """Seconds of one batch of patches of this size, from this run of the program or an earlier one."""
        what = _named(lattice, batch)
        remembered = self._remembered(self.setup(lattice, batch))
        known = remembered.get(what)
        if known is None:
            passes = self._passes(lattice, batch)
            if not passes and self._per_voxel is not None:
                self.unmeasured += 1
                return self._per_voxel * prod(lattice.patch) * batch
            self.time.tell(f"{self.engine}: patches {what}", 3 * self._expected(lattice, batch))
            known = self._measure(lattice, batch, passes)
            remembered.put(what, known)
        self._per_voxel = known / prod(lattice.patch) / batch
        return known

    def known(self, lattice: PatchLattice, batch: int) -> bool:
        """Whether this was measured before, by this process or another."""
        return self._remembered(self.setup(lattice, batch)).get(_named(lattice, batch)) is not None

    def _passes(self, lattice: PatchLattice, batch: int) -> int:
        """Timed passes for which there is time, after one that is not timed; 0 if there is none."""
        expected, left = self._expected(lattice, batch), self.time.left
        return max((n for n in range(1, PASSES + 1) if (1 + n) * expected < left), default=0)

    def _expected(self, lattice: PatchLattice, batch: int) -> float:
        """Seconds of a batch, by what was measured last."""
        return (self._per_voxel or 0.0) * prod(lattice.patch) * batch

    def _measure(self, lattice: PatchLattice, batch: int, passes: int) -> float:
        alone, setup = lattice.alone(), self.setup(lattice, batch)
        job, network = self.job(alone, batch), open_network(self.model, setup, self.engine)
        out = Box((0,) * len(alone.axes), alone.output)
        seen = alone.seen(out)
        rng = np.random.default_rng(0)
        shape = (setup.patch[1], *seen.shape)
        if self.dtype.kind == "f":
            data = rng.random(shape).astype(self.dtype)
        else:
            data = rng.integers(0, min(255, np.iinfo(self.dtype).max), shape).astype(self.dtype)
        task = BlockTask.of(job, data, seen, out)
        seconds = time_kernels(lambda: run_block(network, task), setup.kernels, max(1, passes), lambda: self.time.left)
        self.watts = device_watts(setup.device)
        return seconds

    def speed(self, plan: Plan, batch_seconds: float, read: Callable[[Box], Any]) -> Speed:
        """With the time to read the middle block of the volume and to write one."""
        grid = plan.grid
        middle = grid.box(tuple(n // 2 for n in grid.counts))
        start = time.perf_counter()
        values = np.asarray(read(plan.lattice.seen(middle)))
        reading = time.perf_counter() - start
        filler = np.random.default_rng(0).random(2**16) if plan.dtype != "uint8" else values.ravel()[: 2**16]
        writing = time_writing(
            (plan.channels_out, *middle.shape), plan.layout.chunks, plan.layout.shards, filler.astype(plan.dtype)
        )
        return Speed(batch_seconds, reading, writing, device_name(plan.device), self.watts, self.unmeasured)


def _named(lattice: PatchLattice, batch: int) -> str:
    return f"{'exact' if lattice.exact else 'blended'} {lattice.patch} x {batch}"


def worth_trying(lattices: Sequence[PatchLattice]) -> Iterator[PatchLattice]:
    """Of lattices, the ones that compute least first, those that compute little more and differ in patch size."""
    least = min(len(a) * prod(a.patch) for a in lattices)
    tried: list[int] = []
    for lattice in lattices:
        voxels = prod(lattice.patch)
        alike = any(voxels < STEP * t and t < STEP * voxels for t in tried)
        if not alike and len(lattice) * voxels <= WORTH_TRYING * least:
            tried.append(voxels)
            yield lattice
