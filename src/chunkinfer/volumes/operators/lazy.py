"""From a step to a lazy volume: read by boxes where the volume can be, in dask's own words where it cannot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import dask.array as da
import numpy as np
from dask.base import tokenize

from chunkinfer.errors import VolumeError
from chunkinfer.geometry.boxes import BlockGrid
from chunkinfer.support.payload import networks_of
from chunkinfer.volumes.derived import as_declared, derived_array
from chunkinfer.volumes.frame import Frame
from chunkinfer.volumes.lazy import check_reads, must_exchange, origin_of
from chunkinfer.volumes.operators.steps import Function, Made, Operation, Voxelwise
from chunkinfer.volumes.volume import Volume, as_volume


@dataclass(frozen=True)
class Declared:
    """What an operator's result is, before anything is computed."""

    shape: tuple[int, ...]
    dims: tuple[str, ...]
    dtype: np.dtype[Any]
    frame: Frame
    channel: Any = None
    """Names of the channels, if any."""

    @classmethod
    def like(cls, volume: Volume, dtype: Any = None) -> Declared:
        """The volume itself, of another type perhaps."""
        kind = volume.array.dtype if dtype is None else np.dtype(dtype)
        return cls(volume.array.shape, volume.dims, kind, volume.frame, volume.channel)


def opened(volume: Any, beside: Volume | None = None) -> Volume:
    """A volume of any kind, without a time axis.

    Parameters
    ----------
    volume
        What the caller gave. The axes of an unlabelled one are those of its network, or as many as there are.
    beside
        A volume that is there already: an unlabelled one has as many spatial axes.
    """
    count = None if beside is None else len(beside.frame.space)
    if isinstance(volume, da.Array) and (networks := networks_of(volume.dask)):
        axes = networks[-1].facts.axes
        count = len(axes) if volume.ndim == 1 + len(axes) else count
    found = as_volume(volume, count)
    if "t" in found.dims:
        raise VolumeError(
            "The volume has a time axis.",
            "An operator works on one time point.",
            [
                "volume.isel(t=0)",
                f"xarray.concat([operator(volume.isel(t=t)) for t in range({found.array.shape[0]})], 't')",
            ],
        )
    return found


def result_of(
    step: Operation, volume: Volume, declared: Declared, *others: Any, chunks: Sequence[int] | None = None
) -> Any:
    """The lazy result, of the kind that the volume was given as.

    Where every array can be read by boxes, the result can too: one task, and one read of the source with all halos
    added. Where one of them is a network's output or lies in workers' memory already, blocks are computed where they
    are, and halos are exchanged.

    Parameters
    ----------
    step
        What computes it, of as many inputs as there are arrays.
    volume
        The first input.
    declared
        The result.
    others
        Further arrays, which can be read by boxes, or of dask.
    chunks
        Of the lazy result; by default as the volume's.

    Raises
    ------
    PlanError
        A block would read most of a volume, as of ``volume - volume.mean()``.
    """
    arrays = [volume.array, *others]
    if any(isinstance(array, da.Array) and must_exchange(array) for array in arrays):
        blocks = [as_declared(array) if isinstance(array, da.Array) else array for array in arrays]
        token = tokenize(step, *blocks, declared.shape, declared.dtype)
        made = Made(f"{type(step).__name__.lower()}-{token}", declared.shape, declared.dtype)
        array = step.on_arrays(blocks, made)
        array = array if chunks is None else array.rechunk(tuple(chunks))
    else:
        inputs = [origin_of(array) if isinstance(array, da.Array) else array for array in arrays]
        sizes = chunks or step.chunks([max(axis) for axis in volume.array.chunks])
        sizes = tuple(min(size, n) for size, n in zip(sizes, declared.shape, strict=True))
        grid = BlockGrid.regular(declared.shape, sizes)
        needed = [step.reads(box) for box in grid.sample()]
        for below, boxes in zip(inputs, zip(*needed, strict=True), strict=True):
            check_reads(below, [box for box in boxes if box.size], len(grid))
        array = derived_array(step, inputs, declared.shape, declared.dtype, sizes)
    if not volume.labelled:
        return array
    # What the stored volume said of its voxels, "image" or "segmentation", may not hold for those of another type.
    attrs = {k: v for k, v in volume.attrs.items() if k != "type" or declared.dtype == volume.array.dtype}
    return declared.frame.label(array, declared.dims, name=volume.name, attrs=attrs, channel=declared.channel)


def voxelwise(function: Function, volume: Volume, declared: Declared, *others: tuple[Any, Sequence[str]]) -> Any:
    """A function of the voxels in one place: of the volume, and of other arrays with their axes.

    An axis that one of them lacks, or along which it has one voxel, stands for all of the volume's.
    """
    arrays = [(volume.array, volume.dims), *others]
    where = {d: (i, n) for i, (d, n) in enumerate(zip(declared.dims, declared.shape, strict=True))}
    follows = tuple(
        tuple(where[d][0] if d in where and where[d][1] == n else None for d, n in zip(dims, array.shape, strict=True))
        for array, dims in arrays
    )
    return result_of(Voxelwise(function, follows), volume, declared, *(array for array, _ in others))
