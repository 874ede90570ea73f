"""The canvas on a CPU: compiled loops over preallocated memory, float32."""

from __future__ import annotations

import threading
from functools import lru_cache, partial
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from chunkinfer.geometry.boxes import Box
from chunkinfer.geometry.lattice import AxisLattice
from chunkinfer.tiling.kernel.blend_weights import axis_weights
from chunkinfer.tiling.kernel.block_task import BlockTask
from chunkinfer.tiling.kernel.canvas import (
    Batch,
    Index,
    patch_start,
    refuse_not_finite,
    refuse_range,
    stored_patch,
    zone,
)
from chunkinfer.tiling.kernel.job import Job
from chunkinfer.tiling.kernel.normalize import Affine

if TYPE_CHECKING:
    import torch

Array = NDArray[Any]
Floats = NDArray[np.float32]
Corner = tuple[int, int, int]

COMPILED = (np.dtype(np.uint8), np.dtype(np.uint16), np.dtype(np.float32))
"""Stored dtypes that the loop over a patch is compiled for; others are converted patch by patch."""

_own = threading.local()


def serves(job: Job) -> bool:
    """Whether a `HostCanvas` can hold the blocks of a job: networks in double precision are torch's."""
    return job.device == "cpu" and job.compute == np.float32


class Buffers:
    """Memory of one thread, reused from block to block of a job."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.patches: Floats = np.empty((job.batch, job.channels_in, *job.lattice.patch), np.float32)
        self._total: Floats = np.empty(0, np.float32)
        # Of the axes, not of self: memory is given back when the next job comes, without a garbage collection.
        self.weights = lru_cache(512)(partial(_weights, job.window, job.lattice.axes))

    def total(self, shape: tuple[int, ...]) -> Floats:
        """Memory for a block's floats; what it holds is anything."""
        size = prod(shape)
        if self._total.size < size:
            self._total = np.empty(0, np.float32)  # given up first: both together may be more than there is
            self._total = np.empty(size, np.float32)
        return self._total[:size].reshape(shape)


def buffers(job: Job) -> Buffers:
    """The calling thread's buffers; those of another job are given up."""
    held: Buffers | None = getattr(_own, "buffers", None)
    if held is None or (held.job is not job and held.job != job):
        _own.buffers = held = None
        _own.buffers = held = Buffers(job)
    return held


def _weights(window: str, axes: tuple[AxisLattice, ...], d: int, k: int) -> Floats:
    return axis_weights(window, axes[d], k).astype(np.float32)


