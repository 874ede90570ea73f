"""What operators around a network cost: normalise + infer + quantise against infer alone, store to store.

    python benchmarks/chain.py     # about ten minutes; prints a table in markdown

Pairs of runs, one after the other, in this process with one kernel; CPU seconds of the whole process, planning not
counted. Infer alone scales uint8 by 255 and stores the uint8 that its own kernel makes; the chain stretches a range,
infers in float32 and quantises, in the same task.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

import chunkinfer as ci
from chunkinfer import operators as op
from residual import residual_unet

SHAPE = (40, 288, 288)
PATCH: dict[str, Any] = {"patch": (20, 128, 128), "overlap": (4, 32, 32), "slots": 2}
PAIRS = 7


def cpu_seconds(result: Any, folder: Path) -> float:
    """Of a whole run."""
    start = time.process_time()
    ci.save(result, folder / "out.zarr", overwrite=True, progress=False)
    return time.process_time() - start


def main() -> None:
    model = residual_unet()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ci.save(np.random.default_rng(0).integers(0, 255, SHAPE, np.uint8), folder / "em.zarr", progress=False)
        volume = ci.open_volume(folder / "em.zarr")
        alone = ci.infer(volume, model, dtype="uint8", **PATCH)
        chain = op.quantize(ci.infer(op.normalize(volume, range=(0, 255)), model, **PATCH))
        for warm in (alone, chain):
            cpu_seconds(warm, folder)
        pairs = []
        print("| pair | infer alone, CPU s | normalise + infer + quantise, CPU s | more |\n|---|---|---|---|")
        for i in range(PAIRS):
            pair = cpu_seconds(alone, folder), cpu_seconds(chain, folder)
            pairs.append(pair[1] / pair[0] - 1)
            print(f"| {i + 1} | {pair[0]:.2f} | {pair[1]:.2f} | {pairs[-1]:.1%} |", flush=True)
        print(f"\nMedian: {median(pairs):.1%} more.")


if __name__ == "__main__":
    main()
