"""Regions: what is known of some blocks' fragments, and of the faces between them and the rest of the volume.

::

    block tables -> Region -+
    block tables -> Region -+-> join -> Region -+
    block tables -> Region -----> join ---------+-> join -> Region of the volume: its nodes are the basins

A region depends on its voxels only, not on how it was put together, so any tree gives what joining everything at once
gives. Joining resolves the faces between regions:

1. Voxels that share a plateau over a face make one plateau of two pieces.
2. A plateau that goes on outside the region stays open: its exit is known when all of it is. Until then it keeps the
   best exit so far, that with the largest key.
3. A plateau that is complete follows its exit, as soon as the voxel that this leads to is in the region.
4. What belongs together takes the least label, and the region graph is renamed; contacts over the face are added.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from chunkinfer.objects.segmentation.flowing import unite
from chunkinfer.objects.segmentation.graph import COLUMNS, Graph, renamed
from chunkinfer.support.jit import compiled

Array = NDArray[Any]
Labels = NDArray[np.uint64]
Integers = NDArray[np.int64]


class Renames(NamedTuple):
    """What a join changed: ``renamed(labels, old, new)`` brings labels of a part up to date."""

    old: Labels
    """Labels that are no more, ascending."""
    new: Labels
    """What each has become, less than the old one."""

    def then(self, later: Renames) -> Renames:
        """These renames, and after them those of a join of the result: one table for a way down the tree."""
        old, new = np.concatenate([self.old, later.old]), np.concatenate([renamed(self.new, *later), later.new])
        order = np.argsort(old)
        return Renames(old[order], new[order])


@dataclass(frozen=True, eq=False)
class Region:
    """Fragments of a part of the volume, a union of blocks of any shape, and what is open at its faces."""

    label: Labels
    """1 + the least linear index of each fragment, uint64, ascending."""
    size: Integers
    """Voxels of each, int64."""
    graph: Graph
    """Contacts within the region."""
    cut_key: Integers
    """Contacts with voxels outside, one for each voxel face, by their edge's key, int64, ascending."""
    cut_label: Labels
    """The fragment inside."""
    cut_tie: NDArray[np.bool_]
    """Whether the voxels at both sides are of one plateau."""
    cut_weight: NDArray[np.int32]
    """The affinity times `graph.SCALE`, where the edge is a voxel's of this region, else -1."""
    exit_label: Labels
    """Fragments whose last plateau has an exit that it does not follow yet, ascending."""
    exit_key: Integers
    """The edge of the best exit known."""
    exit_to: Labels
    """The fragment that it leads to, 0 if that is outside."""

    @classmethod
    def of_block(cls, tables: Mapping[str, Array]) -> Region:
        """The region of one block, from the tables of `basins.block_step`."""
        labels = np.concatenate([np.zeros(1, np.uint64), tables["label"]])
        key, own = _cut_keys(tables["box"], tables["volume"])
        weight = np.full(len(key), -1, np.int32)
        weight[own] = tables["cut_weight"]
        row = tables["cut_row"]
        order = np.argsort(key)
        order = order[row[order] > 0]
        by_label = np.argsort(tables["exit_row"])
        return cls(
            tables["label"],
            tables["size"],
            Graph.from_arrays({name: tables[name] for name in COLUMNS}),
            key[order],
            labels[row[order]],
            tables["cut_tie"][order],
            weight[order],
            labels[tables["exit_row"][by_label]],
            tables["exit_key"][by_label],
            labels[tables["exit_to"][by_label]],
        )

    @property
    def open(self) -> Labels:
        """Labels, ascending, of what may grow: all voxels and contacts of the others are in the region.

        That is what touches the outside, and also what an open plateau may yet flow into, wherever it is.
        """
        return np.unique(np.concatenate([self.cut_label, self.exit_to[self.exit_to > 0]]))

    def arrays(self) -> dict[str, Array]:
        """All columns by name, those of the graph by their own names."""
        columns = {name: value for name, value in vars(self).items() if name != "graph"}
        return columns | self.graph.arrays()

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array]) -> Region:
        """What `arrays` gave, from an npz file for example."""
        names = [name for name in cls.__dataclass_fields__ if name != "graph"]
        return cls(graph=Graph.from_arrays(arrays), **{name: arrays[name] for name in names})


