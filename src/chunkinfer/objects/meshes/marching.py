"""The pass over blocks: the surface of each object in each block, kept until objects are put together.

The block ``[a, b)`` owns the cells that begin at its voxels, so it reads one voxel more on the high side::

    voxels      |  a  . a+1 . a+2 |  b          cells lie between centres: a to a+1, ..., b-1 to b
    cells          |--0--|--1--|--2--|

At the volume's faces it sees zeros, and so surfaces are closed there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from zlib_ng import zlib_ng

from chunkinfer.geometry.boxes import BlockGrid, Box
from chunkinfer.objects.meshes.surfaces import Faces, Half, surfaces
from chunkinfer.stores.files import Files
from chunkinfer.support.timing import stage
from chunkinfer.volumes.lazy import Reader

TABLE = {"label": np.uint64, "start": np.int64, "stop": np.int64, "triangles": np.int64}
"""What is known of the surfaces of a block: labels, ascending; where each lies in the block's object."""


@dataclass(frozen=True)
class March:
    """The step of the pass: marches over a block, stores its surfaces, and gives the table of them."""

    reader: Reader
    """Of the labels (z, y, x)."""
    grid: BlockGrid
    ids: NDArray[np.uint64] | None
    """The labels that are wanted; None for all."""
    files: Files
    """Where the surfaces go: an object per block, under its number."""

    def read(self, box: Box) -> dict[str, NDArray[Any]]:
        """March over a block."""
        found = list(self.surfaces(box))
        blobs = [packed(vertices, faces) for _, vertices, faces in found]
        stops = np.cumsum([0, *map(len, blobs)])
        if blobs:
            index = [edges.index(start) for edges, start in zip(self.grid.edges, box.start, strict=True)]
            with stage("write"):
                self.files.write(str(self.grid.ravel(index)), b"".join(blobs))
        rows = {
            "label": [label for label, _, _ in found], "start": stops[:-1], "stop": stops[1:],
            "triangles": [len(faces) for _, _, faces in found],
        }  # fmt: skip
        return {name: np.array(rows[name], kind) for name, kind in TABLE.items()}

    def surfaces(self, box: Box) -> list[tuple[int, Half, Faces]]:
        """The surfaces of a block: vertices in half voxels from the centre of the volume's first voxel."""
        shape = self.grid.shape
        labels = self.reader.read(Box(box.start, tuple(map(min, (b + 1 for b in box.stop), shape))))
        with stage("compute"):
            if self.ids is not None:
                labels = np.where(np.isin(labels, self.ids), labels, 0)
            if not labels.any():
                return []
            low = [int(a == 0) for a in box.start]
            high = [int(b == n) for b, n in zip(box.stop, shape, strict=True)]
            origin = 2 * (np.array(box.start) - low)
            kind = np.uint8 if labels.dtype == bool else labels.dtype
            padded = np.pad(labels.astype(kind), list(zip(low, high, strict=True)))
            return [(label, (vertices + origin).astype(np.int32), faces) for label, vertices, faces in surfaces(padded)]


def packed(vertices: Half, faces: Faces) -> bytes:
    """A surface as bytes: triangles in the order of marching name vertices that are close to each other."""
    origin = vertices.min(0)
    steps = np.diff(faces.reshape(-1).astype(np.int32), prepend=np.int32(0))
    head = np.array([len(vertices), *origin], "<i4").tobytes()
    content = head + (vertices - origin).astype("<u2").tobytes() + steps.astype("<i4").tobytes()
    return bytes(zlib_ng.compress(content, 1))


def unpacked(content: bytes) -> tuple[Half, Faces]:
    """The surface that was packed."""
    raw = zlib_ng.decompress(content)
    count, *origin = np.frombuffer(raw, "<i4", 4)
    vertices = np.frombuffer(raw, "<u2", 3 * count, 16).reshape(-1, 3).astype(np.int32) + np.array(origin, np.int32)
    steps = np.frombuffer(raw, "<i4", offset=16 + 6 * int(count))
    return vertices, np.cumsum(steps).astype(np.uint32).reshape(-1, 3)
