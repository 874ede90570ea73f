"""Neuroglancer precomputed volumes: the ``info`` file, read and written."""

from __future__ import annotations

import json
import math
import os
import shlex
import time
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from chunkinfer.errors import DestinationError, SourceError
from chunkinfer.stores import failures
from chunkinfer.volumes.arrays.axes import canonical
from chunkinfer.volumes.arrays.meta import ZARR, Described, Request, unsupported, unsupported_type
from chunkinfer.volumes.arrays.placement import BLOCK, Placement, nanometres, whole
from chunkinfer.volumes.formats.precomputed import morton

MARKER, PROVENANCE = "info", "provenance"
STORED = ("x", "y", "z", "c")
"""Axes as the format orders them."""
DTYPES = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "float32")
ENCODINGS: dict[str, tuple[str, ...]] = {
    "raw": DTYPES,
    "jpeg": ("uint8",),
    "png": ("uint8", "uint16"),
    "compressed_segmentation": ("uint32", "uint64"),
}
"""Encoding -> data types. jpeg is lossy; the others are exact."""
WRITTEN = ("raw", "jpeg", "compressed_segmentation")
"""Encodings that are offered for outputs."""
COMPRESSED_SUFFIXES = (".gz", ".br", ".zstd", ".xz", ".bz2")
"""What cloud-volume appends to the names of compressed local chunks."""
LISTED = 10_000
"""Local chunk files that are looked at when opening."""


def describe(info: Mapping[str, Any], url: str, level: int, path: Path | None) -> tuple[Described, str]:
    """What an ``info`` says of one scale, and its data type.

    Raises
    ------
    SourceError
        No volume, no such scale, an encoding that cannot be read, or chunks that cloud-volume compressed.
    """
    scales = info.get("scales")
    if not isinstance(scales, list) or not scales or not isinstance(info.get("data_type"), str):
        raise SourceError(
            f"{url} is precomputed data of type {info.get('@type', 'unknown')!r}, without scales or data_type.",
            "A mesh, skeleton or annotation folder has an info file too; a volume's lists its scales.",
            ["give the URL of the volume itself, usually one folder up", "or repair its info file"],
        )
    if not 0 <= level < len(scales):
        raise no_level(url, level, [f"{i}: {s.get('key')}" for i, s in enumerate(scales)])
    scale = scales[level]
    if scale.get("encoding") not in ENCODINGS:
        raise SourceError(
            f"{url} is encoded as {scale.get('encoding')!r}.",
            f"Readable encodings are {', '.join(ENCODINGS)}.",
            ["transfer it to one of these with cloud-volume or igneous", "or export the part you need to zarr"],
        )
    if not isinstance(scale["key"], str):
        raise TypeError(f"the key of level {level} is {scale['key']!r}")
    if path is not None and not scale.get("sharding"):
        _refuse_compressed(path / scale["key"], url)
    block = info.get(BLOCK, {})
    named = block.get("dims") if isinstance(block, Mapping) else None
    dims = canonical(named or (("x", "y", "z") if info.get("num_channels", 1) == 1 else STORED))
    resolution = dict(zip("xyz", map(float, scale["resolution"]), strict=True))
    offset = dict(zip("xyz", scale.get("voxel_offset", (0, 0, 0)), strict=True))
    names = dict(block.get("attributes", {})) if isinstance(block, Mapping) else {}
    placement = Placement(resolution, "nm", offset)
    return Described(STORED, dims, placement, names, {"scale_index": level}), info["data_type"]


def of_level(info: Mapping[str, Any], level: int) -> tuple[bytes, ...]:
    """What tells a level from another volume: its own entry, and what all levels share."""
    shared = {name: info.get(name) for name in ("type", "data_type", "num_channels")}
    return (json.dumps([shared, info["scales"][level]], sort_keys=True).encode(),)


def no_level(url: str, level: int, levels: Sequence[str]) -> SourceError:
    """The error for a level that does not exist."""
    return SourceError(
        f"{url} has no level {level}.",
        f"Levels are numbered from 0, the finest: {'; '.join(levels)}.",
        [f"open_volume({url!r}, level=0)", "or another of the levels above"],
    )


def _refuse_compressed(folder: Path, url: str) -> None:
    try:
        with os.scandir(folder) as entries:
            found = next((e.name for e in islice(entries, LISTED) if e.name.endswith(COMPRESSED_SUFFIXES)), None)
    except FileNotFoundError:
        return
    except OSError as error:
        raise failures.unreadable(str(folder), error) from error
    if found:
        raise SourceError(
            f"The chunks of {url} are compressed files, such as {found}.",
            "cloud-volume compresses local chunks by default; without its suffix no reader finds them, and the volume "
            "would read as zeros.",
            [
                f"unpack them in place: gunzip -r {shlex.quote(str(folder))}"
                if found.endswith(".gz")
                else "unpack every chunk, and remove the suffix from its name",
                "or write them anew with CloudVolume(..., compress=False), or to a sharded or zarr volume",
            ],
        )


