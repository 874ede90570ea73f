"""Ingest: a .npy file into precomputed, against cloud-volume's writes, on the same data in one run.

    python benchmarks/ingest.py        # prints a table in markdown; about four minutes

Needs cloud-volume, which is no dependency of this package: ``pip install cloud-volume``. Its users map the file and
assign slabs of chunks to a ``CloudVolume``, in as many processes as there are cores (its own ``parallel=`` is not used:
what release 12 wrote with it was not what it was given); ours is ``save(open_volume(file), url,
format="precomputed")``. Both write chunks of 64^3 voxels in the same encoding, unsharded and without gzip, to a local
disk, and take turns. Ours keeps a ledger of what is done, with checksums, and asks the disk to keep each block before
it counts; cloud-volume doesn't, so both are timed until the disk has everything (``sync``). See ``pyramid.py`` for the
settings under which each side runs, and for the volumes.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from statistics import median

import cloudvolume
import numpy as np
from distributed import Client

from chunkinfer.api.save import save
from chunkinfer.support.allocator import ENVIRONMENT
from chunkinfer.volumes.open import open_volume
from pyramid import CHUNK, REPEATS, image, labels, processes, timed, with_settings


def created(source: Path, url: Path, encoding: str) -> tuple[int, ...]:
    """The ``info`` of theirs; gives the shape."""
    array = np.load(source, mmap_mode="r").T
    info = cloudvolume.CloudVolume.create_new_info(
        num_channels=1, layer_type="segmentation" if array.dtype == np.uint64 else "image", data_type=array.dtype.name,
        encoding=encoding, resolution=(8, 8, 8), voxel_offset=(0, 0, 0), chunk_size=(CHUNK,) * 3,
        volume_size=array.shape,
    )  # fmt: skip
    cloudvolume.CloudVolume(f"file://{url}", info=info).commit_info()
    return tuple(array.shape)


def slab(source: Path, url: Path, z: int) -> None:
    """One slab of chunks."""
    array = np.load(source, mmap_mode="r").T
    volume = cloudvolume.CloudVolume(f"file://{url}", compress=False, progress=False)
    volume[:, :, z : z + CHUNK] = array[:, :, z : z + CHUNK]


def theirs(source: Path, url: Path, encoding: str, pool: ProcessPoolExecutor) -> None:
    shape = pool.submit(created, source, url, encoding).result()
    list(pool.map(partial(slab, source, url), range(0, shape[2], CHUNK)))


def ours(source: Path, url: Path, encoding: str, client: Client) -> None:
    volume = open_volume(source, voxel_size=(8, 8, 8))
    save(
        volume, url, format="precomputed", chunks=(CHUNK,) * 3, encoding=encoding, client=client, progress=False
    )  # fmt: skip


def kept_on_disk(work: Callable[[], None]) -> None:
    """Do it, until the disk has everything."""
    work()
    os.sync()


def ingest(n: int) -> None:
    heads = ["cloud-volume, s", "CPU, s", "with our settings, s", "CPU, s", "ours, s", "CPU, s"]
    heads += ["times, wall", "CPU", "with our settings, wall", "CPU"]
    print(f"Images of {n} x {2 * n} x {2 * n} voxels, labels of {n}^3.")
    print(f"{os.cpu_count()} cores, median of {REPEATS} in turn.\n")
    print(f"| voxels | {' | '.join(heads)} |\n|---{'|---' * len(heads)}|")
    with (
        tempfile.TemporaryDirectory() as folder,
        processes({}) as usual,
        processes(ENVIRONMENT) as kept,
        Client(processes=False, threads_per_worker=os.cpu_count(), dashboard_address="127.0.0.1:0") as client,
    ):
        source = Path(folder) / "source.npy"

        for array, encoding in (
            (np.tile(image(n), (1, 2, 2)), "raw"),
            (np.tile(image(n), (1, 2, 2)), "jpeg"),
            (labels(n), "raw"),
            (labels(n), "compressed_segmentation"),
        ):
            np.save(source, array)
            rows = []
            for repeat in range(REPEATS + 1):
                row: list[float] = []
                for side, (work, means) in enumerate(((theirs, usual), (theirs, kept), (ours, client))):
                    # Nothing is deleted meanwhile: ext4 looks long for room that was not in use a moment ago.
                    url = Path(folder) / f"work-{repeat}-{side}"
                    os.sync()
                    row += timed(partial(kept_on_disk, partial(work, source, url, encoding, means)))
                    assert encoding == "jpeg" or np.array_equal(open_volume(url).values, array)
                rows.append(row)
            for url in Path(folder).glob("work-*"):
                shutil.rmtree(url)
            os.sync()
            time.sleep(10)
            del rows[0]  # everything was loaded there
            times = [median(row[i] for row in rows) for i in range(6)]
            times += [median(row[i] / row[4 + i % 2] for row in rows) for i in range(4)]
            print(f"| {array.dtype}, {encoding} | {' | '.join(f'{t:.2f}' for t in times)} |", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=512, help="voxels along each axis of labels; a multiple of 64")
    size = parser.parse_args().size
    with_settings()
    ingest(size)
