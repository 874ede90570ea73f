"""Chunks of precomputed volumes, written below tensorstore's driver, and encoded here where that is faster.

The driver copies voxels into chunks one row after another, which takes longer than all else where an encoding is
simple. Those that have a library of their own, such as jpeg, are left to it.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chunkinfer.storage.store import kvstore

ENCODED = ("raw", "compressed_segmentation")
"""Encodings that are made here."""

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
        by_driver = None if self.encoding in ENCODED else self._twin(index, array)
        for cell, voxels in self._cut(dims, index, array):
            if by_driver is not None:
                yield cell, bytes(by_driver.read(f"{self.folder}/{self.name(cell)}").result().value)
            elif self.encoding == "raw":
                yield cell, voxels.astype(voxels.dtype.newbyteorder("<"), copy=False).tobytes()
            else:
                from chunkinfer.storage.compressed_segmentation import encode

                yield cell, encode(np.ascontiguousarray(voxels), self.block)

    def _twin(self, index: Sequence[slice], array: NDArray[Any]) -> Any:
        """The kvstore of a volume in memory, without shards, whose chunks the driver encodes, also those of zeros."""
        import tensorstore as ts

        scale = {name: value for name, value in self.spec["scale_metadata"].items() if name != "sharding"}
        spec = {**self.spec, "kvstore": {"driver": "memory"}, "scale_metadata": scale, "create": True, "open": False}
        spec.pop("assume_metadata", None)  # of a scale that is not announced yet
        twin: Any = ts.open(spec, context=ts.Context()).result()
        twin[tuple(index)].write(array, can_reference_source_data_indefinitely=True).result()
        return twin.kvstore

    def _cut(
        self, dims: Sequence[str], index: Sequence[slice], array: NDArray[Any]
    ) -> Iterator[tuple[tuple[int, ...], NDArray[Any]]]:
        """Cell and voxels (c, z, y, x) of each chunk."""
        axes, starts = [dims.index(dim) for dim in "czyx" if dim in dims], [0, 0, 0]
        for part, dim in zip(index, dims, strict=True):
            if dim in "xyz":
                starts["xyz".index(dim)] = part.start
        absent = tuple(i for i, dim in enumerate("czyx") if dim not in dims)
        voxels = np.expand_dims(array.transpose(axes), absent)
        z, y, x = (range(0, n, c) for n, c in zip(voxels.shape[1:], self.chunk[::-1], strict=True))
        for at in itertools.product(z, y, x):
            part_of = tuple(slice(a, a + c) for a, c in zip(at, self.chunk[::-1], strict=True))
            cell = tuple((s + a) // c for s, a, c in zip(starts, at[::-1], self.chunk, strict=True))
            yield cell, voxels[(slice(None), *part_of)]


def write_chunks(store: Any, dims: Sequence[str], index: Sequence[slice], array: NDArray[Any]) -> bool:
    """Write a box of whole chunks, durable when this returns. False if the volume has shards or another encoding."""
    spec = store.spec().to_json()
    if spec["scale_metadata"].get("sharding") or spec["scale_metadata"]["encoding"] not in ENCODED:
        return False
    chunks = Chunks(spec)
    files, writes = kvstore(chunks.files), deque[Any]()
    for cell, content in chunks.encoded(dims, index, array):
        writes.append(files.write(chunks.name(cell), content))
        if len(writes) > PENDING:
            writes.popleft().result()
    for write in writes:
        write.result()
    return True
