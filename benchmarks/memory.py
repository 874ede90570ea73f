"""Peak memory of a run, against the sum that it is promised to stay under.

    python benchmarks/memory.py             # prints a table in markdown; four minutes
    python benchmarks/memory.py --side 960  # a larger volume: the peak stays where it is

The promise: above what the process holds with everything imported, the model loaded and the cluster started, a run
takes at most

    (slots + 1) x (haloed input + output) of a block  +  the model  +  activations
    + the read cache  +  one block as it is stored

whatever the size of the volume. Slots are blocks in flight: one per kernel, and one that is read or written meanwhile.
Activations are measured, in a process of their own: by how much the resident memory grows at its peak while as many
threads as a run has compute blocks, less the outputs. Peaks are the system's own count (VmHWM), so no sample is missed.

By default glibc keeps much of what each thread freed, which makes the next patch faster. So both are shown: with freed
memory given back at once, which is what a run holds, and as it is by default.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from chunkinfer.storage.store import CACHE_BYTES

BLOCK, PATCH, HALO, CHUNK = 128, 66, 1, 16

BLOCKS = 6
"""That each thread computes, one after the other: an allocator comes to keep more than the first one left."""

GIVE_BACK = {"MALLOC_MMAP_THRESHOLD_": str(1 << 16), "MALLOC_ARENA_MAX": "1"}
"""glibc returns freed arrays to the system at once: what is resident is what the run holds."""


def make_volume(path: Path, side: int) -> None:
    """A uint8 zarr of ``side``^3 voxels, written a slab at a time."""
    import zarr

    rng = np.random.default_rng(0)
    slab = rng.integers(0, 8, (BLOCK, side, side)).astype(np.uint8)
    array = zarr.create_array(
        path,
        shape=(side,) * 3,
        dtype="uint8",
        chunks=(CHUNK,) * 3,
        shards=(BLOCK,) * 3,
        dimension_names=["z", "y", "x"],
    )
    for z in range(0, side, BLOCK):
        array[z : z + BLOCK] = np.roll(slab, z, axis=2)[: side - z]


def resident(name: str) -> int:
    """Bytes of a line of /proc/self/status: VmRSS now, VmHWM at the peak."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {name}: this benchmark needs Linux")


def reset_peak() -> int:
    """Forget the peak so far; returns what is resident."""
    Path("/proc/self/clear_refs").write_text("5")
    return resident("VmRSS")


def prepare(volume: str) -> tuple[Any, dict[str, int]]:
    """Import everything, load the model, make the lazy result; returns it with the terms of the sum."""
    import distributed  # noqa: F401  part of the baseline
    import torch

    import chunkinfer as ci

    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv3d(1, 1, 2 * HALO + 1, padding=HALO), torch.nn.Sigmoid()).eval()
    # A voxel's worth of the same work: some modules, and torch's machine code, are only loaded when they are needed.
    with tempfile.TemporaryDirectory() as folder:
        ci.save(ci.infer(np.zeros((8, 8, 8), np.uint8), model), f"{folder}/tiny.zarr", progress=False)
    opened = ci.open_volume(volume)
    settings: dict[str, Any] = {"block": BLOCK, "patch": PATCH}
    plan = ci.plan(opened, model, **settings)
    result = ci.infer(opened, model, **settings)
    terms = {
        "volume": prod(plan.lattice.shape),
        "slots": plan.kernels + 1,
        "input": (BLOCK + 2 * HALO) ** 3,
        "output": BLOCK**3 * np.dtype(plan.dtype).itemsize,
        "model": plan.model_bytes,
        "kernels": plan.kernels,
    }
    return result, terms


def measure_run(volume: str, output: str) -> dict[str, int]:
    """The terms, and by how much a run's peak is above the baseline."""
    import chunkinfer as ci
    from chunkinfer.blockwise import client_for

    result, terms = prepare(volume)
    with client_for(None, terms["kernels"]) as client:
        baseline = reset_peak()
        report = ci.save(result, output, client=client, progress=False)
        return {**terms, "blocks": report.blocks, "baseline": baseline, "peak": resident("VmHWM") - baseline}


def measure_kernels(volume: str) -> dict[str, int]:
    """Activations: the growth at the peak while the threads of a run compute a block each, less the blocks."""
    result, terms = prepare(volume)
    from chunkinfer.blockwise import networks_of

    (network,) = [p.open() for p in networks_of(result.data.dask)]
    out = network.grid.box(tuple(min(1, n - 1) for n in network.grid.counts))
    seen = network.job.lattice.seen(out)
    data = np.random.default_rng(0).integers(0, 8, (1, *seen.shape)).astype(np.uint8)
    together = threading.Barrier(terms["slots"])

    def compute() -> None:
        for _ in range(BLOCKS):
            together.wait()
            network(data, seen, out)  # waits for a place on the device itself

    threads = [threading.Thread(target=compute) for _ in range(terms["slots"])]
    baseline = reset_peak()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {"activations": resident("VmHWM") - baseline - terms["kernels"] * terms["output"]}


def measure(volume: Path, kept: bool) -> dict[str, int]:
    """All numbers, in bytes, from two fresh processes.

    Parameters
    ----------
    volume
        Where it is; the output goes beside it.
    kept
        Whether their allocator may keep what was freed, as it does by default.
    """
    found: dict[str, int] = {}
    for arguments in (["kernels", volume], ["run", volume, volume.with_name(f"output-{kept}.zarr")]):
        command = [sys.executable, __file__, "--inside", *map(str, arguments)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"} | ({} if kept else GIVE_BACK)
        inside = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
        found |= json.loads(inside.stdout)
    block = found["input"] + found["output"]
    found["cache"], found["stored"] = CACHE_BYTES, found["output"]  # random values compress to nine tenths
    found["bound"] = (found["slots"] + 1) * block + sum(
        found[name] for name in ("model", "activations", "cache", "stored")
    )
    found["times"] = found["volume"] // (found["slots"] * block)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=864, help="voxels along each axis of the volume")
    parser.add_argument("--json", action="store_true", help="print the numbers for a program")
    parser.add_argument("--inside", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        what, *arguments = options.inside
        json.dump(measure_kernels(*arguments) if what == "kernels" else measure_run(*arguments), sys.stdout)
        return
    with tempfile.TemporaryDirectory() as folder:
        volume = Path(folder) / "volume.zarr"
        make_volume(volume, options.side)
        given_back = measure(volume, kept=False)
        if options.json:
            json.dump(given_back, sys.stdout)
            return
        kept = measure(volume, kept=True)
    print(f"{kept['blocks']} blocks; the volume is {kept['times']} times what {kept['slots']} blocks in flight hold\n")
    print("| MB | freed memory given back | kept by the allocator |\n|---|---|---|")
    for name in ("volume", "input", "output", "model", "activations", "cache", "stored", "bound", "peak"):
        print(f"| {name} | {given_back[name] / 1e6:.1f} | {kept[name] / 1e6:.1f} |")


if __name__ == "__main__":
    main()
