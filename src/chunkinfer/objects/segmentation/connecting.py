"""connected_components of a volume of any size."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chunkinfer.errors import PlanError, VolumeError
from chunkinfer.geometry.boxes import Box
from chunkinfer.objects.segmentation.components import Components, components_join, components_step
from chunkinfer.objects.segmentation.graph import Labels
from chunkinfer.objects.segmentation.joining import Renames
from chunkinfer.objects.segmentation.reducing import Tree
from chunkinfer.objects.segmentation.result import Segmentation
from chunkinfer.objects.segmentation.running import passes_in
from chunkinfer.runs.events import Subscriber
from chunkinfer.runs.passes import Table
from chunkinfer.runs.run import Where
from chunkinfer.support.tokens import keep_tokens
from chunkinfer.volumes.kinds import in_three_axes


def connected_components(
    volume: Any,
    url: str | os.PathLike[str] | None = None,
    *,
    connectivity: int = 6,
    multilabel: bool | None = None,
    dust_size: int = 0,
    block: Sequence[int] | None = None,
    overwrite: bool = False,
    client: Any = None,
    progress: bool | None = None,
    events: Sequence[Subscriber] = (),
) -> Segmentation:
    """Number the connected parts of a volume, the same for every cut into blocks.

    Parameters
    ----------
    volume
        (z, y, x), or with one channel: voxels that are not 0 are connected. Floating-point values are 0 or 1.
    url
        A folder for what is computed, as for `segment`.
    connectivity
        6: neighbours share a face; 18: or an edge; 26: or a corner.
    multilabel
        Whether voxels of different values are not connected; by default for volumes of the type "segmentation".
    dust_size
        Components of fewer voxels become background.
    block, overwrite, client, progress, events
        As for `segment`.

    Returns
    -------
    Segmentation
        Its labels are 1 + the least linear index of a component's voxels; `Segmentation.consecutive` numbers them
        1, 2, ... in the order of `scipy.ndimage.label`. Its region graph is empty.

    Raises
    ------
    VolumeError
        The volume has several channels, or fewer axes than three; or holds floating-point values other than 0 and 1.
    PlanError
        Another connectivity.
    RunError, RunPaused
        As for `save`.
    """
    found = in_three_axes(volume, "volume")
    if len(found.frame.space) != 3 or (found.channels and found.array.shape[0] != 1):
        raise VolumeError(
            f"{found.dims} {found.array.shape} is not one volume along z, y and x.",
            "Components of several channels would be several segmentations.",
            ["connected_components(volume[0])", "connected_components(chunkinfer.operators.argmax(volume))"],
        )
    if connectivity not in (6, 18, 26):
        raise PlanError(
            f"connectivity={connectivity} is not 6, 18 or 26.",
            "It is the number of a voxel's neighbours in three dimensions.",
            ["connected_components(volume, connectivity=6)", "connected_components(volume, connectivity=26)"],
        )
    many = found.attrs.get("type") == "segmentation" if multilabel is None else multilabel
    cut = Connects(found.space_shape, connectivity, many)
    about = {"connectivity": connectivity, "multilabel": many}
    call = {**about, "block": block}
    with passes_in(url, found, call, overwrite, Where(client, progress, events)) as passes:
        blocks, fragments = passes.cut("components", cut, about, block)
        tree = Tree(blocks.grid.counts)
        joins = JoinsComponents(found.space_shape, connectivity)
        up = passes.up(tree, blocks, joins)
        down = passes.down(tree, blocks, up, joins)
    return Segmentation(tuple(down), up[-1], fragments, blocks.grid, found.frame, None, dust_size, passes.reports)


def _check_mask(voxels: NDArray[Any], box: Box) -> None:
    """Refuse floating-point values that are no mask: nearly all of a map of probabilities is not 0."""
    wrong = (voxels != 0) & (voxels != 1)
    if wrong.any():
        inside = np.unravel_index(np.argmax(wrong), wrong.shape)
        place = tuple(a + int(i) for a, i in zip(box.start, inside, strict=True))
        raise VolumeError(
            f"Voxel {place} (z, y, x) is {float(voxels[inside]):.4g}, and a mask of {voxels.dtype} holds 0 and 1.",
            "All voxels that are not 0 would be one component, and of probabilities few are 0.",
            ["connected_components(volume > 0.5)", "connected_components(volume != 0)"],
        )


@dataclass(frozen=True)
class Connects:
    """Cuts a block into its components."""

    shape: tuple[int, ...]
    connectivity: int
    multilabel: bool

    @property
    def halo(self) -> tuple[int, int]:
        """None: faces are compared by their tables."""
        return 0, 0

    def cut(self, block: NDArray[Any], box: Box) -> tuple[NDArray[np.uint32], Table]:
        """See `components.components_step`."""
        voxels = block.reshape(box.shape)
        if voxels.dtype.kind == "f":
            _check_mask(voxels, box)
        fragments, table = components_step(voxels, box, self.shape, self.connectivity, self.multilabel)
        return fragments, table.arrays()


@dataclass(frozen=True)
class JoinsComponents:
    """Joins what `components_step` leaves."""

    shape: tuple[int, ...]
    connectivity: int

    def joined(self, tables: Sequence[Table], blocks: bool) -> tuple[Table, Renames]:
        """See `components.components_join`."""
        parts = [Components.from_arrays(table) for table in tables]
        region, old, new = components_join(parts, self.shape, self.connectivity)
        return region.arrays(), Renames(old, new)

    def settled(self, table: Table, final: Labels) -> Table:
        """Nothing more."""
        return {}


keep_tokens(globals(), "chunkinfer.segmentation.connecting")
