"""The block kernel: gather patches, run the network, keep clean zones or blend, convert."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from chunkinfer.errors import OutputError, VolumeError
from chunkinfer.geometry import Box
from chunkinfer.kernel.device import set_threads
from chunkinfer.kernel.job import Job
from chunkinfer.kernel.normalize import Affine
from chunkinfer.kernel.windows import axis_weights

if TYPE_CHECKING:
    import torch

Array = NDArray[Any]
Network = Callable[["torch.Tensor"], "torch.Tensor"]
Batch = dict[int, tuple[int, ...]]
"""Place in the batch -> index of the patch in the lattice."""


def run_block(job: Job, network: Network, data: Array, seen: Box, out: Box) -> Array:
    """Compute one output block.

    Parameters
    ----------
    job
        Lattice and settings.
    network
        Takes and returns (n, c, *space) tensors on the job's device.
    data
        The block with its halo, (channels, *space), in the volume's own dtype.
    seen
        The box of ``data``, in input voxels of the volume; contains ``job.lattice.seen(out)``.
    out
        The block, in output voxels of the volume.

    Returns
    -------
    numpy.ndarray
        (channels, *space) of ``job.dtype``.

    Raises
    ------
    OutputError
        The network returned NaN, another shape than it was traced with, or values that uint8 cannot hold.
    """
    import torch

    if job.device == "cpu":
        set_threads(job.threads)
    with torch.inference_mode():
        result = _accumulator(job, out)
        for batch in _batches(job, out):
            values = _run(job, network, _gather(job, data, seen, batch), batch)
            for place, index in batch.items():
                _keep(job, result, out, index, values[place])
        return _convert(job, result, out)


def _batches(job: Job, out: Box) -> Iterator[Batch]:
    """The patches of a block, in the order of the lattice, which fixes the order of accumulation.

    A patch's place in its batch follows from its place in the lattice, never from the block: elementwise kernels treat
    the last few values of a tensor by other instructions, so the same patch has other last bits in another place.
    Places that a block leaves empty are filled.
    """
    batch: Batch = {}
    for index in job.lattice.touching(out):
        place = sum(index) % job.batch
        if place in batch:
            yield batch
            batch = {}
        batch[place] = index
    if batch:
        yield batch


def _gather(job: Job, data: Array, seen: Box, batch: Batch) -> torch.Tensor:
    """The voxels of a batch, (n, c, *space), of the compute type on the device."""
    import torch

    arrays = {place: _patch(job, data, seen, index) for place, index in batch.items()}
    if callable(job.normalize):
        arrays = {place: np.asarray(job.normalize(a), job.compute) for place, a in arrays.items()}
    filler = next(iter(arrays.values()))
    patches = torch.from_numpy(np.stack([arrays.get(place, filler) for place in range(job.batch)]))
    if job.device == "cuda":  # stored values travel, not floats: a quarter of the bytes for uint8
        patches = patches.pin_memory().to("cuda", non_blocking=True)
    patches = patches.to(torch.from_numpy(np.empty(0, job.compute)).dtype)
    if isinstance(job.normalize, Affine) and job.normalize != Affine():
        patches.sub_(job.normalize.offset).div_(job.normalize.scale)
    return patches


def _patch(job: Job, data: Array, seen: Box, index: tuple[int, ...]) -> Array:
    """A patch's stored voxels; beyond the volume's end the last voxel is repeated (far padding)."""
    box = job.lattice.patch_box(index).relative_to(seen.start)
    inside = data[(slice(None), *box.slices)]
    missing = [(0, want - have) for want, have in zip(job.lattice.patch, inside.shape[1:], strict=True)]
    return np.pad(inside, [(0, 0), *missing], mode="edge") if any(high for _, high in missing) else inside


def _run(job: Job, network: Network, patches: torch.Tensor, batch: Batch) -> torch.Tensor:
    """The network's output on a batch, checked."""
    import torch

    precision: AbstractContextManager[Any] = nullcontext()
    if job.autocast:
        precision = torch.autocast(job.device, dtype=getattr(torch, job.autocast))
    with precision:
        values = network(patches)
    expected = (job.batch, job.channels_out, *(a.patch_output for a in job.lattice.axes))
    if tuple(values.shape) != expected:
        raise OutputError(
            f"The network returned {tuple(values.shape)} for patch "
            f"{job.lattice.patch_box(next(iter(batch.values())))}; {expected} was traced.",
            "Its output depends on more than the size of its input.",
            ["compare its output on patches of this size", "trace it anew: ci.plan(volume, model)"],
        )
    # A sum is NaN or infinite where any value is, for a fraction of a full isfinite pass; it may overflow on its own,
    # so the full pass decides.
    if not torch.isfinite(values.sum()) and not torch.isfinite(values).all():
        for place, index in batch.items():
            if not torch.isfinite(values[place]).all():
                _refuse_nan(job, patches[place], index)
    return values


