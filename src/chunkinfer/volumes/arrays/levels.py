"""Levels: the coarser ones of a stored image, made, opened and announced.

An image is a precomputed volume or an OME-Zarr group. Readers know of a level when the image's metadata names it, so
that is written last; until then a level is opened by what it will be.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

from chunkinfer.errors import DestinationError
from chunkinfer.stores import failures
from chunkinfer.stores.files import Files
from chunkinfer.stores.store import canonical, kvstore, opened
from chunkinfer.stores.urls import Location, locate
from chunkinfer.volumes.arrays.create import as_destination
from chunkinfer.volumes.arrays.destination import Destination
from chunkinfer.volumes.arrays.erase import erase_below
from chunkinfer.volumes.arrays.meta import Described, digest_of
from chunkinfer.volumes.arrays.nodes import KEPT, Node, arrays_below, look
from chunkinfer.volumes.arrays.open import open_source, turned
from chunkinfer.volumes.arrays.placement import Placement, whole
from chunkinfer.volumes.arrays.source import Source
from chunkinfer.volumes.formats import ome, zarr
from chunkinfer.volumes.formats.ome_versions import has_systems
from chunkinfer.volumes.formats.precomputed import info as precomputed


@dataclass(frozen=True)
class Level:
    """A coarser level of an image; everything along the image's axes."""

    factors: tuple[int, ...]
    """Voxels of the level below per voxel."""
    times: tuple[int, ...]
    """Voxels of the finest level per voxel."""
    shape: tuple[int, ...]
    """Voxels."""
    phase: tuple[int, ...]
    """Voxels of the level below by which the first voxel begins before it."""
    offset: tuple[float, ...]
    """Volume coordinate of index 0, in voxels of this level."""
    chunks: tuple[int, ...] = ()
    """Voxels of what a reader fetches."""
    shards: tuple[int, ...] | None = None
    """Voxels of what is stored as one object; None where each chunk is."""


class Image:
    """An image whose levels can be added to.

    Parameters
    ----------
    node
        What lies at its place.
    missing
        What an absent chunk of it is when it is read: an "error", or to "fill" with the fill value.
    """

    format = ""
    """As for `create`."""
    whole_offsets = False
    """Whether the format places every level on whole voxels of its own."""

    def __init__(self, node: Node, missing: str) -> None:
        self.location: Location = node.location
        self.finest: Source = open_source(f"{node.format}://{node.location.url}", missing=missing)
        as_destination(self.finest)

    @property
    def url(self) -> str:
        """Where it is, without a format's prefix."""
        return self.location.url

    @property
    def paths(self) -> list[str]:
        """Where the levels lie that are announced, finest first, below the URL."""
        raise NotImplementedError

    @property
    def labels(self) -> bool:
        """Whether the metadata calls it a segmentation."""
        return False

    @property
    def lossy(self) -> bool:
        """Whether its encoding changes voxels."""
        return False

    @property
    def sharded(self) -> bool:
        """Whether objects hold several chunks."""
        return self.finest.shards != self.finest.chunks

    def path(self, number: int, level: Level) -> str:
        """Where a level lies, below the URL."""
        raise NotImplementedError

    def destination(self, number: int, level: Level) -> Destination:
        """A level that was prepared, announced or not."""
        raise NotImplementedError

    def source(self, number: int, level: Level) -> Source:
        """The same, to be read with a cache."""
        found = self.destination(number, level)
        return Source(**{field.name: getattr(found, field.name) for field in fields(Source)})

    def prepare(self, number: int, level: Level) -> None:
        """Make room for a level, and an empty array where the format needs one."""
        erase_below(self.location, self.path(number, level))

    def announce(self, levels: Sequence[Level], method: str) -> None:
        """Let readers know of these levels, and of no others."""
        raise NotImplementedError

    def describe(self, change: Callable[[dict[str, Any]], None]) -> None:
        """Change the metadata in what voxels do not depend on: the volume stays the same source."""
        raise NotImplementedError

    def _rewrite(self, name: str, change: Callable[[dict[str, Any]], None]) -> None:
        """Change a metadata object as a whole, unless it is as it should be."""
        store = kvstore(self.location.kvstore)
        try:
            found = store.read(name).result()
            document = json.loads(bytes(found.value))
            before = canonical(document)
            change(document)
            if canonical(document) == before:
                return
            content = json.dumps(document, indent=1).encode()
            stamp = store.write(name, content, if_equal=found.stamp.generation).result()
        except failures.FAILURES as error:
            raise failures.unwritable(f"{self.url}/{name}", error) from error
        if not stamp.generation:
            raise DestinationError(
                f"{self.url}/{name} was changed by another process while levels were added to it.",
                "Two programs edit this image at the same time.",
                ["make the same call again when the other one has ended", "or stop the other one"],
            )


