"""The pass over objects: their surfaces put together, simplified and written, a bucket of objects at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chunkinfer.errors import DestinationError
from chunkinfer.geometry.boxes import Box
from chunkinfer.objects.meshes import formats
from chunkinfer.objects.meshes.marching import unpacked
from chunkinfer.objects.meshes.octree import octree
from chunkinfer.objects.meshes.simplifying import simplified
from chunkinfer.objects.meshes.welding import Faces, Vertices, borders, volume, welded
from chunkinfer.runs.passes import from_npz
from chunkinfer.stores.files import Files
from chunkinfer.stores.ranges import content_of
from chunkinfer.stores.store import kvstore
from chunkinfer.stores.urls import Location
from chunkinfer.support.timing import stage
from chunkinfer.volumes.arrays.erase import refused

BUCKET = 2**20
"""Triangles of a bucket before simplification, about; one object may have more."""
SHARD = 2**24
"""The same of a bucket that is a shard: a few megabytes when they are stored."""
WHOLE = 2**25
"""An object of more triangles is simplified in its blocks first, their borders locked: whole, it would take more than
7 GB, 200 bytes a triangle. Only then the result depends on the blocks."""
MINISHARD = 128
"""Objects of a minishard, about: a reader fetches the index of one to find an object."""

ROWS = ("label", "block", "start", "stop", "triangles")
"""What is known of each surface of a bucket: which object, in which block, and where in the object of that block."""


def buckets(tables: Sequence[dict[str, NDArray[Any]]], sharded: bool) -> tuple[list[dict[str, NDArray[Any]]], int, int]:
    """Objects in buckets: the surfaces of each, and the bits of shards and minishards.

    Parameters
    ----------
    tables
        Of the blocks, as `March` gives them.
    sharded
        Whether a bucket is a shard, which holds labels by their bits; otherwise they follow each other.
    """
    parts = [{**table, "block": np.full(len(table["label"]), block)} for block, table in enumerate(tables)]
    rows = {name: np.concatenate([part[name] for part in parts]) for name in ROWS}
    labels, number = np.unique(rows["label"], return_inverse=True)
    triangles = np.bincount(number, rows["triangles"], len(labels))
    shard_bits = int(np.ceil(np.log2(max(1, triangles.sum() / SHARD)))) if sharded else 0
    minishard_bits = int(np.ceil(np.log2(max(1, len(labels) / MINISHARD / 2**shard_bits))))
    if sharded:
        count, bucket = 2**shard_bits, (labels >> np.uint64(minishard_bits)) & np.uint64(2**shard_bits - 1)
    else:
        bucket = np.unique((np.cumsum(triangles) - triangles) // BUCKET, return_inverse=True)[1]
        count = int(bucket.max(initial=-1)) + 1
    order = np.lexsort((rows["block"], number, bucket[number]))
    rows = {name: column[order] for name, column in rows.items()}
    edges = np.searchsorted(bucket[number][order], np.arange(count + 1))
    parted = [{name: column[a:b] for name, column in rows.items()} for a, b in pairwise(edges)]
    return parted, shard_bits, minishard_bits


@dataclass(frozen=True)
class Stitch:
    """The step of the pass: the meshes of a bucket, written; gives a table of its objects."""

    surfaces: Files
    """What `March` stored."""
    buckets: Files
    """The rows of each bucket."""
    target: Location
    """Where meshes go."""
    format: str
    voxel: tuple[float, float, float]
    """Nanometres along z, y, x."""
    offset: tuple[float, float, float]
    """Of the volume's first voxel, in voxels."""
    simplify: float
    max_error: float
    shard_bits: int | None
    """None where each object is stored by itself."""
    minishard_bits: int

    def read(self, box: Box) -> dict[str, NDArray[Any]]:
        """Make and write the meshes of a bucket."""
        number = box.start[0]
        content = self.buckets.read(f"{number}.npz")
        if content is None:
            raise DestinationError(
                f"The list {number}.npz of surfaces is gone from {self.buckets.url}.",
                "It was written before the objects were begun, and something deleted it.",
                ["make the meshes anew: mesh(labels, url, overwrite=True)", "or restore the file"],
            )
        rows = from_npz(content)
        table: dict[str, list[Any]] = {name: [] for name in ("label", "marched", "triangles", "volume", "bytes")}
        shard = []
        writing: list[Any] = []
        store = kvstore(self.target.kvstore)
        for label, marched, vertices, faces in self._meshes(rows):
            with stage("compute"):
                if self.format == "legacy":
                    objects = formats.legacy(label, vertices, faces)
                else:
                    fragments, manifest = formats.multires(octree(vertices, faces, self.max_error))
                    objects = {str(label): fragments, f"{label}.index": manifest}
            size = sum(map(len, objects.values()))
            row = (label, marched, len(faces), volume(vertices, faces), size)
            for column, value in zip(table.values(), row, strict=True):
                column.append(value)
            if self.shard_bits is None:
                writing += [store.write(name, stored) for name, stored in objects.items()]
            else:
                shard.append((label, fragments, manifest))
        if shard and self.shard_bits is not None:
            content = formats.shard(shard, self.minishard_bits)
            writing.append(store.write(formats.shard_name(number, self.shard_bits), content))
        with stage("write"), refused(self.target, "written"):
            for future in writing:
                future.result()
        kinds = {"label": np.uint64, "volume": np.float64}
        return {name: np.array(column, kinds.get(name, np.int64)) for name, column in table.items()}

    def _meshes(self, rows: dict[str, NDArray[Any]]) -> Iterator[tuple[int, int, NDArray[np.float64], Faces]]:
        """Label, triangles before simplification, and the mesh in nanometres, of each object of a bucket."""
        store = kvstore(self.surfaces.spec)
        labels, first = np.unique(rows["label"], return_index=True)
        for label, (start, stop) in zip(labels, pairwise([*first, len(rows["label"])]), strict=True):
            spans = zip(*(rows[name][start:stop].tolist() for name in ("block", "start", "stop")), strict=True)
            with stage("read"):
                asked = [store.read(str(block), byte_range=slice(a, b)) for block, a, b in spans]
                pieces = [unpacked(content_of(reading)) for reading in asked]
            with stage("compute"):
                marched = int(rows["triangles"][start:stop].sum())
                vertices, faces = self._mesh(pieces, marched)
            yield int(label), marched, vertices, faces

    def _mesh(self, pieces: Sequence[tuple[Vertices, Faces]], marched: int) -> tuple[NDArray[np.float64], Faces]:
        """One mesh of an object's pieces: in nanometres, along z, y, x."""
        half = np.array(self.voxel) / 2
        if marched > WHOLE and self.simplify > 1:
            vertices, faces = _welded_in_parts(pieces, half, self.simplify, self.max_error)
        else:
            joined, faces = welded(pieces)
            vertices = joined * half
        if self.simplify > 1:
            vertices, faces = simplified(vertices, faces, int(marched / self.simplify), self.max_error)
        # A voxel's centre is half a voxel behind its corner, where Neuroglancer's coordinates count from.
        return vertices + (np.array(self.offset) + 0.5) * self.voxel, faces


def _welded_in_parts(
    pieces: Sequence[tuple[Vertices, Faces]], half: NDArray[np.float64], simplify: float, max_error: float
) -> tuple[NDArray[np.float64], Faces]:
    """One mesh of pieces that were simplified before; vertices where two pieces meet stay what they were."""
    made: list[tuple[NDArray[np.float64], Faces]] = []
    for vertices, faces in pieces:
        locked = borders(len(vertices), faces)
        made.append(simplified(vertices * half, faces, int(len(faces) / simplify), max_error, locked))
    return joined(made)


def joined(pieces: Sequence[tuple[NDArray[np.float64], Faces]]) -> tuple[NDArray[np.float64], Faces]:
    """Pieces as one mesh: vertices of the same bits become one."""
    sizes = np.cumsum([0, *(len(vertices) for vertices, _ in pieces)])
    vertices, number = np.unique(np.concatenate([v for v, _ in pieces]), axis=0, return_inverse=True)
    faces = np.concatenate([f.astype(np.int64) + n for (_, f), n in zip(pieces, sizes, strict=False)])
    return vertices, number.reshape(-1)[faces].astype(np.uint32)
