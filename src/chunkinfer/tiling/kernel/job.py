"""What a block's computation needs to know, beside the network and the voxels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from chunkinfer.geometry.lattice import PatchLattice
from chunkinfer.tiling.kernel.normalize import Normalize
from chunkinfer.tiling.kernel.outputs import AS_IT_IS, Output


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
    """Of the result; uint8 quantises [0, 1], unless the output is classes or 0 and 1."""
    batch: int
    """Patches per forward pass; batches that a block leaves short are filled, because bits differ between sizes."""
    device: str
    """cpu or cuda."""
    threads: int
    """Intra-op threads of one kernel on a CPU."""
    output: Output = AS_IT_IS
    """What is made of the network's values."""
    empty: float | str | None = None
    """Patches that hold nothing: all stored voxels equal this number, or each other ("constant"); None: no patch."""
    fill: float = 0
    """Stored where nothing is computed: outside a mask, and where all patches are empty. As stored: 0 ... 255 where the
    result is quantised."""

    @property
    def channels(self) -> int:
        """Channels of the result."""
        return self.output.channels_of(self.channels_out)

    @property
    def blended_channels(self) -> int:
        """Channels where patches meet."""
        return self.output.blended_channels(self.channels_out)

    @property
    def quantised(self) -> bool:
        """Whether [0, 1] is stored as 0 ... 255."""
        return self.dtype == np.uint8 and not self.output.decides
