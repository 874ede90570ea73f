"""One block to compute, as a value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

from numpy.typing import NDArray

from chunkinfer.geometry.boxes import Box
from chunkinfer.tiling.kernel.job import Job
from chunkinfer.tiling.kernel.skip import Flags, Selection, select


@dataclass(frozen=True, eq=False)
class BlockTask:
    """A block of the output with the voxels that it is computed from."""

    job: Job
    """Lattice and settings."""
    data: NDArray[Any]
    """The block's input with its halo, (channels, *space), in the volume's own dtype."""
    input_box: Box
    """Box of ``data``, in input voxels of the volume; contains ``job.lattice.seen(output_box)``."""
    output_box: Box
    """Box of the block, in output voxels of the volume."""
    selection: Selection
    """Patches that run."""

    @classmethod
    def of(cls, job: Job, data: NDArray[Any], input_box: Box, output_box: Box, keep: Flags | None = None) -> Self:
        """The task of a block.

        Parameters
        ----------
        job, data, input_box, output_box
            As the attributes of these names.
        keep
            Output voxels of the block, (*space), that are wanted; None: all. Others, and those that only empty patches
            contribute to, hold ``job.fill``. Patches without a wanted voxel do not run.
        """
        return cls(job, data, input_box, output_box, select(job, data, input_box, output_box, keep))
