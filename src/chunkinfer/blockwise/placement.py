"""Where tasks run: the client, its workers, and the GPUs that they declare."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from math import inf
from typing import Any

from chunkinfer.events import WORKER_CAME, WORKER_LOST, Events
from chunkinfer.kernel.device import SLOTS_PER_GPU

LOOK_EVERY = 1.0
"""Seconds between looks at the workers; longer where there are hundreds."""

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
            dashboard_address=LOOPBACK,
            worker_dashboard_address=LOOPBACK,
            silence_logs=40,
        ) as cluster,
        Client(cluster, set_as_default=False) as embedded,
    ):
        yield embedded


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
    workers: dict[str, dict[str, Any]] = client.sync(client.scheduler.identity, n_workers=-1)["workers"]
    return workers


class Workers:
    """The workers of a client, looked at every so often.

    Parameters
    ----------
    client
        Of the cluster.
    anywhere
        Whether workers without a GPU take part where others declare one.
    """

    def __init__(self, client: Any, anywhere: bool = False) -> None:
        self.client, self.anywhere = client, anywhere
        self.present: set[str] = set()
        """Addresses."""
        self.annotation: dict[str, Any] = {}
        """Of a kernel's task: a slot of a GPU where workers that are present declare any. Without such a worker there
        is none: an annotated task would wait for ever."""
        self.slots = 1
        """Tasks that can run at a time."""
        self._looked = -inf
        self.look(Events())

    def look(self, events: Events) -> None:
        """Ask the scheduler who is there, unless that was just asked; tells who came and who left."""
        if time.monotonic() - self._looked < LOOK_EVERY * (1 + len(self.present) / 100):
            return
        self._looked = time.monotonic()
        try:
            workers = workers_of(self.client)
        except OSError:  # the client reconnects; until then nobody comes or leaves
            return
        for address in sorted(workers.keys() - self.present):
            events.tell(WORKER_CAME, worker=address)
        for address in sorted(self.present - workers.keys()):
            events.tell(WORKER_LOST, worker=address)
        self.present = set(workers)
        if (
            not self.anywhere
            and not self.annotation
            and any(w.get("resources", {}).get("GPU") for w in workers.values())
        ):
            self.annotation = {"resources": {"GPU": 1 / SLOTS_PER_GPU}}
        self.slots = max(1, sum(self._slots(worker) for worker in workers.values()))

    def wait(self, events: Events, given_up: Callable[[], bool]) -> None:
        """Wait for the first worker: what it declares decides where kernels go."""
        self.present, self._looked = set(), -inf
        self.look(events)
        while not self.present and not given_up() and self.client.status != "closed":
            time.sleep(0.1)
            self.look(events)

    def _slots(self, worker: Mapping[str, Any]) -> int:
        threads = int(worker["nthreads"])
        if not self.annotation:
            return threads
        return min(threads, int(float(worker.get("resources", {}).get("GPU", 0)) * SLOTS_PER_GPU))


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
