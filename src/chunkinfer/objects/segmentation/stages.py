"""The stages of a segmentation by themselves, on labels that come from anywhere."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Unpack

import numpy as np
from numpy.typing import NDArray

from chunkinfer.errors import VolumeError
from chunkinfer.geometry.boxes import BlockGrid, Box
from chunkinfer.objects.segmentation import agglomerating, graph
from chunkinfer.objects.segmentation.edges import Edges
from chunkinfer.objects.segmentation.fragments import around
from chunkinfer.objects.segmentation.graph import SCALE, Graph, Labels
from chunkinfer.objects.segmentation.running import block_of, passes_in
from chunkinfer.runs.events import Subscriber
from chunkinfer.runs.passes import Table, Tables, check_finished
from chunkinfer.runs.run import Where
from chunkinfer.runs.session import Passing
from chunkinfer.support.jit import compiled
from chunkinfer.support.timing import stage
from chunkinfer.support.tokens import keep_tokens
from chunkinfer.volumes.derived import voxels
from chunkinfer.volumes.kinds import as_labels, in_three_axes, refuse_picture_for_affinities, refuse_picture_for_labels
from chunkinfer.volumes.operators.lazy import Declared, opened, voxelwise
from chunkinfer.volumes.volume import Volume, source_of


class RegionGraph(Passing, total=False):
    """Keyword arguments of `region_graph`, for type checkers."""

    order: str
    sign: int


def relabel(labels: Any, names: Mapping[int, int]) -> Any:
    """Give objects other labels, lazily.

    Parameters
    ----------
    labels
        Integers; the result is uint64.
    names
        Old label -> new one. Labels that are not in it stay; several old ones may become one, and 0 is background.
    """
    found = _labels(labels)
    old = np.array(sorted(map(int, names)), np.uint64)
    new = np.array([names[int(label)] for label in old], np.uint64)
    return voxelwise(partial(_renamed, old=old, new=new), found, Declared.like(found, np.uint64))


def consecutive(labels: Any, url: str | os.PathLike[str] | None = None, **how: Unpack[Passing]) -> Any:
    """Labels numbered 1, 2, ... in their order; a pass over the volume finds them.

    Parameters
    ----------
    labels, url, how
        As for `remove_dust`.
    """
    found, _ = _sizes(labels, url, **how)
    return relabel(labels, {int(label): i for i, label in enumerate(found, 1)})


def remove_dust(labels: Any, dust_size: int, url: str | os.PathLike[str] | None = None, **how: Unpack[Passing]) -> Any:
    """Blank objects of few voxels, counted in the whole volume; a pass finds them.

    Parameters
    ----------
    labels
        Integers.
    dust_size
        Voxels of the smallest object that stays.
    url, how
        Where tables are kept, and ``overwrite``, ``client``, ``progress`` and ``events``, as for `segment`.
    """
    found, sizes = _sizes(labels, url, **how)
    return relabel(labels, dict.fromkeys(map(int, found[sizes < dust_size]), 0))


def region_graph(
    labels: Any,
    affinities: Any,
    url: str | os.PathLike[str] | None = None,
    *,
    order: str = "zyx",
    sign: int = -1,
    overwrite: bool = False,
    client: Any = None,
    progress: bool | None = None,
    events: Sequence[Subscriber] = (),
) -> Graph:
    """Which objects touch, and how strongly: the same for every cut into blocks.

    Parameters
    ----------
    labels
        Integers (z, y, x); 0 is background.
    affinities, order, sign
        As for `segment`, on the same voxels.
    url, overwrite, client, progress, events
        As for `segment`.

    Returns
    -------
    Graph
        ``frame()`` gives a DataFrame: label_a, label_b, max and mean affinity, size in voxel faces.

    Raises
    ------
    VolumeError
        The two do not have the same voxels.
    """
    found, weights = _labels(labels), in_three_axes(affinities, "affinities")
    refuse_picture_for_affinities(weights)
    check_finished(weights)
    if found.space_shape != weights.space_shape:
        both = ", ".join(f":{min(n, m)}" for n, m in zip(found.space_shape, weights.space_shape, strict=True))
        lead = ":, " if weights.channels else ""
        raise VolumeError(
            f"Labels have {found.space_shape} voxels and affinities {weights.space_shape}.",
            "Contacts are weighted voxel by voxel, so both must cover the same box.",
            [
                f"region_graph(labels[{both}], affinities[{lead}{both}])",
                "open the larger one as a box of it, with box=",
            ],
        )
    shape = found.space_shape
    edges = Edges.of(weights.array.shape[0] if weights.channels else 0, order, sign)
    contacts = Contacts(found.origin, weights.origin, weights.channels, edges, shape)
    grid = BlockGrid.regular(shape, block_of(weights))
    about = {
        "labels": source_of(found).identity(),
        "affinities": source_of(weights).identity(),
        "edges": [edges.kind, order, sign],
        "scale": SCALE,
    }
    with passes_in(url, found, about, overwrite, Where(client, progress, events)) as passes:
        tables = passes.over("contacts", grid, contacts, about)
        return Graph.joined(Graph.from_arrays(table) for table in tables)


def agglomerate(
    labels: Any,
    affinities: Any,
    threshold: float = 0.6,
    url: str | os.PathLike[str] | None = None,
    **how: Unpack[RegionGraph],
) -> Any:
    """Merge objects by mean affinity, the highest first, down to a threshold; lazy labels.

    Parameters
    ----------
    labels, affinities, url, how
        As for `region_graph`.
    threshold
        The least mean affinity that merges.
    """
    contacts = region_graph(labels, affinities, url, **how)
    old, new = agglomerating.agglomerate(contacts, threshold).dendrogram.labels_at(threshold)
    return relabel(labels, dict(zip(old.tolist(), new.tolist(), strict=True)))


@dataclass(frozen=True)
class Contacts:
    """The region graph of a block: of its voxels' edges to those before them."""

    labels: Any
    affinities: Any
    channels: bool
    edges: Edges
    shape: tuple[int, ...]

    def read(self, box: Box) -> Table:
        """The columns of a `Graph`."""
        seen = around(box, (1 + self.edges.halo, 0), self.shape)
        with stage("read"):
            part = Box((0, *seen.start), (self.affinities.shape[0], *seen.stop)) if self.channels else seen
            read = voxels(self.affinities, part).reshape(-1, *seen.shape)
            covered = self.edges.covered(seen)
            labels = voxels(self.labels, covered).astype(np.uint64, copy=False)
        with stage("contacts"):
            weights = self.edges.turned(read, seen.start)
            unit = 255.0 if weights.dtype == np.uint8 else 1.0
            inner = tuple(a - b for a, b in zip(box.start, covered.start, strict=True))
            rows = contact_rows(labels, weights, inner, covered.start, self.shape, unit)
            return Graph.of(*rows).arrays()


