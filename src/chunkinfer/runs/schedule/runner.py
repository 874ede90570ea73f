"""Running a lazy array block by block, in windows: the scheduler never knows more than a few blocks per worker.

Blocks that fail, or whose workers die, are tried again under keys of their own. Those that are quicker than a task is
worth to the scheduler run several to a task, in turn.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

from chunkinfer.errors import DeviceError, ModelError, OutputError, RunError, VolumeError
from chunkinfer.runs.events import BLOCK_SLOW, RETRY, WINDOW_SENT, Events
from chunkinfer.runs.schedule.batches import Block, Windows

RETRIES = 2
"""Times that a failed block is tried again, under a fresh key each time."""

CERTAIN = (ModelError, OutputError, VolumeError)
"""Errors that another try would meet again."""

DEATHS = 3
"""Times that dask may give up a block, each after several workers died in a row that had it: on the way to a GPU, all
blocks that a worker was assigned count as its victims, so one time tells little."""

BLOCKS_PER_SLOT = 4, 128
"""Blocks that the scheduler knows, per task that can run at a time: at least, and at most where they are quick."""

WINDOW_SECONDS = 1.0
"""A window of quick blocks lasts so long, for that its graph costs as much as that of one block."""

ENDED = "finished", "error", "cancelled"
"""States of a future that has an outcome."""

TICK = 0.5
"""Seconds between looks at what no finished block tells: workers, a pause, a scheduler that is gone."""

FETCH = 10.0
"""Seconds in which results, some bytes each, arrive: those that don't are asked for again."""

TOGETHER = 0.1
"""Seconds for which results of quick blocks are collected before they are asked for."""

TASK_SECONDS, BLOCKS_PER_TASK = 0.2, 32
"""Blocks that are quicker than that run several to a task, at most so many: a task costs the scheduler, the client and
its worker some milliseconds together, whatever it does."""

SLOW = 10.0
"""Times the usual turnaround after which a block is told to be slow, and that many seconds at least."""


@dataclass(frozen=True)
class Outcome:
    """What became of one block."""

    position: int
    """Its number in the grid."""
    record: Any = None
    """What its task returned."""
    error: BaseException | None = None
    """Why it failed after all retries; None if it is stored."""
    tries: int = 1


def run_blocks(
    windows: Windows,
    positions: Iterable[int],
    events: Events | None = None,
    *,
    paused: Callable[[], bool] = lambda: False,
    flush: Callable[[], None] = lambda: None,
) -> Iterator[Outcome]:
    """Run blocks; yields each as it ends, in no order.

    Parameters
    ----------
    windows
        The graph of the run.
    positions
        Numbers of the blocks, in the order in which they start.
    events
        Told of windows, retries, slow blocks and workers.
    paused
        Asked twice a second: from when it is true, no block is started, and those that run are waited for.
    flush
        Called before blocks are started: what was yielded should be recorded by then, so that a crash never
        loses more than a window.

    Raises
    ------
    RunError
        The scheduler is gone. What was yielded is stored.
    """
    yield from _Run(windows, positions, events or Events(), paused, flush).outcomes()


