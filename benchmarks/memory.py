"""Projected peak memory of a run, against the measured peak of a fresh process.

    python benchmarks/memory.py               # prints a table in markdown; about six minutes
    python benchmarks/memory.py --only 0 3    # some of the cases

The projection is the plan's sum. The peak is the system's own count of resident memory (VmHWM) over the whole life of
the process, libraries included, so no sample is missed.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

CASES: list[dict[str, Any]] = [
    {"net": "conv", "shape": [384] * 3, "settings": {"patch": 66, "block": 128}},
    {"net": "conv", "shape": [256] * 3, "settings": {"patch": 130, "block": 128}},
    {"net": "conv", "shape": [256] * 3, "settings": {"patch": 130, "block": 128, "dtype": "uint8"}},
    {"net": "unet4", "shape": [128] * 3, "settings": {"patch": 64, "overlap": 16, "block": 96}},
    {"net": "unet8", "shape": [144] * 3, "settings": {"patch": 96, "block": 48}},
    {"net": "unet8", "shape": [144] * 3, "settings": {"patch": 96, "dtype": "uint8"}},
    {"net": "unet8", "shape": [144] * 3, "settings": {"patch": 96, "slots": 2, "threads": 2}},
    {"net": "unet8", "shape": [144] * 3, "settings": {"patch": 96, "slots": 5}},
    {"net": "unet4", "shape": [128] * 3, "settings": {"patch": 64, "overlap": 8, "batch": 4, "block": 64}},
    {"net": "unet12", "shape": [144] * 3, "settings": {"patch": 80, "overlap": 16, "block": 128}},
    {"net": "unet8", "shape": [144] * 3, "settings": {"patch": 112, "slots": 1}},
    {"net": "unet16", "shape": [160, 144, 144], "settings": {"patch": 128}},
    {"net": "valid", "shape": [176] * 3, "settings": {"patch": 80, "dtype": "float16"}},
    {"net": "normed", "shape": [128, 256, 256], "settings": {"patch": [32, 128, 128], "overlap": [8, 32, 32]}},
    {"net": "flat", "shape": [1024] * 2, "settings": {"patch": 512}},
    {"net": "flat", "shape": [1400] * 2, "settings": {"memory": "1.5 GiB"}},
    {"net": "plane", "shape": [6144] * 2, "settings": {"patch": 1026, "block": 2048}},
    {"net": "plane", "shape": [6144] * 2, "settings": {"patch": 1026, "block": 2048, "dtype": "uint8"}},
    {"net": "plane", "shape": [2048] * 2, "settings": {"patch": 514, "block": 512}, "chunks": [3, 2, 2]},
    {"net": "conv", "shape": [256] * 3, "settings": {"patch": 130, "block": 128}, "chunks": [1, 8, 8, 8]},
    {"net": "heavy", "shape": [256] * 3, "settings": {"patch": 130, "block": 128}},
    *(
        {"net": net, "shape": shape, "settings": {"patch": patch, "engine": engine, "precision": precision}}
        for engine, precision in (
            ("openvino", "fp32"),
            ("openvino", "bf16"),
            ("onnxruntime", "fp32"),
            ("torchscript", "fp32"),
            ("export", "fp32"),
            ("compile", "fp32"),
        )
        for net, shape, patch in (
            ("unet16", [160, 144, 144], 128),
            ("unet8", [144] * 3, 112),
            ("valid", [176] * 3, 80),
        )
    ),
]
"""Networks, patches, blocks, dtypes, slots, chunks and engines."""


def network(name: str) -> Any:
    """A network with random weights."""
    import torch
    from torch import nn

    torch.manual_seed(0)
    if name == "conv":
        return nn.Sequential(nn.Conv3d(1, 1, 3, padding=1), nn.Sigmoid()).eval()
    if name == "heavy":  # 400 MB of weights, nearly none of which is used
        heavy = nn.Sequential(nn.Conv3d(1, 1, 3, padding=1), nn.Sigmoid()).eval()
        heavy.register_parameter("unused", nn.Parameter(torch.zeros(100_000_000)))
        return heavy
    if name == "plane":
        return nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.Sigmoid()).eval()
    if name == "valid":
        widths = [1, 16, 32, 32, 8]
        convs = [nn.Sequential(nn.Conv3d(a, b, 5), nn.ReLU()) for a, b in pairwise(widths)]
        return nn.Sequential(*convs, nn.Sigmoid()).eval()
    norm3: Any = nn.InstanceNorm3d if name == "normed" else nn.BatchNorm3d
    conv, norm, pool, up = (
        (nn.Conv2d, nn.BatchNorm2d, nn.MaxPool2d, nn.ConvTranspose2d)
        if name == "flat"
        else (nn.Conv3d, norm3, nn.MaxPool3d, nn.ConvTranspose3d)
    )
    width = {"unet4": 4, "unet8": 8, "unet12": 12, "unet16": 16, "normed": 8, "flat": 32}[name]

    def twice(a: int, b: int) -> Any:
        layers = [(conv(i, b, 3, padding=1), norm(b), nn.ReLU()) for i in (a, b)]
        return nn.Sequential(*(layer for group in layers for layer in group))

    class UNet(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            w = [width, 2 * width, 4 * width]
            self.down = nn.ModuleList([twice(1, w[0]), twice(w[0], w[1]), twice(w[1], w[2])])
            self.pool = pool(2)
            self.lift = nn.ModuleList([up(w[1], w[0], 2, 2), up(w[2], w[1], 2, 2)])
            self.up = nn.ModuleList([twice(2 * w[0], w[0]), twice(2 * w[1], w[1])])
            self.head = conv(w[0], 3, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            a = self.down[0](x)
            b = self.down[1](self.pool(a))
            x = self.down[2](self.pool(b))
            x = self.up[1](torch.cat([b, self.lift[1](x)], 1))
            return torch.sigmoid(self.head(self.up[0](torch.cat([a, self.lift[0](x)], 1))))

    return UNet().eval()


def run(case: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Plan and run a case in this process; or say why this machine has to leave it out."""
    import zarr

    import chunkinfer as ci
    from chunkinfer.errors import EngineError

    shape = case["shape"]
    chunk = 64 if len(shape) == 3 else 512
    source = zarr.create_array(
        folder / "in.zarr",
        shape=shape,
        dtype="uint8",
        chunks=(chunk,) * len(shape),
        dimension_names=list("zyx"[-len(shape) :]),
    )
    rng = np.random.default_rng(0)
    for z in range(0, shape[0], chunk):
        part = source[z : z + chunk].shape
        source[z : z + chunk] = rng.integers(0, 255, part, dtype=np.uint8)
    volume, model = ci.open_volume(folder / "in.zarr"), network(case["net"])
    settings = {"precision_tolerance": 1.0, **case["settings"]}  # what random weights decide is chance
    chunks = case.get("chunks")
    try:
        plan = ci.plan(volume, model, chunks=chunks and chunks[1:], **settings)
    except EngineError as error:
        if "this processor does not compute in" not in error.what:
            raise
        return {"left out": error.what}
    report = ci.save(ci.infer(volume, model, **settings), folder / "out.zarr", chunks=chunks, progress=False)
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return {
        "patch": plan.lattice.patch,
        "block": plan.block,
        "slots": plan.slots,
        "kernels": plan.kernels,
        "dtype": plan.dtype,
        "engine": f"{plan.engine} {plan.precision}",
        "blocks": report.blocks,
        "projected": sum(size for _, size in plan.memory()),
        "terms": dict(plan.memory()),
        "peak": int(peak.split()[1]) * 1024,
        "volume": prod(shape),
        "seconds": report.seconds,
    }


