"""A block's computation: gather patches, run, blend or crop, convert."""

from chunkinfer.kernel.block import Network, run_block
from chunkinfer.kernel.device import cores, device_memory, kernel_threads, require_device, resolve_device
from chunkinfer.kernel.job import Job
from chunkinfer.kernel.normalize import Affine, Normalize, resolve_normalize
from chunkinfer.kernel.windows import WINDOWS

__all__ = [
    "WINDOWS",
    "Affine",
    "Job",
    "Network",
    "Normalize",
    "cores",
    "device_memory",
    "kernel_threads",
    "require_device",
    "resolve_device",
    "resolve_normalize",
    "run_block",
]
