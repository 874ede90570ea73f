"""Curves of error against cost, as PNG files. Needs matplotlib, of the extra ``demo``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import cycle
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from chunkinfer.errors import VolumeError
from chunkinfer.support.drawing import ACCENT, DPI, FAINT, INK
from chunkinfer.support.picture import check_name, require_matplotlib

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.text import Annotation

WIDTH, HEIGHT = 6.4, 4.4
"""Of the picture, in inches."""

LOOKS = ((INK, "o", "-"), (FAINT, "s", ":"), (INK, "^", "--"), (FAINT, "D", "-."))
"""Colour, marker and line of each curve in turn: more than the colour differs, for prints in black and white."""

PLACES = ((8, 0, "left", "center"), (0, 7, "center", "bottom"), (-8, 0, "right", "center"), (0, -8, "center", "top"))
"""Where a label may stand beside its point, best first: shift in typographic points, and alignments."""


class Point(NamedTuple):
    """A way to do a job: what it costs and how far it is off."""

    cost: float
    """On a linear axis."""
    error: float
    """On a logarithmic axis; 0 is drawn at the floor."""
    curve: str
    """Points of one curve are joined in the order in which they come."""
    label: str
    """Written beside the point."""
    best: bool = False
    """Whether nothing else is both cheaper and nearer."""


def pareto(
    points: Sequence[Point],
    path: str | os.PathLike[str],
    *,
    cost: str,
    error: str,
    floor: float = 1e-7,
    floor_name: str = "round-off",
    title: str | None = None,
) -> Path:
    """Draw error against cost, a curve for each family of ways, the Pareto front ringed.

    ::

        error | o halo 0
              |    \\      s overlap 8
              |     o halo 4 . . s overlap 16
              |       \\____
              |____________o exact____ floor: round-off
                                           cost

    Parameters
    ----------
    points
        What was measured.
    path
        The PNG to write.
    cost, error
        Names of the two axes.
    floor, floor_name
        Errors up to this count as none, for the reason named: the axis ends there, and such points lie on its edge.
    title
        A line above the curves.

    Raises
    ------
    VolumeError
        There are no points, or one has a cost or an error that is no number.
    MissingExtra
        matplotlib is absent.
    """
    require_matplotlib("Curves", "demo")
    check_name(path)
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    _check(points, floor)
    figure = Figure(figsize=(WIDTH, HEIGHT), facecolor="white")
    FigureCanvasAgg(figure)  # labels are placed by their extents, which only a canvas knows
    head = 0.64 if title else 0.4
    left, bottom, right = 0.78, 0.55, 0.2
    axes = figure.add_axes(
        (left / WIDTH, bottom / HEIGHT, 1 - (left + right) / WIDTH, 1 - (bottom + head) / HEIGHT), yscale="log"
    )
    if title:
        figure.text(left / WIDTH, 1 - 0.14 / HEIGHT, title, va="top", size=11, weight="bold", color=INK)
    _frame(axes, points, floor, floor_name)
    axes.set_xlabel(cost, size=9, color=INK, labelpad=5)
    axes.set_ylabel(error, size=9, color=INK, labelpad=5)
    for (name, some), (color, marker, line) in zip(_curves(points).items(), cycle(LOOKS), strict=False):
        costs, errors = [p.cost for p in some], [max(p.error, floor) for p in some]
        axes.plot(
            costs, errors, color=color, marker=marker, linestyle=line, linewidth=1.1, markersize=5.5, label=name,
            clip_on=False, zorder=3,
        )  # fmt: skip
    best = [p for p in points if p.best]
    axes.plot(
        [p.cost for p in best], [max(p.error, floor) for p in best], label="Pareto front",
        linestyle="", marker="o", markersize=10.5, markerfacecolor="none", markeredgecolor=ACCENT,
        markeredgewidth=1.4, clip_on=False, zorder=4,
    )  # fmt: skip
    _key(axes)
    _label(axes, points, floor)
    figure.savefig(path, dpi=DPI, format="png")
    return Path(path)


def _check(points: Sequence[Point], floor: float) -> None:
    """`VolumeError` unless there is something to draw."""
    wrong = next((p for p in points if not (isfinite(p.cost) and isfinite(p.error) and p.error >= 0)), None)
    if points and wrong is None and floor > 0:
        return
    if wrong is not None:
        last = "draw the points without it"
        what = f"The point {wrong.label!r} has the cost {wrong.cost} and the error {wrong.error}."
    else:
        last = "leave floor= out" if points else "measure something first"
        what = f"There are {len(points)} points, and a floor of {floor}."
    raise VolumeError(
        what,
        "Costs and errors are numbers, errors 0 or more, and a logarithmic axis begins above 0.",
        ["pareto([Point(1.0, 1e-3, 'halo', 'halo 8')], path, cost='time', error='rmse')", last],
    )


def _curves(points: Sequence[Point]) -> dict[str, list[Point]]:
    """The points of each curve, in order."""
    curves: dict[str, list[Point]] = {}
    for point in points:
        curves.setdefault(point.curve, []).append(point)
    return curves


def _frame(axes: Axes, points: Sequence[Point], floor: float, floor_name: str) -> None:
    """Limits with room for labels, the band of round-off, and as few lines as carry the picture."""
    costs = [p.cost for p in points]
    room = 0.08 * (max(costs) - min(costs) or max(costs) or 1)
    top = max(max(p.error for p in points), 10 * floor)
    axes.set_xlim(min(costs) - room, max(costs) + 2 * room)
    axes.set_ylim(floor / 4, top * 4)
    axes.axhspan(floor / 4, floor, color="#f3f3f3", linewidth=0, zorder=0)
    axes.text(0.995, floor / 2, floor_name, transform=axes.get_yaxis_transform(), size=8, color=FAINT,
              ha="right", va="center")  # fmt: skip
    axes.tick_params(which="both", labelsize=8, color=FAINT, labelcolor=FAINT, width=0.6)
    axes.minorticks_off()
    axes.grid(axis="y", color="#e6e6e6", linewidth=0.6)
    axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
        spine.set(linewidth=0.6, color=INK, visible=side in ("left", "bottom"))


def _key(axes: Axes) -> None:
    """The names of the curves in one line above them."""
    axes.legend(
        loc="lower left", bbox_to_anchor=(-0.01, 1.0), ncols=4, frameon=False, fontsize=8, labelcolor=INK,
        borderpad=0.2, handlelength=1.8, handletextpad=0.5, columnspacing=1.4,
    )  # fmt: skip


def _label(axes: Axes, points: Sequence[Point], floor: float) -> None:
    """Names beside the points: each in the first place where it covers neither a point nor another name."""
    from matplotlib.patheffects import withStroke

    halo = [withStroke(linewidth=2.5, foreground="white")]  # readable on a line, too
    taken = [axes.transData.transform((p.cost, max(p.error, floor))) for p in points]
    placed: list[Annotation] = []
    for point in points:
        for dx, dy, across, up in PLACES:
            text = axes.annotate(
                point.label, (point.cost, max(point.error, floor)), (dx, dy), textcoords="offset points",
                ha=across, va=up, size=8, color=INK, zorder=5, annotation_clip=False,
                path_effects=halo,
            )  # fmt: skip
            box = text.get_window_extent().padded(7)
            inside = axes.bbox.x0 < box.x0 and box.x1 < axes.figure.bbox.x1
            free = inside and not any(box.contains(*spot) for spot in taken)
            if free and not any(box.overlaps(other.get_window_extent()) for other in placed):
                placed.append(text)
                break
            text.remove()
