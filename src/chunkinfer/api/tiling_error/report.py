"""Error and cost of a network's tilings, to look at: as text, as HTML, as a picture."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from chunkinfer.api.tiling_error.curves import Point, pareto
from chunkinfer.errors import PlanError
from chunkinfer.support import html

Extents = tuple[int | None, ...]
"""Voxels per spatial axis; None on an axis that is not cut."""

TOLERANCE = 1e-3
"""Errors below this part of the largest absolute output count as none for the effective halo: bfloat16 costs more."""

ROUND_OFF = 1e-5
"""Errors up to this part of the largest absolute output are the arithmetic's, not the tiling's."""

REPEATS = 3
"""Times that each variant is timed, in turn with the others; the median counts."""


@dataclass(frozen=True)
class TilingError:
    """One way to tile, compared with the network on the whole sample at once."""

    kind: str
    """exact: with the traced context; halo: with less; blended: overlapping patches."""
    halo: Extents | None
    """Input voxels kept on each side of a clean zone; None for blended patches."""
    overlap: Extents | None
    """Input voxels that neighbouring patches share; None for clean zones."""
    patch: tuple[int, ...]
    """Input voxels that the network sees at a time."""
    recompute: float
    """Patch voxels that the network sees, per voxel of a volume so large that its faces do not count."""
    rmse: float
    """Root of the mean squared error over all voxels and channels, in units of the output."""
    max: float
    """Largest absolute error, in units of the output."""
    flipped: float
    """Share of the decisions that differ, 0 to 1."""
    time: float | None = None
    """Seconds in such a volume, relative to the row `TilingErrors.base`; None where not measured."""
    on_pareto: bool = False
    """Whether every row that costs no more has a larger rmse; see `on_front`."""

    @property
    def cost(self) -> float:
        """The relative time where it was measured, otherwise patch voxels per voxel."""
        return self.recompute if self.time is None else self.time

    @property
    def name(self) -> str:
        """What the row is, in two words."""
        return f"overlap {brief(self.overlap)}" if self.overlap else f"{self.kind} {brief(self.halo)}"


@dataclass(frozen=True)
class TilingErrors:
    """Error and cost of a network's tilings on one sample; has a text and an HTML repr."""

    model: str
    """Name of the network."""
    axes: tuple[str, ...]
    """Names of the spatial axes."""
    shape: tuple[int, ...]
    """Voxels of the sample."""
    context: tuple[tuple[int, int], ...] | None
    """Traced context, low and high, of each axis; None where it has no bound."""
    reasons: tuple[str, ...]
    """Why the network cannot be tiled exactly; empty if it can."""
    zone: Extents
    """Input voxels of a clean zone, the same at every halo."""
    peak: float
    """Largest absolute value of the reference: errors are judged against it."""
    threshold: float | None
    """A decision is an output above it; None: the channel with the largest output."""
    decisions: int
    """How many there are: voxels times channels, or voxels."""
    window: str
    """Of the blended rows."""
    rows: tuple[TilingError, ...]
    """Halos from the smallest on, then overlaps."""

    @property
    def base(self) -> TilingError:
        """The row whose time is 1: the exact one; of a network that has none, that with the largest halo."""
        return next((row for row in reversed(self.rows) if row.kind != "blended"), self.rows[0])

    @property
    def round_off(self) -> float:
        """Errors up to this, in units of the output, are the arithmetic's."""
        return ROUND_OFF * self.peak

    @property
    def effective_halo(self) -> Extents | None:
        """The smallest halo from which on the largest error stays below a thousandth of the largest output; None where
        none does."""
        return self._smallest(lambda row: row.max < TOLERANCE * self.peak)

    @property
    def deciding_halo(self) -> Extents | None:
        """The smallest halo from which on no decision differs; None where some always do."""
        return self._smallest(lambda row: row.flipped == 0)

    def _smallest(self, good: Callable[[TilingError], bool]) -> Extents | None:
        found = None
        for row in reversed([row for row in self.rows if row.kind != "blended"]):
            if not good(row):
                break
            found = row.halo
        return found

    def pareto(self) -> tuple[TilingError, ...]:
        """The rows worth their cost, the cheapest first; errors within round-off count as equal."""
        return tuple(sorted((row for row in self.rows if row.on_pareto), key=lambda row: row.cost))

    def as_dict(self) -> dict[str, Any]:
        """Plain values: ``pandas.DataFrame(errors.as_dict()["rows"])`` is the table."""
        return asdict(self) | {"effective_halo": self.effective_halo, "deciding_halo": self.deciding_halo}

    def plot(self, path: str | os.PathLike[str], *, error: str = "rmse") -> Path:
        """Draw error against cost.

        Parameters
        ----------
        path
            The PNG to write.
        error
            "rmse", "max" or "flipped". The front that is ringed is that of the rmse.

        Raises
        ------
        PlanError
            There is no such column.
        MissingExtra
            matplotlib is absent: ``pip install "chunkinfer[demo]"``.
        """
        names = {"rmse": "rmse", "max": "largest error", "flipped": "share of decisions that differ"}
        if error not in names:
            ways = ['errors.plot("tiling_error.png", error="max")', "leave error= out"]
            raise PlanError(f"error={error!r} is not a column.", f"There are: {', '.join(names)}.", ways)
        curves = {"blended": f"blended ({self.window})"}
        return pareto(
            [
                Point(row.cost, getattr(row, error), curves.get(row.kind, "clean zones"), row.name, row.on_pareto)
                for row in self.rows
            ],
            path,
            cost="patch voxels per voxel" if self.base.time is None else f"time, relative to {self.base.name}",
            error=names[error],
            floor=1 / self.decisions if error == "flipped" else self.round_off,
            floor_name="none" if error == "flipped" else "round-off",
            title=f"{self.model}, {full(self.shape)} voxels",
        )

    # ---- to look at ---------------------------------------------------------------------------------------------

    def _table(self) -> list[list[str]]:
        rows = [["tiling", "halo", "overlap", "patch", "recompute", "rmse", "max", "flipped", "time", "front"]]
        for row in self.rows:
            rows.append(
                [row.kind, brief(row.halo), brief(row.overlap), brief(row.patch), f"{row.recompute:.2f}",
                 f"{row.rmse:.1e}", f"{row.max:.1e}", f"{100 * row.flipped:.2g} %",
                 "-" if row.time is None else f"{row.time:.2f}", "*" if row.on_pareto else ""]
            )  # fmt: skip
        return rows

    def _facts(self) -> list[tuple[str, str]]:
        traced = f"unbounded ({self.reasons[0]})" if self.reasons else "unbounded"
        if self.context:
            pairs = zip(self.axes, self.context, strict=True)
            traced = ", ".join(f"{axis} {low} + {high}" for axis, (low, high) in pairs)
        reference = f"{self.model} on all {' x '.join(map(str, self.shape))} voxels at once"
        if not self.context:
            reference += ", which on another volume gives other values"
        thin = [axis for axis, zone in zip(self.axes, self.zone, strict=True) if zone is None]
        decision = "the channel with the largest output"
        facts = [
            ("reference", reference),
            ("traced context", traced),
            ("effective context", self._effective()),
            ("clean zone", f"{brief(self.zone)} at every halo" + (f"; {', '.join(thin)} not cut" if thin else "")),
            ("decision", f"{decision if self.threshold is None else f'output > {self.threshold:g}'}, "
             f"{self.decisions:,} of them"),
        ]  # fmt: skip
        if self.base.time is not None:
            facts.append(
                (
                    "time",
                    f"in a large volume, relative to {self.base.name}; per patch the median of {REPEATS} runs in turn",
                )
            )
        return [*facts, ("front", "* what costs no more has a larger rmse")]

    def _effective(self) -> str:
        """The effective context in words."""

        def words(halo: Extents | None) -> str:
            return f"more than {self.base.name}" if halo is None else f"halo {brief(halo)}"

        close = f"{words(self.effective_halo)} for errors below {TOLERANCE * self.peak:.1e}"
        return f"{close}, {words(self.deciding_halo)} for the same decisions"

    def __str__(self) -> str:
        table = self._table()
        widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
        lines = ["  ".join(cell.rjust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in table]
        lines += [f"{name + ':':<20}{value}" for name, value in self._facts()]
        return "\n".join(lines)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        head, *body = self._table()
        return html.table(head, body) + html.facts(self._facts())


def on_front(costs: Sequence[float], errors: Sequence[float]) -> list[bool]:
    """Which of several ways are on the Pareto front: no other is cheaper and no worse, or better and no dearer."""
    front = [False] * len(costs)
    least, at = float("inf"), float("inf")
    for i in sorted(range(len(costs)), key=lambda i: (costs[i], errors[i])):
        if errors[i] < least:
            least, at = errors[i], costs[i]
        front[i] = (errors[i], costs[i]) == (least, at)
    return front


def full(extents: Sequence[int | None]) -> str:
    """Voxels per axis; - where there is no number."""
    return " x ".join("-" if n is None else str(n) for n in extents)


def brief(extents: Sequence[int | None] | None) -> str:
    """One number where all axes have the same; - where there is none."""
    if not extents:
        return "-"
    return full(extents[:1]) if len(set(extents)) == 1 else full(extents)
