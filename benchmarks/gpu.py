"""A GPU: are its results right, how fast is it, and what hides behind the kernels?

    python benchmarks/gpu.py                       # checks, then tables in markdown; some ten minutes
    python benchmarks/gpu.py --side 768 --patch 192
    python benchmarks/gpu.py --device cpu          # the checks alone, small: what a machine without a GPU does

A share of busy kernels is the time in which one runs, of the time from the first copy to the last. A copy is hidden
while a kernel runs. Both are CUDA events of the run itself. The peak is that of a matrix product on the same device, in
the same precision. Ends with code 1 if a check fails.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

import chunkinfer as ci
from chunkinfer.tiling.kernel import transfer
from memory import network
from speed import volume_of

Array = NDArray[Any]
Interval = tuple[float, float]

ENGINES = ["torch", "compile"]
PRECISIONS = {"fp32": "fp32", "tf32": "fp32", "bf16": "bf16", "fp16": "fp16"}
"""Name in the tables -> ``precision=``; "tf32" is fp32 with factors rounded to 10 bits, torch's way of convolutions."""
BATCHES, SLOTS = [1, 2, 4, 8], [1, 2, 3]


def small() -> nn.Module:
    """A U-Net of one level: all kinds of layers, little context."""

    class UNet(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.top, self.low = nn.Conv3d(1, 8, 3, padding=1), nn.Conv3d(8, 16, 3, padding=1)
            self.pool, self.lift = nn.MaxPool3d(2), nn.ConvTranspose3d(16, 8, 2, 2)
            self.norm, self.head = nn.BatchNorm3d(8), nn.Conv3d(16, 3, 3, padding=1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            top = self.norm(self.top(x).relu())
            low = self.low(self.pool(top)).relu()
            return torch.sigmoid(self.head(torch.cat([top, self.lift(low)], 1)))

    torch.manual_seed(0)
    return UNet().eval()


@contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Convolutions and products of float32 with or without TensorFloat-32."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


def checks(device: str) -> bool:
    """Print whether results on the device are what they should be; True if all are."""
    model = small()
    volume = np.random.default_rng(0).integers(0, 255, (44, 52, 60), np.uint8)

    def run(**settings: Any) -> Array:
        return np.asarray(ci.infer(volume, model, **{"device": device, "patch": 24, **settings}).compute())

    def whole() -> Array:
        with torch.inference_mode():
            return np.asarray(model(torch.from_numpy(volume[None, None] / np.float32(255)))[0])

    rows: list[tuple[str, float, float]] = []

    def add(name: str, found: Any, allowed: float) -> None:
        rows.append((name, float(found), allowed))

    blended = {"overlap": 8}
    with tf32(False):
        exact, fused = run(), run(**blended)
        add("exact, fp32, against the whole volume on a CPU", np.abs(exact - whole()).max(), 5e-5)
        add("blended, fp32, against the same on a CPU", np.abs(fused - run(device="cpu", **blended)).max(), 5e-5)
        add("uint8, against the rounded fp32", np.abs(run(dtype="uint8") - np.rint(exact * 255)).max(), 0)
        for name, settings, result in (("exact", {}, exact), ("blended", blended, fused)):
            for block in (24, (12, 48, 36)):
                add(
                    f"{name}, values that another block changes: {block}",
                    (run(block=block, **settings) != result).sum(),
                    0,
                )
        for precision, most in (("bf16", 0.02), ("fp16", 0.005)):
            half = run(precision=precision, precision_tolerance=1.0)
            add(f"{precision}, largest error", np.abs(half - exact).max(), most)
            add(f"{precision}, share of voxels that change sides of 0.5", ((half > 0.5) != (exact > 0.5)).mean(), 0.05)
            again = run(precision=precision, precision_tolerance=1.0, block=24)
            add(f"{precision}, values that another block changes", (again != half).sum(), 0)
    if device == "cuda":
        with tf32(True):
            add("tf32, largest error", np.abs(run() - exact).max(), 0.005)
    print("| check | found | allowed | |\n|---|---|---|---|")
    for name, found, allowed in rows:
        print(f"| {name} | {found:.2g} | {allowed:.2g} | {'right' if found <= allowed else 'WRONG'} |")
    print(flush=True)
    return all(found <= allowed for _, found, allowed in rows)


class Clock:
    """Intervals of work on the device, between CUDA events, in seconds from its making."""

    def __init__(self) -> None:
        self._pairs: list[tuple[Any, Any]] = []
        self._base = self.now()

    def now(self) -> Any:
        """An event behind the work of the current stream."""
        event: Any = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream())
        return event

    def until_now(self, start: Any) -> None:
        """Keep an interval that ends here."""
        self._pairs.append((start, self.now()))

    def intervals(self) -> list[Interval]:
        """All of them, once the device has done its work."""
        torch.cuda.synchronize()
        return [tuple(self._base.elapsed_time(e) / 1e3 for e in pair) for pair in self._pairs]


class TimedCuda(transfer.Cuda):
    """Notes when copies run."""

    def __init__(self) -> None:
        self.clock = Clock()

    def copy(self, target: torch.Tensor, source: torch.Tensor) -> None:
        start = self.clock.now()
        super().copy(target, source)
        self.clock.until_now(start)


class TimedTransfers(transfer.Transfers):
    """Notes when kernels run, from the end of their upload."""

    def __init__(self) -> None:
        self.copies, self.kernels = TimedCuda(), Clock()
        self._start = threading.local()
        super().__init__("cuda", cuda=self.copies)

    def ready(self, uploaded: transfer.OnDevice) -> torch.Tensor:
        tensor = super().ready(uploaded)
        self._start.event = self.kernels.now()
        return tensor

    def done(self, tensor: torch.Tensor) -> transfer.OnDevice:
        self.kernels.until_now(self._start.event)
        return super().done(tensor)

    def shares(self) -> tuple[float, float]:
        """Of the time, in which kernels run; and of the copies' time, that hides behind them."""
        copies, kernels = self.copies.clock.intervals(), union(self.kernels.intervals())
        begin = min(a for a, _ in copies + kernels)
        end = max(b for _, b in copies + kernels)
        hidden = sum(common(copy, kernel) for copy in copies for kernel in kernels)
        return length(kernels) / (end - begin), hidden / length(copies)


def union(intervals: list[Interval]) -> list[Interval]:
    """Disjoint intervals that cover the same."""
    merged: list[Interval] = []
    for a, b in sorted(intervals):
        if merged and a <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(b, merged[-1][1])
        else:
            merged.append((a, b))
    return merged


def length(intervals: list[Interval]) -> float:
    return sum(b - a for a, b in intervals)


def common(one: Interval, other: Interval) -> float:
    """Length of what two intervals share."""
    return max(0.0, min(one[1], other[1]) - max(one[0], other[0]))


def peak(name: str, side: int = 8192, times: int = 20) -> float:
    """FLOP/s of a matrix product."""
    kind = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(name, torch.float32)
    a, b = (torch.randn(side, side, device="cuda", dtype=kind) for _ in range(2))
    with tf32(name == "tf32"):
        a @ b
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(times):
            a @ b
        end.record()
        end.synchronize()
    return 2 * side**3 * times / (start.elapsed_time(end) / 1e3)


class Table:
    """Timed runs of one network over one volume, a row each."""

    def __init__(self, folder: Path, side: int, patch: int, width: str) -> None:
        self.folder, self.patch = folder, patch
        self.volume, self.model = volume_of(folder, (side,) * 3), network(width)
        self.peaks = {name: peak(name) for name in PRECISIONS}
        print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}; {width}, {side}^3 uint8, patch {patch}^3.")
        print("Peak, TFLOP/s: " + ", ".join(f"{name} {flops / 1e12:.0f}" for name, flops in self.peaks.items()) + ".\n")
        print("| engine | precision | batch | slots | Mvoxel/s | of the peak | kernels busy | copies hidden |")
        print("|---|---|---|---|---|---|---|---|")

    def row(self, engine: str, precision: str, batch: int = 1, slots: int = 2) -> float:
        """Print a row; Mvoxel/s, 0 where it cannot run."""
        settings: dict[str, Any] = {
            "device": "cuda", "engine": engine, "precision": PRECISIONS[precision], "batch": batch, "slots": slots,
            "patch": self.patch, "dtype": "uint8", "precision_tolerance": 1.0,
        }  # fmt: skip
        head = f"| {engine} | {precision} | {batch} | {slots} |"
        try:
            with tf32(precision == "tf32"):
                plan = ci.plan(self.volume, self.model, **settings)
                self._run(settings)  # compiles
                speed, (busy, hidden) = self._run(settings)
        except (ci.errors.ChunkinferError, torch.OutOfMemoryError) as error:
            print(f"{head} {str(error).splitlines()[0]} | | | |", flush=True)
            return 0.0
        share = speed * plan.flops_per_voxel / self.peaks[precision]
        print(f"{head} {speed / 1e6:.2f} | {share:.0%} | {busy:.0%} | {hidden:.0%} |", flush=True)
        return speed

    def _run(self, settings: dict[str, Any]) -> tuple[float, tuple[float, float]]:
        """Output voxels per second, and the shares."""
        transfer._transfers["cuda"] = timed = TimedTransfers()
        try:
            lazy = ci.infer(self.volume, self.model, **settings)
            report = ci.save(lazy, self.folder / "out.zarr", overwrite=True, progress=False)
        finally:
            del transfer._transfers["cuda"]
        return prod(lazy.shape[1:]) / report.seconds, timed.shares()


def tables(folder: Path, side: int, patch: int, width: str) -> None:
    """Engines and precisions; then batches and slots of the fastest."""
    table = Table(folder, side, patch, width)
    speeds = {(e, p): table.row(e, p) for e in ENGINES for p in PRECISIONS}
    engine, precision = max(speeds, key=speeds.__getitem__)
    for batch in BATCHES[1:]:
        table.row(engine, precision, batch=batch)
    for slots in SLOTS:
        table.row(engine, precision, slots=slots)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--side", type=int, default=512, help="of the volume, voxels")
    parser.add_argument("--patch", type=int, default=160, help="side of a patch, voxels")
    parser.add_argument("--net", default="unet16", help="a network of memory.py")
    options = parser.parse_args()
    if options.device == "cpu":
        print("No GPU: the checks alone, on the CPU device.\n")
    right = checks(options.device)
    if options.device == "cuda":
        with tempfile.TemporaryDirectory() as folder:
            os.environ["XDG_CACHE_HOME"] = folder
            tables(Path(folder), options.side, options.patch, options.net)
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
