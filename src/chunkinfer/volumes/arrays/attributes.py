"""Attributes as metadata files hold them: JSON of the standard, which knows no NaN, dates or objects."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from datetime import date, time, timedelta
from decimal import Decimal
from enum import Enum
from fractions import Fraction
from typing import Any
from uuid import UUID

import numpy as np

LARGEST = 1000
"""Values of an array that is kept as an attribute; a larger one is data."""

LONGEST = 10**300
"""Integers from here on are texts: readers of JSON make floating-point numbers of them."""

DEPTH = 20
"""Levels of lists and mappings."""

TEXTS = (date, time, timedelta, Decimal, Fraction, UUID, complex, os.PathLike)
"""What is kept as text."""


class NotKept(ValueError):
    """A value that neither JSON nor a text can hold."""


def as_json(attributes: Mapping[Any, Any]) -> dict[str, Any]:
    """What JSON can hold of attributes.

    Arrays become lists, dates, paths, units of time and the like texts, and numbers that are not finite "NaN",
    "Infinity" and "-Infinity", as zarr writes them. None, objects, functions and arrays of more than `LARGEST` values
    are left out.
    """
    kept = {}
    for name, value in attributes.items():
        try:
            if (plain := _plain(value, 0)) is not None:
                kept[_text(str(name))] = plain
        except NotKept:
            continue
    return kept


def _plain(value: Any, depth: int) -> Any:
    if isinstance(value, Enum):
        value = value.value
    if isinstance(value, np.ndarray | np.generic):
        return _array(value, depth)
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return value if abs(value) < LONGEST else str(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else "NaN" if math.isnan(value) else f"{'-' * (value < 0)}Infinity"
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, TEXTS):
        return _text(os.fspath(value) if isinstance(value, os.PathLike) else str(value))
    if depth > DEPTH:
        raise NotKept
    if isinstance(value, Mapping):
        return {_text(str(name)): _plain(part, depth + 1) for name, part in value.items()}
    if isinstance(value, AbstractSet):
        return sorted((_plain(part, depth + 1) for part in value), key=repr)
    if isinstance(value, list | tuple):
        return [_plain(part, depth + 1) for part in value]
    raise NotKept


def _array(value: np.ndarray[Any, Any] | np.generic, depth: int) -> Any:
    """The numbers or texts of an array; of 32 and 16 bits the decimals that they stand for."""
    if value.size > LARGEST or isinstance(value, np.ma.MaskedArray):
        raise NotKept
    if value.dtype.kind in "Mm":
        value = value.astype(str)
    if value.dtype.kind == "f":
        value = value.astype(str).astype(np.float64)
    return _plain(value.tolist(), depth)


def _text(text: str) -> str:
    """Without halves of characters, which JSON cannot hold."""
    return text.encode("utf-8", "replace").decode("utf-8")
