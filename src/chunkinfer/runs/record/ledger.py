"""The ledger: which blocks of an output are finished, under the fingerprint of the run that made them.

It lies inside the output, as small objects in a key-value store that every storage system can be::

    .chunkinfer/run.json        what the last run was and how it went (the report)
    .chunkinfer/ledger.json     fingerprint and frozen settings; written before the first block
    .chunkinfer/failed.json     blocks that failed in the last run, with a line each
    .chunkinfer/lease.json      who is writing; of the run, not of the ledger
    .chunkinfer/done-00000017-00000017-5d41402a.npz

A segment ``done-FIRST-LAST-CRC32.npz`` is what one call of `Ledger.add` recorded, or many: 32 segments of one size are
merged into one that covers their numbers, so that a run of millions of blocks leaves some dozens of objects. A segment
inside the numbers of another one is what a crash left of such a merge, and is not read.

Every object carries a checksum of itself: a segment in its name, the others in their last line. Probing the store
cannot replace a ledger: a block may be half written, and other writers may leave whole ones.
"""

from __future__ import annotations

import json
import os
import re
import time
import zlib
from collections.abc import Iterable, Mapping, Sequence
from itertools import takewhile
from typing import Any, NamedTuple, NoReturn

import numpy as np

from chunkinfer.errors import DestinationError
from chunkinfer.runs.record.segments import Entry, Finished, Segment
from chunkinfer.stores.files import FOLDER, Files

HEADER, REPORT, FAILED = "ledger.json", "run.json", "failed.json"

FAN = 32
"""Segments of one size that are merged into one: a ledger of n segments has at most 32 per power of 32 objects, and
writes each entry once per power."""

MARK = b'\n "crc32": '


class _Name(NamedTuple):
    """The name of a segment."""

    first: int
    last: int
    crc: int | None
    """None in versions before checksums, whose segments hold it inside."""

    @classmethod
    def of(cls, text: str) -> _Name | None:
        """None for other objects."""
        if old := re.fullmatch(r"done-(\d+)\.json", text):
            return cls(int(old[1]), int(old[1]), None)
        if new := re.fullmatch(r"done-(\d+)-(\d+)-([0-9a-f]{8})\.npz", text):
            return cls(int(new[1]), int(new[2]), int(new[3], 16))
        return None

    def __str__(self) -> str:
        if self.crc is None:
            return f"done-{self.first:06d}.json"
        return f"done-{self.first:08d}-{self.last:08d}-{self.crc:08x}.npz"

    @property
    def power(self) -> int:
        """Of `FAN`: how many calls of `add` it holds."""
        span, power = self.last - self.first + 1, 0
        while span >= FAN:
            span, power = span // FAN, power + 1
        return power


