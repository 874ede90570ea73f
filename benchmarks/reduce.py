"""A region graph reduced in a tree of regions, by size and by mean affinity: peak memory and time against its rows.

    python benchmarks/reduce.py                         # 3 * 10^6, 10^7, 10^8 rows; about nine minutes
    python benchmarks/reduce.py --edges 3e6 1e7         # smaller

The graph is a lattice of basins with seven neighbours before and seven after each, in objects of 6 x 6 x 200 basins:
affinities are high inside of these, low between, in 64 steps, so that ties are frequent. A basin's numbers come from
its place, so that regions are made one by one and nothing is ever held as a whole. Regions are halved along their
longest axis down to ``--leaf`` basins a side, and joined depth first. What is decided leaves the memory, except for
eight bytes a basin, its new label, which say at the end whether two ways of reducing agree.

Each line is a process of its own, one thread; the peak is the system's count of its resident memory (VmHWM), libraries
included. Making the graph is in the time.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from chunkinfer.geometry.boxes import Box
from chunkinfer.objects.segmentation.agglomerating import agglomerate
from chunkinfer.objects.segmentation.graph import SCALE, Graph, renamed
from chunkinfer.objects.segmentation.merging import merge_by_size

BEFORE = [(0, 0, 1), (0, 1, 0), (1, 0, 0), (0, 1, 1), (1, 0, 1), (1, 1, 0), (1, 1, 1)]
"""How far a basin's neighbours before it are, (z, y, x)."""

MERGE_THRESHOLD, MERGE_SIZE, FLOOR = 0.3, 100, 0.3


@dataclass
class Region:
    """What a region hands up."""

    box: Box
    graph: Graph
    """Rows that are undecided."""
    outward: Any
    """Basins with neighbours outside, by their own labels, ascending."""
    names: Any
    """What each of these is now."""
    pending: list[Any]
    """Rows to basins outside: the columns of a graph, in basins' own labels."""
    labels: Any
    """What is in ``graph`` or ``names``, ascending."""
    sizes: Any


def mixed(numbers: Any) -> Any:
    """Random numbers of 64 bits by position (splitmix64)."""
    numbers = numbers.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        numbers = (numbers ^ numbers >> np.uint64(shift)) * np.uint64(factor)
    return numbers ^ numbers >> np.uint64(31)


