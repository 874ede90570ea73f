"""The watershed of blocks: speed on one thread and on two, beside waterz; memory of a block against what is stated.

    python benchmarks/segmentation.py                                   # prints a table in markdown; two minutes
    python benchmarks/segmentation.py --python /path/to/env/bin/python  # an environment that has waterz; five minutes
    python benchmarks/segmentation.py --affinities real.npy             # (3, z, y, x) float32, beside the others

Where the data of FIB-25 and the network trained on it are beside the checkout (../shared), real affinities are made of
them. A block step without the region graph does what waterz's watershed does: basins and their sizes, here with what
a join needs at the faces. With it, it stands beside waterz's watershed and region graph, of the volume in one piece.

All that is compared runs in turn, and the best of several rounds counts, because others use the machine too. For the
same reason speeds on one thread are by processor time, which on a quiet machine is the clock's. What two threads gain
is by the clock: each does all blocks, beside one thread in the same round, and the median of the rounds counts. Two
processes, which share nothing but the machine, show what it allows.
"""

from __future__ import annotations

import argparse
import multiprocessing
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from statistics import median
from time import perf_counter, thread_time
from typing import Any

import numpy as np
import psutil
from numpy.typing import NDArray

from chunkinfer.geometry.boxes import BlockGrid, Box
from chunkinfer.objects.segmentation.basins import HALO, block_step, working_bytes

SHARED = Path(__file__).parents[2] / "shared"
SHAPE = (128, 240, 240)
BLOCK = (128, 120, 120)
LOW = 0.01

Array = NDArray[Any]

WATERZ = """
import sys
import numpy as np, waterz
affinities = np.load(sys.argv[1])
affinities = affinities / np.float32(255) if affinities.dtype == np.uint8 else affinities
next(iter(waterz.agglomerate(affinities, [0.0], aff_threshold_low=float(sys.argv[2]), aff_threshold_high=float(sys.argv[3]))))
"""  # noqa: E501


@dataclass(frozen=True)
class Case:
    """Affinities and a threshold."""

    name: str
    affinities: Array
    high: float

    def step(self, box: Box, seen: Box, values: Array, graph: bool = True) -> Any:
        return block_step(values, box, seen, self.affinities.shape[1:], LOW, self.high, graph=graph)

    def blocks(self) -> list[tuple[Box, Box, Array]]:
        """Blocks and what they see, read beforehand."""
        shape = self.affinities.shape[1:]
        grid, blocks = BlockGrid.regular(shape, BLOCK), []
        for box in map(grid.box, grid.indices()):
            halo = Box(tuple(a - HALO for a in box.start), tuple(b + HALO for b in box.stop)) & Box.of_shape(shape)
            blocks.append((box, halo, np.ascontiguousarray(self.affinities[:, *halo.slices])))
        return blocks


def synthetic() -> Array:
    """Random numbers, smoothed: cells with thin walls, and affinities that are lower over walls."""
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(0)
    field = gaussian_filter(rng.standard_normal(SHAPE, np.float32), 5)
    inside = 1 - np.exp(-((3 * field / field.std()) ** 2))
    inside = gaussian_filter(inside, 1) + np.float32(0.01) * rng.standard_normal(SHAPE, np.float32)
    lower = [np.minimum(inside, np.roll(inside, 1, axis)) for axis in range(3)]
    return np.clip(np.stack(lower), 0, 1, dtype=np.float32)


def real() -> Array | None:
    """Affinities of FIB-25 by the network trained on it."""
    image, network = SHARED / "data/fib25/sample2_image.npy", SHARED / "models/fib25_affinity.pt"
    if not (image.exists() and network.exists()):
        return None
    import warnings

    import torch

    warnings.filterwarnings("ignore", "`torch.jit", DeprecationWarning)
    values = np.load(image, mmap_mode="r")[tuple(slice(n) for n in SHAPE)]
    with torch.inference_mode():
        tensor = torch.from_numpy(values[None, None].astype(np.float32) / 255)
        return np.ascontiguousarray(torch.jit.load(network).eval()(tensor)[0].numpy())


def cases(given: Path | None) -> Iterator[Case]:
    """float32 and 8 bit; with two thresholds, which make basins of very different sizes."""
    sources = {"synthetic": synthetic(), "FIB-25": real(), given.stem if given else "": given and np.load(given)}
    for name, values in sources.items():
        if values is not None:
            yield Case(f"{name}, float32", values, 0.9999)
            yield Case(f"{name}, float32", values, 0.99)
            yield Case(f"{name}, 8 bit", np.rint(values * 255).astype(np.uint8), 0.9999)


def waterz(python: str, case: Case, file: Path) -> tuple[int, float, float]:
    """Basins, processor seconds of the watershed, those of the region graph: by the lines that it prints on its way."""
    command = [python, "-u", "-c", WATERZ, str(file), str(LOW), str(case.high)]
    times, basins = {}, 0
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        clock = psutil.Process(process.pid)
        for line in process.stdout:
            times[" ".join(line.split()[:3])] = clock.cpu_times().user + clock.cpu_times().system
            if found := re.match(r"found: (\d+) components", line):
                basins = int(found[1])
            if line.startswith("Region graph"):
                process.kill()
    if "Region graph number" not in times:
        raise SystemExit(f"{python} has no waterz that says what it does.")
    watershed = times["creating region graph"] - times["performing initial watershed"]
    return basins, watershed, times["Region graph number"] - times["extracting region graph..."]


