"""The block kernel: gather patches, run the network, keep clean zones or blend, convert."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from chunkinfer.errors import OutputError
from chunkinfer.support.device import set_threads
from chunkinfer.tiling.kernel import host_canvas
from chunkinfer.tiling.kernel.block_task import BlockTask
from chunkinfer.tiling.kernel.canvas import Batch, Canvas, Index
from chunkinfer.tiling.kernel.device_canvas import DeviceCanvas
from chunkinfer.tiling.kernel.host_canvas import HostCanvas
from chunkinfer.tiling.kernel.job import Job
from chunkinfer.tiling.kernel.skip import Selection, blank
from chunkinfer.tiling.kernel.transfer import OnDevice, Transfers, transfers

if TYPE_CHECKING:
    import torch

Array = NDArray[Any]
Network = Callable[["torch.Tensor"], "torch.Tensor"]


def run_block(network: Network, task: BlockTask) -> Array:
    """Compute one output block.

    Parameters
    ----------
    network
        Takes and returns (n, c, *space) tensors on the job's device. A result need only hold until the calling thread's
        next call.
    task
        The block.

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
    job, selection = task.job, task.selection
    if not selection.patches:
        return blank(job, task.output_box)
    if host_canvas.serves(job):
        return selection.fill(_on_host(network, task), job.fill)
    moving = transfers(job.device)
    started, computed = launch(moving, moving.upload(task.data), network, task)
    return started.arrived(moving.download(computed))


def launch(moving: Transfers, uploaded: OnDevice, network: Network, task: BlockTask) -> tuple[Started, OnDevice]:
    """Compute an uploaded block on the calling thread's stream, to the end: its place is another block's then."""
    with moving.compute_stream():
        started = start_block(network, task, moving.ready(uploaded))
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


def start_block(network: Network, task: BlockTask, data: torch.Tensor) -> Started:
    """Give a block to a device, whose memory holds its ``data``.

    The host waits for nothing, if the network doesn't.
    """
    import torch

    job = task.job
    if job.device == "cpu":
        set_threads(job.threads)
    with torch.inference_mode():
        canvas = DeviceCanvas(task, data)
        _run(job, network, canvas, task.selection.patches)
        tensor, check = canvas.finish()
    return Started(tensor, job, task.selection, check)


def _on_host(network: Network, task: BlockTask) -> Array:
    import torch

    set_threads(task.job.threads)
    with torch.inference_mode():
        canvas = HostCanvas(task)
        _run(task.job, network, canvas, task.selection.patches)
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
