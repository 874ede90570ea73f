"""Contingency tables: how many voxels two labels share, per block and in all."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chunkinfer.geometry.boxes import Box
from chunkinfer.objects.evaluation.laying import Part
from chunkinfer.objects.evaluation.tables import Columns, Table, lengths, starts

PAIRS = Columns(keys=("truth", "segment"), sums=("voxels",))
"""A row for each pair of labels that share a voxel."""


def pairs(truth: NDArray[np.uint64], segments: NDArray[np.uint64]) -> dict[str, NDArray[Any]]:
    """The contingency table of two arrays of one shape.

    Voxels in C order come in runs of one pair; only runs are sorted, which are a tenth or less of real labels.
    """
    a, b = truth.reshape(-1), segments.reshape(-1)
    first = starts(a, b)
    return PAIRS.reduced({"truth": a[first], "segment": b[first], "voxels": lengths(first, len(a))})


@dataclass(frozen=True, eq=False)
class Compared:
    """What a pass over blocks finds: pairs of labels, and the labels of nodes."""

    segments: Part
    truth: Part | None
    nodes: NDArray[np.int64]
    """(n, 3): z, y, x, in voxels of the common box."""

    def read(self, box: Box) -> dict[str, NDArray[Any]]:
        """The table of a block. Without a truth, only the box around its nodes is read, or nothing."""
        corner = np.array((0,) * (3 - len(box.start)) + box.start)
        end = np.array((1,) * (3 - len(box.stop)) + box.stop)
        here = np.flatnonzero(((self.nodes >= corner) & (self.nodes < end)).all(axis=1))
        at = self.nodes[here]
        table: dict[str, NDArray[Any]] = {"node": here, "label": np.zeros(0, np.uint64)}
        if self.truth is not None:
            labels = self.segments.labels(box)
            table |= pairs(self.truth.labels(box), labels)
        elif len(at):
            corner, end = at.min(axis=0), at.max(axis=0) + 1
            axes = len(box.start)
            labels = self.segments.labels(Box(tuple(map(int, corner[-axes:])), tuple(map(int, end[-axes:]))))
        if len(at):
            table["label"] = labels[tuple((at - corner).T)]
        return table


def labels_at(tables: Iterable[Table], nodes: int) -> NDArray[np.uint64]:
    """The label of each node, out of the tables of all blocks; 0 where no block holds it."""
    labels = np.zeros(nodes, np.uint64)
    for table in tables:
        labels[table["node"]] = table["label"]
    return labels
