"""The workers of a run: who is there, who may compute its blocks, and how long nobody was.

::

    present   every worker that the scheduler knows
    able      those that blocks may go to: they declare a GPU where kernels need one, and are not unfit
    unfit     those without chunkinfer, and those whose device is broken
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from importlib import import_module
from math import inf
from typing import Any

import dask.config
from dask.utils import parse_timedelta

from chunkinfer.errors import ClusterError, PlanError, RunPaused
from chunkinfer.runs.events import WORKER_CAME, WORKER_LOST, WORKER_UNFIT, WORKERS_AWAITED, Events
from chunkinfer.runs.schedule.placement import workers_of
from chunkinfer.support.device import SLOTS_PER_GPU

LOOK_EVERY = 1.0
"""Seconds between looks at the workers; longer where there are hundreds."""

WARN_AFTER, WARN_EVERY = 60.0, 600.0
"""Seconds without a worker after which that is told, again after twice as long, and at least so often."""

RESTARTED = "worker-restart-memory"
"""Topic under which dask's nannies log that they ended a worker because of its memory."""

_timeout: ContextVar[float | None] = ContextVar("worker_timeout", default=None)


@contextmanager
def waiting_at_most(given: Any) -> Iterator[None]:
    """Runs inside are paused after so long without a worker.

    Parameters
    ----------
    given
        Seconds, or a text such as "10 minutes". None leaves it to dask's configuration, where it is
        ``chunkinfer.run.worker-timeout``.

    Raises
    ------
    PlanError
        It is not a time.
    """
    token = _timeout.set(_seconds(given) if given is not None else _timeout.get())
    try:
        yield
    finally:
        _timeout.reset(token)


def _worker_timeout() -> float | None:
    """Seconds without a worker after which a run is paused; None if it waits."""
    if (given := _timeout.get()) is not None:
        return given
    found = dask.config.get("chunkinfer.run.worker-timeout", None)
    return None if found is None else _seconds(found)


def _seconds(value: Any) -> float:
    with suppress(ValueError, TypeError, KeyError, AttributeError):
        if (seconds := float(parse_timedelta(value))) > 0:
            return seconds
    raise PlanError(
        f"worker_timeout={value!r} is not a time.",
        "It is how long a run waits when no worker is there: seconds, or a text with a unit.",
        ['save(array, url, worker_timeout="10 minutes")',
         'dask.config.set({"chunkinfer.run.worker-timeout": "10 minutes"})'],
    )  # fmt: skip


