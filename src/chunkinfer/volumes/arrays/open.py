"""Open a URL: find out what is there, choose one array, describe it."""

from __future__ import annotations

import os
import re
import shlex
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from chunkinfer.errors import AmbiguousSource, SourceError
from chunkinfer.stores import failures
from chunkinfer.stores.ranges import stored
from chunkinfer.stores.store import canonical as canonical_text
from chunkinfer.stores.store import opened
from chunkinfer.stores.urls import Location, locate
from chunkinfer.volumes.arrays.axes import canonical, recognise
from chunkinfer.volumes.arrays.meta import Contents, Described, check_dtype, digest_of
from chunkinfer.volumes.arrays.nodes import OBJECTS, Node, arrays_below, find, look, parse, planes_or_more, read_objects
from chunkinfer.volumes.arrays.source import Source
from chunkinfer.volumes.formats import cf, chunk_keys, n5, ome, readers, zarr
from chunkinfer.volumes.formats.ome_versions import alone
from chunkinfer.volumes.formats.precomputed import info as precomputed
from chunkinfer.volumes.formats.sections import naming, pictures, sections

DRIVERS = {"zarr2": "zarr", "zarr3": "zarr3", "precomputed": "neuroglancer_precomputed", "n5": "n5"}
"""Format -> tensorstore driver."""


UNPACK = {
    **dict.fromkeys((".tar.gz", ".tar.bz2", ".tar.xz", ".tgz", ".tar"), "tar xf"),
    ".gz": "gunzip --keep", ".bz2": "bunzip2 --keep", ".xz": "unxz --keep",
}  # fmt: skip
"""Suffix of packed files -> the command that unpacks them."""


OTHERS = {
    ".npz": "its first array: numpy.load({0})[numpy.load({0}).files[0]]",
    ".nc": "one of its variables: xarray.open_dataset({0}, chunks={{}})",
    ".hdr": "nibabel.save(nibabel.load({0}), 'volume.nii')",
    ".img": "nibabel.save(nibabel.load({0}), 'volume.nii')",
}
"""Suffix of files that are not read -> the line that makes a volume of one."""


def open_source(
    url: str | os.PathLike[str], *, level: int = 0, array: str | None = None, missing: str = "error"
) -> Source:
    """Open the array at a URL; only metadata is read.

    Parameters
    ----------
    url
        A path, ``file://``, ``s3://``, ``gs://`` or ``https://`` URL of a zarr array or group (v2, v3, OME-Zarr), a
        precomputed volume, N5; a TIFF, HDF5, NIfTI, MRC or .npy file; or sections, one picture each: their folder, or
        a pattern such as ``em/z{z:05d}.png`` (docs/formats.md). A prefix ``precomputed://``, ``zarr2://``, ``zarr3://``
        or ``n5://`` decides where several are at one place.
    level
        Level of a multiscale image, by number; 0 is the finest.
    array
        Name of an array in a group, of a dataset in an HDF5 file, number of an image in a TIFF file.
    missing
        What an absent chunk or section is: "error" raises :class:`MissingChunk`, "fill" reads the fill value.

    Raises
    ------
    SourceNotFound
        Nothing is there.
    AmbiguousSource
        A group holds several arrays, or names of sections do not tell their order.
    MissingExtra
        The library that reads the format is absent.
    SourceError
        It cannot be read, or is no volume.
    """
    if missing not in ("error", "fill"):
        raise SourceError(
            f"missing={missing!r} is not an option.",
            "An absent chunk is an error, or to be filled.",
            ["missing='error'", "missing='fill' reads the fill value"],
        )
    if not isinstance(level, int):
        raise SourceError(
            f"level={level!r} is not a number.",
            "Levels are numbered; 0 is the finest.",
            ["level=0", "leave level= out for the finest"],
        )
    location = locate(url)
    if array is not None:
        location = location.child(array)
    if location.format is None and (contents := _file_or_sections(location, level, missing)):
        return contents
    node = find(location)
    if (
        node is None
        and location.format is None
        and location.path is not None
        and (found := sections.describe(location, missing))
    ):
        return _of_contents(found, "sections", location.url, level)
    return _from_node(node or look(location), level, missing)


