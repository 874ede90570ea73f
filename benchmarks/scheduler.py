"""What blocks cost the scheduler and the client: many of a kernel that does nothing, on real workers.

    python benchmarks/scheduler.py                       # 100,000 blocks; about five minutes
    python benchmarks/scheduler.py --blocks 10000
    python benchmarks/scheduler.py --simulate 10000000   # the client's own work for so many blocks, without workers

The scheduler, two workers and the client are processes of their own. CPU time and resident memory are the system's own
counts of those processes, before the first block and after the last; the volume, 64 bytes per block, passes through the
client and the scheduler. Plain dask is timed before and after, on the same
processes: tasks that do nothing at all, a thousand at a time, which is the least that a task of its own costs.
Quick blocks share tasks; a tenth of them run once more with a task each, as blocks of minutes do.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

PETAVOXEL_BLOCKS = 6_700_000
"""Of 10^15 voxels, in blocks of 512 x 512 x 570."""


@dataclass(frozen=True)
class Usage:
    """Of one process."""

    cpu: float
    """Seconds."""
    resident: int
    """Bytes."""
    peak: int
    """Bytes."""

    @classmethod
    def of(cls, pid: int) -> Usage:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        sizes = [int(status[name].split()[0]) * 1024 for name in ("VmRSS", "VmHWM")]
        return cls(sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK"), *sizes)


def run(blocks: int, folder: Path) -> dict[str, Any]:
    """Copy a volume of so many blocks of 4^3 voxels with a kernel that does nothing."""
    from distributed import Client

    import chunkinfer as ci
    from chunkinfer.runs.schedule import runner

    scheduler, address = start(folder, "scheduler", "--scheduler-file", str(folder / "scheduler.json"), "--port", "0")
    workers = [start(folder, "worker", address, "--nthreads", "2", "--no-nanny")[0] for _ in range(2)]
    side = round(blocks ** (1 / 3))
    shape = (4 * side, 4 * side, 4 * -(-blocks // side**2))
    volume = np.zeros(shape, "u1")
    try:
        with Client(address) as client:
            client.wait_for_workers(2)
            result = _nothing(volume)
            ci.save(_nothing(volume[:16, :16, :16]), folder / "first.zarr", client=client, progress=False)
            time.sleep(1)
            pids = {"scheduler": scheduler.pid, "client": os.getpid()}
            plain = [plain_dask(client, pids, 4000)]
            before = {name: Usage.of(pid) for name, pid in pids.items()}
            report = ci.save(result, folder / "out.zarr", client=client, progress=False)
            after = {name: Usage.of(pid) for name, pid in pids.items()}
            plain.append(plain_dask(client, pids, 4000))
            runner.TASK_SECONDS = 0.0  # as blocks do that take their time
            tenth = _nothing(volume[: max(4, shape[0] // 10 // 4 * 4)])
            alone = {name: Usage.of(pid) for name, pid in pids.items()}
            slow = ci.save(tenth, folder / "alone.zarr", client=client, progress=False)
            each = {name: (Usage.of(pid).cpu - alone[name].cpu) / slow.computed * 1e3 for name, pid in pids.items()}
    finally:
        for process in (*workers, scheduler):
            process.kill()
            process.wait()
    found: dict[str, Any] = {"blocks": report.computed, "seconds": report.seconds, "retried": report.retried}
    for name in before:
        found[name] = {
            "cpu ms per block": (after[name].cpu - before[name].cpu) / report.computed * 1e3,
            "grown MB": (after[name].resident - before[name].resident) / 1e6,
            "peak MB": after[name].peak / 1e6,
        }
    found["a task for each block"] = {
        "blocks": slow.computed,
        "blocks per second": slow.computed / slow.seconds,
        **{f"{name}, CPU ms per block": cost for name, cost in each.items()},
    }
    found["plain dask, CPU ms per task"] = {name: sum(p[name] for p in plain) / len(plain) for name in pids}
    files = list((folder / "out.zarr" / ".chunkinfer").iterdir())
    found["ledger"] = {"objects": len(files), "KB": sum(f.stat().st_size for f in files) / 1e3}
    start_time = time.perf_counter()
    str(ci.status(folder / "out.zarr"))
    found["status, seconds"] = time.perf_counter() - start_time
    return found


def plain_dask(client: Any, pids: dict[str, int], tasks: int) -> dict[str, float]:
    """CPU milliseconds that a task that does nothing costs each process."""
    before = {name: Usage.of(pid) for name, pid in pids.items()}
    for first in range(0, tasks, 1000):
        keys = [f"plain-{before['scheduler'].cpu}-{i}" for i in range(first, min(tasks, first + 1000))]
        client.gather(client.get(dict.fromkeys(keys, (int,)), keys, sync=False))
    return {name: (Usage.of(pid).cpu - before[name].cpu) / tasks * 1e3 for name, pid in pids.items()}


def _nothing(volume: Any) -> Any:
    """A lazy run without its network."""
    import chunkinfer as ci

    return ci.infer(volume, lambda x: x, engine="identity", patch=4, block=4, device="cpu")


def start(folder: Path, *command: str) -> tuple[subprocess.Popen[bytes], str]:
    """A scheduler or worker process; the scheduler's address."""
    local = ("--host", "127.0.0.1", "--no-dashboard", "--dashboard-address", "127.0.0.1:0")
    with open(folder / f"{command[0]}.log", "ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "dask", *command, *local], stdout=log, stderr=log, cwd=folder,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
    file = folder / "scheduler.json"
    while command[0] == "scheduler":
        try:
            return process, json.loads(file.read_text())["address"]
        except (OSError, ValueError):
            time.sleep(0.1)
    return process, ""


def simulate(blocks: int, folder: Path) -> dict[str, Any]:
    """The client's own work for so many blocks: order, windows' graphs, ledger; no scheduler and no workers."""
    import dask.array as da

    from chunkinfer.geometry.boxes import BlockGrid
    from chunkinfer.runs.record.ledger import Ledger
    from chunkinfer.runs.record.segments import Entry
    from chunkinfer.runs.schedule.batches import Windows
    from chunkinfer.runs.schedule.storing import Store, store_blocks
    from chunkinfer.stores.files import Files
    from chunkinfer.support.payload import Payload

    side = round(blocks ** (1 / 3))
    counts = (side, side, -(-blocks // side**2))
    grid = BlockGrid.regular((1, *(4 * n for n in counts)), (1, 4, 4, 4))
    array = da.zeros(grid.shape, chunks=grid.sizes, dtype="u1")
    store = Payload("store", "store-simulated", Store(None, ("c", "z", "y", "x"), grid))  # type: ignore[arg-type]
    windows = Windows.__new__(Windows)
    client = type("Nobody", (), {"scheduler_info": lambda self, n_workers: {"workers": {}}})()
    windows.__init__(lambda suffix: store_blocks(array, store, f"save{suffix}"), grid, client)  # type: ignore[misc]
    found: dict[str, Any] = {"blocks": len(grid)}
    clock, cpu = time.perf_counter(), time.process_time()

    def lap(name: str) -> None:
        nonlocal clock, cpu
        now, used = time.perf_counter(), time.process_time()
        found[f"{name}, seconds"], found[f"{name}, CPU seconds"] = now - clock, used - cpu
        clock, cpu = time.perf_counter(), time.process_time()

    name, _ = windows.graph(0)
    lap("graph of all blocks")
    order = list(zip(range(256 * 40), grid.z_order(), strict=False))
    for first in range(0, len(order), 256):
        windows.window([(name, *grid.unravel(i)) for _, i in order[first : first + 256]], 0)
    lap(f"windows of {len(order)} blocks")
    for _ in grid.z_order():
        pass
    lap("order")
    ledger = Ledger(Files(folder / "out"))
    ledger.begin({})
    sums = np.random.default_rng(0).integers(0, 2**32, 2000, dtype=np.uint32)
    batch: list[Entry] = []
    for n, position in enumerate(grid.z_order()):
        batch.append(Entry(position, int(sums[n % 2000]), 1.0, "torch"))
        if len(batch) == 2000:
            ledger.add(batch)
            batch.clear()
    ledger.add(batch)
    lap("ledger written")
    assert Ledger(Files(folder / "out")).done(len(grid)).count == len(grid)
    lap("ledger read")
    ledger.compact()
    lap("ledger compacted")
    files = list((folder / "out" / ".chunkinfer").iterdir())
    found["ledger MB"] = sum(f.stat().st_size for f in files) / 1e6
    found["peak MB"] = Usage.of(os.getpid()).peak / 1e6
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=100_000)
    parser.add_argument("--simulate", type=int, help="blocks, without workers")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = simulate(asked.simulate, Path(folder)) if asked.simulate else run(asked.blocks, Path(folder))
    if asked.json:
        print(json.dumps(found))
        return
    print("| | |\n|---|---|")
    for name, value in found.items():
        for part, number in value.items() if isinstance(value, dict) else [("", value)]:
            print(f"| {name}{', ' * bool(part)}{part} | {number:,.4g} |" if isinstance(number, float) else
                  f"| {name}{', ' * bool(part)}{part} | {number:,} |")  # fmt: skip
    if not asked.simulate:
        each, mine = (found["a task for each block"][f"{name}, CPU ms per block"] for name in ("scheduler", "client"))
        print(
            f"\nOne petavoxel in {PETAVOXEL_BLOCKS:,} blocks, which take their time and have a task each: "
            f"{PETAVOXEL_BLOCKS:,} x {each:.2f} ms = {PETAVOXEL_BLOCKS * each / 3.6e6:.1f} hours of the scheduler's "
            f"CPU, and {PETAVOXEL_BLOCKS * mine / 3.6e6:.1f} of the client's, over the whole run."
        )


if __name__ == "__main__":
    main()