class Workers:
    """The workers of a client, looked at every so often.

    Parameters
    ----------
    client
        Of the cluster.
    needs_device
        Whether blocks go to workers that declare a GPU only, where any does.
    """

    def __init__(self, client: Any, needs_device: bool = False) -> None:
        self.client, self.needs_device = client, needs_device
        self.present: set[str] = set()
        """Addresses of all."""
        self.able: set[str] = set()
        """Addresses of those that blocks may go to."""
        self.unfit: dict[str, str] = {}
        """Address -> why blocks don't go there."""
        self.annotation: dict[str, Any] = {}
        """Of a kernel's task: a slot of a GPU where workers that are present declare any. Without such a worker there
        is none: an annotated task would wait for ever."""
        self.slots = 1
        """Tasks that can run at a time."""
        self.timeout = _worker_timeout()
        self._known: Mapping[str, Mapping[str, Any]] = {}
        self._checked: set[str] = set()
        self._looked = -inf
        self._last, self._lost = "", 0
        self.ended = ""
        """Why dask ended a worker, the last time that it told."""
        self._absence = _Absence()

    def look(self, events: Events) -> None:
        """Ask the scheduler who is there, unless that was just asked; tells who came, who left, and that nobody is
        there.

        Raises
        ------
        ClusterError
            Workers are there, and none of them has chunkinfer.
        RunPaused
            Nobody was there for longer than ``worker_timeout``.
        """
        if time.monotonic() - self._looked < LOOK_EVERY * (1 + len(self.present) / 100):
            return
        self._looked = time.monotonic()
        try:
            known = workers_of(self.client)
        except OSError:  # the client reconnects; until then nobody comes or leaves
            self._tell_absence(events, "an answer of the scheduler")
            return
        came, lost = known.keys() - self.present, self.present - known.keys()
        for address in sorted(came):
            events.tell(WORKER_CAME, worker=address)
        why = self._killed(lost)
        for address in sorted(lost):
            self._last, self._lost = address, self._lost + 1
            self.ended = why.get(address, self.ended)
            events.tell(WORKER_LOST, worker=address, why=why.get(address, ""))
        self._known, self.present = known, set(known)
        if self.needs_device and not self.annotation and any(_gpus(worker) for worker in known.values()):
            self.annotation = {"resources": {"GPU": 1 / SLOTS_PER_GPU}}
        self._check(events)
        self._count()
        self._tell_absence(events, None if self.able else self._awaited())

    def wait(self, events: Events, given_up: Callable[[], bool]) -> None:
        """Wait for the first worker: what it declares decides where kernels go."""
        self.look(events)
        while not self.able and not given_up() and self.client.status != "closed":
            time.sleep(0.1)
            self.look(events)

    def exclude(self, address: str, why: str, events: Events) -> None:
        """Send no more blocks to a worker."""
        self.unfit[address] = why
        self._count()
        events.tell(WORKER_UNFIT, worker=address, why=why, used=False)

    def where(self, kernel: bool) -> dict[str, Any]:
        """The annotation of a task, of a kernel's or of any other: where it may run."""
        annotation = dict(self.annotation) if kernel else {}
        if self.unfit.keys() & self.present:
            fit = self.able if kernel else self.present - self.unfit.keys()
            annotation |= {"workers": sorted(fit), "allow_other_workers": True}
        return annotation

    # ---- who may compute ----------------------------------------------------------------------------------------

    def _count(self) -> None:
        slots = {a: self._slots(worker) for a, worker in self._known.items() if a not in self.unfit}
        self.able = {address for address, n in slots.items() if n}
        self.slots = max(1, sum(slots.values()))

    def _slots(self, worker: Mapping[str, Any]) -> int:
        threads = int(worker["nthreads"])
        return min(threads, int(_gpus(worker) * SLOTS_PER_GPU)) if self.annotation else threads

    def _check(self, events: Events) -> None:
        """Find out whether workers that came have this chunkinfer: without it every task of theirs would fail."""
        fresh = {a for a in self.present - self._checked if not a.startswith("inproc://")}
        self._checked |= fresh
        here = import_module("chunkinfer").__version__
        for address, found in _versions(self.client, fresh).items():
            if isinstance(found, ImportError):
                self.exclude(address, f"it cannot import chunkinfer ({found})", events)
            elif isinstance(found, str) and found != here:
                why = f"it has chunkinfer {found}, and this process {here}"
                events.tell(WORKER_UNFIT, worker=address, why=why, used=True)
        if fresh and self.present <= self.unfit.keys():
            address = min(self.present)
            raise ClusterError(
                f"None of {len(self.present)} workers can run a block: {address}: {self.unfit[address]}.",
                "Workers need the same packages as this process, in the environment that they were started from.",
                ["in their environment: pip install chunkinfer",
                 f"start workers from this environment: dask worker {self.client.scheduler.address}"],
            )  # fmt: skip

    def _killed(self, lost: Collection[str]) -> dict[str, str]:
        """Why workers that left did so, as far as dask tells: those that used more memory than they may."""
        if not lost:
            return {}
        with suppress(OSError):
            told = [event for _, event in self.client.get_events(RESTARTED) or ()]
            return {e["worker"]: self._over(e["worker"], e["rss"]) for e in told if e["worker"] in lost}
        return {}

    def _over(self, address: str, used: int) -> str:
        limit = self._known.get(address, {}).get("memory_limit") or 0
        return f"dask ended it because it used {used / 2**30:.2f} of {limit / 2**30:.2f} GiB"

    # ---- nobody there -------------------------------------------------------------------------------------------

    def _awaited(self) -> str:
        return "a worker that declares GPU" if self.annotation else "a worker"

    def _tell_absence(self, events: Events, awaited: str | None) -> None:
        """Tell that a run cannot go on, and end it where that was asked for."""
        waited = self._absence.seconds(awaited is not None)
        if awaited is None:
            return
        if self.timeout is not None and waited >= self.timeout:
            raise RunPaused(
                f"Paused after {waited:.0f} s without {awaited.removeprefix('a ')}: worker_timeout is "
                f"{self.timeout:g} s. {self._history()}".strip(),
                "What was finished is stored.",
                ["start workers, and make the same call again: it goes on where it ended", self._advice()],
            )
        if self._absence.due():
            events.tell(
                WORKERS_AWAITED, awaited=awaited, seconds=waited, last=self._last, lost=self._lost,
                history=self._history(), advice=self._advice(),
            )  # fmt: skip

    def _history(self) -> str:
        """What was there last."""
        if self.present and not self.able:
            address = min(self.present)
            why = self.unfit.get(address, "it declares no GPU")
            return f"{len(self.present)} that cannot compute these blocks: {address}: {why}."
        if not self._last:
            return "None came since the run began."
        return f"The last one, {self._last}, is gone, after {self._lost} that were lost."

    def _advice(self) -> str:
        """What to do, by the kind of the cluster."""
        address = self.client.scheduler.address if self.client.scheduler else "ADDRESS"
        if self._lost and type(self.client.cluster).__module__.startswith("distributed.deploy.local"):
            return (
                "dask's LocalCluster gives workers up that die again before they are back; those of "
                "chunkinfer.clusters.local() come back"
            )
        declared = ' --resources "GPU=1"' if self.annotation else ""
        return f"see whether jobs wait (squeue, kubectl get pods), or start a worker: dask worker {address}{declared}"


class _Absence:
    """How long something was missing, and when to say so."""

    def __init__(self) -> None:
        self._since: float | None = None
        self._next = WARN_AFTER

    def seconds(self, missing: bool) -> float:
        """Seconds for which it has been missing without a break; zero if it is there."""
        if not missing:
            self._since = None
            return 0.0
        if self._since is None:
            self._since, self._next = time.monotonic(), WARN_AFTER
        return time.monotonic() - self._since

    def due(self) -> bool:
        """Whether it is time to say so; counts as said."""
        if self._since is None or (waited := time.monotonic() - self._since) < self._next:
            return False
        self._next = waited + min(waited, WARN_EVERY)
        return True


def _gpus(worker: Mapping[str, Any]) -> float:
    return float(worker.get("resources", {}).get("GPU", 0))


def _versions(client: Any, addresses: Collection[str]) -> dict[str, Any]:
    """Address -> version of chunkinfer there, or the error in its place.

    By a builtin, because a function of chunkinfer could not be unpickled by the workers that are looked for.
    """
    if not addresses:
        return {}
    with suppress(OSError):
        found: dict[str, Any] = client.run(
            eval, "__import__('chunkinfer').__version__", workers=sorted(addresses), on_error="return"
        )
        return found
    return {}
