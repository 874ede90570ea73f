"""The device: which one, who may use it, and with how many threads."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from chunkinfer.errors import DeviceError
from chunkinfer.support.allocator import give_back

T = TypeVar("T")

SLOTS_PER_GPU = 2
"""Blocks in flight per GPU: one computes while another reads or writes."""

_threads: dict[tuple[str, int], KernelThreads] = {}
_lock = threading.Lock()


class KernelThreads:
    """The threads of this process in which kernels run: whoever holds a place has one, others wait, whatever the
    threads of the worker.

    Kernels have threads of their own because an allocator keeps what each thread freed: with as many as there are
    blocks in flight, the ones that read and write would keep the memory of a kernel too.
    """

    def __init__(self, kernels: int) -> None:
        self.places = threading.BoundedSemaphore(kernels)
        self._pool = ThreadPoolExecutor(kernels, "chunkinfer-kernel")

    def run(self, kernel: Callable[[], T]) -> T:
        """Run a kernel in one of the threads; the caller holds a place."""
        try:
            return self._pool.submit(kernel).result()
        finally:
            give_back()


def cores() -> int:
    """CPU cores that this process may use: of its affinity, and of its container's share."""
    from dask.system import CPU_COUNT

    return int(min(CPU_COUNT, len(os.sched_getaffinity(0)))) if hasattr(os, "sched_getaffinity") else int(CPU_COUNT)


def resolve_device(device: str | None) -> str:
    """The one form of ``device=``: ``"cpu"`` or ``"cuda"``; None takes CUDA where this machine has it.

    A run may have many GPUs: which of them a worker uses is the worker's own affair (CUDA_VISIBLE_DEVICES), so an
    index is refused.
    """
    import torch

    if device is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device not in ("cpu", "cuda"):
        raise DeviceError(
            f"device={device!r} is not known here.",
            "A run names the type of its devices; each worker has one of them.",
            ['device="cpu" or device="cuda"', "start one worker per GPU with CUDA_VISIBLE_DEVICES=0, 1, ..."],
        )
    return device


def device_memory(device: str) -> int | None:
    """Bytes of this process's GPU; None on a CPU, or where this process sees none."""
    import torch

    if device == "cpu" or not torch.cuda.is_available():
        return None
    return int(torch.cuda.mem_get_info()[1])


def require_device(device: str) -> None:
    """Raise `DeviceError` where this process has no such device."""
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise DeviceError(
            'The run asks for device="cuda", and this process sees no CUDA device.',
            "A plain .compute() places kernels on any worker; only save() sends them where workers declare GPU.",
            [
                'store the result with save(result, "output.zarr") on workers started with --resources "GPU=1"',
                'infer(volume, model, device="cpu")',
            ],
        )


def kernel_threads(device: str, kernels: int) -> KernelThreads:
    """The threads of this process's device, for ``kernels`` kernels at a time."""
    with _lock:
        key = (device, kernels)
        if key not in _threads:
            _threads[key] = KernelThreads(kernels)
        return _threads[key]


def set_threads(threads: int) -> None:
    """Give the calling thread's kernels a fixed number of intra-op threads: results differ in the last bits between
    numbers, and a nanny's workers start with one whatever the machine has."""
    import torch

    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)
