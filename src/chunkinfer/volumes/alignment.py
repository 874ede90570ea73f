"""What a mask's voxels have to do with a result's: matched by position, whatever the resolutions.

Voxel ``i`` covers ``[origin + i, origin + i + 1) * voxel_size``: coordinates are lower corners. Positions in here are
fractions, in voxels of the volume, so no rounding moves a voxel.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from math import ceil, floor, lcm
from typing import Any

from chunkinfer.errors import VolumeError
from chunkinfer.volumes.arrays.placement import METRES, short_unit
from chunkinfer.volumes.frame import Frame
from chunkinfer.volumes.lazy import held_by_workers
from chunkinfer.volumes.masks import Mask, MaskAxis
from chunkinfer.volumes.volume import Volume, as_volume, source_of

LARGEST = 10**6
"""Denominators up to here are read out of floating-point sizes and origins: 2.6666666666666665 is 8/3."""

OPEN = "chunkinfer.open_volume(url, voxel_size=..., offset=...)"


def resolve_mask(mask: Any, volume: Volume, frame: Frame, shape: Sequence[int]) -> Mask:
    """Where a mask says which voxels of a result are wanted; nothing of it is read.

    A mask with coordinates is matched by them, by voxel size and origin. A mask without, such as a numpy, dask or zarr
    array, has the volume's shape, or starts where the volume starts and is smaller by whole factors that follow from
    its shape.

    Parameters
    ----------
    mask
        A DataArray, URL, numpy, dask or zarr array of bool, integers or floats; not 0 where a voxel is wanted. Its axes
        are the volume's spatial axes; a single channel is allowed.
    volume
        What is inferred.
    frame, shape
        Of the result, over its spatial axes.

    Raises
    ------
    VolumeError
        Its axes or units do not fit; it does not cover the result; its coordinates are centres of voxels; its factors
        are ambiguous; or it is another network's output, or in workers' memory, where blocks cannot read parts of it.
    """
    held = _opened(mask, volume)
    _check_readable(held)
    whole = _grids(volume.frame, volume.space_shape, volume.frame)
    out = _grids(frame, shape, volume.frame)
    if held.labelled:
        grids = _grids(held.frame, held.space_shape, volume.frame)
        _check_corners(grids, whole, held.frame)
        _check_covers(grids, out, whole, held, volume)
    else:
        grids = _assumed(whole, held.space_shape, volume.frame)
    axes = tuple(_lookup(o, m) for o, m in zip(out, grids, strict=True))
    return Mask(held.reader, axes, source_of(held))


@dataclass(frozen=True)
class _Grid:
    """The voxels along an axis, in voxels of the volume."""

    axis: str
    size: Fraction
    """Edge length of a voxel."""
    origin: Fraction
    """Lower corner of voxel 0, in voxels of this grid."""
    n: int

    @property
    def low(self) -> Fraction:
        return self.origin * self.size

    @property
    def high(self) -> Fraction:
        return (self.origin + self.n) * self.size

    def centre(self, i: int) -> Fraction:
        return (self.origin + i + Fraction(1, 2)) * self.size

    def index(self, position: Fraction) -> int:
        """The voxel that contains a position; outside of the grid, as if it went on."""
        return floor(position / self.size - self.origin)


def _lookup(out: _Grid, mask: _Grid) -> MaskAxis:
    """``mask.index(out.centre(i))`` in integers."""
    step, first = out.size / mask.size, out.centre(0) / mask.size - mask.origin
    per = lcm(step.denominator, first.denominator)
    return MaskAxis(int(step * per), int(first * per), per, mask.n)


def _grids(frame: Frame, shape: Sequence[int], volume: Frame) -> list[_Grid]:
    """The axes of a frame, in voxels of the volume."""
    unit = _unit_ratio(frame.unit, volume.unit)
    return [
        _Grid(d, _ratio(frame.voxel_size[d] * unit, volume.voxel_size[d]), _exact(frame.origin[d]), n)
        for d, n in zip(frame.space, shape, strict=True)
    ]


def _exact(value: float) -> Fraction:
    """The fraction that a floating-point number stands for."""
    return Fraction(value).limit_denominator(LARGEST)


def _ratio(a: float, b: float) -> Fraction:
    """The fraction that ``a / b`` stands for; as exact below 1 as above."""
    value = Fraction(a) / Fraction(b)
    return value.limit_denominator(LARGEST) if value >= 1 else 1 / (1 / value).limit_denominator(LARGEST)


def _unit_ratio(mask: str, volume: str) -> float:
    """The mask's unit in the volume's; 1 where either is not stated."""
    a, b = short_unit(mask), short_unit(volume)
    if a == b or not a or not b:
        return 1.0
    if unknown := [unit for unit in (a, b) if unit not in METRES]:
        raise VolumeError(
            f"The mask's coordinates are in {a!r}, the volume's in {b!r}, and {unknown[0]!r} is not a known length.",
            f"Known are {', '.join(METRES)}.",
            [
                f"if they are the same: mask.assign_attrs(unit={b!r})",
                "convert one of them: mask.assign_coords(x=mask.x * 25.4, ...).assign_attrs(unit=...)",
            ],
        )
    return METRES[a] / METRES[b]


def _opened(mask: Any, volume: Volume) -> Volume:
    """The mask in one form; labelled if it says where its voxels are."""
    import xarray as xr

    space = volume.frame.space
    try:
        held = as_volume(mask, len(space))
    except VolumeError as error:
        ways = [re.sub(r"\bvolume\b", "mask", way) for way in error.ways]
        raise VolumeError(f"mask= cannot be used. {error.what}", error.means, ways) from error
    if held.frame.space != space:
        given = "mask" if hasattr(mask, "dims") else "chunkinfer.open_volume(mask)"
        drop = [f".isel({d}=0)" for d in held.frame.space if d not in space]
        add = [f".expand_dims({d}=volume.{d})" for d in space if d not in held.frame.space]
        raise VolumeError(
            f"The mask's spatial axes are {held.frame.space}, the volume's are {space}.",
            "A mask says of every voxel of the result whether it is wanted.",
            [f"mask={given}{''.join(drop + add)}", "make a mask of the volume's own axes"],
        )
    for axis, (d, n) in enumerate(zip(held.dims, held.array.shape, strict=True)):
        if d not in space and (d, n) != ("c", 1):
            over, one = (repr(d), f".isel({d}=0)") if held.labelled else (str(axis), "[0]")
            raise VolumeError(
                f"The mask has {n} entries along {d}.",
                "One mask holds for all channels of a result.",
                [f"wanted where any of them is: mask=mask.any({over})", f"one of them: mask=mask{one}"],
            )
    if isinstance(mask, xr.DataArray) and not held.frame.coords and "voxel_size" not in mask.attrs:
        return replace(held, labelled=False)
    return held


def _check_readable(mask: Volume) -> None:
    """Every block reads its part of the mask by itself, inside its own task."""
    store = 'store it: save(mask, "mask.zarr"); infer(volume, model, mask="mask.zarr")'
    if mask.networks:
        raise VolumeError(
            "The mask is made from a network's output that is not stored.",
            "Every block would run that network again for its part.",
            [store, "compute it, if it fits into memory: mask=mask.compute()"],
        )
    if held_by_workers(mask.array):
        raise VolumeError(
            "The mask is in the memory of dask's workers.",
            "It was persisted, and a block's task cannot read parts of what other workers hold.",
            ["bring it here: mask=mask.compute()", store],
        )


# A mask without coordinates: its shape says what it can.


def whole_factor(voxels: int, n: int) -> int | None:
    """The factor by which ``voxels`` were reduced to ``n``, if the numbers tell.

    A quotient without remainder is taken. Otherwise the last, partial voxel was kept or dropped, and there has to be
    one factor that gives ``n`` with it kept, and no other one either way.

    >>> whole_factor(96, 12), whole_factor(100, 13)
    (8, 8)
    >>> whole_factor(100, 12)  # 9 with a partial voxel kept, 8 with it dropped
    """
    if voxels % n == 0:
        return voxels // n
    near = range(1, min(voxels, 2 * ceil(voxels / n) + 1) + 1)
    kept = {f for f in near if ceil(voxels / f) == n}
    either = kept | {f for f in near if voxels // f == n}
    return min(kept) if kept and len(either) == 1 else None


def _assumed(whole: Sequence[_Grid], shape: Sequence[int], volume: Frame) -> list[_Grid]:
    """The axes of a mask that starts where the volume starts."""
    grids = []
    for v, n in zip(whole, shape, strict=True):
        factor = whole_factor(v.n, n)
        if factor is None:
            raise _unclear(v, n, whole, shape, volume)
        grids.append(_Grid(v.axis, Fraction(factor), v.origin / factor, n))
    return grids


def _unclear(v: _Grid, n: int, whole: Sequence[_Grid], shape: Sequence[int], volume: Frame) -> VolumeError:
    coords = []
    for w, m in zip(whole, shape, strict=True):
        size = volume.voxel_size[w.axis]
        start = volume.origin[w.axis] * size
        begins = f"{start:.12g} + " if start else ""
        coords.append(f"{w.axis!r}: {begins}numpy.arange({m}) * {size * max(1, round(w.n / m)):.12g}")
    return VolumeError(
        f"The mask is an array of {tuple(shape)} without coordinates, and no one whole factor reduces the volume's "
        f"{v.n} voxels along {v.axis} to {n}.",
        "Without coordinates, a mask has the volume's shape or is smaller by whole factors, and a last voxel that was "
        "kept in part, or dropped, can make the factor ambiguous.",
        [
            f"state its positions: xarray.DataArray(mask, dims={volume.space}, coords={{{', '.join(coords)}}})",
            f"or, if it is stored: mask={OPEN}",
        ],
    )


# A mask with coordinates: they are believed, once they make sense.


def _check_corners(masks: Sequence[_Grid], whole: Sequence[_Grid], placed: Frame) -> None:
    """Refuse coordinates that are centres of voxels: they would shift the mask by up to half of its own voxels."""
    off = [m for m, v in zip(masks, whole, strict=True) if _centred(m, v)]
    if not off:
        return
    coarse = [m for m in masks if m.size > 1]
    shifts = [placed.voxel_size[m.axis] * float(1 - 1 / m.size) / 2 for m in coarse]
    moves = ", ".join(f"{m.axis}=mask.{m.axis} - {shift:.12g}" for m, shift in zip(coarse, shifts, strict=True))
    steps = ", ".join(f"{m.axis}={_text(m.size)}" for m in coarse)
    m = off[0]
    raise VolumeError(
        f"The mask's first voxel along {m.axis} begins at {_text(m.low)} in voxels of the volume, and is "
        f"{_text(m.size)} of them long.",
        "Its coordinates are centres of voxels, as xarray's coarsen makes them; positions here are lower corners.",
        [f"move it: mask.assign_coords({moves})", f'volume.coarsen({steps}, coord_func="min")'],
    )


def _centred(mask: _Grid, volume: _Grid) -> bool:
    """Whether a coarse voxel lies where the centres of its fine ones would put it: for an even factor its face is then
    in the middle of a fine voxel; for an odd one it shows only where both begin together."""
    if mask.size <= 1 or mask.size.denominator > 1 or volume.origin.denominator > 1:
        return False
    if mask.size % 2 == 0:
        return mask.low.denominator == 2
    return mask.low - volume.low == (mask.size - 1) / 2


def _check_covers(
    masks: Sequence[_Grid], out: Sequence[_Grid], whole: Sequence[_Grid], mask: Volume, volume: Volume
) -> None:
    """Refuse a mask that ends before the result does."""
    needs = {o.axis: _needed(o, v, m) for o, v, m in zip(out, whole, masks, strict=True)}
    short = [m for m in masks if not 0 <= needs[m.axis].start < needs[m.axis].stop <= m.n]
    if not short:
        return
    frame, placed = volume.frame, mask.frame
    ranges = ", ".join(f"{m.axis}={_positions(needs[m.axis], m, placed)}" for m in short)
    closest = min(placed.voxel_size[m.axis] for m in short) / 4
    inside = {
        m.axis: slice(max(0, ceil(m.low - v.low)), min(v.n, floor(m.high - v.low)))
        for m, v in zip(masks, whole, strict=True)
    }
    if any(part.start >= part.stop for part in inside.values()):
        ways = [
            f"state where it is: mask={OPEN}",
            "if it has the volume's shape, or a whole part of it, drop its coordinates: mask=mask.data",
        ]
    else:
        cut = ", ".join(f"{m.axis}=slice({inside[m.axis].start}, {inside[m.axis].stop})" for m in short)
        ways = [
            f'the rest is not wanted: mask=mask.reindex({ranges}, method="nearest", tolerance={closest:.12g}, '
            f"fill_value=False)",
            f"infer what it covers: volume.isel({cut})" if volume.labelled else f"state where it is: mask={OPEN}",
        ]
    stated = placed.unit or {*placed.voxel_size.values()} != {1.0} or {*frame.voxel_size.values()} == {1.0}
    raise VolumeError(
        f"The mask does not cover the output along {', '.join(m.axis for m in short)}: the mask reaches over "
        f"{_extents(masks, frame)}, the output over {_extents(out, frame)}.",
        "Outside of a mask a voxel would be neither wanted nor unwanted."
        if stated
        else "The mask states no voxel size, and is taken to have voxels of size 1.",
        ways,
    )


def _needed(out: _Grid, volume: _Grid, mask: _Grid) -> slice:
    """The mask's voxels that must be there. Centres are brought into the volume first: the last output voxel of a
    padded volume may be centred beyond its end, as its context is."""
    low, high = volume.centre(0), volume.centre(volume.n - 1)
    first, last = (min(max(out.centre(i), low), high) for i in (0, out.n - 1))
    return slice(mask.index(first), mask.index(last) + 1)


def _positions(needed: slice, mask: _Grid, placed: Frame) -> str:
    """Coordinates of the mask's voxels, as a line of Python."""
    whole = floor(mask.origin)
    part = float(mask.origin - whole)
    indices = f"numpy.arange({needed.start + whole}, {needed.stop + whole})"
    return f"{f'({indices} + {part!r})' if part else indices} * {placed.voxel_size[mask.axis]!r}"


def _extents(grids: Sequence[_Grid], volume: Frame) -> str:
    parts = []
    for g in grids:
        size = Fraction(volume.voxel_size[g.axis])
        parts.append(f"{g.axis} [{_text(g.low * size)}, {_text(g.high * size)})")
    return " ".join(parts) + (f" {volume.unit}" if volume.unit else "")


def _text(value: Fraction) -> str:
    return f"{float(value):.12g}"
