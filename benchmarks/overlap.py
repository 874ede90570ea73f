"""What an overlap of 20 to 25 % is worth, chunkflow's rule of thumb, on real electron microscopy.

    python benchmarks/overlap.py        # prints tables in markdown; about seven minutes

An affinity network and the volume that it was trained on, FIB-25, from ../shared. Patches of one size overlap by 0 to
50 %, and are blended (hann), or the overlap is cut off, half of it from each side, which costs the same. Overlaps are
rounded to the network's period, as those of any tiling should be.

Errors are against the network on the whole, in a box away from the volume's end, where the last patch overlaps more
than was asked for. The loss is binary cross-entropy against the affinities of the labels, in the same box.

Costs hold for a volume large enough that its faces do not count: patch voxels per voxel, and that times the seconds per
patch, which are measured for both ways in turn.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

import chunkinfer as ci
from chunkinfer.tools.demo.scores import affinities_of

SHARED = Path(__file__).parents[2] / "shared"
IMAGE = SHARED / "data" / "fib25" / "sample2_image.npy"
LABELS = SHARED / "data" / "fib25" / "sample2_labels_z000_180.npz"
MODEL = SHARED / "models" / "fib25_affinity.pt2"

SHARES = {64: (0, 5, 10, 15, 20, 25, 33, 50)}
"""Percent of the patch, by patch."""

FEW_SHARES = (0, 10, 25, 50)
"""The same for every other patch."""

REPEATS = 5


def affinity_loss(affinities: np.ndarray, labels: np.ndarray) -> float:
    """Mean binary cross-entropy, over voxels and directions, where both voxels of an edge are labelled."""
    known = np.repeat((labels > 0)[None], 3, 0)
    for d in range(3):
        np.moveaxis(known[d], d, 0)[1:] &= np.moveaxis(labels > 0, d, 0)[:-1]
        np.moveaxis(known[d], d, 0)[:1] = False
    p, joined = np.clip(affinities, 1e-6, 1 - 1e-6), affinities_of(labels) > 0
    return float(-np.log(np.where(joined, p, 1 - p))[known].mean(dtype=np.float64))


def compare(values: np.ndarray, reference: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Errors, share of decisions that differ, and loss."""
    difference = np.abs(values - reference)
    return {
        "max": float(difference.max()),
        "rmse": float(np.sqrt(np.mean(np.square(difference), dtype=np.float64))),
        "flipped": float(np.mean((values > 0.5) != (reference > 0.5))),
        "loss": affinity_loss(values, labels),
    }


