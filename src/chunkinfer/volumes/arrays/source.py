"""Source: a stored array, as a small value that can travel to workers."""

from __future__ import annotations

import operator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chunkinfer.errors import ChunkinferError
from chunkinfer.stores import failures
from chunkinfer.stores.store import canonical, opened
from chunkinfer.volumes.formats import readers
from chunkinfer.volumes.formats.precomputed import shards

Bounds = tuple[tuple[int, int], ...]


@dataclass(frozen=True, eq=False)
class Source:
    """What an array at a URL is, and its voxels.

    A source holds a spec and metadata, never an open handle: it pickles to a few hundred bytes, and each process opens
    the spec once. Indexing reads: ``source[10:20, :, 5]`` is a numpy array.
    """

    url: str
    """Where the array is, as the user wrote it (local paths absolute), without format prefix."""
    format: str
    """"zarr2", "zarr3", "precomputed", "n5", or a name in `readers.OPENERS`, for what other libraries read."""
    spec: dict[str, Any]
    """tensorstore's spec, turned to ``dims`` and to indices from 0, without credentials; for files what their reader
    opens, with their ``kvstore`` and ``axes`` as stored."""
    dims: tuple[str, ...]
    """Axes, out of ("t", "c", "z", "y", "x") and in that order."""
    shape: tuple[int, ...]
    """Voxels per axis."""
    dtype: np.dtype[Any]
    """Type of a voxel: bool, integer or float, in native byte order."""
    chunks: tuple[int, ...]
    """Smallest readable unit per axis: the inner chunk of a shard, otherwise the chunk."""
    shards: tuple[int, ...]
    """Smallest unit per axis that one writer must own: the shard, otherwise the chunk."""
    voxel_size: dict[str, float]
    """Size of a voxel per spatial axis, in ``unit``; 1.0 if unknown."""
    unit: str
    """"nm", "um", ...; '' if unknown."""
    offset: dict[str, int | float]
    """Volume coordinate, in voxels, of index 0 per spatial axis; may be negative."""
    names: dict[str, Any] = field(default_factory=dict)
    """Further attributes, such as ``channel_names``."""
    version: str = ""
    """Modification time, etag or generation of the metadata object, where the store has one."""
    digest: str = ""
    """Digest of the metadata."""
    missing: str = "error"
    """What an absent chunk is: an "error", or to "fill" with the fill value."""
    level: int = 0
    """Which one of an image it is, for messages."""
    start: tuple[int, ...] = ()
    """Of a crop: the stored index that is its index 0, per axis. Empty for a whole array."""

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def row(self) -> int | None:
        """The axis along which all voxels lie one behind the other in a flat file; None where there are chunks."""
        if "order" not in self.spec or self.start:
            return None
        return self.dims.index(self.spec["axes"][0 if self.spec["order"] == "F" else -1])

    def cropped(self, box: Bounds) -> Source:
        """The part of the array in a box, with indices from 0: nothing else is ever looked at, however large it is."""
        first = self.start or (0,) * self.ndim
        low = {dim: a for dim, (a, _) in zip(self.dims, box, strict=True)}
        return replace(
            self,
            start=tuple(s + a for s, (a, _) in zip(first, box, strict=True)),
            shape=tuple(b - a for a, b in box),
            offset={dim: offset + low[dim] for dim, offset in self.offset.items()},
        )

    def __getitem__(self, key: Any) -> NDArray[Any]:
        """Read a box: a tuple of slices and integers, zero-based, as in numpy; steps are taken of what was read.

        Raises
        ------
        MissingChunk
            A chunk is absent and ``missing`` is "error".
        SourceError
            The store does not answer, or a chunk is damaged.
        """
        bounds, taken = box_of(key, self.shape)
        values = self._read(bounds)
        return values if all(part == slice(None) for part in taken) else values[taken]

    def _read(self, bounds: Bounds) -> NDArray[Any]:
        if any(start >= stop for start, stop in bounds):
            return np.empty([max(0, stop - start) for start, stop in bounds], self.dtype)
        if self.start:
            bounds = tuple((s + a, s + b) for s, (a, b) in zip(self.start, bounds, strict=True))
        try:
            return READERS.get(self.format, _stored)(self, bounds)
        except failures.FAILURES as error:
            if isinstance(error, ChunkinferError):
                raise
            raise failures.unread_box(self.url, bounds, error, self.format, self.level) from error

    def _store(self) -> Any:
        return opened(self.spec, self.digest + self.version)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """The whole array in memory."""
        return self[...].astype(dtype or self.dtype, copy=False)

    def __dask_tokenize__(self) -> tuple[str, ...]:
        """What identifies the data: spec, metadata and version, and the part of a crop."""
        part = str((self.start, self.shape)) if self.start else ""
        return ("chunkinfer.storage.Source", canonical(self.spec), self.digest, self.version, part)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Source) and self.__dask_tokenize__() == other.__dask_tokenize__()

    def __hash__(self) -> int:
        return hash(self.__dask_tokenize__())

    def __repr__(self) -> str:
        axes = ", ".join(f"{dim}={size}" for dim, size in zip(self.dims, self.shape, strict=True))
        return f"<{type(self).__name__} {self.url} ({self.format}) {axes} {self.dtype}>"


