"""Expected run length: how far one gets along a neurite, from a random place of it, until the segmentation errs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from chunkinfer.objects.evaluation.skeletons import Skeletons
from chunkinfer.objects.evaluation.tables import starts

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass(frozen=True, eq=False)
class RunLength:
    """Expected run length (ERL) of a segmentation on skeletons.

    Each edge is correct, or split (its nodes lie in two segments), omitted (one lies in label 0), or merged (its
    segment holds nodes of two skeletons, which counts as a run of length zero). With ``L_ks`` the length of the correct
    edges of skeleton k in segment s, ``ERL = sum(L_ks^2) / sum(L)``: the mean, over all places of all skeletons, of the
    length that was traced without error there. Januszewski et al., "High-precision automated reconstruction of neurons
    with flood-filling networks", Nat. Methods 2018.
    """

    erl: float
    """In the unit of the voxel size."""
    longest: float
    """The same of a perfect segmentation."""
    length: float
    """Of all edges together."""
    correct: int
    split: int
    omitted: int
    merged: int
    """Edges of each kind."""
    outside: int
    """Nodes outside of the volume; their edges count nowhere."""
    mergers: DataFrame
    """Segments that merge: columns label, skeletons (ids), nodes."""
    skeletons: DataFrame
    """Columns skeleton, length, erl (of it alone), segments, correct, split, omitted, merged (edges)."""

    @property
    def normalized(self) -> float:
        """Of a perfect segmentation's."""
        return self.erl / self.longest if self.longest else 0.0

    def as_dict(self) -> dict[str, Any]:
        """As plain values."""
        names = ("erl", "normalized", "longest", "length", "correct", "split", "omitted", "merged", "outside")
        return {**{name: getattr(self, name) for name in names}, "mergers": self.mergers.to_dict("records")}


@dataclass(frozen=True, eq=False)
class Nodes:
    """Skeletons on a volume of labels."""

    skeletons: Skeletons
    edge_lengths: NDArray[np.float64]
    """(m): of the edges, in the unit of the voxel size."""
    inside: NDArray[np.bool_]
    """(n): which nodes lie in the volume."""
    labels: NDArray[np.uint64]
    """(n): of the segment at each node; 0 for none."""
    merge_nodes: int = 1
    """A segment merges skeletons of each of which it holds at least so many nodes."""


def run_length(on: Nodes) -> RunLength:
    """The expected run length, and what limits it."""
    import pandas as pd

    labels, edges = on.labels, on.skeletons.edges
    ids, node_of = np.unique(on.skeletons.skeletons, return_inverse=True)
    merging = _merging(labels, node_of, on.inside, on.merge_nodes)
    kept = on.inside[edges].all(axis=1)
    u, v = edges[kept].T
    length, of = on.edge_lengths[kept], node_of[u]
    omitted = (labels[u] == 0) | (labels[v] == 0)
    split = ~omitted & (labels[u] != labels[v])
    merged = ~omitted & ~split & np.isin(labels[u], merging[0])
    correct = ~(omitted | split | merged)

    total = np.bincount(of, length, minlength=len(ids))
    order = np.lexsort([labels[u][correct], of[correct]])
    rows, run = of[correct][order], length[correct][order]
    first = starts(rows, labels[u][correct][order])
    runs = np.add.reduceat(run, first) if len(first) else run
    squares = np.bincount(rows[first], runs * runs, minlength=len(ids))
    safe = np.where(total > 0, total, 1)
    kinds = {"correct": correct, "split": split, "omitted": omitted, "merged": merged}
    table = pd.DataFrame(
        {
            "skeleton": ids,
            "length": total,
            "erl": squares / safe,
            "segments": np.bincount(rows[first], minlength=len(ids)),
            **{name: np.bincount(of[kind], minlength=len(ids)) for name, kind in kinds.items()},
        }
    )
    whole = float(total.sum())
    per = whole or 1.0
    counts = {name: int(kind.sum()) for name, kind in kinds.items()}
    return RunLength(
        float(squares.sum()) / per, float((total * total).sum()) / per, whole, **counts,
        outside=int((~on.inside).sum()),
        mergers=pd.DataFrame(
            {
                "label": merging[0],
                "skeletons": pd.Series([tuple(map(int, ids[held])) for held in merging[1]], dtype=object),
                "nodes": merging[2],
            }
        ),
        skeletons=table,
    )  # fmt: skip


def _merging(
    labels: NDArray[np.uint64], node_of: NDArray[np.intp], inside: NDArray[np.bool_], least: int
) -> tuple[NDArray[np.uint64], list[NDArray[np.intp]], NDArray[np.int64]]:
    """Segments that hold nodes of several skeletons, at least so many of each; these skeletons; and all such nodes."""
    held = inside & (labels != 0)
    order = np.lexsort([node_of[held], labels[held]])
    segment, skeleton = labels[held][order], node_of[held][order]
    first = starts(segment, skeleton)
    nodes = np.diff(first, append=len(segment))
    enough = nodes >= least
    segment, skeleton, nodes = segment[first][enough], skeleton[first][enough], nodes[enough]
    groups = starts(segment)
    counts = np.diff(groups, append=len(segment))
    several = counts > 1
    members = [skeleton[a : a + n] for a, n in zip(groups[several], counts[several], strict=True)]
    sums = np.add.reduceat(nodes, groups) if len(groups) else nodes
    return segment[groups][several], members, sums[several].astype(np.int64)
