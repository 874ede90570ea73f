"""verify: are finished blocks still what was written? Reads them back and compares checksums; repairs on request."""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ThreadPoolExecutor, as_completed, wait
from dataclasses import dataclass, replace
from math import ceil
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chunkinfer.api.reopen import reopened
from chunkinfer.api.save import save
from chunkinfer.errors import DestinationError, MissingChunk, PlanError, SourceError
from chunkinfer.geometry.boxes import Box
from chunkinfer.runs.record.headers import OutputFacts
from chunkinfer.runs.record.lease import Lease
from chunkinfer.runs.record.ledger import Ledger
from chunkinfer.runs.record.segments import Finished
from chunkinfer.runs.report import RunReport
from chunkinfer.runs.schedule.placement import active_client
from chunkinfer.runs.schedule.storing import Store, checksum
from chunkinfer.runs.status import duration, ledger_at
from chunkinfer.stores import failures
from chunkinfer.stores.urls import locate
from chunkinfer.support import html
from chunkinfer.support.device import cores
from chunkinfer.volumes.arrays.create import open_destination
from chunkinfer.volumes.arrays.destination import Destination

OUTAGES = ("UNAVAILABLE", "DEADLINE_EXCEEDED", "PERMISSION_DENIED", "UNAUTHENTICATED", "RESOURCE_EXHAUSTED", "ABORTED",
           "CANCELLED")  # fmt: skip
"""Status codes that tell of the store and not of what it holds: no block is called torn for them."""

BATCH = 16
"""Blocks that one task reads, one after the other, at most."""

SHOWN = 10
"""Torn blocks that the text shows."""


@dataclass(frozen=True)
class Torn:
    """A finished block that is not what was written."""

    box: Box
    """In voxels of the output, over all its axes."""
    what: str
    """missing chunk, unreadable, or other voxels; and the details."""

    def __str__(self) -> str:
        return f"{self.box}: {self.what}"


def verify(
    url: str | os.PathLike[str],
    *,
    sample: float | None = None,
    repair: bool = False,
    volume: Any = None,
    model: Any = None,
    trust: bool = False,
    client: Any = None,
    progress: bool | None = None,
) -> VerifyReport:
    """Read finished blocks of an output back, and compare them with the checksums recorded when they were written.

    Runs on the workers of the active dask client, or on threads where there is none. Blocks stored by versions that
    recorded no checksum are read too, which finds chunks that are missing or damaged.

    Parameters
    ----------
    url
        Of the output, as given to `save`.
    sample
        Read only so many blocks, or such a share of them if below 1, chosen at random.
    repair
        Compute torn blocks again, and whatever is missing, by the same run: with the source, the network and the
        settings that the ledger names.
    volume
        For a repair: the network's input, or the very array that was saved, where the ledger's source will not do.
    model
        For a repair: the network, or the path of its file.
    trust
        For a repair: open the model file that the ledger names, which may be code.
    client
        The `distributed.Client` to run on.
    progress
        Show a progress bar; by default in terminals and notebooks.

    Returns
    -------
    VerifyReport

    Raises
    ------
    DestinationError
        There is no ledger, it is damaged, or it does not say how to repair; or the array at the URL is another one.
    SourceError
        The store does not answer, or the array is gone.
    UntrustedModel, ModelError
        The network for a repair is not to be had; see ``model`` and ``trust``.
    SettingsDiffer
        For a repair: what was given is not what the run computed.
    """
    start = time.perf_counter()
    ledger, header = ledger_at(url)
    made, place = header.destination, locate(url).url
    grid = made.grid
    done = ledger.done(len(grid))
    store = Store(_opened(place, made), made.dims, grid)
    looking = _Looking(store, done, client, progress)
    chosen = _chosen(np.flatnonzero(done.flags), sample)
    torn = looking.at(chosen)
    report = VerifyReport(
        url=place,
        blocks=len(grid),
        finished=done.count,
        checked=len(chosen),
        unknown=int(np.count_nonzero(~done.known[chosen])),
        torn=tuple(torn.values()),
        remaining=tuple(torn.values()),
        bytes=looking.bytes,
        seconds=time.perf_counter() - start,
    )
    if not (torn and repair):
        return report
    array = reopened(header, place, volume, model, trust)
    with Lease(ledger.files):  # nobody else may write the ledger; it is opened anew, as somebody may have until now
        Ledger(ledger.files).forget(torn)
    run = save(array, place, format=made.format, client=client, progress=progress)
    again = _Looking(store, ledger.done(len(grid)), client, progress).at(np.array(list(torn)))
    return replace(report, remaining=tuple(again.values()), run=run, seconds=time.perf_counter() - start)


