"""Arguments in their one form: numbers per axis, fills, units."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from operator import index
from typing import Any

import numpy as np

from chunkinfer.errors import VolumeError
from chunkinfer.volumes.frame import Frame


def whole_numbers(name: str, value: Any, space: Sequence[str], least: int = 0) -> tuple[int, ...]:
    """One whole number per axis, from one for all or one for each.

    Raises
    ------
    VolumeError
        They are not so many, not whole, or below ``least``.
    """
    try:
        each = (index(value),) * len(space) if np.ndim(value) == 0 else tuple(map(index, value))
    except (TypeError, ValueError):
        each = ()
    if len(each) != len(space) or min(each, default=0) < least:
        raise VolumeError(
            f"{name}={value!r} does not give a whole number from {least} on for each of {tuple(space)}.",
            "It is one number, or one per axis in numpy's order.",
            [f"{name}=3", f"{name}={(3,) * len(space)}"],
        )
    return each


def lengths(name: str, value: Any, frame: Frame, unit: str) -> tuple[float, ...]:
    """One length per axis in voxels, from one for all or one for each, in voxels or in the voxel size's unit.

    Raises
    ------
    VolumeError
        They are not so many, negative, or not finite; or the unit is not known.
    """
    check_unit(unit)
    space = frame.space
    try:
        each = (float(value),) * len(space) if np.ndim(value) == 0 else tuple(map(float, value))
    except (TypeError, ValueError):
        each = ()
    if len(each) != len(space) or not all(isfinite(v) and v >= 0 for v in each):
        raise VolumeError(
            f"{name}={value!r} does not give a length for each of {space}.",
            "It is one number, or one per axis in numpy's order.",
            [f"{name}=2", f"{name}={(2,) * len(space)}"],
        )
    return tuple(v / frame.voxel_size[d] for v, d in zip(each, space, strict=True)) if unit == "physical" else each


def check_unit(unit: str) -> None:
    """Refuse what is neither "voxels" nor "physical"."""
    if unit not in ("voxels", "physical"):
        raise VolumeError(
            f"unit={unit!r} is not known.",
            "Lengths and positions are in voxels, or in the voxel size's unit.",
            ['unit="voxels"', 'unit="physical"'],
        )


def number(name: str, value: Any) -> Any:
    """A number, of Python or numpy.

    Raises
    ------
    VolumeError
        It is something else.
    """
    if isinstance(value, int | float | np.number | np.bool_):
        return value
    raise VolumeError(
        f"{name}={value!r} is not a number.", "One number holds for all voxels.", [f"{name}=0", f"{name}=0.5"]
    )


def fill_of(dtype: np.dtype[Any], fill: Any) -> Any:
    """What stands where no voxel is: a number that the type holds.

    Raises
    ------
    VolumeError
        It does not.
    """
    value = number("fill", fill)
    try:
        held = bool(dtype.kind == "f" or dtype.type(value) == value)
    except (OverflowError, ValueError):
        held = False
    if not held:
        raise VolumeError(
            f"fill={fill!r} is no value of {dtype}.",
            "It stands among the volume's own voxels.",
            ["fill=0", 'cast(volume, "float32") first'],
        )
    return value
