"""What a block's computation needs to know, beside the network and the voxels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from chunkinfer.geometry import PatchLattice
from chunkinfer.kernel.normalize import Normalize


@dataclass(frozen=True)
class Job:
    """The settings of a kernel: with the network they fix every bit of the result."""

    lattice: PatchLattice
    """Where the patches lie."""
    window: str
    """Name of the blending window; without meaning for exact tiling."""
    normalize: Normalize
    """From stored values to the network's."""
    channels_in: int
    """Channels that the network takes."""
    channels_out: int
    """Channels that the network gives."""
    compute: np.dtype[Any]
    """Floating-point type in which the network runs: float32, or float64 for a network in double precision."""
    dtype: np.dtype[Any]
    """Of the result; uint8 quantises [0, 1]."""
    batch: int
    """Patches per forward pass; batches that a block leaves short are filled, because bits differ between sizes."""
    device: str
    """cpu or cuda."""
    threads: int
    """Intra-op threads of one kernel on a CPU."""
    autocast: str | None = None
    """bfloat16 or float16 inside the network, accumulation in float32; None computes in ``compute``."""
