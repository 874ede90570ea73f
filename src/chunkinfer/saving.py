"""save: any lazy array to a store, block by block, resumable, durable."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from math import prod
from typing import Any

import dask.array as da
import numpy as np
from dask.base import tokenize
from numpy.typing import NDArray

from chunkinfer.blockwise import (
    Interrupts,
    Lease,
    Payload,
    Reader,
    Store,
    Windows,
    check_reads,
    client_for,
    copy_blocks,
    differences,
    networks_of,
    origin_of,
    places_read,
    run_blocks,
    store_blocks,
)
from chunkinfer.errors import DestinationError, PlanError, RunError, RunPaused, SettingsDiffer, SourceNotFound
from chunkinfer.events import BLOCK_DONE, BLOCK_FAILED, RUN_ENDED, RUN_STARTED, Events, Subscriber
from chunkinfer.geometry import BlockGrid
from chunkinfer.kernel import cores
from chunkinfer.planning import WORTH_A_TASK, choose_layout, copy_block, every_axis
from chunkinfer.reports import Progress, RunReport, versions
from chunkinfer.storage import (
    Destination,
    Entry,
    Files,
    Ledger,
    create,
    guess_format,
    holds,
    locate,
    open_destination,
    refuse_file,
)
from chunkinfer.volume import Volume, as_volume, describe_source

LEDGER_SECONDS = 0.5
"""Finished blocks are recorded this often; a crash loses no more than what was not."""


def save(
    array: Any,
    url: Any,
    *,
    format: str | None = None,
    chunks: Sequence[int] | None = None,
    shards: Sequence[int] | bool | None = None,
    encoding: str | None = None,
    compression: str | None = None,
    overwrite: bool = False,
    client: Any = None,
    progress: bool | None = None,
    events: Sequence[Subscriber] = (),
) -> RunReport:
    """Compute a lazy array and store it, block by block.

    Runs on the active dask client, or on an in-process cluster where there is none. Run again after a crash, the same
    call computes only the blocks that are missing.

    Parameters
    ----------
    array
        A DataArray, dask, zarr or numpy array, or a URL; what `infer` returns, or anything else.
    url
        A path or a ``file://``, ``s3://`` or ``gs://`` URL.
    format
        "zarr3" (default), "zarr2" or "precomputed" (also by a ``precomputed://`` prefix or a ``.precomputed`` suffix).
    chunks
        Voxels of a stored chunk, in the order of the array's axes; by default about 64 per spatial axis.
    shards
        Voxels of a shard: chunks stored as one object, by one task. By default zarr3 takes the block, the others have
        none; False for none.
    encoding
        Of precomputed: "raw", "jpeg" (lossy) or "compressed_segmentation".
    compression
        Of zarr: "zstd" (default), "blosc", "gzip" or "none".
    overwrite
        Delete what is stored there and start anew.
    client
        The `distributed.Client` to run on.
    progress
        Show a progress bar; by default in terminals and notebooks.
    events
        Called with every `chunkinfer.events.Event` of the run: ``[JsonLines("run.jsonl"), Metrics(port=9100)]`` of
        `chunkinfer.watching`, or any function. They are called one after the other and should be quick.

    Returns
    -------
    RunReport
        Also written beside the output, as ``.chunkinfer/run.json``.

    Raises
    ------
    SettingsDiffer
        The destination holds the output of a run with other settings; shows both.
    DestinationError
        It cannot be written, or holds something else.
    OutputInUse
        Another run writes it at this moment.
    PlanError
        Blocks are not whole chunks or shards, or every block would read most of the volume.
    RunError
        Blocks failed after retries. All others are stored, and the same call resumes.
    RunPaused
        Ctrl-C or SIGTERM: what had begun is stored, and the same call goes on. A second Ctrl-C stops at once.
    """
    asked = {"format": format, "chunks": chunks, "shards": shards, "encoding": encoding, "compression": compression}
    run = _Run(_as_volume(array), url, {k: v for k, v in asked.items() if v is not None})
    run.settle(overwrite)
    with Lease(run.files) as lease:
        run.open(overwrite)
        return run.run(client, progress, events, lease)


def _as_volume(array: Any) -> Volume:
    """The volume; an unlabelled array of channels in front of as many axes as its network has is what it seems."""
    if isinstance(array, da.Array):
        axes = [p.about["axes"] for p in networks_of(array.dask)]
        if axes and array.ndim == 1 + len(axes[-1]):
            return as_volume(array, len(axes[-1]))
    return as_volume(array)


class _Run:
    """One run of one array to one destination."""

    def __init__(self, volume: Volume, url: Any, asked: Mapping[str, Any]) -> None:
        self.volume, self.url = volume, url
        sizes = ("chunks", "shards")
        self.asked = {
            k: every_axis(k, v, volume.dims) if k in sizes and v is not False else v for k, v in asked.items()
        }
        self.format = guess_format(url, asked.get("format"))
        refuse_file(locate(url))
        self.files = Files(_plain(url))
        self.ledger = Ledger(self.files)
        if any(holds(locate(url), place) for place in places_read(volume.array)):
            raise DestinationError(
                f"{_plain(url)} is what this run reads.",
                "Its voxels would be deleted before they are read.",
                ["choose another URL", "and, when the run is complete, delete the input and rename the output"],
            )

    @property
    def array(self) -> da.Array:
        return self.volume.array

    @property
    def networks(self) -> list[Payload]:
        """The networks in the array's graph."""
        return networks_of(self.array.dask)

    # ---- before anything is computed ----------------------------------------------------------------------------

    def settle(self, overwrite: bool) -> None:
        """Find out whether this run starts anew or goes on, and refuse what cannot work; writes nothing."""
        self.stored = header = None if overwrite else self.ledger.header()
        if header is not None:
            self._adopt(header)
        for misfit in filter(None, (p.open().misfit for p in self.networks)):
            raise misfit
        self.block = self._block()
        check_reads(None if self.fused else origin_of(self.array), self._grid().sample())
        self.layout = self._layout()
        self.header = self._header(self.layout)
        if header is not None:
            self._compare(header, self.header)

    def open(self, overwrite: bool) -> None:
        """Open the destination, or make it; nobody else writes it at this time."""
        if not overwrite and self.ledger.header() != self.stored:
            self.settle(overwrite)  # another run began, or even ended, before this one got the lease
        if self.stored is not None:
            try:
                self.destination = open_destination(f"{self.format}://{_plain(self.url)}")
                return
            except SourceNotFound:
                # The array was deleted: what the ledger lists is forgotten before another one looks finished.
                self.ledger.begin(self.header)
        self.destination = self._create(self.layout, overwrite)
        self.ledger.begin(self.header)

    def _adopt(self, header: Mapping[str, Any]) -> None:
        """Take over what the earlier run settled and this call leaves open."""
        stored, mine = header.get("networks", []), self.networks
        if len(stored) == len(mine) == 1 and mine[0].rebuild and self.array.name == mine[0].about["array"]:
            theirs, ours = stored[0]["settings"], mine[0].about["settings"]
            differ = {k for k in ours if ours[k] != theirs.get(k)}
            same = stored[0]["model"] == mine[0].about["model"] and stored[0]["source"] == mine[0].about["source"]
            if same and differ and not differ & set(mine[0].about["asked"]):
                rebuilt = mine[0].rebuild(theirs)
                self.volume = Volume(**{**vars(self.volume), "array": rebuilt})
        # Before chunks and shards are adopted, which may not fit the blocks of another network or patch.
        self._compare({"networks": stored}, {"networks": [p.about for p in self.networks]})
        layout = header.get("destination", {})
        for name in ("chunks", "shards", "encoding", "compression"):
            if name not in self.asked:
                stored_one = layout.get(name)
                self.asked = {**self.asked, name: False if name == "shards" and not stored_one else stored_one}

    def _compare(self, theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> None:
        """Refuse a destination that another run made, showing what differs."""
        lines = differences(theirs, ours)
        if not lines:
            return
        raise SettingsDiffer(
            f"{_plain(self.url)} holds the output of a run with other settings:\n  " + "\n  ".join(lines[:8]),
            "Blocks of two runs in one output would be a seam that nobody sees.",
            ["start anew: save(array, url, overwrite=True)", "store beside it: choose another URL"],
        )

    def _create(self, layout: Mapping[str, Any], overwrite: bool) -> Destination:
        frame = self.volume.frame
        attributes = {k: v for k, v in _as_json(self.volume.attrs).items() if v is not None}
        if networks := self.networks:  # what was stored here comes from; the attribute "source" is of the reader
            about = networks[-1].about
            attributes["provenance"] = {**about["model"], "input": about["source"], "result": about["verdict"]}
        attributes.pop("source", None)
        if self.volume.channel is not None:
            attributes["channel_names"] = [str(c) for c in self.volume.channel]
        return create(
            self.url,
            format=self.format,
            shape=self.array.shape,
            dtype=self.array.dtype,
            dims=self.volume.dims,
            chunks=layout["chunks"],
            shards=layout["shards"],
            voxel_size=frame.voxel_size,
            unit=frame.unit,
            offset={d: int(o) if float(o).is_integer() else o for d, o in frame.origin.items()},
            encoding=layout["encoding"],
            compression=layout["compression"],
            overwrite=overwrite,
            attributes=attributes,
        )

    def _header(self, layout: Mapping[str, Any]) -> dict[str, Any]:
        """What this run is: equal headers give equal bits in equal places."""
        frame = self.volume.frame
        return {
            "computation": self.array.name,
            "networks": [p.about for p in self.networks],
            "copied": None if self.networks else _as_json(describe_source(self.volume)),
            "destination": {
                "format": self.format,
                "shape": list(self.array.shape),
                "dtype": str(self.array.dtype),
                "dims": list(self.volume.dims),
                "block": list(self.block),
                "counts": list(self._grid().counts),
                "voxel_size": frame.voxel_size,
                "unit": frame.unit,
                "offset": frame.origin,
                **layout,
            },
            "versions": versions(),
        }

    # ---- blocks, chunks and shards ------------------------------------------------------------------------------

    def _block(self) -> tuple[int, ...]:
        """The blocks that tasks write: the array's own chunks where a network computes them."""
        own = [c[0] if c else 1 for c in self.array.chunks]
        alike = all(len(set(c[:-1])) <= 1 for c in self.array.chunks)
        if self.networks and not alike:
            raise PlanError(
                f"The array's chunks {tuple(c[:3] for c in self.array.chunks)}... are not one regular grid.",
                "A network's output was sliced: its blocks no longer fall on whole chunks of the destination.",
                [
                    "slice the input instead: save(infer(volume.isel(z=slice(17, None)), model), url)",
                    "save it whole, and open the part you need",
                ],
            )
        self.fused = bool(self.networks)
        if self.fused:
            return tuple(own)
        return self._copy_block(own, alike and all(len(c) < 2 or c[-1] <= c[0] for c in self.array.chunks))

    def _copy_block(self, own: Sequence[int], regular: bool) -> tuple[int, ...]:
        """For arrays without a network: their own chunks where these are worth a task, otherwise boxes of any kind."""
        itemsize = self.array.dtype.itemsize
        unit, block = copy_block(self.url, self.format, self.array.shape, self.volume.dims, itemsize, self.asked)
        whole = all(b % u == 0 or b >= n for b, u, n in zip(own, unit, self.array.shape, strict=True))
        self.fused = regular and whole and prod(own) * itemsize >= WORTH_A_TASK
        return tuple(own) if self.fused else block

    def _layout(self) -> dict[str, Any]:
        """Chunks, shards and encoding of the destination, checked against the blocks."""
        layout = choose_layout(self.url, self.format, self.array.shape, self.volume.dims, self.block, self.asked)
        return {
            "chunks": list(layout.chunks),
            "shards": list(layout.shards) if layout.shards else None,
            "encoding": self.asked.get("encoding"),
            "compression": self.asked.get("compression"),
        }

    def _grid(self) -> BlockGrid:
        """The blocks; where halos are exchanged, the last one along an axis may be longer than the others."""
        return BlockGrid(self.array.chunks) if self.fused else BlockGrid.regular(self.array.shape, self.block)

    # ---- running ------------------------------------------------------------------------------------------------

    def run(self, client: Any, progress: bool | None, subscribers: Sequence[Subscriber], lease: Lease) -> RunReport:
        """Compute and store the missing blocks."""
        grid = self._grid()
        finished = self.ledger.done(len(grid))
        todo = len(grid) - finished.count
        report = RunReport(
            url=_plain(self.url),
            blocks=len(grid),
            skipped=finished.count,
            header=self.header,
            plan=self.networks[0].about["plan"] if self.networks else "",
        )
        missing = (i for i in grid.z_order() if not finished.flags[i])
        voxels = prod(grid.shape) - _voxels_of(grid, finished.flags)
        bar = Progress(voxels, todo, progress)
        events = Events(report.told, bar.told, *subscribers)
        start, failures = time.perf_counter(), dict[int, BaseException]()
        with Interrupts() as interrupts:
            try:
                events.tell(RUN_STARTED, run=lease.run, url=report.url, blocks=len(grid), todo=todo, voxels=voxels)
                if todo:
                    self._run_blocks(grid, missing, client, events, interrupts, lease, failures)
            finally:
                bar.close()
                report.seconds = time.perf_counter() - start
                report.paused = interrupts.paused and report.computed + len(failures) < todo
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
        grid: BlockGrid,
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

        anywhere = any(p.about["settings"].get("cpu_engine") for p in self.networks)
        slots = max((p.about["slots"] for p in self.networks), default=cores() + 1)
        with client_for(client, slots) as active:
            windows = Windows(self._tasks(grid), grid, active, self._shares_upstream(), anywhere)
            try:
                for outcome in run_blocks(windows, missing, events, paused=paused, flush=record):
                    box = grid.box(grid.unravel(outcome.position))
                    about = {"block": outcome.position, "box": str(box), "voxels": box.size, "tries": outcome.tries}
                    if outcome.error is not None:
                        failures[outcome.position] = outcome.error
                        events.tell(BLOCK_FAILED, **about, error=_first_line(outcome.error))
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

    def _tasks(self, grid: BlockGrid) -> Any:
        """A function of a suffix: the lazy array of this run's tasks under a name of its own."""
        token = tokenize(self.array.name, self.destination, self.block)
        lossy = self.header["destination"]["encoding"] == "jpeg"
        store = Payload(f"store-{token}", Store(self.destination, self.volume.dims, grid, lossy))
        if self.fused:
            return lambda suffix: store_blocks(self.array, store, f"save-{token}{suffix}")
        origin = origin_of(self.array)
        reader = Payload(f"reader-{tokenize(self.array.name, False)}", Reader(origin, channels=False))
        return lambda suffix: copy_blocks(reader, store, f"save-{token}{suffix}")

    def _shares_upstream(self) -> bool:
        """Whether blocks share tasks that are dear to run twice: halos exchanged between blocks."""
        return any("overlap" in name for name in self.array.dask.layers)


def _voxels_of(grid: BlockGrid, flags: NDArray[np.bool_]) -> int:
    """Voxels of the flagged blocks."""
    index = np.unravel_index(flags.nonzero()[0], grid.counts)
    sizes = [np.asarray(axis, np.int64)[i] for axis, i in zip(grid.sizes, index, strict=True)]
    return int(np.prod(sizes, axis=0).sum())


def _plain(url: Any) -> str:
    """The URL without a format prefix; local paths are absolute."""
    return locate(url).url


def _as_json(value: Any) -> Any:
    return json.loads(json.dumps(value, default=str))


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
