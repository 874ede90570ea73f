"""Running a lazy array block by block, in windows: the scheduler never knows more than a few blocks per worker.

A window is the store layer's graph, fused and culled here, so that a block is one task and annotations survive
(the scheduler's own optimisation drops them). Volume and network are held as tasks of their own for the whole run.
"""

from __future__ import annotations

import copy
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from statistics import median
from typing import Any

import dask
import dask.array as da
from dask.blockwise import optimize_blockwise
from dask.highlevelgraph import HighLevelGraph

from chunkinfer.blockwise.payload import Payload, payloads_of, values_of
from chunkinfer.blockwise.placement import Workers
from chunkinfer.errors import DeviceError, ModelError, OutputError, RunError, VolumeError
from chunkinfer.events import BLOCK_SLOW, RETRY, WINDOW_SENT, Events
from chunkinfer.geometry import BlockGrid

RETRIES = 2
"""Times that a failed block is tried again, under a fresh key each time."""

CERTAIN = (ModelError, OutputError, VolumeError)
"""Errors that another try would meet again."""

DEATHS = 3
"""Times that dask may give up a block, each after several workers died in a row that had it: on the way to a GPU, all
blocks that a worker was assigned count as its victims, so one time tells little."""

BLOCKS_PER_SLOT = 4, 64
"""Blocks that the scheduler knows, per task that can run at a time: at least, and at most where they are quick."""

WINDOW_SECONDS = 2.0
"""A window of quick blocks lasts so long, for that its graph costs as much as that of one block."""

TICK = 0.5
"""Seconds between looks at what no finished block tells: workers, a pause, a scheduler that is gone."""

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


@dataclass
class _Block:
    """A block on its way."""

    position: int
    attempt: int = 0
    """Submissions before this one; each has keys of its own, so that no worker's death counts against the next."""
    failures: int = 0
    """Times that it raised an error."""
    deaths: int = 0
    """Times that dask gave it up because workers that ran it died."""
    sent: float = 0.0
    """When it was submitted."""
    told: bool = False
    """Whether it was told to be slow."""


class Windows:
    """The graph of a run, cut into windows.

    Parameters
    ----------
    make
        Makes the lazy array of the run's tasks, one element per block, under a name that ends in the given suffix.
    grid
        The blocks.
    client
        Of the cluster.
    whole
        Submit everything at once: for graphs whose blocks share upstream tasks that are dear to compute twice.
    anywhere
        Whether workers without a GPU take part where others declare one.
    """

    def __init__(
        self,
        make: Callable[[str], da.Array],
        grid: BlockGrid,
        client: Any,
        whole: bool = False,
        anywhere: bool = False,
    ) -> None:
        self.make, self.grid, self.client, self.whole = make, grid, client, whole
        self.workers = Workers(client, anywhere)
        self.banned: set[str] = set()
        """Workers that declare a device and lack it."""
        self._where: dict[str, Any] = {}
        self._graphs: dict[int, tuple[str, HighLevelGraph]] = {}
        self._held: dict[str, Any] = {}
        self._payloads = payloads_of(make("").dask)

    @property
    def hopeless(self) -> int:
        """Failures after which a run without a single success should end."""
        return max(8, 2 * self.workers.slots)

    def graph(self, attempt: int) -> tuple[str, HighLevelGraph]:
        """Name and fused graph of all blocks for the n-th attempt."""
        if self._where != (where := self._annotation()):
            self._where = where
            self._graphs.clear()
        if attempt not in self._graphs:
            array = self.make(f"-{attempt}" if attempt else "")
            layers = {name: self._annotated(name, layer) for name, layer in array.dask.layers.items()}
            graph = HighLevelGraph(layers, array.dask.dependencies)
            # Of the keys it takes the names only: one stands for ten million.
            with dask.config.set({"array.query-planning": False}):
                self._graphs[attempt] = array.name, optimize_blockwise(graph, keys=[(array.name,)])
        return self._graphs[attempt]

    def window(self, keys: Sequence[tuple[Any, ...]], attempt: int) -> HighLevelGraph:
        """The graph of some blocks, without the payloads that are held as tasks."""
        _, graph = self.graph(attempt)
        culled = graph.cull(set(keys))
        layers = {n: x for n, x in culled.layers.items() if not any(isinstance(v, Payload) for v in values_of(x))}
        names = set(layers)
        return HighLevelGraph(layers, {n: culled.dependencies[n] & names for n in names})

    def hold(self) -> None:
        """Ship volume and network as tasks, kept while this object lives: recomputed if their worker dies, and shipped
        again if dask gave them up or the scheduler is another one."""
        if not self._held and self.client.scheduler.address.startswith("inproc://"):
            self._payloads = [p.staying() for p in self._payloads]
        for payload in self._payloads:
            held = self._held.pop(payload.key, None)
            if held is None or held.status not in ("pending", "finished"):
                del held  # or the scheduler would give the old answer
                held = self.client.submit(_keep, payload, key=payload.key, pure=False)
            self._held[payload.key] = held

    def run(
        self,
        positions: Iterable[int],
        events: Events | None = None,
        *,
        paused: Callable[[], bool] = lambda: False,
        flush: Callable[[], None] = lambda: None,
    ) -> Iterator[Outcome]:
        """Run blocks; yields each as it ends, in no order.

        Parameters
        ----------
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
        yield from _Run(self, positions, events or Events(), paused, flush).outcomes()

    def submit(self, blocks: Sequence[_Block]) -> Iterator[tuple[Any, _Block]]:
        """Futures of the blocks' tasks; those that were begun before go first."""
        for attempt in sorted({b.attempt for b in blocks}):
            some = [b for b in blocks if b.attempt == attempt]
            name, _ = self.graph(attempt)
            keys = [(name, *self.grid.unravel(b.position)) for b in some]
            futures = self.client.get(self.window(keys, attempt), keys, sync=False, priority=int(attempt > 0))
            yield from zip(futures, some, strict=True)

    def _annotation(self) -> dict[str, Any]:
        """Where kernels go: where GPUs are declared, and not where none was found."""
        annotation = dict(self.workers.annotation)
        if self.banned:
            annotation |= {"workers": sorted(self.workers.present - self.banned), "allow_other_workers": True}
        return annotation

    def _annotated(self, name: str, layer: Any) -> Any:
        """Kernels and what is fused with them are annotated."""
        if self._where and name.startswith(("infer-", "save-")):
            layer = copy.copy(layer)
            layer.annotations = {**(layer.annotations or {}), **self._where}
        return layer


