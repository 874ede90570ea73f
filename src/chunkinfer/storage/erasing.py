"""Make room for an output: refuse what is there, or delete an array and nothing else."""

from __future__ import annotations

import json
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

from chunkinfer.errors import ChunkinferError, DestinationError
from chunkinfer.storage import failures
from chunkinfer.storage.files import FOLDER
from chunkinfer.storage.nodes import OBJECTS, read_objects
from chunkinfer.storage.store import kvstore
from chunkinfer.storage.urls import Location, safe_name

ZARR_OBJECTS = (".zarray", "zarr.json", ".zattrs", ".zmetadata")
ZARR_CHUNK = re.compile(r"c|(c[/.])?\d+([/.]\d+)*")
"""Keys of chunks: 0/1/2 or 0.1.2 in version 2, c/0/1/2 or c.0.1.2 in version 3."""


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
    if not markers:
        if _is_empty(location):
            return
        raise DestinationError(
            f"{location.url} is not empty, and holds no array.",
            "Only an array is ever deleted, so this would be mixed with what is there.",
            ["choose another URL, such as a new folder in it", "or delete it yourself, if it can go"],
        )
    metas = {name: _parsed(content[0]) for name, content in found.items() if content is not None}
    if ".zgroup" in metas or metas.get("zarr.json", {}).get("node_type") == "group":
        raise DestinationError(
            f"{location.url} is a group.",
            "A group may hold arrays that nobody meant to overwrite.",
            [f"write an array in it: {location.url}/name", "or choose another URL"],
        )
    if not all(_is_array(name, metas[name]) for name in markers):
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
    scales = metas.get("info", {}).get("scales", [])
    _erase(location, metas, tuple(f"{safe_name(str(scale['key']))}/" for scale in scales))


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
    return "shape" in meta


def _is_empty(location: Location) -> bool:
    """Whether nothing is there, but what belongs to a run: its lease, or the ledger of an array that was deleted."""
    if location.path is not None:
        return not location.path.is_dir() or set(os.listdir(location.path)) <= {FOLDER}
    return all(key.startswith(f"{FOLDER}/".encode()) for key in kvstore(location.kvstore).list().result())


def _erase(location: Location, metas: dict[str, dict[str, Any]], scales: tuple[str, ...]) -> None:
    """Delete metadata first, so that what is left of an interrupted deletion is no array; then chunks and ledger."""
    store = kvstore(location.kvstore)
    keys = [key.decode() for key in store.list().result()]
    is_zarr = any(name in metas for name in (".zarray", "zarr.json"))
    first = [key for key in keys if key in metas]
    rest = [
        key
        for key in keys
        if key not in metas
        and (
            key.startswith((f"{FOLDER}/", *scales))
            or (is_zarr and (key in ZARR_OBJECTS or ZARR_CHUNK.fullmatch(key) is not None))
        )
    ]
    for key in first:
        store.write(key, None).result()
    for pending in [store.write(key, None) for key in rest]:
        pending.result()
    if location.path is not None:
        _remove_empty_folders(location.path, rest)


def _remove_empty_folders(root: Path, deleted: list[str]) -> None:
    """Remove folders that the deletion emptied: tensorstore leaves them."""
    folders = {parent for key in deleted for parent in Path(key).parents if parent != Path(".")}
    for folder in sorted(folders, key=lambda folder: len(folder.parts), reverse=True):
        with suppress(OSError):
            (root / folder).rmdir()
