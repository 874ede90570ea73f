"""Arrays whose boxes are computed when they are read: what operators make of volumes.

A chain of them reads its source once: each box asks the array below for the box that it needs, halo included, and so on
down to the store::

    quantise[box] -> gaussian[box] -> normalise[box + halo] -> one read of the source's box + halo
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import dask.array as da
import numpy as np
from dask.base import normalize_token, tokenize
from numpy.typing import NDArray

from chunkinfer.errors import VolumeError
from chunkinfer.geometry.boxes import Box
from chunkinfer.volumes.arrays.source import Source, box_of


class Step(Protocol):
    """What computes a box: a small value that can travel and be tokenized."""

    def reads(self, box: Box) -> tuple[Box, ...]:
        """The box of each input that a box of the result needs, inside of the input; of size 0 for none."""

    def compute(self, box: Box, seen: tuple[Box, ...], parts: Sequence[NDArray[Any]]) -> NDArray[Any]:
        """The voxels of a box of the result, out of the boxes that were read."""


@dataclass(frozen=True, eq=False)
class Derived:
    """An array that a step computes out of others, box by box."""

    step: Step
    inputs: tuple[Any, ...]
    """Arrays that are read by boxes: a `Source`, numpy arrays, other derived arrays, dask arrays."""
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    def __getitem__(self, key: Any) -> NDArray[Any]:
        """Compute a box: a tuple of slices and integers, zero-based, as in numpy."""
        bounds, taken = box_of(key, self.shape)
        values = self.read(Box(tuple(a for a, _ in bounds), tuple(b for _, b in bounds)))
        return values if all(part == slice(None) for part in taken) else values[taken]

    def read(self, box: Box) -> NDArray[Any]:
        """Compute a box."""
        if box.size == 0:
            return np.empty(box.shape, self.dtype)
        seen = self.step.reads(box)
        parts = [voxels(array, part) for array, part in zip(self.inputs, seen, strict=True)]
        return np.asarray(self.step.compute(box, seen, parts), self.dtype)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """The whole array in memory."""
        return self[...].astype(dtype or self.dtype, copy=False)

    def __dask_tokenize__(self) -> tuple[Any, ...]:
        inputs = tuple(normalize_token(i) for i in self.inputs)
        return "chunkinfer.Derived", normalize_token(self.step), inputs, self.shape, self.dtype.str


def voxels(array: Any, box: Box) -> NDArray[Any]:
    """A box of an array of any kind, in memory."""
    part = array[box.slices]
    return np.asarray(part.compute(scheduler="synchronous") if isinstance(part, da.Array) else part)


def as_declared(array: da.Array) -> da.Array:
    """The same array, refusing blocks of another shape than it declares.

    dask slices and concatenates blocks as they are declared, and a wrong one is broadcast or cut in silence. Where the
    array was made by functions mapped over blocks, the check is part of their tasks.
    """
    checked: da.Array = da.map_blocks(
        _as_declared, array, sizes=array.chunks, name=f"as-declared-{array.name}", dtype=array.dtype, meta=array._meta
    )
    return checked


def _as_declared(
    block: NDArray[Any], sizes: tuple[tuple[int, ...], ...], block_id: tuple[int, ...] = ()
) -> NDArray[Any]:
    check_shape(block, tuple(axis[at] for axis, at in zip(sizes, block_id, strict=True)), block_id)
    return block


def check_shape(block: Any, declared: tuple[int, ...], place: tuple[int, ...] | Box) -> None:
    """Refuse a block of another shape than the array declares.

    Raises
    ------
    VolumeError
        It has another shape.
    """
    # Asked of the block itself: numpy's own function may be one that a foreign array refuses.
    shape = tuple(block.shape) if hasattr(block, "shape") else np.shape(block)
    if shape != declared:
        raise VolumeError(
            f"Block {place} of the volume declares the shape {declared}, and has {shape}.",
            "A function that was mapped over blocks changes their shape, and dask was not told.",
            ["say so: map_blocks(function, chunks=...)", "or compute it first: volume.compute()"],
        )


def derived_array(
    step: Step, inputs: Sequence[Any], shape: Sequence[int], dtype: Any, chunks: Sequence[int]
) -> da.Array:
    """What a step makes of arrays, as a dask array whose blocks `origin_of` reads straight from it."""
    return by_boxes(Derived(step, tuple(inputs), tuple(shape), np.dtype(dtype)), tuple(chunks))


def by_boxes(array: Source | Derived, chunks: Any) -> da.Array:
    """A dask array of what is read by boxes; lists of indices are taken of what was read."""
    meta = np.empty((0,) * array.ndim, array.dtype)
    name = f"volume-{tokenize(array, chunks)}"
    lazy: da.Array = da.from_array(array, chunks, name=name, asarray=False, fancy=False, meta=meta)
    return lazy
