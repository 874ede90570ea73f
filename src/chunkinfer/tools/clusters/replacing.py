"""Replacing jobs that ended, whatever became of their workers."""

from __future__ import annotations

import logging
import time
from typing import Any

import dask.config
from dask.utils import parse_timedelta
from distributed import Adaptive

logger = logging.getLogger("distributed.chunkinfer.clusters")

ENDED = {
    "BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "REVOKED",
    "TIMEOUT",
}  # fmt: skip
"""States of a job that comes to nothing."""

VAIN = 8
"""Jobs in a row that ended before any worker came, after which submitting more is pointless."""


class Replacing(Adaptive):
    """dask's adaptive scaling, which also sees the jobs that it overlooks.

    dask replaces a job when a worker of the job's own name goes: not one that ends before its worker came, and none
    with several workers, whose names differ from the job's. Here the workers that are missing for a while are looked up
    in SLURM's queue.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._missing: dict[str, float] = {}
        """Since when a job lacks a worker."""
        self._vain = 0

    async def adapt(self) -> None:
        """Forget jobs that ended, so that they are submitted again."""
        await self._forget()
        await super().adapt()

    async def _forget(self) -> None:
        cluster: Any = self.cluster
        now = time.monotonic()
        observed = cluster.observed
        if observed:
            self._vain = 0
        missing = [name for name in cluster.workers if not self._workers(name) <= observed]
        self._missing = {name: self._missing.get(name, now) for name in missing}
        # dask's own way has had its time by then: it ends a lost job by its worker's name, and must not meet the new.
        patience = 2 * parse_timedelta(dask.config.get("distributed.deploy.lost-worker-timeout"))
        late = [name for name in missing if now - self._missing[name] > patience]
        if not late:
            return
        for name in late:
            self._missing[name] = now
        try:
            queue = await cluster.job_cls._call(["squeue", "--me", "--noheader", "--states=all", "--format=%A %T"])
        except (RuntimeError, OSError):  # SLURM's controller does not answer: later
            return
        alive = {job for job, state in map(str.split, queue.splitlines()) if state not in ENDED}
        for name in late:
            if name in cluster.workers and cluster.workers[name].job_id not in alive:
                del cluster.workers[name]
                self._missing.pop(name)
                self._vain += not observed
                logger.warning("The job of worker %s ended; another one is submitted.", name)
        if self._vain >= VAIN:
            logger.error(
                "%d jobs ended before any worker came: no more are submitted. Look at the last job's output, and run "
                "its worker by hand: print(cluster.job_script()).",
                self._vain,
            )
            self.stop(reason="jobs end before their workers come")

    def _workers(self, name: str) -> set[str]:
        """The workers of a job."""
        cluster: Any = self.cluster
        group = cluster.worker_spec.get(name, {}).get("group", [""])
        return {f"{name}{suffix}" for suffix in group}
