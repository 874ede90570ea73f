"""A run whose workers, scheduler and client are killed, on a store that fails: is the result right, and what was lost?

    python benchmarks/chaos.py                # 512 blocks, 20 workers, 2 schedulers and 2 clients killed; minutes
    python benchmarks/chaos.py --store s3     # the same on an S3 server that fails 5 % of the requests
    python benchmarks/chaos.py --seed 7

Every process is killed with -9, at random moments. Workers that died are started again after a second, as a manager
of a cluster would; a killed scheduler comes back at the same address; a killed client is the same command again. Each
block is one forward pass of a network that writes a line when it ran: what was computed twice is counted.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

TESTS = Path(__file__).parents[1] / "tests"
sys.path.insert(0, str(TESTS.parent))

BLOCK, SIDE, SECONDS = 16, 128, 0.2
"""Voxels of a block along an axis, of the volume, and seconds of a forward pass."""

CLIENT = """
import sys
import chunkinfer as ci
from distributed import Client
from tests.lib.probes import Watched
if __name__ == "__main__":
    volume, output, log, address, seconds = sys.argv[1:]
    with Client(address, timeout=60) as client:
        result = ci.infer(ci.open_volume(volume), Watched(log, seconds=float(seconds)), patch=18, block=16)
        ci.save(result, output, client=client, progress=False)
"""


class Chaos:
    """A cluster, a client and a store, and what happened to them."""

    def __init__(self, folder: Path, volume: str, output: str, environment: dict[str, str]) -> None:
        from tests.lib.clusters import Cluster

        self.folder, self.volume, self.output, self.environment = folder, volume, output, environment
        self.log = folder / "log"
        self.cluster = Cluster(folder, environment)
        self.workers = [self.cluster.worker() for _ in range(2)]
        self.client = self._client()
        self.kills: list[dict[str, Any]] = []
        self.over = threading.Event()
        self.keeper = threading.Thread(target=self._keep, daemon=True)
        self.keeper.start()

    def _client(self) -> subprocess.Popen[bytes]:
        command = [
            sys.executable,
            "-c",
            CLIENT,
            self.volume,
            self.output,
            str(self.log),
            self.cluster.address,
            str(SECONDS),
        ]
        environment = {**os.environ, **self.environment, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(TESTS.parent)}
        with open(self.folder / "client.log", "ab") as log:
            return subprocess.Popen(command, env=environment, stdout=log, stderr=log)

    def _keep(self) -> None:
        """Start again the workers that died."""
        while not self.over.wait(1.0):
            self.workers = [w if w.poll() is None else self.cluster.worker() for w in self.workers]

    def ran(self) -> int:
        """Forward passes so far."""
        return self.log.read_text().count("ran ") if self.log.exists() else 0

    def kill(self, what: str, chance: random.Random) -> None:
        """Kill one, and wait until a block is computed again."""
        before, start = self.ran(), time.monotonic()
        if what == "worker":
            chance.choice([w for w in self.workers if w.poll() is None] or self.workers).kill()
        elif what == "scheduler":
            self.cluster.restart_scheduler()
        else:
            self.client.kill()
            self.client.wait()
            self.client = self._client()
        # What ran on the other worker, or had begun before the client died, is no recovery.
        settle = {"worker": 4, "scheduler": 4, "client": 8}[what]
        while self.ran() < before + settle and self.client.poll() is None:
            time.sleep(0.02)
        self.kills.append({"what": what, "recovered": time.monotonic() - start})

    def close(self) -> None:
        self.over.set()
        self.keeper.join()
        self.cluster.close()


@contextlib.contextmanager
def store(kind: str, folder: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Where the output goes, and the environment that it takes."""
    if kind == "local":
        yield str(folder / "out.zarr"), {}
        return
    import boto3
    from moto.server import ThreadedMotoServer

    from tests.lib.proxies import Proxy  # refuses, stalls, or does what it is asked for and does not say so

    environment = {
        "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_CONFIG_FILE": os.devnull, "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "TENSORSTORE_CURL_LOW_SPEED_TIME_SECONDS": "2", "TENSORSTORE_CURL_LOW_SPEED_LIMIT_BYTES": "1",
    }  # fmt: skip
    os.environ.update(environment)
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    try:
        url = "http://{}:{}".format(*server.get_host_and_port())
        boto3.client("s3", endpoint_url=url).create_bucket(Bucket="chaos")
        with Proxy(url, every=20).running() as proxy:
            yield "s3://chaos/out.zarr", {**environment, "AWS_ENDPOINT_URL": proxy.url}
            print(f"Requests that failed: {sum(proxy.failed.values())} of {sum(proxy.seen.values())}.", file=sys.stderr)
    finally:
        server.stop()


