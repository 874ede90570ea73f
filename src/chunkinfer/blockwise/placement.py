"""Where tasks run: the client, its workers, and the GPUs that they declare."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

SLOTS_PER_GPU = 2
"""Blocks in flight per GPU: one computes while another reads or writes."""

LOOPBACK = "127.0.0.1:0"
"""A free port that other machines do not reach."""


def active_client() -> Any:
    """The active dask client; None where there is none."""
    if "distributed" not in sys.modules:
        return None
    from distributed import get_client

    try:
        return get_client()
    except ValueError:
        return None


@contextmanager
def client_for(client: Any, slots: int) -> Iterator[Any]:
    """The client to run on: the one given, the active one, or an in-process cluster for as long as the run takes.

    The in-process cluster starts no process, so a script needs no main guard; it has a thread for each of ``slots``
    blocks in flight. dask's own status pages listen on loopback only.
    """
    client = client or active_client()
    if client is not None:
        yield client
        return
    from distributed import Client, LocalCluster

    with (
        LocalCluster(
            processes=False,
            n_workers=1,
            threads_per_worker=slots,
            memory_limit=0,
            dashboard_address="127.0.0.1:0",
            worker_dashboard_address="127.0.0.1:0",
            silence_logs=40,
        ) as cluster,
        Client(cluster, set_as_default=False) as embedded,
    ):
        yield embedded


def workers_of(client: Any) -> dict[str, dict[str, Any]]:
    """Address -> facts of every worker of a client."""
    workers: dict[str, dict[str, Any]] = client.scheduler_info(n_workers=-1)["workers"]
    return workers


def gpu_annotation(client: Any) -> dict[str, Any]:
    """The resource annotation of a kernel's task: a slot of a GPU where workers that are present declare any.

    Without such a worker there is none: an annotated task would wait for ever.
    """
    if any(w.get("resources", {}).get("GPU") for w in workers_of(client).values()):
        return {"resources": {"GPU": 1 / SLOTS_PER_GPU}}
    return {}


def slots_of(client: Any, annotation: dict[str, Any]) -> int:
    """Tasks that can run at a time."""
    slots = 0
    for worker in workers_of(client).values():
        threads = int(worker["nthreads"])
        if annotation:
            gpus = float(worker.get("resources", {}).get("GPU", 0))
            threads = min(threads, int(gpus * SLOTS_PER_GPU))
        slots += threads
    return max(1, slots)


def room_of(client: Any, device: str) -> tuple[int | None, int | None]:
    """Blocks in flight and bytes of memory of one worker process, the smallest one where they differ.

    Without a client, of this process: its memory is what the machine, or its container, has.
    """
    from distributed.system import MEMORY_LIMIT

    if client is None:
        return (SLOTS_PER_GPU if device == "cuda" else None), int(MEMORY_LIMIT)
    workers = workers_of(client).values()
    slots = max((int(w["nthreads"]) for w in workers), default=None)
    if device == "cuda":
        slots = SLOTS_PER_GPU
    limits = [int(w["memory_limit"]) for w in workers if w["memory_limit"]]
    return slots, min(limits, default=None)
