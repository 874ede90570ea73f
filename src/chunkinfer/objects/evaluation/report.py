"""What an evaluation found: scores, tables of errors, a map and a picture of them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from math import nan
from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
from numpy.typing import NDArray

from chunkinfer.errors import VolumeError
from chunkinfer.objects.evaluation.laying import Laid
from chunkinfer.objects.evaluation.mistakes import Errors, lazy_errors, lazy_picture
from chunkinfer.objects.evaluation.pairing import PAIRS
from chunkinfer.objects.evaluation.run_length import Nodes, RunLength, run_length
from chunkinfer.objects.evaluation.scoring import Parts, rand_scores
from chunkinfer.objects.evaluation.tables import renamed
from chunkinfer.support import html
from chunkinfer.support.picture import Picture
from chunkinfer.volumes.pictures.slices import show

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass(frozen=True, eq=False, repr=False)
class Evaluation:
    """How good a segmentation is. Numbers come from integer tables: the same for any cut into blocks."""

    table: dict[str, NDArray[Any]]
    """The contingency table: columns truth, segment and voxels, sorted, with what is ignored; empty without a truth."""
    ignore: tuple[int, ...]
    """Labels of the truth that are left out of the scores."""
    parts: tuple[Parts, Parts] | None
    """What objects of the truth are split into, and what segments are merged of; None without a truth."""
    nodes: Nodes | None
    """Of the skeletons, if any were given."""
    laid: Laid
    """The volumes on common voxels: segmentation, truth."""

    @property
    def box(self) -> dict[str, tuple[int, int]]:
        """The common box, in voxels of the volumes' coordinate system."""
        return self.laid.box

    @property
    def whole(self) -> bool:
        """Whether no volume reaches beyond it."""
        return self.laid.whole

    @property
    def unit(self) -> str:
        """Of lengths; empty if unknown."""
        return self.laid.frame.unit

    @property
    def voxels(self) -> int:
        """That the scores are of: those of the truth that are not ignored."""
        return int(self.parts[0].voxels.sum()) if self.parts else 0

    @cached_property
    def _rand(self) -> tuple[float, float, float]:
        return rand_scores(asked_of(self.table, self.ignore)) if self.parts else (nan, nan, nan)

    @property
    def rand_error(self) -> float:
        """Adapted Rand error: 0 is perfect. This and the following are NaN without a truth."""
        return self._rand[0]

    @property
    def precision(self) -> float:
        """Of pairs of voxels that the segmentation has together, the share that are rightly so; low if it merges."""
        return self._rand[1]

    @property
    def recall(self) -> float:
        """Of pairs of voxels that belong together, the share that the segmentation has so; low if it splits."""
        return self._rand[2]

    @property
    def voi_split(self) -> float:
        """Variation of information, in bits: H(segmentation | truth)."""
        return float(self.parts[0].bits.sum()) if self.parts else nan

    @property
    def voi_merge(self) -> float:
        """H(truth | segmentation), in bits."""
        return float(self.parts[1].bits.sum()) if self.parts else nan

    @property
    def voi(self) -> float:
        """Variation of information, in bits: the sum of both."""
        return self.voi_split + self.voi_merge

    @cached_property
    def run_length(self) -> RunLength | None:
        """On the skeletons, if any were given."""
        return None if self.nodes is None else run_length(self.nodes)

    @property
    def erl(self) -> float:
        """Expected run length, in the voxel size's unit; NaN without skeletons."""
        return nan if self.run_length is None else self.run_length.erl

    @property
    def objects(self) -> int:
        """Objects of the truth."""
        return len(self.parts[0].labels) if self.parts else 0

    @property
    def segments(self) -> int:
        """Segments on them, label 0 left out."""
        return int(np.count_nonzero(self.parts[1].labels)) if self.parts else 0

    @cached_property
    def splits(self) -> DataFrame:
        """Objects of the truth that lie in several segments, the worst first.

        Columns label, voxels, parts (segments it lies in), partners (the ten largest of them, the largest first), lost
        (voxels outside of the largest), voi (its share of ``voi_split``, in bits). Segment 0, what was left out, counts
        as one segment, as it does in the scores.
        """
        return self._compared()[0].frame()

    @cached_property
    def merges(self) -> DataFrame:
        """Segments that hold several objects of the truth, the worst first; columns as in ``splits``, the other way
        round. Row 0 is what the segmentation left out."""
        return self._compared()[1].frame()

    def renamed(self, old: Any, new: Any) -> Evaluation:
        """The same for segments that were given other labels: for each threshold of an agglomeration. No voxel is read.

        Parameters
        ----------
        old, new
            Labels, each once, and what they become; other segments keep theirs. Renamed to 0: left out.

        Raises
        ------
        VolumeError
            A label is renamed twice, or there are not as many new ones as old ones.
        """
        before, after = np.asarray(old, np.uint64), np.asarray(new, np.uint64)
        order = np.argsort(before)
        before = before[order]
        if after.shape != before.shape or before.ndim != 1 or (before[1:] == before[:-1]).any():
            raise VolumeError(
                f"{before.shape} labels, some of them twice perhaps, are to become {after.shape} labels.",
                "Each label becomes one other label.",
                ["evaluation.renamed([7, 8], [3, 3])", "evaluation.renamed(*numpy.unique(pairs, axis=0).T)"],
            )
        rename = partial(renamed, old=before, new=after[order])
        table = self.table
        if table:
            table = PAIRS.reduced({**table, "segment": rename(table["segment"])})
        segments, *others = self.laid.volumes
        empty = np.empty((0,) * segments.array.ndim, np.uint64)
        array = da.map_blocks(rename, segments.array, dtype=np.uint64, meta=empty)
        return replace(
            self,
            table=table,
            parts=parts_of(table, self.ignore),
            nodes=None if self.nodes is None else replace(self.nodes, labels=rename(self.nodes.labels)),
            laid=replace(self.laid, volumes=(replace(segments, array=array), *others)),
        )

    def error_map(self) -> Any:
        """Where it is wrong, as a lazy volume of the common box, uint8.

        0: right, or the truth is ignored there; 2: in a segment that mostly belongs to another object; 1: else, not in
        the largest part of its object, or in no segment.
        """
        return lazy_errors(self.laid, Errors.of(*self._compared(), self.ignore))

    def show(self, out: str | os.PathLike[str] | None = None, *, position: Sequence[float] | None = None) -> Picture:
        """Draw three slices: segments pale, splits orange, merges magenta, where nothing is asked grey.

        Parameters
        ----------
        out
            The PNG to write.
        position
            (z, y, x) where the slices meet, as for `chunkinfer.show`; by default the middle.

        Raises
        ------
        MissingExtra
            matplotlib is absent.
        """
        colours = lazy_picture(self.laid, Errors.of(*self._compared(), self.ignore))
        return show(colours, out, position=position, kind="affinities")  # drawn as red, green and blue

    def _compared(self) -> tuple[Parts, Parts]:
        if self.parts is None:
            raise VolumeError(
                "There is no truth that the segmentation was compared with.",
                "Only skeletons were given.",
                ["evaluate(segmentation, truth)", "look at evaluation.run_length.skeletons"],
            )
        return self.parts

    def as_dict(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        found: dict[str, Any] = {"box": {d: list(span) for d, span in self.box.items()}, "whole": self.whole}
        if self.parts:
            names = ("voxels", "objects", "segments", "rand_error", "precision", "recall", "voi_split", "voi_merge")
            found |= {name: getattr(self, name) for name in (*names, "voi")}
            found |= {"split_objects": len(self.splits), "merging_segments": len(self.merges)}
        if self.run_length is not None:
            found |= {"run_length": self.run_length.as_dict(), "unit": self.unit}
        return found

    def _rows(self) -> list[tuple[str, str]]:
        box = ", ".join(f"{d} {a}:{b}" for d, (a, b) in self.box.items())
        rows = [("box", box + ("" if self.whole else ", where both are"))]
        if self.parts:
            worst = {name: frame.head(1) for name, frame in (("split", self.splits), ("merge", self.merges))}
            told = {
                name: f"; the worst: {row.label.iloc[0]} ({row.voi.iloc[0]:.4f} bits)" if len(row) else ""
                for name, row in worst.items()
            }
            rows += [
                ("voxels", f"{self.voxels:,} of {self.objects:,} objects in {self.segments:,} segments"),
                ("adapted Rand", f"error {self.rand_error:.4f}, precision {self.precision:.4f}, "
                                 f"recall {self.recall:.4f}"),
                ("VOI", f"{self.voi:.4f} bits: split {self.voi_split:.4f}, merge {self.voi_merge:.4f}"),
                ("split", f"{len(self.splits):,} objects{told['split']}"),
                ("merge", f"{len(self.merges):,} segments{told['merge']}"),
            ]  # fmt: skip
        if (run := self.run_length) is not None:
            unit = self.unit or "(no unit)"
            rows += [
                ("ERL", f"{run.erl:,.6g} {unit}, {run.normalized:.1%} of {run.longest:,.6g}"),
                ("edges", f"{run.correct:,} correct, {run.split:,} split, {run.merged:,} merged, "
                          f"{run.omitted:,} omitted"),
            ]  # fmt: skip
            if run.outside:
                rows.append(("outside", f"{run.outside:,} nodes lie outside of the box, and count nowhere"))
        return rows

    def __str__(self) -> str:
        return "\n".join(f"{name + ':':<14}{value}" for name, value in self._rows())

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return html.facts(self._rows())


def asked_of(table: dict[str, NDArray[Any]], ignore: tuple[int, ...]) -> dict[str, NDArray[Any]]:
    """The rows of a table that count."""
    kept = ~np.isin(table["truth"], np.array(ignore, np.uint64))
    if not kept.any():
        raise VolumeError(
            f"All voxels of the truth have a label of ignore={ignore}.",
            "Nothing is left to compare: the labels may lie elsewhere than in the common box.",
            ["count every label: ignore=()", "look at the truth: chunkinfer.show(truth)"],
        )
    return {name: column[kept] for name, column in table.items()}


def parts_of(table: dict[str, NDArray[Any]], ignore: tuple[int, ...]) -> tuple[Parts, Parts] | None:
    """What objects of the truth are split into, and what segments are merged of; None without a table."""
    if not table:
        return None
    asked = asked_of(table, ignore)
    return Parts.of(asked, "truth", "segment"), Parts.of(asked, "segment", "truth")
