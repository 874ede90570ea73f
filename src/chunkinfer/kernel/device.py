"""The device: which one, who may use it, and with how many threads."""

from __future__ import annotations

import os
import threading

from chunkinfer.errors import DeviceError

_places: dict[tuple[str, int], threading.BoundedSemaphore] = {}
_lock = threading.Lock()


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


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


def device_places(device: str, kernels: int) -> threading.BoundedSemaphore:
    """The places on this process's device: whoever holds one of ``kernels`` may run, others wait, whatever the threads
    of the worker."""
    with _lock:
        return _places.setdefault((device, kernels), threading.BoundedSemaphore(kernels))


def set_threads(threads: int) -> None:
    """Give the calling thread's kernels a fixed number of intra-op threads: results differ in the last bits between
    numbers, and a nanny's workers start with one whatever the machine has."""
    import torch

    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)