class _Volume(Image):
    """A precomputed volume: levels are scales of its ``info``."""

    format, whole_offsets = "precomputed", True

    def __init__(self, node: Node, missing: str) -> None:
        super().__init__(node, missing)
        self.info = node.meta
        self.scale = node.meta["scales"][0]

    @property
    def paths(self) -> list[str]:
        return [str(scale["key"]) for scale in self.info["scales"]]

    @property
    def labels(self) -> bool:
        return bool(self.info.get("type") == "segmentation")

    @property
    def lossy(self) -> bool:
        return bool(self.scale.get("encoding") == "jpeg")

    @property
    def sharded(self) -> bool:
        return bool(self.scale.get("sharding"))

    def path(self, number: int, level: Level) -> str:
        return str(self._scale(level)["key"])

    def _scale(self, level: Level) -> dict[str, Any]:
        offset = dict(zip("xyz", self.scale.get("voxel_offset", (0, 0, 0)), strict=True))
        chunks = dict(zip("xyz", self.scale["chunk_sizes"][0], strict=True))
        ones = dict.fromkeys("xyz", 1)

        def along(values: Sequence[Any], absent: dict[str, int]) -> dict[str, int]:
            """Per axis of the format; those that the image does not show are as they were."""
            return {**absent, **{d: int(v) for d, v in zip(self.finest.dims, values, strict=True) if d in "xyz"}}

        return precomputed.coarser(
            self.scale,
            along(level.times, ones),
            along(level.shape, ones),
            along(level.offset, offset),
            along(level.chunks, chunks),
            None if level.shards is None else along(level.shards, ones),
        )

    def destination(self, number: int, level: Level) -> Destination:
        scale, finest = self._scale(level), self.finest
        base = {"driver": "neuroglancer_precomputed", "kvstore": self.location.kvstore}
        options = precomputed.spec_of(self.info, scale)
        spec = {
            **base, **options, "fill_missing_data_reads": False, "store_data_equal_to_fill_value": True
        }  # fmt: skip
        digest = digest_of(canonical(scale).encode())
        placement = Placement(
            dict(zip("xyz", scale["resolution"], strict=True)), "nm",
            dict(zip("xyz", scale["voxel_offset"], strict=True)),
        ).complete(finest.dims)  # fmt: skip
        described = Described(precomputed.STORED, finest.dims, placement)
        store = turned(opened(spec, digest, cached=False), described)
        return Destination(
            url=self.url,
            format=self.format,
            spec=store.spec().to_json(),
            dims=finest.dims,
            shape=tuple(store.shape),
            dtype=finest.dtype,
            chunks=tuple(store.chunk_layout.read_chunk.shape),
            shards=tuple(u or s for u, s in zip(store.chunk_layout.write_chunk.shape, store.shape, strict=True)),
            voxel_size=placement.voxel_size,
            unit=placement.unit,
            offset=placement.offset,
            digest=digest,
        )

    def announce(self, levels: Sequence[Level], method: str) -> None:
        scales = [self._scale(level) for level in levels]

        def change(info: dict[str, Any]) -> None:
            info["scales"] = [info["scales"][0], *scales]

        self.describe(change)

    def describe(self, change: Callable[[dict[str, Any]], None]) -> None:
        before = look(self.location)
        self._rewrite(precomputed.MARKER, change)
        after = look(self.location)
        if after.version != before.version:
            kept = {"version": after.version, "before": before.finest_version or before.version}
            Files(self.url).write(KEPT, json.dumps(kept).encode())


