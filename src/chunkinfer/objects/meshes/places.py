"""Where meshes go: the ``mesh`` folder of a precomputed segmentation, or a folder of their own."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from typing import Any

from chunkinfer.errors import DestinationError, SourceNotFound
from chunkinfer.objects.meshes.formats import MARKS
from chunkinfer.stores.files import FOLDER, Files
from chunkinfer.stores.store import kvstore
from chunkinfer.stores.urls import Location, locate
from chunkinfer.volumes.arrays.create import guess_format
from chunkinfer.volumes.arrays.erase import delete_keys, listed, refused
from chunkinfer.volumes.arrays.levels import open_image
from chunkinfer.volumes.arrays.nodes import Node, find

MESH = "mesh"
"""The folder in a segmentation, and the beginning of the names of what a run keeps beside it."""

INFO = "info"
"""The object that describes a folder of meshes."""

KNOWN = re.compile(r"info|\d+(:.+|\.index|\.mesh)?(\.gz|\.br)?|[0-9a-f]+\.shard|[\d_:.-]+\.(frags|spatial)(\.gz)?")
"""Objects of a folder of meshes, of ours and of igneous."""


@dataclass(frozen=True)
class Place:
    """A place for meshes."""

    location: Location
    """Of the segmentation, or of the folder."""
    inside: bool
    """Whether it is a segmentation, whose ``info`` names the folder."""
    named: str
    """The folder of meshes that a segmentation names, by whoever wrote it; empty where it names none."""

    @property
    def url(self) -> str:
        """Of the segmentation, or of the folder: what a run belongs to."""
        return self.location.url

    @property
    def folder(self) -> Location:
        """Where meshes lie."""
        return self.location.child(MESH) if self.inside else self.location

    def kept(self, name: str) -> Files:
        """What a run keeps: ``name`` is a part of the folder's."""
        return Files(self.url, f"{FOLDER}/{MESH}-{name}")

    def clear(self) -> None:
        """Delete meshes, and what earlier runs kept of them."""
        if self.inside and self.named:
            self._announce(None)
        # Records before meshes: what a crash leaves is begun anew.
        files = Files(self.url)
        files.delete_many([name for name in files.list() if name.startswith(f"{MESH}-")])
        delete_keys(self.folder, [key for key in listed(self.folder) if KNOWN.fullmatch(key)])

    def check_empty(self, cleared: bool) -> None:
        """Raise `DestinationError` where something is in the folder already, or after it was ``cleared``."""
        key = next((key for key in listed(self.folder) if not key.startswith(f"{FOLDER}/")), None)
        if key is not None and (cleared or not KNOWN.fullmatch(key)):
            raise DestinationError(
                f"{self.folder.url} holds {key}, which belongs to no mesh.",
                "Only meshes are deleted, so they would be mixed with what is there.",
                ["choose another folder", "or delete it yourself, if it can go"],
            )
        if not cleared and (key is not None or self.named not in ("", MESH)):
            raise DestinationError(
                f"{self.url} has meshes already, or something else: {key or self.named}.",
                "An earlier run or another tool made them, of these labels or of others.",
                [
                    f"make them anew: mesh(labels, {self.url!r}, overwrite=True)",
                    "or put them into a folder of their own",
                ],
            )

    def announce(self, info: dict[str, Any]) -> None:
        """Let readers know of the meshes, when they are complete."""
        with refused(self.folder, "written"):
            kvstore(self.folder.kvstore).write(INFO, json.dumps(info, indent=1).encode()).result()
        if self.inside:
            self._announce(MESH)

    def _announce(self, folder: str | None) -> None:
        """Name the folder in the segmentation's ``info``; its voxels stay what they are, and so does their version."""

        def change(info: dict[str, Any]) -> None:
            info.pop("mesh", None)
            if folder is not None:
                info["mesh"] = folder

        open_image(f"precomputed://{self.url}", "fill").describe(change)


def place_of(url: Any) -> Place:
    """What is at a place where meshes should go.

    Raises
    ------
    DestinationError
        It is neither a segmentation, nor meshes, nor empty.
    """
    guess_format(url)  # refuses what can only be read
    location = replace(locate(url), format=None)
    try:
        node: Node | None = find(location)
    except SourceNotFound:
        node = None
    if node is None or node.meta.get("@type") in MARKS.values():
        return Place(location, inside=False, named="")
    if node.format == "precomputed" and node.meta.get("type") == "segmentation":
        return Place(location, inside=True, named=str(node.meta.get("mesh", "")))
    raise DestinationError(
        f"{location.url} is {node.format} and no precomputed segmentation.",
        "Neuroglancer finds meshes in the folder of a precomputed segmentation, or in one of their own.",
        [f"copy the labels: copy({location.url!r}, 'labels.precomputed', encoding='compressed_segmentation')",
         "mesh(labels, 'meshes'): a folder of their own, to be shown beside the labels"],
    )  # fmt: skip


def meshed(url: str, most: int) -> list[int]:
    """Objects of a local segmentation that have meshes in files of their own: the least labels, at most so many."""
    location = replace(locate(url), format=None)
    named = json.loads((location.path / "info").read_bytes()).get("mesh") if location.path else None
    keys = (re.fullmatch(r"(\d+)(:0|\.index)", key) for key in (listed(location.child(named)) if named else ()))
    return sorted({int(key[1]) for key in keys if key})[:most]
