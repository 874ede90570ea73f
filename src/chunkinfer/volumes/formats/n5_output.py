"""N5: ``attributes.json`` of an output, in the words of Neuroglancer and, ``pixelResolution``, of Fiji."""

from __future__ import annotations

import json
from typing import Any

from chunkinfer.volumes.arrays.axes import SPATIAL
from chunkinfer.volumes.arrays.meta import ZARR, Request, unsupported, unsupported_type
from chunkinfer.volumes.arrays.placement import LONG_NAMES, METRES, nanometres
from chunkinfer.volumes.formats.n5 import KNOWN, MARKER

DTYPES = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "float32", "float64")

COMPRESSIONS: dict[str, dict[str, Any]] = {
    "gzip": {"type": "gzip", "level": 5},
    "none": {"type": "raw"},
    "blosc": {"type": "blosc", "cname": "zstd", "clevel": 3, "shuffle": 1, "blocksize": 0},
}
"""What outputs can be compressed with; the first is the default, which every reader of N5 knows."""


def files(request: Request) -> dict[str, bytes]:
    """``attributes.json`` of an output.

    Raises
    ------
    DestinationError
        What the format cannot hold.
    """
    if request.dtype.name not in DTYPES:
        raise unsupported_type("The data type of an N5 dataset", request.dtype.name, DTYPES)
    if request.shards is not None:
        ways = ("leave shards= out", ZARR)
        raise unsupported("The shards of an N5 dataset", request.shards, "none: each chunk is an object", ways)
    if request.encoding not in (None, "raw"):
        ways = ("leave encoding= out", "or write a precomputed volume, whose chunks are encoded")
        raise unsupported("The encoding of an N5 dataset", request.encoding, "compressions, see compression=", ways)
    if (compression := request.compression or "gzip") not in COMPRESSIONS:
        ways = ("compression='gzip'", "leave compression= out")
        raise unsupported("The compression of an N5 dataset", compression, tuple(COMPRESSIONS), ways)
    size, unit, offset = request.placement.voxel_size, request.placement.unit, request.placement.offset
    if (
        unit in METRES and unit not in LONG_NAMES
    ):  # Neuroglancer knows the metre and its prefixes, and opens nothing else
        size, unit = nanometres(size, unit), "nm"
    stored = request.dims[::-1]
    resolution = [size.get(dim, 1.0) for dim in stored]
    meta = {
        **{name: value for name, value in request.attributes.items() if name not in KNOWN},
        "dimensions": request.shape[::-1],
        "blockSize": request.chunks[::-1],
        "dataType": request.dtype.name,
        "compression": COMPRESSIONS[compression],
        "axes": stored,
        "resolution": resolution,
        "units": [unit if dim in SPATIAL else "" for dim in stored],
        "offset": [offset.get(dim, 0) * size.get(dim, 1.0) for dim in stored],
        **({"pixelResolution": {"dimensions": resolution, "unit": unit}} if unit else {}),
    }
    return {MARKER: json.dumps(meta, indent=1).encode()}
