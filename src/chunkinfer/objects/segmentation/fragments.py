"""Blocks cut into fragments, which are stored beside a table; and fragments read under final labels."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import product
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from chunkinfer.geometry.boxes import BlockGrid, Box
from chunkinfer.objects.segmentation.basins import HALO, block_step
from chunkinfer.objects.segmentation.edges import Edges
from chunkinfer.objects.segmentation.graph import Labels, renamed
from chunkinfer.objects.segmentation.reducing import FAN, Tree
from chunkinfer.runs.passes import Table, Tables
from chunkinfer.runs.schedule.storing import Written, checksum
from chunkinfer.support.timing import stage
from chunkinfer.support.tokens import keep_tokens
from chunkinfer.volumes.arrays.destination import Destination
from chunkinfer.volumes.derived import voxels
from chunkinfer.volumes.masks import Mask

KEPT = 8
"""Tables of names that a process keeps: each serves a group of blocks."""


class Cut(Protocol):
    """What cuts a block into fragments: a small value that can travel and be tokenized."""

    @property
    def halo(self) -> tuple[int, int]:
        """Voxels that a block needs before it and behind it, along each axis, as far as the volume goes."""

    def cut(self, block: NDArray[Any], box: Box) -> tuple[NDArray[np.uint32], Table]:
        """Fragments of a block, of the voxels that it needs, and its table; ``label`` (n,) names the fragments."""


@dataclass(frozen=True)
class Watershed:
    """Cuts affinities into basins."""

    shape: tuple[int, ...]
    """The volume's (z, y, x)."""
    edges: Edges
    low: float
    high: float
    mask: Mask | None

    @property
    def halo(self) -> tuple[int, int]:
        """The watershed's, and what its edges are made of."""
        return HALO + self.edges.halo, HALO

    def cut(self, block: NDArray[Any], box: Box) -> tuple[NDArray[np.uint32], Table]:
        """See `basins.block_step`."""
        seen = around(box, self.halo, self.shape)
        affinities = self.edges.turned(block.reshape(-1, *seen.shape), seen.start)
        covered = self.edges.covered(seen)
        mask = None if self.mask is None else self.mask(covered)
        return block_step(affinities, box, covered, self.shape, self.low, self.high, mask)


@dataclass(frozen=True)
class Seen:
    """Reads the voxels that a block needs."""

    array: Any
    """As a `Reader` takes it."""
    channels: bool
    halo: tuple[int, int]

    def box(self, block: Box) -> Box:
        """The voxels that a block needs, over all axes of the array."""
        seen = around(block, self.halo, self.array.shape[-3:])
        return Box((0, *seen.start), (self.array.shape[0], *seen.stop)) if self.channels else seen

    def read(self, box: Box) -> NDArray[Any]:
        """The voxels of a block and those around it."""
        with stage("read"):
            return voxels(self.array, self.box(box))


def around(box: Box, halo: tuple[int, int], shape: Sequence[int]) -> Box:
    """A box and the voxels before it and behind it, as far as the volume goes."""
    low, high = halo
    return Box(
        tuple(max(a - low, 0) for a in box.start), tuple(min(b + high, n) for b, n in zip(box.stop, shape, strict=True))
    )


@dataclass(frozen=True)
class Fragments:
    """Cuts blocks that come with what they need; keeps fragments and table."""

    destination: Destination
    tables: Tables
    cut: Cut
    grid: BlockGrid
    """The blocks; with channels in front where blocks come with them."""

    def write(self, box: Box, block: NDArray[Any]) -> Written:
        """Cut a block."""
        box = Box(box.start[-3:], box.stop[-3:])
        with stage("cut"):
            fragments, table = self.cut.cut(block, box)
        with stage("write"):
            self.destination.write(box.slices, fragments)
        written = self.tables.write(box, table)  # what it tells holds the stages above, too
        return replace(written, bytes=fragments.nbytes, checksum=checksum(fragments))


@dataclass(frozen=True)
class Named:
    """Fragments under their final labels: a step of a lazy array."""

    grid: BlockGrid
    names: Tables
    """By group of blocks: the label of each fragment of each block, before the last merges."""
    old: Labels
    """Labels, ascending, that became others at the end."""
    new: Labels
    """What each became; 0 is background."""

    def reads(self, box: Box) -> tuple[Box, ...]:
        """The same box of the fragments."""
        return (box,)

    def compute(self, box: Box, seen: tuple[Box, ...], parts: Sequence[NDArray[Any]]) -> NDArray[np.uint64]:
        """The labels of a box."""
        labels = np.empty(box.shape, np.uint64)
        spans = zip(self.grid.edges, box.start, box.stop, strict=True)
        for index in product(*(_touched(edges, start, stop) for edges, start, stop in spans)):
            here = (self.grid.box(index) & box).relative_to(box.start).slices
            labels[here] = self._of(index)[parts[0][here]]
        return labels

    def _of(self, index: tuple[int, ...]) -> Labels:
        """The label of each fragment of a block, 0 in front."""
        group = Tree(self.grid.counts).levels[0].ravel([i // FAN for i in index])
        labels = _table(self.names, group)[str(self.grid.ravel(index))]
        return np.concatenate([np.zeros(1, np.uint64), renamed(labels, self.old, self.new)])


def _touched(edges: Sequence[int], start: int, stop: int) -> range:
    """The blocks along an axis that a span touches."""
    return range(bisect_right(edges, start) - 1, bisect_left(edges, stop))


@lru_cache(KEPT)
def _table(tables: Tables, position: int) -> dict[str, NDArray[Any]]:
    return tables[position]


keep_tokens(globals(), "chunkinfer.segmentation.fragments")
