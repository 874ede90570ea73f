"""What `segment` gives: labels, the region graph, the dendrogram, and other thresholds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from chunkinfer.errors import PlanError
from chunkinfer.geometry.boxes import BlockGrid
from chunkinfer.objects.segmentation.agglomerating import Dendrogram
from chunkinfer.objects.segmentation.fragments import Named
from chunkinfer.objects.segmentation.graph import Graph, Integers, Labels, renamed
from chunkinfer.objects.segmentation.merges import REST, TREE, below
from chunkinfer.runs.passes import Tables
from chunkinfer.runs.report import RunReport
from chunkinfer.support import html
from chunkinfer.volumes.arrays.source import Source
from chunkinfer.volumes.derived import derived_array
from chunkinfer.volumes.frame import Frame

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr


@dataclass(frozen=True, eq=False)
class Segmentation:
    """Objects of a volume: labels are lazy, tables are read when they are asked for."""

    down: tuple[Tables, ...]
    """What each fragment of each block is after merging by size, by group of blocks; what touches."""
    merged: Tables
    """Objects after merging by size, and the dendrogram."""
    fragments: Source
    grid: BlockGrid
    """The blocks that it was computed in."""
    frame: Frame
    agglomerate: float | None
    """The mean affinity down to which objects merged."""
    dust_size: int
    """Voxels of the smallest object."""
    reports: Mapping[str, RunReport] = field(default_factory=dict)
    """How each pass went."""

    @property
    def url(self) -> str:
        """The folder that holds it."""
        return self.merged.url

    def at(self, agglomerate: float | None, dust_size: int | None = None) -> Segmentation:
        """The same volume with other thresholds at the end: nothing is computed but the labels that are read.

        Parameters
        ----------
        agglomerate
            The mean affinity down to which objects merge; None for not at all.
        dust_size
            Voxels of the smallest object that is kept; None for as many as now.
        """
        return replace(self, agglomerate=agglomerate, dust_size=self.dust_size if dust_size is None else dust_size)

    @cached_property
    def labels(self) -> xr.DataArray:
        """(z, y, x), uint64, lazy: 0 is background, others 1 + the least linear index of an object's voxels."""
        return self._labelled(self._final)

    def consecutive(self) -> xr.DataArray:
        """The labels numbered 1, 2, ... in their order."""
        kept = self._objects[0]
        old, new = self._final
        numbers = np.arange(1, len(kept) + 1, dtype=np.uint64)
        every = np.concatenate([old, kept])
        after = renamed(np.concatenate([new, kept]), kept, numbers)
        order = np.argsort(every)
        return self._labelled((every[order], after[order]))

    @property
    def objects(self) -> pd.DataFrame:
        """``label`` and ``size`` in voxels of each object, in the order of the labels."""
        import pandas as pd

        label, size = self._objects
        return pd.DataFrame({"label": label, "size": size})

    @property
    def graph(self) -> pd.DataFrame:
        """Which objects touch before agglomeration: label_a, label_b, max and mean affinity, size in voxel faces."""
        return self._graph.frame()

    @property
    def dendrogram(self) -> pd.DataFrame:
        """Merges by mean affinity, the highest first: label_a stays, label_b becomes it, at ``score``."""
        import pandas as pd

        return pd.DataFrame({"label_a": self._tree.a, "label_b": self._tree.b, "score": self._tree.score})

    def __repr__(self) -> str:
        return "\n".join(f"{name:<12} {value}" for name, value in self._about())

    def _repr_html_(self) -> str:
        return html.facts(self._about())

    def _about(self) -> list[tuple[str, str]]:
        shape, (label, size) = self.fragments.shape, self._objects
        covered = int(size.sum()) / max(int(np.prod(shape)), 1)
        threshold = "no agglomeration" if self.agglomerate is None else f"mean affinity >= {self.agglomerate}"
        return [
            ("segmentation", f"{' x '.join(map(str, shape))} voxels, {self.url}"),
            ("objects", f"{len(label)}, of {len(self._table['label'])} before agglomeration; {threshold}"),
            ("covered", f"{100 * covered:.1f} % of the voxels"),
            ("largest", f"{int(size.max()) if len(size) else 0} voxels"),
            ("contacts", f"{len(self._graph)}"),
        ]

    # ---- tables -------------------------------------------------------------------------------------------------

    @cached_property
    def _table(self) -> dict[str, NDArray[Any]]:
        return self.merged[0]

    @cached_property
    def _graph(self) -> Graph:
        tables = (below(REST, table) for tables in self.down for table in tables)
        return Graph.joined(Graph.from_arrays(columns) for columns in tables if columns)

    @cached_property
    def _tree(self) -> Dendrogram:
        columns = below(TREE, self._table)
        return Dendrogram.joined([Dendrogram.from_arrays(columns)] if columns else [])

    @cached_property
    def _agglomerated(self) -> tuple[Labels, Labels]:
        if self.agglomerate is None:
            return np.empty(0, np.uint64), np.empty(0, np.uint64)
        if not 0 <= self.agglomerate <= 1:
            raise PlanError(
                f"agglomerate={self.agglomerate} is no mean affinity.",
                "Affinities are between 0 and 1.",
                ["segmentation.at(0.3)", "segmentation.at(None) for no agglomeration"],
            )
        return self._tree.labels_at(self.agglomerate)

    @cached_property
    def _sizes(self) -> tuple[Labels, Integers]:
        """All objects after agglomeration, dust too, and their voxels."""
        label = renamed(self._table["label"], *self._agglomerated)
        found, which = np.unique(label, return_inverse=True)
        sizes = np.zeros(len(found), np.int64)
        np.add.at(sizes, which, self._table["size"])
        return found, sizes

    @property
    def _objects(self) -> tuple[Labels, Integers]:
        label, size = self._sizes
        return label[size >= self.dust_size], size[size >= self.dust_size]

    @cached_property
    def _final(self) -> tuple[Labels, Labels]:
        """Labels after merging by size, ascending, that become others, and these: 0 for dust."""
        label, size = self._sizes
        dust = label[size < self.dust_size]
        old = self._table["label"]
        new = renamed(renamed(old, *self._agglomerated), dust, np.zeros_like(dust))
        return old[old != new], new[old != new]

    def _labelled(self, final: tuple[Labels, Labels]) -> xr.DataArray:
        block = [axis[0] for axis in self.grid.sizes]
        step = Named(self.grid, self.down[0], *final)
        array = derived_array(step, [self.fragments], self.grid.shape, np.uint64, block)
        return self.frame.label(array, self.frame.space, name="segmentation", attrs={"type": "segmentation"})