# Writing


def grid(shape: Mapping[str, int], chunks: Mapping[str, int]) -> tuple[int, int, int]:
    """Chunks per axis, in x, y, z; absent axes have one."""
    x, y, z = (math.ceil(shape.get(dim, 1) / chunks.get(dim, 1)) for dim in "xyz")
    return x, y, z


def write_unit(shape: tuple[int, ...], dims: tuple[str, ...], chunks: Any, shards: Any) -> tuple[int, ...]:
    """The smallest box that covers the requested shard and is a shard; all channels belong to it."""
    _refuse_times(dims)
    sizes, chunk = dict(zip(dims, shape, strict=True)), dict(zip(dims, chunks, strict=True))
    box = (1, 1, 1)
    if shards is not None:
        want = dict(zip(dims, shards, strict=True))
        cells = grid(sizes, chunk)
        wanted = [math.ceil(want.get(dim, 1) / chunk.get(dim, 1)) for dim in "xyz"]
        box = morton.shard_box(cells, morton.shard_bits(cells, wanted))
    times = dict(zip("xyz", box, strict=True))
    return tuple(sizes[dim] if dim == "c" else chunk[dim] * times[dim] for dim in dims)


def files(request: Request) -> dict[str, bytes]:
    """The ``info`` of an output, and its ``provenance`` where the attributes tell of one.

    The attribute ``type`` says whether viewers show an "image" or a "segmentation"; without it, one channel of uint32
    or uint64 is a segmentation.

    Raises
    ------
    DestinationError
        Axes, data type, encoding, offset or shards that the format cannot hold.
    """
    sizes = dict(zip(request.dims, request.shape, strict=True))
    chunk = dict(zip(request.dims, request.chunks, strict=True))
    channels, dtype = sizes.get("c", 1), request.dtype.name
    _refuse_times(request.dims)
    if dtype not in DTYPES:
        raise unsupported_type("The data type of a precomputed volume", dtype, DTYPES)
    if request.compression is not None:
        ways = ("leave compression= out", "or write zarr, whose chunks are compressed")
        listed = "encodings, see encoding="
        raise unsupported("The compression of a precomputed volume", request.compression, listed, ways)
    if chunk.get("c", channels) != channels:
        whole_chunks = tuple(channels if dim == "c" else n for dim, n in zip(request.dims, request.chunks, strict=True))
        ways = (f"chunks={whole_chunks}", ZARR)
        raise unsupported("The channels in a chunk of a precomputed volume", chunk["c"], f"all {channels}", ways)
    encoding = request.encoding or ("compressed_segmentation" if dtype in ("uint32", "uint64") else "raw")
    plain = ("encoding='raw'", "leave encoding= out")
    if encoding not in WRITTEN:
        raise unsupported("The encoding of a precomputed volume", encoding, WRITTEN, plain)
    if dtype not in ENCODINGS[encoding] or (encoding == "jpeg" and channels not in (1, 3)):
        limits = "1 or 3 channels of uint8 (jpeg is lossy)" if encoding == "jpeg" else ENCODINGS[encoding]
        raise unsupported(f"The encoding of {channels} channel(s) of {dtype}", encoding, limits, plain)
    voxel = nanometres(request.placement.voxel_size, request.placement.unit)
    resolution = [voxel.get(dim, 1.0) for dim in "xyz"]
    scale: dict[str, Any] = {
        "key": "_".join(f"{size:.12g}" for size in resolution),
        "size": [sizes.get(dim, 1) for dim in "xyz"],
        "resolution": resolution,
        "voxel_offset": [_integer(request.placement.offset.get(dim, 0), dim) for dim in "xyz"],
        "chunk_sizes": [[chunk.get(dim, 1) for dim in "xyz"]],
        "encoding": encoding,
    }
    if encoding == "compressed_segmentation":
        scale["compressed_segmentation_block_size"] = [8, 8, 8]
    if encoding == "jpeg":
        scale["jpeg_quality"] = 90
    if request.shards is not None:
        scale["sharding"] = _sharding(request, sizes, chunk, encoding)
    info = {
        "@type": "neuroglancer_multiscale_volume",
        "type": _type(request.attributes.get("type"), dtype, channels),
        "data_type": dtype,
        "num_channels": channels,
        "scales": [scale],
        BLOCK: {"dims": list(request.dims), "attributes": dict(request.attributes)},
    }
    objects = {MARKER: json.dumps(info, indent=1).encode()}
    made_by = request.attributes.get("provenance")
    return objects if not isinstance(made_by, Mapping) else {PROVENANCE: _provenance(made_by), **objects}


def _refuse_times(dims: tuple[str, ...]) -> None:
    if "t" in dims:
        ways = (ZARR, "one time point at a time: save(array.isel(t=0), url)")
        raise unsupported("The axes of a precomputed volume", dims, ("c", "z", "y", "x"), ways)


