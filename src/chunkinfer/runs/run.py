"""A run: the blocks of a lazy array to their end, recorded in a ledger and reported."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import dask.array as da
import numpy as np
from numpy.typing import NDArray

from chunkinfer.errors import NotExact, RunError, RunPaused
from chunkinfer.geometry.boxes import BlockGrid
from chunkinfer.runs.events import BLOCK_DONE, BLOCK_FAILED, RUN_ENDED, RUN_STARTED, Events, Subscriber
from chunkinfer.runs.progress import Progress
from chunkinfer.runs.record.lease import Lease
from chunkinfer.runs.record.ledger import Ledger
from chunkinfer.runs.record.segments import Entry
from chunkinfer.runs.report import RunReport
from chunkinfer.runs.schedule.batches import Windows
from chunkinfer.runs.schedule.interrupts import Interrupts
from chunkinfer.runs.schedule.placement import client_for
from chunkinfer.runs.schedule.runner import run_blocks
from chunkinfer.support.facts import NetworkFacts

LEDGER_SECONDS = 0.5
"""Finished blocks are recorded this often; a crash loses no more than what was not."""


@dataclass(frozen=True)
class Where:
    """Where tasks run, and who hears of them."""

    client: Any = None
    """A `distributed.Client`; None: the active one, or a cluster in this process."""
    progress: bool | None = None
    """Whether a progress bar is shown; None: in terminals and notebooks, and lines elsewhere."""
    events: Sequence[Subscriber] = ()
    """Called with every event of a run."""


@dataclass(frozen=True)
class Run:
    """Blocks to compute and store; those that the ledger lists are left out."""

    url: str
    """Where the output is, for reports."""
    ledger: Ledger
    header: Mapping[str, Any]
    """What the ledger was begun with."""
    grid: BlockGrid
    tasks: Callable[[str], da.Array]
    """The lazy array of the tasks, one element per block, under a name that ends in the given suffix."""
    slots: int
    """Blocks in flight where there is no client."""
    whole: bool = False
    """Whether blocks share tasks that are dear to run twice."""
    networks: tuple[NetworkFacts, ...] = ()
    """Those that compute the blocks, in order."""

    def __call__(self, where: Where, lease: Lease) -> RunReport:
        """Compute and store the missing blocks.

        Raises
        ------
        RunError
            Blocks failed after retries. All others are stored.
        RunPaused
            Ctrl-C or SIGTERM: what had begun is stored. Or no worker was there for as long as ``worker_timeout``.
        """
        grid = self.grid
        finished = self.ledger.done(len(grid))
        todo = len(grid) - finished.count
        report = RunReport(url=self.url, blocks=len(grid), skipped=finished.count, header=dict(self.header))
        if self.networks:
            last = self.networks[-1]
            report.plan, report.verdict = self.networks[0].plan, last.verdict
            report.precision_check = last.precision_check or ""
        missing = (i for i in grid.z_order() if not finished.flags[i])
        voxels = prod(grid.shape) - _voxels_of(grid, finished.flags)
        bar = Progress(voxels, todo, where.progress)
        events = Events(report.told, bar.told, *where.events)
        start, failures = time.perf_counter(), dict[int, BaseException]()
        with Interrupts() as interrupts:
            try:
                events.tell(RUN_STARTED, run=lease.run, url=report.url, blocks=len(grid), todo=todo, voxels=voxels)
                if todo:
                    self._run_blocks(missing, where.client, events, interrupts, lease, failures)
            except RunPaused:  # nobody was there to compute
                report.paused = True
                raise
            finally:
                bar.close()
                report.seconds = time.perf_counter() - start
                report.paused |= interrupts.paused and report.computed + len(failures) < todo
                report.failed.sort()
                if lease.held:  # or what lies there is another run's
                    self.ledger.failed({i: _first_line(error) for i, error in failures.items()})
                    self.ledger.report(report.as_dict())
                events.tell(
                    RUN_ENDED, seconds=report.seconds, computed=report.computed, failed=len(failures),
                    paused=report.paused,
                )  # fmt: skip
        self.ledger.compact()
        if failures:
            raise _run_error(report, failures, grid)
        if report.paused:
            raise RunPaused(
                f"Paused: {report.computed + report.skipped} of {report.blocks} blocks are stored in {report.url}.",
                "Ctrl-C or SIGTERM asked for it, and every block that had begun was finished.",
                ["make the same call again: it goes on where it ended, here or on another machine",
                 f"see what is there: chunkinfer status {report.url}"],
            )  # fmt: skip
        return report

    def _run_blocks(
        self,
        missing: Iterator[int],
        client: Any,
        events: Events,
        interrupts: Interrupts,
        lease: Lease,
        failures: dict[int, BaseException],
    ) -> None:
        """Run blocks to their end and record them; those that failed go to ``failures``."""
        unrecorded: list[Entry] = []
        recorded, computed = time.perf_counter(), 0

        def paused() -> bool:
            lease.check()
            return interrupts.paused

        def record() -> None:
            nonlocal recorded
            lease.check()
            self.ledger.add(unrecorded)
            unrecorded.clear()
            recorded = time.perf_counter()

        with client_for(client, self.slots) as active:
            windows = Windows(self.tasks, self.grid, active, self.whole)
            try:
                for outcome in run_blocks(windows, missing, events, paused=paused, flush=record):
                    box = self.grid.box(self.grid.unravel(outcome.position))
                    about = {"block": outcome.position, "box": str(box), "voxels": box.size, "tries": outcome.tries}
                    if outcome.error is not None:
                        failures[outcome.position] = outcome.error
                        events.tell(BLOCK_FAILED, **about, error=_first_line(outcome.error))
                        if isinstance(outcome.error, NotExact):
                            break  # the run's own check: what it says of the network, it says of all blocks
                        if not computed and len(failures) >= windows.hopeless:
                            break
                        continue
                    computed += 1
                    written = outcome.record
                    seconds = sum(written.seconds.values())
                    unrecorded.append(Entry(outcome.position, written.checksum, seconds, written.engine))
                    events.tell(
                        BLOCK_DONE, **about, bytes=written.bytes, seconds=written.seconds, counts=written.counts,
                        engine=written.engine,
                    )  # fmt: skip
                    if time.perf_counter() - recorded > LEDGER_SECONDS:
                        record()
            finally:
                record()


def _voxels_of(grid: BlockGrid, flags: NDArray[np.bool_]) -> int:
    """Voxels of the flagged blocks."""
    index = np.unravel_index(flags.nonzero()[0], grid.counts)
    sizes = [np.asarray(axis, np.int64)[i] for axis, i in zip(grid.sizes, index, strict=True)]
    return int(np.prod(sizes, axis=0).sum())


def _run_error(report: RunReport, failures: Mapping[int, BaseException], grid: BlockGrid) -> RunError:
    first = failures[min(failures)]
    boxes = "\n".join(f"  {grid.box(grid.unravel(i))}: {_first_line(failures[i])}" for i in sorted(failures)[:5])
    more = f"\n  and {len(failures) - 5} more" if len(failures) > 5 else ""
    error = RunError(
        f"{len(failures)} of {report.blocks} blocks failed:\n{boxes}{more}",
        f"The other {report.computed + report.skipped} that were tried are stored in {report.url}.",
        ["mend the cause and make the same call again: only what is missing is computed",
         f"read the report: {report.url}/.chunkinfer/run.json"],
    )  # fmt: skip
    error.__cause__ = first
    return error


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
