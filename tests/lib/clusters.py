"""Clusters as users have them: a scheduler and workers, each a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distributed import Client

TESTS = Path(__file__).parents[1]

PATIENCE = 60.0
"""Seconds until a process that should answer counts as dead; the machine may be busy."""


def modules() -> str:
    """PYTHONPATH for processes that need the tests' networks, in front of what this process was told."""
    return os.pathsep.join([str(TESTS.parent), *filter(None, [os.environ.get("PYTHONPATH")])])


class Cluster:
    """A scheduler process and the worker processes that were started.

    Parameters
    ----------
    folder
        For the scheduler's file, logs and what workers spill.
    config
        Of dask, for all processes: environment variables.
    """

    def __init__(self, folder: Path, config: Mapping[str, str] | None = None) -> None:
        self.folder, self.config = folder, dict(config or {})
        self.file = folder / "scheduler.json"
        self.processes: list[subprocess.Popen[bytes]] = []
        # The scheduler does not see the folder with the tests' networks: it must not need them.
        self.scheduler = self._start("scheduler", "--port", "0", "--scheduler-file", self.file)
        self.address = self._address()

    def worker(
        self, threads: int = 2, resources: str = "", nanny: bool = False, environment: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """Start a worker process; without a nanny, killing it is the end of it."""
        named = ("--resources", resources) if resources else ()
        return self._start(
            "worker", self.address, "--nanny" if nanny else "--no-nanny", "--nthreads", threads, "--memory-limit", "0",
            "--local-directory", self.folder, *named, **{"PYTHONPATH": modules(), **(environment or {})},
        )  # fmt: skip

    def restart_scheduler(self) -> None:
        """Kill the scheduler and start another one at its address."""
        self.scheduler.kill()
        self.scheduler.wait(PATIENCE)
        self.scheduler = self._start("scheduler", "--port", self.address.rpartition(":")[2])

    def client(self, workers: int) -> Client:
        """A client, the default one until it is closed, after so many workers have come."""
        client = Client(self.address, timeout=PATIENCE)
        client.wait_for_workers(workers, timeout=PATIENCE)
        return client

    def close(self) -> None:
        for process in reversed(self.processes):
            process.kill()
        for process in self.processes:
            process.wait(PATIENCE)

    def _start(self, command: str, *arguments: Any, **environment: str) -> subprocess.Popen[bytes]:
        ports = ("--host", "127.0.0.1", "--no-dashboard", "--dashboard-address", "127.0.0.1:0")
        with open(self.folder / f"{len(self.processes)}-{command}.log", "wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "dask", command, *map(str, arguments), *ports],
                env={**os.environ, "OMP_NUM_THREADS": "1", **self.config, **environment},
                cwd=self.folder, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        self.processes.append(process)
        return process

    def _address(self) -> str:
        limit = time.monotonic() + PATIENCE
        while time.monotonic() < limit:
            try:
                return str(json.loads(self.file.read_text())["address"])
            except (OSError, ValueError):  # not there, or half written
                time.sleep(0.05)
        self.close()
        raise TimeoutError((self.folder / "0-scheduler.log").read_text())
