"""Segments of a ledger: blocks that were recorded together, as columns in one object.

A segment is a compressed .npz file. Its columns::

    positions   numbers of the blocks, ascending, as differences
    known       bits: whether the block's checksum is recorded
    checksums   crc32 of the block's voxels
    seconds     that its task took
    engine      index into ``engines``: what computed it
    history     rows (start, end, blocks): how many were recorded in which time, seconds since 1970
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

ROWS = 64
"""Rows of history that a segment keeps, and one more per interruption."""

LONGEST = 65504.0
"""Seconds: the largest half-precision number, 18 hours. Longer blocks count as this long."""


@dataclass(frozen=True)
class Entry:
    """A block that is written and durable."""

    position: int
    """Its number in the grid."""
    checksum: int
    """crc32 of its voxels as a reader gets them: C order, the destination's dtype, little-endian."""
    seconds: float = 0.0
    """That its task took; kept to three digits, and up to 18 hours."""
    engine: str = ""
    """What computed it; empty for copies. At most 255 different ones in a ledger."""


@dataclass
class Finished:
    """What a ledger says of the blocks of a grid: arrays of one value per block, in the grid's order."""

    flags: NDArray[np.bool_]
    """Whether the block is finished."""
    known: NDArray[np.bool_]
    """Whether its checksum is recorded; not by versions before checksums."""
    checksums: NDArray[np.uint32]
    """As in `Entry`; 0 where unknown."""
    seconds: NDArray[np.float32]
    """As in `Entry`; 0 where unknown."""
    engine: NDArray[np.uint8]
    """Index into ``engines``."""
    engines: list[str] = field(default_factory=lambda: [""])
    """Names of what computed blocks; the first, empty, stands for copies and for what is not known."""
    history: NDArray[np.float64] = field(default_factory=lambda: np.empty((0, 3)))
    """Rows (start, end, blocks), in order of time: so many blocks were recorded between these seconds since 1970. Rows
    of a run touch each other; where they do not, nothing ran. A block that was computed again counts twice."""

    @classmethod
    def none(cls, blocks: int) -> Finished:
        """Nothing is finished."""
        return cls(
            np.zeros(blocks, np.bool_),
            np.zeros(blocks, np.bool_),
            np.zeros(blocks, np.uint32),
            np.zeros(blocks, np.float32),
            np.zeros(blocks, np.uint8),
        )

    @property
    def count(self) -> int:
        """Finished blocks."""
        return int(np.count_nonzero(self.flags))

    def take(self, segment: Segment, start: int = 0) -> None:
        """Add what a segment says; of a block that was there before, the newer counts. ``start`` is the number of the
        first block here; others are left out."""
        inside = (segment.positions >= start) & (segment.positions < start + len(self.flags))
        at = segment.positions[inside] - start
        self.flags[at] = True
        self.known[at] = segment.known[inside]
        self.checksums[at] = segment.checksums[inside]
        self.seconds[at] = segment.seconds[inside]
        self.engines += [name for name in segment.engines if name not in self.engines]
        names = np.array([self.engines.index(name) for name in segment.engines], np.uint8)
        self.engine[at] = names[segment.engine[inside]]
        self.history = np.concatenate([self.history, segment.history])


@dataclass(frozen=True)
class Segment:
    """What an object lists."""

    positions: NDArray[np.int64]
    """Ascending."""
    known: NDArray[np.bool_]
    checksums: NDArray[np.uint32]
    seconds: NDArray[np.float32]
    engine: NDArray[np.uint8]
    engines: Sequence[str]
    history: NDArray[np.float64]

    @classmethod
    def of_entries(cls, entries: Iterable[Entry], history: Sequence[float]) -> Segment:
        """The entries, in any order; the last one of a block counts."""
        rows = [e for _, e in sorted({e.position: e for e in entries}.items())]
        engines = sorted({e.engine for e in rows})
        return cls(
            np.array([e.position for e in rows], np.int64),
            np.ones(len(rows), np.bool_),
            np.array([e.checksum for e in rows], np.uint32),
            np.array([e.seconds for e in rows], np.float32),
            np.array([engines.index(e.engine) for e in rows], np.uint8),
            engines,
            np.array([history], np.float64),
        )

    @classmethod
    def of_runs(cls, runs: Sequence[Sequence[int]]) -> Segment:
        """Runs of blocks, inclusive, as versions before checksums recorded them."""
        parts = [np.arange(first, last + 1) for first, last in runs]
        positions = np.unique(np.concatenate([np.empty(0, np.int64), *parts]))
        rest = Finished.none(len(positions))
        return cls(positions, rest.known, rest.checksums, rest.seconds, rest.engine, rest.engines, rest.history)

    @classmethod
    def of_finished(cls, done: Finished, start: int) -> Segment:
        """What was put together of other segments; ``start`` is the number of its first block."""
        at = np.flatnonzero(done.flags)
        columns = (done.known[at], done.checksums[at], done.seconds[at], done.engine[at])
        return cls(at + start, *columns, done.engines, _thinned(done.history))

    def packed(self) -> bytes:
        """As a compressed .npz file."""
        steps = np.diff(self.positions, prepend=0)
        file = io.BytesIO()
        np.savez_compressed(
            file,
            positions=steps.astype(np.min_scalar_type(int(steps.max(initial=0)))),
            known=np.packbits(self.known),
            checksums=self.checksums.astype("<u4"),
            seconds=np.minimum(self.seconds, LONGEST).astype("<f2"),
            engine=self.engine,
            engines=np.array(self.engines, np.str_),
            history=self.history.astype("<f8"),
        )
        return file.getvalue()

    @classmethod
    def unpacked(cls, data: bytes) -> Segment:
        """Inverse of `packed`."""
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            positions = np.cumsum(file["positions"], dtype=np.int64)
            return cls(
                positions,
                np.unpackbits(file["known"], count=len(positions)).view(np.bool_),
                file["checksums"].astype(np.uint32, copy=False),
                file["seconds"].astype(np.float32),
                file["engine"],
                [str(name) for name in file["engines"]],
                file["history"],
            )


def _thinned(history: NDArray[np.float64]) -> NDArray[np.float64]:
    """History with neighbouring rows of a run joined, two by two, until it is short."""
    rows = [tuple(row) for row in history[np.argsort(history[:, 0], kind="stable")].tolist()]
    while len(rows) > ROWS:
        joined: list[tuple[float, ...]] = []
        single = False  # whether the last row is still one of ``rows``
        for row in rows:
            if single and joined[-1][1] == row[0]:
                joined[-1] = (joined[-1][0], row[1], joined[-1][2] + row[2])
                single = False
            else:
                joined.append(row)
                single = True
        if len(joined) == len(rows):
            break  # interruptions stay
        rows = joined
    return np.array(rows, np.float64).reshape(-1, 3)
