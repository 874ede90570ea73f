"""A block's computation: gather patches, run, blend or crop, convert."""

from chunkinfer.kernel.block import Network, launch, run_block, run_selected
from chunkinfer.kernel.device import KernelThreads, cores, device_memory, kernel_threads, require_device, resolve_device
from chunkinfer.kernel.job import Job
from chunkinfer.kernel.normalize import Affine, Normalize, resolve_normalize, scaled
from chunkinfer.kernel.outputs import ACTIVATIONS, Output, describe_function, resolve_output
from chunkinfer.kernel.skipping import Selection, blank, resolve_empty, resolve_fill, select
from chunkinfer.kernel.transfer import transfers
from chunkinfer.kernel.windows import WINDOWS

__all__ = [
    "ACTIVATIONS",
    "WINDOWS",
    "Affine",
    "Job",
    "KernelThreads",
    "Network",
    "Normalize",
    "Output",
    "Selection",
    "blank",
    "cores",
    "describe_function",
    "device_memory",
    "kernel_threads",
    "launch",
    "require_device",
    "resolve_device",
    "resolve_empty",
    "resolve_fill",
    "resolve_normalize",
    "resolve_output",
    "run_block",
    "run_selected",
    "scaled",
    "select",
    "transfers",
]
