"""Create an output: check everything first, then let it exist by one atomic write."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from chunkinfer.errors import ChunkinferError, DestinationError
from chunkinfer.stores import failures
from chunkinfer.stores.store import kvstore, opened
from chunkinfer.stores.urls import Location, locate, safe_name
from chunkinfer.volumes.arrays import erase
from chunkinfer.volumes.arrays.attributes import as_json
from chunkinfer.volumes.arrays.axes import ORDER
from chunkinfer.volumes.arrays.chunk_shape import default_chunks
from chunkinfer.volumes.arrays.destination import Destination
from chunkinfer.volumes.arrays.meta import ZARR, Request, unsupported
from chunkinfer.volumes.arrays.open import DRIVERS, open_source
from chunkinfer.volumes.arrays.placement import Placement, short_unit
from chunkinfer.volumes.arrays.single_files import refuse_file_name
from chunkinfer.volumes.arrays.source import Source
from chunkinfer.volumes.formats import n5_output, ome, zarr
from chunkinfer.volumes.formats.precomputed import info as precomputed


@dataclass(frozen=True)
class Format:
    """How outputs of one format come to be."""

    files: Callable[[Request, str], dict[str, bytes]]
    """The metadata objects, of a request and a name to show; the array exists once the last is there."""
    write_unit: Callable[[tuple[int, ...], tuple[str, ...], Any, Any], tuple[int, ...]]
    """The smallest unit that one writer must own."""
    read_as: str
    """The format that a reader finds there."""
    array: str = ""
    """Path of the finest level below the URL, with a slash, where the output is a group."""


FORMATS = {
    "zarr3": Format(lambda request, name: zarr.files3(request), zarr.write_unit, "zarr3"),
    "zarr2": Format(lambda request, name: zarr.files2(request), zarr.write_unit, "zarr2"),
    "precomputed": Format(lambda request, name: precomputed.files(request), precomputed.write_unit, "precomputed"),
    "ome-zarr": Format(ome.files5, zarr.write_unit, "zarr3", ome.FINEST),
    "ome-zarr-0.4": Format(ome.files4, zarr.write_unit, "zarr2", ome.FINEST),
    "n5": Format(lambda request, name: n5_output.files(request), zarr.write_unit, "n5"),
}

SUFFIXES = {".precomputed": "precomputed", ".ome.zarr": "ome-zarr", ".n5": "n5"}
"""What the end of a URL says of its format."""

ABSENT = b"\x02"
"""tensorstore's generation of an object that does not exist."""


def guess_format(url: str | os.PathLike[str], format: str | None = None) -> str:
    """The format of an output: the one asked for, else by prefix or suffix of the URL, else zarr3."""
    location = locate(url)
    if location.read_only:
        stem = location.url.rpartition("/")[2].partition(".")[0]
        raise DestinationError(
            f"{location.url} can only be read.",
            "Outputs go to a file system, S3 or Google Cloud Storage.",
            [f"to a path: save(array, {f'{stem}.zarr'!r})", "or to s3://bucket/name or gs://bucket/name"],
        )
    by_suffix = (name for suffix, name in SUFFIXES.items() if location.url.endswith(suffix))
    asked = format or location.format or next(by_suffix, "zarr3")
    asked = "zarr3" if asked == "zarr" else asked
    if asked not in FORMATS:
        raise unsupported(
            "The format of an output", asked, tuple(FORMATS), (ZARR, "leave format= out to take the URL's")
        )
    return asked


def write_unit(
    url: str | os.PathLike[str],
    *,
    format: str | None = None,
    shape: Sequence[int],
    dims: Sequence[str],
    chunks: Sequence[int] | None = None,
    shards: Sequence[int] | None = None,
) -> tuple[int, ...]:
    """The smallest unit that one writer of such an output must own; blocks are multiples of it.

    Where the format restricts shards, this is the smallest possible one that covers ``shards``. It can itself be given
    to :func:`create` as ``shards``.
    """
    chunks = tuple(chunks) if chunks is not None else default_chunks(shape, dims)
    return FORMATS[guess_format(url, format)].write_unit(
        tuple(shape), tuple(dims), chunks, None if shards is None else tuple(shards)
    )


@dataclass(frozen=True)
class ArraySpec:
    """An array that is wanted."""

    shape: Sequence[int]
    """Voxels along each axis."""
    dtype: DTypeLike
    dims: Sequence[str]
    """Axes out of ("t", "c", "z", "y", "x"), in that order."""
    format: str | None = None
    """"zarr3", "zarr2", "ome-zarr" (0.5, a group with one level), "ome-zarr-0.4", "precomputed" or "n5"; by default
    from the URL's prefix or suffix, else zarr3."""
    chunks: Sequence[int] | None = None
    """Smallest readable unit; by default those of `default_chunks`."""
    shards: Sequence[int] | None = None
    """Chunks stored in one object; by default each chunk is one. See `write_unit`."""
    voxel_size: Mapping[str, float] | None = None
    """Size of a voxel in ``unit``, per spatial axis."""
    unit: str = ""
    """Of length. Precomputed is always in nm, to which other units are converted: without one, sizes are taken for
    nm."""
    offset: Mapping[str, float] | None = None
    """Volume coordinate of index 0 in voxels, per spatial axis."""
    encoding: str | None = None
    """For precomputed: "raw", "jpeg" (lossy, and three channels bleed into each other as colours) or
    "compressed_segmentation"."""
    compression: str | None = None
    """For zarr: "zstd", "blosc", "gzip" or "none"."""
    attributes: Mapping[str, Any] | None = None
    """Further attributes to store, such as ``channel_names``: what JSON can hold of them (`attributes.as_json`)."""


