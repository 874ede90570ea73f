"""TIFF: pages, strips and tiles, of which a box reads those that it meets."""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass
from threading import Lock, get_ident
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from chunkinfer.errors import AmbiguousSource, SourceError
from chunkinfer.stores import ranges
from chunkinfer.stores.ranges import Stored, content_of
from chunkinfer.stores.store import canonical, kvstore
from chunkinfer.volumes.arrays.meta import Contents
from chunkinfer.volumes.formats import tiff_metadata
from chunkinfer.volumes.formats.decoded import DECODED

if TYPE_CHECKING:
    from tifffile import TiffFile, TiffPageSeries

SUFFIXES = (".tif", ".tiff")
WHAT = "TIFF files"
NEEDS = "tifffile"

ROWS = 64
"""Rows that count as a chunk where pages are not compressed."""


def describe(file: Stored, inside: str, level: int) -> Contents:
    """What the first series says, or the one whose number is ``inside``."""
    series_number = _number(file, inside)
    tiff = _open(file.spec)
    if inside == "" and len({(s.shape, s.dtype) for s in tiff.series}) > 1:
        raise _several(file, tiff)
    if not 0 <= series_number < len(tiff.series):
        raise _several(file, tiff)
    if inside == "":
        tiff_metadata.check_complete(file.url, tiff)
    base = tiff.series[series_number]
    if not 0 <= level < len(base.levels):
        raise SourceError(
            f"{file.url} has no level {level}.",
            f"It has {len(base.levels)}; 0 is the finest.",
            ["level=0", f"the coarsest: level={len(base.levels) - 1}"],
        )
    spec = {**file.spec, "series": series_number, "level": level}
    pages = Pages(spec, file.version)
    placement, names = tiff_metadata.placement(tiff, series_number, level)
    return Contents(pages.stored, pages.shape, pages.dtype, pages.chunks, spec, placement, names)


def parts(file: Stored, inside: str) -> list[tuple[str, int]]:
    """The levels of each series of a file, by number."""
    series = _open(file.spec).series
    wanted = range(len(series)) if inside == "" else [_number(file, inside)]
    return [(str(n) if len(series) > 1 else "", level) for n in wanted for level in range(len(series[n].levels))]


def opened(spec: Mapping[str, Any], version: str) -> Pages:
    """The series, by boxes."""
    return Pages(spec, version)


def _open(spec: Mapping[str, Any]) -> TiffFile:
    from tifffile import TiffFile, logger

    log, heard = logger(), _Heard(logging.ERROR)
    log.addHandler(heard)
    try:
        # So that what OME's XML says of other files is not followed; it knows this one by its name.
        name = spec["kvstore"]["path"].rpartition("/")[2]
        tiff = TiffFile(ranges.opened(dict(spec)), name=name, _multifile=False)
        count, _ = len(tiff.pages), tiff.series
    finally:
        log.removeHandler(heard)
    # Where the list of pages breaks off, the library says so to the log, and goes on with the pages before.
    if broken := [message for message in heard.messages if "TiffPages" in message]:
        raise ValueError(f"its list of pages breaks off after {count}: {broken[0]}")
    return tiff


class _Heard(logging.Handler):
    """What this thread logs."""

    def __init__(self, level: int) -> None:
        super().__init__(level)
        self.thread, self.messages = get_ident(), list[str]()

    def emit(self, record: logging.LogRecord) -> None:
        if record.thread == self.thread:
            self.messages.append(record.getMessage())


