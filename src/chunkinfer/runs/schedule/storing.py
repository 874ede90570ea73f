"""The tasks that write: each owns whole chunks or shards of the destination."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import dask.array as da
import numpy as np
from numpy.typing import NDArray
from zlib_ng import zlib_ng

from chunkinfer.geometry.boxes import BlockGrid, Box
from chunkinfer.support.payload import Payload
from chunkinfer.support.timing import drain, stage
from chunkinfer.volumes.arrays.destination import Destination
from chunkinfer.volumes.arrays.downsampling import downsample
from chunkinfer.volumes.derived import check_shape


@dataclass(frozen=True)
class Written:
    """What the task of a block returns: as one object, for that dask sends each part of a table on its own."""

    bytes: int
    """Of the block, before compression."""
    checksum: int
    """See `checksum`."""
    seconds: dict[str, float]
    """Of each stage."""
    counts: dict[str, int]
    """What the task counted: patches, and those that were skipped."""
    engine: str
    """What computed it; empty where no network did."""


class Reads(Protocol):
    """What gives the voxels of any box, such as a `Reader`, or whatever is made of them."""

    def read(self, box: Box) -> Any:
        """What a box over all axes of the array becomes."""


class Writes(Protocol):
    """What keeps the result of a block, such as a `Store`."""

    @property
    def grid(self) -> BlockGrid:
        """The blocks."""

    def write(self, box: Box, block: Any) -> Written:
        """Keep what was made of a block of the grid; durable when this returns."""


@dataclass(frozen=True)
class Coarser:
    """A coarser level that is written with the blocks of the level below: each block holds whole units of it."""

    destination: Destination
    factors: tuple[int, ...]
    """Voxels of the level below per voxel, along the axes of the destination."""


@dataclass(frozen=True)
class Store:
    """A destination and the blocks that tasks write to it: each is whole write units."""

    destination: Destination
    dims: tuple[str, ...]
    """Axes of the array; those of length one may be absent in the destination, or the other way round."""
    grid: BlockGrid
    """Over all axes of the array."""
    lossy: bool = False
    """Whether the encoding changes voxels: checksums are then of what is read back, and levels are made of it."""
    levels: tuple[Coarser, ...] = ()
    """Coarser levels, each made of the one before: a block is done when it is in all of them."""
    method: str = "mean"
    """How they are downsampled."""

    def write(self, box: Box, block: NDArray[Any]) -> Written:
        """Write a block of this box, and of all levels."""
        check_shape(block, box.shape, box)
        index = self.index(box)
        voxels = np.ascontiguousarray(block).reshape([part.stop - part.start for part in index])
        voxels = stored = self._put(self.destination, index, voxels)
        for level in self.levels:
            with stage("downsample"):
                voxels = downsample(voxels, level.factors, self.method)
            cells = zip(index, level.factors, strict=True)
            index = tuple(slice(part.start // f, -(-part.stop // f)) for part, f in cells)
            voxels = self._put(level.destination, index, voxels)
        return Written(stored.nbytes, checksum(stored), **drain())

    def _put(self, destination: Destination, index: tuple[slice, ...], voxels: NDArray[Any]) -> NDArray[Any]:
        """Write a box; gives what a reader will find there."""
        with stage("write"):
            destination.write(index, voxels)
            return destination.read(index) if self.lossy else voxels

    def index(self, box: Box) -> tuple[slice, ...]:
        """Where a box of the array lies in the destination."""
        parts = dict(zip(self.dims, box.slices, strict=True))
        return tuple(parts.get(d, slice(0, 1)) for d in self.destination.dims)


def checksum(voxels: NDArray[Any]) -> int:
    """CRC-32 of a block as a reader gets it: C order, little-endian."""
    ordered = np.ascontiguousarray(voxels, voxels.dtype.newbyteorder("<"))
    return int(zlib_ng.crc32(ordered.reshape(-1).view(np.uint8).data))


def store_blocks(array: da.Array, store: Payload, name: str) -> da.Array:
    """A lazy array of one element per block of ``array``, whose chunks are the blocks; computing an element writes."""
    tasks: da.Array = da.map_blocks(_write, array, store=store.delayed(), name=name, **_one_per_block(store))
    return tasks


def copy_blocks(volume: Payload, store: Payload, name: str) -> da.Array:
    """As `store_blocks`, for an array whose chunks are not the blocks: each task reads its own box of it."""
    tasks: da.Array = da.map_blocks(_copy, volume.delayed(), store.delayed(), name=name, **_one_per_block(store))
    return tasks


def _one_per_block(store: Payload) -> dict[str, Any]:
    target: Writes = store.open()
    grid = target.grid
    return {
        "chunks": tuple((1,) * n for n in grid.counts),
        "dtype": np.uint8,
        "meta": np.empty((0,) * len(grid.sizes), np.uint8),
    }


def _write(block: NDArray[Any], store: Payload, block_id: tuple[int, ...] = ()) -> Written:
    target: Store = store.open()
    return target.write(target.grid.box(block_id), block)


def _copy(volume: Payload, store: Payload, block_id: tuple[int, ...] = ()) -> Written:
    target: Writes = store.open()
    reader: Reads = volume.open()
    box = target.grid.box(block_id)
    return target.write(box, reader.read(box))
