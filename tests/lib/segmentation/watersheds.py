"""Random affinities, cuts and trees; the watershed by its definition, without haste."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import strategies as st

from chunkinfer.geometry.boxes import BlockGrid, Box
from chunkinfer.objects.segmentation.basins import HALO, block_step
from chunkinfer.objects.segmentation.joining import Region, Renames, join, relabelled

KINDS = ("float32", "float32, few levels", "float32, some NaN", "8 bit", "4 bit", "8 bit, two levels")


@dataclass(frozen=True)
class Watershed:
    """What `block_step` takes of a whole volume."""

    affinities: Any
    low: float
    high: float
    mask: Any = None

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.affinities.shape[1:])

    def block(self, box: Box) -> tuple[Any, dict[str, Any]]:
        """The step on one block, which sees what it has to and no more."""
        seen = Box(tuple(a - HALO for a in box.start), tuple(b + HALO for b in box.stop)) & Box.of_shape(self.shape)
        mask = None if self.mask is None else self.mask[seen.slices]
        return block_step(self.affinities[:, *seen.slices], box, seen, self.shape, self.low, self.high, mask)

    def whole(self) -> tuple[Any, dict[str, Any]]:
        """The labels of the volume as one block, and its tables."""
        fragments, tables = self.block(Box.of_shape(self.shape))
        return relabelled(fragments, tables["label"], []), tables

    def cut(self, grid: BlockGrid) -> list[tuple[Box, Any, dict[str, Any]]]:
        """The step on every block."""
        boxes = [grid.box(index) for index in grid.indices()]
        return [(box, *self.block(box)) for box in boxes]


def watersheds(largest: int = 7) -> st.SearchStrategy[Watershed]:
    """Volumes of a few voxels, most with many ties. The random numbers are numpy's: hypothesis' are mostly zeros."""
    return st.builds(
        random_watershed,
        st.tuples(*[st.integers(1, largest)] * 3),
        st.sampled_from(KINDS),
        st.booleans(),
        st.integers(0, 2**32),
    )


def random_watershed(shape: tuple[int, int, int], kind: str, masked: bool, random: int) -> Watershed:
    """Affinities of a kind, thresholds that are values of theirs as often as not."""
    rng = np.random.default_rng(random)
    values = rng.random((3, *shape), np.float32)
    if kind == "float32, few levels":
        values = np.rint(values * 4) / np.float32(4)
    if kind == "float32, some NaN":
        values[rng.random(values.shape) < 0.2] = np.nan
    if kind == "8 bit":
        values = np.rint(values * 255).astype(np.uint8)
    if kind == "4 bit":
        values = np.rint(values * 15).astype(np.uint8) * np.uint8(17)
    if kind == "8 bit, two levels":
        values = rng.integers(254, 256, values.shape).astype(np.uint8)
    low, high = sorted(rng.choice([0, 0.1, 0.25, 51 / 255, 0.5, 0.75, 204 / 255, 254 / 255, 0.9999, 1], 2, False))
    return Watershed(values, float(low), float(high), rng.random(shape) < 0.8 if masked else None)


def random_grid(shape: Sequence[int], random: int) -> BlockGrid:
    """An uneven cut, up to single voxels."""
    rng = np.random.default_rng(random)
    sizes = []
    for n in shape:
        inner = np.unique(rng.integers(1, n, int(rng.integers(0, 4)))) if n > 1 else []
        sizes.append(tuple(np.diff([0, *inner, n]).tolist()))
    return BlockGrid(tuple(sizes))


def join_in_a_tree(regions: Sequence[Region], random: int) -> tuple[Region, list[Renames]]:
    """Two or three at a time, neighbours or not."""
    rng, regions, steps = np.random.default_rng(random), list(regions), []
    while len(regions) > 1:
        picked = set(rng.choice(len(regions), min(len(regions), int(rng.integers(2, 4))), replace=False).tolist())
        region, renames = join([regions[i] for i in picked])
        regions = [region, *(other for i, other in enumerate(regions) if i not in picked)]
        steps.append(renames)
    return regions[0], steps


def by_definition(watershed: Watershed) -> tuple[Any, list[tuple[int, ...]]]:
    """Labels, and the region graph as rows, from the text in `basins`."""
    values, shape = watershed.affinities, watershed.shape
    unit = 255 if values.dtype == np.uint8 else 1
    # float32 is compared as float32, the others exactly.
    low, high = (float(np.float32(t)) if unit == 1 else t for t in (watershed.low, watershed.high))

    def edges() -> Iterator[tuple[int, int, int, float]]:
        """Key, both voxels and affinity of whatever exists before thresholds."""
        for d, *v in np.ndindex(3, *shape):
            u = list(v)
            u[d] -= 1
            w = float(values[d, *v]) / unit
            if u[d] >= 0 and not np.isnan(w):
                one, two = (int(np.ravel_multi_index(place, shape)) for place in (v, u))
                yield 3 * one + d, one, two, w

    inside = set(range(values[0].size) if watershed.mask is None else np.flatnonzero(watershed.mask).tolist())
    kept = [(k, v, u, min(w, high)) for k, v, u, w in edges() if w > low and v in inside and u in inside]
    height: dict[int, float] = defaultdict(float)
    for _, v, u, w in kept:
        height[v], height[u] = max(height[v], w), max(height[u], w)

    plateau = {v: v for v in height}
    changed = True
    while changed:
        changed = False
        for _, v, u, w in kept:
            if w == height[v] == height[u] and plateau[v] != plateau[u]:
                plateau[v] = plateau[u] = min(plateau[v], plateau[u])
                changed = True
    exits: dict[int, tuple[int, int]] = {}
    for key, one, two, w in kept:
        for v, u in ((one, two), (two, one)):
            if w == height[v] < height[u]:
                exits[plateau[v]] = max(exits.get(plateau[v], (-1, -1)), (key, u))

    def end(p: int) -> int:
        while p in exits:
            p = plateau[exits[p][1]]
        return p

    basin = {v: end(plateau[v]) for v in height}
    least: dict[int, int] = {}
    for v in sorted(basin):
        least.setdefault(basin[v], v + 1)
    label = {v: least[basin[v]] for v in basin}
    labels = np.zeros(values[0].size, np.uint64)
    labels[list(label)] = list(label.values())

    rows: dict[tuple[int, int], tuple[tuple[int, int], int, int]] = {}
    for key, v, u, w in edges():
        if v in label and u in label and label[v] != label[u]:
            pair, weight = (min(label[v], label[u]), max(label[v], label[u])), round(w * 255 * 2**16)
            strongest, total, count = rows.get(pair, ((-1, -1), 0, 0))
            rows[pair] = max(strongest, (weight, key)), total + weight, count + 1
    graph = [(*pair, m, total, count, key) for pair, ((m, key), total, count) in sorted(rows.items())]
    return labels.reshape(shape), graph
