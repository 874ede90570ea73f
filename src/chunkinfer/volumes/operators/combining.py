"""Operators on several volumes, laid on each other by position."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from math import isclose
from operator import index
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chunkinfer.errors import VolumeError
from chunkinfer.support.tokens import keep_tokens
from chunkinfer.volumes.alignment import resolve_mask
from chunkinfer.volumes.operators.applying import applied
from chunkinfer.volumes.operators.arguments import fill_of
from chunkinfer.volumes.operators.lazy import Declared, opened, result_of, voxelwise
from chunkinfer.volumes.operators.steps import Function, Masked
from chunkinfer.volumes.volume import Volume

__all__ = ["add", "combine", "mask", "maskout", "multiply"]

FUNCTIONS: dict[str, Function] = {
    "add": np.add,
    "subtract": np.subtract,
    "multiply": np.multiply,
    "maximum": np.maximum,
    "minimum": np.minimum,
}
"""What `combine` knows by name."""


def multiply(volume: Any, other: Any) -> Any:
    """The product of two volumes, in the type that numpy gives it.

    Parameters
    ----------
    volume, other
        On the same voxels; either may have one channel, or none, for all channels of the other. ``other`` may be a
        number.
    """
    return combine(volume, other, "multiply")


def add(volume: Any, other: Any) -> Any:
    """The sum of two volumes, in the type that numpy gives it: two uint8 volumes wrap around at 256.

    Parameters
    ----------
    volume, other
        As for `multiply`.
    """
    return combine(volume, other, "add")


def combine(volume: Any, other: Any, function: str | Callable[..., NDArray[Any]]) -> Any:
    """Any function of two volumes, voxel by voxel.

    Parameters
    ----------
    volume, other
        As for `multiply`.
    function
        "add", "subtract", "multiply", "maximum", "minimum", or a function of two numpy arrays.
    """
    found = opened(volume)
    call = FUNCTIONS.get(function) if isinstance(function, str) else partial(applied, function=function)
    if call is None or not (isinstance(function, str) or callable(function)):
        raise VolumeError(
            f"combine knows no function {function!r}.",
            f"It knows {', '.join(FUNCTIONS)}, and functions of two arrays.",
            ['combine(a, b, "maximum")', "combine(a, b, numpy.hypot)"],
        )
    if isinstance(other, int | float | np.number | np.bool_):
        call = partial(_with_number, function=call, number=other)
        return voxelwise(call, found, Declared.like(found, _type_of(function, call, found.array)))
    second = opened(other, beside=found)
    _check_same_voxels(found, second)
    dtype = _type_of(function, call, found.array, second.array)
    if _channels(second) <= _channels(found):
        wide, thin = found, second
    else:
        wide, thin, call = second, found, partial(_swapped, function=call)
    # Whichever of them says where it is, the result says it; otherwise it is the first one's.
    place = found if found.labelled or not second.labelled else second
    wide = replace(wide, frame=place.frame, labelled=place.labelled, attrs=place.attrs, name=place.name)
    return voxelwise(call, wide, Declared.like(wide, dtype), (thin.array, thin.dims))


def mask(volume: Any, mask: Any, *, fill: float = 0) -> Any:
    """Keep voxels where a mask is not 0, whatever the mask's resolution.

    Parameters
    ----------
    volume
        What is kept.
    mask
        A volume of any resolution, laid on by position as for ``infer(..., mask=)``.
    fill
        What stands elsewhere.
    """
    found = opened(volume)
    laid = resolve_mask(mask, found, found.frame, found.space_shape)
    step = Masked(laid, found.array.ndim - len(found.frame.space), fill_of(found.array.dtype, fill))
    return result_of(step, found, Declared.like(found), laid.reader.array)


def maskout(volume: Any, labels: Any, *, remove: Sequence[int], fill: float = 0) -> Any:
    """Blank the voxels of some objects.

    Parameters
    ----------
    volume
        What is blanked.
    labels
        A volume of integers on the same voxels, without channels, with one, or with as many.
    remove
        Labels whose voxels become ``fill``.
    fill
        What stands there.
    """
    found = opened(volume)
    second = opened(labels, beside=found)
    _check_same_voxels(found, second, widest=_channels(found))
    kind = second.array.dtype
    if kind.kind not in "iub":
        raise VolumeError(
            f"Labels are integers, not {kind}.",
            "maskout compares them with remove=.",
            ["threshold(labels, 0.5)", 'cast(labels, "uint64")'],
        )
    try:
        wanted = {index(v) for v in np.atleast_1d(np.asarray(remove, object)).tolist()}
    except TypeError as error:
        raise VolumeError(
            f"remove={remove!r} are not labels.", "Labels are integers.", ["remove=[7]", "remove=[1, 2]"]
        ) from error
    low, high = (0, 1) if kind.kind == "b" else (np.iinfo(kind).min, np.iinfo(kind).max)
    held = tuple(sorted(v for v in wanted if low <= v <= high))  # no voxel has the others
    function = partial(_without, remove=held, fill=fill_of(found.array.dtype, fill))
    return voxelwise(function, found, Declared.like(found), (second.array, second.dims))


def _channels(volume: Volume) -> int:
    return volume.array.shape[0] if volume.channels else 0


def _type_of(name: Any, call: Function, *arrays: Any) -> np.dtype[Any]:
    """The type of a function's result, by a voxel of ones."""
    try:
        return call(*(np.ones((1,) * arrays[0].ndim, array.dtype) for array in arrays)).dtype
    except (TypeError, ValueError, OverflowError) as error:
        types = " and ".join(str(array.dtype) for array in arrays)
        raise VolumeError(
            f"{name if isinstance(name, str) else repr(name)} does not work on {types}: {error}",
            "It was tried on a single voxel of ones.",
            ['cast(volume, "float32") first', 'combine(a, b, "maximum")'],
        ) from error


