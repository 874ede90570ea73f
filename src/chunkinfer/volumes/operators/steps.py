"""What an operator does to a box, in the few kinds that there are.

A step says which boxes of its inputs a box of its result needs, and computes it; it knows shapes, never stores or dask.
Each is a value: it is compared, shipped and tokenized by its fields, so functions are those of modules, with their
parameters bound by `functools.partial`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from chunkinfer.geometry.boxes import Box
from chunkinfer.support.tokens import keep_tokens
from chunkinfer.volumes.lazy import Reader
from chunkinfer.volumes.masks import Mask

Function = Callable[..., NDArray[Any]]
"""Numpy arrays to a numpy array."""


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
        return self.on_blocks(*parts)

    def on_blocks(self, *parts: NDArray[Any]) -> NDArray[Any]:
        """The function of blocks as they lie in their arrays."""
        laid = []
        for part, axes in zip(parts, self.follows, strict=True):
            shape = [1] * len(self.follows[0])  # the first input has all axes
            for n, d in zip(part.shape, axes, strict=True):
                if d is not None:
                    shape[d] = n
            laid.append(part.reshape(shape))
        return self.function(*laid)


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

    def on_blocks(self, voxels: NDArray[Any]) -> NDArray[Any]:
        """Of a block with all channels."""
        return voxels[list(self.channels)]


@dataclass(frozen=True)
class Local:
    """Each voxel out of those around it. At the volume's faces the function sees where the volume ends."""

    function: Function
    """Of an array to one of the same shape."""
    halo: tuple[int, ...]
    """Voxels that are needed on each side, per axis."""
    shape: tuple[int, ...]

    def reads(self, box: Box) -> tuple[Box, ...]:
        grown = Box(
            tuple(a - h for a, h in zip(box.start, self.halo, strict=True)),
            tuple(b + h for b, h in zip(box.stop, self.halo, strict=True)),
        )
        return (grown & Box.of_shape(self.shape),)

    def compute(self, box: Box, seen: tuple[Box, ...], parts: Sequence[NDArray[Any]]) -> NDArray[Any]:
        return self.function(parts[0])[box.relative_to(seen[0].start).slices]


@dataclass(frozen=True)
class Coarser:
    """Each voxel out of a cell of the input: cells of ``factors`` voxels, from voxel 0; the last may be cut short."""

    function: Function
    """Of an array that begins at a cell's corner, and the factors."""
    factors: tuple[int, ...]
    shape: tuple[int, ...]
    """Of the input."""

    def reads(self, box: Box) -> tuple[Box, ...]:
        start = tuple(a * f for a, f in zip(box.start, self.factors, strict=True))
        stop = tuple(min(b * f, n) for b, f, n in zip(box.stop, self.factors, self.shape, strict=True))
        return (Box(start, stop),)

    def compute(self, box: Box, seen: tuple[Box, ...], parts: Sequence[NDArray[Any]]) -> NDArray[Any]:
        return self.on_blocks(parts[0])

    def on_blocks(self, voxels: NDArray[Any]) -> NDArray[Any]:
        """Of a block that begins at a cell's corner."""
        return self.function(voxels, self.factors)


@dataclass(frozen=True)
class Finer:
    """Each voxel of the input becomes a cell of ``factors`` equal voxels."""

    factors: tuple[int, ...]

    def reads(self, box: Box) -> tuple[Box, ...]:
        start = tuple(a // f for a, f in zip(box.start, self.factors, strict=True))
        stop = tuple(-(-b // f) for b, f in zip(box.stop, self.factors, strict=True))
        return (Box(start, stop),)

    def compute(self, box: Box, seen: tuple[Box, ...], parts: Sequence[NDArray[Any]]) -> NDArray[Any]:
        corner = [a * f for a, f in zip(seen[0].start, self.factors, strict=True)]
        return self.on_blocks(parts[0])[box.relative_to(corner).slices]

    def on_blocks(self, voxels: NDArray[Any]) -> NDArray[Any]:
        """Of any block."""
        for axis, factor in enumerate(self.factors):
            voxels = np.repeat(voxels, factor, axis) if factor > 1 else voxels
        return voxels


@dataclass(frozen=True)
class Moved:
    """Voxels in other places: crop, pad and transpose."""

    axes: tuple[int, ...]
    """For each axis of the result: the input's axis."""
    start: tuple[int, ...]
    """The input's index, along each axis of the result, that is the result's index 0; negative where it was padded."""
    shape: tuple[int, ...]
    """Of the input."""
    mode: str = "constant"
    """Outside of the input: "constant" or "edge"."""
    fill: float = 0

    def reads(self, box: Box) -> tuple[Box, ...]:
        spans = [(0, 0)] * len(self.shape)
        for d, a, b, s in zip(self.axes, box.start, box.stop, self.start, strict=True):
            n = self.shape[d]
            low, high = max(0, min(a + s, n)), max(0, min(b + s, n))
            if self.mode == "edge":  # at least the voxel that is repeated
                low, high = min(low, n - 1), max(high, 1)
            spans[d] = low, high
        return (Box(tuple(a for a, _ in spans), tuple(b for _, b in spans)),)

    def compute(self, box: Box, seen: tuple[Box, ...], parts: Sequence[NDArray[Any]]) -> NDArray[Any]:
        part = parts[0].transpose(self.axes)
        if part.shape == box.shape:
            return part
        if part.size == 0:
            return np.full(box.shape, self.fill, part.dtype)
        missing = []
        for d, a, s, n, m in zip(self.axes, box.start, self.start, box.shape, part.shape, strict=True):
            before = min(max(0, seen[0].start[d] - (a + s)), n - m)
            missing.append((before, n - m - before))
        if self.mode == "edge":
            return np.pad(part, missing, "edge")
        return np.pad(part, missing, constant_values=self.fill)


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

    def _space(self, box: Box) -> Box:
        return Box(box.start[self.leading :], box.stop[self.leading :])


keep_tokens(globals(), "chunkinfer.operators.steps")
