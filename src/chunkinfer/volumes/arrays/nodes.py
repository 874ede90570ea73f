"""Nodes: what lies at a place, by its metadata objects, and which arrays lie below it."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chunkinfer.errors import SourceError, SourceNotFound
from chunkinfer.stores import failures
from chunkinfer.stores.files import FOLDER
from chunkinfer.stores.store import kvstore
from chunkinfer.stores.urls import Location

OBJECTS = {
    "zarr.json": "zarr3",
    ".zarray": "zarr2",
    ".zgroup": "zarr2",
    "info": "precomputed",
    "attributes.json": "n5",
    "s0/attributes.json": "n5",
}
"""Metadata object -> the format whose presence it tells."""

VERSIONS = {"zarr2": 2, "zarr3": 3}
"""Format of a group -> what its metadata says of it."""

GZIP = b"\x1f\x8b"
"""How a file begins that gzip made."""

MARKERS = (".zarray", "zarr.json", ".zattrs", "attributes.json")
"""Metadata objects that tell arrays and images from other groups."""

DEPTH = 3
"""How many groups deep arrays are looked for."""


KEPT = "kept.json"
"""Beside a precomputed volume, in `FOLDER`: the version of its ``info`` since levels were added to it, and before."""


@dataclass(frozen=True)
class Node:
    """An array, a group or a volume, before it is described."""

    location: Location
    format: str
    """"zarr2", "zarr3", "precomputed" or "n5"."""
    meta: Mapping[str, Any]
    """Content of the metadata object."""
    attributes: Mapping[str, Any]
    """The user's attributes."""
    raw: tuple[bytes, ...]
    """The metadata as stored, for the digest."""
    version: str = ""
    """Modification time or generation of the metadata object."""
    finest_version: str = ""
    """Of a volume to which levels were added: the version before that, because level 0 is what it was."""
    is_group: bool = field(default=False)
    """Whether it is a group of zarr or N5."""


def look(location: Location) -> Node:
    """Find out what lies at a place.

    Raises
    ------
    SourceNotFound
        Nothing is there.
    SourceError
        Something is there that cannot be read, or several formats at once.
    """
    if node := find(location):
        return node
    if location.path is None:
        raise _not_found(
            location,
            f"None of {', '.join(OBJECTS)} exists below it. Sections in a bucket are opened by a pattern: em/*.png.",
        )
    raise SourceError(
        f"{location.url} holds neither an array nor a group, and no pictures.",
        f"None of {', '.join(OBJECTS)} is in the folder: it is another format, a folder above, or unfinished.",
        ["give the folder that holds the metadata, or a file in it", "or convert the data to zarr or precomputed"],
    )


def find(location: Location) -> Node | None:
    """As `look`, but None where no metadata object of a format asked for is there.

    Raises
    ------
    SourceNotFound
        There is no such folder.
    SourceError
        Something is there that cannot be read, or several formats at once.
    """
    if location.path is not None:
        try:
            location.path.stat()
        except (FileNotFoundError, NotADirectoryError) as error:
            raise _not_found(location, "Nothing exists at this path.") from error
        except OSError as error:
            raise failures.unreadable(location.url, error) from error
    objects = read_objects(location, [*OBJECTS, ".zattrs", f"{FOLDER}/{KEPT}"])
    found = {name: result for name, result in objects.items() if result}
    wanted = {
        name: fmt
        for name, fmt in OBJECTS.items()
        if name in found and (location.format is None or fmt.startswith(location.format))
    }
    formats = list(dict.fromkeys(wanted.values()))
    if not formats:
        return None
    if len(formats) > 1:
        raise SourceError(
            f"{location.url} holds metadata of several formats: {', '.join(wanted)}.",
            "Which of them describes the data cannot be guessed.",
            [f"open_volume({f'{fmt}://{location.url}'!r})" for fmt in formats],
        )
    name = next(iter(wanted))
    if name == "s0/attributes.json":  # groups of N5 need no attributes
        return Node(location, "n5", {}, {}, (), is_group=True)
    text, version = found[name]
    meta, attributes = parse(location, name, text), {}
    raw: tuple[bytes, ...] = (text,)
    if ".zattrs" in found and formats[0] == "zarr2":
        attributes = parse(location, ".zattrs", found[".zattrs"][0])
        raw = (text, found[".zattrs"][0])
    elif formats[0] == "zarr3":
        attributes = meta.get("attributes") or {}
    is_group = (
        name == ".zgroup"
        or (formats[0] == "zarr3" and meta.get("node_type") == "group")
        or (formats[0] == "n5" and "dimensions" not in meta)
    )
    if is_group and formats[0] in VERSIONS and meta.get("zarr_format") != VERSIONS[formats[0]]:
        raise SourceError(
            f"{location.url}/{name} says zarr_format = {meta.get('zarr_format')!r}.",
            f"There it is {VERSIONS[formats[0]]}; other versions are not known.",
            ["write it as version 2 or 3", f"or correct it: zarr_format is {VERSIONS[formats[0]]}"],
        )
    before = _before(objects[f"{FOLDER}/{KEPT}"], version)
    return Node(location, formats[0], meta, attributes, raw, version, before, is_group)


def _before(kept: tuple[bytes, str] | None, version: str) -> str:
    """The version before levels were added; empty if something else has changed the volume since."""
    with suppress(ValueError, KeyError, TypeError):  # damaged: then nothing is known
        said = json.loads(kept[0]) if kept is not None else {}
        return str(said["before"]) if said["version"] == version else ""
    return ""


