"""Steps whose result has other voxels than the input: coarser, finer, or the same in other places."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import dask.array as da
import numpy as np
from numpy.typing import NDArray

from chunkinfer.geometry.boxes import Box
from chunkinfer.support.tokens import keep_tokens
from chunkinfer.volumes.operators.steps import Function, Made


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
        return self.on_block(parts[0])

    def on_block(self, voxels: NDArray[Any]) -> NDArray[Any]:
        """Of a block that begins at a cell's corner."""
        return self.function(voxels, self.factors)

    def chunks(self, sizes: Sequence[int]) -> tuple[int, ...]:
        return tuple(-(-size // f) for size, f in zip(sizes, self.factors, strict=True))

    def on_arrays(self, arrays: Sequence[da.Array], made: Made) -> da.Array:
        array = arrays[0].rechunk(tuple(map(_multiples, arrays[0].chunks, self.factors)))
        cells = (tuple(-(-c // f) for c in axis) for axis, f in zip(array.chunks, self.factors, strict=True))
        result: da.Array = da.map_blocks(self.on_block, array, chunks=tuple(cells), **made.labels)
        return result


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
        return self.on_block(parts[0])[box.relative_to(corner).slices]

    def on_block(self, voxels: NDArray[Any]) -> NDArray[Any]:
        """Of any block."""
        for axis, factor in enumerate(self.factors):
            voxels = np.repeat(voxels, factor, axis) if factor > 1 else voxels
        return voxels

    def chunks(self, sizes: Sequence[int]) -> tuple[int, ...]:
        return tuple(size * f for size, f in zip(sizes, self.factors, strict=True))

    def on_arrays(self, arrays: Sequence[da.Array], made: Made) -> da.Array:
        cells = (tuple(c * f for c in axis) for axis, f in zip(arrays[0].chunks, self.factors, strict=True))
        result: da.Array = da.map_blocks(self.on_block, arrays[0], chunks=tuple(cells), **made.labels)
        return result


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

    def chunks(self, sizes: Sequence[int]) -> tuple[int, ...]:
        return tuple(sizes[d] for d in self.axes)

    def on_arrays(self, arrays: Sequence[da.Array], made: Made) -> da.Array:
        array = arrays[0].transpose(self.axes)
        missing, inside = [], []
        for start, n, have in zip(self.start, made.shape, array.shape, strict=True):
            missing.append((max(0, -start), max(0, start + n - have)))
            inside.append(slice(max(0, start), min(have, start + n)))
        result: da.Array = array[tuple(inside)]
        if any(map(any, missing)):
            filled = {} if self.mode == "edge" else {"constant_values": self.fill}
            result = da.pad(result, missing, self.mode, **filled)
        return result


def _multiples(axis: Sequence[int], factor: int) -> tuple[int, ...]:
    """Chunks along an axis whose inner edges are multiples of a factor, as near as can be to those given."""
    n, total = sum(axis), 0
    edges = {0, n}
    for size in axis:
        total += size
        edges.add(n if total == n else total // factor * factor)
    return tuple(b - a for a, b in pairwise(sorted(edges)))


keep_tokens(globals(), "chunkinfer.operators.steps")