def _file_or_sections(location: Location, level: int, missing: str) -> Source | None:
    """What a single file holds, or sections that a pattern names; None where metadata objects tell."""
    if naming.is_pattern(location):
        found = sections.describe(location, missing)
    elif file := location.file_in(tuple(readers.SUFFIXES)):
        return _open_file(*file, level)
    elif location.file_in(pictures.SUFFIXES):
        found = sections.single(location)
    elif packed := location.file_in(tuple(UNPACK)):
        raise _packed(packed[0])
    elif location.path is not None and os.path.isfile(location.path):
        line = next((line for suffix, line in OTHERS.items() if location.url.lower().endswith(suffix)), None)
        ways = [line.format(repr(location.url))] if line else ["give the folder that holds it, or rename it"]
        if location.path.name in OBJECTS:
            ways = [f"give the folder that holds it: open_volume({location.parent().url!r})"]
        raise SourceError(
            f"{location.path} is a single file.",
            f"A volume is a folder, or a file that ends in {', '.join((*readers.SUFFIXES, *pictures.SUFFIXES))}.",
            [*ways, "or convert it: numpy.save('volume.npy', array)"],
        )
    else:
        return None
    return None if found is None else _of_contents(found, "sections", location.url, level)


def _packed(place: Location) -> SourceError:
    """The error for a file that cannot be entered in the middle."""
    suffix = next(suffix for suffix in UNPACK if place.url.lower().endswith(suffix))
    folder, _, name = place.url.rpartition("/")
    file = place.url if place.path is not None else name
    line = f"{UNPACK[suffix]} {shlex.quote(file)}"
    if "tar" in line.split() and place.path is not None:
        line += f" -C {shlex.quote(folder)}"
    return SourceError(
        f"{place.url} is packed as a whole.",
        "A box of it cannot be read without unpacking all that lies before it; of packed files, only .nii.gz is read.",
        [
            line if place.path is not None else f"copy it to a local disk, and unpack it there: {line}",
            f"then open_volume({file[: -len(suffix)]!r})",
        ],
    )


def _from_node(node: Node, level: int, missing: str) -> Source:
    location = node.location
    try:
        if node.format == "precomputed":
            described, dtype = precomputed.describe(node.meta, location.url, level, location.path)
            node = replace(node, raw=precomputed.of_level(node.meta, level))
            node = replace(node, version=node.finest_version) if level == 0 and node.finest_version else node
        elif node.is_group:
            return (_from_n5_group if node.format == "n5" else _from_group)(node, level, missing)
        else:
            _only_level(location, level)
            described, dtype = describe_zarr(node)
            if node.format != "n5":
                described = replace(described, placement=cf.placed(node, described.stored, described.placement))
        check_dtype(dtype, location.url)
        return stored_source(node, described, missing, level=level)
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise _malformed(node, error) from error


def describe_zarr(node: Node) -> tuple[Described, Any]:
    """What the metadata of an array of zarr or N5 says."""
    if node.format == "n5":
        return n5.describe(node.meta, node.location.url, _finest(node))
    if node.format == "zarr2":
        described, dtype = zarr.describe2(node.meta, node.attributes, node.location.url)
    else:
        described, dtype = zarr.describe3(node.meta, node.location.url)
    check_dtype(dtype, node.location.url)
    cf.refuse_packed(node, dtype)
    return described, dtype


def _finest(node: Node) -> dict[str, Any] | None:
    """What the finest level says, of a level of N5 that was opened by its own name; None of another array."""
    if "transform" not in node.meta or not re.fullmatch(r"s[1-9]\d*", node.location.url.rpartition("/")[2]):
        return None
    above, name = node.location.parent(), f"s0/{n5.MARKER}"
    found = read_objects(above, [name])[name]
    return None if found is None else parse(above, name, found[0])