class HostCanvas:
    """A block on a CPU.

    Parameters
    ----------
    task
        The block, of a job in float32. Where patches of it do not run, voxels of no patch hold zeros.
    """

    def __init__(self, task: BlockTask) -> None:
        job, out = task.job, task.output_box
        self._job, self._input_box, self._output_box = job, task.input_box, out
        self._complete, data = not task.selection.skipped, task.data
        self._buffers = buffers(job)
        self._compiled = data.dtype in COMPILED
        self._data = np.ascontiguousarray(data) if self._compiled else data
        self._whole_numbers = job.quantised or job.output.decides
        exact = job.lattice.exact
        # What a patch gives is stored at once where it can be; otherwise floats come first.
        self._at_once = exact if self._whole_numbers else job.dtype == np.float32
        self._result = np.empty((job.channels, *out.shape), job.dtype)
        self._total: Array = self._result
        if not self._at_once:
            self._total = self._buffers.total((job.blended_channels, *out.shape))
        if not self._complete:
            self._total.fill(0)

    def gather(self, batch: Batch) -> torch.Tensor:
        """See `Canvas`."""
        import torch

        patches = self._buffers.patches
        for place, index in batch.items():
            self._gather(patches[place], index)
        filler = next(iter(batch))
        for place in range(len(patches)):
            if place not in batch:
                patches[place] = patches[filler]
        return torch.from_numpy(patches)

    def _gather(self, patch: Floats, index: Index) -> None:
        from chunkinfer.tiling.kernel import fused

        job, normalize = self._job, self._job.normalize
        if not isinstance(normalize, Affine):
            stored = stored_patch(job, self._data, self._input_box, index)
            np.copyto(patch, np.asarray(normalize(stored), np.float32))
            return
        data, start = self._data, patch_start(job, self._input_box, index)
        if not self._compiled:
            box = tuple(slice(a, a + n) for a, n in zip(start, job.lattice.patch, strict=True))
            with np.errstate(over="ignore"):  # infinite values are told by the network's output
                data, start = data[(slice(None), *box)].astype(np.float32, "C"), (0,) * len(start)
        fused.gather(
            _cube(data), _corner(start), _cube(patch), np.float32(normalize.offset), np.float32(normalize.scale)
        )

    def put(self, values: torch.Tensor, batch: Batch) -> None:
        """See `Canvas`."""
        import torch

        arrays = values.to(torch.float32).contiguous().numpy()
        for place, index in batch.items():
            box, local = zone(self._job, index, self._output_box)
            at = box.relative_to(self._output_box.start).start
            keep = self._store if self._job.lattice.exact else self._add
            if keep(arrays[place], index, local, at):
                self._refuse(arrays[place][(slice(None), *local.slices)], index, box)

    def _add(self, values: Floats, index: Index, local: Box, at: Index) -> bool:
        """Add a patch's weighted values; whether one is not finite."""
        from chunkinfer.tiling.kernel import fused

        by_axis: list[Floats] = [np.ones(1, np.float32)] * (3 - len(index))
        for d, (k, part) in enumerate(zip(index, local.slices, strict=True)):
            by_axis.append(self._buffers.weights(d, k)[part])
        return fused.add(
            _cube(self._total), _corner(at), _cube(values), _corner(local.start), _corner(local.shape, 1),
            by_axis[0], by_axis[1], by_axis[2], _corner(self._held(index, at, local.shape)),
        )  # fmt: skip

    def _held(self, index: Index, at: Index, shape: Index) -> Index:
        """From where on, along each axis, the block holds no sums yet in a box of a patch.

        Sums lie where patches before this one do: in the lattice's order, below the end of its neighbour along some
        axis. With patches left out it is not so simple: the block was set to zero, and all of it holds sums.
        """
        if not self._complete:
            return shape
        held = []
        for axis, k, start, origin, n in zip(
            self._job.lattice.axes, index, at, self._output_box.start, shape, strict=True
        ):
            end = axis.owned(k - 1)[1] if k else 0
            held.append(min(max(end - origin - start, 0), n))
        return tuple(held)

    def _store(self, values: Floats, index: Index, local: Box, at: Index) -> bool:
        """Put a patch's clean zone where it is stored; whether one of its values cannot be."""
        from chunkinfer.tiling.kernel import fused

        if self._whole_numbers:
            return self._convert(values, local.start, at, local.shape)
        return fused.copy(_cube(values), _corner(local.start), _cube(self._total), _corner(at), _corner(local.shape, 1))

    def _convert(self, values: Floats, start: Index, at: Index, shape: Index) -> bool:
        """Floats to what is stored, over a box; whether a value cannot be."""
        from chunkinfer.tiling.kernel import fused

        output = self._job.output
        parts = _cube(values), _corner(start), _cube(self._result), _corner(at), _corner(shape, 1)
        if output.argmax:
            return fused.argmax(*parts)
        if output.threshold is not None:
            return fused.exceeds(*parts, np.float32(output.threshold))
        return fused.quantise(*parts)

    def finish(self) -> Array:
        """The block as it is stored, (channels, *space)."""
        if self._at_once:
            return self._result
        if not self._whole_numbers:
            self._result[...] = self._total
            return self._result
        zero = (0,) * len(self._output_box.shape)
        if self._convert(self._total, zero, zero, self._output_box.shape):
            refuse_range(self._output_box, float(self._total.min()), float(self._total.max()))
        return self._result

    def _refuse(self, values: Floats, index: Index, box: Box) -> None:
        if not np.isfinite(values).all():
            refuse_not_finite(self, self._job, index)
        refuse_range(box, float(values.min()), float(values.max()))


def _cube(array: Array) -> Array:
    """(c, *space) -> (c, z, y, x): axes that are not there have one voxel."""
    return array.reshape(len(array), *(1,) * (4 - array.ndim), *array.shape[1:])


def _corner(point: Index, missing: int = 0) -> Corner:
    z, y, x = (*(missing,) * (3 - len(point)), *point)
    return z, y, x
