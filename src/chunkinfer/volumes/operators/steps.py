"""What an operator does to a box, in the few kinds that there are.

A step says which boxes of its inputs a box of its result needs, and computes it; and it says the same in dask's own
words, for arrays whose blocks are computed once and lie where they are. Each is a value: it is compared, shipped and
tokenized by its fields, so functions are those of modules, with their parameters bound by `functools.partial`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypedDict, cast

import dask.array as da
import numpy as np
from dask.base import tokenize
from numpy.typing import NDArray

from chunkinfer.geometry.boxes import BlockGrid, Box
from chunkinfer.support.payload import Payload
from chunkinfer.support.tokens import keep_tokens
from chunkinfer.volumes.derived import Step
from chunkinfer.volumes.lazy import Reader
from chunkinfer.volumes.masks import Mask

Function = Callable[..., NDArray[Any]]
"""Numpy arrays to a numpy array."""


class Labelled(TypedDict):
    """What `dask.array.map_blocks` is told of an array that it makes."""

    name: str
    dtype: np.dtype[Any]
    meta: NDArray[Any]


@dataclass(frozen=True)
class Made:
    """A lazy array that a step makes."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def labels(self) -> Labelled:
        """For `dask.array.map_blocks`."""
        return {"name": self.name, "dtype": self.dtype, "meta": np.empty((0,) * len(self.shape), self.dtype)}


class Operation(Step, Protocol):
    """A step that also works on the blocks of dask arrays."""

    def chunks(self, sizes: Sequence[int]) -> tuple[int, ...]:
        """Chunks of the result, of a first input with chunks of such sizes."""

    def on_arrays(self, arrays: Sequence[da.Array], made: Made) -> da.Array:
        """The result in dask's own words, out of blocks that lie where they are."""


@dataclass(frozen=True)
class Voxelwise:
    """Each voxel out of the voxels in its place."""

    function: Function
    """Of one array per input, whose axes are the result's; an axis that an input lacks has length one."""
    follows: tuple[tuple[int | None, ...], ...]
    """For each input and axis of its own: the result's axis; None where it has one voxel that stands for all."""

    def reads(self, box: Box) -> tuple[Box, ...]:
        spans = [[(0, 1) if d is None else (box.start[d], box.stop[d]) for d in axes] for axes in self.follows]
        return tuple(Box(tuple(a for a, _ in each), tuple(b for _, b in each)) for each in spans)

    def compute(self, box: Box, seen: tuple[Box, ...], parts: Sequence[NDArray[Any]]) -> NDArray[Any]:
        return self.on_block(*parts)

    def on_block(self, *parts: NDArray[Any]) -> NDArray[Any]:
        """The function of blocks as they lie in their arrays."""
        laid = []
        for part, axes in zip(parts, self.follows, strict=True):
            shape = [1] * len(self.follows[0])  # the first input has all axes
            for n, d in zip(part.shape, axes, strict=True):
                if d is not None:
                    shape[d] = n
            laid.append(part.reshape(shape))
        return self.function(*laid)

    def chunks(self, sizes: Sequence[int]) -> tuple[int, ...]:
        return tuple(sizes)

    def on_arrays(self, arrays: Sequence[da.Array], made: Made) -> da.Array:
        """One task per block: the other arrays take the first one's blocks."""
        first, pairs = da.asarray(arrays[0]), list[Any]()
        for array, axes in zip(map(da.asarray, arrays), self.follows, strict=True):
            cut = {mine: (1,) if d is None else first.chunks[d] for mine, d in enumerate(axes)}
            # An axis of one voxel gets an index that the result lacks: its block goes to all.
            pairs += [array.rechunk(cut), tuple(first.ndim + mine if d is None else d for mine, d in enumerate(axes))]
        result: da.Array = da.blockwise(
            self.on_block, tuple(range(first.ndim)), *pairs, concatenate=True, align_arrays=False, **made.labels
        )
        return result


