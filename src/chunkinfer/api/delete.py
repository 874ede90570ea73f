"""delete: a stored volume and all that is its own, or what dead runs left; nothing else."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import prod

from chunkinfer.api.info import info
from chunkinfer.errors import DestinationError, SourceError, SourceNotFound
from chunkinfer.runs.pyramids.building import read_plan
from chunkinfer.runs.record.headers import RunHeader
from chunkinfer.runs.record.lease import Lease
from chunkinfer.runs.record.ledger import Ledger
from chunkinfer.stores.files import FOLDER, LEASE, Files
from chunkinfer.stores.store import LOCK
from chunkinfer.stores.urls import Location, locate
from chunkinfer.volumes.arrays.create import guess_format
from chunkinfer.volumes.arrays.erase import ERASING, PLAN, Belongings, belongings, delete_keys, erase, listed, refused
from chunkinfer.volumes.arrays.levels import open_image

SHOWN = 5
"""Names that a report lists."""


@dataclass(frozen=True)
class Deletion:
    """What `delete` deleted, or would."""

    url: str
    what: tuple[str, ...]
    """The volume, or each thing that dead runs left, in words; empty where there is nothing to delete."""
    keys: tuple[str, ...]
    """Objects below the URL."""
    bytes: int | None
    """Of the objects; None in buckets, whose listing does not tell."""
    stays: tuple[str, ...]
    """Objects below the URL that are not deleted."""
    holder: str = ""
    """Who holds the lease, if anybody: a run that writes it at this moment, or died."""
    done: bool = False
    """Whether it is deleted."""

    @property
    def objects(self) -> int:
        """How many objects."""
        return len(self.keys)

    def __str__(self) -> str:
        size = f", {_size(self.bytes)}" if self.bytes is not None and self.keys else ""
        stays = f"{len(self.stays):,} objects that are not deleted: {', '.join(self.stays[:SHOWN])}"
        rows = [
            ("url", self.url),
            *(("deleted" if self.done else "to delete", what) for what in self.what or ("nothing",)),
            ("objects", f"{self.objects:,}{size}"),
            ("beside", f"{stays}{', ...' if len(self.stays) > SHOWN else ''}" if self.stays else ""),
            ("lease", self.holder),
        ]
        return "\n".join(f"{name + ':':<11}{value}" for name, value in rows if value)

    __repr__ = __str__


def delete(url: str | os.PathLike[str], *, leftovers: bool = False, dry_run: bool = False) -> Deletion:
    """Delete a stored volume with its levels and the ledger of its run, or what dead runs left beside it.

    In Python nobody is asked: the call names what is to go, and as it deletes nothing but a volume, a mistyped URL is
    refused. ``dry_run=True`` shows what would go. (``chunkinfer delete`` shows it too, and asks.)

    Deleted are the chunks, shards and metadata that belong to an array, a precomputed volume or an OME-Zarr image. All
    else in the folder stays, meshes and notes for instance. A deletion that a crash cut short is finished by the same
    call, or by the next `save` to that place.

    Parameters
    ----------
    url
        A path or a ``file://``, ``s3://`` or ``gs://`` URL.
    leftovers
        Delete only what dead runs left, and keep the volume: levels of a pyramid that were begun and never announced,
        the rest of a deletion, the ledger of a volume that is gone, a lease that nobody renews, and local files whose
        writer was killed. The ledger of an unfinished volume stays: the same `save` goes on from it.
    dry_run
        Delete nothing.

    Returns
    -------
    Deletion
        What was deleted, and what stays there.

    Raises
    ------
    SourceNotFound
        No volume is there.
    DestinationError
        It is a group that may hold others, or a file; or it cannot be written.
    OutputInUse
        A run writes it at this moment.
    """
    guess_format(url)  # refuses what can only be read
    place = locate(url)
    with refused(place, "deleted"):
        there, parts = _found(place, leftovers)
        holder = _holder(place)
        if dry_run or not (there or parts or holder):
            return replace(_report(place, there, parts), holder=holder)
        with Lease(Files(place.url)):
            there, parts = _found(place, leftovers)
            report = _report(place, there, parts)
            if there is not None:
                erase(place, there)
            for _, keys in parts:
                delete_keys(place, keys)
        return replace(report, done=True)


Part = tuple[str, list[str]]
"""Something that a dead run left, in words, and its keys below the place."""


def _found(place: Location, leftovers: bool) -> tuple[Belongings | None, list[Part]]:
    """A volume that is to be deleted as such, also where that was begun; or what is left, in the order of deletion."""
    there = belongings(place)
    if there is None and not leftovers:
        raise SourceNotFound(
            f"No volume is at {place.url}.",
            "Its metadata is not there: the name is misspelt, it is a folder above, or only what a run left.",
            ["list the folder, and name the volume that lies in it",
             f"or what a dead run left: chunkinfer delete {place.url} --leftovers"],
        )  # fmt: skip
    if there is not None and (not leftovers or not there.kind):
        return there, []
    return None, [(words, keys) for words, keys in _left(place, there) if keys]


def _left(place: Location, there: Belongings | None) -> Iterator[Part]:
    """What dead runs left at a place whose volume is complete, unfinished or gone."""
    keys = list(listed(place))
    recorded = [key for key in keys if key.startswith(f"{FOLDER}/") and key.removesuffix(LOCK) != f"{FOLDER}/{LEASE}"]
    if there is None:
        yield "the ledger of a volume that is gone", recorded
        return
    yield "the note of a deletion that is over", [key for key in keys if key == ERASING]
    yield from _levels(place, keys)
    killed = [key for key in keys if key.endswith(LOCK)]
    yield "files whose writer was killed", [key for key in killed if there.has(key.removesuffix(LOCK))]


def _levels(place: Location, keys: Sequence[str]) -> Iterator[Part]:
    """Levels that were begun and never announced; not those of an unfinished run, which goes on with them."""
    header = RunHeader.of(ledger := Ledger(Files(place.url)))
    if header is not None and ledger.done(blocks := prod(header.destination.counts)).count < blocks:
        return
    try:
        image = open_image(place.url, missing="fill")
    except DestinationError:
        return  # a plain array
    passes = f"{FOLDER}/pyramid-"
    if (plan := read_plan(image)) is None:
        yield "the records of a pyramid that is gone", [key for key in keys if key.startswith(passes)]
        return
    # Those that were written with the image are as complete as it is, where its ledger says so.
    with_image = header is not None and header.destination.pyramid is not None
    whole = max(len(image.paths) - 1, 0 if header is None else plan.with_finest)
    paths = [image.path(number, level) for number, level in enumerate(plan.levels, 1)][whole:]
    records = tuple(f"{passes}{each.first}/" for each in plan.passes if each.first > whole)
    recorded = [key for key in keys if key.startswith(records)]
    levels = Belongings("levels", (), tuple(f"{path}/" for path in paths))
    voxels = [key for key in keys if key.startswith(levels.folders) and levels.has(key.removesuffix(LOCK))]
    if recorded or voxels:
        # Records before voxels: what a crash leaves is begun anew. The plan of `save`, or of levels that stay, stays.
        recorded += [key for key in keys if key == f"{FOLDER}/{PLAN}" and not whole and not with_image]
        yield "the records of levels that were never announced", recorded
        yield f"levels that were begun and never announced: {', '.join(paths)}", voxels


def _report(place: Location, there: Belongings | None, parts: Sequence[Part]) -> Deletion:
    """What is to be deleted, in words and numbers."""
    if there is not None:
        what = [_described(place) if there.kind else "the rest of a volume whose deletion was cut short"]
        every = [key for key in listed(place) if key.removesuffix(LOCK) not in (ERASING, f"{FOLDER}/{LEASE}")]
        keys = [key for key in every if there.has(key.removesuffix(LOCK))]
        stays = sorted(set(every) - set(keys))
    else:
        what, keys, stays = [words for words, _ in parts], [key for _, some in parts for key in some], []
    size = None if place.path is None else sum(os.lstat(place.path / key).st_size for key in keys)
    return Deletion(place.url, tuple(what), tuple(sorted(keys)), size, tuple(stays))


def _described(place: Location) -> str:
    """The volume in a line; one that cannot be opened can still be deleted."""
    try:
        found = info(place.url)
    except SourceError as error:
        return f"a volume that cannot be opened ({error.what})"
    source = next(item.source for item in found.inventory.items if item.source is not None)
    sizes = ", ".join(f"{d} {n}" for d, n in zip(source.dims, source.shape, strict=True))
    return f"{found.kind}: {sizes}, {source.dtype}"


def _holder(place: Location) -> str:
    content = Files(place.url).read(LEASE)
    if content is None:
        return ""
    try:
        said = json.loads(content)
        who = f"process {said['pid']} of {said['user']} on {said['host']}"
    except (ValueError, KeyError, TypeError):
        who = "somebody"
    return f"of {who}: it writes here at this moment, or died"


def _size(number: int) -> str:
    """Bytes in the unit that reads best."""
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number} bytes"