class _Group(Image):
    """An OME-Zarr group: levels are arrays in it."""

    def __init__(self, node: Node, missing: str) -> None:
        super().__init__(node, missing)
        self.format = "ome-zarr" if node.format == "zarr3" else "ome-zarr-0.4"
        self.group = node
        image = ome.multiscale(node.attributes)
        assert image is not None
        if has_systems(image):
            raise DestinationError(
                f"{self.url} is an image with coordinate systems, as OME-Zarr has them from version 0.6 on.",
                "Levels are added to images of versions 0.4 and 0.5.",
                [
                    f"copy it: save(open_volume({self.url!r}), 'copy.ome.zarr', pyramid=True)",
                    "or add levels with the tool that made it",
                ],
            )
        self.image = image
        self.array = look(self.location.child(self.paths[0]))
        named = ome.axis_names(image)
        dims = list(self.finest.dims)
        if named is not None and [name.lower()[:1] for name in named] != dims:
            raise DestinationError(
                f"The axes of {self.url} are stored in the order {named}.",
                f"OME-Zarr prescribes {dims}, and levels are only added to images in that order.",
                [f"copy it: save(open_volume({self.url!r}), 'copy.ome.zarr', pyramid=True)", "or transpose it first"],
            )

    @property
    def paths(self) -> list[str]:
        return ome.levels(self.image)

    def path(self, number: int, level: Level) -> str:
        finest = self.paths[0]
        return re.sub(r"0$", str(number), finest) if finest.endswith("0") else str(number)

    def _place(self, number: int, level: Level) -> Location:
        return self.location.child(self.path(number, level))

    def prepare(self, number: int, level: Level) -> None:
        super().prepare(number, level)
        finest = self.finest
        times, offset = (dict(zip(finest.dims, values, strict=True)) for values in (level.times, level.offset))
        place = Placement(
            {d: size * times[d] for d, size in finest.voxel_size.items()},
            finest.unit,
            {d: whole(offset[d]) for d in finest.offset},
        )
        attributes = self.array.attributes
        objects = zarr.coarser(self.array.meta, attributes, level.shape, level.chunks, level.shards, place)
        store = kvstore(self._place(number, level).kvstore)
        try:
            for name, content in objects.items():
                store.write(name, content).result()
        except failures.FAILURES as error:
            raise failures.unwritable(self.url, error, "created") from error

    def destination(self, number: int, level: Level) -> Destination:
        return as_destination(open_source(f"{self.array.format}://{self._place(number, level).url}"))

    def announce(self, levels: Sequence[Level], method: str) -> None:
        paths = [self.path(number, level) for number, level in enumerate(levels, 1)]
        times = [level.times for level in levels]

        def change(document: dict[str, Any]) -> None:
            v3 = self.group.format == "zarr3"
            attributes = document.setdefault("attributes", {}) if v3 else document
            images = attributes.get("ome", attributes)["multiscales"]
            images[0] = ome.with_levels(images[0], paths, times, method, self.url)
            document.pop("consolidated_metadata", None)  # it would hide what was added

        self._rewrite("zarr.json" if self.group.format == "zarr3" else ".zattrs", change)
        if self.group.format == "zarr2":
            kvstore(self.location.kvstore).write(".zmetadata", None).result()  # as above


def open_image(url: str | os.PathLike[str], missing: str = "error") -> Image:
    """The image at a URL.

    Raises
    ------
    SourceNotFound
        Nothing is there.
    DestinationError
        It is none to which levels can be added.
    """
    node = look(locate(url))
    if node.format == "precomputed" and node.meta.get("scales"):
        return _Volume(node, missing)
    if node.is_group and ome.multiscale(node.attributes) is not None:
        return _Group(node, missing)
    inside = arrays_below(node) or [] if node.is_group else []
    # Of N5, the levels of an image are arrays of its group.
    place = node.location.url if not inside or "s0" in inside else f"{node.location.url}/{inside[0]}"
    raise DestinationError(
        f"{node.location.url} has no place for levels: it is a {node.format} {'group' if node.is_group else 'array'}.",
        "Precomputed volumes and OME-Zarr images have levels; a plain array is one.",
        [
            f"copy it: save({place!r}, 'image.ome.zarr', pyramid=True)",
            f"or into precomputed: save({place!r}, 'image.precomputed', pyramid=True)",
        ],
    )
