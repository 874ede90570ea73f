"""Where an audit looks: every block before any twice, every chunk before any twice; seams; faces, edges and corners."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count, product

import numpy as np
from numpy.typing import NDArray

from chunkinfer.geometry.boxes import BlockGrid, Box

SIDE = 4
"""Output voxels on each side of a seam."""

TURNS = 16
"""Boxes along one seam, elsewhere each time, where there are few seams."""

Planes = tuple[tuple[int, ...], tuple[int, ...]]
"""Output voxels at which blocks, and other clean zones, start along an axis."""


class Tiles:
    """The tiles of one size that cover a box, by number; the last ones along an axis are shorter."""

    def __init__(self, box: Box, size: Sequence[int]) -> None:
        self.box, self.grid = box, BlockGrid.regular(box.shape, size)

    def __len__(self) -> int:
        return len(self.grid)

    def __getitem__(self, position: int) -> Box:
        if not 0 <= position < len(self):
            raise IndexError(position)
        return self.grid.box(self.grid.unravel(position)).relative_to([-a for a in self.box.start])

    def __iter__(self) -> Iterator[Box]:
        return (self[i] for i in range(len(self)))


def touching(grid: BlockGrid, box: Box) -> list[int]:
    """Numbers of the blocks that a box meets."""
    spans = [
        range(int(np.searchsorted(edges, low, "right")) - 1, int(np.searchsorted(edges, high)))
        for edges, low, high in zip(grid.edges, box.start, box.stop, strict=True)
    ]
    return [grid.ravel(index) for index in product(*spans)]


def block_boxes(
    grid: BlockGrid, finished: Sequence[int], chunk: Sequence[int], size: Sequence[int], rng: np.random.Generator
) -> Iterator[Box]:
    """Boxes at random, one in every block before a second in any; within a block one in every chunk before a second in
    any; within a chunk never twice the same. They end when all voxels had their turn.

    Parameters
    ----------
    grid, finished
        Blocks, and the numbers of those to look at.
    chunk, size
        Voxels of a stored chunk and of a box.
    """
    order = [int(b) for b in rng.permutation(np.asarray(finished, int))]
    visits = {}
    while order:
        left = []
        for block in order:
            if block not in visits:
                visits[block] = _within(grid.box(grid.unravel(block)), chunk, size, rng)
            box = next(visits[block], None)
            if box is not None:
                left.append(block)
                yield box
        order = left


def _within(block: Box, chunk: Sequence[int], size: Sequence[int], rng: np.random.Generator) -> Iterator[Box]:
    chunks = Tiles(block, chunk)
    order = [int(c) for c in rng.permutation(len(chunks))]
    tiles: dict[int, tuple[Tiles, list[int]]] = {}
    for turn in count():
        some = False
        for c in order:
            if c not in tiles:
                parts = Tiles(chunks[c], size)
                tiles[c] = parts, [int(t) for t in rng.permutation(len(parts))]
            parts, turns = tiles[c]
            if turn < len(turns):
                some = True
                yield parts[turns[turn]]
        if not some:
            return


def seams(grid: BlockGrid, zone: Sequence[int] | None) -> list[Planes]:
    """Along each axis, the planes between blocks, and the planes between clean zones that are none between blocks."""
    found = []
    for d, edges in enumerate(grid.edges):
        between = edges[1:-1]
        zones = range(zone[d], edges[-1], zone[d]) if zone else ()
        found.append((tuple(between), tuple(sorted(set(zones) - set(between)))))
    return found


def distance(box: Box, planes: Sequence[Sequence[int]]) -> NDArray[np.float64]:
    """Voxels between each voxel of a box and the nearest plane: 0 next to one."""
    total = np.full(box.shape, np.inf)
    for d, axis in enumerate(planes):
        if not len(axis):
            continue
        at, middle = np.asarray(axis), np.arange(box.start[d], box.stop[d]) + 0.5
        right = np.searchsorted(at, middle)
        above = np.abs(at[np.minimum(right, len(at) - 1)] - middle)
        below = np.abs(at[np.maximum(right - 1, 0)] - middle)
        along = np.minimum(above, below) - 0.5
        total = np.minimum(total, along.reshape([-1 if i == d else 1 for i in range(total.ndim)]))
    return total


def middle(planes: Sequence[Sequence[int]]) -> int:
    """Voxels from the nearest plane at which the middle of the smallest zone between them begins."""
    gap = min((int(np.diff((0, *p)).min()) for p in planes if len(p)), default=0)
    return max(1, gap // 2 - max(1, gap // 8))


def seam_boxes(
    planes: Sequence[Planes],
    shape: Sequence[int],
    size: Sequence[int],
    rng: np.random.Generator,
) -> Iterator[tuple[tuple[int, int], Box]]:
    """Thin boxes across seams, with the seam (axis, position): by turns along each axis, between blocks and zones."""
    kinds = [(d, list(rng.permutation(np.asarray(p, int)))) for d, axis in enumerate(planes) for p in axis if p]
    for turn in range(max((TURNS, *(len(p) for _, p in kinds)))):
        for d, positions in kinds:
            plane = int(positions[turn % len(positions)])
            box = _anywhere(shape, size, rng)
            start, stop = list(box.start), list(box.stop)
            start[d], stop[d] = max(0, plane - SIDE), min(shape[d], plane + SIDE)
            yield (d, plane), Box(tuple(start), tuple(stop))


def face_boxes(shape: Sequence[int], size: Sequence[int], rng: np.random.Generator) -> Iterator[Box]:
    """Boxes at the volume's faces, then its corners, then its edges."""
    sides = [s for s in product((-1, 0, 1), repeat=len(shape)) if any(s)]
    rank = {1: 0, len(shape): 1}
    for side in sorted(sides, key=lambda s: rank.get(sum(map(abs, s)), 2)):
        box = _anywhere(shape, size, rng)
        edge = box.shape
        start = [0 if s < 0 else n - e if s > 0 else a for s, a, n, e in zip(side, box.start, shape, edge, strict=True)]
        yield Box(tuple(start), tuple(a + e for a, e in zip(start, edge, strict=True)))


def _anywhere(shape: Sequence[int], size: Sequence[int], rng: np.random.Generator) -> Box:
    edge = [min(n, e) for n, e in zip(shape, size, strict=True)]
    start = tuple(int(rng.integers(n - e + 1)) for n, e in zip(shape, edge, strict=True))
    return Box(start, tuple(a + e for a, e in zip(start, edge, strict=True)))
