"""Where tasks run: the client, and what its scheduler knows of workers."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from chunkinfer.support.device import SLOTS_PER_GPU

ANSWER = 30.0
"""Seconds in which a scheduler says who is there."""

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
        _without_failed_tasks(),
        LocalCluster(
            processes=False,
            n_workers=1,
            threads_per_worker=slots,
            memory_limit=0,
            dashboard_address=LOOPBACK,
            worker_dashboard_address=LOOPBACK,
            silence_logs=40,
        ) as cluster,
        Client(cluster, set_as_default=False) as embedded,
    ):
        yield embedded


@contextmanager
def _without_failed_tasks() -> Iterator[None]:
    """Keep tracebacks of tasks out of the log: the run reports each block that fails, with its cause."""
    log = logging.getLogger("distributed.worker")

    def keep(record: logging.LogRecord) -> bool:
        return not str(record.msg).startswith("Compute Failed")

    log.addFilter(keep)
    try:
        yield
    finally:
        log.removeFilter(keep)


def workers_of(client: Any) -> dict[str, dict[str, Any]]:
    """Address -> facts of every worker of a client.

    Asked of the scheduler: what `Client.scheduler_info` gives is kept in the client, where a question without workers,
    which it asks every two seconds, may come between.

    Raises
    ------
    OSError
        The scheduler does not answer; the client may be connecting to it again.
    """
    if client.scheduler is None:
        raise OSError("the client is not connected")
    identity = client.sync(client.scheduler.identity, n_workers=-1, callback_timeout=ANSWER)
    workers: dict[str, dict[str, Any]] = identity["workers"]
    return workers


def room_of(client: Any, device: str) -> tuple[int | None, int | None]:
    """Blocks in flight and bytes of memory of one worker process, the smallest one where they differ.

    Without a client, of this process: its memory is what the machine, or its container, has.
    """
    from distributed.system import MEMORY_LIMIT

    if client is None:
        return (SLOTS_PER_GPU if device == "cuda" else None), int(MEMORY_LIMIT)
    workers: Any = ()
    with suppress(OSError):
        workers = workers_of(client).values()
    slots = max((int(w["nthreads"]) for w in workers), default=None)
    if device == "cuda":
        slots = SLOTS_PER_GPU
    limits = [int(w["memory_limit"]) for w in workers if w["memory_limit"]]
    return slots, min(limits, default=None)
