"""Adaptive histograms: contrast that follows a section's brightness, the same for any cut."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import dask.array as da
import numpy as np
from numpy.typing import NDArray

from chunkinfer.geometry.boxes import Box
from chunkinfer.support.tokens import keep_tokens
from chunkinfer.volumes.operators.around import exchanged
from chunkinfer.volumes.operators.steps import Made

BINS = 256


@dataclass(frozen=True)
class Clahe:
    """Tiles of a section lie on one grid from its voxel 0; a voxel is mapped by the tiles whose middles are around it.

    ::

        tile     |     0     |     1     |  2  |      the last one may be cut short
        middles        x           x        x         a voxel between two is mapped by both, linearly weighted
    """

    tile: tuple[int, int]
    """(y, x)."""
    clip: float
    """Share of a tile's voxels that one bin keeps."""
    shape: tuple[int, ...]

    @property
    def halo(self) -> tuple[int, ...]:
        """Voxels that are needed on each side, per axis, at most: a tile and a half."""
        return (*(0 for _ in self.shape[:-2]), *(3 * size // 2 for size in self.tile))

    def reads(self, box: Box) -> tuple[Box, ...]:
        start, stop = list(box.start), list(box.stop)
        for d, size in zip((-2, -1), self.tile, strict=True):
            low, high = self._tiles(d, size, start[d], stop[d])
            start[d], stop[d] = low * size, min(self.shape[d], high * size)
        return (Box(tuple(start), tuple(stop)),)

    def compute(self, box: Box, seen: tuple[Box, ...], parts: Sequence[NDArray[Any]]) -> NDArray[Any]:
        binned = _binned(parts[0])
        found = np.empty(box.shape, np.float32)
        for index in np.ndindex(*box.shape[:-2]):
            found[index] = self._section(binned[index], box, seen[0])
        return found

    def chunks(self, sizes: Sequence[int]) -> tuple[int, ...]:
        return tuple(sizes)

    def on_arrays(self, arrays: Sequence[da.Array], made: Made) -> da.Array:
        return exchanged(self, self.halo, arrays[0], made)

    def _tiles(self, axis: int, size: int, start: int, stop: int) -> tuple[int, int]:
        """The tiles whose middles are around the voxels ``[start, stop)``."""
        count = -(-self.shape[axis] // size)
        low = max(0, (2 * start + 1 - size) // (2 * size))
        high = min(count, (2 * (stop - 1) + 1 - size) // (2 * size) + 2)
        return min(low, count - 1), max(high, low + 1)

    def _section(self, bins: NDArray[np.intp], box: Box, seen: Box) -> NDArray[np.float32]:
        (low_y, high_y), (low_x, high_x) = (
            self._tiles(d, size, box.start[d], box.stop[d]) for d, size in zip((-2, -1), self.tile, strict=True)
        )
        top, left = seen.start[-2], seen.start[-1]
        height, width = self.tile
        tables = np.empty((high_y - low_y, high_x - low_x, BINS), np.float32)
        for y in range(low_y, high_y):
            for x in range(low_x, high_x):
                part = bins[y * height - top : (y + 1) * height - top, x * width - left : (x + 1) * width - left]
                tables[y - low_y, x - low_x] = self._table(part)
        wanted = bins[box.start[-2] - top : box.stop[-2] - top, box.start[-1] - left : box.stop[-1] - left]
        y0, y1, wy = _between(box.start[-2], box.stop[-2], height, low_y, high_y)
        x0, x1, wx = _between(box.start[-1], box.stop[-1], width, low_x, high_x)
        upper = _mix(tables[y0[:, None], x0[None], wanted], tables[y0[:, None], x1[None], wanted], wx[None])
        lower = _mix(tables[y1[:, None], x0[None], wanted], tables[y1[:, None], x1[None], wanted], wx[None])
        return _mix(upper, lower, wy[:, None])

    def _table(self, part: NDArray[np.intp]) -> NDArray[np.float32]:
        """Bin -> new value: the share of the tile's voxels up to it, each bin holding no more than it may."""
        counts = np.bincount(part.ravel(), minlength=BINS).astype(np.float64)
        limit = max(1.0, self.clip * part.size)
        kept = np.minimum(counts, limit)
        kept += (counts.sum() - kept.sum()) / BINS
        return (kept.cumsum() / part.size).astype(np.float32)


def _binned(voxels: NDArray[Any]) -> NDArray[np.intp]:
    """256 bins: of integers by their range, of floats from 0 to 1, with NaN as 0."""
    if voxels.dtype.kind == "f":
        scaled = np.clip(voxels.astype(np.float64) * BINS, 0, BINS - 1)
        return np.nan_to_num(scaled, copy=False, nan=0.0).astype(np.intp)
    if voxels.dtype.kind == "b":
        return voxels.astype(np.intp) * (BINS - 1)
    info = np.iinfo(voxels.dtype)
    return ((voxels.astype(np.int64) - info.min) * BINS // (int(info.max) - info.min + 1)).astype(np.intp)


def _between(
    start: int, stop: int, size: int, low: int, high: int
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float32]]:
    """For each voxel: the tile before and after it, counted from ``low``, and the weight of the one after."""
    position = (np.arange(start, stop) + 0.5) / size - 0.5
    before = np.floor(position).astype(np.intp)
    weight = (position - before).astype(np.float32)
    return np.clip(before, low, high - 1) - low, np.clip(before + 1, low, high - 1) - low, weight


def _mix(a: NDArray[np.float32], b: NDArray[np.float32], weight: NDArray[np.float32]) -> NDArray[np.float32]:
    return a + (b - a) * weight


keep_tokens(globals(), "chunkinfer.operators.contrast")
