"""Keys of chunks of zarr version 2: "0.1.2", or "0/1/2" by ``dimension_separator``, which older writers left out."""

from __future__ import annotations

import os
import re

from chunkinfer.errors import SourceError
from chunkinfer.stores import failures
from chunkinfer.stores.ranges import probe, version_of
from chunkinfer.stores.store import kvstore
from chunkinfer.volumes.arrays.nodes import Node

LISTED = 10_000
"""Local files and folders that are looked at."""


def separator(node: Node) -> str | None:
    """The separator of all chunks, where the metadata leaves it out and it is "/"; None where nothing is to be changed.

    Raises
    ------
    SourceError
        The metadata names one separator, and all chunks lie under the other.
    """
    rank, stated = len(node.meta["shape"]), node.meta.get("dimension_separator")
    if rank < 2 or stated not in (None, ".", "/"):
        return None
    found = (
        _on_disk(node, rank) if node.location.path is not None else _by_first(node, rank) if stated is None else None
    )
    if found is None or found == (stated or "."):
        return None
    if stated is None:
        return found
    url = node.location.url
    raise SourceError(
        f"Chunks of {url} have keys like {found.join('0' * rank)}, and its metadata names {stated!r} as separator.",
        "Read as they say, every chunk would be absent. The chunks were moved, or the metadata copied from elsewhere.",
        [f'write "dimension_separator": "{found}" into {url}/.zarray', "or copy the array anew, with its metadata"],
    )


def _on_disk(node: Node, rank: int) -> str | None:
    """The separator of all chunks in a folder; None where there are none, or both kinds."""
    assert node.location.path is not None
    flat = re.compile(r"\d+" + r"\.\d+" * (rank - 1))
    kinds = set()
    try:
        with os.scandir(node.location.path) as entries:
            for _, entry in zip(range(LISTED), entries, strict=False):
                if flat.fullmatch(entry.name):
                    kinds.add(".")
                elif entry.name.isdecimal() and entry.is_dir():
                    kinds.add("/")
    except OSError as error:
        raise failures.unreadable(node.location.url, error) from error
    return kinds.pop() if len(kinds) == 1 else None


def _by_first(node: Node, rank: int) -> str | None:
    """The same by the first chunk alone: a store that is far away is not listed."""
    store = kvstore(node.location.kvstore)
    try:
        there = {sign: version_of(probe(store, sign.join("0" * rank))) is not None for sign in "./"}
    except failures.FAILURES as error:
        raise failures.unreadable(node.location.url, error) from error
    return "/" if there == {".": False, "/": True} else None