def read_objects(location: Location, names: list[str]) -> dict[str, tuple[bytes, str] | None]:
    """Small objects below a place, read at once: content and version, or None where there is none."""
    try:
        store = kvstore(location.kvstore)
        pending = {name: store.read(name) for name in names}
        results = {name: future.result() for name, future in pending.items()}
    except failures.FAILURES as error:
        raise failures.unreadable(location.url, error) from error
    return {
        name: (bytes(result.value), _version(location, name, result)) if result.state == "value" else None
        for name, result in results.items()
    }


def _version(location: Location, name: str, result: Any) -> str:
    if location.path is not None:
        # tensorstore's generation holds device numbers, which differ between machines that mount one file system.
        return str((location.path / name).stat().st_mtime_ns)
    archive = location.kvstore.get("base", {})
    if archive.get("driver") == "file":  # as above
        return str(os.stat(archive["path"]).st_mtime_ns)
    return bytes(result.stamp.generation).hex()


def parse(location: Location, name: str, text: bytes) -> dict[str, Any]:
    """A metadata object as JSON."""
    if text.startswith(GZIP):
        unpack = 'if gzip -t "$f"; then gzip -dc "$f" > "$f.unpacked"; mv "$f.unpacked" "$f"; fi'
        raise SourceError(
            f"{location.url}/{name} is compressed by gzip.",
            "Its chunks may be too: something stored every file so, which readers of the format do not expect.",
            [
                f"unpack what is packed: find {shlex.quote(location.url)} -type f | while read -r f; do {unpack}; done"
                if location.path is not None
                else "copy it to a local disk and unpack every file of it by gzip -d",
                "or copy it anew with the tool that wrote it, uncompressed",
            ],
        )
    try:
        value = json.loads(text)
    except ValueError as error:
        value = f"{error}"
    if not isinstance(value, dict):
        raise SourceError(
            f"{location.url}/{name} is not a JSON object: {str(value)[:200]}",
            "The file was truncated by an interrupted copy or write, or damaged.",
            ["copy or write the metadata again", "or restore it from another copy of the data"],
        )
    return value


def arrays_below(group: Node) -> list[str] | None:
    """Names of the arrays and multiscale images in a group; None where the store cannot list them."""
    consolidated = _consolidated(group)
    if consolidated is not None:
        return consolidated
    if group.location.kvstore["driver"] == "zip":
        return _in_archive(group.location)
    if group.location.path is None:
        return None
    return sorted(_walk(group.location.path, "", DEPTH, group.format == "n5"))


def planes_or_more(group: Node, names: list[str]) -> list[str]:
    """Those of the arrays in a group that have two axes or more: others are coordinates, or tables."""
    markers = {"zarr2": ".zarray", "zarr3": "zarr.json", "n5": "attributes.json"}
    marker = markers[group.format]
    found = read_objects(group.location, [f"{name}/{marker}" for name in names])
    kept = []
    for name in names:
        text = found[f"{name}/{marker}"]
        meta = {} if text is None else parse(group.location, f"{name}/{marker}", text[0])
        shape = meta.get("dimensions", meta.get("shape"))
        if not isinstance(shape, list) or len(shape) > 1:
            kept.append(name)
    return kept


def _in_archive(location: Location) -> list[str]:
    """Folders of an archive that hold an array; those of an image, and its levels, are one."""
    try:
        keys = sorted(key.decode() for key in kvstore(location.kvstore).list().result())
    except failures.FAILURES as error:
        raise failures.unreadable(location.url, error) from error
    found: list[str] = []
    for folder in dict.fromkeys(key.rpartition("/")[0] for key in keys if key.rpartition("/")[2] in MARKERS):
        if not folder or any(folder.startswith(f"{outer}/") for outer in found):
            continue
        texts = read_objects(location, [f"{folder}/{name}" for name in MARKERS])
        if any(text is not None and _names_array(name.rpartition("/")[2], text[0]) for name, text in texts.items()):
            found.append(folder)
    return found


def _consolidated(group: Node) -> list[str] | None:
    if group.format == "n5":
        return None
    if group.format == "zarr3":
        block = group.meta.get("consolidated_metadata")
        nodes = block.get("metadata") if isinstance(block, Mapping) else None
        if not isinstance(nodes, Mapping):
            return None
        return sorted(name for name, node in nodes.items() if node.get("node_type") == "array")
    found = read_objects(group.location, [".zmetadata"])[".zmetadata"]
    if found is None:
        return None
    nodes = parse(group.location, ".zmetadata", found[0]).get("metadata", {})
    return sorted(name.removesuffix("/.zarray") for name in nodes if name.endswith("/.zarray"))


def _walk(folder: Path, prefix: str, depth: int, unmarked: bool) -> Iterator[str]:
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if not entry.is_dir() or entry.name.startswith("."):
            continue
        path, name = folder / entry.name, f"{prefix}{entry.name}"
        if _is_leaf(path):
            yield name
        elif depth > 1 and (unmarked or any((path / marker).is_file() for marker in (".zgroup", "zarr.json"))):
            yield from _walk(path, f"{name}/", depth - 1, unmarked)


def _is_leaf(path: Path) -> bool:
    """Whether a folder is an array, or a group that is a multiscale image."""
    if (path / "s0" / "attributes.json").is_file():
        return True
    for name in MARKERS:
        with suppress(OSError):
            if _names_array(name, (path / name).read_bytes()):
                return True
    return False


def _names_array(name: str, text: bytes) -> bool:
    """Whether a metadata object is that of an array, or of a group that is a multiscale image."""
    said = (b'"multiscales"', b'"array"', *((b'"dimensions"',) if name == "attributes.json" else ()))
    return name == ".zarray" or any(word in text for word in said)


def _not_found(location: Location, why: str) -> SourceNotFound:
    return SourceNotFound(
        f"Nothing is at {location.url}.",
        why,
        ["check the spelling, and for object stores bucket, endpoint and credentials", "or write the data there first"],
    )