def _from_n5_group(node: Node, level: int, missing: str) -> Source:
    """The levels of a multiscale group are its arrays s0, s1, ..."""
    name = f"s{level}"
    there = read_objects(node.location, [f"{n}/{n5.MARKER}" for n in ("s0", name)])
    if (first := there[f"s0/{n5.MARKER}"]) is None:
        return _from_node(look(node.location.child(_only_array(node))), level, missing)
    if there[f"{name}/{n5.MARKER}"] is None:
        others = read_objects(node.location, [f"s{i}/{n5.MARKER}" for i in range(20)])
        listed = [f"{i}: s{i}" for i, found in enumerate(others.values()) if found]
        raise precomputed.no_level(node.location.url, level, listed)
    found = look(replace(node.location.child(name), format="n5"))
    finest = parse(node.location, f"s0/{n5.MARKER}", first[0])
    meta = n5.of_level(node.meta, found.meta, level)
    described, dtype = n5.describe(meta, found.location.url, n5.of_level(node.meta, finest, 0))
    check_dtype(dtype, found.location.url)
    return stored_source(found, described, missing, node.location.url, level)


def _only_level(location: Location, level: int) -> None:
    if level != 0:
        raise precomputed.no_level(location.url, level, ["0: the array itself"])


def _from_group(node: Node, level: int, missing: str) -> Source:
    url = node.location.url
    image = ome.described(node.attributes, url)
    if image is None:
        return _from_node(look(node.location.child(_only_array(node))), level, missing)
    paths = ome.levels(image)
    if not 0 <= level < len(paths):
        raise precomputed.no_level(url, level, [f"{i}: {path}" for i, path in enumerate(paths)])
    found = look(node.location.child(paths[level]))
    described, dtype = describe_zarr(found)
    check_dtype(dtype, found.location.url)
    itself = f"open the array itself: {alone(image, level, url)}"
    stored = recognise(ome.axis_names(image), len(found.meta["shape"]), url, instead=itself)
    if level > 0 and not ome.is_placed(image, level):
        finest = look(node.location.child(paths[0])).meta["shape"]
        image = ome.placed_by_shape(image, level, found.meta["shape"], finest, url)
    channels = ome.channel_names(node.attributes)
    described = replace(
        described,
        stored=stored,
        dims=canonical(stored),
        placement=ome.placement(image, level, stored, url),
        names={**described.names, **({"channel_names": channels} if channels else {})},
    )
    return stored_source(found, described, missing, url, level)


def _only_array(group: Node) -> str:
    url, names = group.location.url, arrays_below(group)
    if names is None:
        raise AmbiguousSource(
            f"{url} is a group, and its store cannot list what is in it without listing every chunk.",
            "Groups in object stores are looked through only where their metadata is consolidated.",
            ["name the array in it, at the end of the URL or by array=", "or consolidate the group's metadata"],
        )
    if not names:
        raise SourceError(
            f"{url} is a group without arrays.",
            "Its arrays were never written, or lie deeper than three groups down.",
            ["give the URL of the array itself", "or write the array first"],
        )
    if len(names) > 1:
        names = planes_or_more(group, names) or names
    if len(names) > 1:
        raise AmbiguousSource(
            f"{url} is a group of {len(names)} arrays: {', '.join(names[:20])}{', ...' if len(names) > 20 else ''}.",
            "Which of them is the volume cannot be guessed.",
            [f"open_volume({url!r}, array={name!r})" for name in names[:2]],
        )
    return names[0]


def stored_source(node: Node, described: Described, missing: str, url: str | None = None, level: int = 0) -> Source:
    """Open what was described, turned to numpy order and indices from 0."""
    location = node.location
    spec: dict[str, Any] = {
        "driver": DRIVERS[node.format],
        "kvstore": location.kvstore,
        "fill_missing_data_reads": missing == "fill",
        **described.options,
        **understood(node),
    }
    placement = described.placement.complete(described.dims)
    if not placement.possible:
        raise SourceError(
            f"{location.url} has the voxel size {placement.voxel_size} and the offset {placement.offset}.",
            "A voxel size is positive and finite on every axis, an offset is finite.",
            [
                "repair the metadata",
                "or remove what it says of them, and give them when you open it: voxel_size, offset",
            ],
        )
    # Not of what is said beside it: a volume stays the same when a level is added, or another array to its group.
    digest = digest_of(*node.raw, canonical_text(asdict(described)).encode())
    try:
        store = turned(opened(spec, digest + node.version), described)
    except failures.FAILURES as error:
        if isinstance(error, SourceError):
            raise
        raise failures.refused_metadata(location.url, node.format, node.meta, error) from error
    chunks = tuple(store.chunk_layout.read_chunk.shape)
    return Source(
        url=url or location.url,
        format=node.format,
        spec=store.spec(minimal_spec="metadata" not in spec).to_json(),
        dims=described.dims,
        shape=tuple(store.shape),
        dtype=np.dtype(store.dtype.numpy_dtype),
        chunks=chunks,
        # 0 where the layout leaves it open, as shards with hashed keys do.
        shards=tuple(u or s for u, s in zip(store.chunk_layout.write_chunk.shape, store.shape, strict=True)),
        voxel_size=placement.voxel_size,
        unit=placement.unit,
        offset=placement.offset,
        names=dict(described.names),
        version=node.version,
        digest=digest,
        missing=missing,
        level=level,
    )


