"""Workers of two engines on one volume: is their throughput the sum of what each kind does alone?

    python benchmarks/hybrid.py      # about five minutes; needs chunkinfer[openvino]

Two worker processes of one thread, each bound to a core of its own. One declares a GPU and runs torch on its CPU, which
is what a worker of another speed looks like on a machine without a GPU; the other runs OpenVINO. Each kind runs alone
first, then both, then each alone again: the machine's own drift shows in the two rounds.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from memory import network


def start(folder: Path, core: int, *command: str) -> subprocess.Popen[bytes]:
    """A scheduler or worker, bound to a core."""
    local = ("--host", "127.0.0.1", "--no-dashboard", "--dashboard-address", "127.0.0.1:0")
    with open(folder / f"{command[0]}-{core}.log", "ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "dask", *command, *local], stdout=log, stderr=log, cwd=folder,
            env={**os.environ, "OMP_NUM_THREADS": "1"}, preexec_fn=lambda: os.sched_setaffinity(0, {core}),
        )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=192, help="voxels along each axis")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = run(asked.side, Path(folder))
    if asked.json:
        print(json.dumps(found))
        return
    print("| workers | seconds | Mvoxel/s | blocks by engine |\n|---|---|---|---|")
    for row in found["rows"]:
        print(f"| {row['workers']} | {row['seconds']:.1f} | {row['speed']:.3f} | {row['engines']} |")
    print(f"\nBoth together / sum of each alone (mean of two rounds): {found['share']:.3f}.")


def run(side: int, folder: Path) -> dict[str, Any]:
    """Each alone, both, each alone."""
    from distributed import Client

    import chunkinfer as ci

    values = np.random.default_rng(0).integers(0, 255, (side,) * 3).astype(np.uint8)
    ci.save(values, folder / "in.zarr", progress=False)
    volume, net = ci.open_volume(folder / "in.zarr"), network("unet8")
    scheduler = start(folder, 0, "scheduler", "--port", "0", "--scheduler-file", str(folder / "s.json"))
    while not (folder / "s.json").exists():
        time.sleep(0.1)
    time.sleep(0.5)
    address = json.loads((folder / "s.json").read_text())["address"]
    rows: list[dict[str, Any]] = []
    try:
        for kinds in (["torch"], ["openvino"], ["torch", "openvino"], ["openvino"], ["torch"]):
            workers = [
                start(folder, core, "worker", address, "--no-nanny", "--nthreads", "2",
                      *(["--resources", "GPU=1"] if kind == "torch" else []))
                for core, kind in enumerate(["torch", "openvino"]) if kind in kinds
            ]  # fmt: skip
            with Client(address) as client:
                client.wait_for_workers(len(workers))
                for output in ("warm", "out"):  # the first compiles
                    part = volume[:144, :144, :144] if output == "warm" else volume
                    lazy = ci.infer(part, net, patch=96, block=48, cpu_engine="openvino", device="cpu")
                    report = ci.save(lazy, folder / output, client=client, progress=False, overwrite=True)
            rows.append(
                {"workers": " and ".join(kinds), "seconds": report.seconds, "speed": side**3 / report.seconds / 1e6,
                 "engines": dict(report.engines)}
            )  # fmt: skip
            for worker in workers:
                worker.kill()
                worker.wait()
            time.sleep(2)
    finally:
        scheduler.kill()
        scheduler.wait()
    speeds = [row["speed"] for row in rows]
    return {"rows": rows, "share": speeds[2] / (sum(speeds[:2] + speeds[3:]) / 2)}


if __name__ == "__main__":
    main()
