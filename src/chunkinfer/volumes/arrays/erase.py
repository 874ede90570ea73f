"""What belongs to a stored array; room for an output: an array that was there is deleted, and nothing else."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chunkinfer.errors import ChunkinferError, DestinationError, SourceError
from chunkinfer.stores import failures
from chunkinfer.stores.files import FOLDER, LEASE
from chunkinfer.stores.store import LOCK, kvstore
from chunkinfer.stores.urls import Location, safe_name
from chunkinfer.volumes.arrays.nodes import OBJECTS, read_objects
from chunkinfer.volumes.formats import ome
from chunkinfer.volumes.formats.precomputed.info import PROVENANCE

PLAN = "pyramid.json"
"""The object beside the ledger that says which levels a pyramid has, or will have."""

ERASING = f"{FOLDER}/erasing.json"
"""What is being deleted: whoever comes after a crash finishes it."""

METADATA = (*OBJECTS, ".zattrs")
"""Objects that make an array."""

ZARR_OBJECTS = (".zarray", ".zgroup", "zarr.json", ".zattrs", ".zmetadata")
CHUNK = re.compile(r"c|(c[/.])?\d+([/.]\d+)*")
"""Keys of chunks: 0/1/2 or 0.1.2 in zarr version 2, c/0/1/2 or c.0.1.2 in version 3, 0/1/2 in N5."""
VOXELS = re.compile(r"(-?\d+--?\d+_){2}-?\d+--?\d+(\.\w+)?|[0-9a-f]+\.(shard|index|data)")
"""Keys of chunks and shards in a scale of a precomputed volume."""


@dataclass(frozen=True)
class Belongings:
    """What an array, a volume with its levels, or an image is made of, as names below its place."""

    kind: str
    """In words; empty where its deletion was begun, and what it was is not known any more."""
    metadata: tuple[str, ...]
    """Objects, in the order in which they are deleted: first what tells that an array is there."""
    folders: tuple[str, ...] = ()
    """Its levels; each ends with a slash."""
    chunks: bool = False
    """Whether chunks lie beside the metadata."""

    def has(self, key: str) -> bool:
        """Whether a key below the place is the array's: of what lies in its folders, chunks and metadata alone."""
        if key in self.metadata or key.startswith(f"{FOLDER}/"):
            return key not in (ERASING, f"{FOLDER}/{LEASE}")
        for folder in self.folders:
            if key.startswith(folder):
                name = key.removeprefix(folder)
                return name in ZARR_OBJECTS or any(known.fullmatch(name) for known in (CHUNK, VOXELS))
        if "info" in self.metadata:
            return key == PROVENANCE
        return key in ZARR_OBJECTS or (self.chunks and CHUNK.fullmatch(key) is not None)


def belongings(location: Location) -> Belongings | None:
    """What belongs to the array at a place, or to one whose deletion a crash cut short; None where there is neither.

    Raises
    ------
    DestinationError
        A group, or metadata that is damaged: what belongs to an array is not known.
    """
    refuse_file(location)
    found = read_objects(location, list(METADATA))
    markers = [name for name in OBJECTS if found[name] is not None]
    if not markers:
        return _begun(location)
    metas = {name: _parsed(content[0]) for name, content in found.items() if content is not None}
    is_group = ".zgroup" in metas or metas.get("zarr.json", {}).get("node_type") == "group"
    paths = _image_paths(metas) if is_group else ()
    n5 = metas.get("attributes.json")
    levels_of_n5 = "s0/attributes.json" in metas or (n5 and "dimensions" not in n5)
    if levels_of_n5 or (is_group and (not paths or "info" in metas)):
        raise _group(location)
    if not is_group and not all(_is_array(name, metas[name]) for name in markers):
        raise DestinationError(
            f"The metadata at {location.url} is not that of an array, or damaged ({', '.join(markers)}).",
            "Which files belong to the array is unknown, and what stays would be read as part of the new one.",
            ["choose another URL", "or delete the folder yourself, if it can go"],
        )
    scales = metas.get("info", {}).get("scales", [])
    paths += tuple(safe_name(str(scale["key"])) for scale in scales)
    if is_group or scales:
        paths += tuple(path for path in planned_paths(location) if path not in paths)
    what = "OME-Zarr image" if is_group else "precomputed volume" if scales else f"{OBJECTS[markers[0]]} array"
    return Belongings(
        what,
        # Markers go first: with one of them left, what is left of an image would be taken for a group.
        tuple(sorted(metas, key=lambda name: (name not in OBJECTS, name))),
        tuple(f"{path}/" for path in paths),
        not is_group and any(name in metas for name in (".zarray", "zarr.json", "attributes.json")),
    )


