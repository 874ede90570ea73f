"""Chunks of precomputed volumes, written below tensorstore's driver, and encoded here where that is faster.

The driver copies voxels into chunks one row after another, which takes longer than all else where an encoding is
simple. Those that have a library of their own, such as jpeg, are left to it.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from math import prod
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from chunkinfer.stores.disk import write_files
from chunkinfer.stores.store import kvstore
from chunkinfer.stores.urls import safe_name

PENDING = 64
"""Chunks that are on their way to the store at a time: each is in memory as long."""


class Place(NamedTuple):
    """Where a chunk lies."""

    cell: tuple[int, int, int]
    """In the volume's grid (x, y, z)."""
    start: tuple[int, int, int]
    """In the array that is written (z, y, x)."""
    shape: tuple[int, int, int]
    """Voxels (z, y, x)."""


Encoder = Callable[[Sequence[Place]], Iterable[NDArray[Any]]]
"""What is stored of each chunk of a row along x, in C order; views of the array where nothing is encoded."""


class Chunks:
    """The chunks of an opened volume, by grid cell (x, y, z).

    Parameters
    ----------
    spec
        tensorstore's, as JSON.
    """

    def __init__(self, spec: Mapping[str, Any]) -> None:
        scale, base = spec["scale_metadata"], spec["kvstore"]
        self.spec, self.folder = spec, scale["key"]
        self.size, self.chunk = scale["size"], scale["chunk_size"]
        self.origin = scale.get("voxel_offset", [0, 0, 0])
        self.encoding = scale["encoding"]
        self.block = tuple(scale.get("compressed_segmentation_block_size", (8, 8, 8)))[::-1]
        members = ("driver", "path", "bucket", "endpoint", "aws_region", "base_url")  # no context resources
        self.files = {name: base[name] for name in members if name in base}
        self.files["path"] += f"{self.folder}/"

    def name(self, cell: Sequence[int]) -> str:
        """The object of a chunk where there are no shards."""
        spans = zip(cell, self.chunk, self.size, self.origin, strict=True)
        return "_".join(f"{o + i * c}-{o + min(n, (i + 1) * c)}" for i, c, n, o in spans)

    def write(self, dims: Sequence[str], index: Sequence[slice], array: NDArray[Any]) -> None:
        """Write a box of whole chunks, durable when this returns."""
        safe_name(f"scales/{self.folder}")  # what an ``info`` names must not lead elsewhere
        contents = ((self.name(cell), content) for cell, content in self.encoded(dims, index, array))
        if self.files["driver"] == "file":
            write_files(self.files["path"], contents)
            return
        store, writes = kvstore(self.files), deque[Any]()
        for name, content in contents:
            writes.append(store.write(name, content.tobytes()))
            if len(writes) > PENDING:
                writes.popleft().result()
        for write in writes:
            write.result()

    def encoded(
        self, dims: Sequence[str], index: Sequence[slice], array: NDArray[Any]
    ) -> Iterator[tuple[tuple[int, int, int], NDArray[Any]]]:
        """What is stored for an array that holds whole chunks, by cell."""
        absent = tuple(i for i, dim in enumerate("czyx") if dim not in dims)
        voxels = np.expand_dims(array.transpose([dims.index(dim) for dim in "czyx" if dim in dims]), absent)
        encode, chunk = self._encoder(index, array, voxels), self.chunk[::-1]
        first = dict(zip(dims, (part.start for part in index), strict=True))

        def place(z: int, y: int, x: int) -> Place:
            i, j, k = ((first.get(d, 0) + a) // c for d, a, c in zip("xyz", (x, y, z), self.chunk, strict=True))
            depth, height, width = (min(c, n - a) for c, n, a in zip(chunk, voxels.shape[1:], (z, y, x), strict=True))
            return Place((i, j, k), (z, y, x), (depth, height, width))

        layers, lines, columns = (range(0, n, c) for n, c in zip(voxels.shape[1:], chunk, strict=True))
        for z, y in itertools.product(layers, lines):
            row = [place(z, y, x) for x in columns]
            yield from zip((at.cell for at in row), encode(row), strict=True)

    def _encoder(self, index: Sequence[slice], array: NDArray[Any], voxels: NDArray[Any]) -> Encoder:
        """For chunks of a box of the volume: ``array`` along its own axes, ``voxels`` as (c, z, y, x)."""
        if self.encoding == "raw":
            return partial(_as_they_are, voxels.astype(voxels.dtype.newbyteorder("<"), copy=False))
        # Of larger blocks than anybody makes, labels could not be numbered in 16 bits.
        if self.encoding == "compressed_segmentation" and prod(self.block) <= 1 << 16:
            return partial(_packed, np.ascontiguousarray(voxels, voxels.dtype.newbyteorder("=")), self.block)
        return partial(self._by_the_driver, self._twin(index, array))

    def _by_the_driver(self, twin: Any, row: Sequence[Place]) -> Iterator[NDArray[Any]]:
        for place in row:
            yield np.frombuffer(twin.read(f"{self.folder}/{self.name(place.cell)}").result().value, np.uint8)

    def _twin(self, index: Sequence[slice], array: NDArray[Any]) -> Any:
        """The kvstore of a volume in memory, without shards, whose chunks the driver encodes, also those of zeros."""
        import tensorstore as ts

        scale = {name: value for name, value in self.spec["scale_metadata"].items() if name != "sharding"}
        spec = {**self.spec, "kvstore": {"driver": "memory"}, "scale_metadata": scale, "create": True, "open": False}
        spec.pop("assume_metadata", None)  # of a scale that is not announced yet
        twin: Any = ts.open(spec, context=ts.Context()).result()
        twin[tuple(index)].write(array, can_reference_source_data_indefinitely=True).result()
        return twin.kvstore


def _as_they_are(voxels: NDArray[Any], row: Sequence[Place]) -> Iterator[NDArray[Any]]:
    for place in row:
        box = (slice(a, a + n) for a, n in zip(place.start, place.shape, strict=True))
        yield voxels[(slice(None), *box)]


def _packed(labels: NDArray[Any], block: tuple[int, int, int], row: Sequence[Place]) -> list[NDArray[Any]]:
    from chunkinfer.volumes.formats.precomputed.compressed_segmentation import encode_row, room_for

    depth, height, chunk = row[0].shape
    rooms = np.empty((len(row), room_for(len(labels), labels.itemsize, row[0].shape, block)), np.uint32)
    shape = (depth, height, sum(place.shape[2] for place in row))
    return encode_row(labels, row[0].start, shape, chunk, block, rooms)
