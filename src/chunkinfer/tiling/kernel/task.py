"""Inference as a lazy dask array: one task per block, which reads its own halo; or halos exchanged by map_overlap.

Both ways run the same kernel on the same patches, so they give the same bits.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Any

import dask.array as da
import numpy as np
from numpy.typing import NDArray

from chunkinfer.errors import ChunkinferError, DeviceError
from chunkinfer.geometry.boxes import BlockGrid, Box
from chunkinfer.networks.engines.contract import Setup
from chunkinfer.networks.engines.opening import open_network
from chunkinfer.networks.model import Model
from chunkinfer.support.device import KernelThreads, cores, kernel_threads, require_device
from chunkinfer.support.payload import Payload
from chunkinfer.support.timing import computed_by, count, stage
from chunkinfer.tiling.kernel.block import launch, run_block
from chunkinfer.tiling.kernel.block_task import BlockTask
from chunkinfer.tiling.kernel.job import Job
from chunkinfer.tiling.kernel.self_check import check_block
from chunkinfer.tiling.kernel.skip import blank
from chunkinfer.tiling.kernel.transfer import transfers
from chunkinfer.volumes.derived import as_declared
from chunkinfer.volumes.lazy import Reader
from chunkinfer.volumes.masks import Mask


@dataclass(frozen=True)
class Network:
    """A model, its engine, its job and its blocks: what a task does to the voxels it read."""

    model: Model
    engine: str
    """What runs the model."""
    precision: str
    """fp32, bf16 or fp16 inside the network."""
    job: Job
    grid: BlockGrid
    """Blocks of the output over the spatial axes."""
    mask: Mask | None = None
    """Output voxels that are wanted."""
    misfit: ChunkinferError | None = None
    """Why this must not run: it takes more memory than there is, or changes more than it may."""
    cpu_engine: str | None = None
    """What computes, in fp32 on a CPU, on workers that declare no GPU; None: the same as everywhere."""
    checked: frozenset[int] = frozenset()
    """Numbers of the blocks of which a part is computed again and compared."""

    def __call__(self, out: Box, read: Callable[[], tuple[NDArray[Any], Box]]) -> NDArray[Any]:
        """Compute an output block; waits for a place on the process's device.

        Parameters
        ----------
        out
            The block, in output voxels.
        read
            Gives the block's haloed input (c, *space) and its box; not called where the mask wants nothing.
        """
        if self.misfit is not None:
            raise self.misfit
        keep = None if self.mask is None else self.mask(out)
        if keep is not None and not keep.any():
            skipped = sum(1 for _ in self.job.lattice.touching(out))
            _count(skipped, skipped)
            return blank(self.job, out)
        task = BlockTask.of(self.job, *read(), out, keep)
        patches, skipped = len(task.selection.patches), task.selection.skipped
        _count(patches + skipped, skipped)
        return self._here()._computed(task) if patches else blank(self.job, out)

    def check(self, block: NDArray[Any], number: int, out: Box, read: Callable[[Box], NDArray[Any]]) -> None:
        """Compute a part of a block again, if it is one of those, and compare: `chunkinfer.tiling.kernel.self_check`.

        Parameters
        ----------
        block, number, out
            What was computed, its number in the grid, and its box in output voxels.
        read
            Gives the stored voxels (channels, *space) of an input box inside the volume.

        Raises
        ------
        NotExact
            They differ by more than round-off.
        """
        if number not in self.checked or self.job.empty is not None:
            return
        keep, within = None, None
        if self.mask is not None:  # what nobody wants is never read, and may not even be stored
            keep, within = self.mask(out), self.job.lattice.seen(out)
            if not keep.any():
                return

        def again(task: BlockTask) -> NDArray[Any]:
            return replace(self, job=task.job, mask=None, checked=frozenset())._here()._computed(task)

        check_block(self.job, block, out, read, again, self.precision, self.model.kind == "function", keep, within)

    def _here(self) -> Network:
        """What this worker computes with: where it declares no GPU, it may be another engine."""
        if self.cpu_engine is None or worker_resources().get("GPU"):
            return self
        job = replace(self.job, device="cpu")
        return replace(self, engine=self.cpu_engine, precision="fp32", job=job, cpu_engine=None)

    def _computed(self, task: BlockTask) -> NDArray[Any]:
        job = self.job
        task = replace(task, job=job)  # which may be computed elsewhere than planned
        try:
            require_device(job.device)
        except DeviceError as error:
            error.worker = worker_address()  # so that the block is moved
            raise
        computed_by(self.engine)
        kernels = kernels_here(job)
        network = open_network(self.model, self._setup(kernels), self.engine)
        threads = kernel_threads(job.device, kernels)
        if job.device == "cpu":
            with _place(threads):
                return threads.run(partial(run_block, network, task))
        moving = transfers(job.device)  # copies run while other blocks hold the place
        with stage("upload"):
            uploaded = moving.upload(task.data)
        with _place(threads):
            started, computed = threads.run(partial(launch, moving, uploaded, network, task))
        with stage("download"):
            return started.arrived(moving.download(computed))

    def _setup(self, kernels: int) -> Setup:
        job = self.job
        patch = (job.batch, job.channels_in, *job.lattice.patch)
        return Setup(patch, job.device, job.threads, kernels, job.compute.name, self.precision)


@contextmanager
def _place(threads: KernelThreads) -> Iterator[None]:
    """A place on the device, and the time until there is one."""
    with stage("wait"):
        threads.places.acquire()
    try:
        with stage("compute"):
            yield
    finally:
        threads.places.release()


def _count(patches: int, skipped: int) -> None:
    count("patches", patches)
    count("patches_skipped", skipped)


def kernels_here(job: Job) -> int:
    """Kernels that may run at a time in this process: as many as the worker declares GPUs, one where it declares none
    and the device is one, otherwise as many as its cores allow."""
    declared = worker_resources().get("GPU", 0)
    if declared:
        return max(1, int(declared))
    return 1 if job.device == "cuda" else max(1, cores() // job.threads)


def worker_resources() -> dict[str, float]:
    """Resources that the dask worker of this task declares; empty outside of one."""
    worker = _worker()
    return {} if worker is None else dict(worker.state.total_resources)


def worker_address() -> str:
    """Address of the dask worker of this task; empty outside of one."""
    worker = _worker()
    return "" if worker is None else str(worker.address)


def _worker() -> Any:
    if "distributed" not in sys.modules:
        return None
    from distributed import get_worker

    try:
        return get_worker()
    except ValueError:
        return None


def infer_reading(volume: Payload, network: Payload, name: str) -> da.Array:
    """One task per block: it reads its haloed box and runs the kernel.

    Parameters
    ----------
    volume
        Holds a `Reader`.
    network
        Holds a `Network`.
    name
        Of the dask array.
    """
    run: Network = network.open()
    job = run.job
    result: da.Array = da.map_blocks(
        _read_and_run,
        volume.delayed(),
        network.delayed(),
        chunks=((job.channels,), *run.grid.sizes),
        dtype=job.dtype,
        meta=np.empty((0,) * (1 + len(run.grid.sizes)), job.dtype),
        name=name,
    )
    return result


def infer_exchanging(
    array: da.Array, channels: bool, network: Payload, halo: tuple[tuple[int, int], ...], name: str
) -> da.Array:
    """Blocks exchange halos through ``da.map_overlap``: where a block cannot read the volume again.

    Parameters
    ----------
    array
        The volume, (channels, *space) or (*space).
    channels
        Whether the first axis holds channels.
    network
        Holds a `Network` whose blocks are not thinner than the halo.
    halo
        Extra input voxels, low and high, of each spatial axis.
    name
        Of the dask array.
    """
    run: Network = network.open()
    job, grid = run.job, run.grid
    array = as_declared(array)
    if not channels:
        array = array[np.newaxis]
    cuts = []
    for edges, axis in zip(grid.edges, job.lattice.axes, strict=True):
        # Where an output voxel starts inside an input voxel, as in super-resolution, that voxel goes up; the last block
        # takes what a valid network crops.
        starts = [*(int(e * axis.stride) for e in edges[:-1]), axis.size]
        cuts.append(tuple(b - a for a, b in pairwise(starts)))
    array = array.rechunk((array.shape[0], *cuts))
    depth = {0: 0} | {d + 1: pair for d, pair in enumerate(halo)}
    result: da.Array = da.map_overlap(
        _run_on,
        array,
        depth=depth,
        boundary="none",
        trim=False,
        allow_rechunk=False,
        chunks=((job.channels,), *grid.sizes),
        dtype=job.dtype,
        meta=np.empty((0,) * array.ndim, job.dtype),
        network=network.delayed(),
        halo=halo,
        name=name,
    )
    return result


def _read_and_run(volume: Payload, network: Payload, block_id: tuple[int, ...] = ()) -> NDArray[Any]:
    run: Network = network.open()
    out = run.grid.box(block_id[1:])
    reader: Reader = volume.open()

    def read() -> tuple[NDArray[Any], Box]:
        seen = run.job.lattice.seen(out)
        return reader(seen), seen

    block = run(out, read)
    run.check(block, run.grid.ravel(block_id[1:]), out, reader)
    return block


def _run_on(
    data: NDArray[Any], network: Payload, halo: tuple[tuple[int, int], ...], block_id: tuple[int, ...] = ()
) -> NDArray[Any]:
    run: Network = network.open()
    out = run.grid.box(block_id[1:])
    start = tuple(
        max(0, int(a * axis.stride) - low)
        for a, axis, (low, _) in zip(out.start, run.job.lattice.axes, halo, strict=True)
    )
    seen = Box(start, tuple(s + n for s, n in zip(start, data.shape[1:], strict=True)))
    return run(out, lambda: (np.asarray(data), seen))
