"""Shards of precomputed volumes, below tensorstore's driver.

The driver neither stores chunks of zeros in a shard nor tells when a chunk is absent. So shards are written through the
kvstore that the driver itself uses, and zeros that were read are looked up there.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from chunkinfer.geometry.morton import code
from chunkinfer.stores import failures
from chunkinfer.stores.store import kvstore
from chunkinfer.volumes.formats.precomputed.chunks import Chunks

DAMAGED = ("DATA_LOSS", "FAILED_PRECONDITION", "INVALID_ARGUMENT")
"""Status codes of a shard that cannot be read."""


class Shards(Chunks):
    """The shards of an opened volume: its chunks by grid cell."""

    def __init__(self, spec: Mapping[str, Any]) -> None:
        super().__init__(spec)
        self.grid = [math.ceil(size / chunk) for size, chunk in zip(self.size, self.chunk, strict=True)]
        self.sharding = spec["scale_metadata"]["sharding"]
        self.key_value = kvstore(
            {"driver": "neuroglancer_uint64_sharded", "base": self.files, "metadata": self.sharding}
        )

    def key(self, cell: Sequence[int]) -> bytes:
        """The key of a chunk."""
        return code(cell, self.grid).to_bytes(8, "big")

    def write(self, dims: Sequence[str], index: Sequence[slice], array: NDArray[Any]) -> None:
        """Write a box of whole shards, every chunk of it, each shard once.

        Memory beside ``array``: about four times its size, for the encoded chunks, their copy in the transaction and
        the shard that is put together.
        """
        contents = [(cell, content.tobytes()) for cell, content in self.encoded(dims, index, array)]
        try:
            self._commit(contents)
        except failures.FAILURES as error:
            if failures.status(error) not in DAMAGED:
                raise
            # The driver reads a shard that it replaces, and this one is damaged.
            self.delete(cell for cell, _ in contents)
            self._commit(contents)

    def _commit(self, contents: Iterable[tuple[Sequence[int], bytes]]) -> None:
        import tensorstore as ts

        transaction = ts.Transaction()
        store = self.key_value.with_transaction(transaction)
        for cell, content in contents:
            store.write(self.key(cell), content).result()
        transaction.commit_async().result()

    def delete(self, cells: Iterable[Sequence[int]]) -> None:
        """Delete the shards of chunks, whatever is in them; their hash is the identity."""
        low = self.sharding["preshift_bits"] + self.sharding["minishard_bits"]
        digits = math.ceil(self.sharding["shard_bits"] / 4)
        for number in {code(cell, self.grid) >> low for cell in cells}:
            kvstore(self.files).write(f"{number:0{digits}x}.shard", None).result()


def absent_chunk(
    store: Any, dims: tuple[str, ...], bounds: Sequence[tuple[int, int]], values: NDArray[Any]
) -> str | None:
    """A chunk of a sharded volume that is absent in a box that was read, in words; None if all are there.

    Only chunks whose voxels are all 0 are looked up, because only these can be absent.
    """
    spec = store.spec().to_json()
    if not spec["scale_metadata"].get("sharding"):
        return None
    shards = Shards(spec)
    box = dict(zip(dims, bounds, strict=True))
    spans = [box.get(dim, (0, 1)) for dim in "xyz"]
    ranges = [range(a // size, math.ceil(b / size)) for (a, b), size in zip(spans, shards.chunk, strict=True)]
    lookups = []
    for cell in itertools.product(*ranges):
        inside = {
            dim: slice(max(0, i * size - a), max(0, (i + 1) * size - a))
            for dim, i, size, (a, _) in zip("xyz", cell, shards.chunk, spans, strict=True)
        }
        part = values[tuple(inside.get(dim, slice(None)) for dim in dims)]
        if not part.any():
            lookups.append((cell, shards.key_value.read(shards.key(cell))))
    for cell, lookup in lookups:
        if lookup.result().state != "value":
            return f"chunk {cell} (x, y, z) of the sharded scale {spec['scale_metadata']['key']} is missing"
    return None