class _Run:
    """The blocks of one call of `Windows.run`, waiting, running and tried again."""

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
        self.fresh = map(_Block, positions)
        self.again: deque[_Block] = deque()
        self.suspects: deque[_Block] = deque()
        """Blocks that dask gave up twice because their workers died: they wait until the others are done and run one at
        a time, so that one which kills its worker takes no others with it."""
        self.running: dict[Any, tuple[Any, _Block]] = {}
        self.ended: SimpleQueue[Any] = SimpleQueue()
        self.finished: deque[float] = deque(maxlen=256)
        """When blocks finished, the latest ones."""
        self.turnarounds: deque[float] = deque(maxlen=64)
        """Seconds from submission to result, of the latest ones."""
        self.pausing = False
        self.exhausted = False

    def outcomes(self) -> Iterator[Outcome]:
        self.workers.wait(self.events, self.paused)
        try:
            while self._feed() or self.running:
                try:
                    ready = [self.ended.get(timeout=TICK)]
                except Empty:
                    self._look()
                    continue
                while not self.ended.empty():
                    ready.append(self.ended.get())
                yield from self._settled(ready)
                self._look()
        finally:
            for future, _ in self.running.values():
                future.cancel()

    # ---- feeding ------------------------------------------------------------------------------------------------

    def _feed(self) -> bool:
        """Start blocks where there is room; whether any is left that could be started."""
        if self.pausing:
            return False
        size = self._size()
        if len(self.running) <= size // 2:
            batch: list[_Block] = []
            while self.again and len(self.running) + len(batch) < size:
                batch.append(self.again.popleft())
            while not self.exhausted and len(self.running) + len(batch) < size:
                if (block := next(self.fresh, None)) is None:
                    self.exhausted = True
                else:
                    batch.append(block)
            if not batch and not self.running and self.suspects:
                batch = [self.suspects.popleft()]
            if batch:
                self._send(batch)
        return bool(self.again or self.suspects or not self.exhausted)

    def _send(self, batch: list[_Block]) -> None:
        self.flush()
        self.windows.hold()
        self.events.tell(WINDOW_SENT, blocks=len(batch))
        now = time.monotonic()
        for future, block in self.windows.submit(batch):
            block.sent = now
            self.running[future.key] = future, block
            future.add_done_callback(self.ended.put)

    def _size(self) -> int:
        """Blocks of a window: a few for each slot, and more where they are quick."""
        if self.windows.whole:
            return len(self.windows.grid) + 1
        least, most = (n * self.workers.slots for n in BLOCKS_PER_SLOT)
        lasting = 0.0
        if len(self.finished) > 1 and (passed := self.finished[-1] - self.finished[0]) > 0:
            lasting = WINDOW_SECONDS * len(self.finished) / passed
        return int(max(8, least, min(lasting, most)))

    # ---- what became of them ------------------------------------------------------------------------------------

    def _settled(self, ready: Sequence[Any]) -> Iterator[Outcome]:
        """Outcomes of futures that ended; those to be tried again are put back."""
        done = [f for f in ready if f.status == "finished" and f.key in self.running]
        records = dict(zip((f.key for f in done), self._gathered(done), strict=True))
        now = time.monotonic()
        for future in ready:
            if future.key not in self.running:
                continue
            _, block = self.running.pop(future.key)
            record = records.get(future.key)
            if future.status == "finished" and not isinstance(record, BaseException):
                self.finished.append(now)
                self.turnarounds.append(now - block.sent)
                yield Outcome(block.position, record, tries=block.attempt + 1)
            elif (error := record if isinstance(record, BaseException) else _error_of(future)) is not None:
                yield from self._failed(block, error)
            elif not self.pausing:  # cancelled: by the loss of the scheduler, or by somebody else
                self._put_back(block, self.again, "its task was cancelled")

    def _gathered(self, futures: list[Any]) -> list[Any]:
        """What tasks returned; the error where a result was lost and could not be computed again."""
        try:
            return list(self.client.gather(futures))
        except Exception:
            return [_result_or_error(future) for future in futures]

    def _failed(self, block: _Block, error: BaseException) -> Iterator[Outcome]:
        from distributed.scheduler import KilledWorker

        if isinstance(error, KilledWorker):
            block.deaths += 1
            if block.deaths < DEATHS:
                self._put_back(block, self.again if block.deaths == 1 else self.suspects, str(error))
                return
            error = RunError(
                f"The workers that ran this block died, {DEATHS} times {error.allowed_failures + 1} in a row, the last "
                "ones when nothing else ran.",
                "It takes more memory than a worker has, or its network crashes the process.",
                ["read the log of the workers", "take smaller patches: infer(volume, model, memory=...)"],
            )
        elif isinstance(error, DeviceError) and error.worker:
            self.windows.banned.add(error.worker)
            if self.workers.present - self.windows.banned:
                self._put_back(block, self.again, str(error))
                return
        elif not isinstance(error, CERTAIN) and block.failures < RETRIES:
            block.failures += 1
            self._put_back(block, self.again, str(error))
            return
        yield Outcome(block.position, error=error, tries=block.attempt + 1)

    def _put_back(self, block: _Block, queue: deque[_Block], why: str) -> None:
        self.events.tell(RETRY, block=block.position, tries=block.attempt + 1, why=why.split("\n")[0])
        queue.append(_Block(block.position, block.attempt + 1, block.failures, block.deaths))

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
        with suppress(OSError):  # the client reconnects; what ran is cancelled then, and sent again
            self.workers.look(self.events)
        self._tell_slow()

    def _recall(self) -> None:
        """Take back the blocks that no worker has begun."""
        try:
            busy = {key for keys in self.client.processing().values() for key in keys}
        except OSError:  # the client reconnects: nothing runs
            busy = set()
        waiting = [future for key, (future, _) in self.running.items() if key not in busy]
        self.client.cancel(waiting, reason="paused")

    def _tell_slow(self) -> None:
        if len(self.turnarounds) < 8:
            return
        late = time.monotonic() - SLOW * max(1.0, median(self.turnarounds))
        for _, block in self.running.values():
            if block.sent < late and not block.told:
                block.told = True
                self.events.tell(BLOCK_SLOW, block=block.position, seconds=time.monotonic() - block.sent)


def _keep(payload: Payload) -> Payload:
    return payload


def _result_or_error(future: Any) -> Any:
    try:
        return future.result()
    except Exception as error:
        return error


def _error_of(future: Any) -> BaseException | None:
    """Why a future failed; None if it was cancelled."""
    if future.status != "error":
        return None
    error = future.exception()
    return error if isinstance(error, BaseException) else RuntimeError(str(error))
