"""MRC (CCP4): maps, tomograms and image stacks. Local files are memory-mapped."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from chunkinfer.storage import flat
from chunkinfer.storage.described import Contents
from chunkinfer.storage.flat import Flat
from chunkinfer.storage.placement import Placement, whole
from chunkinfer.storage.ranges import Stored

SUFFIXES = (".mrc", ".mrcs", ".map", ".rec", ".st", ".ali", ".ccp4")
WHAT = "MRC files"
NEEDS = "mrcfile"

HEADER = 1024
"""Bytes before the extended header."""


def describe(file: Stored, inside: str, level: int) -> Contents:
    """What the header says: sizes in ångström; the origin where it is set, or else the first column, row, section."""
    from mrcfile.mrcinterpreter import MrcInterpreter
    from mrcfile.utils import data_dtype_from_header, data_shape_from_header

    found = MrcInterpreter(iostream=file.open(), header_only=True)  # closing it would write its header back
    header = found.header
    # Through text, so that 0.4 of 32 bits is 0.4.
    sizes = {d: float(str(found.voxel_size[d])) for d in "xyz"}
    origin = {d: float(str(header.origin[d])) for d in "xyz"}
    start = {d: int(found.nstart[d]) for d in "xyz"}
    # Which axis sections, rows and columns count: usually z, y and x.
    order = [int(header[name]) for name in ("maps", "mapr", "mapc")]
    shape, dtype = data_shape_from_header(header), data_dtype_from_header(header)
    offset = HEADER + int(header.nsymbt)
    stored = tuple("xyz"[axis - 1] for axis in order) if sorted(order) == [1, 2, 3] else ("z", "y", "x")
    stored = (*(("t",) if len(shape) == 4 else ()), *stored[-len(shape) :])
    known = {d: size for d, size in sizes.items() if size > 0}
    if any(origin.values()):
        first: dict[str, float] = {d: whole(origin[d] / size) for d, size in known.items()}
    else:
        # Starts are those of columns, rows and sections, whatever axis these count.
        counted = dict(zip("xyz", reversed(stored[-3:]), strict=False))
        first = {counted.get(d, d): n for d, n in start.items()}
    spec = flat.spec(file, offset, tuple(map(int, shape)), dtype, "C")
    unit = "angstrom" if known else ""
    return Contents(
        stored, tuple(map(int, shape)), dtype, flat.chunks(stored, shape), spec, Placement(known, unit, first)
    )


def opened(spec: Mapping[str, Any], version: str) -> Flat:
    """The voxels, by boxes."""
    return Flat(spec)