class _Run:
    """The blocks of one call of `run_blocks`, waiting, running and tried again."""

    def __init__(
        self,
        windows: Windows,
        positions: Iterable[int],
        events: Events,
        paused: Callable[[], bool],
        flush: Callable[[], None],
    ) -> None:
        self.windows, self.client, self.workers = windows, windows.client, windows.workers
        self.events, self.paused, self.flush = events, paused, flush
        self.fresh = map(Block, positions)
        self.again: deque[Block] = deque()
        self.suspects: deque[Block] = deque()
        """Blocks that dask gave up twice because their workers died: they wait until the others are done and run one at
        a time, so that one which kills its worker takes no others with it."""
        self.running: dict[Any, tuple[Any, list[Block]]] = {}
        """Key -> future and blocks of a task."""
        self.finished: deque[tuple[float, int]] = deque(maxlen=16)
        """When blocks were found to have finished, and how many, lately."""
        self.turnarounds: deque[float] = deque(maxlen=64)
        """Seconds from submission to result, of the latest ones."""
        self.pausing = False
        self.exhausted = False

    def outcomes(self) -> Iterator[Outcome]:
        self.workers.wait(self.events, self.paused)
        self._look()
        try:
            while self._feed() or self.running:
                yield from self._settled(self._ready())
                self._look()
        finally:
            for future, _ in self.running.values():
                future.cancel()

    def _ready(self) -> list[Any]:
        """Futures that ended, none if that takes long: those of a moment together, because each question for results
        costs the scheduler as much as a task, but never so many that workers wait."""
        until, pause, ready = time.monotonic() + TICK, 0.001, list[Any]()
        while self.running:
            first = not ready
            ready = [future for future, _ in self.running.values() if future.status in ENDED]
            if ready and first:
                until = min(until, time.monotonic() + TOGETHER)
            if len(ready) > len(self.running) // 2 or time.monotonic() > until:
                break
            time.sleep(pause)
            pause = min(2 * pause, 0.1)
        return ready

    # ---- feeding ------------------------------------------------------------------------------------------------

    def _feed(self) -> bool:
        """Start blocks where there is room; whether any is left that could be started."""
        if self.pausing:
            return False
        size, sent = self._size(), sum(len(blocks) for _, blocks in self.running.values())
        if sent <= size // 2:
            batch: list[Block] = []
            while self.again and sent + len(batch) < size:
                batch.append(self.again.popleft())
            while not self.exhausted and sent + len(batch) < size:
                if (block := next(self.fresh, None)) is None:
                    self.exhausted = True
                else:
                    batch.append(block)
            if not batch and not self.running and self.suspects:
                batch = [self.suspects.popleft()]
            if batch:
                self._send(batch)
        return bool(self.again or self.suspects or not self.exhausted)

    def _send(self, batch: list[Block]) -> None:
        self.flush()
        self.windows.hold()
        self.events.tell(WINDOW_SENT, blocks=len(batch))
        now = time.monotonic()
        in_turn = int(TASK_SECONDS * self._rate() / self.workers.slots)
        for future, blocks in self.windows.submit(batch, max(1, min(in_turn, BLOCKS_PER_TASK))):
            for block in blocks:
                block.sent = now
            self.running[future.key] = future, blocks

    def _size(self) -> int:
        """Blocks of a window: a few for each slot, and more where they are quick."""
        if self.windows.whole:
            return len(self.windows.grid) + 1
        least, most = (n * self.workers.slots for n in BLOCKS_PER_SLOT)
        return int(max(8, least, min(WINDOW_SECONDS * self._rate(), most)))

    def _rate(self) -> float:
        """Blocks that finish per second, lately; zero until that is known."""
        if len(self.finished) < 2:
            return 0.0
        return sum(n for _, n in list(self.finished)[1:]) / (self.finished[-1][0] - self.finished[0][0])

    # ---- what became of them ------------------------------------------------------------------------------------

    def _settled(self, ready: Sequence[Any]) -> Iterator[Outcome]:
        """Outcomes of futures that ended; those to be tried again are put back."""
        results = self._results([f for f in ready if f.status == "finished"])
        now, finished = time.monotonic(), 0
        for future in ready:
            if future.key not in results and future.status not in ("error", "cancelled"):
                continue  # it was lost with its worker, and is computed again
            _, blocks = self.running.pop(future.key)
            if future.key in results:
                result = results[future.key]
                finished += len(blocks)
                self.turnarounds.append(now - blocks[0].sent)
                for block, record in zip(blocks, result if isinstance(result, list) else [result], strict=True):
                    yield Outcome(block.position, record, tries=block.attempt + 1)
            elif (error := _error_of(future)) is not None:
                yield from self._failed(blocks, error, future.key)
            elif not self.pausing:  # cancelled: by the loss of the scheduler, or by somebody else
                for block in blocks:
                    self._put_back(block, self.again, "its task was cancelled")
        if finished:
            self.finished.append((now, finished))
            self.windows.given_up = 0

    def _results(self, futures: list[Any]) -> dict[Any, Any]:
        """Key -> what the task returned; without those whose result was lost."""
        try:
            return dict(zip((f.key for f in futures), self._gathered(futures), strict=True))
        except Exception:  # of one of them: the others by themselves
            found = {}
            for future in futures:
                if future.status == "finished":
                    with suppress(Exception):
                        (found[future.key],) = self._gathered([future])
            return found

    def _gathered(self, futures: list[Any]) -> list[Any]:
        """What tasks returned. dask would wait for lost results to be computed again, without workers for ever."""
        asking = partial(self.client.gather, futures, asynchronous=True)
        return list(self.client.sync(asking, callback_timeout=FETCH))

    def _failed(self, blocks: list[Block], error: BaseException, key: Any) -> Iterator[Outcome]:
        from distributed.scheduler import KilledWorker

        if len(blocks) > 1:  # which of them it was is seen when each runs alone
            for block in blocks:
                self._put_back(block, self.again, str(error))
            return
        (block,) = blocks
        if isinstance(error, KilledWorker):
            if error.task != key and self.windows.given_up < DEATHS:  # no fault of the block's
                self._put_back(block, self.again, str(error))
                return
            block.deaths += 1
            if block.deaths < DEATHS:
                self._put_back(block, self.again if block.deaths == 1 else self.suspects, str(error))
                return
            error = RunError(
                f"The workers that ran this block died, {DEATHS} times {error.allowed_failures + 1} in a row, the last "
                "ones when nothing else ran.",
                "It takes more memory than a worker has, or its network crashes the process."
                + (f" Of one is known that {self.workers.ended}." if self.workers.ended else ""),
                ["read the log of the workers", "take smaller patches: infer(volume, model, memory=...)"],
            )
        elif isinstance(error, DeviceError) and error.worker:
            self.workers.exclude(error.worker, error.what, self.events)
            if self.workers.able:
                self._put_back(block, self.again, str(error))
                return
        elif not isinstance(error, CERTAIN) and block.failures < RETRIES:
            block.failures += 1
            self._put_back(block, self.again, str(error))
            return
        yield Outcome(block.position, error=error, tries=block.attempt + 1)

    def _put_back(self, block: Block, queue: deque[Block], why: str) -> None:
        self.events.tell(RETRY, block=block.position, tries=block.attempt + 1, why=why.split("\n")[0])
        queue.append(Block(block.position, block.attempt + 1, block.failures, block.deaths))

    # ---- what no finished block tells ---------------------------------------------------------------------------

    def _look(self) -> None:
        if self.client.status == "closed":
            raise RunError(
                "The scheduler is gone.",
                "It was stopped or killed, or the network between it and this process broke.",
                ["start it again, or another one, and make the same call: only what is missing is computed",
                 "run it where nobody kills it: not on a spot node, not in a login shell"],
            )  # fmt: skip
        if self.paused() and not self.pausing:
            self.pausing = True
            self._recall()
        self.workers.look(self.events)  # where the client reconnects, what ran is cancelled then, and sent again
        self._tell_slow()

    def _recall(self) -> None:
        """Take back the blocks that no worker has begun."""
        waiting = {key: future for key, (future, _) in self.running.items() if future.status not in ENDED}
        try:
            begun = {key for keys in self.client.processing().values() for key in keys}
            begun |= {key for key, workers in self.client.who_has(list(waiting.values())).items() if workers}
        except OSError:  # the client reconnects: nothing runs
            begun = set()
        self.client.cancel([future for key, future in waiting.items() if key not in begun], reason="paused")

    def _tell_slow(self) -> None:
        if len(self.turnarounds) < 8:
            return
        late = time.monotonic() - SLOW * max(1.0, median(self.turnarounds))
        for _, (block, *_) in self.running.values():
            if block.sent < late and not block.told:
                block.told = True
                self.events.tell(BLOCK_SLOW, block=block.position, seconds=time.monotonic() - block.sent)


def _error_of(future: Any) -> BaseException | None:
    """Why a future failed; None if it was cancelled."""
    if future.status != "error":
        return None
    error = future.exception()
    return error if isinstance(error, BaseException) else RuntimeError(str(error))
