"""Predicted and measured voxels per second; the searched plan against a sweep, and against a usual blended patch.

    python benchmarks/speed.py               # prints three tables in markdown; about twenty minutes
    python benchmarks/speed.py predict 0 3   # some of the cases of the first
    python benchmarks/speed.py sweep

Needs a machine that does nothing else. Calibrations are made anew: the file that remembers them is elsewhere for the
time. Ratios hold within one run.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from math import ceil, prod
from pathlib import Path
from typing import Any

import numpy as np

import chunkinfer as ci
from memory import network

SECONDS = 75
"""That a predicted run should take, about."""

CASES: list[dict[str, Any]] = [
    {"net": "unet8", "settings": {"memory": "3 GiB"}},
    {"net": "unet8", "settings": {"patch": 96, "dtype": "uint8"}},
    {"net": "unet8", "settings": {"patch": 96, "threads": 2, "slots": 2}},
    {"net": "unet12", "settings": {"patch": 80, "overlap": 16}},
    {"net": "valid", "settings": {"patch": 80, "dtype": "float16"}},
    {"net": "normed", "settings": {"patch": [32, 128, 128], "overlap": [8, 32, 32]}},
    {"net": "flat", "settings": {"patch": 512}},
    {"net": "fib25", "settings": {"patch": 112}},
]

SWEPT = [
    *((n,) * 3 for n in (64, 80, 96, 112, 128)),
    *((64, 96, 96), (64, 128, 128), (96, 128, 128), (96, 96, 192), (112, 112, 192), (96, 128, 192), (80, 128, 192)),
    *((n, 192, 192) for n in (60, 64, 72, 80, 96)),
]
"""Cubes, flat patches, and those that span one or two axes of the volume; the ones that fit are run."""


def model_of(name: str) -> Any:
    """A network by name; "fib25" is the trained one that lies beside a checkout, where it does."""
    if name != "fib25":
        return network(name)
    path = Path(__file__).parents[2] / "shared" / "models" / "fib25_affinity.pt2"
    return str(path) if path.exists() else None


def volume_of(folder: Path, shape: tuple[int, ...]) -> Any:
    """A stored uint8 volume of noise, written slab by slab."""
    import zarr

    path = folder / f"in-{'-'.join(map(str, shape))}.zarr"
    if not path.exists():
        names = list("zyx"[-len(shape) :])
        array = zarr.create_array(path, shape=shape, dtype="uint8", chunks=(64,) * len(shape), dimension_names=names)
        rng = np.random.default_rng(0)
        for z in range(0, shape[0], 64):
            array[z : z + 64] = rng.integers(0, 255, array[z : z + 64].shape, dtype=np.uint8)
    return ci.open_volume(path)


def timed(volume: Any, model: Any, folder: Path, **settings: Any) -> float:
    """Output voxels per second of a run, channels not counted."""
    report = ci.save(ci.infer(volume, model, **settings), folder / "out.zarr", overwrite=True, progress=False)
    return report.voxels / report.header["destination"]["shape"][0] / report.seconds


def predict(folder: Path, only: list[int]) -> None:
    """Runs of a minute or more, each predicted before."""
    print("| network | settings | patch | volume | seconds | predicted, Mvoxel/s | measured, Mvoxel/s | ratio |")
    print("|---|---|---|---|---|---|---|---|")
    ratios = []
    for number in only or range(len(CASES)):
        case = CASES[number]
        model, settings = model_of(case["net"]), case["settings"]
        if model is None:
            continue
        ndim = 2 if case["net"] == "flat" else 3
        shape = (2048,) * 2 if ndim == 2 else (256,) * 3
        for _ in range(2):  # the second shape is chosen from the speed on the first
            plan = ci.plan(volume_of(folder, shape), model, calibrate=True, **settings)
            found = plan.estimate
            assert found is not None
            if found.seconds < SECONDS * 0.9 or found.seconds > SECONDS * 1.5:
                side = (prod(shape) * SECONDS / found.seconds) ** (1 / ndim)
                shape = (max(64, 16 * ceil(side / 16)),) * ndim
        volume = volume_of(folder, shape)
        plan = ci.plan(volume, model, calibrate=True, **settings)
        predicted = prod(plan.lattice.output) / plan.estimate.seconds  # type: ignore[union-attr]
        start = time.perf_counter()
        measured = timed(volume, model, folder, calibrate=True, **settings)
        seconds = time.perf_counter() - start
        ratios.append(predicted / measured)
        words = ", ".join(f"{k}={v}" for k, v in settings.items())
        print(
            f"| {case['net']} | {words} | {' x '.join(map(str, plan.lattice.patch))} | {' x '.join(map(str, shape))} | "
            f"{seconds:.0f} | {predicted / 1e6:.3f} | {measured / 1e6:.3f} | {ratios[-1]:.2f} |",
            flush=True,
        )
    print(f"\nPredicted / measured: {min(ratios):.2f} to {max(ratios):.2f}.\n")


def sweep(folder: Path) -> None:
    """Every cube and some flat patches on one volume, against the plan of the search; and a usual blended patch."""
    model, volume, limit = model_of("unet8"), volume_of(folder, (192,) * 3), "2 GiB"
    rows: dict[str, tuple[float, float]] = {}
    for name, settings in {
        "chosen without measuring": {"memory": limit},
        "chosen by measuring": {"memory": limit, "calibrate": True},
    }.items():
        plan = ci.plan(volume, model, **settings)
        rows[f"{name}: {' x '.join(map(str, plan.lattice.patch))}"] = (
            plan.recompute,
            timed(volume, model, folder, **settings),
        )
    swept: dict[str, float] = {}
    for patch in SWEPT:
        plan = ci.plan(volume, model, patch=patch, memory=limit)
        if plan.fits:
            name = " x ".join(map(str, patch))
            swept[name] = timed(volume, model, folder, patch=patch)
            rows[name] = plan.recompute, swept[name]
    best = max(swept.values())
    print("| patch | patch voxels per voxel | useful voxels/s, of the best swept |\n|---|---|---|")
    for name, (recompute, speed) in rows.items():
        print(f"| {name} | {recompute:.2f} | {speed / best:.2f} |", flush=True)
    print()
    volume, usual = volume_of(folder, (64, 512, 512)), {"patch": (20, 256, 256), "overlap": (4, 64, 64)}
    print("| 64 x 512 x 512 | patch voxels per voxel | useful voxels/s, of the blended ones |\n|---|---|---|")
    blended = timed(volume, model, folder, **usual)
    print(f"| blended, 20 x 256 x 256 with 4 x 64 x 64 | {ci.plan(volume, model, **usual).recompute:.2f} | 1.00 |")
    chosen = {"memory": limit, "calibrate": True}
    plan = ci.plan(volume, model, **chosen)
    ratio = timed(volume, model, folder, **chosen) / blended
    patch = " x ".join(map(str, plan.lattice.patch))
    print(f"| exact, chosen by measuring: {patch} | {plan.recompute:.2f} | {ratio:.2f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=["predict", "sweep"], help="all without it")
    parser.add_argument("only", nargs="*", type=int, help="numbers of cases")
    options = parser.parse_args()
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = folder
        if options.what != "sweep":
            predict(Path(folder), options.only)
        if options.what != "predict":
            sweep(Path(folder))


if __name__ == "__main__":
    main()
