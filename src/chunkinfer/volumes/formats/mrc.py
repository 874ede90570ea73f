"""MRC (CCP4): maps, tomograms and image stacks. Local files are memory-mapped."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from chunkinfer.errors import SourceError
from chunkinfer.stores.ranges import Stored
from chunkinfer.volumes.arrays.meta import Contents
from chunkinfer.volumes.arrays.numbers import in_voxels, shortest
from chunkinfer.volumes.arrays.placement import Placement
from chunkinfer.volumes.formats import flat
from chunkinfer.volumes.formats.flat import Flat

SUFFIXES = (".mrc", ".mrcs", ".map", ".rec", ".st", ".ali", ".ccp4")
WHAT = "MRC files"
NEEDS = "mrcfile"

HEADER = 1024
"""Bytes before the extended header."""

IMOD = 1146047817
"""The stamp of files whose header has IMOD's flags: b"IMOD" in little-endian order."""


def describe(file: Stored, inside: str, level: int) -> Contents:
    """What the header says: sizes in ångström; the origin where it is set, or else the first column, row, section."""
    from mrcfile.utils import data_shape_from_header

    header = _header(file)
    shape, dtype = tuple(map(int, data_shape_from_header(header))), _dtype(header)
    if (extended := int(header.nsymbt)) < 0:
        raise ValueError(f"its extended header has {extended} bytes")
    sizes = {d: _size(header.cella[d], int(header[f"m{d}"])) for d in "xyz"}
    known = {d: size for d, size in sizes.items() if size is not None}
    stored = _axes(header, len(shape))
    origin = {d: position for d in "xyz" if math.isfinite(position := shortest(header.origin[d]))}
    if any(origin.values()):
        first: dict[str, float] = {d: in_voxels(origin.get(d, 0.0), size) for d, size in known.items()}
    else:
        # Starts are those of columns, rows and sections, whatever axis these count.
        counted = dict(zip("xyz", reversed(stored[-3:]), strict=False))
        first = {counted.get(d, d): int(header[f"n{d}start"]) for d in "xyz"}
    spec = flat.spec(file, HEADER + extended, shape, dtype, "C")
    placement = Placement(known, "angstrom" if known else "", first)
    return Contents(stored, shape, dtype, flat.chunks(stored, shape), spec, placement)


def opened(spec: Mapping[str, Any], version: str) -> Flat:
    """The voxels, by boxes."""
    return Flat(spec)


def _dtype(header: Any) -> Any:
    """Type of the voxels. Bytes are signed, unless the file has IMOD's stamp and lacks its flag that they are.

    https://bio3d.colorado.edu/imod/doc/mrc_format.txt: imodStamp at byte 152, imodFlags at 156.
    """
    from mrcfile.utils import data_dtype_from_header

    dtype = data_dtype_from_header(header)
    stamp, flags = np.frombuffer(header.tobytes(), header.dtype["mode"], 2, 152)
    return np.dtype("u1") if dtype == np.int8 and stamp == IMOD and not flags & 1 else dtype


def _axes(header: Any, rank: int) -> tuple[str, ...]:
    """Which axis sections, rows and columns count: usually z, y and x."""
    order = [int(header[name]) for name in ("maps", "mapr", "mapc")]
    if order == [0, 0, 0]:  # as some programs leave them
        order = [3, 2, 1]
    if sorted(order) != [1, 2, 3]:
        raise ValueError(f"columns, rows and sections count the axes {order[::-1]}, and x, y and z are 1, 2 and 3")
    stored = tuple("xyz"[axis - 1] for axis in order)
    return (*(("t",) if rank == 4 else ()), *stored[-rank:])


def _size(cell: Any, count: int) -> float | None:
    """Edge of a voxel, of a cell of so many: the shortest decimal that gives the cell; None if the header has none."""
    if not (np.isfinite(cell) and cell > 0 and count > 0):
        return None
    quotient = float(cell) / count
    for digits in range(1, 9) if cell > np.finfo(np.float32).tiny else ():  # below, few digits are exact
        size = float(f"{quotient:.{digits}g}")
        if np.float32(size * count) == cell:
            return size
    return quotient


def _header(file: Stored) -> Any:
    """The header in the byte order of the file.

    Without the two marks of the format, "MAP " and a machine stamp, as old programs wrote it, the byte order is the one
    in which the header makes sense of the file, if it is one only.
    """
    from mrcfile.dtypes import HEADER_DTYPE
    from mrcfile.utils import byte_order_from_machine_stamp

    with file.open() as stream:
        content = stream.read(HEADER)
    if len(content) < HEADER:
        raise ValueError("it is shorter than the header of an MRC file")
    headers = {
        order: np.frombuffer(content, HEADER_DTYPE.newbyteorder(order)).reshape(()).view(np.recarray) for order in "<>"
    }
    marked, stamp = content[208:211] == b"MAP", content[212:216]
    try:
        order = byte_order_from_machine_stamp(stamp)
    except ValueError:
        order = ""
    if marked and order and _is_mode(headers[order]):
        return headers[order]
    if marked and order and not _is_mode(headers["<"]) and not _is_mode(headers[">"]):
        raise ValueError(f"its mode is {int(headers[order].mode)}, and read are 0, 1, 2, 6 and 12")
    fitting = [order for order, header in headers.items() if _makes_sense(header, file.size)]
    # Before there were marks, bytes 196 to 220 held other numbers than the origin.
    if len(fitting) != 1 or not (marked or order or not any(content[196:220])):
        raise _unmarked(file.url, content)
    return headers[fitting[0]]


def _is_mode(header: Any) -> bool:
    from mrcfile.utils import dtype_from_mode

    try:
        dtype_from_mode(header.mode)
        return True
    except ValueError:
        return False


def _makes_sense(header: Any, size: int) -> bool:
    """Whether the numbers of a header are possible, and describe a file of this size."""
    from mrcfile.utils import data_dtype_from_header

    counts = [int(header[name]) for name in ("nx", "ny", "nz")]
    axes = sorted(int(header[name]) for name in ("mapc", "mapr", "maps"))
    extended = int(header.nsymbt)
    if not _is_mode(header) or min(counts) < 1 or axes not in ([0, 0, 0], [1, 2, 3]) or extended < 0:
        return False
    return HEADER + extended + math.prod(counts) * int(data_dtype_from_header(header).itemsize) <= size


def _unmarked(url: str, content: bytes) -> SourceError:
    data = f"mrcfile.open({url!r}, permissive=True).data"
    return SourceError(
        f"{url} is not marked as MRC, and its byte order or origin cannot be told: bytes 208 to 212 are "
        f"{content[208:212]!r} where b'MAP ' is expected, and bytes 212 to 216, the machine stamp, are "
        f"0x{content[212:216].hex()} where 0x44440000, 0x44410000 or, in big-endian files, 0x11110000 is.",
        "It is damaged or another format; or of an old program, and its header fits the file in no or in both orders.",
        [
            f"look at it: {data}",
            f"and if that is right, write it anew: mrcfile.write('new.mrc', {data})",
        ],
    )
