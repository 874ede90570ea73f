"""What happens in a run, as one stream that progress, reports, logs and metrics subscribe to.

::

    run started      blocks, todo, voxels, url          run ended       seconds, computed, failed, paused
    window sent      blocks                             retry           block, tries, why
    block done       block, box, voxels, bytes, tries,  block failed    block, box, tries, error
                     seconds of each stage, engine      block slow      block, seconds
    worker came      worker                             worker lost     worker, why (where dask tells)
    worker unfit     worker, why, used                  workers awaited awaited, seconds, last, lost, history, advice

A block's reading, computing and writing are one task, so they are told together, with the seconds of each.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

RUN_STARTED, RUN_ENDED = "run started", "run ended"
WINDOW_SENT = "window sent"
BLOCK_DONE, BLOCK_FAILED, BLOCK_SLOW, RETRY = "block done", "block failed", "block slow", "retry"
WORKER_CAME, WORKER_LOST, WORKER_UNFIT = "worker came", "worker lost", "worker unfit"
WORKERS_AWAITED = "workers awaited"

KINDS = (
    RUN_STARTED, WINDOW_SENT, BLOCK_DONE, RETRY, BLOCK_SLOW, BLOCK_FAILED, WORKER_CAME, WORKER_LOST, WORKER_UNFIT,
    WORKERS_AWAITED, RUN_ENDED,
)  # fmt: skip
"""Every kind of event."""


@dataclass(frozen=True)
class Event:
    """Something that happened."""

    kind: str
    """One of `KINDS`."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """Plain values: numbers, texts, and tables of them. Never a credential, a path of a worker's machine or voxels."""
    at: float = field(default_factory=time.time)
    """Seconds since 1970, on the client's clock."""


Subscriber = Callable[[Event], None]
"""Called in the client's thread that runs the blocks: it must be quick, and what it raises ends the run."""


class Events:
    """The stream of one run: tells every subscriber, in the order in which they came."""

    def __init__(self, *subscribers: Subscriber) -> None:
        self._subscribers = subscribers

    def tell(self, kind: str, **facts: Any) -> None:
        """Something happened."""
        event = Event(kind, facts)
        for subscriber in self._subscribers:
            subscriber(event)
