"""Throughput and memory against the size of the patch: ZNNi's question (Zlateski, Lee, Seung, 2016), for exact tiling.

    python benchmarks/znni.py               # prints tables in markdown; about three minutes
    python benchmarks/znni.py --largest 96  # smaller patches only

ZNNi found that on a given machine the largest patch that fits in memory gives the most output, because the voxels
around a patch that only serve as context are computed for nothing. Two networks: one without padding, as ZNNi's are,
with pooling made dense by dilation; and the bundled U-Net with same padding. One patch in the middle of a volume is
timed through `infer`, from reading to cropping, the sizes in turn; the median of three counts.
"""

from __future__ import annotations

import argparse
import time
from statistics import median

import numpy as np
import torch
from torch import nn

import chunkinfer as ci
from chunkinfer.networks.forward_cost import activation_bytes
from chunkinfer.tools.demo.network import load

REPEATS = 3


class ZNN(nn.Sequential):
    """Convolutions and maximum filters without padding, dense: what follows a pooling by 2 is dilated by 2.

    The layers of ZNNi's n337 (conv, pool, conv, pool, conv, pool, four convs), kernels of 3 and a pooling less.
    """

    def __init__(self, width: int = 12) -> None:
        super().__init__(
            *(nn.Conv3d(1, width, 3), nn.ReLU(), nn.MaxPool3d(2, stride=1)),
            *(nn.Conv3d(width, width, 3, dilation=2), nn.ReLU(), nn.MaxPool3d(2, stride=1, dilation=2)),
            *(nn.Conv3d(width, width, 3, dilation=4), nn.ReLU()),
            *(nn.Conv3d(width, width, 3, dilation=4), nn.ReLU()),
            nn.Conv3d(width, 3, 1),
        )


def measure(net: nn.Module, patches: list[int]) -> list[dict[str, float]]:
    """Useful voxels per second, patch voxels per useful one, and bytes of activations for cubes of these sizes.

    Sizes that the network does not take, or that leave no clean zone, are left out.
    """
    rng, rows, runs = np.random.default_rng(0), [], []
    threads = torch.get_num_threads()
    for patch in patches:
        volume = rng.integers(0, 255, (3 * patch,) * 3, np.uint8)
        try:
            axes = ci.plan(volume, net, patch=patch).lattice.axes
        except ci.errors.PlanError:
            continue
        zone = [a.zone for a in axes]
        result = ci.infer(volume, net, patch=patch, block=tuple(zone), threads=threads)
        runs.append(result[(slice(None), *(slice(n, 2 * n) for n in zone))])
        rows.append(
            {
                "patch": patch,
                "useful": float(np.prod(zone)),
                "recompute": patch**3 / float(np.prod(zone)),
                "activations": activation_bytes(net, 1, (patch,) * 3, "float32"),
            }
        )
    taken: list[list[float]] = [[] for _ in runs]
    for turn in range(REPEATS + 1):
        for run, times in zip(runs, taken, strict=True):
            start = time.perf_counter()
            run.compute(scheduler="synchronous")
            if turn:  # the first turn opens and warms everything
                times.append(time.perf_counter() - start)
    return [row | {"rate": row["useful"] / median(times)} for row, times in zip(rows, taken, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--largest", type=int, default=144, help="voxels along each axis of the largest patch")
    options = parser.parse_args()
    torch.manual_seed(0)
    sizes = [n for n in (28, 32, 40, 48, 64, 80, 96, 112, 128, 144, 160, 192) if n <= options.largest]
    print(f"torch {torch.__version__}, {torch.get_num_threads()} thread(s)")
    for title, net in (("Without padding, ZNN's kind", ZNN().eval()), ("Same padding, the bundled U-Net", load())):
        axes = ci.plan(np.zeros((64,) * 3, np.uint8), net).lattice.axes
        context = " x ".join(str(a.contract.low + a.contract.high) for a in axes)
        rows = measure(net, sizes)
        best = max(row["rate"] for row in rows)
        print(f"\n{title}: context {context} voxels in all\n")
        print("| patch | useful voxels/s, of the best | patch voxels per useful voxel | activations, MB |")
        print("|---|---|---|---|")
        for row in rows:
            print(
                f"| {row['patch']} | {row['rate'] / best:.2g} | {row['recompute']:.2f} | "
                f"{row['activations'] / 1e6:.0f} |"
            )
        small, large = rows[0], max(rows, key=lambda row: row["rate"])
        print(
            f"\nA patch of {large['patch']:.0f} gives {large['rate'] / small['rate']:.0f} times the output of one of "
            f"{small['patch']:.0f}; the useless voxels alone account for {small['recompute'] / large['recompute']:.0f}."
        )


if __name__ == "__main__":
    main()
