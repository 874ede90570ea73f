"""Zarr metadata, versions 2 and 3: what an array's says, and what an output's shall say."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from chunkinfer.errors import DestinationError, SourceError
from chunkinfer.stores.failures import COPY
from chunkinfer.volumes.arrays.axes import canonical, recognise
from chunkinfer.volumes.arrays.meta import DTYPES, Described, Request, unsupported
from chunkinfer.volumes.arrays.placement import BLOCK, Placement, dimension_units, from_attributes

MARKER2, MARKER3 = ".zarray", "zarr.json"

COMPRESSIONS = ("zstd", "blosc", "gzip", "none")
"""What outputs can be compressed with; the default is blosc (shuffled zstd) for voxels of several bytes, else zstd."""

COMPRESSORS2 = ("blosc", "bz2", "gzip", "zlib", "zstd")
"""What of version 2 is read."""

KNOWN = (BLOCK, "_ARRAY_DIMENSIONS", "dimension_units", "voxel_size", "resolution", "offset", "units", "multiscales",
         "ome", "omero")  # fmt: skip
"""Attributes that are read here or in :mod:`ome`; all others are kept as names."""


def describe2(meta: Mapping[str, Any], attributes: Mapping[str, Any], url: str) -> tuple[Described, Any]:
    """What ``.zarray`` and ``.zattrs`` say, and the data type.

    Raises
    ------
    SourceError
        Its chunks went through filters, or a compressor that is not read.
    """
    compressor = [codec for codec in [meta.get("compressor")] if codec and codec["id"] not in COMPRESSORS2]
    if unread := [str(codec["id"]) for codec in [*(meta.get("filters") or []), *compressor]]:
        raise SourceError(
            f"The chunks of {url} are encoded by {', '.join(unread)}.",
            f"Of zarr version 2, arrays without filters are read, compressed by {', '.join(COMPRESSORS2)}.",
            [
                f"copy it with zarr-python: a = zarr.open_array({url!r}); {COPY}",
                "or write it anew without filters",
            ],
        )
    dtype = meta["dtype"]
    try:
        name = np.dtype(dtype).name if isinstance(dtype, str) else dtype
    except TypeError:
        name = dtype
    return _described(attributes.get("_ARRAY_DIMENSIONS"), attributes, len(meta["shape"]), url), name


def describe3(meta: Mapping[str, Any], url: str) -> tuple[Described, Any]:
    """What the ``zarr.json`` of an array says, and the data type."""
    attributes = meta.get("attributes") or {}
    names = meta.get("dimension_names") or attributes.get("_ARRAY_DIMENSIONS")
    if meta["chunk_grid"]["name"] != "regular":
        raise SourceError(
            f"{url} has a chunk grid of kind {meta['chunk_grid']['name']!r}.",
            "Only regular grids are readable: all chunks of one shape.",
            ["write the array anew with one chunk shape", "or choose another array"],
        )
    return _described(names, attributes, len(meta["shape"]), url), meta["data_type"]


def _described(names: Any, attributes: Mapping[str, Any], rank: int, url: str) -> Described:
    axis_names = names if names is not None else attributes.get("axis_names")
    kept = "under dimension_names or, of version 2, _ARRAY_DIMENSIONS"
    stored = recognise(axis_names, rank, url, kept, f"dask.array.from_zarr({url!r})")
    extra = {name: value for name, value in attributes.items() if name not in KNOWN}
    return Described(stored, canonical(stored), from_attributes(attributes, stored), extra)


def strict(value: Any) -> Any:
    """JSON with the names of zarr for the numbers that it lacks."""
    if isinstance(value, Mapping):
        return {name: strict(part) for name, part in value.items()}
    if isinstance(value, list):
        return [strict(part) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


# Writing


def write_unit(shape: tuple[int, ...], dims: tuple[str, ...], chunks: Any, shards: Any) -> tuple[int, ...]:
    """The shard, rounded up to whole chunks, or the chunk."""
    if shards is None:
        return tuple(chunks)
    return tuple(-(-shard // chunk) * chunk for shard, chunk in zip(shards, chunks, strict=True))


def files2(request: Request, newer: str = "zarr3") -> dict[str, bytes]:
    """``.zattrs`` and ``.zarray`` of an output; the array exists once the second is there.

    Parameters
    ----------
    request
        What to write.
    newer
        The format that has shards, for messages.
    """
    if request.shards is not None:
        raise DestinationError(
            f"zarr2 has no shards; {request.shards} were asked for.",
            "Version 2 of zarr stores one object per chunk.",
            [f"write version 3: format={newer!r}", f"larger chunks instead: chunks={request.shards}, shards=False"],
        )
    _check(request)
    meta = {
        "zarr_format": 2,
        "shape": request.shape,
        "chunks": request.chunks,
        "dtype": request.dtype.newbyteorder("<").str,
        "compressor": _compressor2(request),
        "fill_value": _zero(request.dtype),
        "order": "C",
        "filters": None,
        "dimension_separator": "/",
    }
    attributes = {**_attributes(request), "_ARRAY_DIMENSIONS": request.dims}
    return {".zattrs": json.dumps(attributes, indent=1).encode(), MARKER2: json.dumps(meta, indent=1).encode()}


def files3(request: Request) -> dict[str, bytes]:
    """``zarr.json`` of an output."""
    _check(request)
    codecs = [{"name": "bytes", "configuration": {"endian": "little"}}, *_compressors3(request)]
    if request.dtype.itemsize == 1:
        codecs[0] = {"name": "bytes"}
    if request.shards is not None:
        for dim, chunk, shard in zip(request.dims, request.chunks, request.shards, strict=True):
            if shard % chunk:
                raise DestinationError(
                    f"A shard of {shard} voxels along {dim} does not hold whole chunks of {chunk}.",
                    f"Chunks {request.chunks} must divide shards {request.shards} on every axis.",
                    [
                        f"shards={write_unit(request.shape, request.dims, request.chunks, request.shards)}",
                        "or chunks that divide the shard",
                    ],
                )
        inner = {
            "chunk_shape": request.chunks,
            "codecs": codecs,
            "index_codecs": [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}],
            "index_location": "end",
        }
        codecs = [{"name": "sharding_indexed", "configuration": inner}]
    attributes = _attributes(request)
    if request.placement.unit:
        attributes["dimension_units"] = dimension_units(request.placement, request.dims)
    meta = {
        "zarr_format": 3,
        "node_type": "array",
        "shape": request.shape,
        "data_type": request.dtype.name,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": request.shards or request.chunks}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": _zero(request.dtype),
        "codecs": codecs,
        "attributes": attributes,
        "dimension_names": request.dims,
        "storage_transformers": [],
    }
    return {MARKER3: json.dumps(meta, indent=1).encode()}


def coarser(
    meta: Mapping[str, Any],
    attributes: Mapping[str, Any],
    shape: tuple[int, ...],
    chunks: tuple[int, ...],
    shards: tuple[int, ...] | None,
    placement: Placement,
) -> dict[str, bytes]:
    """The metadata objects of an array of another size, encoded as a given one.

    Parameters
    ----------
    meta, attributes
        Of the given array; version 3 holds its attributes in the metadata.
    shape, chunks, shards
        Of the new one, in stored order; ``shards`` is None where each chunk is an object.
    placement
        Of the new one.
    """
    meta, extra = strict(meta), strict({name: value for name, value in attributes.items() if name not in KNOWN})
    if meta["zarr_format"] == 2:
        names = {"_ARRAY_DIMENSIONS": attributes["_ARRAY_DIMENSIONS"]} if "_ARRAY_DIMENSIONS" in attributes else {}
        made = {**meta, "shape": shape, "chunks": chunks}
        about = {**extra, **names, BLOCK: placement.attributes()}
        return {".zattrs": json.dumps(about, indent=1).encode(), MARKER2: json.dumps(made, indent=1).encode()}
    codecs = meta["codecs"]
    if codecs[0]["name"] == "sharding_indexed":
        inner = {**codecs[0]["configuration"], "chunk_shape": chunks}
        codecs = [{**codecs[0], "configuration": inner}]
    grid = {"name": "regular", "configuration": {"chunk_shape": shards or chunks}}
    made = {
        **meta, "shape": shape, "chunk_grid": grid, "codecs": codecs,
        "attributes": {**extra, BLOCK: placement.attributes()},
    }  # fmt: skip
    if placement.unit and "dimension_units" in attributes:
        made["attributes"]["dimension_units"] = dimension_units(placement, meta.get("dimension_names") or ())
    return {MARKER3: json.dumps(made, indent=1).encode()}


def _attributes(request: Request) -> dict[str, Any]:
    return {**request.attributes, BLOCK: request.placement.attributes()}


def _check(request: Request) -> None:
    if request.dtype.name not in DTYPES:
        raise unsupported(
            "The data type of a zarr array",
            request.dtype.name,
            DTYPES,
            ("convert it: save(array.astype('float32'), url)", "or choose another array"),
        )
    if request.encoding not in (None, "raw"):
        ways = ("leave encoding= out", "or write a precomputed volume, whose chunks are encoded")
        raise unsupported("The encoding of a zarr array", request.encoding, "compressions, see compression=", ways)
    if request.compression not in (None, *COMPRESSIONS):
        ways = ("compression='zstd'", "leave compression= out")
        raise unsupported("The compression of a zarr array", request.compression, COMPRESSIONS, ways)


def _compression(request: Request) -> str:
    return request.compression or ("blosc" if request.dtype.itemsize > 1 else "zstd")


def _compressors3(request: Request) -> list[dict[str, Any]]:
    size = request.dtype.itemsize
    blosc = {"cname": "zstd", "clevel": 3, "shuffle": "shuffle", "typesize": size, "blocksize": 0}
    table: dict[str, list[dict[str, Any]]] = {
        "zstd": [{"name": "zstd", "configuration": {"level": 3, "checksum": False}}],
        "blosc": [{"name": "blosc", "configuration": blosc}],
        "gzip": [{"name": "gzip", "configuration": {"level": 5}}],
        "none": [],
    }
    return table[_compression(request)]


def _compressor2(request: Request) -> dict[str, Any] | None:
    table: dict[str, dict[str, Any] | None] = {
        "zstd": {"id": "zstd", "level": 3},
        "blosc": {"id": "blosc", "cname": "zstd", "clevel": 3, "shuffle": 1, "blocksize": 0},
        "gzip": {"id": "gzip", "level": 5},
        "none": None,
    }
    return table[_compression(request)]


def _zero(dtype: np.dtype[Any]) -> bool | int | float:
    zero: bool | int | float = np.zeros((), dtype).item()
    return zero