def seconds_per_patch(image: np.ndarray, patch: int) -> dict[str, float]:
    """Of blended and of cropped patches, from volumes of two patches each, in turn."""
    overlap = patch // 4 // 8 * 8
    row = image[:patch, :patch]
    volumes = {"blended": row[..., : 2 * patch - overlap], "cropped": row[..., : 2 * (patch - overlap)]}
    ways: dict[str, dict[str, Any]] = {"blended": {"overlap": overlap}, "cropped": {"halo": overlap // 2}}
    runs = {}
    for way, how in ways.items():
        settings = {"patch": patch, "block": 4096, "threads": torch.get_num_threads(), **how}
        assert ci.plan(volumes[way], MODEL, **settings).patches == 2
        runs[way] = ci.infer(volumes[way], MODEL, **settings)
    taken: dict[str, list[float]] = {way: [] for way in runs}
    for turn in range(REPEATS + 1):
        for way, run in runs.items():
            start = time.perf_counter()
            run.compute(scheduler="synchronous")
            if turn:
                taken[way].append((time.perf_counter() - start) / 2)
    return {way: median(times) for way, times in taken.items()}


def measure(
    image: np.ndarray, box: tuple[slice, ...], patch: int, reference: np.ndarray, labels: np.ndarray
) -> list[dict[str, Any]]:
    """A row for each overlap, blended and cropped."""
    per_patch = seconds_per_patch(image, patch)
    first = ci.plan(image, MODEL).lattice.axes[0].contract
    rows = []
    for overlap in sorted(
        {round(patch * share / 100 / first.period) * first.period for share in SHARES.get(patch, FEW_SHARES)}
    ):
        ways: dict[str, dict[str, Any]] = {"blended": {"overlap": overlap, "block": box[0].start}}
        if overlap and overlap % (2 * first.period) == 0 and overlap // 2 < first.low:
            ways["cropped"] = {"halo": overlap // 2}
        for way, settings in ways.items():
            run = ci.infer(image, MODEL, patch=patch, threads=torch.get_num_threads(), **settings)
            values = run[(slice(None), *box)].compute(scheduler="synchronous")
            cost = (patch / (patch - overlap)) ** 3
            rows.append(
                {"overlap": overlap, "way": way, "cost": cost, "time": cost * per_patch[way] / per_patch["cropped"]}
                | compare(values, reference, labels)
            )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patches", type=int, nargs="+", default=[64, 96], help="voxels along each axis of a patch")
    parser.add_argument("--side", type=int, default=76, help="voxels along each axis of the box that is looked at")
    options = parser.parse_args()
    if missing := [str(p.relative_to(SHARED.parent)) for p in (IMAGE, LABELS, MODEL) if not p.exists()]:
        sys.exit(
            f"This benchmark reads {', '.join(missing)} beside the repository: real data, which is not part of it."
        )
    image = np.load(IMAGE)
    if 2 * options.side > min(image.shape) - max(options.patches):
        parser.error(f"a box of --side {options.side} reaches the last patch, which overlaps more than was asked for")
    box = (slice(options.side, 2 * options.side),) * 3
    labels = np.load(LABELS)["labels"][box]
    # One patch that reaches beyond the context on all sides gives the network on the whole, here.
    axes = ci.plan(image, MODEL).lattice.axes
    around = -(-max(axes[0].contract.low, axes[0].contract.high) // axes[0].contract.period) * axes[0].contract.period
    low, high = options.side - around, 2 * options.side + around
    part = ci.infer(image[low:high, low:high, low:high], MODEL, patch=4096, threads=torch.get_num_threads())
    inner = (slice(None), *(slice(around, around + options.side),) * 3)
    reference = part[inner].compute(scheduler="synchronous")
    exact = compare(reference, reference, labels)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} thread(s); {options.side}^3 voxels of FIB-25 sample 2")
    for patch in options.patches:
        rows = measure(image, box, patch, reference, labels)
        clean = patch - 2 * around
        print(f"\nPatch {patch}, context {axes[0].contract.low} + {axes[0].contract.high}:\n")
        print("| overlap | way | max error | rmse | decisions flipped | affinity loss | recompute | time |")
        print("|---|---|---|---|---|---|---|---|")
        for row in rows:
            share = f"{row['overlap']} ({100 * row['overlap'] / patch:.0f} %)"
            print(
                f"| {share} | {row['way']} | {row['max']:.2f} | {row['rmse']:.1e} | {100 * row['flipped']:.3f} % | "
                f"{row['loss']:.4f} | {row['cost']:.2f} | {row['time']:.2f} |"
            )
        if clean > 0:
            cost = (patch / clean) ** 3
            print(f"| {2 * around} | exact | 0 | 0 | 0 | {exact['loss']:.4f} | {cost:.2f} | {cost:.2f} |")
        conclude(patch, rows, exact["loss"])


def conclude(patch: int, rows: list[dict[str, Any]], loss: float) -> None:
    """What the rule is worth, from these figures."""
    blended = [row for row in rows if row["way"] == "blended"]
    none, most = blended[0], blended[-1]
    rule = min(blended, key=lambda row: abs(row["overlap"] - patch / 4))
    gain = "little" if abs(rule["loss"] - loss) < abs(none["loss"] - loss) / 4 else "something"
    twin = next((row for row in rows if row["way"] == "cropped" and row["overlap"] == rule["overlap"]), None)
    print(
        f"\nAn overlap of {100 * rule['overlap'] / patch:.0f} % divides the decisions that differ by "
        f"{none['flipped'] / rule['flipped']:.0f}, for {rule['cost']:.1f} times the work; half the patch divides them "
        f"by {none['flipped'] / most['flipped']:.0f}, for {most['cost']:.1f}. The loss is off by "
        f"{rule['loss'] - loss:+.4f}, with no overlap by {none['loss'] - loss:+.4f}: against the labels, "
        f"the rule leaves {gain} to gain."
    )
    if twin:
        print(
            f"Cut off instead of blended, the same overlap gives {twin['rmse'] / rule['rmse']:.1f} times the rmse and "
            f"{twin['flipped'] / rule['flipped']:.1f} times the decisions that differ."
        )


if __name__ == "__main__":
    main()