def run(kind: str, kills: dict[str, int], seed: int, folder: Path) -> dict[str, Any]:
    """One run, with its kills spread over it at random."""
    import zarr

    chance = random.Random(seed)
    values = np.random.default_rng(seed).integers(1, 200, (SIDE,) * 3).astype(np.uint8)
    zarr.create_array(folder / "volume.zarr", data=values, chunks=(16,) * 3, dimension_names=["z", "y", "x"])
    blocks = (SIDE // BLOCK) ** 3
    plan = [what for what, times in kills.items() for _ in range(times)]
    chance.shuffle(plan)
    marks = sorted(chance.sample(range(8, blocks - 16), len(plan)))
    with store(kind, folder) as (output, environment):
        os.environ.update(environment)
        chaos = Chaos(folder, str(folder / "volume.zarr"), output, environment)
        start = time.monotonic()
        try:
            for what, mark in zip(plan, marks, strict=True):
                while chaos.ran() < mark and chaos.client.poll() is None:
                    time.sleep(0.05)
                chaos.kill(what, chance)
            code = chaos.client.wait(600)
        finally:
            seconds = time.monotonic() - start
            chaos.close()
        if code:
            raise SystemExit((folder / "client.log").read_text()[-4000:])
        return {**_judged(folder, output, blocks, chaos), "seconds": seconds, "kills": chaos.kills}


def _judged(folder: Path, output: str, blocks: int, chaos: Chaos) -> dict[str, Any]:
    import chunkinfer as ci
    from tests.lib.probes import Watched

    ran = chaos.ran()
    undisturbed = ci.infer(ci.open_volume(folder / "volume.zarr"), Watched(folder / "other"), patch=18, block=16)
    expected = undisturbed.compute(scheduler="threads").values
    status = ci.status(output)
    verified = ci.verify(output)
    return {
        "blocks": blocks,
        "equal, bit for bit": bool(np.array_equal(ci.open_volume(output).values, expected)),
        "blocks in the ledger": int(status.done),
        "checksums right": bool(verified.ok),
        "killed by KilledWorker": (folder / "client.log").read_text().count("KilledWorker"),
        "computed twice": ran - blocks,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", choices=["local", "s3"], default="local")
    parser.add_argument("--workers", type=int, default=20, help="killed")
    parser.add_argument("--schedulers", type=int, default=2, help="killed")
    parser.add_argument("--clients", type=int, default=2, help="killed")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    kills = {"worker": asked.workers, "scheduler": asked.schedulers, "client": asked.clients}
    with tempfile.TemporaryDirectory() as folder:
        found = run(asked.store, kills, asked.seed, Path(folder))
    if asked.json:
        print(json.dumps(found))
        return
    print(f"### On {asked.store}, seed {asked.seed}\n\n| | |\n|---|---|")
    for name, value in found.items():
        if name != "kills":
            print(f"| {name} | {value:.1f} |" if isinstance(value, float) else f"| {name} | {value} |")
    print("\n| killed | times | seconds until a new block was computed: median | longest |\n|---|---|---|---|")
    for what in kills:
        times = sorted(kill["recovered"] for kill in found["kills"] if kill["what"] == what)
        if times:
            print(f"| {what} | {len(times)} | {times[len(times) // 2]:.1f} | {times[-1]:.1f} |")


if __name__ == "__main__":
    main()
