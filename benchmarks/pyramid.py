"""Levels of a pyramid against tinybrain's arithmetic and igneous' way of storing them, on the same data.

    python benchmarks/pyramid.py        # prints tables in markdown; about five minutes

Needs tinybrain and cloud-volume, which are no dependencies of this package: ``pip install tinybrain cloud-volume``. If
igneous can be imported (``pip install igneous-pipeline``) it runs as its users run it; otherwise the steps of its
downsampling task do: a block is read with cloud-volume, downsampled by tinybrain several times in memory, and every
level is written with cloud-volume, by as many processes as there are cores. Both sides write chunks of 64^3 voxels in
the same encoding, without gzip, to a local disk, and take turns; processes and clusters stand ready before the clock
starts. Ours asks the disk to keep what it wrote before a block counts as done; igneous doesn't.

The ``chunkinfer`` command and its clusters run with settings of the C library under which memory is kept between
blocks (`chunkinfer.support.allocator`), so this process does too. igneous gains from them as well, though nobody sets
them for it: it is timed without and with.

The last columns are what levels cost where this package writes the image itself, with ``save(pyramid=...)``: the CPU
time of that less the time of ``save`` alone.

Volumes are synthetic: an image of noise and slow waves (uint8, mean), and labels of about 30 voxels (uint64, mode).
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, redirect_stdout, suppress
from functools import partial
from io import StringIO
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

import cloudvolume
import numpy as np
import psutil
import tinybrain
from distributed import Client

from chunkinfer.api.save import save
from chunkinfer.runs.pyramids.building import pyramid
from chunkinfer.support.allocator import ENVIRONMENT
from chunkinfer.volumes.arrays.create import ArraySpec, create
from chunkinfer.volumes.arrays.downsampling import downsample
from chunkinfer.volumes.arrays.open import open_source
from chunkinfer.volumes.open import open_volume

CHUNK, BLOCK, LEVELS = 64, 256, 2
REPEATS = 5


def image(n: int) -> np.ndarray:
    """Waves and noise."""
    rng, axis = np.random.default_rng(0), np.sin(np.arange(n, dtype="f4") / 20)
    waves = axis[:, None, None] * axis[None, :, None] + axis[None, None, :]
    return (128 + 40 * waves + 10 * rng.standard_normal((n, n, n), dtype="f4")).clip(0, 255).astype("u1")


def labels(n: int) -> np.ndarray:
    """Crooked cells of about 30 voxels."""
    warp = (6 * np.sin(np.arange(n) / 9)).astype(int)
    z, y, x = np.ogrid[:n, :n, :n]
    cells = [(a + warp[b]) // 30 + 1 for a, b in ((z, y), (y, x), (x, z))]
    return (cells[0] * 1_000_003 + cells[1] * 1009 + cells[2]).astype("u8")


def cpu() -> float:
    """Seconds of this process and of its children, also of those that have ended."""
    me = psutil.Process()
    return float(sum(sum(process.cpu_times()[:4]) for process in (me, *me.children(recursive=True))))


def timed(work: Callable[[], Any]) -> tuple[float, float]:
    """Wall and CPU seconds."""
    wall, used = time.perf_counter(), cpu()
    work()
    return time.perf_counter() - wall, cpu() - used


def used(work: Callable[[], Any]) -> float:
    """CPU seconds of this process, also where there are only a few thousandths."""
    start = time.process_time()
    for _ in range(REPEATS):
        work()
    return (time.process_time() - start) / REPEATS


def arithmetic() -> None:
    print(f"Arithmetic alone: a block of {BLOCK}^3 in memory, 2 x 2 x 2, CPU seconds, median of {REPEATS} in turn.\n")
    print("| voxels | tinybrain, s | ours, s | times |\n|---|---|---|---|")
    for name, array, theirs, method in (
        ("uint8, mean", image(BLOCK), tinybrain.downsample_with_averaging, "mean"),
        ("uint64, mode", labels(BLOCK), tinybrain.downsample_segmentation, "mode"),
    ):
        fortran = np.asfortranarray(array.T[..., None])
        pairs = [
            (
                used(lambda fortran=fortran, theirs=theirs: theirs(fortran, (2, 2, 2, 1), num_mips=1)),
                used(lambda array=array, method=method: downsample(array, (2, 2, 2), method)),
            )
            for _ in range(REPEATS)
        ]
        a, b = (median(column) for column in zip(*pairs, strict=True))
        print(f"| {name} | {a:.4f} | {b:.4f} | {median(x / y for x, y in pairs):.2f} |")


def by_hand(url: str, corner: tuple[int, int, int]) -> None:
    """What a downsampling task of igneous does."""
    volume = cloudvolume.CloudVolume(f"file://{url}", mip=0, progress=False, compress=False, bounded=False)
    start = np.array(corner)
    stop = np.minimum(start + BLOCK, volume.volume_size)
    block = volume[tuple(slice(int(a), int(b)) for a, b in zip(start, stop, strict=True))]
    make = tinybrain.downsample_segmentation if block.dtype == np.uint64 else tinybrain.downsample_with_averaging
    for mip, coarse in enumerate(make(block, (2, 2, 2, 1), num_mips=LEVELS), 1):
        volume.mip = mip
        at = start // 2**mip
        volume[tuple(slice(int(a), int(a + n)) for a, n in zip(at, coarse.shape[:3], strict=True))] = coarse


def imported(_: int) -> None:
    """Let a process load what it will use, as a worker that has done tasks before."""
    with suppress(ImportError):
        import igneous.task_creation  # noqa: F401
        import taskqueue  # noqa: F401


def igneous_run(url: str, pool: ProcessPoolExecutor) -> None:
    """In a process of the pool, for its settings; igneous starts as many more as there are cores."""
    pool.submit(igneous_tasks, url).result()


def igneous_tasks(url: str) -> None:
    from igneous.task_creation import create_downsampling_tasks
    from taskqueue import LocalTaskQueue

    with redirect_stdout(StringIO()):
        tasks = create_downsampling_tasks(
            f"file://{url}", mip=0, num_mips=LEVELS, factor=(2, 2, 2), compress=False, chunk_size=(CHUNK,) * 3
        )
        queue = LocalTaskQueue(parallel=os.cpu_count(), progress=False)
        queue.insert_all(tasks)


def tinybrain_run(url: str, pool: ProcessPoolExecutor) -> None:
    volume = cloudvolume.CloudVolume(f"file://{url}", progress=False)
    for mip in range(1, LEVELS + 1):
        volume.add_scale((2**mip,) * 3, chunk_size=(CHUNK,) * 3)
    volume.commit_info()
    corners = list(product(*(range(0, int(n), BLOCK) for n in volume.volume_size)))
    list(pool.map(by_hand, [url] * len(corners), corners))


def with_settings() -> None:
    """Start this process anew with the settings of the C library, which reads them at the start."""
    if not ENVIRONMENT.keys() & os.environ.keys():
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, **ENVIRONMENT})


@contextmanager
def processes(settings: dict[str, str]) -> Iterator[ProcessPoolExecutor]:
    """Processes with these settings of the C library, which have started and imported this file."""
    kept = {name: os.environ.pop(name) for name in ENVIRONMENT}
    os.environ.update(settings)
    try:
        with ProcessPoolExecutor(os.cpu_count(), get_context("spawn")) as pool:
            list(pool.map(imported, range(64)))
            os.environ.update(kept)
            yield pool
    finally:
        os.environ.update(kept)


def ours(url: str, client: Client) -> None:
    pyramid(url, factors=(2, 2, 2), levels=LEVELS, client=client, progress=False)


def saving(source: Path, url: str, encoding: str, levels: int, client: Client) -> None:
    save(
        open_volume(source), url, format="precomputed", chunks=(CHUNK,) * 3, encoding=encoding, pyramid=levels,
        client=client, progress=False,
    )  # fmt: skip


def stored(array: np.ndarray, url: Path, encoding: str = "raw") -> None:
    whole = create(
        url,
        ArraySpec(
            format="precomputed",
            shape=array.shape,
            dtype=array.dtype,
            dims="zyx",
            chunks=(CHUNK,) * 3,
            encoding=encoding,
            voxel_size=dict.fromkeys("zyx", 8),
            unit="nm",
        ),
    )
    whole.write(tuple(slice(0, n) for n in array.shape), array)


def storing(n: int) -> None:
    try:
        import igneous.task_creation  # noqa: F401

        name, theirs = "igneous", igneous_run
    except ImportError:
        name, theirs = "cloud-volume + tinybrain", tinybrain_run
    print(f"\nStore to store: {n}^3 voxels, {LEVELS} levels, {os.cpu_count()} cores, median of {REPEATS} in turn.\n")
    heads = [f"{name}, s", "CPU, s", "with our settings, s", "CPU, s", "ours, s", "CPU, s"]
    heads += ["times, wall", "CPU", "with our settings, wall", "CPU", "save alone, CPU s", "with levels"]
    print(f"| voxels | {' | '.join(heads)} |\n|---{'|---' * len(heads)}|")
    with (
        tempfile.TemporaryDirectory() as folder,
        processes({}) as usual,
        processes(ENVIRONMENT) as kept,
        Client(processes=False, threads_per_worker=os.cpu_count(), dashboard_address="127.0.0.1:0") as client,
    ):
        for array, encoding in product((image(n), labels(n)), ("raw", "jpeg", "compressed_segmentation")):
            if (encoding, array.dtype.name) in (("jpeg", "uint64"), ("compressed_segmentation", "uint8")):
                continue
            source, url = Path(folder) / "source", Path(folder) / "work"
            stored(array, source, encoding)
            rows = []
            for _ in range(REPEATS + 1):
                row: list[float] = []
                for work, means in ((theirs, usual), (theirs, kept), (ours, client)):
                    shutil.copytree(source, url)
                    os.sync()  # or the first to ask for durable files waits for the copy
                    row += timed(partial(work, str(url), means))
                    assert open_source(url, level=LEVELS).shape == (n // 2**LEVELS,) * 3
                    shutil.rmtree(url)
                for levels in (0, LEVELS):
                    row += timed(partial(saving, source, str(url), encoding, levels, client))[1:]
                    shutil.rmtree(url)
                rows.append(row)
            shutil.rmtree(source)
            del rows[0]  # everything was loaded there
            times = [median(row[i] for row in rows) for i in range(6)]
            times += [median(row[i] / row[4 + i % 2] for row in rows) for i in range(4)]
            times += [median(row[i] for row in rows) for i in (6, 7)]
            print(f"| {array.dtype}, {encoding} | {' | '.join(f'{t:.2f}' for t in times)} |", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=512, help="voxels along each axis; a multiple of 256")
    size = parser.parse_args().size
    with_settings()
    arithmetic()
    storing(size)
