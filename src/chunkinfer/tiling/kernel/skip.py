"""Which patches of a block run: those that a wanted voxel is computed from.

A voxel is wanted where the caller's mask keeps it and a patch that it is computed from is not empty. Both are decided
from the volume, the mask and the lattice, never from the block; and a wanted voxel is computed from all of its patches,
the empty ones among them. So skipping changes no voxel that is wanted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chunkinfer.errors import PlanError
from chunkinfer.geometry.boxes import Box
from chunkinfer.tiling.kernel.job import Job

Array = NDArray[Any]
Flags = NDArray[np.bool_]
Index = tuple[int, ...]


@dataclass(frozen=True)
class Selection:
    """The patches of a block that run."""

    patches: tuple[Index, ...]
    """Indices in the lattice, in its order."""
    skipped: int
    """Patches of the block that do not run."""
    wanted: Flags | None
    """Output voxels of the block, (*space), that are computed; None: all of them."""

    def fill(self, result: Array, value: float) -> Array:
        """The block (c, *space), with ``value`` where nothing is wanted; changed in place."""
        if self.wanted is not None:
            np.copyto(result, np.asarray(value).astype(result.dtype), where=~self.wanted)
        return result


def blank(job: Job, output_box: Box) -> Array:
    """A block of which nothing is wanted."""
    return np.full((job.channels, *output_box.shape), job.fill, job.dtype)


def select(job: Job, data: Array, input_box: Box, output_box: Box, keep: Flags | None = None) -> Selection:
    """The patches of a block that run.

    Parameters
    ----------
    job, data, input_box, output_box
        As in `BlockTask`.
    keep
        Output voxels of the block, (*space), that the caller wants; None: all.
    """
    patches = tuple(job.lattice.touching(output_box))
    wanted = None if keep is None or keep.all() else keep
    if job.empty is not None:
        wanted = _not_empty(job, data, input_box, output_box, patches, wanted)
    if wanted is None:
        return Selection(patches, 0, None)
    if wanted.any():
        run = tuple(i for i in patches if wanted[_within(job, i, output_box)].any())
    else:
        run = ()
    return Selection(run, len(patches) - len(run), wanted)


def _not_empty(
    job: Job, data: Array, input_box: Box, output_box: Box, patches: tuple[Index, ...], wanted: Flags | None
) -> Flags | None:
    """The voxels of ``wanted`` that a patch with something in it contributes to; None: all of the block."""
    empty = [is_empty(_voxels(job, data, input_box, i), job.empty) for i in patches]
    if not any(empty):
        return wanted
    covered = np.zeros(output_box.shape, np.bool_)
    for index, nothing in zip(patches, empty, strict=True):
        if not nothing:
            covered[_within(job, index, output_box)] = True
    if wanted is not None:
        covered &= wanted
    return None if covered.all() else covered


def _within(job: Job, index: Index, output_box: Box) -> tuple[slice, ...]:
    """Where in the block a patch contributes."""
    return (job.lattice.owned_box(index) & output_box).relative_to(output_box.start).slices


def _voxels(job: Job, data: Array, input_box: Box, index: Index) -> Array:
    """A patch's stored voxels that lie inside the volume."""
    return data[(slice(None), *job.lattice.patch_box(index).relative_to(input_box.start).slices)]


def is_empty(voxels: Array, empty: float | str | None) -> bool:
    """Whether voxels (c, *space) hold nothing, as `Job.empty` says it."""
    if empty is None or not voxels.size:
        return False
    value = voxels[(0,) * voxels.ndim] if empty == "constant" else empty
    # A row tells most patches that hold something.
    return bool((voxels[..., 0] == value).all() and (voxels == value).all())


def resolve_empty(empty: object) -> float | str | None:
    """The one form of ``empty=``: None, a number or "constant".

    Raises
    ------
    PlanError
        It is something else.
    """
    if empty is None or (isinstance(empty, str) and empty == "constant"):
        return empty
    if isinstance(empty, int | float | np.integer | np.floating) and not isinstance(empty, bool):
        value = float(empty)
        if not np.isnan(value):
            return value
    raise PlanError(
        f'empty={empty!r} is neither a number nor "constant".',
        "A patch is not run where all of its stored voxels equal that number, or each other.",
        ["empty=0", 'empty="constant"'],
    )


def resolve_fill(fill: object, dtype: np.dtype[Any]) -> float:
    """The one form of ``fill=``: a number that the result's dtype holds.

    Raises
    ------
    PlanError
        It is no number, or the dtype cannot hold it.
    """
    if isinstance(fill, int | float | np.integer | np.floating) and not isinstance(fill, bool):
        value = float(fill)
        with np.errstate(all="ignore"):
            stored = np.asarray(value).astype(dtype)
        if stored == value if dtype.kind != "f" else np.isfinite(stored) or not np.isfinite(value):
            return value
    raise PlanError(
        f"fill={fill!r} cannot be stored as {dtype}.",
        "It is the stored value of voxels that are not computed.",
        [
            "fill=0",
            "leave dtype= out: the result is float32, which holds any number" if dtype.kind != "f" else "fill=-1",
        ],
    )