def speed(case: Case, rounds: int, python: str | None) -> dict[str, Any]:
    """Voxels per second of all, best of the rounds."""
    blocks, voxels = case.blocks(), prod(case.affinities.shape[1:])
    seconds: dict[str, list[float]] = {name: [] for name in ("basins", "one", "waterz", "waterz graph")}
    gains: dict[str, list[float]] = {"threads": [], "processes": []}
    found: dict[str, Any] = {}

    def all_blocks(_: int = 0) -> None:
        for block in blocks * 2:
            case.step(*block)

    def clock(map_: Callable[..., Any], workers: int) -> float:
        start = perf_counter()
        list(map_(all_blocks, range(workers)))
        return perf_counter() - start

    with (
        tempfile.TemporaryDirectory() as folder,
        ThreadPoolExecutor(2) as threads,
        forked(all_blocks, 2) as processes,
    ):
        file = Path(folder, "affinities.npy")
        np.save(file, case.affinities)
        for _ in range(rounds):
            cpu = thread_time()
            for block in blocks:
                case.step(*block, graph=False)
            seconds["basins"].append(thread_time() - cpu)
            cpu = thread_time()
            one = clock(map, 1)
            seconds["one"].append((thread_time() - cpu) / 2)
            gains["threads"].append(2 * one / clock(threads.map, 2))
            gains["processes"].append(2 * one / processes())
            if python:
                found["waterz basins"], watershed, graph = waterz(python, case, file)
                seconds["waterz"].append(watershed)
                seconds["waterz graph"].append(watershed + graph)
    whole = Box.of_shape(case.affinities.shape[1:])
    found["number"] = len(case.step(whole, whole, case.affinities)[1]["label"])
    found |= {name: voxels / min(values) / 1e6 for name, values in seconds.items() if values}
    return found | {name: median(values) for name, values in gains.items()}


@contextmanager
def forked(work: Callable[[], None], workers: int) -> Iterator[Callable[[], float]]:
    """Processes that did the work once, before threads are started; each call lets all do it, and gives seconds."""
    context = multiprocessing.get_context("fork")
    go, done = context.SimpleQueue(), context.SimpleQueue()

    def serve() -> None:
        while True:
            work()
            done.put(None)
            if not go.get():
                return

    def timed() -> float:
        start = perf_counter()
        for _ in range(workers):
            go.put(True)
        for _ in range(workers):
            done.get()
        return perf_counter() - start

    started = [context.Process(target=serve, daemon=True) for _ in range(workers)]
    for process in started:
        process.start()
    for _ in started:
        done.get()
    yield timed
    for _ in started:
        go.put(False)


def memory(case: Case) -> tuple[float, float]:
    """Measured and stated bytes a voxel of a block step, in a fresh process."""
    box, seen, values = case.blocks()[0]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "block.npz")
        shape = case.affinities.shape[1:]
        np.savez(file, values=values, box=[box.start, box.stop], seen=[seen.start, seen.stop], shape=shape)
        command = [sys.executable, __file__, "--inside", str(file), str(case.high)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    measured, stated = (int(size) / box.size for size in done.stdout.split())
    return measured, stated


def measure(file: str, high: float) -> None:
    """Print the peak of this process over what it held before, by the system's count, and what is stated."""

    def status(name: str) -> int:
        found = re.search(name + r":\s+(\d+)", Path("/proc/self/status").read_text())
        assert found is not None
        return int(found[1]) * 1024

    with np.load(file) as arrays:
        values, shape = arrays["values"], tuple(arrays["shape"].tolist())
        box, seen = (Box(*(tuple(place) for place in arrays[name].tolist())) for name in ("box", "seen"))
    small = Box.of_shape((4, 4, 4))
    block_step(values[:, :4, :4, :4], small, small, (4, 4, 4), LOW, high)  # compiled, loaded
    before = status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    _, tables = block_step(values, box, seen, shape, LOW, high)
    print(status("VmHWM") - before, working_bytes(box.shape, len(tables["label"]), len(tables["a"])))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", help="interpreter of an environment that has waterz")
    parser.add_argument("--affinities", type=Path, help="more affinities, (3, z, y, x) float32, as .npy")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--inside", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        measure(options.inside[0], float(options.inside[1]))
        return
    print(
        "| affinities | high | basins | basins alone, Mvoxel/s | waterz | times | with region graph | waterz | times"
        " | two threads, times one | two processes | memory, B/voxel | stated |"
    )
    print("|" + "---|" * 13)
    for case in cases(options.affinities):
        found = speed(case, options.rounds, options.python)
        cells: list[Any] = [case.name, case.high, f"{found['number']:,}"]
        for ours, theirs in (("basins", "waterz"), ("one", "waterz graph")):
            cells.append(f"{found[ours]:.1f}")
            if options.python:
                cells += [f"{found[theirs]:.1f}", f"{found[ours] / found[theirs]:.1f}"]
            else:
                cells += ["-", "-"]
        if options.python and found["waterz basins"] != found["number"]:
            raise SystemExit(f"waterz finds {found['waterz basins']} basins, not {found['number']}.")
        cells += [f"{found['threads']:.2f}", f"{found['processes']:.2f}"]
        cells += [f"{size:.0f}" for size in memory(case)]
        print(f"| {' | '.join(map(str, cells))} |", flush=True)
    if not options.python:
        print("\nwaterz was not run: --python names an interpreter that has it.")


if __name__ == "__main__":
    main()
