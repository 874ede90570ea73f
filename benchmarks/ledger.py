"""What a ledger costs, for up to ten million blocks: objects, bytes, seconds and memory.

    python benchmarks/ledger.py                            # prints a table in markdown; some minutes
    python benchmarks/ledger.py --blocks 100000 1000000    # other numbers of blocks

Nothing is computed: blocks are recorded as a run would, in Z-order, some hundred in each call, with random checksums.
Each number of blocks is measured in a process of its own; memory is what the ledger added to its peak.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import islice
from math import ceil

import numpy as np

from chunkinfer.geometry.boxes import BlockGrid
from chunkinfer.runs.record.headers import OutputFacts, RunHeader
from chunkinfer.runs.record.ledger import Ledger
from chunkinfer.runs.record.segments import Entry
from chunkinfer.runs.status import status
from chunkinfer.stores.files import Files

SEED = 0


def measure(blocks: int, per_call: int, folder: str) -> dict[str, float]:
    """Record and read a ledger of so many blocks, rounded up to a cube.

    Returns
    -------
    dict
        blocks, calls; ms per call of ``add`` on average and the slowest, s; objects at most (looked at every 100
        calls), bytes after ``compact``; s of ``compact``, of ``done`` before and after it, and of ``status`` with its
        text; MB of memory that recording added, and all of it.
    """
    side = ceil(blocks ** (1 / 3) - 1e-9)
    grid = BlockGrid.regular((side,) * 3, (1, 1, 1))
    files = Files(folder)
    rng = np.random.default_rng(SEED)
    order = iter(grid.z_order())
    before = _peak()
    ledger = Ledger(files)
    sizes = dict.fromkeys("zyx", 1.0)
    output = OutputFacts(
        format="zarr3", shape=grid.shape, dtype="uint8", dims=("z", "y", "x"), block=(1, 1, 1), counts=grid.counts,
        voxel_size=sizes, unit="nm", offset=dict.fromkeys(sizes, 0.0), chunks=(1, 1, 1), shards=None, encoding=None,
        compression=None,
    )  # fmt: skip
    ledger.begin(RunHeader("infer-1", (), None, output, {}).to_json())
    spent, slowest, objects, calls = 0.0, 0.0, 0, 0
    while some := list(islice(order, per_call)):
        crcs, seconds = rng.integers(0, 2**32, len(some)), rng.gamma(20, 0.5, len(some))
        entries = [Entry(p, int(c), float(s), "torch") for p, c, s in zip(some, crcs, seconds, strict=True)]
        start = time.perf_counter()
        ledger.add(entries)
        took = time.perf_counter() - start
        spent, slowest = spent + took, max(slowest, took)
        calls += 1
        if calls % 100 == 0:
            objects = max(objects, len(files.list()))
    recorded = _peak() - before
    found = {"blocks": len(grid), "calls": calls, "add": 1000 * spent / calls, "slowest": slowest, "objects": objects}
    found["open many"] = _seconds(lambda: Ledger(files).done(len(grid)))
    found["compact"] = _seconds(ledger.compact)
    found["bytes"] = sum(len(files.read(name) or b"") for name in files.list())
    found["open"] = _seconds(lambda: Ledger(files).done(len(grid)))
    found["status"] = _seconds(lambda: str(status(folder)))
    return {**found, "recording MB": recorded, "peak MB": _peak() - before}


def _peak() -> float:
    """Most memory that this process ever had, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, nargs="+", default=[100_000, 1_000_000, 10_000_000])
    parser.add_argument("--per-call", type=int, default=500, help="blocks in a call of add: what ends in half a second")
    parser.add_argument("--json", action="store_true", help="print the numbers for a program")
    options = parser.parse_args()
    if options.json and len(options.blocks) == 1:
        with tempfile.TemporaryDirectory() as folder:
            json.dump(measure(options.blocks[0], options.per_call, folder), sys.stdout)
        return
    rows = []
    for blocks in options.blocks:
        command = [sys.executable, __file__, "--json", "--blocks", str(blocks), "--per-call", str(options.per_call)]
        rows.append(json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout))
    if options.json:
        json.dump(rows, sys.stdout)
        return
    names = ["blocks", "calls of `add`", "ms each", "slowest, s", "objects at most", "opened then, s", "`compact`, s",
             "bytes", "bytes per block", "opened, s", "`status`, s", "MB to record", "MB of all"]  # fmt: skip
    print(f"| {' | '.join(names)} |\n|{'---|' * len(names)}")
    for row in rows:
        print(
            f"| {row['blocks']:,} | {row['calls']:,} | {row['add']:.1f} | {row['slowest']:.2f} | {row['objects']} | "
            f"{row['open many']:.2f} | {row['compact']:.2f} | {row['bytes']:,} | {row['bytes'] / row['blocks']:.1f} | "
            f"{row['open']:.2f} | {row['status']:.2f} | {row['recording MB']:.0f} | {row['peak MB']:.0f} |"
        )


if __name__ == "__main__":
    main()