def made(box: Box, shape: tuple[int, ...]) -> Region:
    """The basins of a box: their graph, and rows to basins before them outside of it."""
    at = np.indices(box.shape).reshape(3, -1) + np.array(box.start)[:, None]
    label = 1 + np.ravel_multi_index(tuple(at), shape)
    inside, pending = [], []
    for k, offset in enumerate(BEFORE):
        other = at - np.array(offset)[:, None]
        there = (other >= 0).all(0)
        other, own, v = other[:, there], at[:, there], label[there]
        key = 7 * v + k
        random = mixed(key)
        same = ((other // [[200], [6], [6]]) == (own // [[200], [6], [6]])).all(0)
        mean = (random % np.uint64(25)).astype(np.int64) + np.where(same, 38, 0)
        count = 1 + (random >> np.uint64(16)).astype(np.int64) % 40
        u = 1 + np.ravel_multi_index(tuple(other), shape)
        rows = np.stack([u, v, (mean + 1) * (SCALE // 64), mean * count * (SCALE // 64), count, key])
        within = (other >= np.array(box.start)[:, None]).all(0)
        inside.append(rows[:, within])
        pending.append(rows[:, ~within])
    labels = label.astype(np.uint64)
    outward = labels[on_faces(at, box, shape)]
    sizes = 1 + (mixed(label + 10**15) % np.uint64(60)).astype(np.int64)
    rows, beyond = np.concatenate(inside, 1), np.concatenate(pending, 1)
    return Region(box, Graph.of(*rows), outward, outward, list(beyond), labels, sizes)


def on_faces(at: Any, box: Box, shape: tuple[int, ...]) -> Any:
    """Which basins have neighbours outside of the box."""
    found = np.zeros(at.shape[1], bool)
    for axis in range(3):
        found |= (at[axis] == box.start[axis]) & (box.start[axis] > 0)
        found |= (at[axis] == box.stop[axis] - 1) & (box.stop[axis] < shape[axis])
    return found


def joined(first: Region, second: Region, shape: tuple[int, ...]) -> Region:
    """Two regions side by side, with the rows between them."""
    box = Box(first.box.start, second.box.stop)
    outward = np.concatenate([first.outward, second.outward])
    order = np.argsort(outward)
    outward, names = outward[order], np.concatenate([first.names, second.names])[order]
    rows = np.stack([np.concatenate(pair) for pair in zip(first.pending, second.pending, strict=True)])
    far = np.array(np.unravel_index(rows[0] - 1, shape))
    met = ((far >= np.array(box.start)[:, None]) & (far < np.array(box.stop)[:, None])).all(0)
    a, b = (renamed(column[met].astype(np.uint64), outward, names) for column in rows[:2])
    graph = Graph.joined([first.graph, second.graph, Graph.of(a, b, *rows[2:, met])])
    kept = on_faces(np.array(np.unravel_index(outward.astype(np.int64) - 1, shape)), box, shape)
    labels = np.concatenate([first.labels, second.labels])
    order = np.argsort(labels)
    sizes = np.concatenate([first.sizes, second.sizes])[order]
    return Region(box, graph, outward[kept], names[kept], list(rows[:, ~met]), labels[order], sizes)


def reduced(region: Region, step: str, parent: Any) -> Region:
    """A region with all decided that can be; ``parent`` notes what labels became."""
    frozen = np.unique(region.names)
    if step == "size":
        got = merge_by_size(region.labels, region.sizes, region.graph, MERGE_THRESHOLD, MERGE_SIZE, frozen=frozen)
        old, new, labels, sizes, graph = got.old, got.new, got.labels, got.sizes, got.graph
    else:
        dendrogram, graph = agglomerate(region.graph, FLOOR, frozen=frozen)
        old, new = dendrogram.labels_at(FLOOR)
        labels, sizes = region.labels, region.sizes
    parent[old - np.uint64(1)] = new
    names = renamed(region.names, old, new)
    needed = np.isin(labels, np.concatenate([graph.a, graph.b, names]))
    return Region(region.box, graph, region.outward, names, region.pending, labels[needed], sizes[needed])


def case(edges: float, step: str, leaf: int) -> dict[str, Any]:
    """Reduce one graph; ``leaf`` 0 is one call."""
    side = round((edges / 7) ** (1 / 3))
    shape, leaf = (side,) * 3, leaf or side
    parent = np.arange(1, side**3 + 1, dtype=np.uint64)
    counts = {"rows": 0, "regions": 0, "largest": 0}

    def tree(box: Box) -> Region:
        axis = int(np.argmax(box.shape))
        if box.shape[axis] <= leaf:
            region = made(box, shape)
            counts["regions"] += 1
            counts["rows"] += len(region.graph) + len(region.pending[0])
        else:
            middle = (box.start[axis] + box.stop[axis]) // 2
            low, high = list(box.stop), list(box.start)
            low[axis] = high[axis] = middle
            first = tree(Box(box.start, tuple(low)))
            region = joined(first, tree(Box(tuple(high), box.stop)), shape)
        counts["largest"] = max(counts["largest"], len(region.graph))
        return reduced(region, step, parent)

    warm = made(Box((0, 0, 0), (4, 4, 4)), (4, 4, 4))
    reduced(warm, step, np.zeros(64, np.uint64))  # compiles
    start = time.process_time()
    left = tree(Box.of_shape(shape))
    seconds = time.process_time() - start
    if len(left.graph):
        raise SystemExit(f"{len(left.graph)} rows are undecided in the end")
    while ((further := parent[parent - np.uint64(1)]) != parent).any():
        parent = further
    objects = int((parent == np.arange(1, side**3 + 1, dtype=np.uint64)).sum())
    status = Path("/proc/self/status").read_text()
    peak = int(status.split("VmHWM:")[1].split()[0]) // 1024
    digest = blake2b(parent.tobytes(), digest_size=8).hexdigest()
    return {**counts, "seconds": seconds, "peak": peak, "objects": objects, "digest": digest}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--edges", type=float, nargs="+", default=[3e6, 1e7, 1e8], help="rows of the region graph")
    parser.add_argument("--whole", type=float, default=1e7, help="up to here also in one call, and compared")
    parser.add_argument("--leaf", type=int, default=64, help="basins a side of the smallest regions")
    parser.add_argument("--steps", nargs="+", default=["size", "mean"], choices=["size", "mean"])
    parser.add_argument("--case", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        print(json.dumps(case(**json.loads(options.case))))
        return
    print("| merged by | rows | regions | largest table, rows | CPU s | peak, MB | objects | as in one call |")
    print("|---|---|---|---|---|---|---|---|")
    for step in options.steps:
        for edges in options.edges:
            found = []
            for leaf in [options.leaf] + [0] * (edges <= options.whole):
                settings = json.dumps({"edges": edges, "step": step, "leaf": leaf})
                run = [sys.executable, __file__, "--case", settings]
                found.append(json.loads(subprocess.run(run, check=True, capture_output=True, text=True).stdout))
            for got in found:
                same = {1: "", 2: "yes" if found[0]["digest"] == found[-1]["digest"] else "**no**"}[len(found)]
                print(
                    f"| {step} | {got['rows']:,} | {got['regions']:,} | {got['largest']:,} | {got['seconds']:.1f} "
                    f"| {got['peak']:,} | {got['objects']:,} | {same} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
