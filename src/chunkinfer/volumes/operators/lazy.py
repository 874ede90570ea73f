"""From a step to a lazy volume: read by boxes where the volume can be, in dask's own words where it cannot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import dask.array as da
import numpy as np
from dask.array.overlap import ensure_minimum_chunksize
from dask.base import tokenize
from numpy.typing import NDArray

from chunkinfer.errors import VolumeError
from chunkinfer.geometry.boxes import BlockGrid, Box
from chunkinfer.support.payload import Payload, networks_of
from chunkinfer.volumes.derived import Step, as_declared, derived_array
from chunkinfer.volumes.frame import Frame
from chunkinfer.volumes.lazy import check_reads, must_exchange, origin_of
from chunkinfer.volumes.operators.contrast import Clahe
from chunkinfer.volumes.operators.steps import (
    Chosen,
    Coarser,
    Finer,
    Function,
    Local,
    Masked,
    Moved,
    OverChannels,
    Voxelwise,
)
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


def result_of(step: Step, volume: Volume, declared: Declared, *others: Any, chunks: Sequence[int] | None = None) -> Any:
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
        array = _on_blocks(step, arrays, declared)
        array = array if chunks is None else array.rechunk(tuple(chunks))
    else:
        inputs = [origin_of(array) if isinstance(array, da.Array) else array for array in arrays]
        sizes = chunks or _chunks(step, volume.array)
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


def _chunks(step: Step, array: da.Array) -> list[int]:
    """Of the lazy result: as the input's, in its own voxels."""
    sizes = [max(axis) for axis in array.chunks]
    match step:
        case Coarser():
            return [-(-size // f) for size, f in zip(sizes, step.factors, strict=True)]
        case Finer():
            return [size * f for size, f in zip(sizes, step.factors, strict=True)]
        case Moved():
            return [sizes[d] for d in step.axes]
        case Chosen():
            return [len(step.channels), *sizes[1:]]
        case OverChannels():
            return sizes[1:]
    return sizes


def _on_blocks(step: Step, arrays: Sequence[Any], declared: Declared) -> da.Array:
    """The same with dask's own operations, for arrays whose blocks are computed once and lie where they are."""
    arrays = [as_declared(array) if isinstance(array, da.Array) else array for array in arrays]
    array = arrays[0]
    dtype = declared.dtype
    name = f"{type(step).__name__.lower()}-{tokenize(step, *arrays, declared.shape, dtype)}"
    about: dict[str, Any] = {"name": name, "dtype": dtype, "meta": np.empty((0,) * len(declared.shape), dtype)}
    result: da.Array
    match step:
        case Voxelwise():
            result = _voxelwise(step, [da.asarray(each) for each in arrays], about)
        case OverChannels():
            result = da.map_blocks(step.function, array.rechunk({0: -1}), drop_axis=0, **about)
        case Chosen():
            array = array.rechunk({0: -1})
            chunks = ((len(step.channels),), *array.chunks[1:])
            result = da.map_blocks(step.on_blocks, array, chunks=chunks, **about)
        case Coarser():
            array = array.rechunk(tuple(_multiples(c, f) for c, f in zip(array.chunks, step.factors, strict=True)))
            cells = (tuple(-(-c // f) for c in axis) for axis, f in zip(array.chunks, step.factors, strict=True))
            result = da.map_blocks(step.on_blocks, array, chunks=tuple(cells), **about)
        case Finer():
            cells = (tuple(c * f for c in axis) for axis, f in zip(array.chunks, step.factors, strict=True))
            result = da.map_blocks(step.on_blocks, array, chunks=tuple(cells), **about)
        case Moved():
            result = _moved(step, array, declared)
        case Masked():
            reader = Payload("reader", f"reader-{tokenize(step.mask, arrays[1])}", step.mask.reader)  # once per worker
            result = da.map_blocks(
                _masked, array, step=step, reader=reader.delayed(), grid=BlockGrid(array.chunks), **about
            )
        case Local() | Clahe():
            result = _exchanging(step, array, about)
        case _:
            raise TypeError(f"{step!r} is of no kind that blocks can exchange.")
    return result


def _masked(
    part: NDArray[Any], step: Masked, reader: Payload, grid: BlockGrid, block_id: tuple[int, ...] = ()
) -> NDArray[Any]:
    box = grid.box(block_id)
    seen = step.reads(box)
    return step.compute(box, seen, (part, reader.open().read(seen[1])))


def _exchanging(step: Local | Clahe, array: da.Array, about: dict[str, Any]) -> da.Array:
    """Blocks with the voxels around them. An axis whose blocks are thinner than these is cut less, or not at all."""
    depth, chunks = {}, []
    for axis, (sizes, halo) in enumerate(zip(array.chunks, step.halo, strict=True)):
        whole = len(sizes) == 1 or sum(sizes) <= 2 * halo
        depth[axis] = 0 if whole else halo
        chunks.append((sum(sizes),) if whole else tuple(ensure_minimum_chunksize(halo, sizes)))
    array = array.rechunk(tuple(chunks))
    result: da.Array = da.map_overlap(
        _with_halo, array, depth=depth, boundary="none", trim=False, allow_rechunk=False, chunks=array.chunks,
        step=step, grid=BlockGrid(array.chunks), halo=tuple(depth.values()), **about,
    )  # fmt: skip
    return result


def _with_halo(
    part: NDArray[Any], step: Local | Clahe, grid: BlockGrid, halo: tuple[int, ...], block_id: tuple[int, ...] = ()
) -> NDArray[Any]:
    box = grid.box(block_id)
    start = tuple(max(0, a - h) for a, h in zip(box.start, halo, strict=True))
    seen = Box(start, tuple(a + n for a, n in zip(start, part.shape, strict=True)))
    return step.compute(box, (seen,), (part,))


def _voxelwise(step: Voxelwise, arrays: Sequence[da.Array], about: dict[str, Any]) -> da.Array:
    """One task per block: the other arrays take the first one's blocks."""
    first = arrays[0]
    pairs: list[Any] = []
    for array, axes in zip(arrays, step.follows, strict=True):
        cut = {mine: (1,) if d is None else first.chunks[d] for mine, d in enumerate(axes)}
        # An axis of one voxel gets an index that the result lacks: its block goes to all.
        pairs += [array.rechunk(cut), tuple(first.ndim + mine if d is None else d for mine, d in enumerate(axes))]
    result: da.Array = da.blockwise(
        step.on_blocks, tuple(range(first.ndim)), *pairs, concatenate=True, align_arrays=False, **about
    )
    return result


def _multiples(axis: Sequence[int], factor: int) -> tuple[int, ...]:
    """Chunks along an axis whose inner edges are multiples of a factor, as near as can be to those given."""
    n, total = sum(axis), 0
    edges = {0, n}
    for size in axis:
        total += size
        edges.add(n if total == n else total // factor * factor)
    return tuple(b - a for a, b in pairwise(sorted(edges)))


def _moved(step: Moved, array: da.Array, declared: Declared) -> da.Array:
    array = array.transpose(step.axes)
    missing, inside = [], []
    for start, n, have in zip(step.start, declared.shape, array.shape, strict=True):
        missing.append((max(0, -start), max(0, start + n - have)))
        inside.append(slice(max(0, start), min(have, start + n)))
    result: da.Array = array[tuple(inside)]
    if any(map(any, missing)):
        about = {} if step.mode == "edge" else {"constant_values": step.fill}
        result = da.pad(result, missing, step.mode, **about)
    return result