@dataclass(frozen=True)
class VerifyReport:
    """Whether finished blocks are what was written."""

    url: str
    """Where the output is."""
    blocks: int
    """Blocks of the output."""
    finished: int
    """Blocks that the ledger called finished."""
    checked: int
    """Finished blocks that were read."""
    unknown: int
    """Blocks among them without a recorded checksum: they could be read, which is all that is known."""
    torn: tuple[Torn, ...]
    """Blocks that were not what was written."""
    remaining: tuple[Torn, ...]
    """Those that still are not: all of them without a repair."""
    bytes: int
    """Voxels that were read, in bytes."""
    seconds: float
    """Wall time."""
    run: RunReport | None = None
    """The run that repaired."""

    @property
    def ok(self) -> bool:
        """Whether every block that was read is what was written, or is so again."""
        return not self.remaining

    def _rows(self) -> list[tuple[str, str]]:
        kinds = Counter(torn.what.partition(":")[0] for torn in self.torn)
        answer = "all right" if not self.torn else f"{len(self.torn):,} torn blocks"
        if self.run is not None:
            answer += f", {len(self.torn) - len(self.remaining):,} of them computed again"
        share = f"{self.checked:,} of {self.finished:,} finished blocks"
        unfinished = self.blocks - self.finished
        pace = self.bytes / 1e6 / self.seconds if self.seconds else 0.0
        return [
            ("answer", answer),
            ("output", self.url),
            ("read", f"{share}, {self.bytes:,} bytes" + (f"; {unfinished:,} are not finished" if unfinished else "")),
            ("checksums", f"{self.unknown:,} blocks have none: they could only be read" if self.unknown else ""),
            ("found", ", ".join(f"{kind} {n:,}" for kind, n in kinds.items())),
            *(("torn", str(torn)) for torn in self.torn[:SHOWN]),
            ("torn", f"and {len(self.torn) - SHOWN:,} more" if len(self.torn) > SHOWN else ""),
            *(("remains", str(torn)) for torn in (self.remaining[:SHOWN] if self.run is not None else ())),
            ("time", f"{duration(self.seconds)}, {pace:.3g} MB/s"),
        ]

    def __str__(self) -> str:
        return "\n".join(f"{name + ':':<11}{value}" for name, value in self._rows() if value)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return html.facts((name, value) for name, value in self._rows() if value)