def create(url: str | os.PathLike[str], spec: ArraySpec, overwrite: bool = False) -> Destination:
    """Create an empty array and open it for writing.

    Parameters
    ----------
    url
        Where; its parent folders are made, a bucket is not.
    spec
        The array.
    overwrite
        Delete an array that is there, with its ledger. Nothing but an array is ever deleted.

    Raises
    ------
    DestinationError
        Something is there already, the place cannot be written, or the format cannot hold the array.
    VolumeError
        The unit is no known length, and the format is in nm.
    """
    location, name, objects = dry_run(url, spec)
    erase.make_room(location, overwrite)
    try:
        _write(location, objects)
    except failures.FAILURES as error:
        if isinstance(error, ChunkinferError):
            raise
        raise failures.unwritable(location.url, error, "created") from error
    return open_destination(f"{name}://{location.url}")


def dry_run(url: str | os.PathLike[str], spec: ArraySpec) -> tuple[Location, str, dict[str, bytes]]:
    """Where an array would be created, its format and its metadata objects; nothing is stored.

    Raises
    ------
    DestinationError
        The format cannot hold the array.
    """
    location = locate(url)
    refuse_file_name(location, spec.format)
    name = guess_format(url, spec.format)
    objects = FORMATS[name].files(_request(spec), location.url.rpartition("/")[2].partition(".")[0] or "volume")
    _rehearse(location, name, objects)
    return location, name, objects


def open_destination(url: str | os.PathLike[str]) -> Destination:
    """Open an array that :func:`create` made, to go on writing.

    Raises
    ------
    SourceNotFound
        Nothing is there.
    DestinationError
        It is in a format that is only read.
    """
    prefix, _, rest = os.fspath(url).partition("://")
    source = open_source(f"{FORMATS[prefix].read_as}://{rest}" if rest and prefix in FORMATS else url)
    return as_destination(source)


def as_destination(source: Source) -> Destination:
    """A source that can also be written.

    Raises
    ------
    DestinationError
        It is in a format that is only read.
    """
    if source.format not in FORMATS or locate(source.url).read_only:
        raise DestinationError(
            f"{source.url} ({source.format}) can only be read.",
            "Outputs are zarr, precomputed or N5, on a file system, S3 or Google Cloud Storage.",
            [
                f"write to a copy of it: save(open_volume({source.url!r}), 'copy.ome.zarr', pyramid=True)",
                "or give the place that it was written to",
            ],
        )
    members = {field.name: getattr(source, field.name) for field in fields(Source)}
    spec = {**source.spec, "store_data_equal_to_fill_value": True}
    if source.format == "precomputed":
        # The format lets a scale lie outside of its volume. That is for readers: what is written stays below its URL.
        safe_name(opened(spec, source.digest + source.version, cached=False).spec().to_json()["scale_metadata"]["key"])
    return Destination(**{**members, "spec": spec})


def _request(spec: ArraySpec) -> Request:
    """The array in the form that formats take."""
    dims, placed = tuple(spec.dims), spec.voxel_size
    if dims != tuple(dim for dim in ORDER if dim in dims) or not len(dims) >= 2:
        listed = "two to five of ('t', 'c', 'z', 'y', 'x'), in that order"
        raise unsupported("The axes of an output", dims, listed, ("transpose the array", "or rename its axes"))
    chunks = default_chunks(spec.shape, dims, placed) if spec.chunks is None else spec.chunks
    for what, values in {"shape": spec.shape, "chunks": chunks, "shards": spec.shards}.items():
        if values is not None and (
            len(values) != len(dims) or any(value != int(value) or value < 1 for value in values)
        ):
            ways = (f"leave {what}= out", f"or give one integer for each of {dims}")
            if what == "shape":
                ways = ("give an array that has voxels", ways[1])
            raise unsupported(f"The {what} of an output", tuple(values), f"{len(dims)} positive integers", ways)
    chunks = tuple(int(value) for value in chunks)
    shards = None if spec.shards is None else tuple(int(value) for value in spec.shards)
    placement = Placement(dict(placed or {}), short_unit(spec.unit), dict(spec.offset or {})).complete(dims)
    if not all(np.isfinite(size) and size > 0 for size in placement.voxel_size.values()):
        ways = ("repair the coordinates of the array", "or drop them: save(array.drop_vars(array.coords), url)")
        raise unsupported("The voxel size of an output", dict(placement.voxel_size), "positive numbers", ways)
    return Request(
        shape=tuple(int(value) for value in spec.shape),
        dtype=np.dtype(spec.dtype),
        dims=dims,
        chunks=chunks,
        shards=None if shards == chunks else shards,
        placement=placement,
        encoding=spec.encoding,
        compression=spec.compression,
        attributes=as_json(spec.attributes or {}),
    )


def _rehearse(location: Location, format: str, objects: Mapping[str, bytes]) -> None:
    """Open the metadata in memory: nothing is stored that could not be opened again."""
    import tensorstore as ts

    context = ts.Context()
    try:
        memory = ts.KvStore.open({"driver": "memory"}, context=context).result()
        for name, content in objects.items():
            memory.write(name, content).result()
        kind = FORMATS[format]
        finest = {"driver": "memory", "path": kind.array}
        ts.open({"driver": DRIVERS[kind.read_as], "kvstore": finest}, context=context).result()
    except failures.FAILURES as error:
        raise failures.unwritable(location.url, error, "created") from error


def _write(location: Location, objects: Mapping[str, bytes]) -> None:
    store = kvstore(location.kvstore)
    *before, last = objects
    for name in before:
        store.write(name, objects[name]).result()
    stamp = store.write(last, objects[last], if_equal=ABSENT).result()
    if not stamp.generation:
        raise DestinationError(
            f"{location.url} was created by another process a moment ago.",
            "Two runs were given the same URL.",
            ["let one of them finish", "or choose another URL"],
        )
