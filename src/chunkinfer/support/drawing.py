"""What all drawings share: resolution, colours, and the bar that shows their scale."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DPI = 200

GAP = 0.1
"""Inches between panels."""

INK, FAINT, ACCENT = "#1a1a1a", "#6b6b6b", "#f2542d"


def scale_bar(axes: Axes, voxels: int, size: float, unit: str) -> None:
    """A bar of a round length, about a fifth of the panel, in its lower left corner."""
    from matplotlib.patheffects import withStroke

    longest = 0.3 * voxels * size
    decade = 10.0 ** math.floor(math.log10(longest))
    length = max(step * decade for step in (1, 2, 5) if step * decade <= longest)
    text = f"{length / 1000:g} µm" if unit == "nm" and length >= 1000 else f"{length:g} {unit}"
    share = length / (voxels * size)
    where = axes.transAxes
    bar = axes.plot([0.04, 0.04 + share], [0.05, 0.05], transform=where, color="white", linewidth=3)
    label = axes.text(
        0.04 + share / 2, 0.075, text, transform=where, color="white", size=9, weight="bold", ha="center", va="bottom"
    )
    bar[0].set(solid_capstyle="butt", path_effects=[withStroke(linewidth=4.5, foreground=INK)])
    label.set_path_effects([withStroke(linewidth=2.5, foreground=INK)])