@dataclass(frozen=True)
class OverChannels:
    """Each voxel out of all channels in its place; the channels come first, and the result has none."""

    function: Function
    """(channels, *space) to (*space)."""
    channels: int

    def reads(self, box: Box) -> tuple[Box, ...]:
        return (Box((0, *box.start), (self.channels, *box.stop)),)

    def compute(self, box: Box, seen: tuple[Box, ...], parts: Sequence[NDArray[Any]]) -> NDArray[Any]:
        return self.function(parts[0])

    def chunks(self, sizes: Sequence[int]) -> tuple[int, ...]:
        return tuple(sizes[1:])

    def on_arrays(self, arrays: Sequence[da.Array], made: Made) -> da.Array:
        result: da.Array = da.map_blocks(self.function, arrays[0].rechunk({0: -1}), drop_axis=0, **made.labels)
        return result


@dataclass(frozen=True)
class Chosen:
    """Some channels, in any order; the channels come first."""

    channels: tuple[int, ...]
    """For each channel of the result: the input's."""

    def reads(self, box: Box) -> tuple[Box, ...]:
        wanted = self.channels[box.start[0] : box.stop[0]]
        return (Box((min(wanted), *box.start[1:]), (max(wanted) + 1, *box.stop[1:])),)

    def compute(self, box: Box, seen: tuple[Box, ...], parts: Sequence[NDArray[Any]]) -> NDArray[Any]:
        return parts[0][[c - seen[0].start[0] for c in self.channels[box.start[0] : box.stop[0]]]]

    def on_block(self, voxels: NDArray[Any]) -> NDArray[Any]:
        """Of a block with all channels."""
        return voxels[list(self.channels)]

    def chunks(self, sizes: Sequence[int]) -> tuple[int, ...]:
        return len(self.channels), *sizes[1:]

    def on_arrays(self, arrays: Sequence[da.Array], made: Made) -> da.Array:
        array = arrays[0].rechunk({0: -1})
        chunks = ((len(self.channels),), *array.chunks[1:])
        result: da.Array = da.map_blocks(self.on_block, array, chunks=chunks, **made.labels)
        return result


@dataclass(frozen=True)
class Masked:
    """The volume where a mask wants it, a number elsewhere. The inputs are the volume and what the mask reads."""

    mask: Mask
    leading: int
    """Axes before the spatial ones."""
    fill: float

    def reads(self, box: Box) -> tuple[Box, ...]:
        seen = self.mask.seen(self._space(box))
        return box, Box((0, *seen.start), (1, *seen.stop)) if self.mask.reader.channels else seen

    def compute(self, box: Box, seen: tuple[Box, ...], parts: Sequence[NDArray[Any]]) -> NDArray[Any]:
        voxels, mask = parts
        read = mask if self.mask.reader.channels else mask[np.newaxis]
        wanted = replace(self.mask, reader=cast(Reader, lambda seen: read))(self._space(box))
        return np.where(wanted, voxels, voxels.dtype.type(self.fill))

    def chunks(self, sizes: Sequence[int]) -> tuple[int, ...]:
        return tuple(sizes)

    def on_arrays(self, arrays: Sequence[da.Array], made: Made) -> da.Array:
        array, mask = arrays
        reader = Payload("reader", f"reader-{tokenize(self.mask, mask)}", self.mask.reader)  # once per worker
        result: da.Array = da.map_blocks(
            _masked, array, step=self, reader=reader.delayed(), grid=BlockGrid(array.chunks), **made.labels
        )
        return result

    def _space(self, box: Box) -> Box:
        return Box(box.start[self.leading :], box.stop[self.leading :])


def _masked(
    part: NDArray[Any], step: Masked, reader: Payload, grid: BlockGrid, block_id: tuple[int, ...] = ()
) -> NDArray[Any]:
    box = grid.box(block_id)
    seen = step.reads(box)
    return step.compute(box, seen, (part, reader.open().read(seen[1])))


keep_tokens(globals(), "chunkinfer.operators.steps")
