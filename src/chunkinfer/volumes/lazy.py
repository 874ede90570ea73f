"""Boxes of a lazy volume, read inside the task that needs them."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import prod
from typing import Any

import dask.array as da
import numpy as np
from dask._task_spec import DataNode
from dask.blockwise import Blockwise
from dask.core import flatten
from dask.highlevelgraph import HighLevelGraph
from dask.layers import ArraySliceDep
from numpy.typing import NDArray

from chunkinfer.errors import PlanError, SourceError
from chunkinfer.geometry.boxes import Box
from chunkinfer.stores.urls import locate
from chunkinfer.support.payload import Payload, networks_of, values_of
from chunkinfer.support.timing import stage
from chunkinfer.volumes.arrays.source import Source
from chunkinfer.volumes.derived import Derived, as_declared, by_boxes, voxels
from chunkinfer.volumes.formats import decoded

TIMES = 4
"""A number that needs most of a volume may be computed so often."""

LEAST_CHUNK = 64**3
"""Voxels of a lazy chunk at least: smaller ones cost more in tasks than in reading."""


@dataclass(frozen=True)
class Reader:
    """Reads boxes of a volume (channels, *space), whatever the volume is made of.

    One tensorstore or memory read where the volume comes straight from a store or from memory, otherwise the part of
    the lazy volume's graph that the box needs, computed in the calling thread.
    """

    array: Any
    """A `Source`, a `Derived`, a numpy array, or a dask array."""
    channels: bool
    """Whether its first axis holds channels; otherwise one is added."""

    def __call__(self, box: Box) -> NDArray[Any]:
        """The voxels of a box over the spatial axes, all channels: (channels, *space)."""
        whole = Box((0, *box.start), (self.array.shape[0], *box.stop)) if self.channels else box
        data = self.read(whole)
        return data if self.channels else data[np.newaxis]

    def read(self, box: Box) -> NDArray[Any]:
        """The voxels of a box over all axes of the array."""
        with stage("read"):
            return voxels(self.array, box)


def lazy_source(source: Source, chunks: Sequence[int] | None = None) -> da.Array:
    """A source as a dask array; its chunks are whole stored chunks, so no byte is decoded twice."""
    return by_boxes(source, tuple(chunks) if chunks else _aligned(source, lazy_chunks(source)))


def _aligned(source: Source, chunks: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    """Chunks along each axis, cut where stored chunks end: a crop's first one is shorter."""
    sizes = []
    for start, n, chunk in zip(source.start or (0,) * source.ndim, source.shape, chunks, strict=True):
        first = min(n, chunk - start % chunk)
        full, last = divmod(n - first, chunk)
        sizes.append((first, *(chunk,) * full, *(last,) * (last > 0)))
    return tuple(sizes)


def lazy_chunks(source: Source) -> tuple[int, ...]:
    """The smallest multiple of the stored chunk with at least `LEAST_CHUNK` voxels, grown along the shortest axis."""
    chunks = [c or 1 for c in source.chunks]
    space = [d for d, name in enumerate(source.dims) if name in "zyx"]
    while prod(min(chunks[d], source.shape[d]) for d in space) < LEAST_CHUNK:
        short = [d for d in space if chunks[d] < source.shape[d]]
        if not short:
            break
        chunks[min(short, key=lambda i: chunks[i])] *= 2
    return tuple(chunks)


def origin_of(array: da.Array) -> Any:
    """What boxes of a dask array are read from.

    Returns
    -------
    Source, Derived, numpy array or dask array
        What it shows whole and unchanged; or itself, whose blocks are `as_declared`.
    """
    shown = _shown(array)
    return as_declared(array) if shown is None else shown


def _shown(array: da.Array) -> Any:
    """The `Source`, `Derived` or numpy array that a dask array shows whole and unchanged; None if there is none."""
    held = values_of(array.dask.layers.get(f"original-{array.name}") if hasattr(array.dask, "layers") else None)
    if len(held) == 1 and isinstance(held[0], Source | Derived | np.ndarray) and held[0].shape == array.shape:
        return held[0]
    if len(array.dask) == 1 and isinstance(value := next(iter(array.dask.values())), np.ndarray | DataNode):
        value = getattr(value, "value", value)
        if isinstance(value, np.ndarray) and value.shape == array.shape:
            return value
    return None


def kept_decoded(origin: Any) -> int:
    """Bytes that a process keeps of what it decodes as a whole, such as sections, below operators too."""
    if isinstance(origin, Derived):
        return max(map(kept_decoded, origin.inputs), default=0)
    return decoded.LIMIT if isinstance(origin, Source) and origin.format in decoded.FORMATS else 0


def places_read(array: da.Array) -> Iterator[dict[str, Any]]:
    """Where the stored arrays that a lazy array reads lie, as kvstore specs: ours, zarr-python's and xarray's."""
    for value in arrays_read(array):
        if isinstance(value, Source):
            yield value.spec.get("kvstore", {"driver": "file", "path": value.url})
        else:
            with suppress(SourceError):  # a store of another kind
                yield locate(_zarr_url(value.store_path)).kvstore


def arrays_read(array: da.Array) -> Iterator[Any]:
    """The stored arrays that a lazy array reads: sources, and arrays of zarr-python."""
    for layer in array.dask.layers.values():
        for value in values_of(layer):
            if isinstance(value, Payload) and value.kind == "reader":
                value = value.open().array
            elif isinstance(value, Payload) and value.kind == "network":
                mask = value.open().mask
                value = None if mask is None else mask.reader.array
            yield from _stored_in(value)


