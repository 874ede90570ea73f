"""Time until an engine's first result, in fresh processes: compiling, and finding what an earlier process compiled.

    python benchmarks/start.py                 # prints two tables in markdown; about fifteen minutes
    python benchmarks/start.py --engines openvino export --patches 64
    python benchmarks/start.py --speed         # Mvoxel/s and memory of each engine instead

The network is the trained one that lies beside a checkout, or a small U-Net where it does not. One thread. Beside the
seconds on the clock stand those that processors worked, compilers included: they are the same on a busy machine.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from speed import model_of

ENGINES = {
    "openvino": "chunkinfer.networks.engines.openvino_engine:OpenVINO",
    "onnxruntime": "chunkinfer.networks.engines.onnx_engine:OnnxRuntime",
    "torchscript": "chunkinfer.networks.engines.torchscript:TorchScript",
    "compile": "chunkinfer.networks.engines.compiled:Compiled",
    "export": "chunkinfer.networks.engines.exported:Exported",
    "torch": "chunkinfer.networks.engines.torch_eager:TorchEager",
}
"""Name -> where the engine is."""

CALLS = 5
"""Of each engine, after the first, for its speed: the median of the seconds that a processor worked."""

ROWS = {"open": "open", "first": "open and first call", "process": "whole process"}
"""What is timed, and words for it. The first call computes the network, which nothing kept can save."""


def inside(name: str, side: int, precision: str, folder: str, calls: int) -> dict[str, float]:
    """Open an engine in this process, on a patch that is a cube."""
    import importlib

    import torch

    from chunkinfer.networks.engines.contract import Setup
    from chunkinfer.networks.model import open_model

    torch.set_num_threads(1)
    module, _, attribute = ENGINES[name].partition(":")
    engine = getattr(importlib.import_module(module), attribute)()
    model = open_model(model_of("fib25") or model_of("unet8"))
    model.module_on("cpu")
    setup = Setup((1, 1, side, side, side), "cpu", threads=1, kernels=1, precision=precision)
    if reason := engine.refuses(model, setup):
        raise SystemExit(f"{name} refuses: {reason}")
    x = torch.rand(setup.patch)
    before = resident("VmRSS")
    start, worked = time.perf_counter(), work()
    run = engine.open(model, setup, Path(folder))
    found = {"open": time.perf_counter() - start, "open work": work() - worked}
    with torch.inference_mode():
        run(x)
        found |= {"first": time.perf_counter() - start, "first work": work() - worked}
        times = []
        for _ in range(calls):
            start = time.process_time()
            run(x)
            times.append(time.process_time() - start)
    found |= {"before": before, "peak": resident("VmHWM")}
    return found | ({"call": statistics.median(times)} if times else {})


def work() -> float:
    """Seconds that processors worked for this process and for those that it started and that ended."""
    return sum(os.times()[:4])


def resident(what: str) -> int:
    """Bytes of this process: VmRSS now, VmHWM at its highest."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(what))
    return int(line.split()[1]) * 1024


def fresh(name: str, side: int, precision: str, folder: str, calls: int = 0) -> dict[str, float]:
    """The same in a fresh process, with the seconds of the whole process beside."""
    start, worked = time.perf_counter(), work()
    command = [sys.executable, __file__, "--inside", name, str(side), precision, folder, str(calls)]
    found = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    seconds = {"process": time.perf_counter() - start, "process work": work() - worked}
    return json.loads(found.stdout.splitlines()[-1]) | seconds


def starts(engines: list[str], patches: list[int], precision: str) -> None:
    """First and second starts."""
    print(
        "| engine | patch | time of | first start, s | second start, s | ratio | worked, s | worked again, s | ratio |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for name in engines:
        for side in patches:
            with tempfile.TemporaryDirectory() as folder:
                one = fresh(name, side, precision, folder)
                two = min((fresh(name, side, precision, folder) for _ in range(2)), key=lambda run: run["first"])
            for key, words in ROWS.items():
                cells = [f"{one[k]:.2f} | {two[k]:.2f} | {one[k] / two[k]:.1f}" for k in (key, f"{key} work")]
                print(f"| {name} | {side}^3 | {words} | {cells[0]} | {cells[1]} |", flush=True)


def speeds(engines: list[str], patches: list[int], precision: str) -> None:
    """Speed against torch's own, and memory against the estimate; each engine started from what it compiled."""
    from chunkinfer.networks.forward_cost import forward_pass
    from chunkinfer.networks.model import open_model

    model = open_model(model_of("fib25") or model_of("unet8"))
    print("| engine | patch | Mvoxel/s | of torch | network in memory, MB | estimate, MB | ratio |")
    print("|---|---|---|---|---|---|---|")
    for side in patches:
        estimate = forward_pass(model.module_on("cpu"), 1, (side,) * 3, "float32").peak
        reference: Any = None
        for name in engines:
            with tempfile.TemporaryDirectory() as folder:
                fresh(name, side, precision, folder)
                found = fresh(name, side, precision, folder, CALLS)
            reference = reference or found["call"]
            held = found["peak"] - found["before"]
            print(
                f"| {name} | {side}^3 | {side**3 / found['call'] / 1e6:.2f} | {reference / found['call']:.2f} "
                f"| {held / 1e6:.0f} | {estimate / 1e6:.0f} | {held / estimate:.2f} |",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=[*ENGINES][:-1])
    parser.add_argument("--patches", nargs="+", type=int, default=[64, 96], help="sides of cubes")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--speed", action="store_true", help="speed and memory, torch first")
    parser.add_argument("--inside", nargs=5, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        name, side, precision, folder, calls = options.inside
        print(json.dumps(inside(name, int(side), precision, folder, int(calls))))
        return
    if options.speed:
        others = [name for name in options.engines if name != "torch"]
        speeds(["torch", *others], options.patches, options.precision)
        return
    starts(options.engines, options.patches, options.precision)


if __name__ == "__main__":
    main()