def box_of(key: Any, shape: tuple[int, ...]) -> tuple[Bounds, tuple[int | slice, ...]]:
    """Bounds per axis of what a numpy key needs, and the key to what was read of them.

    >>> box_of((slice(2, None), 3, slice(None, None, 2)), (10, 10, 4))
    (((2, 10), (3, 4), (0, 3)), (slice(None, None, None), 0, slice(None, None, 2)))
    """
    parts = list(key) if isinstance(key, tuple) else [key]
    ellipses = [position for position, part in enumerate(parts) if part is Ellipsis]
    if len(ellipses) > 1 or len(parts) - len(ellipses) > len(shape):
        raise IndexError(f"too many indices: {key!r} for an array with {len(shape)} axes")
    fill = [slice(None)] * (len(shape) - len(parts) + len(ellipses))
    at = ellipses[0] if ellipses else len(parts)
    parts = parts[:at] + fill + parts[at + 1 :]
    bounds: list[tuple[int, int]] = []
    taken: list[int | slice] = []
    for axis, (part, size) in enumerate(zip(parts, shape, strict=True)):
        if isinstance(part, slice):
            start, stop, step = part.indices(size)
            picked = range(start, stop, step)
            bounds.append((min(picked), max(picked) + 1) if picked else (0, 0))
            taken.append(slice(None, None, step) if step != 1 else slice(None))
        else:
            try:
                index = operator.index(part)
            except TypeError as error:
                raise IndexError(f"{part!r} on axis {axis}: an index is a slice or an integer") from error
            if not -size <= index < size:
                raise IndexError(f"index {index} is out of bounds for axis {axis} with size {size}")
            bounds.append((index % size, index % size + 1))
            taken.append(0)
    return tuple(bounds), tuple(taken)


def _stored(source: Source, bounds: Bounds) -> NDArray[Any]:
    """What tensorstore reads."""
    failures.refuse_huge(source.url, source.chunks, source.dtype.itemsize)
    index = tuple(slice(start, stop) for start, stop in bounds)
    values: NDArray[Any] = source._store()[index].read().result()
    return values


def _precomputed(source: Source, bounds: Bounds) -> NDArray[Any]:
    """tensorstore takes absent chunks of shards for zeros."""
    values = _stored(source, bounds)
    if source.missing == "error" and (absent := shards.absent_chunk(source._store(), source.dims, bounds, values)):
        raise failures.missing_chunk(source.url, bounds, absent, source.level)
    return values


def _of_file(source: Source, bounds: Bounds) -> NDArray[Any]:
    """What a format's own library reads, turned to the order of the dims."""
    axes = source.spec["axes"]
    box = tuple(bounds[source.dims.index(dim)] for dim in axes)
    values = readers.read(source.format, source.url, source.spec, source.version, box)
    turned = values.transpose([axes.index(dim) for dim in source.dims])
    if values.flags.writeable:
        return np.ascontiguousarray(turned, source.dtype)
    return np.array(turned, source.dtype, order="C")  # readers make what they keep read-only: maps, decoded files


READERS = {"precomputed": _precomputed, **dict.fromkeys(readers.OPENERS, _of_file)}
"""Format -> how boxes of it are read, where tensorstore alone does not do."""