def _check_same_voxels(a: Volume, b: Volume, widest: int | None = None) -> None:
    """Refuse volumes whose voxels do not lie on each other; ``widest`` limits the channels of the second."""
    same = a.frame.space == b.frame.space and a.space_shape == b.space_shape
    if same and a.frame.coords and b.frame.coords:  # both say where they are
        same = a.frame.unit == b.frame.unit or not (a.frame.unit and b.frame.unit)
        for d in a.frame.space:
            same &= isclose(a.frame.voxel_size[d], b.frame.voxel_size[d], rel_tol=1e-6)
            same &= isclose(a.frame.origin[d], b.frame.origin[d], rel_tol=1e-6, abs_tol=1e-3)
    many = {_channels(a), _channels(b)} - {0, 1}
    if same and len(many) < 2 and (widest is None or _channels(b) <= max(1, widest)):
        return
    raise VolumeError(
        f"Two volumes do not have the same voxels: {_place(a)} and {_place(b)}.",
        "They are combined voxel by voxel.",
        [
            f"crop both to the voxels that they share: crop(volume, {_shared(a, b)})",
            "of other voxel sizes: downsample or upsample one of them first",
        ],
    )


def _shared(a: Volume, b: Volume) -> str:
    """The box of both, counted from their first voxels, as somebody would write it."""
    sides = (
        f"{d!r}: slice(0, {min(n, m)})" for d, n, m in zip(a.frame.space, a.space_shape, b.space_shape, strict=False)
    )
    return f"{{{', '.join(sides)}}}"


def _place(volume: Volume) -> str:
    frame = volume.frame
    size, origin = (tuple(table[d] for d in frame.space) for table in (frame.voxel_size, frame.origin))
    axes = ", ".join(f"{d} {n}" for d, n in zip(volume.dims, volume.array.shape, strict=True))
    return f"({axes}) of {size} {frame.unit or 'without unit'} from voxel {origin}"


def _with_number(voxels: NDArray[Any], function: Function, number: Any) -> NDArray[Any]:
    return function(voxels, number)


def _swapped(b: NDArray[Any], a: NDArray[Any], function: Function) -> NDArray[Any]:
    return function(a, b)


def _without(voxels: NDArray[Any], labels: NDArray[Any], remove: tuple[int, ...], fill: float) -> NDArray[Any]:
    gone = np.isin(labels, np.asarray(remove, labels.dtype))
    return np.where(gone, voxels.dtype.type(fill), voxels)


keep_tokens(globals(), "chunkinfer.operators.combining")
