"""The demo: the main job from beginning to end on a volume that the package makes itself."""

from __future__ import annotations

import time
from pathlib import Path

import click

import chunkinfer as ci
from chunkinfer.support.allocator import ENVIRONMENT
from chunkinfer.support.picture import require_matplotlib
from chunkinfer.tools.demo.network import load
from chunkinfer.tools.demo.scores import adapted_rand_error, segment, skimage
from chunkinfer.tools.demo.synthetic import synthetic_em
from chunkinfer.tools.viewers.plots import side_by_side

SHAPE = (96, 384, 384)
"""Voxels of the demo's volume, (z, y, x)."""

BLOCK = (48, 192, 192)
"""Voxels of a block: eight of them, so that there are cuts to look at."""


def run(folder: str | Path, workers: int = 2) -> None:
    """Make a synthetic volume, run the bundled network over it on a local cluster, store, score and draw the result.

    Parameters
    ----------
    folder
        Gets ``em.zarr``, ``affinities.zarr``, ``affinities.precomputed`` and ``demo.png``.
    workers
        Worker processes of the local cluster.

    Raises
    ------
    MissingExtra
        What scores and draws the result is absent: said before the work.
    """
    import dask
    import numpy as np
    from distributed import Client, LocalCluster

    require_matplotlib("Plots", "demo")
    skimage("metrics")
    place = Path(folder)
    start = time.perf_counter()

    def say(text: str) -> None:
        click.echo(f"[{time.perf_counter() - start:5.1f} s] {text}")

    say(f"making a synthetic EM volume of {' x '.join(map(str, SHAPE))} voxels")
    em = synthetic_em(SHAPE)
    raw = ci.open_volume(_npy(place, em.image), voxel_size=em.voxel_size)
    ci.save(raw, place / "em.zarr", overwrite=True, progress=False)
    volume = ci.open_volume(place / "em.zarr")
    network = load()
    say("the plan:")
    click.echo(ci.plan(volume, network, block=BLOCK, dtype="uint8"))
    result = ci.infer(volume, network, block=BLOCK, dtype="uint8")
    with (
        dask.config.set({"distributed.nanny.pre-spawn-environ": {**ENVIRONMENT, "OMP_NUM_THREADS": "1"}}),
        LocalCluster(
            n_workers=workers, threads_per_worker=1, host="127.0.0.1", dashboard_address="127.0.0.1:0", silence_logs=40
        ) as cluster,
        Client(cluster) as client,
    ):
        say(f"a local cluster with {workers} worker processes; affinities, block by block, to zarr")
        click.echo(ci.save(result, place / "affinities.zarr", client=client, overwrite=True))
        say("and to Neuroglancer precomputed")
        stored = ci.open_volume(place / "affinities.zarr")
        click.echo(ci.save(stored, place / "affinities.precomputed", client=client, overwrite=True, progress=False))
    affinities = np.asarray(stored.values)
    same = np.array_equal(affinities, ci.open_volume(place / "affinities.precomputed").values)
    say(f"both outputs hold the same voxels: {same}")
    labels = segment(affinities)
    error = adapted_rand_error(labels, em.labels)
    say(f"adapted Rand error of a plain watershed against the ground truth: {error:.3f} (0 is perfect)")
    picture = side_by_side(
        em.image,
        affinities,
        place / "demo.png",
        blocks=result.data.chunks[1:],
        segmentation=labels,
        voxel_size=em.voxel_size,
        title="chunkinfer demo: synthetic EM, affinities, the blocks they were computed in, and a watershed of them",
    )
    say(f"look at {picture}")


def _npy(place: Path, image: object) -> Path:
    """The image as a file, as a microscope would leave it."""
    import numpy as np

    place.mkdir(parents=True, exist_ok=True)
    path = place / "em.npy"
    np.save(path, np.asarray(image))
    return path