def _type(asked: Any, dtype: str, channels: int) -> str:
    labels = channels == 1 and dtype != "float32"
    if asked == "segmentation" and not labels:
        ways = ("say what it is: save(array.assign_attrs(type='image'), url)", ZARR)
        raise unsupported("A segmentation", f"{channels} channel(s) of {dtype}", "one channel of integers", ways)
    if asked in ("image", "segmentation"):
        return str(asked)
    return "segmentation" if labels and dtype in ("uint32", "uint64") else "image"


def _provenance(made_by: Mapping[str, Any]) -> bytes:
    """What cloud-volume and igneous keep beside a volume: where it comes from and what was done."""
    source = made_by.get("input")
    source = source.get("url") if isinstance(source, Mapping) else source
    done = {"method": {"task": "chunkinfer", **made_by}, "by": "", "date": time.strftime("%Y-%m-%d %H:%M %Z")}
    record = {"description": "", "owners": [], "sources": [source] if source else [], "processing": [done]}
    return json.dumps(record, indent=1, default=str).encode()


def coarser(
    scale: Mapping[str, Any],
    times: Mapping[str, int],
    shape: Mapping[str, int],
    offset: Mapping[str, int],
    chunks: Mapping[str, int],
    unit: Mapping[str, int] | None,
) -> dict[str, Any]:
    """The scale of a coarser level, encoded as a given one.

    Parameters
    ----------
    scale
        Of the finest level, from the ``info``.
    times
        Voxels of the finest level per voxel, along x, y and z.
    shape, offset, chunks
        Along x, y and z, in voxels of the level.
    unit
        A shard in voxels, along x, y and z; None where each chunk is an object.
    """
    resolution = [float(f"{size * times[dim]:.12g}") for dim, size in zip("xyz", scale["resolution"], strict=True)]
    made = {name: value for name, value in scale.items() if name != "sharding"} | {
        "key": "_".join(f"{size:.12g}" for size in resolution),
        "size": [shape[dim] for dim in "xyz"],
        "resolution": resolution,
        "voxel_offset": [offset[dim] for dim in "xyz"],
        "chunk_sizes": [[chunks[dim] for dim in "xyz"]],
    }
    if unit is not None:
        cells = grid(shape, chunks)
        bits = morton.shard_bits(cells, [math.ceil(unit[dim] / chunks[dim]) for dim in "xyz"])
        made["sharding"] = morton.sharding(cells, bits, "raw" if scale["encoding"] == "jpeg" else "gzip")
    return made


def spec_of(info: Mapping[str, Any], scale: Mapping[str, Any]) -> dict[str, Any]:
    """Members of a tensorstore spec that open a scale which the ``info`` does not announce."""
    written = ("key", "size", "resolution", "voxel_offset", "encoding", "sharding", "jpeg_quality", "png_level",
               "compressed_segmentation_block_size")  # fmt: skip
    return {
        "multiscale_metadata": {name: info[name] for name in ("type", "data_type", "num_channels") if name in info},
        "scale_metadata": {
            **{name: scale[name] for name in written if name in scale}, "chunk_size": scale["chunk_sizes"][0]
        },
        "assume_metadata": True,
    }  # fmt: skip


def _integer(value: float, dim: str) -> int:
    offset = whole(value)
    if not isinstance(offset, int):
        raise DestinationError(
            f"The offset {value} voxels along {dim} is not an integer.",
            "Precomputed volumes lie on a grid of whole voxels from the origin.",
            [
                "write zarr instead: format='zarr3'",
                f"or give the volume an origin that is a multiple of its {dim} size",
            ],
        )
    return offset


def _sharding(request: Request, sizes: dict[str, int], chunk: dict[str, int], encoding: str) -> dict[str, object]:
    assert request.shards is not None
    unit = write_unit(request.shape, request.dims, request.chunks, request.shards)
    cells = grid(sizes, chunk)
    for dim, asked, got in zip(request.dims, request.shards, unit, strict=True):
        covered = math.ceil(sizes[dim] / chunk.get(dim, 1)) * chunk.get(dim, 1)
        if min(asked, covered) != min(got, covered):
            raise DestinationError(
                f"Shards of {request.shards} are not possible with chunks of {request.chunks}.",
                "A shard of a precomputed volume holds 2^a x 2^b x 2^c chunks whose axes double in turn: x, y, z.",
                [f"the smallest shard that covers the request: shards={unit}", "leave shards= out"],
            )
    bits = morton.shard_bits(
        cells, [math.ceil(unit[request.dims.index(d)] / chunk[d]) if d in chunk else 1 for d in "xyz"]
    )
    # jpeg does not shrink further.
    return morton.sharding(cells, bits, "raw" if encoding == "jpeg" else "gzip")