def make_room(location: Location, overwrite: bool) -> None:
    """See that nothing is at a place, or delete the array there.

    Raises
    ------
    DestinationError
        Something is there, and it is no array or may not be overwritten.
    """
    with refused(location, "created"):
        there = check_room(location, overwrite)
        if there is not None:
            erase(location, there)
            if not there.kind:
                check_room(location, overwrite)


def check_room(location: Location, overwrite: bool) -> Belongings | None:
    """What has to be deleted to make room.

    Raises
    ------
    DestinationError
        As for `make_room`.
    """
    with refused(location, "created"):
        there = belongings(location)
        empty = there is not None or _is_empty(location)
    if there is not None and there.kind and not overwrite:
        raise DestinationError(
            f"{location.url} holds an array already ({', '.join(n for n in there.metadata if n in OBJECTS)}).",
            "An earlier run or another tool wrote it.",
            ["choose another URL", "if it can go: overwrite=True"],
        )
    if not empty:
        raise DestinationError(
            f"{location.url} is not empty, and holds no array.",
            "Only an array is ever deleted, so this would be mixed with what is there.",
            ["choose another URL, such as a new folder in it", "or delete it yourself, if it can go"],
        )
    return there


@contextmanager
def refused(location: Location, doing: str) -> Iterator[None]:
    """What the store raises, as an error of ours."""
    try:
        yield
    except failures.FAILURES as error:
        if isinstance(error, ChunkinferError):
            raise
        raise failures.unwritable(location.url, error, doing) from error


def refuse_file(location: Location) -> None:
    """Raise `DestinationError` where a place is a file of the local machine."""
    if location.path is not None and location.path.exists() and not location.path.is_dir():
        raise DestinationError(
            f"{location.url} is a file.", "An output is a folder.", ["delete the file", "or choose another URL"]
        )


def refuse_others(location: Location, there: Belongings) -> None:
    """Raise `DestinationError` where a group holds more than the image that belongs to it."""
    if there.kind == "OME-Zarr image":
        prefixes = (*there.folders, f"{FOLDER}/")
        keys = (key.decode() for key in kvstore(location.kvstore).list().result())
        if any("/" in key and key.endswith(tuple(OBJECTS)) and not key.startswith(prefixes) for key in keys):
            raise _group(location, ", and holds more than one image")


def erase(location: Location, there: Belongings) -> None:
    """Delete metadata first, so that what is left of an interrupted deletion is no array; then chunks and ledger.

    What is to be deleted is written down before: without its metadata nobody else could tell.

    Raises
    ------
    DestinationError
        A group holds more than the image.
    """
    refuse_others(location, there)
    store = kvstore(location.kvstore)
    said = {"metadata": there.metadata, "folders": there.folders, "chunks": there.chunks}
    store.write(ERASING, json.dumps(said).encode()).result()
    rest = [key for key in listed(location) if there.has(key.removesuffix(LOCK)) and key not in there.metadata]
    for key in there.metadata:
        store.write(key, None).result()
    delete_keys(location, rest)
    if location.path is not None:  # also those that a deletion emptied that was cut short
        inside = [os.path.relpath(os.path.join(folder, "0"), location.path) for folder, _, _ in os.walk(location.path)]
        _remove_empty_folders(location.path, [key for key in inside if there.has(key)])
    store.write(ERASING, None).result()


def listed(location: Location) -> Iterator[str]:
    """Keys below a place, also of local files that were being written when their writer was killed."""
    for key in kvstore(location.kvstore).list().result():
        yield key.decode()
    for folder, _, names in os.walk(location.path) if location.path is not None else ():
        yield from (os.path.relpath(os.path.join(folder, n), location.path) for n in names if n.endswith(LOCK))


