"""Regions joined and merged by size on their way up a tree; then agglomerated, in a second tree of the same groups.

What a region decides leaves it: rows that can merge nothing by size wait in its table until the final labels of their
objects are known, and are agglomerated then. What touches the outside of a region is frozen, as `merging` and
`agglomerating` tell.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chunkinfer.geometry.boxes import Box
from chunkinfer.objects.segmentation.agglomerating import Dendrogram, agglomerate
from chunkinfer.objects.segmentation.graph import Graph, Integers, Labels, renamed
from chunkinfer.objects.segmentation.joining import Region, Renames, join
from chunkinfer.objects.segmentation.merging import Merged, Seeds, merge_by_size
from chunkinfer.objects.segmentation.reducing import Tree
from chunkinfer.runs.passes import Table, Tables
from chunkinfer.support.timing import stage
from chunkinfer.support.tokens import keep_tokens

GRAPH, REST, TREE = "graph_", "rest_", "tree_"
"""Prefixes of columns in tables: rows of a region graph, those that are decided, merges."""


def prefixed(prefix: str, columns: Table) -> dict[str, NDArray[Any]]:
    """Columns under names of their own in a larger table."""
    return {f"{prefix}{name}": column for name, column in columns.items()}


def below(prefix: str, table: Table) -> dict[str, NDArray[Any]]:
    """The columns that `prefixed` named."""
    return {name.removeprefix(prefix): column for name, column in table.items() if name.startswith(prefix)}


@dataclass(frozen=True)
class JoinsBasins:
    """Joins regions of the watershed, and merges what is small in them."""

    merge_threshold: float
    merge_size: int
    seeds: Tables | None
    """``label`` of fragments with a seed, and its ``number``."""

    def joined(self, tables: Sequence[Table], blocks: bool) -> tuple[Table, Renames]:
        """The region of a group after merging; rows that are decided; seeds."""
        region, renames = join([Region.of_block(table) if blocks else Region.from_arrays(table) for table in tables])
        seeds = self._seeds(tables, blocks)
        seeds = seeds and (renamed(seeds[0], *renames), seeds[1])
        merged = merge_by_size(
            region.label, region.size, region.graph, self.merge_threshold, self.merge_size,
            frozen=region.open, seeds=seeds,
        )  # fmt: skip
        steps = renames.then(Renames(merged.old, merged.new))
        table = {**contracted(region, merged).arrays(), **prefixed(REST, merged.rest.arrays())}
        if seeds:
            table["seed_label"], first = np.unique(renamed(seeds[0], merged.old, merged.new), return_index=True)
            table["seed_number"] = seeds[1][first]
        return table, steps

    def settled(self, table: Table, final: Labels) -> Table:
        """The rows that were decided, and the objects with contacts that other groups have, all by final labels."""
        region = Region.from_arrays(table)
        frozen = np.unique(np.concatenate([region.open, region.graph.a, region.graph.b]))
        rest = Graph.from_arrays(below(REST, table)).renamed(region.label, final)
        return {**prefixed(REST, rest.arrays()), "frozen": np.unique(renamed(frozen, region.label, final))}

    def _seeds(self, tables: Sequence[Table], blocks: bool) -> Seeds | None:
        if self.seeds is None:
            return None
        if not blocks:
            return seeds_of(tables)
        label, number = (self.seeds[0][name] for name in ("label", "number"))
        here = np.isin(label, np.concatenate([table["label"] for table in tables]))
        return label[here], number[here]


def seeds_of(tables: Sequence[Table]) -> tuple[Labels, Integers]:
    """The seeds of several groups."""
    label, number = (np.concatenate([table[f"seed_{name}"] for table in tables]) for name in ("label", "number"))
    return label, number


def contracted(region: Region, merged: Merged) -> Region:
    """A region after merging: what is undecided, and what is open at its faces, in new labels."""
    exits = renamed(region.exit_label, merged.old, merged.new)
    order = np.argsort(exits, kind="stable")
    return replace(
        region,
        label=merged.labels,
        size=merged.sizes,
        graph=merged.graph,
        cut_label=renamed(region.cut_label, merged.old, merged.new),
        exit_label=exits[order],
        exit_key=region.exit_key[order],
        exit_to=renamed(region.exit_to, merged.old, merged.new)[order],
    )


@dataclass(frozen=True)
class Agglomerates:
    """Merges the objects of a group by mean affinity, as far as the group tells."""

    tree: Tree
    level: int
    group: Tables
    """What `Down` left of this level."""
    below: Tables | None
    """What this left of the level below."""
    top: Tables
    """What `Up` left of the volume, for its seeds."""

    def read(self, box: Box) -> Table:
        """The merges that are decided, and the rows that are not."""
        with stage("read"):
            table = self.group[self.tree.number(self.level, box)]
            parts = self.below and [self.below[part] for part in self.tree.parts(self.level, box)]
            whole = self.top[0]
        graphs = [Graph.from_arrays(below(GRAPH, part)) for part in parts or []]
        graph = Graph.joined([Graph.from_arrays(below(REST, table)), *graphs])
        with stage("agglomerate"):
            seeds = seeds_of([whole]) if "seed_label" in whole else None
            found = agglomerate(graph, frozen=table["frozen"], seeds=seeds)
        return {**prefixed(TREE, found.dendrogram.arrays()), **prefixed(GRAPH, found.graph.arrays())}


@dataclass(frozen=True)
class Collects:
    """The objects of the volume, and how they merge on."""

    top: Tables
    agglomerated: tuple[Tables, ...]

    def read(self, box: Box) -> Table:
        """``label``, ``size``, and the dendrogram."""
        whole = self.top[0]
        parts = (below(TREE, table) for tables in self.agglomerated for table in tables)
        dendrogram = Dendrogram.joined([Dendrogram.from_arrays(part) for part in parts])
        return {"label": whole["label"], "size": whole["size"], **prefixed(TREE, dendrogram.arrays())}


keep_tokens(globals(), "chunkinfer.segmentation.merges")
