"""The block kernel: gather patches, run the network, keep clean zones or blend, convert."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from chunkinfer.errors import OutputError
from chunkinfer.geometry.boxes import Box
from chunkinfer.support.device import set_threads
from chunkinfer.tiling.kernel import host_canvas
from chunkinfer.tiling.kernel.canvas import Batch, Canvas, Index
from chunkinfer.tiling.kernel.device_canvas import DeviceCanvas
from chunkinfer.tiling.kernel.host_canvas import HostCanvas
from chunkinfer.tiling.kernel.job import Job
from chunkinfer.tiling.kernel.skip import Flags, Selection, blank, select
from chunkinfer.tiling.kernel.transfer import OnDevice, Transfers, transfers

if TYPE_CHECKING:
    import torch

Array = NDArray[Any]
Network = Callable[["torch.Tensor"], "torch.Tensor"]


def run_block(
    job: Job,
    network: Network,
    data: Array,
    seen: Box,
    out: Box,
    keep: Flags | None = None,
) -> Array:
    """Compute one output block.

    Parameters
    ----------
    job
        Lattice and settings.
    network
        Takes and returns (n, c, *space) tensors on the job's device. A result need only hold until the calling thread's
        next call.
    data
        The block with its halo, (channels, *space), in the volume's own dtype.
    seen
        The box of ``data``, in input voxels of the volume; contains ``job.lattice.seen(out)``.
    out
        The block, in output voxels of the volume.
    keep
        Output voxels of the block, (*space), that are wanted; None: all. Others, and those that only empty patches
        contribute to, hold ``job.fill``. Patches without a wanted voxel do not run.

    Returns
    -------
    numpy.ndarray
        (job.channels, *space) of ``job.dtype``; the caller's own.

    Raises
    ------
    OutputError
        The network returned NaN, another shape than it was traced with, or values that uint8 cannot hold.
    VolumeError
        The volume holds NaN.
    """
    return run_selected(job, network, data, seen, out, select(job, data, seen, out, keep))


def run_selected(job: Job, network: Network, data: Array, seen: Box, out: Box, selection: Selection) -> Array:
    """`run_block` for patches that were selected before."""
    if not selection.patches:
        return blank(job, out)
    if host_canvas.serves(job):
        return selection.fill(_on_host(job, network, data, seen, out, selection), job.fill)
    moving = transfers(job.device)
    started, computed = launch(moving, moving.upload(data), job, network, seen, out, selection)
    return started.arrived(moving.download(computed))


def launch(
    moving: Transfers, uploaded: OnDevice, job: Job, network: Network, seen: Box, out: Box, selection: Selection
) -> tuple[Started, OnDevice]:
    """Compute an uploaded block on the calling thread's stream, to the end: its place is another block's then."""
    with moving.compute_stream():
        started = start_block(job, network, moving.ready(uploaded), seen, out, selection)
        computed = moving.done(started.tensor)
    computed.wait()
    return started, computed


@dataclass(frozen=True)
class Started:
    """A block that a device was given to compute."""

    tensor: torch.Tensor
    """(job.channels, *space) on the device."""
    job: Job
    selection: Selection
    check: Callable[[], None]
    """Raises `OutputError` or `VolumeError`; waits for the device."""

    def arrived(self, array: Array) -> Array:
        """The finished block of what was downloaded, checked."""
        self.check()
        return self.selection.fill(array.astype(self.job.dtype, copy=False), self.job.fill)


def start_block(job: Job, network: Network, data: torch.Tensor, seen: Box, out: Box, selection: Selection) -> Started:
    """Give a block to a device; the parameters are those of `run_block`, with ``data`` on the device.

    The host waits for nothing, if the network doesn't.
    """
    import torch

    if job.device == "cpu":
        set_threads(job.threads)
    with torch.inference_mode():
        canvas = DeviceCanvas(job, data, seen, out, not selection.skipped)
        _run(job, network, canvas, selection.patches)
        tensor, check = canvas.finish()
    return Started(tensor, job, selection, check)


def _on_host(job: Job, network: Network, data: Array, seen: Box, out: Box, selection: Selection) -> Array:
    import torch

    set_threads(job.threads)
    with torch.inference_mode():
        canvas = HostCanvas(job, data, seen, out, not selection.skipped)
        _run(job, network, canvas, selection.patches)
        return canvas.finish()


def _run(job: Job, network: Network, canvas: Canvas, patches: Iterable[Index]) -> None:
    for batch in _batches(job, patches):
        canvas.put(_values(job, network, canvas.gather(batch), batch), batch)


def _batches(job: Job, patches: Iterable[Index]) -> Iterator[Batch]:
    """The patches of a block, in the order of the lattice, which fixes the order of accumulation.

    A patch's place in its batch follows from its place in the lattice, never from the block: elementwise kernels treat
    the last few values of a tensor by other instructions, so the same patch has other last bits in another place.
    Places that a block leaves empty are filled.
    """
    batch: Batch = {}
    for index in patches:
        place = sum(index) % job.batch
        if place in batch:
            yield batch
            batch = {}
        batch[place] = index
    if batch:
        yield batch


def _values(job: Job, network: Network, patches: torch.Tensor, batch: Batch) -> torch.Tensor:
    """What meets on the canvas: the network's output on a batch, activated, of the compute type."""
    import torch

    values = network(patches)
    expected = (job.batch, job.channels_out, *(a.patch_output for a in job.lattice.axes))
    if tuple(values.shape) != expected:
        raise OutputError(
            f"The network returned {tuple(values.shape)} for patch "
            f"{job.lattice.patch_box(next(iter(batch.values())))}; {expected} was traced.",
            "Its output depends on more than the size of its input.",
            ["compare its output on patches of this size", "trace it anew: ci.plan(volume, model)"],
        )
    return job.output.on_patch(values.to(getattr(torch, job.compute.name)))
