"""From the tables of blocks to the labels of the volume: up a tree of joins, and down it again.

::

    blocks      |  |  |  |  |  |  |  |
    up 1        |-----------|-----------|      a group: so many neighbours along each axis, joined
    up 2        |-----------------------|      the volume: its nodes are the objects
    down 2, 1                                  what each group's parts are in the volume

Every group of every level is a task of a pass: no table is larger than what is open or undecided in a group, and a
crash costs a group.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Protocol

import numpy as np

from chunkinfer.geometry.boxes import BlockGrid, Box
from chunkinfer.objects.segmentation.graph import Labels, renamed
from chunkinfer.objects.segmentation.joining import Renames
from chunkinfer.runs.passes import Table, Tables
from chunkinfer.support.timing import stage

FAN = 4
"""Neighbours along each axis that one task joins: 64 in three dimensions."""


@dataclass(frozen=True)
class Tree:
    """The groups of a grid of blocks, level by level."""

    counts: tuple[int, ...]
    """Blocks along each axis."""

    @cached_property
    def levels(self) -> tuple[BlockGrid, ...]:
        """The groups of each level, their boxes in numbers of the parts below; the last level has one."""
        found, counts = list[BlockGrid](), self.counts
        while not found or len(found[-1]) > 1:
            found.append(BlockGrid.regular(counts, (FAN,) * len(counts)))
            counts = found[-1].counts
        return tuple(found)

    def parts(self, level: int, box: Box) -> Iterator[int]:
        """The numbers of a group's parts in the level below: of blocks at level 0."""
        below = self.counts if level == 0 else self.levels[level - 1].counts
        grid = BlockGrid(tuple((1,) * n for n in below))
        return map(grid.ravel, product(*(range(a, b) for a, b in zip(box.start, box.stop, strict=True))))

    def number(self, level: int, box: Box, above: int = 0) -> int:
        """The number of a group in its level, or that of the group ``above`` it."""
        reach = FAN ** (1 + above)
        return self.levels[level + above].ravel([start // reach for start in box.start])


class Joins(Protocol):
    """What joins the parts of a group: a small value that can travel and be tokenized."""

    def joined(self, tables: Sequence[Table], blocks: bool) -> tuple[Table, Renames]:
        """The table of a group out of those of its parts, which are blocks or groups; and what became of labels.
        ``label`` names the nodes of a table, ascending."""

    def settled(self, table: Table, final: Labels) -> Table:
        """What is kept of a group's table when the final label of each of its nodes is known."""


@dataclass(frozen=True)
class Up:
    """Joins the parts of a group."""

    tree: Tree
    level: int
    below: Tables
    """Of the blocks, or of the level below."""
    joins: Joins

    def read(self, box: Box) -> Table:
        """The table of a group, and what became of its parts' labels."""
        with stage("read"):
            tables = [self.below[part] for part in self.tree.parts(self.level, box)]
        with stage("join"):
            table, renames = self.joins.joined(tables, blocks=self.level == 0)
        return {**table, "rename_old": renames.old, "rename_new": renames.new}


@dataclass(frozen=True)
class Down:
    """Says what the parts of a group have become."""

    tree: Tree
    level: int
    below: Tables
    """Of the blocks, or of the level below."""
    group: Tables
    """What `Up` left of this level."""
    above: Tables | None
    """What `Down` left of the level above; None at the top."""
    joins: Joins

    def read(self, box: Box) -> Table:
        """The final label of each node of each part, by the number of the part; and what is settled."""
        position = self.tree.number(self.level, box)
        with stage("read"):
            table = self.group[position]
            parts = {part: self.below[part]["label"] for part in self.tree.parts(self.level, box)}
            final = table["label"]
            if self.above is not None:
                final = self.above[self.tree.number(self.level, box, above=1)][str(position)]
        steps = Renames(table["rename_old"], table["rename_new"])
        rows = {part: np.searchsorted(table["label"], renamed(labels, *steps)) for part, labels in parts.items()}
        return {**self.joins.settled(table, final), **{str(part): final[at] for part, at in rows.items()}}
