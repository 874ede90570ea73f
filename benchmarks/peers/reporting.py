"""What was measured, as markdown and as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import log10
from pathlib import Path
from statistics import median
from typing import Any


@dataclass(frozen=True)
class Record:
    """One run of one contestant."""

    key: str
    side: int
    """Voxels along each axis of the volume."""
    patch: int | None
    """As it was asked for; None where the contestant chose."""
    turn: int
    """0 for the first round."""
    seconds: float
    """Of the process, imports included."""
    peak: int
    """Bytes."""
    wall: float = 0.0
    """By its own clock, store to store."""
    speed: float = 0.0
    """Output voxels per second by its own clock, channels not counted."""
    largest: float = 0.0
    mean: float = 0.0
    flipped: float = 0.0
    why: str = ""
    """Why there is no result."""
    found: dict[str, Any] | None = None
    """Its own JSON line."""

    def as_json(self) -> dict[str, Any]:
        """For a file."""
        return asdict(self)

    def __str__(self) -> str:
        return self.why or f"{self.wall:.1f} s, {self.peak / 1e6:,.0f} MB, max error {self.largest:.1e}"

    @property
    def patch_text(self) -> str:
        """The patch that was run."""
        sizes = (self.found or {}).get("patch") or [self.patch or ""]
        return str(sizes[0]) if len(set(sizes)) == 1 else " x ".join(map(str, sizes))


@dataclass(frozen=True)
class Row:
    """A contestant on one volume: medians over the rounds."""

    name: str
    precision: str
    ours: bool
    patch: str
    wall: float
    speed: float
    peak: int
    largest: float
    flipped: float
    why: str = ""


def row_of(name: str, precision: str, ours: bool, records: Sequence[Record]) -> Row:
    """The records of a contestant on one volume in one row."""
    good = [r for r in records if not r.why]
    if not good:
        why = records[-1].why if records else "not run"
        return Row(name, precision, ours, records[-1].patch_text if records else "", 0, 0, 0, 0, 0, why)
    return Row(
        name,
        precision,
        ours,
        good[0].patch_text,
        median(r.wall for r in good),
        median(r.speed for r in good),
        max(r.peak for r in good),
        max(r.largest for r in good),
        max(r.flipped for r in good),
    )


def results(rows: Sequence[Row], base: Row | None, limit: int, before: Sequence[Row] | None) -> str:
    """A table of one volume; ``base`` is what ratios are to, ``before`` the same contestants on a smaller volume."""
    grown = "more than before, MB | " if before else ""
    lines = [
        f"| | precision | patch | wall, s | Mvoxel/s | of MONAI's | peak, MB | {grown}max error | decisions flipped |",
        "|---|---|---|---|---|---|---|---|" + ("---|" if before else "") + "---|",
    ]
    for number, row in enumerate(rows):
        if row.why:
            lines.append(f"| {row.name} | {row.precision} | {row.patch} | {row.why} |" + " |" * (6 if before else 5))
            continue
        ratio = f"{row.speed / base.speed:.2f}" if base and base.speed else ""
        over = ", over the limit" if row.peak > limit else ""
        cells = [row.name, row.precision, row.patch, f"{row.wall:.1f}", f"{row.speed / 1e6:.2f}", ratio]
        cells.append(f"{row.peak / 1e6:,.0f}{over}")
        if before:
            cells.append(f"{(row.peak - before[number].peak) / 1e6:+,.0f}" if before[number].peak else "")
        cells += [f"{row.largest:.1e}" if row.largest else "0", share(row.flipped)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def share(value: float) -> str:
    """A share in percent, with two digits."""
    return "0" if value == 0 else f"{100 * value:.2g} %"


def patches(names: dict[str, str], records: Sequence[Record], chosen: dict[str, int], limit: int) -> str:
    """What each patch gave each peer: Mvoxel/s and peak memory; the chosen one is bold."""
    sizes = sorted({r.patch for r in records if r.patch})
    lines = ["| | " + " | ".join(f"patch {n}" for n in sizes) + " |", "|---" * (len(sizes) + 1) + "|"]
    for key, name in names.items():
        cells = []
        for size in sizes:
            record = next((r for r in records if r.key == key and r.patch == size), None)
            cells.append(cell(record, limit, chosen.get(key) == size) if record else "")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def cell(record: Record, limit: int, chosen: bool) -> str:
    """One run in a few words."""
    if record.why:
        return record.why
    text = f"{record.speed / 1e6:.2f} Mvoxel/s, {record.peak / 1e6:,.0f} MB"
    text = f"**{text}**" if chosen else text
    return f"{text}, over the limit" if record.peak > limit else text


def kernels(rows: Sequence[dict[str, Any]]) -> str:
    """The network alone."""
    lines = [
        "| patch | kernel | precision | Mvoxel/s | of the first | GFLOP/s | share of the peak | max error | flipped |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    sizes = list(dict.fromkeys(row["patch"] for row in rows))
    for size in sizes:
        # Those that could not run come last.
        part = sorted((row for row in rows if row["patch"] == size), key=lambda row: "why" in row)
        first = part[0].get("voxels_per_s", 0)
        for row in part:
            start = f"| {size} | {row['kernel']} | {row['precision']} |"
            if "why" in row:
                lines.append(f"{start} {row['why']} | | | | | |")
                continue
            lines.append(
                f"{start} {row['voxels_per_s'] / 1e6:.2f} | {row['voxels_per_s'] / first:.1f} | "
                f"{row['flops_per_s'] / 1e9:.0f} | {100 * row['share']:.0f} % | "
                f"{row['largest']:.1e} | {share(row['flipped'])} |"
            )
    return "\n".join(lines)


GAP = 0.07
"""Between the heights of two labels of the plot, in decades."""


def spread(heights: Sequence[float], gap: float) -> list[float]:
    """Rising heights, moved apart to a gap at least, around where they were."""
    found: list[float] = []
    for height in heights:
        found.append(max(height, found[-1] + gap) if found else height)
    moved = sum(b - a for a, b in zip(heights, found, strict=True)) / max(len(found), 1)
    return [height - moved for height in found]


def plot(panels: dict[int, Sequence[Row]], path: Path) -> None:
    """Speed against error, a panel for each volume; the area of a point is its peak memory."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(
        1, len(panels), figsize=(6.4 * len(panels), 4.8), sharey=True, squeeze=False, layout="constrained"
    )
    for ax, (side, rows) in zip(axes[0], panels.items(), strict=True):
        good = [row for row in rows if not row.why]
        for ours, colour in ((False, "#8a8a8a"), (True, "#1f77b4")):
            part = [row for row in good if row.ours is ours]
            ax.scatter(
                [max(row.largest, 1e-8) for row in part],
                [row.speed / 1e6 for row in part],
                s=[row.peak / 1e7 for row in part],
                color=colour,
                alpha=0.5,
                linewidths=0,
            )
        part = sorted(good, key=lambda row: row.speed)
        for row, height in zip(part, spread([log10(row.speed / 1e6) for row in part], GAP), strict=True):
            # Labels of large errors stand to the left of their points, so that they stay inside.
            x, left = max(row.largest, 1e-8), row.largest > 1e-4
            ax.annotate(
                f"{row.name.replace('*', '')}, {row.precision}",
                (x, row.speed / 1e6),
                xytext=(x / 6 if left else x * 4, 10**height),
                arrowprops={"arrowstyle": "-", "linewidth": 0.4, "color": "#8a8a8a"},
                ha="right" if left else "left",
                va="center",
                fontsize=7,
            )
        ax.set(xscale="log", yscale="log", xlim=(1e-8, 3), title=f"{side}³ voxels")
        ax.set_xlabel("largest difference from the network on the whole volume")
        ax.margins(y=0.2)
        ax.grid(True, which="both", alpha=0.2)
    axes[0][0].set_ylabel("output, Mvoxel/s")
    figure.suptitle("FIB-25, one network, two threads, store to store; area: peak memory", fontsize=9)
    figure.savefig(path, dpi=150)
    plt.close(figure)
