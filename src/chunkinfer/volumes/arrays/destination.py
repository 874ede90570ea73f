"""Destination: a stored array that blocks are written to, in whole write units."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chunkinfer.errors import ChunkinferError, DestinationError
from chunkinfer.stores import failures
from chunkinfer.stores.store import opened
from chunkinfer.volumes.arrays.source import Source
from chunkinfer.volumes.formats.precomputed.chunks import Chunks
from chunkinfer.volumes.formats.precomputed.shards import Shards


@dataclass(frozen=True, eq=False)
class Destination(Source):
    """A source that can also be written: by many processes at once, as long as each writes whole units of its own.

    ``shards`` is that unit. Every chunk of a block is stored, also where all voxels equal the fill value, so an absent
    chunk always means an unfinished write.
    """

    def write(self, box: Sequence[slice], array: NDArray[Any]) -> int:
        """Write a block; when this returns, it is durable.

        Parameters
        ----------
        box
            One slice per axis, zero-based, of whole write units; at the array's end a unit may be cut.
        array
            The voxels, with the shape of the box and the type of the array.

        Returns
        -------
        int
            Bytes of ``array``.

        Raises
        ------
        DestinationError
            The box is not made of whole units, the array does not fit, or the store does not take it.
        """
        index = self._checked(box, array)
        try:
            self._write(index, np.ascontiguousarray(array))
        except failures.FAILURES as error:
            if isinstance(error, ChunkinferError):
                raise
            raise failures.unwritable(self.url, error) from error
        return array.nbytes

    def _write(self, index: tuple[slice, ...], array: NDArray[Any]) -> None:
        import tensorstore as ts

        store = self._store()
        if self.format == "precomputed":
            spec = store.spec().to_json()
            kind = Shards if spec["scale_metadata"].get("sharding") else Chunks
            kind(spec).write(self.dims, index, array)
            return
        # One transaction: the chunks of a shard are stored together, once, instead of one rewrite per chunk.
        transaction = ts.Transaction()
        target = store.with_transaction(transaction)[index]
        target.write(array, can_reference_source_data_indefinitely=True).result()
        transaction.commit_async().result()

    def _store(self) -> Any:
        return opened(self.spec, self.digest + self.version, cached=False)

    def read(self, box: Sequence[slice]) -> NDArray[Any]:
        """Read a box back."""
        return self[tuple(box)]

    def _checked(self, box: Sequence[slice], array: NDArray[Any]) -> tuple[slice, ...]:
        if len(box) != self.ndim:
            raise self._refused(f"The box {_text(box)} has {len(box)} axes, the array has {self.ndim}.")
        index = []
        for part, dim, size, unit in zip(box, self.dims, self.shape, self.shards, strict=True):
            start, stop = part.start or 0, size if part.stop is None else part.stop
            if part.step not in (None, 1) or not 0 <= start < stop <= size:
                raise self._refused(f"The box {_text(box)} is not inside the array along {dim} (0:{size}).")
            if start % unit or (stop % unit and stop != size):
                whole = f"{start // unit * unit}:{min(size, -(-stop // unit) * unit)}"
                raise self._refused(f"The box {_text(box)} cuts units of {unit} voxels along {dim}; whole: {whole}.")
            index.append(slice(int(start), int(stop)))
        expected = tuple(part.stop - part.start for part in index)
        if array.shape != expected or array.dtype != self.dtype:
            raise self._refused(
                f"A block of {array.dtype} {array.shape} does not fit the box {_text(box)}: {self.dtype} {expected}."
            )
        return tuple(index)

    def _refused(self, what: str) -> DestinationError:
        return DestinationError(
            f"{what} ({self.url})",
            "Each chunk or shard has one writer, or concurrent writers undo each other's work.",
            [f"write boxes that are multiples of {self.shards}", "or create the array with smaller chunks or shards"],
        )


def _text(box: Sequence[slice]) -> str:
    return "[" + ", ".join(f"{part.start}:{part.stop}" for part in box) + "]"