class Pages:
    """A series of pages, by boxes; axes are those of the pages' order, then c of a page's samples, y and x."""

    def __init__(self, spec: Mapping[str, Any], version: str) -> None:
        self.tiff = _open(spec)
        self.series: TiffPageSeries = self.tiff.series[spec["series"]].levels[spec["level"]]
        self.page = self.series.keyframe
        self.dtype = np.dtype(self.series.dtype).newbyteorder("=")
        self.store = kvstore(spec["kvstore"])
        self.key = (canonical(dict(spec)), version)
        self.lock = Lock()
        self.decode = self.page.decode
        separate, depth, self.height, self.width, together = self.page.shaped
        self.separate, self.samples = separate, separate * together
        frames = _frames(self.series, self.samples > 1)
        if (
            depth > 1
            or self.series.transform is not None
            or math.prod(n for _, n in frames) * self.page.size != (math.prod(self.series.get_shape(False)))
        ):
            raise ValueError(f"its layout {self.series.axes} {self.series.shape} is not one of pages")
        self.frames = tuple(n for _, n in frames)
        # Some files describe one page, and the others follow it; where all do, only the first description counts.
        whole = self.series.kind in ("imagej", "shaped") and self.series.dataoffset is not None
        self.follow = self.series.is_truncated or whole
        inner = (("c", self.samples),) if self.samples > 1 else ()
        axes = (*frames, *inner, ("y", self.height), ("x", self.width))
        self.stored, self.shape = tuple(dim for dim, _ in axes), tuple(n for _, n in axes)
        if len(set(self.stored)) < len(self.stored):
            raise ValueError(f"its axes {self.series.axes} are more than t, c, z, y and x")
        tiled = self.page.is_tiled
        self.step = (self.page.tilelength, self.page.tilewidth) if tiled else (self.page.rowsperstrip, self.width)
        page = self.page
        # Strips of such pages are the voxels themselves: rows of them are read, not the whole.
        self.plain = page.compression == 1 and page.predictor == 1 and page.fillorder == 1 and not tiled
        self.plain = self.plain and page.bitspersample == 8 * self.dtype.itemsize and self.dtype.kind in "iuf"

    @property
    def chunks(self) -> tuple[int, ...]:
        """What is decoded at a time."""
        rows = min(ROWS, self.height) if self.plain else min(self.step[0], self.height)
        inner = (self.samples,) if self.samples > 1 else ()
        return (*(1 for _ in self.frames), *inner, rows, min(self.step[1], self.width))

    def __getitem__(self, index: tuple[slice, ...]) -> NDArray[Any]:
        count = len(self.frames)
        channels = index[count] if self.samples > 1 else slice(0, 1)
        rows, columns = index[-2:]
        frames = itertools.product(*(range(part.start, part.stop) for part in index[:count]))
        numbers = [int(np.ravel_multi_index(at, self.frames)) if at else 0 for at in frames]
        boxes = [self._frame(number, rows, columns)[channels] for number in numbers]
        return np.stack(boxes).reshape([part.stop - part.start for part in index])

    def _frame(self, number: int, rows: slice, columns: slice) -> NDArray[Any]:
        """Part of a page: (c, y, x)."""
        parts = list(self._parts(number, rows, columns))
        reads = [None if part.key in DECODED or not part.size else self._read(part) for part in parts]
        out = np.empty((self.samples, rows.stop - rows.start, columns.stop - columns.start), self.dtype)
        filled = 0
        for part, read in zip(parts, reads, strict=True):
            tile = self._tile(part, read)
            height, width, samples = tile.shape
            a, b = max(rows.start, part.top), min(rows.stop, part.top + height)
            c, d = max(columns.start, part.left), min(columns.stop, part.left + width)
            inside = tile[a - part.top : b - part.top, c - part.left : d - part.left]
            target = out[part.sample : part.sample + samples, a - rows.start : b - rows.start]
            target[..., c - columns.start : d - columns.start] = np.moveaxis(inside, -1, 0)
            filled += inside.size
        if filled != out.size:
            raise ValueError(f"the strips or tiles of its page {number} do not fill it")
        return out

    def _parts(self, number: int, rows: slice, columns: slice) -> Iterator[Part]:
        """The strips or tiles of a page that meet a box."""
        with self.lock:  # pages are read as one reads a file: here, then there
            page = self.series[0 if self.follow else number]
        if page is None:
            raise ValueError(f"its page {number} is in another file, or nowhere")
        moved = number * self.page.nbytes if self.follow else 0
        (high, wide), together = self.step, self.samples // self.separate
        down, across = -(-self.height // high), -(-self.width // wide)
        cells = itertools.product(
            range(self.separate),
            range(rows.start // high, -(-rows.stop // high)),
            range(columns.start // wide, -(-columns.stop // wide)),
        )
        for sample, i, j in cells:
            segment = (sample * down + i) * across + j
            start, size = page.dataoffsets[segment] + moved, page.databytecounts[segment]
            if size and not start:
                raise ValueError(f"a strip or tile of its page {number} begins at byte 0")
            top = i * high
            if self.plain and size:
                row = self.width * together * self.dtype.itemsize
                first, last = max(rows.start, top), min(rows.stop, top + high)
                start, size, top = start + (first - top) * row, (last - first) * row, first
            key = (self.key, number, segment)
            yield Part(key, page, segment, sample * together, top, j * wide, start, size)

    def _read(self, part: Part) -> Any:
        return self.store.read("", byte_range=slice(part.start, part.start + part.size))

    def _tile(self, part: Part, read: Any) -> NDArray[Any]:
        """The voxels of a part: (y, x, c)."""
        together = self.samples // self.separate
        if not part.size:  # sparse files leave out what is empty
            return np.full((*self.step, together), self.page.nodata, self.dtype)
        if self.plain:
            values = np.frombuffer(content_of(read), self.dtype.newbyteorder(self.tiff.byteorder))
            return values.reshape(-1, self.width, together)
        return DECODED.get(part.key, lambda: self._decoded(part, content_of(read or self._read(part))))

    def _decoded(self, part: Part, content: bytes) -> NDArray[Any]:
        shared = {"jpegtables": part.page.jpegtables, "jpegheader": self.page.jpegheader}
        options = {name: value for name, value in shared.items() if value is not None}
        tile: NDArray[Any] = self.decode(content, part.segment, **options)[0][0]
        return tile


@dataclass(frozen=True)
class Part:
    """A strip or tile, or rows of a strip that is not compressed."""

    key: Hashable
    page: Any
    segment: int
    sample: int
    """Its first channel."""
    top: int
    left: int
    start: int
    """Its first byte in the file."""
    size: int
    """Its bytes; 0 where it is left out."""


def _frames(series: TiffPageSeries, channels: bool) -> list[tuple[str, int]]:
    """The axes beside those of a page, and their sizes; what has no name is z, else c, else t, from the last one on."""
    lead = [(a, n) for a, n in zip(series.get_axes(False), series.get_shape(False), strict=True) if a not in "YXS"]
    lead = [(axis, size) for axis, size in lead if size > 1]
    known = {"Z": "z", "C": "c", "T": "t"}
    free = [dim for axis, dim in known.items() if axis not in dict(lead) and not (channels and dim == "c")]
    named: list[tuple[str, int]] = []
    for axis, size in reversed(lead):
        if axis not in known and not free:
            raise ValueError(f"its axes {series.axes} are more than t, c, z, y and x")
        named.insert(0, (known[axis] if axis in known else free.pop(0), size))
    return named


def _number(file: Stored, inside: str) -> int:
    if inside and not inside.isdecimal():
        raise SourceError(
            f"{file.url} is a TIFF file; {inside!r} names nothing in it.",
            "Its images are numbered.",
            [f"the first one: open_volume({file.url!r}, array='0')", "or leave array= out where there is only one"],
        )
    return int(inside or 0)


def _several(file: Stored, tiff: TiffFile) -> AmbiguousSource:
    listed = "; ".join(f"{i}: {s.axes} {s.shape} {s.dtype}" for i, s in enumerate(tiff.series))
    return AmbiguousSource(
        f"{file.url} holds {len(tiff.series)} images: {listed}.",
        "Which of them is the volume cannot be guessed; thumbnails are stored like this, and pages of several sizes.",
        [f"open_volume({file.url!r}, array='0')", "or the number of another one"],
    )
