"""pyramid: coarser levels of a stored image, computed, recorded and announced."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from math import prod
from typing import Any

from dask.base import tokenize
from numpy.typing import NDArray

from chunkinfer.errors import DestinationError, SettingsDiffer
from chunkinfer.geometry.boxes import BlockGrid, Box
from chunkinfer.runs.events import Subscriber
from chunkinfer.runs.pyramids.planning import Finest, Pass, Pyramid, method_of, plan_pyramid
from chunkinfer.runs.record.headers import PassHeader, RunHeader, differences
from chunkinfer.runs.record.ledger import Ledger
from chunkinfer.runs.report import RunReport, versions
from chunkinfer.runs.run import Run, Where
from chunkinfer.runs.schedule.storing import Coarser, Store, copy_blocks
from chunkinfer.runs.session import Session, session
from chunkinfer.stores.files import FOLDER, Files
from chunkinfer.support.device import cores
from chunkinfer.support.payload import Payload
from chunkinfer.support.timing import stage
from chunkinfer.volumes.arrays.downsampling import downsample, downsampled_shape
from chunkinfer.volumes.arrays.erase import PLAN, erase_below, planned_paths
from chunkinfer.volumes.arrays.levels import Image, Level, open_image
from chunkinfer.volumes.arrays.source import Source


def pyramid(
    url: Any,
    *,
    levels: int | None = None,
    method: str = "auto",
    factors: int | Sequence[int] | Sequence[Sequence[int]] | None = None,
    missing: str = "error",
    overwrite: bool = False,
    client: Any = None,
    progress: bool | None = None,
    events: Sequence[Subscriber] = (),
) -> RunReport:
    """Add coarser levels to a stored image: to a precomputed volume or an OME-Zarr image (0.4 or 0.5).

    Each level is made of the one below. A task computes as many levels as its block holds whole chunks of, so that most
    of them come from one reading of the image. Levels are announced in the image's metadata when they are complete; run
    again after a crash, the same call computes what is missing.

    Parameters
    ----------
    url
        A path or a ``file://``, ``s3://`` or ``gs://`` URL.
    levels
        How many; by default until the image is no longer than a chunk, or 64 voxels, along each axis.
    method
        "mean" (integers: halves to even), "mode" (of several most frequent values the smallest), "min", "max" or
        "stride" (the first voxel). "auto" is mode for segmentations, uint32, uint64 and bool, mean for all else.
    factors
        Voxels of the level below per voxel along (z, y, x), for all levels, or such a list for each level. By default 2
        along the axes whose voxels are short, until voxels are about isotropic, and then along all.
    missing
        What a chunk is that is not stored: "error", or to "fill" with the fill value.
    overwrite
        Delete the levels that are there and make them anew; the finest level stays.
        The same call with ``overwrite=True``, killed or paused before its end, goes on.
    client
        The `distributed.Client` to run on.
    progress
        Show a progress bar; by default in terminals and notebooks.
    events
        Called with every `chunkinfer.runs.events.Event` of the run.

    Returns
    -------
    RunReport
        Of all levels together; blocks are of the levels that begin a pass.

    Raises
    ------
    DestinationError
        Levels cannot be added to what is there, it is not complete, or it has levels already.
    SettingsDiffer
        Another call began a pyramid with other settings; shows both.
    OutputInUse
        Another run writes the image at this moment.
    PlanError
        ``levels``, ``method`` or ``factors`` make no sense.
    RunError, RunPaused
        As for `save`.
    """
    image = open_image(url, missing)
    with session(image.url, Where(client, progress, events)) as here:
        if overwrite:
            plan = _anew(image, _planned(image, levels, method, factors), here)
        else:
            plan = settle(image, levels, method, factors)
        return build(image, plan, here)


# What is to be done


def finest_of(image: Image) -> Finest:
    """What a plan needs to know of an image."""
    finest = image.finest
    return Finest(
        image.url, image.format, finest.dims, finest.shape, finest.dtype, finest.voxel_size, finest.offset,
        finest.chunks, image.sharded, image.whole_offsets,
    )  # fmt: skip


def _anew(image: Image, asked: Pyramid, here: Session) -> Pyramid:
    """The plan of a pyramid that replaces the one that is there."""
    _refuse_unfinished(image.url)

    def clear() -> None:
        forget(image)
        write_plan(image, asked)

    return read_plan(image) or asked if here.overwrite("pyramid", _about(asked), clear) else asked


def settle(image: Image, levels: int | None, method: str, factors: Any) -> Pyramid:
    """The plan of an image's pyramid: the one that was begun, or a new one. The caller holds the lease.

    Raises
    ------
    DestinationError, SettingsDiffer
        As for `pyramid`.
    """
    _refuse_unfinished(image.url)
    stored = read_plan(image)
    if stored is not None:
        _refuse_replaced(image, stored)
        if (levels, method, factors) == (None, "auto", None):
            return stored
        asked = _planned(image, levels, method, factors)
        lines = differences(_about(stored), _about(asked))
        if lines:
            raise SettingsDiffer(
                f"{image.url} has a pyramid with other settings, or a part of it:\n  " + "\n  ".join(lines),
                "Its levels would not be made alike.",
                [
                    f"go on with that one: pyramid({image.url!r})",
                    f"make it anew: pyramid({image.url!r}, overwrite=True)",
                ],
            )
        return stored
    asked = _planned(image, levels, method, factors)
    if len(image.paths) > 1:
        raise DestinationError(
            f"{image.url} has {len(image.paths) - 1} coarser levels already: {', '.join(image.paths[1:])}.",
            "Another tool made them, and whether they are complete is not known here.",
            [
                f"look at one: open_volume({image.url!r}, level=1)",
                f"make them anew: pyramid({image.url!r}, overwrite=True)",
            ],
        )
    forget(image)
    write_plan(image, asked)
    return asked


def _planned(image: Image, levels: int | None, method: str, factors: Any) -> Pyramid:
    return plan_pyramid(finest_of(image), method_of(method, image.finest.dtype, image.labels), levels, factors)


def _about(plan: Pyramid) -> dict[str, Any]:
    """What tells two pyramids apart; how their levels are cut into blocks does not."""
    return {"method": plan.method, "factors": plan.factors}


def _refuse_replaced(image: Image, plan: Pyramid) -> None:
    """Raise `DestinationError` where the finest level is not the one that the pyramid was begun for."""
    if plan.levels and (first := plan.levels[0]).shape != tuple(
        downsampled_shape(image.finest.shape, first.factors, first.phase)
    ):
        raise DestinationError(
            f"The pyramid of {image.url} was made for another image: its level 1 has {first.shape} voxels.",
            f"The finest level was replaced, and has {image.finest.shape} voxels now.",
            [f"make the pyramid anew: pyramid({image.url!r}, overwrite=True)", "or restore the image"],
        )


def _refuse_unfinished(url: str) -> None:
    """Raise `DestinationError` where a run has not stored the whole finest level yet."""
    ledger = Ledger(Files(url))
    header = RunHeader.of(ledger)
    if header is None:
        return
    blocks = prod(header.destination.counts)
    done = ledger.done(blocks).count
    if done < blocks:
        raise DestinationError(
            f"{done} of {blocks} blocks of {url} are stored.",
            "Levels of an unfinished image would hold what is not there yet.",
            ["finish it first: make the call of save again", f"see how far it is: chunkinfer status {url}"],
        )


def read_plan(image: Image) -> Pyramid | None:
    """The plan that was written beside an image; None where there is none."""
    content = Files(image.url).read(PLAN)
    if content is None:
        return None
    try:
        said = json.loads(content)
        return Pyramid(
            said["method"],
            tuple(_made(Level, level) for level in said["levels"]),
            said["with_finest"],
            tuple(_made(Pass, row) for row in said["passes"]),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise DestinationError(
            f"{image.url}/{FOLDER}/{PLAN} is damaged.",
            "It says which levels the pyramid has; it was cut short, or edited.",
            [f"make the pyramid anew: pyramid({image.url!r}, overwrite=True)", "or restore the file"],
        ) from error


def _made(kind: Any, said: Mapping[str, Any]) -> Any:
    """A level or a pass of its JSON."""
    return kind(**{f.name: tuple(v) if isinstance(v := said[f.name], list) else v for f in fields(kind)})


def write_plan(image: Image, plan: Pyramid) -> None:
    """Say which levels an image will have, before the first of them is begun."""
    paths = [image.path(number, level) for number, level in enumerate(plan.levels, 1)]
    Files(image.url).write(PLAN, json.dumps({"paths": paths, **asdict(plan)}, indent=1).encode())


def forget(image: Image) -> None:
    """Take back the levels of an image, their voxels and what is recorded of them."""
    paths = {*image.paths[1:], *planned_paths(image.location)} - {image.paths[0]}
    image.announce([], "")
    # Records before voxels: what a crash leaves is either complete, or nothing says that it is there.
    files = Files(image.url)
    files.delete_many([name for name in files.list() if name.startswith("pyramid-")])
    files.delete(PLAN)
    for path in sorted(paths):
        erase_below(image.location, path)


# Doing it


def coarser(image: Image, plan: Pyramid, first: int, count: int) -> tuple[Coarser, ...]:
    """Levels as destinations, by the number of the first of them."""
    levels = enumerate(plan.levels[first - 1 : first - 1 + count], first)
    return tuple(Coarser(image.destination(number, level), level.factors) for number, level in levels)


def build(
    image: Image,
    plan: Pyramid,
    here: Session,
) -> RunReport:
    """Compute the levels that are not written with the finest one, and announce all."""
    reports = []
    if plan.with_finest:
        image.announce(plan.levels[: plan.with_finest], plan.method)
    for each in plan.passes:
        reports.append(here.run(_run_of(image, plan, each)))
        here.lease.check()
        image.announce(plan.levels[: each.first - 1 + each.count], plan.method)
    return _together(image.url, reports)


@dataclass(frozen=True)
class Below:
    """Reads boxes of a level out of the one below it."""

    source: Source
    """The level below."""
    level: Level
    method: str

    def read(self, box: Box) -> NDArray[Any]:
        """The voxels of a box of the level."""
        phase = tuple(p if a == 0 else 0 for a, p in zip(box.start, self.level.phase, strict=True))
        spans = zip(box.start, box.stop, self.level.factors, self.level.phase, self.source.shape, strict=True)
        part = tuple(slice(max(0, a * f - p), min(n, b * f - p)) for a, b, f, p, n in spans)
        with stage("read"):
            voxels = self.source[part]
        with stage("downsample"):
            return downsample(voxels, self.level.factors, self.method, phase)


def _run_of(image: Image, plan: Pyramid, each: Pass) -> Run:
    """The blocks of one pass; makes its levels where the pass did not begin yet."""
    numbers = range(each.first, each.first + each.count)
    levels = [plan.levels[number - 1] for number in numbers]
    grid = BlockGrid.regular(levels[0].shape, each.block)
    made = {
        "levels": list(numbers), "method": plan.method, "factors": plan.factors,
        "block": list(each.block), "finest": {"shape": list(image.finest.shape), "dtype": str(image.finest.dtype)},
    }  # fmt: skip
    header = PassHeader({"pyramid": made}, versions())
    ledger = Ledger(Files(image.url, f"{FOLDER}/pyramid-{each.first}"))
    stored = PassHeader.of(ledger)
    if stored is None or differences(stored.fingerprint(), header.fingerprint()):
        for number, level in zip(numbers, levels, strict=True):
            image.prepare(number, level)
        ledger.begin(header.to_json())
    below = image.finest if each.first == 1 else image.source(each.first - 1, plan.levels[each.first - 2])
    first, *further = coarser(image, plan, each.first, each.count)
    token = tokenize(below, image.finest, made)
    reader = Payload("step", f"below-{token}", Below(below, levels[0], plan.method))
    target = Store(first.destination, below.dims, grid, image.lossy, tuple(further), plan.method)
    store = Payload("store", f"store-{token}", target)
    return Run(
        url=image.url,
        ledger=ledger,
        header=header.to_json(),
        grid=grid,
        tasks=lambda suffix: copy_blocks(reader, store, f"pyramid-{token}{suffix}"),
        slots=cores() + 1,
    )


def _together(url: str, reports: Sequence[RunReport]) -> RunReport:
    """The reports of all passes as one."""
    total = RunReport(url=url, header={"passes": [report.header for report in reports]})
    for report in reports:
        for name in ("blocks", "skipped", "computed", "retried", "slow", "workers_lost", "voxels", "bytes", "seconds"):
            setattr(total, name, getattr(total, name) + getattr(report, name))
        for name, seconds in report.stages.items():
            total.stages[name] = total.stages.get(name, 0.0) + seconds
    return total
