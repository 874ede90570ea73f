"""chunkinfer on a stored volume, in the protocol of the peers' scripts: one JSON line.

    python benchmarks/peers/bench_chunkinfer.py --input em.zarr --model unet.pt --memory "6 GiB"
    python benchmarks/peers/bench_chunkinfer.py --input em.npy --model unet.pt --patch 96 96 96 --overlap 16 16 16

The clock runs from `infer` to the end of `save`: tracing, planning, compiling and checks of precision are in it. It
does not run while libraries are imported, nor while a .npy is copied to a zarr, which is read instead of it.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from math import prod
from pathlib import Path
from typing import Any


def options() -> argparse.Namespace:
    """The peers' options, and those that only chunkinfer has."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", required=True, type=Path, help="a .zarr, or a .npy that is copied to one")
    parser.add_argument("--model", required=True)
    parser.add_argument("--patch", nargs=3, type=int, help="z y x; the plan chooses without it")
    parser.add_argument("--overlap", nargs=3, type=int, help="z y x; asks for blending")
    parser.add_argument("--threads", type=int, default=0, help="cores to use")
    parser.add_argument("--out", type=Path, help="folder for y.zarr; by default one that is removed")
    parser.add_argument("--memory", help='of the process, such as "6 GiB"')
    parser.add_argument("--engine", help="not given to infer where it is not given here")
    parser.add_argument("--precision", default="fp32")
    return parser.parse_args()


def high_water() -> int:
    """The most resident memory that this process ever had, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def run(asked: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Run once, store to store."""
    import distributed  # noqa: F401  what a run imports is imported before the clock starts, as the peers do
    import torch  # noqa: F401

    if asked.engine == "openvino":
        import openvino  # noqa: F401

    import chunkinfer as ci

    source = asked.input
    if source.suffix == ".npy":
        source = folder / "input.zarr"
        ci.save(ci.open_volume(asked.input), source, progress=False)
    wishes = {name: getattr(asked, name) for name in ("patch", "overlap", "memory", "engine", "precision")}
    wishes = {name: value for name, value in wishes.items() if value is not None}
    infer, save, base = ci.infer, ci.save, high_water()

    start = time.perf_counter()
    result = infer(ci.open_volume(source), asked.model, **wishes)
    planned = time.perf_counter()
    save(result, folder / "y.zarr", progress=False)
    seconds = time.perf_counter() - start

    peak = high_water()
    found = ci.plan(ci.open_volume(source), asked.model, **wishes)
    voxels = prod(found.lattice.output)
    return {
        "peer": "chunkinfer",
        "version": ci.__version__,
        "wall_s": seconds,
        "plan_s": planned - start,
        "out_vox_per_s": voxels / seconds,
        "out_voxels": voxels,
        "peak_rss_mib": round(peak / 2**20),
        "base_rss_mib": round(base / 2**20),
        "projected_mib": round(sum(size for _, size in found.memory()) / 2**20),
        "patch": list(found.lattice.patch),
        "overlap": found.overlap,
        "batch": found.batch,
        "block": list(found.block),
        "kernels": found.kernels,
        "threads": found.threads,
        "recompute": found.recompute,
        "flops_per_voxel": found.flops_per_voxel,
        "verdict": found.verdict,
    }


def main() -> None:
    asked = options()
    if asked.threads and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: asked.threads])
    with tempfile.TemporaryDirectory() as temporary:
        folder = asked.out or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        print(json.dumps(run(asked, folder)), flush=True)


if __name__ == "__main__":
    main()