def measure(number: int) -> dict[str, Any]:
    """A case in a fresh process, on a fresh volume."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, "--inside", str(number), folder]
        found = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        return dict(json.loads(found.stdout))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", type=int, nargs="+", default=list(range(len(CASES))), help="numbers of cases")
    parser.add_argument("--json", action="store_true", help="print the numbers for a program, a line a case")
    parser.add_argument("--inside", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        number, folder = options.inside
        json.dump(run(CASES[int(number)], Path(folder)), sys.stdout)
        return
    ratios = []
    if not options.json:
        print(
            "| network | patch | block | slots | kernels | dtype | engine | blocks | projected, MB | peak, MB | ratio |"
        )
        print("|---|---|---|---|---|---|---|---|---|---|---|")
    for number in options.only:
        found = measure(number)
        if reason := found.get("left out"):
            print(f"{CASES[number]}: left out. {reason}", file=sys.stderr)
            continue
        ratios.append(found["projected"] / found["peak"])
        if options.json:
            print(json.dumps(found), flush=True)
            continue
        patch, block = (" x ".join(map(str, found[name])) for name in ("patch", "block"))
        megabytes = [f"{found[name] / 1e6:.0f}" for name in ("projected", "peak")]
        counts = [found[name] for name in ("slots", "kernels", "dtype", "blocks")]
        cells = [CASES[number]["net"], found["engine"], patch, block, *counts, *megabytes, f"{ratios[-1]:.2f}"]
        print(f"| {' | '.join(map(str, cells))} |", flush=True)
    if not options.json:
        print(f"\nProjected / peak: {min(ratios):.2f} to {max(ratios):.2f}.")


if __name__ == "__main__":
    main()
