"""Where voxels are: voxel size, unit and offset in attributes, ours and other tools'.

The block that our outputs carry::

    "chunkinfer": {"voxel_size": {"z": 40.0, "y": 4.0, "x": 4.0}, "unit": "nm", "offset": {"z": 100, "y": 0, "x": -8}}
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from chunkinfer.storage.axes import SPATIAL

BLOCK = "chunkinfer"
"""The attribute that holds what other formats have no place for."""

METRES = {"pm": 1e-12, "angstrom": 1e-10, "nm": 1e-9, "um": 1e-6, "mm": 1e-3, "cm": 1e-2, "m": 1.0}
"""Short unit -> metres."""

UNIT_NAMES = {
    "picometer": "pm", "nanometer": "nm", "micrometer": "um", "millimeter": "mm", "centimeter": "cm", "meter": "m",
    "picometre": "pm", "nanometre": "nm", "micrometre": "um", "millimetre": "mm", "centimetre": "cm", "metre": "m",
    "ångström": "angstrom", "å": "angstrom", "angstroms": "angstrom",
    "micron": "um", "µm": "um", "μm": "um", "nanometers": "nm", "micrometers": "um", "microns": "um",
    "pixel": "", "pixels": "", "px": "", "voxel": "", "voxels": "", "dimensionless": "",
}  # fmt: skip
"""Long names (OME-Zarr uses UDUNITS) -> short unit."""


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
            {dim: float(self.voxel_size.get(dim, 1.0)) for dim in spatial},
            self.unit,
            {dim: whole(self.offset.get(dim, 0)) for dim in spatial},
        )

    def attributes(self) -> dict[str, Any]:
        """The block that :func:`from_attributes` reads."""
        return {"voxel_size": self.voxel_size, "unit": self.unit, "offset": self.offset}


def whole(value: float) -> int | float:
    """An integer where the value is one up to round-off (offsets are often quotients of world coordinates)."""
    nearest = round(value)
    return nearest if abs(value - nearest) <= min(1e-3, 1e-6 * max(1.0, abs(value))) else float(value)


def short_unit(name: str | None) -> str:
    """The short form of a unit's name; unknown names are kept."""
    name = name or ""
    return UNIT_NAMES.get(name.lower(), name)


def common_unit(voxel_size: Mapping[str, float], units: Mapping[str, str]) -> tuple[dict[str, float], str]:
    """Voxel sizes in one unit: the one they share, otherwise nm."""
    distinct = {units.get(dim, "") for dim in voxel_size}
    if len(distinct) == 1:
        return dict(voxel_size), distinct.pop()
    return {dim: nanometres({dim: size}, units.get(dim, ""))[dim] for dim, size in voxel_size.items()}, "nm"


def nanometres(voxel_size: Mapping[str, float], unit: str) -> dict[str, float]:
    """Voxel sizes in nm; an unknown unit is taken for nm."""
    metres = METRES.get(short_unit(unit), 1e-9)
    # 0.004 um must give 4.0, not 4.000000000000001: precomputed names its folders after it.
    return {dim: float(f"{size * metres / 1e-9:.12g}") for dim, size in voxel_size.items()}


def from_attributes(attributes: Mapping[str, Any], dims: Sequence[str]) -> Placement:
    """The placement that an array's attributes state.

    Understood are our own block, and the attributes ``voxel_size`` (or ``resolution``), ``offset`` and ``units`` of
    funlib.persistence: sequences over the spatial axes or over all axes, in world units. Without these, tensorstore's
    and Neuroglancer's ``dimension_units`` such as "40 nm".
    """
    block = attributes.get(BLOCK)
    if isinstance(block, Mapping) and isinstance(block.get("voxel_size"), Mapping):
        return Placement(dict(block["voxel_size"]), str(block.get("unit", "")), dict(block.get("offset", {})))
    sizes = _per_axis(attributes.get("voxel_size", attributes.get("resolution")), dims)
    if sizes is None and "dimension_units" in attributes:
        return _from_dimension_units(attributes["dimension_units"], dims)
    if not sizes or not all(_is_number(size) and size > 0 for size in sizes.values()):
        return Placement()
    units = attributes.get("units")
    named = _per_axis([units] * len(dims) if isinstance(units, str) else units, dims) or {}
    units_by_dim = {dim: short_unit(str(unit)) for dim, unit in named.items()}
    world = _per_axis(attributes.get("offset"), dims) or {}
    offset = {dim: whole(world[dim] / sizes[dim]) for dim in world if _is_number(world[dim])}
    voxel_size, unit = common_unit(sizes, units_by_dim)
    return Placement(voxel_size, unit, offset)


def dimension_units(placement: Placement, dims: Sequence[str]) -> list[str | None]:
    """The attribute by which tensorstore and Neuroglancer know voxel sizes: "40 nm" per spatial axis."""
    sizes = placement.voxel_size
    return [f"{sizes[dim]:.12g} {placement.unit}" if dim in sizes else None for dim in dims]


def _from_dimension_units(values: Any, dims: Sequence[str]) -> Placement:
    sizes, units = {}, {}
    for dim, value in (_per_axis(values, dims) or {}).items():
        parts = value.split() if isinstance(value, str) else value
        try:
            number, unit = parts
            sizes[dim], units[dim] = float(number), short_unit(str(unit))
        except (TypeError, ValueError):
            return Placement()
    return Placement(*common_unit(sizes, units)) if sizes else Placement()


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
