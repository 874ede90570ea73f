"""The network alone, on the same patches, and what of the machine's arithmetic it uses.

    python benchmarks/peers/kernels.py --model unet.pt --image em.npy --patches 64 96 --threads 2

torch as the peers call it: one call at a time on all threads. chunkinfer's engines as it calls them: one call per
thread. Every kernel in turn, --rounds times; medians. The peak is the best of several products of large square
matrices, which torch multiplies with all threads. One JSON line.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from math import prod
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

ENGINES = (("torch", "fp32"), ("openvino", "fp32"), ("torch", "bf16"), ("openvino", "bf16"))

Run = Callable[[Any], Any]


def peak(dtype: str, threads: int, side: int = 4096, rounds: int = 5) -> float:
    """FLOP/s of the best of several products of two square matrices."""
    import torch

    torch.set_num_threads(threads)
    a, b = (torch.rand(side, side).to(getattr(torch, dtype)) for _ in range(2))
    taken = []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        a @ b
        taken.append(time.perf_counter() - start)
    return 2 * side**3 / min(taken[1:])


def opened(asked: argparse.Namespace, engine: str, precision: str, patch: tuple[int, ...]) -> Run:
    """The network as one of chunkinfer's engines opens it."""
    from chunkinfer.networks.engines.contract import Setup
    from chunkinfer.networks.engines.opening import open_network
    from chunkinfer.networks.model import open_model

    setup = Setup(patch=(1, 1, *patch), device="cpu", threads=1, kernels=asked.threads, precision=precision)
    return open_network(open_model(asked.model), setup, engine)


class Kernel:
    """A way to run the network on patches, so many at a time."""

    def __init__(self, name: str, precision: str, run: Run, at_a_time: int, threads: int) -> None:
        self.name, self.precision, self.run = name, precision, run
        self.at_a_time, self.threads = at_a_time, threads
        self.pool = ThreadPoolExecutor(at_a_time)
        self.taken: list[float] = []

    def call(self, x: Any) -> Any:
        """One call in this thread, by its number of intra-op threads."""
        import torch

        torch.set_num_threads(self.threads)
        with torch.inference_mode():
            return self.run(x)

    def time(self, x: Any) -> None:
        """Time calls side by side, one in each thread."""
        start = time.perf_counter()
        list(self.pool.map(self.call, [x] * self.at_a_time))
        self.taken.append((time.perf_counter() - start) / self.at_a_time)


def measure(asked: argparse.Namespace, image: np.ndarray, side: int, peaks: dict[str, float]) -> list[dict[str, Any]]:
    """A row for each kernel, on patches of one size."""
    import torch

    from chunkinfer.networks.forward_cost import forward_pass
    from chunkinfer.networks.model import open_model

    patch = (side,) * 3
    network = torch.jit.load(str(asked.model), map_location="cpu").eval()
    flops = forward_pass(open_model(asked.model).module_on("cpu"), 1, patch, "float32").flops
    x = torch.from_numpy(image[tuple(slice(n) for n in patch)].astype(np.float32) / 255)[None, None]
    kernels, rows = [Kernel("torch, all threads to a call", "fp32", network, 1, asked.threads)], []
    for engine, precision in ENGINES:
        try:
            run = opened(asked, engine, precision, patch)
            kernels.append(Kernel(f"chunkinfer, {engine}", precision, run, asked.threads, 1))
        except Exception as error:  # not installed, or another machine's: the row says so
            rows.append(
                {"patch": side, "kernel": f"chunkinfer, {engine}", "precision": precision, "why": reason(error)}
            )
    for turn in range(asked.rounds + 1):  # the first is warming up
        for kernel in kernels:
            kernel.time(x)
            if not turn:
                kernel.taken.clear()
    expected = kernels[0].call(x).clone()
    for kernel in kernels:
        found = kernel.pool.submit(kernel.call, x).result()
        seconds = median(kernel.taken)
        rows.append(
            {
                "patch": side,
                "kernel": kernel.name,
                "precision": kernel.precision,
                "voxels_per_s": prod(patch) / seconds,
                "flops_per_voxel": flops / prod(patch),
                "flops_per_s": flops / seconds,
                "share": flops / seconds / peaks[kernel.precision],
                "largest": float((found - expected).abs().max()),
                "flipped": float(((found > 0.5) != (expected > 0.5)).float().mean()),
            }
        )
    return rows


def reason(error: Exception) -> str:
    """An error in one line."""
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:200]}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="TorchScript")
    parser.add_argument("--image", type=Path, required=True, help="a .npy of uint8, (z, y, x)")
    parser.add_argument("--patches", type=int, nargs="+", required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    image = np.load(asked.image, mmap_mode="r")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = folder
        peaks = {"fp32": peak("float32", asked.threads), "bf16": peak("bfloat16", asked.threads)}
        rows = [row for side in asked.patches for row in measure(asked, image, side, peaks)]
    print(json.dumps({"peaks": peaks, "rows": rows}), flush=True)


if __name__ == "__main__":
    main()
