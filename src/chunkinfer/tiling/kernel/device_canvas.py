"""The canvas on any device: torch operators, sums in the compute type, conversion where the sums lie.

The host never waits for the device: what was returned is looked at when the block has arrived.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property, lru_cache, partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from chunkinfer.tiling.kernel.blend_weights import axis_weights
from chunkinfer.tiling.kernel.block_task import BlockTask
from chunkinfer.tiling.kernel.canvas import (
    HIGHEST,
    LOWEST,
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

STORED = ("float16", "float32", "float64")
"""dtypes that values are converted to on the device; rarer ones are converted on the host."""


class DeviceCanvas:
    """A block on a device.

    Parameters
    ----------
    task
        The block. Where patches of it do not run, voxels of no patch hold zeros.
    data
        Its voxels, (c, *space), as stored, on the device, which they say.
    """

    def __init__(self, task: BlockTask, data: torch.Tensor) -> None:
        import torch

        job, out, complete = task.job, task.output_box, not task.selection.skipped
        self._job, self._data, self._input_box, self._output_box = job, data, task.input_box, out
        self._type = getattr(torch, job.compute.name)
        make = torch.empty if job.lattice.exact and complete else torch.zeros
        self._total = make((job.blended_channels, *out.shape), dtype=self._type, device=data.device)
        self._patches: list[Index] = []
        self._extremes: list[torch.Tensor] = []
        self._weights = lru_cache(64)(partial(_weights, job, data.device))

    def gather(self, batch: Batch) -> torch.Tensor:
        """See `Canvas`."""
        import torch

        job, normalize = self._job, self._job.normalize
        shape = (job.batch, job.channels_in, *job.lattice.patch)
        patches = torch.empty(shape, dtype=self._type, device=self._data.device)
        for place, index in batch.items():
            if isinstance(normalize, Affine):
                self._pad(patches[place], index)
            else:
                stored = stored_patch(job, self._on_host, self._input_box, index)
                patches[place] = torch.from_numpy(np.asarray(normalize(stored), job.compute))
        filler = next(iter(batch))
        for place in range(job.batch):
            if place not in batch:
                patches[place] = patches[filler]
        if isinstance(normalize, Affine) and normalize != Affine():
            # A tensor on the device is divided by; of a number CUDA would multiply with the reciprocal.
            patches.sub_(normalize.offset).div_(
                torch.full((), normalize.scale, dtype=self._type, device=patches.device)
            )
        return patches

    @cached_property
    def _on_host(self) -> Array:
        """The block's input for a function of numpy arrays; waits for the device."""
        data: Array = self._data.cpu().numpy()
        return data

    def _pad(self, patch: torch.Tensor, index: Index) -> None:
        """Copy a patch's stored voxels, far-padded."""
        start = patch_start(self._job, self._input_box, index)
        box = tuple(slice(a, a + n) for a, n in zip(start, patch.shape[1:], strict=True))
        inside = self._data[(slice(None), *box)]
        patch[(slice(None), *(slice(0, n) for n in inside.shape[1:]))] = inside
        for d, have in enumerate(inside.shape[1:], 1):
            beyond = patch.narrow(d, have, patch.shape[d] - have)
            beyond.copy_(patch.narrow(d, have - 1, 1).expand_as(beyond))

    def put(self, values: torch.Tensor, batch: Batch) -> None:
        """See `Canvas`."""
        import torch

        for place, index in batch.items():
            box, local = zone(self._job, index, self._output_box)
            source = values[place][(slice(None), *local.slices)]
            target = self._total[(slice(None), *box.relative_to(self._output_box.start).slices)]
            self._patches.append(index)
            self._extremes.append(torch.stack(torch.aminmax(source)))  # NaN if a value is
            if self._job.lattice.exact:
                target.copy_(source)
            else:
                weights = self._weights(0, index[0])[local.slices[0]]
                for d, (k, part) in enumerate(zip(index[1:], local.slices[1:], strict=True), 1):
                    weights = weights.unsqueeze(-1) * self._weights(d, k)[part]
                # Product and sum apart: fused, they would be rounded otherwise than on the host.
                target.add_(source * weights)

    def finish(self) -> tuple[torch.Tensor, Callable[[], None]]:
        """The block as it is stored, (channels, *space), and what raises if values are not as they should be.

        Converted on the device. The second is called when the first has arrived, because it waits for the device.
        """
        import torch

        job, total = self._job, self._total
        check = partial(self._check, torch.stack([*self._extremes, torch.stack(torch.aminmax(total))]))
        if job.output.argmax:
            return total.argmax(0, keepdim=True).to(getattr(torch, job.dtype.name)), check
        if job.output.threshold is not None:
            return (total > job.output.threshold).to(torch.uint8), check
        if job.quantised:
            return total.mul_(255).round_().clamp_(0, 255).to(torch.uint8), check
        return total.to(getattr(torch, job.dtype.name)) if job.dtype.name in STORED else total, check

    def _check(self, extremes: torch.Tensor) -> None:
        *patches, block = extremes.cpu().numpy()
        for index, ends in zip(self._patches, patches, strict=True):
            if not np.isfinite(ends).all():
                refuse_not_finite(self, self._job, index)
        low, high = (float(v) for v in block)
        if self._job.quantised and (low < LOWEST or high > HIGHEST):
            refuse_range(self._output_box, low, high)


def _weights(job: Job, device: torch.device, d: int, k: int) -> torch.Tensor:
    import torch

    return torch.from_numpy(axis_weights(job.window, job.lattice.axes[d], k).astype(job.compute)).to(device)
