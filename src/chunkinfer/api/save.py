"""save: any lazy array to a store, block by block, resumable, durable."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import prod
from typing import Any

import dask.array as da
import numpy as np
from dask.base import tokenize
from dask.layers import ArrayOverlapLayer

from chunkinfer.errors import DestinationError, PlanError, SettingsDiffer, SourceNotFound
from chunkinfer.geometry.boxes import BlockGrid
from chunkinfer.runs.events import Subscriber
from chunkinfer.runs.pyramids.building import build, coarser, read_plan, settle, write_plan
from chunkinfer.runs.pyramids.planning import Finest, Pyramid, method_of, plan_pyramid
from chunkinfer.runs.record.headers import LevelFacts, OutputFacts, RunHeader, differences
from chunkinfer.runs.record.ledger import Ledger
from chunkinfer.runs.report import RunReport, versions
from chunkinfer.runs.run import Run, Where
from chunkinfer.runs.schedule.storing import Store, copy_blocks, store_blocks
from chunkinfer.runs.schedule.workers import waiting_at_most
from chunkinfer.runs.session import Session, session
from chunkinfer.stores.files import Files
from chunkinfer.stores.urls import holds, locate
from chunkinfer.support.arguments import every_axis
from chunkinfer.support.device import cores
from chunkinfer.support.facts import NetworkFacts
from chunkinfer.support.payload import NetworkPayload, Payload, Recipe, networks_of
from chunkinfer.volumes.arrays.chunk_shape import default_chunks
from chunkinfer.volumes.arrays.create import ArraySpec, create, dry_run, guess_format, open_destination, write_unit
from chunkinfer.volumes.arrays.erase import check_room, refuse_file
from chunkinfer.volumes.arrays.layout import COPY_BYTES, ROW, WORTH_A_TASK, choose_layout, copy_block
from chunkinfer.volumes.arrays.levels import open_image
from chunkinfer.volumes.arrays.single_files import refuse_file_name
from chunkinfer.volumes.arrays.source import Source
from chunkinfer.volumes.lazy import Reader, check_reads, held_by_workers, places_read
from chunkinfer.volumes.volume import Volume, as_volume, source_of

logger = logging.getLogger("chunkinfer")

OVERWRITING = "overwriting"
"""Name of the file beside an output that says that a call with ``overwrite=True`` began it, and did not end yet."""

LEVELLED = ("precomputed", "ome-zarr", "ome-zarr-0.4")
"""Formats that hold coarser levels."""


def save(
    array: Any,
    url: Any,
    *,
    format: str | None = None,
    chunks: Sequence[int] | None = None,
    shards: Sequence[int] | bool | None = None,
    encoding: str | None = None,
    compression: str | None = None,
    pyramid: bool | int = False,
    overwrite: bool = False,
    client: Any = None,
    progress: bool | None = None,
    events: Sequence[Subscriber] = (),
    worker_timeout: float | str | None = None,
) -> RunReport:
    """Compute a lazy array and store it, block by block.

    Runs on the active dask client, or on an in-process cluster where there is none. Run again after a crash, the same
    call computes only the blocks that are missing.

    Parameters
    ----------
    array
        A DataArray, dask, zarr or numpy array, or a URL; what `infer` returns, or anything else. Of a DataArray's
        ``attrs`` what JSON can hold is stored: arrays as lists, dates, paths, NaN and infinities as texts; objects,
        functions and arrays of more than 1000 values are left out.
    url
        A path or a ``file://``, ``s3://`` or ``gs://`` URL.
    format
        "zarr3" (default), "zarr2", "precomputed" (also by a ``precomputed://`` prefix or a ``.precomputed`` suffix),
        "ome-zarr" (version 0.5, also by an ``.ome.zarr`` suffix), "ome-zarr-0.4" or "n5" (also by an ``.n5`` suffix).
        The name of a single file, such as ``x.tif``, is refused unless a format is stated.
    chunks
        Voxels of a stored chunk, in the order of the array's axes; by default about 64 x 64 x 64, 512 x 512 in
        a plane. A network's blocks are cut to fit, unless ``block`` was given.
    shards
        Voxels of a shard: chunks stored as one object, by one task. By default zarr3 takes the block, the others have
        none; False for none.
    encoding
        Of precomputed: "raw", "jpeg" (lossy) or "compressed_segmentation".
    compression
        Of zarr: "zstd" (default), "blosc", "gzip" or "none".
    pyramid
        Compute coarser levels too, as `pyramid` does: True for as many as make the image as small as a chunk, or their
        number. Those that a block holds whole chunks of are made while it is in memory. For precomputed and OME-Zarr.
    overwrite
        Delete what is stored there and start anew. Where the same call with ``overwrite=True`` began what is there, and
        was killed or paused before its end, it goes on with that; a warning says so.
    client
        The `distributed.Client` to run on.
    progress
        Show a progress bar; by default one in terminals and notebooks, and elsewhere a line now and then on stderr.
    events
        Called with every `chunkinfer.runs.events.Event` of the run: ``[JsonLines("run.jsonl"), Metrics(port=9100)]`` of
        `chunkinfer`, or any function. They are called one after the other and should be quick.
    worker_timeout
        Pause when no worker was there for so long: seconds, or a text such as "10 minutes". By default what dask's
        configuration says, ``chunkinfer.run.worker-timeout``, which holds for every verb that runs; without one the
        run waits, and warns after a minute.

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
        Ctrl-C or SIGTERM, or no worker for ``worker_timeout``: what had begun is stored, and the same call goes on. A
        second Ctrl-C stops at once.
    """
    asked = {"format": format, "chunks": chunks, "shards": shards, "encoding": encoding, "compression": compression}
    run = _Saving(_as_volume(array), url, {k: v for k, v in asked.items() if v is not None}, pyramid)
    run.settle(overwrite)
    with waiting_at_most(worker_timeout), session(run.files.url, Where(client, progress, events)) as here:
        run.open(overwrite)
        return run.run(here)


def check_save(array: Any, url: Any, *, pyramid: bool | int = False, overwrite: bool = False, **asked: Any) -> None:
    """Refuse what `save` would refuse before it computes anything; nothing is written, and no voxel is read.

    A run that began there is taken for one that can go on: whether its settings are these is not compared.

    Parameters
    ----------
    array, url, pyramid, overwrite
        As for `save`.
    asked
        ``format``, ``chunks``, ``shards``, ``encoding``, ``compression``.
    """
    run = _Saving(_as_volume(array), url, {k: v for k, v in asked.items() if v is not None}, pyramid)
    run.settle_anew()
    dry_run(url, run.wanted())
    if overwrite or run.ledger.header() is None:
        check_room(locate(url), overwrite)


def _as_volume(array: Any) -> Volume:
    """The volume; an unlabelled array of channels in front of as many axes as its network has is what it seems."""
    if isinstance(array, da.Array):
        axes = [network.facts.axes for network in networks_of(array.dask)]
        if axes and array.ndim == 1 + len(axes[-1]):
            return as_volume(array, len(axes[-1]))
    return as_volume(array)


class _Saving:
    """One run of one array to one destination."""

    def __init__(self, volume: Volume, url: Any, asked: Mapping[str, Any], levels: bool | int) -> None:
        self.volume, self.url, self.levels = volume, url, levels
        sizes = ("chunks", "shards")
        self.asked: dict[str, Any] = {
            k: every_axis(k, v, volume.dims) if k in sizes and v is not False else v for k, v in asked.items()
        }
        refuse_file_name(locate(url), asked.get("format"))
        self.format = guess_format(url, asked.get("format"))
        if levels and self.format not in LEVELLED:
            raise DestinationError(
                f"pyramid={levels!r}: {self.format} has no place for coarser levels.",
                f"Formats that have are {', '.join(LEVELLED)}.",
                ["save(array, 'image.ome.zarr', pyramid=True)", "save(array, 'image.precomputed', pyramid=True)"],
            )
        refuse_file(locate(url))
        self.stored: RunHeader | None = None
        """Header of the run that this one goes on with."""
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
    def networks(self) -> list[NetworkPayload]:
        """The networks that compute the array."""
        return self.volume.networks

    # ---- before anything is computed ----------------------------------------------------------------------------

    def settle(self, overwrite: bool) -> None:
        """Find out whether this run starts anew or goes on, and refuse what cannot work; writes nothing."""
        self.stored = None if overwrite else RunHeader.of(self.ledger)
        self.settle_anew()
        if overwrite and self._began(found := self._overwritten()):
            self.stored = found

    def _overwritten(self) -> RunHeader | None:
        """The header of the run that is overwritten; None also where it is damaged, for that goes too."""
        try:
            return RunHeader.of(self.ledger)
        except DestinationError:
            return None

    def _began(self, found: RunHeader | None) -> bool:
        """Whether this same call began what is stored, by overwriting what was there before, and did not end."""
        if found is None or not found.overwrote or differences(found.fingerprint(), self.header.fingerprint()):
            return False
        return self.files.read(OVERWRITING) is not None

    def settle_anew(self) -> None:
        """As `settle`, for a run that goes on with ``stored``, or with nothing."""
        header = self.stored
        if header is not None:
            self._adopt(header)
        else:
            self._recut()
        for misfit in filter(None, (p.open().misfit for p in self.networks)):
            raise misfit
        self.block = self._block()
        check_reads(None if self.fused else self.volume.origin, (grid := self._grid()).sample(), len(grid))
        self.layout = choose_layout(
            self.url, self.format, self.array.shape, self.volume.dims, self.block, self.asked, self._wanted()
        )
        self.pyramid = self._pyramid(header)
        self.header = self._header()
        if header is not None:
            self._compare(header.fingerprint(), self.header.fingerprint())

    def open(self, overwrite: bool) -> None:
        """Open the destination, or make it; nobody else writes it at this time."""
        if (not overwrite or self.stored is not None) and RunHeader.of(self.ledger) != self.stored:
            self.settle(overwrite)  # another run began, or even ended, before this one got the lease
        if self.stored is not None:
            try:
                self.destination = open_destination(f"{self.format}://{_plain(self.url)}")
                if overwrite:
                    logger.warning(
                        "chunkinfer: %s was begun by this same call, which goes on there. To start from nothing: "
                        "chunkinfer delete %s", _plain(self.url), _plain(self.url),
                    )  # fmt: skip
                return
            except SourceNotFound:
                # The array was deleted: what the ledger lists is forgotten before another one looks finished.
                self.ledger.begin(self.header.to_json())
        self.destination = create(self.url, self.wanted(), overwrite)
        if self.pyramid is not None:
            image = open_image(_plain(self.url))
            write_plan(image, self.pyramid)
            for number, level in enumerate(self.pyramid.levels[: self.pyramid.with_finest], 1):
                image.prepare(number, level)
        self.header = replace(self.header, overwrote=overwrite)
        self.ledger.begin(self.header.to_json())
        if overwrite:
            self.files.write(OVERWRITING, b"")

    @property
    def _last(self) -> tuple[NetworkFacts, Recipe] | None:
        """The network whose output the array is, unchanged, and how it was made; None for any other array."""
        networks = self.networks
        if len(networks) != 1 or (recipe := networks[0].recipe) is None or self.array.name != networks[0].facts.array:
            return None
        return networks[0].facts, recipe

    def _adopt(self, header: RunHeader) -> None:
        """Take over what the earlier run settled and this call leaves open."""
        if (last := self._last) is not None and len(header.networks) == 1:
            theirs, (ours, recipe) = header.networks[0], last
            differ = {name for name, value in ours.settings.items() if value != theirs.settings.get(name)}
            if (theirs.model, theirs.source) == (ours.model, ours.source) and differ and not differ & set(ours.asked):
                self.volume = replace(self.volume, array=recipe.with_settings(theirs.settings))
        # Before chunks and shards are adopted, which may not fit the blocks of another network or patch.
        stored, asked = ([n.fingerprint() for n in each] for each in (header.networks, self._facts()))
        self._compare({"networks": stored}, {"networks": asked})
        self._refuse_doubt()
        made = header.destination
        adopted: dict[str, Any] = {
            "chunks": made.chunks, "shards": made.shards or False,
            "encoding": made.encoding, "compression": made.compression,
        }  # fmt: skip
        self.asked = {**adopted, **self.asked}

    def _facts(self) -> tuple[NetworkFacts, ...]:
        return tuple(network.facts for network in self.networks)

    def _refuse_doubt(self) -> None:
        """Refuse to go on where nobody can tell whether the network is the one that began."""
        for network in self._facts():
            if network.doubt:
                raise SettingsDiffer(
                    f"Whether this {network.model.name} made what {_plain(self.url)} holds cannot be told: "
                    f"{network.doubt}.",
                    "Such a network is resumed under a version that you give it, from its first run on.",
                    ['start anew under one: save(infer(volume, model, version="v1"), url, overwrite=True)',
                     "store beside it: choose another URL"],
                )  # fmt: skip

    def _recut(self) -> None:
        """Let a network's blocks be whole chunks or shards of those that were asked for, where the caller left them
        open: the same bits in other blocks."""
        asked, last = {k: v for k in ("chunks", "shards") if (v := self.asked.get(k))}, self._last
        if not asked or last is None:
            return
        facts, recipe = last
        shape, dims, chunks = self.array.shape, self.volume.dims, asked.get("chunks", self._wanted())
        unit = write_unit(
            self.url, format=self.format, shape=shape, dims=dims, chunks=chunks, shards=asked.get("shards")
        )
        settings = {
            **facts.settings,
            "chunks": chunks[1:],
            "shards": unit[1:] if "shards" in asked else None,
        }
        if "block" not in facts.asked:
            settings["block"] = None
        self.volume = replace(self.volume, array=recipe.with_settings(settings))

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

    def wanted(self) -> ArraySpec:
        """The array that the destination is."""
        frame = self.volume.frame
        attributes = dict(self.volume.attrs)
        if networks := self._facts():  # what was stored here comes from; the attribute "source" is of the reader
            made = networks[-1]
            attributes["provenance"] = {
                **made.model.to_json(), "input": made.source.to_json(), "result": made.verdict
            }  # fmt: skip
        attributes.pop("source", None)
        if self.volume.channel is not None:
            attributes["channel_names"] = [str(c) for c in self.volume.channel]
        return ArraySpec(
            format=self.format,
            shape=self.array.shape,
            dtype=self.array.dtype,
            dims=self.volume.dims,
            chunks=self.layout.chunks,
            shards=self.layout.shards or None,
            voxel_size=frame.voxel_size,
            unit=frame.unit,
            offset={d: int(o) if float(o).is_integer() else o for d, o in frame.origin.items()},
            encoding=self.asked.get("encoding"),
            compression=self.asked.get("compression"),
            attributes=attributes,
        )

    def _header(self) -> RunHeader:
        """What this run is: equal headers give equal bits in equal places."""
        frame, levels = self.volume.frame, self.pyramid
        output = OutputFacts(
            format=self.format,
            shape=self.array.shape,
            dtype=str(self.array.dtype),
            dims=self.volume.dims,
            block=self.block,
            counts=self._grid().counts,
            voxel_size=frame.voxel_size,
            unit=frame.unit,
            offset=frame.origin,
            chunks=self.layout.chunks,
            shards=self.layout.shards or None,
            encoding=self.asked.get("encoding"),
            compression=self.asked.get("compression"),
            pyramid=None if levels is None else LevelFacts(levels.method, levels.factors, levels.with_finest),
        )
        copied = None if self.networks else source_of(self.volume)
        return RunHeader(self.array.name, self._facts(), copied, output, versions())

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
                    "slice the input instead: save(infer(volume.isel(z=slice(1, None)), model), url)",
                    "save it whole, and open the part you need",
                ],
            )
        self.fused = bool(self.networks)
        if self.fused:
            return tuple(own)
        return self._copy_block(own, alike and all(len(c) < 2 or c[-1] <= c[0] for c in self.array.chunks))

    def _copy_block(self, own: Sequence[int], regular: bool) -> tuple[int, ...]:
        """For arrays without a network: their own chunks where these are worth a task, otherwise boxes of any kind."""
        shape, itemsize, origin = self.array.shape, self.array.dtype.itemsize, self.volume.origin
        read = list(own)
        if isinstance(origin, Source) and (row := origin.row) is not None and shape[row] * itemsize <= ROW:
            read[row] = shape[row]
        unit, block = copy_block(
            self.url, self.format, shape, self.volume.dims, itemsize, self.asked, read, self._wanted()
        )
        if held_by_workers(self.array):  # a task cannot read boxes of them
            array = self.array.rechunk(block)
            self.volume, self.fused = replace(self.volume, array=array), True
            return block
        whole = all(b % u == 0 or b >= n for b, u, n in zip(own, unit, shape, strict=True))
        # What lies in memory here travels once, not with each task; of what is stored, boxes of any kind are read.
        here = isinstance(origin, np.ndarray)
        worth = COPY_BYTES if isinstance(origin, Source) else WORTH_A_TASK
        self.fused = regular and whole and not here and prod(own) * itemsize >= worth
        return tuple(own) if self.fused else block

    def _wanted(self) -> tuple[int, ...]:
        """The chunks where any would do: those that a plan counted on, or what readers like."""
        wanted = default_chunks(self.array.shape, self.volume.dims, self.volume.frame.voxel_size)
        planned = self.networks[-1].facts.planned if self.networks else {}
        return tuple(
            min(planned.get(d, w), n) for d, w, n in zip(self.volume.dims, wanted, self.array.shape, strict=True)
        )

    def _count(self) -> int | None:
        """How many levels were asked for; None for as many as are useful."""
        return None if self.levels is True else int(self.levels)

    def _pyramid(self, begun: RunHeader | None) -> Pyramid | None:
        """The levels that are written with the blocks, and those above them; None where none were asked for when the
        run began."""
        stored = None if begun is None else begun.destination.pyramid
        if (stored is None and (begun is not None or not self.levels)) or self.format not in LEVELLED:
            return None
        frame, dtype = self.volume.frame, self.array.dtype
        count, factors, method = self._count() if self.levels else None, None, "auto"
        if stored is not None and isinstance(self.levels, bool):
            axes = [d for d, dim in enumerate(self.volume.dims) if dim in frame.space]
            factors, method = [[row[d] for d in axes] for row in stored.factors] or None, stored.method
        finest = Finest(
            _plain(self.url), self.format, self.volume.dims, self.array.shape, dtype, frame.voxel_size, frame.origin,
            self.layout.chunks, bool(self.layout.shards), whole_offsets=self.format == "precomputed",
        )  # fmt: skip
        labels = self.volume.attrs.get("type") == "segmentation"
        return plan_pyramid(finest, method_of(method, dtype, labels), count, factors, self.block)

    def _grid(self) -> BlockGrid:
        """The blocks; where halos are exchanged, the last one along an axis may be longer than the others."""
        return BlockGrid(self.array.chunks) if self.fused else BlockGrid.regular(self.array.shape, self.block)

    # ---- running ------------------------------------------------------------------------------------------------

    def run(self, here: Session) -> RunReport:
        """Compute and store the missing blocks, and the levels that are not written with them."""
        grid = self._grid()
        report = here.run(
            Run(
                url=_plain(self.url),
                ledger=self.ledger,
                header=self.header.to_json(),
                grid=grid,
                tasks=self._tasks(grid),
                slots=max((network.slots for network in self._facts()), default=cores() + 1),
                whole=self._shares_upstream(),
                networks=self._facts(),
            )
        )
        if self.pyramid is not None or self.levels:
            image = open_image(_plain(self.url))
            # What this run began is beside the output; or what `pyramid` made of it since.
            count = None if self.pyramid is not None else self._count()
            plan = settle(image, count, "auto", None)
            build(image, plan, here)
        if self.header.overwrote or (self.stored is not None and self.stored.overwrote):
            self.files.delete(OVERWRITING)
        return report

    def _tasks(self, grid: BlockGrid) -> Any:
        """A function of a suffix: the lazy array of this run's tasks under a name of its own."""
        token = tokenize(self.array.name, self.destination, self.block)
        lossy = self.header.destination.encoding == "jpeg"
        target = Store(self.destination, self.volume.dims, grid, lossy)
        if self.pyramid is not None and read_plan(image := open_image(_plain(self.url))) == self.pyramid:
            levels = coarser(image, self.pyramid, 1, self.pyramid.with_finest)
            target = replace(target, levels=levels, method=self.pyramid.method)
        store = Payload("store", f"store-{token}", target)
        if self.fused:
            return lambda suffix: store_blocks(self.array, store, f"save-{token}{suffix}")
        origin = self.volume.origin
        reader = Payload("reader", f"reader-{tokenize(self.array.name, False)}", Reader(origin, channels=False))
        return lambda suffix: copy_blocks(reader, store, f"save-{token}{suffix}")

    def _shares_upstream(self) -> bool:
        """Whether blocks share tasks that are dear to run twice: halos exchanged between blocks."""
        return any(isinstance(layer, ArrayOverlapLayer) for layer in self.array.dask.layers.values())


def _plain(url: Any) -> str:
    """The URL without a format prefix; local paths are absolute."""
    return locate(url).url
