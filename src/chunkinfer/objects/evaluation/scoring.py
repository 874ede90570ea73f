"""Scores of a contingency table, and what each object contributes to them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from chunkinfer.objects.evaluation.tables import Table, lengths, starts

if TYPE_CHECKING:
    from pandas import DataFrame

PARTNERS = 10
"""Partners of an object that are named in its row, the largest first."""


def rand_scores(table: Table) -> tuple[float, float, float]:
    """Adapted Rand error, precision and recall.

    Of pairs of voxels, precision is the share that are rightly together among those that the segmentation has together,
    recall among those that the truth has together. The error is 1 minus their harmonic mean, which is
    ``2 sum(n_ts (n_ts - 1)) / (sum(n_t (n_t - 1)) + sum(n_s (n_s - 1)))``. Arganda-Carreras et al., "Crowdsourcing the
    creation of image segmentation algorithms for connectomics", Front. Neuroanat. 2015.

    Where no two voxels are together on a side, nothing is wrong on that side.
    """
    both, truth, segments = (_pairs(n) for n in _counts(table))
    share = [both / n if n else 1.0 for n in (segments, truth)]
    return (1 - 2 * both / (truth + segments) if truth + segments else 0.0), share[0], share[1]


def _counts(table: Table) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Voxels of each pair, of each label of the truth, and of each segment; sorted by labels."""
    n = table["voxels"]
    by_segment = np.argsort(table["segment"], kind="stable")
    truth = np.add.reduceat(n, starts(table["truth"]))
    return n, truth, np.add.reduceat(n[by_segment], starts(table["segment"][by_segment]))


def _pairs(voxels: NDArray[np.int64]) -> float:
    """Ordered pairs of different voxels that are together."""
    n = voxels.astype(np.float64)
    return float((n * (n - 1)).sum())


@dataclass(frozen=True)
class Parts:
    """What a side's objects are broken into by the other side's.

    Each row of ``table`` belongs to one object; the largest part of an object (of equally large ones the least label)
    is where it is right.
    """

    labels: NDArray[np.uint64]
    """Of the objects, sorted."""
    main: NDArray[np.uint64]
    """Label of the largest part of each."""
    count: NDArray[np.int64]
    """Parts of each."""
    voxels: NDArray[np.int64]
    lost: NDArray[np.int64]
    """Voxels that are not in the largest part."""
    bits: NDArray[np.float64]
    """What each contributes to the variation of information."""
    order: NDArray[np.uint64]
    """Labels of all parts: object by object, the largest first."""

    @classmethod
    def of(cls, table: Table, whole: str, part: str) -> Parts:
        """The parts named by one column of the objects named by another."""
        n = table["voxels"]
        order = np.lexsort([table[part], -n, table[whole]])
        objects, parts, n = table[whole][order], table[part][order], n[order]
        first = starts(objects)
        count, voxels = lengths(first, len(n)), np.add.reduceat(n, first)
        # H(part | whole) is the sum over pairs of n / N log2(n_whole / n): never below 0, term by term.
        each = n / n.sum() * np.log2(np.repeat(voxels, count) / n)
        bits = np.add.reduceat(each, first)
        return cls(objects[first], parts[first], count, voxels, voxels - n[first], bits, parts)

    def frame(self) -> DataFrame:
        """The objects of more than one part, what costs most first: columns label, voxels, parts, partners, lost, voi.

        ``partners`` names at most `PARTNERS` parts, the largest first; ``voi`` is in bits.
        """
        import pandas as pd

        broken = np.flatnonzero(self.count > 1)
        broken = broken[np.lexsort([self.labels[broken], -self.bits[broken]])]
        ends = np.cumsum(self.count)
        partners = [tuple(map(int, self.order[ends[i] - self.count[i] : ends[i]][:PARTNERS])) for i in broken]
        columns: dict[str, Any] = {
            "label": self.labels[broken], "voxels": self.voxels[broken], "parts": self.count[broken],
            "partners": pd.Series(partners, dtype=object), "lost": self.lost[broken], "voi": self.bits[broken],
        }  # fmt: skip
        return pd.DataFrame(columns)