def join(regions: Sequence[Region]) -> tuple[Region, Renames]:
    """The region of several disjoint ones, and what their labels become.

    Parameters
    ----------
    regions
        At least one. They need not touch, and their union may have any shape.

    Returns
    -------
    region
        Their union. That of the whole volume has no cuts and no exits: its labels are those of the basins.
    renames
        Fragments that turned out to be parts of others.

    Notes
    -----
    An edge that is NaN on a face does not exist, as inside a block: no contact, no shared plateau and no exit.

    Beside arguments and result up to 150 bytes a row of the regions' graphs are held.
    """

    def all_of(name: str) -> Array:
        return np.concatenate([getattr(region, name) for region in regions])

    key, label, tie, weight = (all_of(f"cut_{name}") for name in ("key", "label", "tie", "weight"))
    order = np.argsort(key, kind="stable")  # linear on sorted tables in a row
    key, label, tie, weight = key[order], label[order], tie[order], weight[order]
    here = np.flatnonzero(key[1:] == key[:-1])
    there = here + 1
    open_ = np.ones(len(key), bool)
    open_[here] = open_[there] = False
    affinity = np.maximum(weight[here], weight[there])
    contacts = (label[here], label[there], affinity, affinity, np.ones(len(here), np.int64), key[here])

    # Plateaus, by the least label of their pieces, and the best exit of each.
    tied = here[tie[here]]
    plateaus = _united(label[tied], label[tied + 1])
    exit_label, exit_key, exit_to = (all_of(f"exit_{name}") for name in ("label", "key", "to"))
    exit_to = _resolved(exit_label, exit_key, exit_to, key[here], label[here], label[there])
    plateau = renamed(exit_label, *plateaus)
    order = np.lexsort((exit_key, plateau))
    best = order[np.append(plateau[order][1:] != plateau[order][:-1], True)[: len(order)]]
    plateau, exit_key, exit_to = plateau[best], exit_key[best], exit_to[best]

    still_open = np.unique(renamed(label[open_ & tie], *plateaus))
    follows = (exit_to > 0) & ~np.isin(plateau, still_open)
    renames = _united(
        np.concatenate([plateaus.old, plateau[follows]]), np.concatenate([plateaus.new, exit_to[follows]])
    )

    nodes, sizes = _contracted(all_of("label"), all_of("size"), renames)
    waiting = ~follows
    exit_label = renamed(plateau[waiting], *renames)
    order = np.argsort(exit_label)
    region = Region(
        nodes,
        sizes,
        _joined([region.graph for region in regions], contacts, renames),
        key[open_],
        renamed(label[open_], *renames),
        tie[open_],
        weight[open_],
        exit_label[order],
        exit_key[waiting][order],
        renamed(exit_to[waiting], *renames)[order],
    )
    return region, renames


def relabelled(fragments: NDArray[np.uint32], label: Labels, renames: Iterable[Renames]) -> Labels:
    """A block's voxels by their labels after all joins on the way down from the volume to the block.

    Parameters
    ----------
    fragments, label
        Of the block, from `basins.block_step`.
    renames
        Of the joins that the block was part of, the first one first.

    Returns
    -------
    uint64, the shape of ``fragments``; 0 is background.
    """
    final = reduce(lambda labels, step: renamed(labels, *step), renames, label)
    return np.concatenate([np.zeros(1, np.uint64), final])[fragments]


def _cut_keys(box: Integers, volume: Integers) -> tuple[Integers, slice]:
    """Keys of a block's edges over its faces, as the tables are ordered, and where the block's own edges are."""
    (start, stop), shape = box, volume
    stride = np.array([shape[1] * shape[2], shape[2], 1])
    axes = [np.arange(a, b) * s for a, b, s in zip(start, stop, stride, strict=True)]
    keys, own = [np.empty(0, np.int64)], 0
    for k in range(6):
        d = min(k, 5 - k)
        if start[d] == 0 if k < 3 else stop[d] == shape[d]:
            continue
        face = list(axes)
        face[d] = np.array([start[d] if k < 3 else stop[d]]) * stride[d]  # the edge is the upper voxel's
        linear = face[0][:, None, None] + face[1][:, None] + face[2]
        keys.append(3 * linear.ravel() + d)
        own += linear.size if k < 3 else 0
    return np.concatenate(keys), slice(0, own)


def _resolved(
    exit_label: Labels, exit_key: Integers, exit_to: Labels, key: Integers, one: Labels, two: Labels
) -> Labels:
    """Where exits lead, those over edges of which both sides are known now included."""
    if len(key) == 0:
        return exit_to
    at = np.minimum(np.searchsorted(key, exit_key), len(key) - 1)
    found = (exit_to == 0) & (key[at] == exit_key)
    return np.where(found, np.where(one[at] == exit_label, two[at], one[at]), exit_to)


def _united(one: Labels, two: Labels) -> Renames:
    """The renames that give all labels that pairs connect the least of them."""
    labels, rows = np.unique(np.concatenate([one, two]), return_inverse=True)
    roots = labels[_roots(len(labels), rows[: len(one)], rows[len(one) :])]
    changed = roots != labels
    return Renames(labels[changed], roots[changed])


@compiled
def _roots(n: int, one: Integers, two: Integers) -> Integers:
    """The least of n numbers that each is connected with, by pairs."""
    parent = np.arange(n)
    for i in range(len(one)):
        unite(parent, one[i], two[i])
    for i in range(n):
        parent[i] = parent[parent[i]]  # parents are less, so they are roots by now
    return parent


def _joined(graphs: Sequence[Graph], contacts: Sequence[Array], renames: Renames) -> Graph:
    """One graph of several and of contacts between them, by their new names: sorted and reduced once."""
    rows = [tuple(graph.arrays().values()) for graph in graphs] + [contacts]
    a, b, *values = (np.concatenate(column) for column in zip(*rows, strict=True))
    return Graph.of(renamed(a, *renames), renamed(b, *renames), *values)


def _contracted(labels: Labels, sizes: Integers, renames: Renames) -> tuple[Labels, Integers]:
    """Nodes in ascending order, after renames; sizes add up."""
    order = np.argsort(labels, kind="stable")
    labels, sizes = labels[order], sizes[order]
    old, new = (np.searchsorted(labels, names) for names in renames)
    np.add.at(sizes, new, sizes[old])
    kept = np.ones(len(labels), bool)
    kept[old] = False
    return labels[kept], sizes[kept]