def understood(node: Node) -> dict[str, Any]:
    """Members of a tensorstore spec that replace metadata which it does not read as it is meant."""
    if node.format not in ("zarr2", "zarr3", "n5"):
        return {}
    # Python writes NaN where JSON has no word for it: in fill values, and in attributes of others.
    meta = zarr.strict(node.meta)
    if node.format == "zarr2" and (separator := chunk_keys.separator(node)):
        meta = {**meta, "dimension_separator": separator}
    return {} if meta == node.meta else {"metadata": meta, "assume_metadata": True}


def turned(store: Any, described: Described) -> Any:
    """A view of a store with the axes ``dims``, from index 0, with bounds that do not follow later resizing."""
    import tensorstore as ts

    stored, dims = described.stored, described.dims
    store = store[ts.d[:].translate_to[0]][ts.d[:].mark_bounds_implicit[False]][ts.d[:].label[stored]]
    for dim in stored:
        if dim not in dims:
            store = store[ts.d[dim][0]]
    return store[ts.d[dims].transpose[:]]


def _malformed(node: Node, error: Exception) -> SourceError:
    return SourceError(
        f"The metadata of {node.location.url} cannot be understood: {type(error).__name__}: {error}",
        f"It is not what {node.format} prescribes: a required member is absent or of another kind.",
        ["compare it with the format's specification and repair it", "or write the array anew"],
    )


def _open_file(place: Location, inside: str, level: int) -> Source:
    format = next(name for suffix, name in readers.SUFFIXES.items() if place.url.lower().endswith(suffix))
    if inside and format not in readers.NESTED:
        raise SourceError(
            f"{place.url} holds one array; {inside!r} names nothing in it.",
            "Files of this kind have no parts with names.",
            [f"open_volume({place.url!r})", "or another file"],
        )
    if format not in readers.LEVELS:
        _only_level(place, level)
    file = stored(place)
    url = f"{place.url}/{inside}" if inside else place.url
    return _of_contents(replace(readers.describe(format, file, inside, level), version=file.version), format, url)


def _of_contents(found: Contents, format: str, url: str, level: int = 0) -> Source:
    """A source whose voxels another library reads."""
    if level:
        raise precomputed.no_level(url, level, ["0: the array itself"])
    check_dtype(found.dtype.name, url)
    if not all(n > 0 for n in found.shape):
        raise SourceError(
            f"{url} has no voxels: its axes {found.stored} have the lengths {tuple(map(int, found.shape))}.",
            "It was never filled, or its header is damaged.",
            ["choose another array or file", "or write it anew"],
        )
    dims = canonical(found.stored)
    order = [found.stored.index(dim) for dim in dims]
    placement = found.placement.complete(dims)
    chunks = tuple(int(found.chunks[axis]) for axis in order)
    spec = {"driver": format, **found.spec, "axes": list(found.stored)}
    shape, dtype = tuple(int(found.shape[axis]) for axis in order), found.dtype.newbyteorder("=")
    return Source(
        url=url,
        format=format,
        spec=spec,
        dims=dims,
        shape=shape,
        dtype=dtype,
        chunks=chunks,
        shards=chunks,
        voxel_size=placement.voxel_size,
        unit=placement.unit,
        offset=placement.offset,
        names=dict(found.names),
        version=found.version,
        digest=digest_of(canonical_text(spec).encode(), repr((shape, dtype.str)).encode()),
    )