def _refuse_nan(job: Job, patch: torch.Tensor, index: tuple[int, ...]) -> None:
    import torch

    where = f"patch {job.lattice.patch_box(index)}"
    if not torch.isfinite(patch).all():
        raise VolumeError(
            f"The volume holds NaN or infinite voxels in {where}.",
            "A network spreads them over its whole context.",
            ["fill them: volume.fillna(0)", "leave that part out: volume.isel(z=slice(0, 100))"],
        )
    raise OutputError(
        f"The network returned NaN or infinite values for {where}, whose input is finite.",
        "Usually the input is scaled otherwise than in training, or reduced precision overflows.",
        ["check normalize=(offset, scale) against training", "check the weights: a diverged training leaves NaN"],
    )


def _accumulator(job: Job, out: Box) -> torch.Tensor:
    """Where patches meet: float32 (float64 for networks in double precision), on the device."""
    import torch

    kind = torch.float64 if job.compute == np.float64 else torch.float32
    make = torch.empty if job.lattice.exact else torch.zeros  # every voxel of an exact block is written once
    return make((job.channels_out, *out.shape), dtype=kind, device=job.device)


def _keep(job: Job, result: torch.Tensor, out: Box, index: tuple[int, ...], value: torch.Tensor) -> None:
    """Put a patch's clean zone, or add its weighted values, where they belong in the block."""
    import torch

    box = job.lattice.owned_box(index) & out
    target = result[(slice(None), *box.relative_to(out.start).slices)]
    local = box.relative_to(job.lattice.origin(index))
    source = value[(slice(None), *local.slices)]
    if job.lattice.exact:
        target.copy_(source)
        return
    source = source.to(result.dtype, copy=True)
    for d, (axis, k, part) in enumerate(zip(job.lattice.axes, index, local.slices, strict=True)):
        weights = torch.from_numpy(axis_weights(job.window, axis, k)[part].copy())
        shape = [1] * source.ndim
        shape[1 + d] = -1
        source.mul_(weights.to(result).reshape(shape))
    target.add_(source)


def _convert(job: Job, result: torch.Tensor, out: Box) -> Array:
    """The result in the dtype asked for, on the host."""
    import torch

    if job.dtype == np.uint8 and result.numel():
        low, high = (float(v) for v in torch.aminmax(result))
        if low < -1e-3 or high > 1 + 1e-3:
            raise OutputError(
                f"The network's output in {out} lies in [{low:.4g}, {high:.4g}], and dtype='uint8' stores [0, 1].",
                "Usually the network ends without a sigmoid and returns logits.",
                ["end it with one: torch.nn.Sequential(model, torch.nn.Sigmoid())", "leave dtype= out"],
            )
        result = result.mul_(255).round_().clamp_(0, 255).to(torch.uint8)
    if result.device.type == "cuda":
        host = torch.empty(result.shape, dtype=result.dtype, pin_memory=True)
        host.copy_(result, non_blocking=True)
        torch.cuda.current_stream().synchronize()
        result = host
    return result.numpy().astype(job.dtype, copy=False)
