"""Chunks of precomputed volumes, written below tensorstore's driver, and encoded here where that is faster.

The driver copies voxels into chunks one row after another, which takes longer than all else where an encoding is
simple. Those that have a library of their own, such as jpeg, are left to it.
"""

from __future__ import annotations

import itertools
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chunkinfer.storage.store import kvstore

ENCODED = ("raw", "compressed_segmentation")
"""Encodings that are made here."""

Encoder = Callable[[Any, Any, Any], bytes]
"""Of a cell, and of where a chunk begins in an array (c, z, y, x) and its shape (z, y, x)."""

SYNCING = 16
"""Files that a block asks the disk to keep at a time."""

PENDING = 64
"""Chunks that are on their way to the store at a time: each is in memory as long."""


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

    def encoded(
        self, dims: Sequence[str], index: Sequence[slice], array: NDArray[Any]
    ) -> Iterator[tuple[tuple[int, ...], bytes]]:
        """What is stored for an array that holds whole chunks, by cell."""
        absent = tuple(i for i, dim in enumerate("czyx") if dim not in dims)
        voxels = np.expand_dims(array.transpose([dims.index(dim) for dim in "czyx" if dim in dims]), absent)
        first = dict(zip(dims, (part.start for part in index), strict=True))
        encode = self._encoder(index, array, voxels)
        chunk = self.chunk[::-1]
        for at in itertools.product(*(range(0, n, c) for n, c in zip(voxels.shape[1:], chunk, strict=True))):
            cell = tuple((first.get(d, 0) + a) // c for d, a, c in zip("xyz", at[::-1], self.chunk, strict=True))
            shape = tuple(min(c, n - a) for c, n, a in zip(chunk, voxels.shape[1:], at, strict=True))
            yield cell, encode(cell, at, shape)

    def _encoder(self, index: Sequence[slice], array: NDArray[Any], voxels: NDArray[Any]) -> Encoder:
        """What gives the content of a chunk: of its cell, and where in ``voxels`` (c, z, y, x) it lies."""
        if self.encoding == "raw":
            ordered = voxels.astype(voxels.dtype.newbyteorder("<"), copy=False)
            return lambda _, at, shape: ordered[
                (slice(None), *(slice(a, a + n) for a, n in zip(at, shape, strict=True)))
            ].tobytes()
        if self.encoding == "compressed_segmentation":
            from chunkinfer.storage.compressed_segmentation import encode, room_for

            labels = np.ascontiguousarray(voxels)
            room = room_for(len(labels), labels.itemsize, self.chunk, self.block)
            return lambda _, at, shape: encode(labels, at, shape, self.block, room)
        driver = self._twin(index, array)
        return lambda cell, at, shape: bytes(driver.read(f"{self.folder}/{self.name(cell)}").result().value)

    def _twin(self, index: Sequence[slice], array: NDArray[Any]) -> Any:
        """The kvstore of a volume in memory, without shards, whose chunks the driver encodes, also those of zeros."""
        import tensorstore as ts

        scale = {name: value for name, value in self.spec["scale_metadata"].items() if name != "sharding"}
        spec = {**self.spec, "kvstore": {"driver": "memory"}, "scale_metadata": scale, "create": True, "open": False}
        spec.pop("assume_metadata", None)  # of a scale that is not announced yet
        twin: Any = ts.open(spec, context=ts.Context()).result()
        twin[tuple(index)].write(array, can_reference_source_data_indefinitely=True).result()
        return twin.kvstore


def write_chunks(store: Any, dims: Sequence[str], index: Sequence[slice], array: NDArray[Any]) -> bool:
    """Write a box of whole chunks, durable when this returns. False if the volume has shards or another encoding."""
    spec = store.spec().to_json()
    if spec["scale_metadata"].get("sharding") or spec["scale_metadata"]["encoding"] not in ENCODED:
        return False
    chunks = Chunks(spec)
    together = chunks.files["driver"] == "file" and os.name == "posix"
    files, names, writes = kvstore(chunks.files, synced=not together), [], deque[Any]()
    for cell, content in chunks.encoded(dims, index, array):
        names.append(chunks.name(cell))
        writes.append(files.write(names[-1], content))
        if len(writes) > PENDING:
            writes.popleft().result()
    for write in writes:
        write.result()
    if together:
        _sync(chunks.files["path"], names)
    return True


def _sync(folder: str, names: Sequence[str]) -> None:
    """Wait until the disk has these files, and their names: many at once, in half the time of one after another."""
    with ThreadPoolExecutor(min(SYNCING, len(names))) as pool:
        list(pool.map(_sync_one, (os.path.join(folder, name) for name in names)))
    _sync_one(folder)


def _sync_one(path: str) -> None:
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
