"""The main job from real processes to a bucket: killed, resumed, and read back by libraries that are not ours."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import chunkinfer as ci
from chunkinfer.runs.record.ledger import Ledger
from chunkinfer.stores.files import Files
from tests.lib.clusters import PATIENCE, TESTS, Cluster
from tests.lib.probes import Watched
from tests.lib.proxies import Proxy

SHAPE = (64, 48, 32)
BLOCKS = 24
"""Of 16 voxels per axis, each of which takes one forward pass."""

CHUNKS = [1, 8, 8, 8]

FORMATS: dict[str, dict[str, Any]] = {
    "zarr3, shards": {"chunks": CHUNKS},
    "zarr3": {"chunks": CHUNKS, "shards": False},
    "zarr2": {"chunks": CHUNKS, "format": "zarr2"},
    "precomputed": {"chunks": CHUNKS, "format": "precomputed"},
    "precomputed, shards": {"chunks": CHUNKS, "shards": [1, 16, 16, 16], "format": "precomputed"},
}
"""Name -> what `save` is given."""

RUN = """
import json, sys
import chunkinfer as ci
from chunkinfer.runs.exporters.jsonlines import JsonLines
from distributed import Client
from tests.lib.probes import Watched
from tests.lib.proxies import Proxy
if __name__ == "__main__":
    volume, output, log, seconds, scheduler, options = sys.argv[1:]
    with Client(scheduler) as client:
        result = ci.infer(ci.open_volume(volume), Watched(log, seconds=float(seconds)), patch=18, block=16)
        events = [JsonLines(log + ".jsonl")]
        report = ci.save(result, output, client=client, progress=False, events=events, **json.loads(options))
    print(report.computed, report.skipped)
"""


class Job:
    """The same call in as many processes as it takes.

    Parameters
    ----------
    folder
        For the network's log.
    bucket
        URL of the folder that the volume is put into, and the output.
    cluster
        Whose workers compute and write.
    options
        What `save` is given.
    seconds
        That each forward pass takes longer.
    """

    def __init__(
        self, folder: Path, bucket: str, cluster: Cluster, options: Mapping[str, Any], seconds: float = 0.0
    ) -> None:
        self.volume, self.output, self.log = f"{bucket}/em.zarr", f"{bucket}/out", folder / "log"
        image = np.random.default_rng(0).integers(1, 200, SHAPE, dtype=np.uint8)
        ci.save(image, self.volume, chunks=(16, 16, 16), shards=False, progress=False)
        self.expected = ci.infer(image, Watched(self.log), patch=18, block=16).compute(scheduler="threads")
        self.command = [
            sys.executable, "-c", RUN, self.volume, self.output, str(self.log), str(seconds), cluster.address,
            json.dumps(options),
        ]  # fmt: skip

    def start(self) -> subprocess.Popen[str]:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(TESTS.parent)}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen(self.command, env=environment, text=True, start_new_session=True, **pipes)

    def kill_after(self, blocks: int) -> int:
        """Start it and kill it when the ledger lists so many blocks; returns how many it lists then."""
        with self.start() as process:
            limit = time.monotonic() + PATIENCE
            while self.done() < blocks and process.poll() is None and time.monotonic() < limit:
                time.sleep(0.05)
            assert process.poll() is None, process.communicate()[1]
            process.kill()
        return self.done()

    def finish(self, patience: float = 2 * PATIENCE) -> tuple[int, int]:
        """Start it and wait; returns how many blocks it computed, and how many it found."""
        with self.start() as process:
            try:
                text, errors = process.communicate(timeout=patience)
            finally:
                process.kill()
        assert process.returncode == 0, errors
        computed, skipped = map(int, text.split())
        return computed, skipped

    def done(self) -> int:
        return Ledger(Files(self.output)).done(BLOCKS).count

    def assert_right(self, download: Callable[[str, Path], None], folder: Path) -> None:
        """The output, read by us and by others, is what one process gives, bit for bit."""
        assert np.array_equal(ci.open_volume(self.output).values, self.expected)
        download(self.output, folder)
        assert np.array_equal(read_by_others(folder), self.expected)


def read_by_others(folder: Path) -> np.ndarray:
    """A downloaded output, read by zarr-python or cloud-volume, as (c, z, y, x)."""
    if (folder / "info").exists():
        import cloudvolume

        found: np.ndarray = np.asarray(cloudvolume.CloudVolume(f"file://{folder}", progress=False)[:])
        return found.T
    import zarr

    array = zarr.open_array(folder, mode="r")
    return np.asarray(array[:])


def download_from(store: Any, listed: Callable[[str], list[str]], url: str, folder: Path) -> None:
    """Copy what is below a URL into a folder, by obstore.

    Parameters
    ----------
    store
        obstore's store of the URL's bucket.
    listed
        Names of the objects that begin with a prefix.
    """
    import obstore

    prefix = url.split("/", 3)[3] + "/"
    for name in listed(prefix):
        path = folder / name.removeprefix(prefix)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(obstore.get(store, name).bytes()))


def kill_and_resume(job: Job, download: Callable[[str, Path], None], folder: Path) -> None:
    """A client is killed in mid run, the next one goes on, and the output is right."""
    done = job.kill_after(4)
    computed, skipped = job.finish()
    assert computed + skipped == BLOCKS
    assert skipped >= done >= 4
    assert job.finish() == (0, BLOCKS)
    job.assert_right(download, folder)


def survive_faults(
    server: str,
    variable: str,
    url: str,
    options: Mapping[str, Any],
    download: Callable[[str, Path], None],
    folder: Path,
) -> None:
    """One request in twenty is answered by 503, or not at all, before or after the store did what it was asked for.

    Parameters
    ----------
    server
        URL of the store.
    variable
        Of the environment, that names the server.
    """
    with Proxy(server).running() as proxy, pytest.MonkeyPatch.context() as patch:
        # A stalled request is given up after this time; by default curl waits for as long as the connection lives.
        patch.setenv("TENSORSTORE_CURL_LOW_SPEED_TIME_SECONDS", "2")
        patch.setenv("TENSORSTORE_CURL_LOW_SPEED_LIMIT_BYTES", "1")
        patch.setenv(variable, proxy.url)
        cluster = Cluster(folder)
        try:
            cluster.worker()
            cluster.worker()
            job = Job(folder, url, cluster, options)
            proxy.every = 20
            assert job.finish() == (BLOCKS, 0)
        finally:
            cluster.close()
        proxy.every = 0
        assert set(proxy.failed) == {"refuse", "stall", "lose"}
        assert sum(proxy.failed.values()) >= sum(proxy.seen.values()) // 25
        job.assert_right(download, folder / "copy")
