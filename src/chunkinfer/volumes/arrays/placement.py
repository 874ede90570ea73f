"""Where voxels are: voxel size, unit and offset in attributes, ours and other tools'.

The block that our outputs carry::

    "chunkinfer": {"voxel_size": {"z": 40.0, "y": 4.0, "x": 4.0}, "unit": "nm", "offset": {"z": 100, "y": 0, "x": -8}}
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from chunkinfer.errors import SourceError, VolumeError
from chunkinfer.volumes.arrays.axes import SPATIAL

BLOCK = "chunkinfer"
"""The attribute that holds what other formats have no place for."""

PREFIXES = {
    "yocto": ("y", -24), "zepto": ("z", -21), "atto": ("a", -18), "femto": ("f", -15), "pico": ("p", -12),
    "nano": ("n", -9), "micro": ("u", -6), "milli": ("m", -3), "centi": ("c", -2), "deci": ("d", -1), "": ("", 0),
    "deca": ("da", 1), "hecto": ("h", 2), "kilo": ("k", 3), "mega": ("M", 6), "giga": ("G", 9), "tera": ("T", 12),
    "peta": ("P", 15), "exa": ("E", 18), "zetta": ("Z", 21), "yotta": ("Y", 24),
}  # fmt: skip
"""Prefix of the metre -> its short form and power of ten."""

METRES = {
    **{f"{short}m": float(f"1e{power}") for short, power in PREFIXES.values()},
    "angstrom": 1e-10, "inch": 0.0254, "foot": 0.3048, "yard": 0.9144, "mile": 1609.344,
    "parsec": 3.0856775814913673e16,
}  # fmt: skip
"""Short unit -> metres."""

LONG_NAMES = {f"{short}m": f"{prefix}meter" for prefix, (short, _) in PREFIXES.items()}
"""Short unit -> its name in UDUNITS, where that is another one."""

UNIT_NAMES = {
    **{long: short for short, long in LONG_NAMES.items()},
    **{long.replace("meter", "metre"): short for short, long in LONG_NAMES.items()},
    **{name: name for name in METRES if len(name) > 3},
    "micron": "um", "µm": "um", "μm": "um", "ångström": "angstrom", "å": "angstrom",
    "inches": "inch", "in": "inch", "feet": "foot", "ft": "foot",
    "pixel": "", "px": "", "voxel": "", "dimensionless": "",
}  # fmt: skip
"""Other names, in lower case and singular -> short unit."""

FLOAT32_MAX = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class Placement:
    """Voxel size, unit and offset of the spatial axes that say something; the others are 1 and 0."""

    voxel_size: dict[str, float] = field(default_factory=dict)
    """Size of a voxel per spatial axis, in ``unit``."""
    unit: str = ""
    """"nm", "um", ...; '' if unknown."""
    offset: dict[str, float] = field(default_factory=dict)
    """Volume coordinate, in voxels, of index 0 per spatial axis."""

    def complete(self, dims: Sequence[str]) -> Placement:
        """The same with a value for every spatial axis of ``dims``; integral offsets become integers."""
        spatial = [dim for dim in SPATIAL if dim in dims]
        return Placement(
            {dim: decimal(float(self.voxel_size.get(dim, 1.0))) for dim in spatial},
            self.unit,
            {dim: whole(self.offset.get(dim, 0)) for dim in spatial},
        )

    @property
    def possible(self) -> bool:
        """Whether sizes are positive and finite, and offsets finite."""
        sizes = all(math.isfinite(size) and size > 0 for size in self.voxel_size.values())
        return sizes and all(map(math.isfinite, self.offset.values()))

    def attributes(self) -> dict[str, Any]:
        """The block that :func:`from_attributes` reads."""
        return {"voxel_size": self.voxel_size, "unit": self.unit, "offset": self.offset}


def whole(value: float) -> int | float:
    """An integer where the value is one up to round-off (offsets are often quotients of world coordinates)."""
    if not math.isfinite(value):
        return value
    nearest = round(value)
    return nearest if abs(value - nearest) <= min(1e-3, 1e-6 * max(1.0, abs(value))) else float(value)


def decimal(size: float) -> float:
    """The number that was written before it became a float32: 0.10000000149011612 was 0.1.

    Whether a file keeps its numbers in 32 bits or a program did before it wrote them, the digits show it.
    """
    if not math.isfinite(size) or size == round(size) or abs(size) > FLOAT32_MAX or float(np.float32(size)) != size:
        return size
    written = float(str(np.float32(size)))
    return written if len(repr(written)) < len(repr(size)) else size


def cell_corner(
    scale: Sequence[float], shift: Sequence[float], finest: Sequence[float], first: Sequence[float]
) -> Sequence[float]:
    """Where the first voxel of a level begins, out of translations, which are of centres.

    Where the centres lie as those of averaged cells do, the levels share their corner, and it is the finest level's.

    Parameters
    ----------
    scale, shift
        Size of a voxel and translation of the level, along each axis.
    finest, first
        The same of the finest level.
    """
    axes = zip(scale, finest, shift, first, strict=True)
    return first if all(abs(b - a - (s - f) / 2) <= 1e-6 * s for s, f, b, a in axes) else shift


def short_unit(name: object) -> str:
    """The short form of a unit's name; unknown names are kept, and '' is no unit.

    Raises
    ------
    TypeError
        It is no text.
    """
    if name is None:
        return ""
    if not isinstance(name, str):
        raise TypeError(f"{name!r} is not the name of a unit")
    name = name.strip()
    if name in METRES:
        return name
    lower = name.lower()
    return UNIT_NAMES.get(lower, UNIT_NAMES.get(lower.removesuffix("s"), name))


def common_unit(voxel_size: Mapping[str, float], units: Mapping[str, str]) -> tuple[dict[str, float], str]:
    """Voxel sizes in one unit: the one they share, otherwise nm.

    An axis of size 1 without a unit has no known size, and stays 1.

    Raises
    ------
    SourceError
        Units differ, and one of them is no known length, or absent where a size is not 1.
    """
    named = {dim: units.get(dim, "") for dim, size in voxel_size.items() if units.get(dim) or size != 1}
    distinct = set(named.values())
    if len(distinct) <= 1:
        return dict(voxel_size), distinct.pop() if distinct else ""
    if unknown := [dim for dim, unit in named.items() if unit not in METRES]:
        listed = ", ".join(f"{dim} in {unit!r}" if unit else f"{dim} without a unit" for dim, unit in named.items())
        raise SourceError(
            f"The voxel size is given {listed}: axis {unknown[0]} cannot be compared with the others.",
            f"Known lengths are {', '.join(METRES)}.",
            ["give all axes one of these units in the metadata", "or remove the units of all axes"],
        )
    return {dim: nanometres({dim: voxel_size[dim]}, unit)[dim] for dim, unit in named.items()} | {
        dim: size for dim, size in voxel_size.items() if dim not in named
    }, "nm"


def nanometres(voxel_size: Mapping[str, float], unit: str) -> dict[str, float]:
    """Voxel sizes in nm; without a unit they are taken for nm.

    Raises
    ------
    VolumeError
        The unit is no known length.
    """
    short = short_unit(unit) or "nm"
    if short not in METRES:
        raise VolumeError(
            f"The voxel size is in {unit!r}, which is no length known here.",
            f"It would have to be converted to nm; known are {', '.join(METRES)}.",
            [
                "if the coordinates are in one of these: volume.assign_attrs(unit='um')",
                "or save to a format that keeps any unit: format='zarr3'",
            ],
        )
    # 0.004 um must give 4.0, not 4.000000000000001: precomputed names its folders after it.
    return {dim: float(f"{decimal(size) * METRES[short] / 1e-9:.12g}") for dim, size in voxel_size.items()}


def from_attributes(attributes: Mapping[str, Any], dims: Sequence[str]) -> Placement:
    """The placement that an array's attributes state.

    Understood are our own block, and the attributes ``voxel_size`` (or ``resolution``), ``offset`` and ``units`` of
    funlib.persistence: sequences over the spatial axes or over all axes, in world units; ``voxel_size`` by axis with
    ``unit``, which our DataArrays carry; without these, tensorstore's and Neuroglancer's ``dimension_units`` such as
    "40 nm". A size of 0 is an unknown one.

    Raises
    ------
    SourceError, ValueError, TypeError
        They name sizes, units or offsets that cannot be understood.
    """
    block = attributes.get(BLOCK)
    if isinstance(block, Mapping) and isinstance(block.get("voxel_size"), Mapping):
        return Placement(dict(block["voxel_size"]), short_unit(block.get("unit")), dict(block.get("offset") or {}))
    stated = attributes.get("voxel_size", attributes.get("resolution"))
    sizes, units = _per_axis(stated, dims), attributes.get("units")
    if isinstance(stated, Mapping):
        sizes = {dim: stated[dim] for dim in dims if dim in SPATIAL and dim in stated}
        units = attributes.get("unit", units)
    if sizes is None and "dimension_units" in attributes:
        return _from_dimension_units(attributes["dimension_units"], dims)
    if not sizes or not all(map(_is_number, sizes.values())) or not all(sizes.values()):
        return Placement()
    named = _required("units", [units] * len(dims) if isinstance(units, str) else units, dims)
    voxel_size, unit = common_unit(sizes, {dim: short_unit(name) for dim, name in named.items()})
    world = _required("offset", attributes.get("offset"), dims, numbers=True)
    return Placement(voxel_size, unit, {dim: whole(world[dim] / sizes[dim]) for dim in world if dim in sizes})


def dimension_units(placement: Placement, dims: Sequence[str]) -> list[str | None]:
    """The attribute by which tensorstore and Neuroglancer know voxel sizes: "40 nm" per spatial axis."""
    sizes = placement.voxel_size
    return [f"{sizes[dim]:.12g} {placement.unit}" if dim in sizes else None for dim in dims]


def _from_dimension_units(values: Any, dims: Sequence[str]) -> Placement:
    sizes, units = {}, {}
    for dim, value in _required("dimension_units", values, dims).items():
        if value is None:
            continue
        number, unit = value.split() if isinstance(value, str) and " " in value else value
        sizes[dim], units[dim] = float(number), short_unit(unit)
    return Placement(*common_unit(sizes, units))


def _required(name: str, values: Any, dims: Sequence[str], numbers: bool = False) -> dict[str, Any]:
    """Values by spatial axis, none where there is no such attribute."""
    found = {} if values is None else _per_axis(values, dims)
    if found is None or (numbers and not all(map(_is_number, found.values()))):
        raise SourceError(
            f"The attribute {name} is {values!r}.",
            f"It has one {'number' if numbers else 'value'} for each of the axes {tuple(dims)}, or of the spatial.",
            [f"repair or remove the attribute {name}", "or remove voxel_size and resolution: then nothing is placed"],
        )
    return found


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _per_axis(values: Any, dims: Sequence[str]) -> dict[str, Any] | None:
    """Values by spatial axis, if there are as many as spatial axes or as axes."""
    spatial = [dim for dim in dims if dim in SPATIAL]
    if not isinstance(values, Sequence) or isinstance(values, str):
        return None
    if len(values) == len(spatial):
        return dict(zip(spatial, values, strict=True))
    if len(values) == len(dims):
        return {dim: value for dim, value in zip(dims, values, strict=True) if dim in SPATIAL}
    return None
