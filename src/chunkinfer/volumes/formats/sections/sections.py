"""Stacks of sections: one PNG, JPEG or TIFF file per section, or several tiles of it, found by their names.

::

    em/                    every picture in the folder; the number that changes is z
    em/*.png               the same, of those that fit
    em/z{z:05d}.tif        which number is z; ``{z}`` takes any, and ``*`` anything
    em/{z}/y{y}_x{x}.png   tiles; y and x count tiles, or pixels where all are multiples of the tile's size
    em/z{00000..00249}.png where the store cannot list, as http
"""

from __future__ import annotations

import base64
import itertools
import os
import zlib
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chunkinfer.errors import MissingChunk, SourceError
from chunkinfer.stores import failures
from chunkinfer.stores.ranges import content_of, probe, version_of
from chunkinfer.stores.store import canonical, kvstore
from chunkinfer.stores.urls import Location
from chunkinfer.volumes.arrays.meta import Contents, check_dtype, digest_of
from chunkinfer.volumes.arrays.placement import Placement
from chunkinfer.volumes.formats.decoded import DECODED
from chunkinfer.volumes.formats.sections.naming import Cell, Named, find
from chunkinfer.volumes.formats.sections.pictures import Picture, damaged, picture

SPARSE = 100
"""Sections that may be missing for each that is there."""

AHEAD = 4
"""Files that are fetched while one is decoded."""


def describe(location: Location, missing: str) -> Contents | None:
    """The stack of a pattern, or in a local folder; None if the folder holds no pictures.

    Raises
    ------
    SourceError
        No file fits, or their names do not tell which number is z, or the first section cannot be read.
    MissingChunk
        Sections are missing, and ``missing`` is "error".
    """
    found = find(location)
    return None if found is None else _contents(found, missing, location.url)


def single(location: Location) -> Contents:
    """A picture as a stack of one section."""
    root, name = location.parent(), location.url.rpartition("/")[2]
    return _contents(Named(root, {(0, 0, 0): name}), "error", location.url)


def _contents(found: Named, missing: str, url: str) -> Contents:
    """The stack that the named files are."""
    root, names = found.root, found.names
    rows, columns = (sorted({cell[axis] for cell in names}) for axis in (1, 2))
    edge = next((c for c in names if c[1] == rows[0] and c[2] == columns[0]), next(iter(names)))
    first = _head(root, names[edge])
    check_dtype(first.dtype.name, f"{root.url}/{names[edge]}")
    height, width = first.shape[:2]
    steps = (1, _step(root, rows, height), _step(root, columns, width))
    low, high = found.span or (min(cell[0] for cell in names), max(cell[0] for cell in names))
    start, last = (low, rows[0], columns[0]), (high, rows[-1], columns[-1])
    grid = [(b - a) // step + 1 for a, b, step in zip(start, last, steps, strict=True)]
    if grid[0] > SPARSE * (len(names) + 1):
        raise _far(root, f"sections {start[0]} and {last[0]} are the first and the last of {len(names)}")
    every = (range(a, b + 1, step) for a, b, step in zip(start, last, steps, strict=True))
    cells: list[Cell] = list(itertools.product(*every))  # type: ignore[arg-type]
    absent = [cell for cell in cells if cell not in names]
    if absent and missing == "error":
        raise _missing(root, absent, names, url)
    # The last row and column of tiles may be smaller.
    bottom, right = (next(cell for cell in names if cell[axis] == last[axis]) for axis in (1, 2))
    size = [grid[0], (grid[1] - 1) * height, (grid[2] - 1) * width]
    size[1] += height if grid[1] == 1 else _head(root, names[bottom]).shape[0]
    size[2] += width if grid[2] == 1 else _head(root, names[right]).shape[1]
    colours = first.shape[2:]
    spec = {
        "kvstore": root.kvstore,
        "url": root.url,
        "names": _packed(names.get(cell, "") for cell in cells),
        "grid": grid,
        "tile": [height, width],
        "shape": [*size, *colours],
        "type": first.dtype.name,
    }
    about: dict[str, Any] = {"sections": f"{start[0]} to {last[0]}"}
    if absent:
        about["missing_sections"] = ranges_of(cell[0] for cell in absent)
    if first.channels:
        about["channel_names"] = list(first.channels)
    return Contents(
        stored=("z", "y", "x", "c")[: 3 + len(colours)],
        shape=(*size, *colours),
        dtype=first.dtype,
        chunks=(1, height, width, *colours),
        spec=spec,
        placement=Placement(offset={"z": start[0]}),
        names=about,
        version=_version(root, names),
    )


def _step(root: Location, numbers: Sequence[int], size: int) -> int:
    """What lies between tiles: 1, or the tile's size where tiles are numbered by pixels."""
    span = numbers[-1] - numbers[0]
    for step in (1, size):
        if numbers == list(range(numbers[0], numbers[0] + span + 1, step)):
            return step
    raise _far(root, f"tiles of {size} pixels have the numbers {str(numbers)[:80]}")


def _far(root: Location, what: str) -> SourceError:
    return SourceError(
        f"The numbers in the names of {root.url} do not follow each other: {what}.",
        "They are not those of sections or tiles, or most files are not there, or tiles overlap.",
        ["say which number counts sections: {z} in its place, and * for other text", "or rename the files"],
    )


def _head(root: Location, name: str) -> Picture:
    url = f"{root.url}/{name}"
    try:
        content = content_of(kvstore(root.kvstore).read(name))
    except failures.FAILURES as error:
        raise failures.unreadable(url, error) from error
    return picture(url, content)


def _version(root: Location, names: Mapping[Cell, str]) -> str:
    """Modification times and sizes of all local files; in a store, the generation of the first."""
    if root.path is None:
        return version_of(probe(kvstore(root.kvstore), next(iter(names.values())))) or ""
    stats = [os.stat(root.path / name) for name in names.values()]
    return digest_of(*(f"{stat.st_mtime_ns}-{stat.st_size}".encode() for stat in stats))


def _missing(root: Location, absent: Sequence[Cell], names: Mapping[Cell, str], url: str) -> MissingChunk:
    tiles = len({cell[1:] for cell in names}) > 1
    listed = [str(z) if not tiles else f"{z} (y {y}, x {x})" for z, y, x in absent]
    text = ", ".join(listed[:20]) + (", ..." if len(listed) > 20 else "") if tiles else ranges_of(a[0] for a in absent)
    return MissingChunk(
        f"{root.url} lacks the sections {text}; it has {len(names)} files, {next(iter(names.values()))} among them.",
        "They were lost, or left out by the microscope; or the sections are numbered in larger steps.",
        [
            f"to read zeros there: {failures.filled(url)}; `chunkinfer info` then lists them",
            "or put the missing files there, or rename them so that numbers follow each other",
        ],
    )


def ranges_of(numbers: Iterable[int]) -> str:
    """``3, 7-9`` of 3, 7, 8, 9."""
    runs: list[list[int]] = []
    for number in sorted(set(numbers)):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)


