"""A run's numbers as an HTTP endpoint that Prometheus scrapes."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from chunkinfer.errors import DestinationError, MissingExtra
from chunkinfer.runs.events import (
    BLOCK_DONE,
    BLOCK_FAILED,
    BLOCK_SLOW,
    RETRY,
    RUN_ENDED,
    RUN_STARTED,
    WORKER_CAME,
    WORKER_LOST,
    Event,
)

COUNTERS = {
    "blocks_done": ("Blocks that were stored, by the engine that computed them.", ("engine",)),
    "blocks_failed": ("Blocks that failed after all retries.", ()),
    "blocks_slow": ("Blocks that took much longer than others.", ()),
    "retries": ("Times that a block was tried again.", ()),
    "voxels": ("Voxels, times channels, that were stored.", ()),
    "bytes": ("Their bytes before compression.", ()),
    "stage_seconds": ("Seconds of all tasks per stage: read, wait (for the device), compute, write.", ("stage",)),
    "workers_lost": ("Workers that went while a run needed them.", ()),
    "runs": ("Runs that began.", ()),
}
"""Name -> meaning and labels of what only grows; Prometheus adds _total to each name."""

GAUGES = {
    "blocks": "Blocks of the output of the present run.",
    "blocks_todo": "Blocks of the present run that are neither stored nor given up.",
    "workers": "Workers that came and are not lost.",
    "running": "1 while a run goes, 0 otherwise.",
    "last_event_timestamp_seconds": "When something last happened, in seconds since 1970.",
    "run_started_timestamp_seconds": "When the present run began, in seconds since 1970.",
}
"""Name -> meaning of what goes up and down."""


class Metrics:
    """A subscriber that counts what happens and shows it at ``url``, in Prometheus' text format.

    Counters go on from run to run of one process, as Prometheus expects them to.

    Parameters
    ----------
    port
        To listen on; 0 for a free one.
    host
        Address to listen on: by default only this machine reaches it. What is shown are numbers, and names of engines;
        whoever reaches the port can read them.

    Raises
    ------
    MissingExtra
        prometheus-client is not installed.
    DestinationError
        The port is taken, or the address is none of this machine's.
    """

    def __init__(self, port: int = 0, host: str = "127.0.0.1") -> None:
        try:
            prometheus = import_module("prometheus_client")
        except ImportError as error:
            raise MissingExtra.of("Metrics", "prometheus-client", "metrics") from error
        # A registry of its own: the process's default one may hold what others count, and the process itself.
        self.registry: Any = prometheus.CollectorRegistry()
        self._counters = {
            name: prometheus.Counter(f"chunkinfer_{name}", text, labels, registry=self.registry)
            for name, (text, labels) in COUNTERS.items()
        }
        self._gauges = {
            name: prometheus.Gauge(f"chunkinfer_{name}", text, registry=self.registry) for name, text in GAUGES.items()
        }
        self._present: set[str] = set()
        try:
            self._server, self._thread = prometheus.start_http_server(port, host, self.registry)
        except (OSError, OverflowError) as error:
            raise DestinationError(
                f"Metrics cannot be shown at {host}:{port}: {error}.",
                "Another process listens there, or the address is none of this machine's.",
                ["Metrics(port=0) takes a free port; its url says which", "Metrics(port=9464), or any other"],
            ) from error
        self.host, self.port = host, int(self._server.server_port)

    @property
    def url(self) -> str:
        """Where the numbers are."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}/metrics"

    def __repr__(self) -> str:
        return f"<Metrics at {self.url}>"

    def __call__(self, event: Event) -> None:
        """Count an event."""
        facts, gauges = event.facts, self._gauges
        gauges["last_event_timestamp_seconds"].set(event.at)
        if event.kind == RUN_STARTED:
            self._count("runs")
            self._present.clear()
            gauges["blocks"].set(facts["blocks"])
            gauges["blocks_todo"].set(facts["todo"])
            gauges["running"].set(1)
            gauges["run_started_timestamp_seconds"].set(event.at)
        elif event.kind == RUN_ENDED:
            gauges["running"].set(0)
        elif event.kind == BLOCK_DONE:
            self._done(facts)
        elif event.kind == BLOCK_FAILED:
            self._count("blocks_failed")
            gauges["blocks_todo"].dec()
        elif event.kind == BLOCK_SLOW:
            self._count("blocks_slow")
        elif event.kind == RETRY:
            self._count("retries")
        elif event.kind == WORKER_CAME:
            self._present.add(str(facts["worker"]))
        elif event.kind == WORKER_LOST:
            self._count("workers_lost")
            self._present.discard(str(facts["worker"]))
        gauges["workers"].set(len(self._present))

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> Metrics:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _done(self, facts: Mapping[str, Any]) -> None:
        self._count("blocks_done", 1, str(facts["engine"] or "none"))
        self._count("voxels", facts["voxels"])
        self._count("bytes", facts["bytes"])
        for stage, seconds in facts["seconds"].items():
            self._count("stage_seconds", seconds, str(stage))
        self._gauges["blocks_todo"].dec()

    def _count(self, name: str, by: float = 1, *labels: str) -> None:
        counter = self._counters[name].labels(*labels) if labels else self._counters[name]
        counter.inc(by)
