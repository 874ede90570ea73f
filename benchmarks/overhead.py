"""What a run costs beside its network: CPU seconds of everything else, store to store, as a share.

    python benchmarks/overhead.py     # prints a table in markdown; about five minutes

The same run is made with the network and with the identity engine, which does all but the network's arithmetic, and a
little more than nothing. Each in this process, with one kernel; the first run of each kind is not counted.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

import chunkinfer as ci
from residual import residual_unet

SHAPE = (40, 416, 416)
SETTINGS: dict[str, Any] = {"patch": (20, 128, 128), "overlap": (4, 32, 32), "dtype": "uint8", "slots": 2}
ENGINES = (("torch", "fp32"), ("openvino", "fp32"), ("openvino", "bf16"))


def cpu_seconds(volume: Any, model: Any, folder: Path, **settings: Any) -> float:
    """Of a whole run, planning not counted."""
    result = ci.infer(volume, model, **SETTINGS, **settings)
    start = time.process_time()
    ci.save(result, folder / "out.zarr", overwrite=True, progress=False)
    return time.process_time() - start


def main() -> None:
    model = residual_unet()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        values = np.random.default_rng(0).integers(0, 255, SHAPE, np.uint8)
        ci.save(values, folder / "em.zarr", progress=False)
        direct = ci.open_volume(folder / "em.zarr")
        reads = {
            "direct, one read of the store": direct,
            "nested, cropped and cast by dask": direct[:, 8:-8].astype("f4"),
        }
        plan = ci.plan(direct, model, **SETTINGS)
        print(
            f"Residual U-Net 16/32/64/128, {plan.patches} patches of 20 x 128 x 128 that overlap by 4 x 32 x 32, "
            f"{plan.flops_per_voxel / 1e6:.2f} MFLOP per output voxel, uint8 to uint8, zarr to zarr.\n"
        )
        print("| reads | engine | CPU s with the network | CPU s without | share that is not the network |")
        print("|---|---|---|---|---|")
        for read, volume in reads.items():
            scaling = {} if volume is direct else {"normalize": (0, 255)}
            for _ in range(2):
                null = cpu_seconds(volume, model, folder, engine="identity", **scaling)
            for engine, precision in ENGINES:
                wide = {"precision": precision, "precision_tolerance": 1.0, "engine": engine, **scaling}
                whole = cpu_seconds(volume, model, folder, **wide)
                print(f"| {read} | {engine} {precision} | {whole:.1f} | {null:.2f} | {null / whole:.1%} |", flush=True)


if __name__ == "__main__":
    main()