def _packed(names: Iterable[str]) -> str:
    """Many names in little: ten thousand of a stack are some 25 kB."""
    return base64.b85encode(zlib.compress("\0".join(names).encode(), 9)).decode()


def _unpacked(text: str) -> list[str]:
    return zlib.decompress(base64.b85decode(text)).decode().split("\0")


# Reading


def count(spec: Mapping[str, Any]) -> int:
    """How many files a stack has."""
    return sum(map(bool, _unpacked(spec["names"])))


class Sections:
    """The voxels of a stack, by boxes, in (z, y, x) or (z, y, x, c)."""

    def __init__(self, spec: Mapping[str, Any], version: str) -> None:
        self.place, self.url = spec["kvstore"], spec["url"]
        self.names = np.array(_unpacked(spec["names"]), object).reshape(spec["grid"])
        self.shape, self.dtype, self.tile = tuple(spec["shape"]), np.dtype(spec["type"]), tuple(spec["tile"])
        self.key = (canonical(spec["kvstore"]), version)

    def __getitem__(self, index: tuple[slice, ...]) -> NDArray[Any]:
        out = np.zeros([part.stop - part.start for part in index], self.dtype)
        low = [part.start for part in index]
        cells = [cell for cell in self._cells(index) if self.names[cell]]
        store, reads = kvstore(self.place), {}
        for i, cell in enumerate(cells):
            for soon in cells[i : i + 1 + AHEAD]:
                if soon not in reads and self._key(soon) not in DECODED:
                    reads[soon] = store.read(self.names[soon])
            tile = DECODED.get(self._key(cell), partial(self._decoded, cell, reads.pop(cell, None)))
            corner = cell[0], cell[1] * self.tile[0], cell[2] * self.tile[1]
            spans = [
                (max(part.start, at), min(part.stop, at + size))
                for part, at, size in zip(index, corner, (1, *tile.shape[:2]), strict=False)
            ]
            target = tuple(slice(a - first, b - first) for (a, b), first in zip(spans, low, strict=False))
            origin = tuple(slice(a - at, b - at) for (a, b), at in zip(spans[1:], corner[1:], strict=True))
            out[target] = tile[(*origin, *index[3:])]
        return out

    def _cells(self, index: tuple[slice, ...]) -> Iterator[Cell]:
        sizes = (1, *self.tile)
        spans = (range(part.start // n, -(-part.stop // n)) for part, n in zip(index, sizes, strict=False))
        yield from itertools.product(*spans)

    def _key(self, cell: Cell) -> Hashable:
        return self.key, self.names[cell]

    def _decoded(self, cell: Cell, read: Any) -> NDArray[Any]:
        """One picture; what does not fit the stack is refused."""
        name = self.names[cell]
        url = f"{self.url}/{name}"
        try:
            content = content_of(read or kvstore(self.place).read(name))
        except FileNotFoundError as error:
            raise MissingChunk(
                f"{url} is gone.",
                "The file was there when the stack was opened.",
                ["put it back", "or open the stack anew, by missing='fill' with zeros there"],
            ) from error
        found = picture(url, content)
        sizes = [min(n, whole - at * n) for at, n, whole in zip(cell[1:], self.tile, self.shape[1:], strict=False)]
        if found.shape != (*sizes, *self.shape[3:]) or found.dtype != self.dtype:
            raise SourceError(
                f"{url} is {_text(found.shape, found.dtype)}, and here the stack has "
                f"{_text((*sizes, *self.shape[3:]), self.dtype)}.",
                "All sections of a stack have one size and type: the first one's.",
                ["crop, pad or convert it", "or remove it, and open the stack with missing='fill'"],
            )
        try:
            return found.decode()
        except Exception as error:  # as of any library for damaged files
            raise damaged(url, error) from error


def _text(shape: Sequence[int], dtype: np.dtype[Any]) -> str:
    return f"{' x '.join(map(str, shape))} {dtype}"


def opened(spec: Mapping[str, Any], version: str) -> Sections:
    """The stack, by boxes."""
    return Sections(spec, version)
