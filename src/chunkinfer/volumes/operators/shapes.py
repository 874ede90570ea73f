"""Operators on places: crop, pad, transpose, coarser and finer grids, chunks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from math import ceil
from operator import index
from typing import Any

import numpy as np

from chunkinfer.errors import VolumeError
from chunkinfer.geometry.boxes import Box
from chunkinfer.volumes.arrays.downsampling import METHODS
from chunkinfer.volumes.arrays.downsampling import downsample as coarse
from chunkinfer.volumes.frame import Frame
from chunkinfer.volumes.operators.arguments import check_unit, fill_of, whole_numbers
from chunkinfer.volumes.operators.lazy import Declared, opened, result_of
from chunkinfer.volumes.operators.resampling import Coarser, Finer, Moved
from chunkinfer.volumes.volume import Volume

__all__ = ["crop", "downsample", "pad", "rechunk", "transpose", "upsample"]


def crop(volume: Any, box: Sequence[slice] | Mapping[str, slice], *, unit: str = "voxels") -> Any:
    """Keep a box.

    Parameters
    ----------
    volume
        Of any kind.
    box
        Slices of the spatial axes, in order or by name; axes that are left out are kept whole.
    unit
        "voxels": indices from the array's first voxel. "physical": positions in the unit of the voxel size; a voxel is
        kept if its lower corner lies inside.
    """
    found = opened(volume)
    check_unit(unit)
    frame, space = found.frame, found.frame.space
    given = box.slices if isinstance(box, Box) else box
    if isinstance(given, slice):
        given = (given,)
    given = given if isinstance(given, Mapping | Sequence) else ()
    parts = dict(given if isinstance(given, Mapping) else zip(space, given, strict=False))
    known = parts and not set(parts) - set(space) and len(given) <= len(space)
    if not known or not all(isinstance(part, slice) and part.step in (None, 1) for part in parts.values()):
        raise VolumeError(f"box={box!r} does not give slices of the axes {space}.", "A box has a start and a stop.",
                          [f'crop(volume, {{"{space[0]}": slice(0, {found.space_shape[0]})}})',
                           f"crop(volume, (slice(0, {found.space_shape[0]}),))"])  # fmt: skip
    spans = {}
    for d, n in zip(space, found.space_shape, strict=True):
        ends: list[Any] = [parts.get(d, slice(None)).start, parts.get(d, slice(None)).stop]
        if unit == "physical":
            size, origin = frame.voxel_size[d], frame.origin[d]
            ends = [None if p is None else ceil(round(p / size - origin, 6)) for p in ends]
        try:
            start, stop = (edge if p is None else index(p) for p, edge in zip(ends, (0, n), strict=True))
        except TypeError as error:
            raise VolumeError(f"The box takes {parts[d]} of axis {d}.", "Voxels are counted in whole numbers.",
                              [f'crop(volume, {{"{d}": slice(0, {n})}})', 'unit="physical"']) from error  # fmt: skip
        if not 0 <= start < stop <= n:
            raise VolumeError(f"The box takes [{start}:{stop}] of axis {d}, which has {n} voxels.",
                              "It reaches outside of the volume, or is empty.",
                              [f'crop(volume, {{"{d}": slice(0, {n})}})', "add voxels first, by pad"])  # fmt: skip
        spans[d] = start, stop
    kept = {d: c.isel({d: slice(*spans[d])}) for d, c in frame.coords.items()}  # the very positions, not new ones
    return _placed(found, spans, kept)


def pad(volume: Any, width: int | Sequence[Any] | Mapping[str, Any], *, mode: str = "constant", fill: float = 0) -> Any:
    """Add voxels around the volume; its origin moves, positions stay.

    Parameters
    ----------
    volume
        Of any kind.
    width
        Voxels on each side: a number, one per spatial axis, or ``(before, after)`` per axis; or a dict by axis.
    mode
        "constant" or "edge", which repeats the outermost voxel.
    fill
        What "constant" adds.
    """
    found = opened(volume)
    space = found.frame.space
    try:
        both = _both_sides(width, space)
    except (TypeError, ValueError):
        both = {}
    if not both or mode not in ("constant", "edge"):
        raise VolumeError(f"width={width!r}, mode={mode!r} does not say what to add.",
                          f"Widths are for the axes {space}; the mode is constant or edge.",
                          ["pad(volume, 16)", 'pad(volume, {"z": (0, 8)}, mode="edge")'])  # fmt: skip
    spans = {d: (-both[d][0], n + both[d][1]) for d, n in zip(space, found.space_shape, strict=True)}
    kept = {d: c for d, c in found.frame.coords.items() if both[d] == (0, 0)}
    return _placed(found, spans, kept, mode, fill_of(found.array.dtype, fill))


def transpose(volume: Any, axes: str | Sequence[str]) -> Any:
    """Turn the spatial axes: the result's z, y, x are the axes named, in that order.

    Parameters
    ----------
    volume
        Of any kind.
    axes
        Such as "xyz": what was x is called z in the result, for volumes whose axes were stored in the wrong order.
    """
    found = opened(volume)
    space = found.frame.space
    if not isinstance(axes, str | Sequence) or sorted(map(str, axes)) != sorted(space):
        raise VolumeError(f"axes={axes!r} does not name each of {space} once.", "It is a new order of the same axes.",
                          [f'transpose(volume, "{"".join(reversed(space))}")', "leave the operator out"])  # fmt: skip
    lead = found.array.ndim - len(space)
    order = (*range(lead), *(lead + space.index(d) for d in axes))
    shape = tuple(found.array.shape[d] for d in order)
    frame = Frame(space, {d: found.frame.voxel_size[a] for d, a in zip(space, axes, strict=True)},
                  {d: found.frame.origin[a] for d, a in zip(space, axes, strict=True)}, found.frame.unit)  # fmt: skip
    declared = replace(Declared.like(found), shape=shape, frame=frame)
    return result_of(Moved(order, (0,) * len(order), found.array.shape), found, declared)


def downsample(volume: Any, factors: int | Sequence[int], *, method: str = "mean") -> Any:
    """Make the grid coarser: each cell of voxels becomes one. Cells lie on one grid from the volume's voxel 0.

    Parameters
    ----------
    volume
        Of any kind.
    factors
        Voxels of a cell per spatial axis, or one number.
    method
        "mean" (integers are rounded to the nearest, halves to even), "mode" for labels (of equally frequent ones the
        least), "min", "max", or "stride": the cell's first voxel. At the far faces cells hold what is left.
    """
    found = opened(volume)
    each = whole_numbers("factors", factors, found.frame.space, least=1)
    if method not in METHODS:
        raise VolumeError(f"method={method!r} is not known.", f"Methods are {', '.join(METHODS)}.",
                          ['method="mean" for images', 'method="mode" for labels'])  # fmt: skip
    whole = (1,) * (found.array.ndim - len(each)) + each
    shape = tuple(-(-n // f) for n, f in zip(found.array.shape, whole, strict=True))
    frame = found.frame.moved((0,) * len(each), each)
    step = Coarser(partial(coarse, method=method), whole, found.array.shape)
    return result_of(step, found, replace(Declared.like(found), shape=shape, frame=frame))


def upsample(volume: Any, factors: int | Sequence[int]) -> Any:
    """Make the grid finer: each voxel becomes a cell of equal ones.

    Parameters
    ----------
    volume
        Of any kind.
    factors
        Voxels of a cell per spatial axis, or one number.
    """
    found = opened(volume)
    each = whole_numbers("factors", factors, found.frame.space, least=1)
    whole = (1,) * (found.array.ndim - len(each)) + each
    shape = tuple(n * f for n, f in zip(found.array.shape, whole, strict=True))
    old, by = found.frame, dict(zip(found.frame.space, each, strict=True))
    frame = Frame(
        old.space, {d: old.voxel_size[d] / f for d, f in by.items()}, {d: old.origin[d] * f for d, f in by.items()},
        old.unit, {d: c for d, c in old.coords.items() if by[d] == 1},
    )  # fmt: skip
    return result_of(Finer(whole), found, replace(Declared.like(found), shape=shape, frame=frame))


def rechunk(volume: Any, chunks: int | Sequence[int]) -> Any:
    """Other chunks of the lazy volume; what is stored follows `save`'s own ``chunks=``.

    Parameters
    ----------
    volume
        Of any kind.
    chunks
        Voxels per spatial axis, or one number.
    """
    found = opened(volume)
    each = whole_numbers("chunks", chunks, found.frame.space, least=1)
    lead = found.array.ndim - len(each)
    whole = [min(c, n) for c, n in zip((*found.array.shape[:lead], *each), found.array.shape, strict=True)]
    moved = Moved(tuple(range(found.array.ndim)), (0,) * found.array.ndim, found.array.shape)
    return result_of(moved, found, Declared.like(found), chunks=whole)


def _placed(
    volume: Volume, spans: Mapping[str, tuple[int, int]], coords: dict[str, Any], mode: str = "constant", fill: Any = 0
) -> Any:
    """A box of the volume, or more than all of it; ``coords`` are positions that stay as they are."""
    frame = volume.frame
    lengths = zip(volume.dims, volume.array.shape, strict=True)
    shape = tuple(spans[d][1] - spans[d][0] if d in spans else n for d, n in lengths)
    first = tuple(spans[d][0] if d in spans else 0 for d in volume.dims)
    moved = replace(frame, origin={d: frame.origin[d] + spans[d][0] for d in frame.space}, coords=coords)
    step = Moved(tuple(range(volume.array.ndim)), first, volume.array.shape, mode, fill)
    return result_of(step, volume, replace(Declared.like(volume), shape=shape, frame=moved))


def _both_sides(width: Any, space: Sequence[str]) -> dict[str, tuple[int, int]]:
    """Voxels before and after, per axis; TypeError or ValueError where it does not say."""
    if not isinstance(width, Mapping):
        width = dict.fromkeys(space, width) if np.ndim(width) == 0 else dict(zip(space, width, strict=True))
    if set(width) - set(space):
        raise ValueError(width)
    both = {}
    for d in space:
        given = width.get(d, 0)
        before, after = (given, given) if np.ndim(given) == 0 else given
        both[d] = index(before), index(after)
        if min(both[d]) < 0:
            raise ValueError(width)
    return both
