"""What the graph of a run costs before anything runs: seconds to build it, and tasks per block.

    python benchmarks/graph.py                 # prints a table in markdown; about a minute
    python benchmarks/graph.py --direct 1000   # another number of blocks; 0 leaves the path out

Nothing is computed: the volume is metadata only, and in place of a cluster stands its list of workers.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import torch

import chunkinfer as ci
from chunkinfer.geometry.boxes import BlockGrid
from chunkinfer.runs.schedule.batches import Windows
from chunkinfer.runs.schedule.storing import Store, store_blocks
from chunkinfer.support.payload import Payload
from chunkinfer.volumes.arrays.create import ArraySpec, create

BLOCK = 16
"""Voxels along each axis of a block; the numbers do not depend on it."""

WORKERS, THREADS = 4, 2


def measure(side: int, exchange: bool, folder: Path) -> dict[str, float]:
    """The cost of the graph of ``side``^3 blocks.

    Returns
    -------
    dict
        blocks; seconds to make the lazy result and its fused graph (``build``), and to cut that into all windows that a
        run submits (``windows``); tasks, and tasks per block.
    """
    shape, dims = (side * BLOCK,) * 3, ("z", "y", "x")
    common = {
        "format": "zarr3", "voxel_size": dict.fromkeys(dims, 8.0), "unit": "nm", "offset": dict.fromkeys(dims, 0)
    }  # fmt: skip
    url = str(folder / f"volume-{side}-{exchange}.zarr")
    create(url, ArraySpec(shape=shape, dtype="uint8", dims=dims, chunks=(64,) * 3, shards=None, **common))
    volume = ci.open_volume(url, missing="fill")
    model = torch.nn.Conv3d(1, 1, 3, padding=1).eval()
    ci.plan(volume, model)  # what imports and the first trace cost is no part of the graph's
    destination = create(
        str(folder / f"output-{side}-{exchange}.zarr"),
        ArraySpec(
            shape=(1, *shape), dtype="float32", dims=("c", *dims), chunks=(1, *(BLOCK,) * 3), shards=None, **common
        ),
    )
    client = Mock()
    client.scheduler_info.return_value = {"workers": {f"w{i}": {"nthreads": THREADS} for i in range(WORKERS)}}

    start = time.perf_counter()
    result = ci.infer(volume, model, patch=BLOCK + 2, block=BLOCK, exchange=exchange)
    grid = BlockGrid.regular(result.shape, (1, *(BLOCK,) * 3))
    store = Payload("store", "store", Store(destination, ("c", *dims), grid))
    windows = Windows(lambda suffix: store_blocks(result.data, store, f"save{suffix}"), grid, client, whole=exchange)
    name, _ = windows.graph(0)
    built = time.perf_counter()
    tasks = 0
    size = len(grid) if exchange else 4 * WORKERS * THREADS
    for first in range(0, len(grid), size):
        some = range(first, min(first + size, len(grid)))
        tasks += len(windows.window([(name, *grid.unravel(i)) for i in some], 0))
    return {
        "blocks": len(grid),
        "build": built - start,
        "windows": time.perf_counter() - built,
        "tasks": tasks,
        "tasks per block": tasks / len(grid),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--direct", type=int, default=100_000, help="blocks, about, that read their own halo")
    parser.add_argument("--exchange", type=int, default=1_000, help="blocks, about, that exchange halos")
    parser.add_argument("--json", action="store_true", help="print the numbers for a program")
    options = parser.parse_args()
    asked = {"each block reads its halo": options.direct, "halos exchanged by map_overlap": options.exchange}
    rows = {}
    with tempfile.TemporaryDirectory() as folder:
        for path, blocks in asked.items():
            if blocks:
                exchange = path.startswith("halos")
                rows[path] = measure(int(np.ceil(blocks ** (1 / 3) - 1e-9)), exchange, Path(folder))
    if options.json:
        json.dump(rows, sys.stdout)
        return
    print("| path | blocks | build, s | all windows, s | tasks per block |\n|---|---|---|---|---|")
    for path, row in rows.items():
        print(
            f"| {path} | {row['blocks']:,} | {row['build']:.2f} | {row['windows']:.2f} | {row['tasks per block']:.2f} |"
        )


if __name__ == "__main__":
    main()