@compiled
def contact_rows(
    labels: Labels, weights: NDArray[Any], inner: Any, start: Any, shape: Any, unit: float
) -> tuple[Labels, Labels, NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Contacts of different objects: of voxels from ``inner`` on with those before them. NaN is none."""
    n = 0
    a = b = np.empty(0, np.uint64)
    most = count = key = np.empty(0, np.int64)
    for writing in (False, True):
        if writing:
            a, b = np.empty(n, np.uint64), np.empty(n, np.uint64)
            most, count, key = np.empty(n, np.int64), np.ones(n, np.int64), np.empty(n, np.int64)
            n = 0
        for z in range(inner[0], labels.shape[0]):
            for y in range(inner[1], labels.shape[1]):
                for x in range(inner[2], labels.shape[2]):
                    own = labels[z, y, x]
                    if own == 0:
                        continue
                    for d in range(3):
                        back = (z - (d == 0), y - (d == 1), x - (d == 2))
                        if min(back) < 0 or labels[back] == own or labels[back] == 0:
                            continue
                        w = np.float64(weights[d, z, y, x])
                        if np.isnan(w):
                            continue
                        if writing:
                            a[n], b[n] = own, labels[back]
                            most[n] = np.int64(np.rint(w / unit * SCALE))
                            at = ((z + start[0]) * shape[1] + y + start[1]) * shape[2] + x + start[2]
                            key[n] = 3 * at + d
                        n += 1
    return a, b, most, most, count, key


@dataclass(frozen=True)
class Sizes:
    """The labels of a block, and how many voxels each has."""

    labels: Any

    def read(self, box: Box) -> Table:
        """``label`` and ``size``."""
        with stage("read"):
            found = voxels(self.labels, box)
        label, size = np.unique(found, return_counts=True)
        return {"label": label.astype(np.uint64), "size": size}


def _sizes(
    labels: Any,
    url: Any,
    overwrite: bool = False,
    client: Any = None,
    progress: bool | None = None,
    events: Sequence[Subscriber] = (),
) -> tuple[Labels, NDArray[np.int64]]:
    """All labels but 0, ascending, and their voxels."""
    found = _labels(labels)
    with passes_in(url, found, {}, overwrite, Where(client, progress, events)) as passes:
        grid = BlockGrid.regular(found.space_shape, block_of(found))
        tables: Tables = passes.over("sizes", grid, Sizes(found.origin), {"labels": source_of(found).identity()})
        parts = list(tables)
    label, which = np.unique(np.concatenate([part["label"] for part in parts]), return_inverse=True)
    size = np.zeros(len(label), np.int64)
    np.add.at(size, which, np.concatenate([part["size"] for part in parts]))
    return label[label > 0], size[label > 0]


def _labels(labels: Any) -> Volume:
    found = opened(labels)
    if found.array.dtype.kind not in "iu" or len(found.frame.space) != 3 or found.channels:
        raise VolumeError(
            f"{found.dims} {found.array.shape} of {found.array.dtype} are no labels.",
            "Labels are integers along z, y and x, without channels.",
            [as_labels(found), "of what segment gave: segmentation.labels"],
        )
    refuse_picture_for_labels(found, "labels")
    return found


def _renamed(block: NDArray[Any], old: Labels, new: Labels) -> Labels:
    return graph.renamed(block.astype(np.uint64, copy=False), old, new)


keep_tokens(globals(), "chunkinfer.segmentation.stages")
