"""A GPU for each of several workers on one node: ``dask worker --preload chunkinfer.tools.clusters.one_gpu``.

The node's GPUs are those of CUDA_VISIBLE_DEVICES, as SLURM and `local` set it; the number at the end of a worker's name
says which of them it takes. It must happen before the process first looks for a GPU, so before any task.
"""

from __future__ import annotations

import os
import re
from typing import Any

VARIABLE = "CUDA_VISIBLE_DEVICES"


def own(visible: str, name: str) -> str:
    """The one of the visible GPUs that the worker of this name takes."""
    gpus = [gpu.strip() for gpu in visible.split(",") if gpu.strip()]
    number = re.search(r"\d+$", name)
    return gpus[int(number.group()) % len(gpus)] if gpus and number else visible


def dask_setup(worker: Any) -> None:
    """Called by dask in the worker's process when it starts."""
    if visible := os.environ.get(VARIABLE):
        os.environ[VARIABLE] = own(visible, str(worker.name))
