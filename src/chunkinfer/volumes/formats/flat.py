"""Flat arrays: uncompressed, from one place in a file on. Local ones are read or memory-mapped, others read by rows."""

from __future__ import annotations

import itertools
import math
import os
import weakref
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chunkinfer.stores.ranges import Stored, content_of
from chunkinfer.stores.store import kvstore

RUN = 1 << 18
"""Bytes in a row of a file from which on they are read, because a map costs a page fault for each 4 KiB."""

SIDE = 64
"""Voxels per axis of what counts as a chunk, where the file has none."""


def spec(file: Stored, offset: int, shape: tuple[int, ...], dtype: np.dtype[Any], order: str) -> dict[str, Any]:
    """What `Flat` takes.

    Raises
    ------
    ValueError
        The file is too short.
    """
    if (end := offset + math.prod(shape) * dtype.itemsize) > file.size:
        raise ValueError(f"it is too short to be memory-mapped: it has {file.size} bytes, and its header needs {end}")
    return {**file.spec, "offset": offset, "shape": list(shape), "type": dtype.str, "order": order}


def chunks(stored: tuple[str, ...], shape: tuple[int, ...]) -> tuple[int, ...]:
    """What counts as a chunk of an array that has none."""
    return tuple(min(size, SIDE) if dim in "zyx" else 1 for dim, size in zip(stored, shape, strict=True))


class Flat:
    """An array in a file, by boxes."""

    def __init__(self, spec: Mapping[str, Any]) -> None:
        self.place, self.offset = spec["kvstore"], spec["offset"]
        self.shape, self.dtype = tuple(spec["shape"]), np.dtype(spec["type"])
        self.fortran = spec["order"] == "F"
        self.mapped: NDArray[Any] | None = None
        if self.place["driver"] == "file":
            self.mapped = np.memmap(self.place["path"], self.dtype, "r", self.offset, self.shape, spec["order"])
            self.file = os.open(self.place["path"], os.O_RDONLY | getattr(os, "O_BINARY", 0))
            weakref.finalize(self, os.close, self.file)

    def __getitem__(self, index: tuple[slice, ...]) -> NDArray[Any]:
        if self.mapped is not None:
            if self.fortran:
                return self._local(self.mapped.T, index[::-1]).T
            return self._local(self.mapped, index)
        if self.fortran:
            return _rows(self.place, self.offset, self.shape[::-1], self.dtype, index[::-1]).T
        return _rows(self.place, self.offset, self.shape, self.dtype, index)

    def _local(self, mapped: NDArray[Any], index: tuple[slice, ...]) -> NDArray[Any]:
        """A box of the array in C order: read where it lies in long runs, else a view of the map."""
        shape = mapped.shape
        axis = len(shape) - 1
        while axis > 0 and index[axis] == slice(0, shape[axis]):
            axis -= 1
        sizes = tuple(part.stop - part.start for part in index)
        run = math.prod(sizes[axis:]) * self.dtype.itemsize
        if run < RUN or not hasattr(os, "preadv"):
            return np.asarray(mapped[index])
        box = np.empty(sizes, self.dtype)
        room = box.reshape(-1).view(np.uint8).data
        steps = [math.prod(shape[i + 1 :]) * self.dtype.itemsize for i in range(axis + 1)]
        first = self.offset + index[axis].start * steps[axis]
        places = itertools.product(*(range(part.start, part.stop) for part in index[:axis]))
        for start, lead in zip(range(0, len(room), run), places, strict=True):
            place = first + sum(i * step for i, step in zip(lead, steps, strict=False))
            done = 0
            while done < run:
                read = os.preadv(self.file, [room[start + done : start + run]], place + done)
                if not read:
                    raise OSError(f"DATA_LOSS: {self.place['path']} ends before byte {place + run}")
                done += read
        return box


def _rows(
    place: dict[str, Any], offset: int, shape: tuple[int, ...], dtype: np.dtype[Any], index: tuple[slice, ...]
) -> NDArray[Any]:
    """A box of an array in C order; of every plane, one read takes the whole rows that hold the box."""
    store, row = kvstore(place), shape[-1] * dtype.itemsize
    *lead, rows, columns = index
    reads = []
    for at in itertools.product(*(range(part.start, part.stop) for part in lead)):
        plane = 0
        for i, size in zip(at, shape, strict=False):
            plane = plane * size + i
        start = offset + (plane * shape[-2] + rows.start) * row
        reads.append(store.read("", byte_range=slice(start, start + (rows.stop - rows.start) * row)))
    planes = [np.frombuffer(content_of(read), dtype).reshape(-1, shape[-1])[:, columns] for read in reads]
    return np.stack(planes).reshape([part.stop - part.start for part in index])