def _stored_in(value: Any) -> Iterator[Any]:
    if isinstance(value, da.Array):
        yield from arrays_read(value)
        return
    if isinstance(value, Derived):
        for below in value.inputs:
            yield from _stored_in(below)
        return
    while value is not None and not isinstance(value, Source) and not hasattr(value, "store_path"):
        value = getattr(value, "array", getattr(value, "_array", None))  # xarray wraps arrays in arrays
    if value is not None:
        yield value


def _zarr_url(place: Any) -> str:
    """Where zarr-python's ``StorePath`` lies: a local folder, or a path in a store of fsspec."""
    store = place.store
    path = f"{getattr(store, 'root', getattr(store, 'path', 'memory'))}/{place.path}"
    protocol = getattr(getattr(store, "fs", None), "protocol", "file")
    remote = [p for p in ([protocol] if isinstance(protocol, str) else protocol) if p in ("s3", "gs")]
    return f"{remote[0]}://{path}" if remote else path


def held_by_workers(array: da.Array) -> bool:
    """Whether chunks of an array are in the memory of a cluster's workers, where no other task can read parts of them.

    So are those of an array that was persisted on a client.
    """
    from distributed import Future

    return any(isinstance(value, Future) for layer in array.dask.layers.values() for value in values_of(layer))


def must_exchange(array: da.Array) -> bool:
    """Whether blocks should exchange halos rather than read their own: recomputing the volume is impossible (its chunks
    are already somewhere in memory) or dear (it is a network's output)."""
    if _shown(array) is not None:
        return False
    if networks_of(array.dask) or held_by_workers(array):
        return True
    for layer in array.dask.layers.values():
        values = values_of(layer)
        if len(values) > 1 and all(isinstance(v, np.ndarray) for v in values):
            return True
    return False


def check_reads(array: Any, boxes: Sequence[Box], blocks: int) -> None:
    """Warn or refuse where reading boxes of a lazy volume reads far more than the chunks it touches.

    Graphs such as ``v - v.mean()`` need the whole volume for every box. The graph of each box given is culled and
    nothing is computed; a few boxes are enough.

    Parameters
    ----------
    array
        What is read; only of a dask array there is anything to find.
    boxes
        Some of those that are read.
    blocks
        How many are read in all.

    Raises
    ------
    PlanError
        More than 16 times the voxels of the touched chunks would be read. Above 2 times, a warning; and where a number
        that needs most of the volume would be computed more than 4 times.
    """
    if not isinstance(array, da.Array):
        return
    worst = max((_read_ratio(array, box) for box in boxes), default=0.0)
    again = blocks > TIMES and _needs_all(array)
    if worst <= 2 and not again:
        return
    fact = f"Every block of this volume reads {worst:.0f} times the voxels of the chunks that it touches."
    if worst <= 2:
        fact = f"Each of the {blocks} blocks of this volume reads all of it, for a number that is the same in each."
    usual = "Usually the volume was computed with a number that needs all of it, such as volume - volume.mean()."
    ways = [
        "compute the number once: m = float(volume.mean()); infer(volume - m, model)",
        "or let the network's input be scaled: m, s = float(volume.mean()), float(volume.std()); "
        "infer(volume, model, normalize=(m, s))",
    ]
    if worst > 16:
        raise PlanError(fact, usual, [*ways, 'store the volume first: save(volume, "volume.zarr")'])
    warnings.warn("\n".join([fact, usual, *(f"  - {way}" for way in ways)]), stacklevel=3)


def _leaves(graph: HighLevelGraph) -> tuple[float, float]:
    """Voxels of the chunks that a graph begins with, and of the largest of them.

    A chunk that a slice left thin counts as a whole leaf chunk, because that is what must be read for it.
    """
    read, leaf = 0.0, 0.0
    for layer in graph.layers.values():
        sizes = [v.size for v in values_of(layer) if isinstance(v, np.ndarray)]  # chunks in memory
        read, leaf = read + sum(sizes), max([leaf, *sizes])
        for dep in layer.io_deps.values() if isinstance(layer, Blockwise) else ():
            if isinstance(dep, ArraySliceDep):
                chunk = prod(s[-1] for s in dep.starts) / max(1, prod(dep.numblocks))
                read += chunk * len(layer.get_output_keys())
                leaf = max(leaf, chunk)
    return read, leaf


def _read_ratio(array: da.Array, box: Box) -> float:
    """Voxels of leaf chunks that a box needs / voxels of the array's own chunks that it touches."""
    lead = array.ndim - len(box.start)
    part = array[(slice(None),) * lead + box.slices]
    read, leaf = _leaves(part.dask.cull(set(flatten(part.__dask_keys__()))))
    spans = [(0, n) for n in array.shape[:lead]] + list(zip(box.start, box.stop, strict=True))
    touched = [_touched(chunks, low, high) for chunks, (low, high) in zip(array.chunks, spans, strict=True)]
    return read / max(prod(n for _, n in touched), prod(k for k, _ in touched) * leaf, 1.0)


def _needs_all(array: da.Array) -> bool:
    """Whether its graph computes a number, an array without axes, of most of the volume."""
    graph = array.dask
    numbers = (name for name, layer in graph.layers.items() if layer.get_output_keys() == {(name,)})
    return any(_leaves(graph.cull({(name,)}))[0] > array.size / 2 for name in numbers)


def _touched(chunks: Sequence[int], low: int, high: int) -> tuple[int, int]:
    """Number and voxels of the chunks along an axis that meet ``[low, high)``."""
    edge, count, voxels = 0, 0, 0
    for c in chunks:
        if edge < high and edge + c > low:
            count, voxels = count + 1, voxels + c
        edge += c
    return count, voxels
