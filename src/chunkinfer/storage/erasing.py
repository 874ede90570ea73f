"""Make room for an output: refuse what is there, or delete an array and nothing else."""

from __future__ import annotations

import json
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

from chunkinfer.errors import ChunkinferError, DestinationError
from chunkinfer.storage import failures, ome
from chunkinfer.storage.files import FOLDER, LEASE
from chunkinfer.storage.nodes import OBJECTS, read_objects
from chunkinfer.storage.precomputed import PROVENANCE
from chunkinfer.storage.store import kvstore
from chunkinfer.storage.urls import Location, safe_name

PLAN = "pyramid.json"
"""The object beside the ledger that says which levels a pyramid has, or will have."""

ERASING = f"{FOLDER}/erasing.json"
"""What is being deleted: whoever comes after a crash finishes it."""

ZARR_OBJECTS = (".zarray", ".zgroup", "zarr.json", ".zattrs", ".zmetadata")
CHUNK = re.compile(r"c|(c[/.])?\d+([/.]\d+)*")
"""Keys of chunks: 0/1/2 or 0.1.2 in zarr version 2, c/0/1/2 or c.0.1.2 in version 3, 0/1/2 in N5."""


def make_room(location: Location, overwrite: bool) -> None:
    """See that nothing is at a place, or delete the array there.

    Raises
    ------
    DestinationError
        Something is there, and it is no array or may not be overwritten.
    """
    try:
        _make_room(location, overwrite)
    except failures.FAILURES as error:
        if isinstance(error, ChunkinferError):
            raise
        raise failures.unwritable(location.url, error, "created") from error


def refuse_file(location: Location) -> None:
    """Raise `DestinationError` where a place is a file of the local machine."""
    if location.path is not None and location.path.exists() and not location.path.is_dir():
        raise DestinationError(
            f"{location.url} is a file.", "An output is a folder.", ["delete the file", "or choose another URL"]
        )


def _make_room(location: Location, overwrite: bool) -> None:
    refuse_file(location)
    found = read_objects(location, [*OBJECTS, ".zattrs"])
    markers = [name for name in OBJECTS if found[name] is not None]
    begun = kvstore(location.kvstore).read(ERASING).result()
    if not markers and begun.state == "value":
        _erase(location, _parsed(bytes(begun.value)))
    if not markers:
        if _is_empty(location):
            return
        raise DestinationError(
            f"{location.url} is not empty, and holds no array.",
            "Only an array is ever deleted, so this would be mixed with what is there.",
            ["choose another URL, such as a new folder in it", "or delete it yourself, if it can go"],
        )
    metas = {name: _parsed(content[0]) for name, content in found.items() if content is not None}
    is_group = ".zgroup" in metas or metas.get("zarr.json", {}).get("node_type") == "group"
    paths = _image_paths(metas) if is_group else ()
    if is_group and (not paths or "info" in metas):
        raise _group(location)
    if not is_group and not all(_is_array(name, metas[name]) for name in markers):
        raise DestinationError(
            f"The metadata at {location.url} is not that of an array, or damaged ({', '.join(markers)}).",
            "Which files belong to the array is unknown, and what stays would be read as part of the new one.",
            ["choose another URL", "or delete the folder yourself, if it can go"],
        )
    if not overwrite:
        raise DestinationError(
            f"{location.url} holds an array already ({', '.join(markers)}).",
            "An earlier run or another tool wrote it.",
            ["choose another URL", "or, if it can go, pass overwrite=True"],
        )
    if is_group and _others(location, paths):
        raise _group(location, ", and holds more than one image")
    scales = metas.get("info", {}).get("scales", [])
    paths += tuple(safe_name(str(scale["key"])) for scale in scales)
    if is_group or scales:
        paths += planned_paths(location)
    has_chunks = not is_group and any(name in metas for name in (".zarray", "zarr.json", "attributes.json"))
    _erase(location, {"metadata": sorted(metas), "folders": [f"{path}/" for path in paths], "chunks": has_chunks})


def planned_paths(location: Location) -> tuple[str, ...]:
    """Where the levels of a pyramid lie, also those that are not finished and so not announced."""
    found = kvstore(location.kvstore).read(f"{FOLDER}/{PLAN}").result()
    paths = _parsed(bytes(found.value)).get("paths", []) if found.state == "value" else []
    return tuple(safe_name(str(path)) for path in paths)


def erase_below(location: Location, path: str) -> None:
    """Delete everything below a path in a place, such as a level of a pyramid that is made anew."""
    prefix = f"{safe_name(path)}/"
    try:
        store = kvstore(location.kvstore)
        keys = [key.decode() for key in store.list(_range(prefix)).result()]
        for pending in [store.write(key, None) for key in keys]:
            pending.result()
    except failures.FAILURES as error:
        raise failures.unwritable(location.url, error, "cleared") from error
    if location.path is not None:
        _remove_empty_folders(location.path, keys)


def _range(prefix: str) -> Any:
    import tensorstore as ts

    return ts.KvStore.KeyRange(prefix, f"{prefix[:-1]}0")  # "0" follows "/"


def _image_paths(metas: dict[str, dict[str, Any]]) -> tuple[str, ...]:
    """Where the levels of the image lie that a group holds; () where it describes none."""
    v3 = metas.get("zarr.json", {}).get("attributes")
    image = ome.multiscale((v3 if "zarr.json" in metas else metas.get(".zattrs")) or {})
    return tuple(map(safe_name, ome.levels(image))) if image is not None else ()


def _others(location: Location, paths: tuple[str, ...]) -> bool:
    """Whether other arrays or groups than these lie below a place."""
    prefixes = tuple(f"{path}/" for path in (*paths, *planned_paths(location), FOLDER))
    keys = (key.decode() for key in kvstore(location.kvstore).list().result())
    return any("/" in key and key.endswith(tuple(OBJECTS)) and not key.startswith(prefixes) for key in keys)


def _group(location: Location, more: str = "") -> DestinationError:
    return DestinationError(
        f"{location.url} is a group{more}.",
        "A group may hold arrays that nobody meant to overwrite.",
        [f"write an array in it: {location.url}/name", "or choose another URL"],
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


def _erase(location: Location, what: dict[str, Any]) -> None:
    """Delete metadata first, so that what is left of an interrupted deletion is no array; then chunks and ledger.

    What is to be deleted is written down before: without its metadata nobody else could tell.
    """
    metadata, folders = what.get("metadata", []), tuple(what.get("folders", []))
    store = kvstore(location.kvstore)
    store.write(ERASING, json.dumps(what).encode()).result()
    keys = [key.decode() for key in store.list().result()]
    rest = [
        key
        for key in keys
        if key not in metadata
        and key not in (ERASING, f"{FOLDER}/{LEASE}")
        and (
            key.startswith((f"{FOLDER}/", *folders))
            or ("info" in metadata and key == PROVENANCE)
            or ("info" not in metadata and key in ZARR_OBJECTS)
            or (bool(what.get("chunks")) and CHUNK.fullmatch(key) is not None)
        )
    ]
    for key in metadata:
        store.write(key, None).result()
    for pending in [store.write(key, None) for key in rest]:
        pending.result()
    if location.path is not None:
        _remove_empty_folders(location.path, rest)
    store.write(ERASING, None).result()


def _remove_empty_folders(root: Path, deleted: list[str]) -> None:
    """Remove folders that the deletion emptied: tensorstore leaves them."""
    folders = {parent for key in deleted for parent in Path(key).parents if parent != Path(".")}
    for folder in sorted(folders, key=lambda folder: len(folder.parts), reverse=True):
        with suppress(OSError):
            (root / folder).rmdir()
