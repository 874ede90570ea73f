"""One form for arguments that users write in several: a number, a tuple, a dict by axis name, or nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any

from chunkinfer.errors import PlanError

PerAxis = int | Sequence[int | None] | Mapping[str, int] | None
"""Voxels per spatial axis: one number for all axes, a tuple in the order of the axes, a dict by axis name."""


def every_axis(name: str, value: Any, axes: tuple[str, ...]) -> tuple[int, ...]:
    """Voxels for each of the axes, channels included, such as chunks.

    Raises
    ------
    PlanError
        Wrong length, or something else than whole numbers from 1 on.
    """
    values = tuple(value) if isinstance(value, Iterable) and not isinstance(value, str) else ()
    if len(values) != len(axes) or not all(_is_count(v) for v in values):
        raise PlanError(
            f"{name}={value!r} does not give a whole number, 1 or more, for each axis of {axes}.",
            "Channels and time count as axes here.",
            [f"{name}={tuple(64 if axis in 'zyx' else 1 for axis in axes)}", f"leave {name}= out"],
        )
    return tuple(int(v) for v in values)


def _is_count(value: Any, least: int = 1) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= least


def per_axis(name: str, value: Any, axes: tuple[str, ...], least: int) -> tuple[int | None, ...]:
    """Voxels for every axis; None where the caller leaves an axis to the plan.

    Raises
    ------
    PlanError
        Wrong length, an unknown axis, no whole number, or a number below ``least``.
    """
    example = f"{name}={tuple(64 for _ in axes)}"
    if value is None:
        return (None,) * len(axes)
    if isinstance(value, Mapping):
        if unknown := [axis for axis in value if axis not in axes]:
            raise PlanError(
                f"{name}={dict(value)!r} names the axis {unknown[0]!r}; the volume has {', '.join(axes)}.",
                "",
                [example, f"{name}={{{axes[-1]!r}: 64}} leaves the other axes to the plan"],
            )
        values: list[Any] = [value.get(axis) for axis in axes]
    elif isinstance(value, Integral):
        values = [value] * len(axes)
    elif isinstance(value, Sequence) and not isinstance(value, str) and len(value) == len(axes):
        values = list(value)
    else:
        raise PlanError(
            f"{name}={value!r} does not fit the volume's {len(axes)} spatial axes {axes}.",
            "Channels and time have no patches.",
            [example, f"{name}=64 for all axes"],
        )
    for axis, voxels in zip(axes, values, strict=True):
        if voxels is not None and not _is_count(voxels, least):
            raise PlanError(
                f"{name} on axis {axis} is {voxels!r}.",
                f"It counts voxels: a whole number, {least} or more.",
                [example, f"leave {name}= out: the plan chooses"],
            )
    return tuple(None if v is None else int(v) for v in values)


def byte_count(name: str, value: Any) -> int:
    """Bytes from a number or a text such as "16 GiB".

    Raises
    ------
    PlanError
        It is neither, or not positive.
    """
    from dask.utils import parse_bytes

    try:
        number = isinstance(value, Real) and not isinstance(value, bool)
        found = int(value) if number else int(parse_bytes(value)) if isinstance(value, str) else 0
    except (ValueError, OverflowError):
        found = 0
    if found <= 0:
        raise PlanError(
            f"{name}={value!r} is no amount of memory.",
            "It is a number of bytes, or a text with a unit, for one worker process.",
            [f'{name}="16 GiB"', f"leave {name}= out"],
        )
    return found