class Ledger:
    """Finished blocks of one output; one client writes it, at most every so often, and any number may read.

    Whatever order of calls a crash cuts short, the ledger that is left can be read, lists no block that was not added,
    and has lost none whose `add` returned.

    Parameters
    ----------
    files
        The folder that holds it.
    """

    def __init__(self, files: Files) -> None:
        self.files = files
        self._names: list[_Name] | None = None
        self._left_over: list[_Name] = []
        self._since = time.time()

    # ---- what the run is ----------------------------------------------------------------------------------------

    def header(self) -> dict[str, Any] | None:
        """Fingerprint and settings of the run that owns the output; None where there is none yet."""
        return self._table(HEADER)

    def begin(self, header: Mapping[str, Any]) -> None:
        """Write the header, before the first block; what an earlier run finished or failed at is forgotten first."""
        if names := self._listed():
            # One object that lists nothing replaces all at once; only then they are deleted, in any order.
            self._replace(names, Segment.of_runs([]))
            self.files.delete_many([str(name) for name in self._listed()])
            self._names = []
        self.files.delete(FAILED)
        self.files.write(HEADER, _sealed(header))
        self._since = time.time()

    def report(self, report: Mapping[str, Any]) -> None:
        """Write ``run.json``."""
        self.files.write(REPORT, _sealed(report))

    def last_report(self) -> dict[str, Any] | None:
        """What `report` wrote last."""
        return self._table(REPORT)

    def failed(self, failures: Mapping[int, str]) -> None:
        """Replace the list of the blocks that failed in the last run: their numbers, and a line of text each."""
        lines = {str(position): line[:500] for position, line in sorted(failures.items())}
        self.files.write(FAILED, _sealed({"at": time.time(), "failed": lines}))

    def failures(self) -> dict[int, str]:
        """What `failed` wrote last; blocks that were finished since are still in it."""
        table = self._table(FAILED) or {}
        return {int(position): str(line) for position, line in table.get("failed", {}).items()}

    # ---- blocks -------------------------------------------------------------------------------------------------

    def done(self, blocks: int) -> Finished:
        """What is finished, of a grid of so many blocks; numbers beyond it are left out.

        May be called while another process writes.

        Raises
        ------
        DestinationError
            An object is damaged; names it.
        """
        self._since = time.time()
        done = Finished.none(blocks)
        for segment in self._segments():
            done.take(segment)
        done.history = done.history[np.argsort(done.history[:, 0], kind="stable")]
        return done

    def add(self, entries: Iterable[Entry]) -> None:
        """Record blocks that are written and durable: one small object, and now and then a merge of earlier ones.

        The time since the last call, or since `done` or `begin`, counts as the time that these blocks took together.
        """
        now = max(time.time(), self._since)
        entries = list(entries)
        if not entries:
            return
        names = self._listed()
        next_one = names[-1].last + 1 if names else 0
        names.append(self._write(Segment.of_entries(entries, (self._since, now, len(entries))), next_one, next_one))
        self._since = now
        power = 0
        while len(tail := self._tail(power)) >= FAN:
            self._merge(tail)
            power += 1

    def forget(self, positions: Iterable[int]) -> None:
        """These blocks are not finished any more: one object without them replaces all others."""
        if not (names := self._listed()):
            return
        done, start = self._together(names)
        at = np.fromiter(positions, np.int64) - start
        done.flags[at[(at >= 0) & (at < len(done.flags))]] = False
        self._replace(names, Segment.of_finished(done, start))

    def compact(self) -> None:
        """One object instead of many, at the end of a run."""
        if len(names := self._listed()) > 1:
            self._merge(names)

    # ---- segments -----------------------------------------------------------------------------------------------

    def _listed(self) -> list[_Name]:
        """Segments in order of their numbers, without those inside another one; as this ledger left them."""
        if self._names is None:
            self._names, self._left_over = [], []
            for name in self._stored():
                outer = self._names[-1] if self._names else None
                inside = outer is not None and name.last <= outer.last and name[:2] != outer[:2]
                (self._left_over if inside else self._names).append(name)
        return self._names

    def _stored(self) -> list[_Name]:
        """All segments that the store lists now, an outer one before those inside it."""
        return sorted(filter(None, map(_Name.of, self.files.list())), key=lambda name: (name.first, -name.last))

    def _tail(self, power: int) -> list[_Name]:
        """The last segments that are no larger than a power of `FAN`."""
        return list(takewhile(lambda name: name.power <= power, reversed(self._listed())))[::-1]

    def _segments(self) -> Iterable[Segment]:
        """What all segments hold, in order; read anew where another process merged some meanwhile: a listing may then
        have missed both what was merged and what it became."""
        for _ in range(10):
            self._names = None
            before = self._listed()
            contents = self.files.read_many([str(name) for name in before])
            merged = [n for n in self._stored() if n.last > n.first and n not in before + self._left_over]
            if None not in contents and not merged:
                pairs = zip(before, contents, strict=True)
                return (self._opened(name, data) for name, data in pairs if data is not None)
        raise DestinationError(
            f"The ledger of {self.files.url} changed ten times while it was read.",
            "Another process writes it very often, or the store lists what is not there.",
            ["try again", "look at the names in .chunkinfer with another tool"],
        )

    def _opened(self, name: _Name, data: bytes) -> Segment:
        if name.crc is None:
            record = self._parsed(str(name), data)
            if zlib.crc32(json.dumps(record.get("runs")).encode()) != record.get("crc32"):
                self._refuse(str(name), "its checksum does not fit")
            return Segment.of_runs(record["runs"])
        if zlib.crc32(data) != name.crc:
            self._refuse(str(name), "its checksum does not fit")
        return Segment.unpacked(data)

    def _together(self, names: Sequence[_Name]) -> tuple[Finished, int]:
        """What segments hold, in one table, and the number of its first block."""
        contents = zip(names, self.files.read_many([str(name) for name in names]), strict=True)
        segments = [self._opened(name, data if data is not None else b"") for name, data in contents]
        held = [s.positions for s in segments if len(s.positions)]
        start = min((int(p[0]) for p in held), default=0)
        done = Finished.none(max((int(p[-1]) + 1 for p in held), default=0) - start)
        for segment in segments:
            done.take(segment, start)
        return done, start

    def _merge(self, names: Sequence[_Name]) -> None:
        self._replace(names, Segment.of_finished(*self._together(names)))

    def _replace(self, names: Sequence[_Name], segment: Segment) -> None:
        """One segment in the place of others that follow each other: they are deleted when it is durable."""
        new = self._write(segment, names[0].first, names[-1].last)
        kept = [name for name in self._listed() if name not in names]
        self.files.delete_many([str(name) for name in (*names, *self._left_over) if name != new])
        self._names, self._left_over = sorted([*kept, new], key=lambda name: name[:2]), []

    def _write(self, segment: Segment, first: int, last: int) -> _Name:
        data = segment.packed()
        name = _Name(first, last, zlib.crc32(data))
        self.files.write(str(name), data)
        return name

    # ---- objects ------------------------------------------------------------------------------------------------

    def _table(self, name: str) -> dict[str, Any] | None:
        data = self.files.read(name)
        if data is None:
            return None
        body, mark, crc = data.rpartition(MARK)
        table = self._parsed(name, data)
        if mark and str(zlib.crc32(body)) != crc.decode(errors="replace").rstrip("}\n "):
            self._refuse(name, "its checksum does not fit")
        table.pop("crc32", None)
        return table

    def _parsed(self, name: str, data: bytes) -> dict[str, Any]:
        try:
            record = json.loads(data)
        except ValueError:
            self._refuse(name, "it is no JSON")
        if not isinstance(record, dict):
            self._refuse(name, "it holds no table")
        table: dict[str, Any] = record
        return table

    def _refuse(self, name: str, why: str) -> NoReturn:
        url, of_run = os.fspath(self.files.url), self.files.prefix == FOLDER
        lost = f"delete {url}/{self.files.prefix}/{name}: only the blocks that it lists are computed again"
        if name in (REPORT, FAILED):
            lost = (
                f"delete {url}/{self.files.prefix}/{name}: it tells how the last run went, and the next writes it anew"
            )
        anew = f"start anew: save(array, {url!r}, overwrite=True)"
        raise DestinationError(
            f"The ledger object {name} of {self.files.url} is damaged: {why}.",
            "It was cut short by a full disk, or edited.",
            [lost, anew if of_run else "or start anew, by the call that made it and overwrite=True"],
        )


def _sealed(record: Mapping[str, Any]) -> bytes:
    """A table as JSON whose last line is the checksum of what comes before it."""
    body = json.dumps(record, indent=1, default=str).removesuffix("}").rstrip()
    body += "," if record else ""
    return body.encode() + MARK + f"{zlib.crc32(body.encode())}\n}}".encode()
