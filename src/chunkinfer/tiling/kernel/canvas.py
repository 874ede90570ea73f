"""Where the patches of a block meet: the interface of two implementations, and what both share.

`HostCanvas` runs loops of ours over memory of the host, `DeviceCanvas` operators of torch on any device. On one device
both give the same bits: the same operations on float32, in the same order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from chunkinfer.errors import OutputError, VolumeError
from chunkinfer.geometry.boxes import Box
from chunkinfer.tiling.kernel.job import Job

if TYPE_CHECKING:
    import torch

Array = NDArray[Any]
Index = tuple[int, ...]
Batch = dict[int, Index]
"""Place in the batch -> index of the patch in the lattice."""

LOWEST, HIGHEST = -1e-3, 1 + 1e-3
"""What a network that ends in [0, 1] may return by round-off."""


class Canvas(Protocol):
    """One block while it is computed."""

    def gather(self, batch: Batch) -> torch.Tensor:
        """The normalised voxels of a batch, (n, c, *space) of the compute type; valid until the next call.

        Beyond the volume's end the last voxel is repeated (far padding); places without a patch repeat another patch.
        """
        ...

    def put(self, values: torch.Tensor, batch: Batch) -> None:
        """Keep the clean zones of a batch's values (n, c, *space), or add them with their weights.

        Nothing refers to ``values`` afterwards, except work that the device was given.
        """
        ...


def patch_start(job: Job, input_box: Box, index: Index) -> Index:
    """Where a patch starts in the block's input."""
    return job.lattice.patch_box(index).relative_to(input_box.start).start


def stored_patch(job: Job, data: Array, input_box: Box, index: Index) -> Array:
    """A patch's stored voxels (c, *space), far-padded; an array of its own in C order.

    In C order for every block: the last bits of a caller's function may depend on how an array lies in memory.
    """
    inside = data[(slice(None), *job.lattice.patch_box(index).relative_to(input_box.start).slices)]
    missing = [(0, want - have) for want, have in zip(job.lattice.patch, inside.shape[1:], strict=True)]
    return np.pad(inside, [(0, 0), *missing], mode="edge") if any(n for _, n in missing) else inside.copy("C")


def zone(job: Job, index: Index, output_box: Box) -> tuple[Box, Box]:
    """What a patch contributes to a block: the box in the volume's output voxels, and the same in the patch's own."""
    box = job.lattice.owned_box(index) & output_box
    return box, box.relative_to(job.lattice.origin(index))


def refuse_not_finite(canvas: Canvas, job: Job, index: Index) -> None:
    """Raise the error of a patch that gave NaN or infinite values: its voxels' fault, or the network's."""
    import torch

    place = sum(index) % job.batch
    where = f"patch {job.lattice.patch_box(index)}"
    if not torch.isfinite(canvas.gather({place: index})[place]).all():
        raise VolumeError(
            f"The volume holds NaN or infinite voxels in {where}.",
            "A network spreads them over its whole context.",
            [
                "fill them: volume.fillna(0), or of an array numpy.nan_to_num(volume)",
                "leave that part out: volume.isel(x=slice(0, 100))",
            ],
        )
    raise OutputError(
        f"The network returned NaN or infinite values for {where}, whose input is finite.",
        "Usually the input is scaled otherwise than in training, or reduced precision overflows.",
        ["check normalize=(offset, scale) against training", "check the weights: a diverged training leaves NaN"],
    )


def refuse_range(where: Box, low: float, high: float) -> None:
    """Raise the error of values that uint8 cannot hold."""
    raise OutputError(
        f"The network's output in {where} lies in [{low:.4g}, {high:.4g}], and dtype='uint8' stores [0, 1].",
        "Usually the network ends without a sigmoid and returns logits.",
        ['end it with one: infer(volume, model, activation="sigmoid")', "leave dtype= out"],
    )
