"""Inventory: every array at a URL: the levels of an image, the arrays of a group or a file."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from chunkinfer.errors import SourceError
from chunkinfer.stores.ranges import stored
from chunkinfer.stores.urls import Location, locate
from chunkinfer.volumes.arrays.nodes import Node, arrays_below, find, look, read_objects
from chunkinfer.volumes.arrays.open import open_source
from chunkinfer.volumes.arrays.source import Source
from chunkinfer.volumes.formats import n5, ome, readers
from chunkinfer.volumes.formats.sections import naming, pictures, sections

LEVELS = 32
"""Levels of N5 that are looked for: its groups do not say how many they have."""


@dataclass(frozen=True)
class Item:
    """One array."""

    name: str
    """Below the URL, which `open_source` takes as ``array``; of a level, its path; empty for the URL itself."""
    source: Source | None
    """None where it is no volume, or cannot be opened."""
    codec: str = ""
    """How chunks are compressed, where the format says it."""
    problem: str = ""
    """Why it cannot be opened."""

    @property
    def files(self) -> int | None:
        """How many files hold it, where each section is one; None of other formats."""
        return sections.count(self.source.spec) if self.source and self.source.format == "sections" else None


@dataclass(frozen=True)
class Inventory:
    """What is at a URL."""

    url: str
    """Without a format's prefix."""
    kind: str
    """"image" or "segmentation" of one or more levels, "array", or "group" or "file" of several arrays."""
    items: tuple[Item, ...]
    """At least one; levels finest first."""
    levels: bool = False
    """Whether the items are the levels of one image."""


def inventory(url: str | os.PathLike[str], array: str | None = None) -> Inventory:
    """What is at a URL; only metadata is read.

    Parameters
    ----------
    url
        As for `open_source`.
    array
        Look only at this array of a group or file.

    Raises
    ------
    SourceError
        As for `open_source`; but a group or file of several arrays, or sections that are missing, are none.
    """
    location = locate(url)
    location = location if array is None else location.child(array)
    if location.format is None:
        if file := location.file_in(tuple(readers.SUFFIXES)):
            return _file(location, *file)
        if naming.is_pattern(location) or location.file_in(pictures.SUFFIXES):
            return _one(location)
        if location.path is not None and location.path.is_file():
            return _one(location)  # which says what is wrong
    node = find(location) if location.format is None else look(location)
    return _one(location) if node is None else _node(node)


def _node(node: Node) -> Inventory:
    """What metadata objects tell."""
    location = node.location
    if node.format == "precomputed":
        scales = node.meta.get("scales")
        scales = scales if isinstance(scales, list) and all(isinstance(scale, Mapping) for scale in scales) else []
        if not scales:
            _open(node)  # which says what is wrong
        paths = [str(scale.get("key")) for scale in scales]
        return _image(node, paths, lambda level: _codec_of_scale(scales[level]), str(node.meta.get("type", "image")))
    if not node.is_group:
        return Inventory(location.url, "array", (Item("", _open(node), _codec(node)),))
    if (image := ome.multiscale(node.attributes)) is not None:
        return _arrays(node, ome.levels(image))
    names = [f"s{level}" for level in range(LEVELS)] if node.format == "n5" else []
    found = read_objects(location, [f"{name}/{n5.MARKER}" for name in names]) if names else {}
    if names := [name for name in names if found[f"{name}/{n5.MARKER}"]]:
        return _arrays(node, names)
    below = arrays_below(node)
    if not below:
        _open(node)  # which says what is wrong
    return Inventory(location.url, "group", tuple(item for name in below or () for item in _below(node, name)))


def _arrays(node: Node, paths: Sequence[str]) -> Inventory:
    """The levels of an image, each of which is an array."""
    return _image(node, paths, lambda level: _codec(look(node.location.child(paths[level]))), "image")


def _image(node: Node, paths: Sequence[str], codec: Callable[[int], str], kind: str) -> Inventory:
    """The levels of an image; one that cannot be opened does not hide the others."""
    items = []
    for level, path in enumerate(paths):
        try:
            items.append(Item(path, _open(node, level), codec(level)))
        except SourceError as error:
            items.append(Item(path, None, problem=error.what))
    if all(item.source is None for item in items):
        _open(node)  # which says what is wrong
    return Inventory(node.location.url, kind, tuple(items), levels=True)


def _below(group: Node, name: str) -> Iterator[Item]:
    """An array in a group, or the levels of an image in it."""
    try:
        found = _node(look(replace(group.location.child(name), format=group.format)))
    except SourceError as error:
        yield Item(name, None, problem=error.what)
    else:
        yield from (replace(item, name=f"{name}/{item.name}".rstrip("/")) for item in found.items)


def _file(location: Location, place: Location, inside: str) -> Inventory:
    """The arrays in a single file."""
    format = next(name for suffix, name in readers.SUFFIXES.items() if place.url.lower().endswith(suffix))
    parts = readers.parts(format, stored(place), inside)
    if len(parts) < 2 and (not inside or parts == [(inside, 0)]):
        return _one(location)
    levels = len(parts) > 1 and len({name for name, _ in parts}) == 1
    items = []
    for name, level in parts:
        try:
            source = open_source(f"{place.url}/{name}".rstrip("/"), level=level)
            items.append(Item(str(level) if levels else f"{name}/{level}" if level else name, source))
        except SourceError as error:
            items.append(Item(name, None, problem=error.what))
    return Inventory(location.url, "image" if levels else "file", tuple(items), levels)


def _one(location: Location) -> Inventory:
    source = open_source(location.url, missing="fill")
    return Inventory(source.url, "array", (Item("", source),))


def _open(node: Node, level: int = 0) -> Source:
    return open_source(f"{node.format}://{node.location.url}", level=level, missing="fill")


# How chunks are compressed


def _codec_of_scale(scale: Mapping[str, Any]) -> str:
    sharding = scale.get("sharding")
    packed = sharding.get("data_encoding", "raw") if isinstance(sharding, Mapping) else "raw"
    return str(scale.get("encoding")) + ("" if packed == "raw" else f", {packed}")


def _codec(node: Node) -> str:
    """Of an array of zarr or N5; empty where the metadata is of another kind."""
    try:
        if node.format == "zarr3":
            codecs = list(node.meta["codecs"])
            codecs = next((c["configuration"]["codecs"] for c in codecs if c["name"] == "sharding_indexed"), codecs)
            names = [(c["name"], c.get("configuration", {})) for c in codecs]
            names = [(name, about) for name, about in names if name not in ("bytes", "transpose", "crc32c")]
        elif node.format == "zarr2":
            about = node.meta["compressor"]
            names = [] if about is None else [(about["id"], about)]
        else:
            about = node.meta.get("compression", {"type": node.meta.get("compressionType")})
            names = [] if about["type"] == "raw" else [(about["type"], about)]
        return ", ".join(f"{name} ({a['cname']})" if "cname" in a else str(name) for name, a in names) or "none"
    except (KeyError, TypeError, AttributeError):
        return ""
