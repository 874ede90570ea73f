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
from chunkinfer.storage import failures
from chunkinfer.storage.store import kvstore

DAMAGED = ("DATA_LOSS", "FAILED_PRECONDITION", "INVALID_ARGUMENT")
"""Status codes of a shard that cannot be read."""


class Shards:
    """The shards of an opened volume: its chunks by grid cell."""

    def __init__(self, spec: dict[str, Any]) -> None:
        scale = spec["scale_metadata"]
        base = spec["kvstore"]
        self.chunk, self.origin = scale["chunk_size"], scale.get("voxel_offset", [0, 0, 0])
        self.grid = [math.ceil(size / chunk) for size, chunk in zip(scale["size"], self.chunk, strict=True)]
        self.files = {**_plain(base), "path": f"{base['path']}{scale['key']}/"}
        self.sharding = scale["sharding"]
        self.key_value = kvstore(
            {"driver": "neuroglancer_uint64_sharded", "base": self.files, "metadata": self.sharding}
        )

    def key(self, cell: Sequence[int]) -> bytes:
        """The key of a chunk."""
        return code(cell, self.grid).to_bytes(8, "big")

    def delete(self, cells: Iterable[Sequence[int]]) -> None:
        """Delete the shards of chunks, whatever is in them; their hash is the identity."""
        low = self.sharding["preshift_bits"] + self.sharding["minishard_bits"]
        digits = math.ceil(self.sharding["shard_bits"] / 4)
        for number in {code(cell, self.grid) >> low for cell in cells}:
            kvstore(self.files).write(f"{number:0{digits}x}.shard", None).result()


def _plain(base: Mapping[str, Any]) -> dict[str, Any]:
    """A kvstore spec without context resources."""
    members = ("driver", "path", "bucket", "endpoint", "aws_region", "base_url")
    return {name: base[name] for name in members if name in base}


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


def write_shards(store: Any, index: tuple[slice, ...], array: NDArray[Any]) -> bool:
    """Write a box of whole shards, every chunk of it, each shard once. False if the volume has no shards.

    Memory beside ``array``: about four times its size, for the encoded chunks, their copy in the transaction and the
    shard that is put together.
    """
    spec = store.spec().to_json()
    if not spec["scale_metadata"].get("sharding"):
        return False
    import tensorstore as ts

    shards = Shards(spec)
    # A twin in memory without shards encodes the chunks; it does store those of zeros.
    twin_scale = {name: value for name, value in spec["scale_metadata"].items() if name != "sharding"}
    twin_spec = {**spec, "kvstore": {"driver": "memory"}, "scale_metadata": twin_scale, "create": True, "open": False}
    twin_spec.pop("assume_metadata", None)  # of a scale that is not announced yet
    twin: Any = ts.open(twin_spec, context=ts.Context()).result()
    twin[index].write(array, can_reference_source_data_indefinitely=True).result()
    prefix = f"{twin_scale['key']}/".encode()
    cells = {}
    for name in twin.kvstore.list().result():
        if name.startswith(prefix):
            starts = [int(_start(part)) for part in name[len(prefix) :].decode().split("_")]
            cells[name] = [(s - o) // c for s, o, c in zip(starts, shards.origin, shards.chunk, strict=True)]

    def commit() -> None:
        transaction = ts.Transaction()
        shard_store = shards.key_value.with_transaction(transaction)
        for name, cell in cells.items():
            shard_store.write(shards.key(cell), twin.kvstore.read(name).result().value).result()
        transaction.commit_async().result()

    try:
        commit()
    except failures.FAILURES as error:
        if failures.status(error) not in DAMAGED:
            raise
        shards.delete(cells.values())  # the driver reads a shard that it replaces, and this one is damaged
        commit()
    return True


def _start(span: str) -> str:
    """The first number of "16-32" or "-16-0"."""
    return span[: span.index("-", 1)]