def delete_keys(location: Location, keys: list[str]) -> None:
    """Delete objects below a place, and the folders that this empties: tensorstore leaves them."""
    store = kvstore(location.kvstore)
    for pending in [store.write(key, None) for key in keys if not key.endswith(LOCK)]:
        pending.result()
    if location.path is not None:
        for key in keys:
            if key.endswith(LOCK):
                (location.path / key).unlink(missing_ok=True)
        _remove_empty_folders(location.path, keys)


def planned_paths(location: Location) -> tuple[str, ...]:
    """Where the levels of a pyramid lie, also those that are not finished and so not announced."""
    found = kvstore(location.kvstore).read(f"{FOLDER}/{PLAN}").result()
    paths = _parsed(bytes(found.value)).get("paths", []) if found.state == "value" else []
    return tuple(safe_name(str(path)) for path in paths)


def erase_below(location: Location, path: str) -> None:
    """Delete everything below a path in a place, such as a level of a pyramid that is made anew."""
    prefix = f"{safe_name(path)}/"
    try:
        keys = [key.decode() for key in kvstore(location.kvstore).list(_range(prefix)).result()]
        delete_keys(location, keys)
    except failures.FAILURES as error:
        raise failures.unwritable(location.url, error, "cleared") from error


def _range(prefix: str) -> Any:
    import tensorstore as ts

    return ts.KvStore.KeyRange(prefix, f"{prefix[:-1]}0")  # "0" follows "/"


def _begun(location: Location) -> Belongings | None:
    """What an interrupted deletion was to delete. It is data that was found at a place: it is not believed further."""
    found = kvstore(location.kvstore).read(ERASING).result()
    if found.state != "value":
        return None
    said = _parsed(bytes(found.value))
    metadata, folders = said.get("metadata"), said.get("folders")
    if (
        not isinstance(metadata, list)
        or not isinstance(folders, list)
        or not all(name in METADATA for name in metadata)
        or not all(_is_folder(name) for name in folders)
    ):
        raise DestinationError(
            f"{location.url}/{ERASING} is not what a deletion writes down.",
            "It says what is still to be deleted; it was cut short or edited, or comes from somewhere else.",
            ["delete that file: what is beside it then stays", "or choose another URL"],
        )
    return Belongings("", tuple(metadata), tuple(folders), said.get("chunks") is True)


def _is_folder(name: Any) -> bool:
    """Whether it is a folder below a place."""
    try:
        return isinstance(name, str) and f"{safe_name(name)}/" == name
    except SourceError:
        return False


def _image_paths(metas: dict[str, dict[str, Any]]) -> tuple[str, ...]:
    """Where the levels of the image lie that a group holds; () where it describes none."""
    v3 = metas.get("zarr.json", {}).get("attributes")
    image = ome.multiscale((v3 if "zarr.json" in metas else metas.get(".zattrs")) or {})
    return tuple(map(safe_name, ome.levels(image))) if image is not None else ()


def _group(location: Location, more: str = "") -> DestinationError:
    return DestinationError(
        f"{location.url} is a group{more}.",
        "A group may hold arrays that nobody meant to delete.",
        [f"give an array in it: {location.url}/name", "or choose another URL"],
    )


def _parsed(text: bytes) -> dict[str, Any]:
    """Metadata of what is there; {} where it is damaged."""
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _is_array(marker: str, meta: dict[str, Any]) -> bool:
    if marker == "info":
        scales = meta.get("scales")
        return isinstance(scales, list) and bool(scales) and all(isinstance(s, dict) and "key" in s for s in scales)
    return "shape" in meta or "dimensions" in meta


def _is_empty(location: Location) -> bool:
    """Whether nothing is there, but what belongs to a run: its lease, or the ledger of an array that was deleted."""
    if location.path is not None:
        return not location.path.is_dir() or set(os.listdir(location.path)) <= {FOLDER}
    return all(key.startswith(f"{FOLDER}/".encode()) for key in kvstore(location.kvstore).list().result())


def _remove_empty_folders(root: Path, deleted: list[str]) -> None:
    """Remove folders that the deletion emptied."""
    folders = {parent for key in deleted for parent in Path(key).parents if parent != Path(".")}
    for folder in sorted(folders, key=lambda folder: len(folder.parts), reverse=True):
        with suppress(OSError):
            (root / folder).rmdir()
