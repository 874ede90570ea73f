"""Boxes and grids of boxes: half-open, in voxels, integers only."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, product
from math import prod

from chunkinfer.geometry.morton import bit_axes


@dataclass(frozen=True)
class Box:
    """A half-open box ``[start, stop)`` in voxels, one entry per axis."""

    start: tuple[int, ...]
    stop: tuple[int, ...]

    @classmethod
    def of_shape(cls, shape: Sequence[int]) -> Box:
        """The box from the origin to ``shape``."""
        return cls((0,) * len(shape), tuple(shape))

    @classmethod
    def of_slices(cls, slices: Sequence[slice]) -> Box:
        """The box of slices that have a start and a stop."""
        return cls(tuple(int(s.start) for s in slices), tuple(int(s.stop) for s in slices))

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(b - a for a, b in zip(self.start, self.stop, strict=True))

    @property
    def size(self) -> int:
        """Voxels in the box."""
        return prod(max(0, n) for n in self.shape)

    @property
    def slices(self) -> tuple[slice, ...]:
        return tuple(slice(a, b) for a, b in zip(self.start, self.stop, strict=True))

    def __and__(self, other: Box) -> Box:
        """The intersection; of size 0 where the boxes do not meet."""
        start = tuple(map(max, self.start, other.start))
        return Box(start, tuple(map(max, start, map(min, self.stop, other.stop))))

    def relative_to(self, origin: Sequence[int]) -> Box:
        """The same box, seen from ``origin``."""
        return Box(
            tuple(a - o for a, o in zip(self.start, origin, strict=True)),
            tuple(b - o for b, o in zip(self.stop, origin, strict=True)),
        )

    def __str__(self) -> str:
        return "[" + ", ".join(f"{a}:{b}" for a, b in zip(self.start, self.stop, strict=True)) + "]"


@dataclass(frozen=True)
class BlockGrid:
    """Disjoint blocks that cover a volume: what tasks write.

    ::

        axis     0        b        2b       3b   n
                 |--------|--------|--------|----|      regular, the last block shorter
                 |--------|--------|-------------|      a tail thinner than ``thinnest`` joins its neighbour
    """

    sizes: tuple[tuple[int, ...], ...]
    """Block sizes along each axis, in voxels: dask's ``chunks``."""

    @classmethod
    def regular(cls, shape: Sequence[int], block: Sequence[int], thinnest: Sequence[int] | None = None) -> BlockGrid:
        """Blocks of one shape from the origin; a last block below ``thinnest`` is joined to the one before it."""
        sizes = []
        for n, b, t in zip(shape, block, thinnest or (1,) * len(shape), strict=True):
            axis = [b] * (n // b) + ([n % b] if n % b else [])
            while len(axis) > 1 and axis[-1] < t:
                tail = axis.pop()
                axis[-1] += tail
            sizes.append(tuple(axis))
        return cls(tuple(sizes))

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """Voxels per axis."""
        return tuple(sum(axis) for axis in self.sizes)

    @cached_property
    def counts(self) -> tuple[int, ...]:
        """Blocks per axis."""
        return tuple(len(axis) for axis in self.sizes)

    def __len__(self) -> int:
        return prod(self.counts)

    @cached_property
    def edges(self) -> tuple[tuple[int, ...], ...]:
        """Starts of the blocks along each axis, and its end."""
        return tuple(tuple(accumulate(axis, initial=0)) for axis in self.sizes)

    def box(self, index: Sequence[int]) -> Box:
        """The box of the block at a grid index."""
        return Box(
            tuple(e[i] for e, i in zip(self.edges, index, strict=True)),
            tuple(e[i + 1] for e, i in zip(self.edges, index, strict=True)),
        )

    def sample(self) -> list[Box]:
        """The first, a middle and the last block: enough to see what reading a block costs."""
        return [self.box(self.unravel(i)) for i in sorted({0, len(self) // 2, len(self) - 1}) if len(self)]

    def indices(self) -> Iterator[tuple[int, ...]]:
        """Grid indices, the last axis fastest."""
        return product(*(range(n) for n in self.counts))

    def unravel(self, position: int) -> tuple[int, ...]:
        """The grid index of the ``position``-th block, the last axis fastest."""
        index = []
        for n in reversed(self.counts):
            position, i = divmod(position, n)
            index.append(i)
        return tuple(reversed(index))

    def z_order(self) -> Iterator[int]:
        """All blocks in Morton order: those that follow each other are neighbours, so that what one reads of its halo
        is still in caches for the next. Made while it is asked for: there may be ten million."""
        counts, seen, steps = self.counts, [0] * len(self.counts), []
        for axis in bit_axes(counts[::-1]):  # the last axis holds the lowest bit
            d = len(counts) - 1 - axis
            steps.append((d, 1 << seen[d]))
            seen[d] += 1
        low = min(len(steps), 12)
        cells: list[tuple[int, ...]] = [(0,) * len(counts)]
        for d, step in steps[:low]:
            cells += [(*c[:d], c[d] + step, *c[d + 1 :]) for c in cells]
        table = [(cell, self.ravel(cell)) for cell in cells]
        extent = [max(cell[d] for cell in cells) for d in range(len(counts))]

        def visit(start: tuple[int, ...], bits: int) -> Iterator[int]:
            if any(a >= n for a, n in zip(start, counts, strict=True)):
                return
            if bits > low:
                d, step = steps[bits - 1]
                yield from visit(start, bits - 1)
                yield from visit((*start[:d], start[d] + step, *start[d + 1 :]), bits - 1)
                return
            base = self.ravel(start)
            inside = all(a + e < n for a, e, n in zip(start, extent, counts, strict=True))
            for cell, offset in table:
                if inside or all(a + c < n for a, c, n in zip(start, cell, counts, strict=True)):
                    yield base + offset

        return visit((0,) * len(counts), len(steps)) if len(self) else iter(())

    def ravel(self, index: Sequence[int]) -> int:
        """Inverse of `unravel`."""
        position = 0
        for i, n in zip(index, self.counts, strict=True):
            position = position * n + i
        return position
