"""What the libraries of files read, in one form, and what is drawn of numbers."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tests.lib.storage.fuzzing import METRES, Array, Seen, corner

VALUES = np.random.default_rng(0).integers(1, 200, (3, 5, 6, 7), dtype="u1")
"""(c, z, y, x)"""
ORDER = ("t", "c", "z", "y", "x")
SPACE = ("z", "y", "x")
BY_RANK = {2: "yx", 3: "zyx", 4: "czyx", 5: "tczyx"}
LARGE = 10**7
"""Voxels that the other library may be asked for: a changed shape may be larger than any memory."""

NUMBERS = (0, 1, 2, 3, 5, 7, 255, -1, -3, 2**31 - 1, -(2**31), 40)
FLOATS = (0.0, -0.0, 1.0, -2.5, 0.1, 40.0, 1e-30, 1e30, 3e38, math.nan, math.inf, -math.inf)


def read(
    values: Array, axes: Sequence[str], sizes: Mapping[str, Any], units: Any, offset: Mapping[str, float] | None = None
) -> Seen:
    """What was read, in stored order, turned to numpy's; sizes that are none are 1."""
    axes = list(axes)
    assert len(set(axes)) == len(axes) == values.ndim, (axes, values.shape)
    dims = tuple(dim for dim in ORDER if dim in axes)
    turned = values.transpose([axes.index(dim) for dim in dims])
    space = [dim for dim in dims if dim in SPACE]
    known = {dim: float(sizes[dim]) for dim in space if is_size(sizes.get(dim))}
    units = {dim: units if isinstance(units, str) else units.get(dim, "") for dim in space}
    unit = next((units[dim] for dim in known), "")
    for dim in known:
        if units[dim] != unit:  # in nm, where they differ
            known = {d: size * METRES[units[d]] * 1e9 for d, size in known.items()}
            unit = "nm"
            break
    first = {dim: float((offset or {}).get(dim, 0)) for dim in space}
    sizes = {dim: known.get(dim, 1.0) for dim in space}
    return Seen(dims, turned.shape, sizes, dict.fromkeys(space, unit), first, turned[corner(turned.shape)])


def is_size(value: Any) -> bool:
    number = isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
    return number and bool(0 < value < math.inf)


def several(*changes: Callable[[Path, random.Random], str]) -> Callable[[Path, random.Random], str]:
    """One of several changes, or two."""

    def change(place: Path, chance: random.Random) -> str:
        said = [chance.choice(changes)(place, chance)]
        if chance.random() < 0.3:
            try:
                said.append(chance.choice(changes)(place, chance))
            except Exception as error:  # after the first change, its library may not find its way
                said.append(f"no other: {error}"[:80])
        return ", then ".join(said)

    return change