class _Looking:
    """Reads blocks where the client's workers are, or on threads."""

    def __init__(self, store: Store, done: Finished, client: Any, progress: bool | None) -> None:
        self.store, self.done = store, done
        self.client = client or active_client()
        self.show = ("ipykernel" in sys.modules or sys.stderr.isatty()) if progress is None else progress
        self.bytes = 0

    def at(self, positions: NDArray[np.int64]) -> dict[int, Torn]:
        """Blocks that are torn, by number."""
        from tqdm.auto import tqdm

        found: dict[int, Torn] = {}
        slots = sum(self.client.nthreads().values()) if self.client is not None else cores() + 1
        size = max(1, min(BATCH, len(positions) // (4 * max(1, slots))))
        batches = (positions[i : i + size] for i in range(0, len(positions), size))
        bar = tqdm(total=len(positions), unit="block", disable=not self.show, dynamic_ncols=True)
        with self._executor(slots) as executor, bar:
            for looked in _in_windows(executor, map(self._jobs, batches), 2 * max(1, slots)):
                for position, read, what, crc in looked:
                    self.bytes += read
                    if what:
                        found[position] = Torn(self._box(position), what + self._stale(position, crc))
                bar.update(len(looked))
        return dict(sorted(found.items()))

    def _executor(self, slots: int) -> Executor:
        if self.client is None:
            return ThreadPoolExecutor(slots)
        executor: Executor = self.client.get_executor(pure=False, retries=2)
        return executor

    def _jobs(self, positions: Iterable[int]) -> tuple[Any, ...]:
        """A call of `_look`, as function and arguments."""
        blocks = [
            (int(i), self._box(i), int(self.done.checksums[i]) if self.done.known[i] else None) for i in positions
        ]
        return _look, self.store.destination, [(i, self.store.index(box), crc) for i, box, crc in blocks]

    def _box(self, position: int) -> Box:
        return self.store.grid.box(self.store.grid.unravel(int(position)))

    def _stale(self, position: int, crc: int | None) -> str:
        """Whose voxels were found, if a block was written with them."""
        if crc is None:
            return ""
        others = np.flatnonzero(self.done.known & (self.done.checksums == crc))
        return f"; {self._box(int(others[0]))} was written with these" if len(others) else ""


Looked = tuple[int, int, str, int | None]
"""Number of a block, bytes that were read, what is wrong (or an empty text), and the checksum of wrong voxels."""


def _look(destination: Destination, blocks: Sequence[tuple[int, tuple[slice, ...], int | None]]) -> list[Looked]:
    """Read blocks back: number, box and recorded checksum of each are given."""
    looked: list[Looked] = []
    for position, box, recorded in blocks:
        try:
            voxels = destination.read(box)
        except SourceError as error:
            if failures.status(error.__cause__ or error) in OUTAGES:
                raise
            kind = "missing chunk" if isinstance(error, MissingChunk) else "unreadable"
            looked.append((position, 0, f"{kind}: {error.what}", None))
            continue
        crc = checksum(voxels)
        wrong = recorded is not None and crc != recorded
        what = f"other voxels: checksum {crc:08x}, recorded {recorded:08x}" if wrong else ""
        looked.append((position, voxels.nbytes, what, crc if wrong else None))
    return looked


def _in_windows(executor: Executor, jobs: Iterable[tuple[Any, ...]], most: int) -> Iterator[Any]:
    """Results of jobs, in no order; so many at most are known to the executor at a time."""
    running: set[Future[Any]] = set()
    for job in jobs:
        if len(running) >= most:
            ended, running = wait(running, return_when=FIRST_COMPLETED)
            yield from (future.result() for future in ended)
        running.add(executor.submit(*job))
    yield from (future.result() for future in as_completed(running))


def _chosen(finished: NDArray[np.int64], sample: float | None) -> NDArray[np.int64]:
    """The blocks to read, in the grid's order."""
    if sample is None:
        return finished
    if isinstance(sample, bool) or not sample > 0 or (sample >= 1 and sample != int(sample)):
        raise PlanError(
            f"sample={sample!r} is neither a number of blocks nor a share of them.",
            "Each is read whole.",
            ["sample=1000 reads a thousand blocks, chosen at random", "sample=0.01 reads one in a hundred"],
        )
    wanted = min(len(finished), int(sample) if sample >= 1 else ceil(sample * len(finished)))
    return np.sort(np.random.default_rng().choice(finished, wanted, replace=False))


def _opened(place: str, said: OutputFacts) -> Destination:
    """The array at a place, which must be the one that the ledger beside it speaks of."""
    found = open_destination(f"{said.format}://{place}")
    lengths = dict(zip(found.dims, found.shape, strict=True))
    stored = [lengths.pop(d, 1) for d in said.dims]
    dtype = np.dtype(said.dtype).newbyteorder("=")
    if stored != list(said.shape) or set(lengths.values()) - {1} or found.dtype != dtype:
        raise DestinationError(
            f"{place} holds {found.dtype} {stored}, and its ledger speaks of {said.dtype} {list(said.shape)}.",
            "The array was replaced, and the ledger of the earlier one was left beside it.",
            ["delete the folder .chunkinfer if the array is right", "start anew: save(array, url, overwrite=True)"],
        )
    return found
