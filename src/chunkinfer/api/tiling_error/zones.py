"""Tilings that differ in one thing only: clean zones that stay where they are while the halo around them grows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import ceil, prod
from typing import Any, NamedTuple

from chunkinfer.api.tiling_error.report import Extents, full
from chunkinfer.errors import PlanError
from chunkinfer.geometry.contract import AxisContract
from chunkinfer.geometry.lattice import AxisLattice, blended_axis, round_up
from chunkinfer.tiling.plan.plan import Plan

STEPS = 6
"""Default halos below the context."""

PARTS = (8, 4, 2)
"""Default overlaps, as parts of the patch."""

ZONES = (3, 4)
"""Clean zones along each axis that the default patch leaves: more, and thinner, where the sample is short."""


class Variant(NamedTuple):
    """A row to come."""

    kind: str
    halo: Extents | None
    overlap: Extents | None
    settings: dict[str, Any]
    """Arguments of `infer`."""
    patches: int
    """How many there are in the sample."""
    recompute: float
    """Patch voxels per voxel of a volume so large that its faces do not count."""


@dataclass(frozen=True)
class Zones:
    """Clean zones that stay where they are while the halo around them grows."""

    axes: tuple[AxisLattice, ...]
    """Of the whole sample; once settled, of the largest halo."""
    most: tuple[tuple[int, int], ...]
    """The largest halo, low and high on each axis: the traced context where there is one."""
    exact: bool
    """Whether that gives the exact result."""
    patch: tuple[int, ...]
    """With the largest halo."""
    shared: tuple[int, ...]
    """The patch of blended variants: the same, or half of the sample where that is less. Of larger ones the last patch,
    flush with the end, would overlap its neighbour by more than was asked for."""

    @classmethod
    def of(cls, whole: Plan, patch: Sequence[int | None], halos: Sequence[Sequence[int | None]]) -> Zones:
        """The zones that the caller's patch leaves, or several per axis."""
        axes = whole.lattice.axes
        if whole.context:
            most = whole.context
        else:  # what a quarter of a patch on each side leaves out is what a quarter's overlap blends, about
            wanted = [max((h[d] or 0 for h in halos), default=0) for d in range(len(axes))]
            if not halos:
                quarters = [(p or a.padded // 2) // 4 for p, a in zip(patch, axes, strict=True)]
                wanted = [round_up(q, a.contract.period) for q, a in zip(quarters, axes, strict=True)]
            most = tuple((h, max(h, crop(a.contract))) for h, a in zip(wanted, axes, strict=True))
        chosen = [p or several_zones(a, *m) for p, a, m in zip(patch, axes, most, strict=True)]
        halves = [c if p else _half(a, c) for p, c, a in zip(patch, chosen, axes, strict=True)]
        return cls(axes, most, whole.context is not None, tuple(chosen), tuple(halves))

    @property
    def largest(self) -> dict[str, Any]:
        """Arguments of `infer` for the largest halo."""
        halo = {} if self.exact else {"halo": tuple(low for low, _ in self.most)}
        return {"patch": self.patch} | halo

    def settled(self, tiled: Plan) -> Zones:
        """The zones as the plan of the largest halo has them."""
        if len(tiled.lattice) == 1:
            most = [low + high for low, high in self.most]
            least = tuple(fit(a, *m, a.contract.period) for a, m in zip(self.axes, self.most, strict=True))
            ways = [f"take more of the volume: {full([2 * n + 2 for n in most])} voxels, say"]
            if any(n < a.padded for n, a in zip(least, self.axes, strict=True)):
                ways.append(f"leave smaller clean zones, at a price: patch={least} at least")
            raise PlanError(
                f"The sample of {full(tiled.lattice.shape)} voxels fits in one patch: it has no seams.",
                f"A patch is a clean zone and its context, which is {full(most)} voxels.",
                [*ways, "leave patch= out"],
            )
        return replace(self, axes=tiled.lattice.axes, patch=tiled.lattice.patch)

    @property
    def zone(self) -> Extents:
        return tuple(a.step if len(a.starts) > 1 else None for a in self.axes)

    def _cut(self, values: Sequence[int | None]) -> Extents:
        """Values of the axes that are cut."""
        return tuple(None if z is None else v for v, z in zip(values, self.zone, strict=True))

    def _kept(self, halo: Sequence[int | None]) -> tuple[tuple[int, int], ...]:
        """The context that a halo keeps, low and high; a crop is never given back."""
        kept = []
        for h, a, (low, high), zone in zip(halo, self.axes, self.most, self.zone, strict=True):
            if h is None or zone is None:
                kept.append((low, high))
            else:
                kept.append((min(low, h), min(high, max(h, crop(a.contract)))))
        return tuple(kept)

    def cropped(self, halos: Iterable[Sequence[int | None]]) -> list[Variant]:
        """Variants with these halos, the smallest first, those that are the same once; then the exact one."""
        found = {}
        for kept in (*map(self._kept, halos), *([self.most] if self.exact else [])):
            halo = self._cut([max(pair) for pair in kept])
            patch = tuple(
                a.padded if zone is None else fit(a, *pair, zone)
                for a, zone, pair in zip(self.axes, self.zone, kept, strict=True)
            )
            kind, settings = "halo", {"patch": patch, "halo": halo}
            if self.exact and kept == self.most:
                kind, settings = "exact", {"patch": patch}
            found[kept] = Variant(kind, halo, None, settings, *_count(self.axes, patch))
        return sorted(found.values(), key=lambda v: (v.kind == "exact", prod(v.settings["patch"])))

    def steps(self) -> Iterator[tuple[int, ...]]:
        """Halos from 0 to the largest, in whole periods."""
        for k in range(STEPS + 1):
            yield tuple(
                min(max(pair), round_up(ceil(max(pair) * k / STEPS), a.contract.period))
                for a, pair in zip(self.axes, self.most, strict=True)
            )

    def shares(self) -> Iterator[tuple[int, ...]]:
        """Parts of the patch, such that patches start at whole periods."""
        for part in PARTS:
            overlaps = []
            for a, patch in zip(self.axes, self.shared, strict=True):
                period = a.contract.period
                step = min(patch - patch // part, patch - crop(a.contract)) // period * period
                overlaps.append(patch - max(step, period))
            yield tuple(overlaps)

    def blended(self, overlaps: Iterable[Sequence[int | None]], window: str) -> list[Variant]:
        """Variants with these overlaps, in their order, those that are the same once."""
        patch = tuple(a.padded if z is None else s for a, z, s in zip(self.axes, self.zone, self.shared, strict=True))
        variants = {}
        for overlap in overlaps:
            filled = [crop(a.contract) if o is None else o for a, o in zip(self.axes, overlap, strict=True)]
            shown = self._cut(filled)
            least = tuple(crop(a.contract) if o is None else o for a, o in zip(self.axes, shown, strict=True))
            lattice = [blended_axis(a.contract, a.size, p, o) for a, p, o in zip(self.axes, patch, least, strict=True)]
            settings = {"patch": patch, "overlap": least, "window": window}
            variants[least] = Variant("blended", None, shown, settings, *_count(lattice, patch))
        return list(variants.values())


def _count(axes: Sequence[AxisLattice], patch: Sequence[int]) -> tuple[int, float]:
    """Patches in the sample, and patch voxels per voxel of a large volume; an axis that is not cut stays as it is."""
    per_voxel = prod(p / (a.step if len(a.starts) > 1 else a.size) for a, p in zip(axes, patch, strict=True))
    return prod(len(a.starts) for a in axes), per_voxel


def crop(contract: AxisContract) -> int:
    """Input voxels that a valid network's output lacks."""
    return max(0, ceil(sum(contract.crop)))


def fit(axis: AxisLattice, low: int, high: int, zone: int) -> int:
    """The patch of a clean zone between ``low`` and ``high`` voxels of context, of a size that the network takes."""
    period = axis.contract.period
    patch = round_up(low, period) + zone + high
    while not axis.contract.accepts(patch) or (axis.padded - patch) % period:
        patch += 1
    return patch


def several_zones(axis: AxisLattice, low: int, high: int) -> int:
    """A patch that cuts the axis into `ZONES`; all of the axis where it is too short for that."""
    for zones in ZONES:
        patch = fit(axis, low, high, round_up(ceil(axis.padded / zones), axis.contract.period))
        if patch < axis.padded:
            return patch
    return axis.padded


def _half(axis: AxisLattice, patch: int) -> int:
    """The largest size that the network takes, up to half of the axis; the patch where there is none."""
    sizes = range(min(patch, axis.padded // 2), 0, -1)
    return next((n for n in sizes if axis.contract.accepts(n) and n > 2 * crop(axis.contract)), patch)
