"""segment and watershed: objects out of affinities, the same for every cut.

::

    fragments                affinities -> fragments and a table, block by block
    up-1, up-2, ...          tables of neighbours joined, small objects merged
    ..., down-2, down-1      the object of each fragment of each block
    agglomerated-1, ...      objects merged by mean affinity, as a dendrogram
    objects                  all of them in one table

Each is a pass with a ledger in the folder of the segmentation. Other settings of merging begin at "up-1".
"""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from dask.base import tokenize

from chunkinfer.errors import PlanError, VolumeError
from chunkinfer.geometry.boxes import Box
from chunkinfer.objects.segmentation.edges import Edges
from chunkinfer.objects.segmentation.fragments import Watershed
from chunkinfer.objects.segmentation.graph import SCALE
from chunkinfer.objects.segmentation.merges import Agglomerates, Collects, JoinsBasins
from chunkinfer.objects.segmentation.reducing import Tree
from chunkinfer.objects.segmentation.result import Segmentation
from chunkinfer.objects.segmentation.running import passes_in
from chunkinfer.runs.events import Subscriber
from chunkinfer.runs.passes import Table, Tables
from chunkinfer.runs.run import Where
from chunkinfer.volumes.alignment import resolve_mask
from chunkinfer.volumes.arrays.source import Source
from chunkinfer.volumes.kinds import in_three_axes, refuse_picture_for_affinities
from chunkinfer.volumes.volume import Volume

Seed = tuple[int, tuple[int, ...]]
"""Number of an object, and a voxel (z, y, x) in it."""


def segment(
    affinities: Any,
    url: str | os.PathLike[str] | None = None,
    *,
    low: float = 0.05,
    high: float = 0.995,
    merge_threshold: float = 0.5,
    merge_size: int = 250,
    dust_size: int = 100,
    agglomerate: float | None = 0.6,
    order: str = "zyx",
    sign: int = -1,
    mask: Any = None,
    seeds: Mapping[int, Sequence[Sequence[int]]] | None = None,
    block: Sequence[int] | None = None,
    overwrite: bool = False,
    client: Any = None,
    progress: bool | None = None,
    events: Sequence[Subscriber] = (),
) -> Segmentation:
    """Cut a volume into objects: watershed of affinities, merging by size, agglomeration by mean affinity.

    The result depends on the affinities only: not on blocks, workers, their order or crashes.

    Parameters
    ----------
    affinities
        (c, z, y, x) with three channels, or a boundary map (z, y, x), high at membranes: floating in [0, 1], or uint8
        whose 255 is 1. One channel of uint8 is taken where a network computed it: else it may be a picture. Lazy ones,
        such as a network's, are computed once and not stored.
    url
        A folder for what is computed: after a crash the same call goes on there, on any machine that reaches it. By
        default a temporary one on this machine, which goes when the process ends.
    low, high
        Thresholds of the watershed (low_threshold, high_threshold): edges with an affinity of at most ``low`` are cut,
        those above ``high`` count as ``high``.
    merge_threshold, merge_size
        Pairs of objects whose strongest contact has at least this affinity merge, the strongest first, if one of them
        has fewer voxels than ``merge_size``.
    dust_size
        Objects of fewer voxels become background, at the very end.
    agglomerate
        The mean affinity down to which objects merge, the highest first; None for not at all. Another one is had
        from the result, by `Segmentation.at`.
    order
        Of the channels: "zyx" or "xyz".
    sign
        -1: channel d of a voxel is its edge to the voxel before it along axis d; +1: to the one behind it.
    mask
        A volume of any resolution; where it is 0 is background.
    seeds
        Number of an object -> voxels (z, y, x) in it: objects with different numbers never merge.
    block
        Voxels (z, y, x) that a task does; by default about 4 million, or the blocks of the network that computes the
        affinities.
    overwrite
        Start anew where ``url`` holds another segmentation.
        The same call with ``overwrite=True``, killed or paused before its end, goes on.
    client, progress, events
        As for `save`.

    Returns
    -------
    Segmentation
        Labels as a lazy volume (uint64, 0 is background, others 1 + the least linear index of an object's voxels),
        the region graph and the dendrogram.

    Raises
    ------
    VolumeError
        The affinities are not of that kind, are NaN or outside of [0, 1] somewhere, or a seed lies outside. Then
        nothing of the call stays in ``url``.
    SourceError
        They are the output of a run that has not ended.
    PlanError
        A threshold or a size makes no sense.
    SettingsDiffer
        ``url`` was begun with other thresholds of the watershed, blocks or affinities.
    RunError, RunPaused
        As for `save`.
    """
    volume = in_three_axes(affinities, "affinities")
    refuse_picture_for_affinities(volume)
    _check(volume, low, high, merge_size, dust_size, agglomerate)
    shape = volume.space_shape
    edges = Edges.of(volume.array.shape[0] if volume.channels else 0, order, sign)
    laid = None if mask is None else resolve_mask(mask, volume, volume.frame, shape)
    about = {
        "edges": [edges.kind, order, sign], "low": low, "high": high, "mask": None if laid is None else laid.about(),
        "scale": SCALE
    }  # fmt: skip
    rows = _rows(seeds, shape)
    call = {**about, "block": block}
    with passes_in(url, volume, call, overwrite, Where(client, progress, events)) as passes:
        blocks, fragments = passes.cut("fragments", Watershed(shape, edges, low, high, laid), about, block)
        tree = Tree(blocks.grid.counts)
        sown = passes.once(f"seeds-{tokenize(rows)[:8]}", Sown(blocks, fragments, rows)) if rows else None
        joins = JoinsBasins(merge_threshold, merge_size, sown)
        up = passes.up(tree, blocks, joins)
        down = passes.down(tree, blocks, up, joins)
        made, name = list[Tables](), tokenize(joins)[:8]
        for level, grid in enumerate(tree.levels):
            step = Agglomerates(tree, level, down[level], made[-1] if made else None, up[-1])
            made.append(passes.over(f"agglomerated-{level + 1}-{name}", grid, step, {}))
        merged = passes.once(f"objects-{name}", Collects(up[-1], tuple(made)))
    return Segmentation(
        tuple(down), merged, fragments, blocks.grid, volume.frame, agglomerate, dust_size, passes.reports
    )


def watershed(affinities: Any, url: str | os.PathLike[str] | None = None, **settings: Any) -> Segmentation:
    """The basins of affinities, none merged: `segment` without what comes after its first stage.

    Parameters
    ----------
    affinities, url, settings
        As for `segment`: low, high, order, sign, mask, block, overwrite, client, progress and events.
    """
    return segment(affinities, url, **{"merge_size": 0, "dust_size": 0, "agglomerate": None, **settings})


@dataclass(frozen=True)
class Sown:
    """Finds the fragments that seeds lie in."""

    blocks: Tables
    fragments: Source
    seeds: tuple[Seed, ...]

    def read(self, box: Box) -> Table:
        """``label`` of each seed's fragment and its ``number``; none in the background."""
        found = [(self._label(voxel), number) for number, voxel in self.seeds]
        label, number = zip(*[pair for pair in found if pair[0]] or [(0, 0)], strict=True)
        return {"label": np.array(label, np.uint64), "number": np.array(number, np.int64)}

    def _label(self, voxel: tuple[int, ...]) -> int:
        grid = self.blocks.grid
        row = int(self.fragments[voxel])
        index = [bisect_right(edges, i) - 1 for edges, i in zip(grid.edges, voxel, strict=True)]
        return int(self.blocks[grid.ravel(index)]["label"][row - 1]) if row else 0


def _check(volume: Volume, low: float, high: float, merge_size: int, dust_size: int, agglomerate: float | None) -> None:
    dtype = volume.array.dtype
    if len(volume.frame.space) != 3 or (dtype.kind not in "fb" and dtype != np.uint8):
        raise VolumeError(
            f"{volume.dims} {volume.array.shape} of {dtype} are no affinities.",
            "Affinities are floating in [0, 1], or uint8 whose 255 is 1, along z, y and x.",
            ["segment(infer(volume, model))", "what is integers: segment(affinities / affinities.max())"],
        )
    shape = volume.array.shape
    if volume.channels and not volume.labelled and shape[0] not in (1, 3) and shape[-1] in (1, 3):
        raise VolumeError(
            f"The affinities have the shape {shape}: their channels seem to be the last axis.",
            "Unlabelled arrays are (c, z, y, x).",
            ["segment(numpy.moveaxis(affinities, -1, 0))", "segment(affinities[:3]), if they are the first"],
        )
    if not 0 <= low < high:
        raise PlanError(
            f"low={low} and high={high} are not 0 <= low < high.",
            "Edges of low or less are cut, those above high count as high.",
            ["segment(affinities, low=0.05, high=0.995)", "leave both out"],
        )
    if agglomerate is not None and not 0 <= agglomerate <= 1:
        raise PlanError(
            f"agglomerate={agglomerate} is no mean affinity.",
            "Affinities are between 0 and 1.",
            ["agglomerate=0.6", "agglomerate=None for no agglomeration"],
        )
    if merge_size < 0 or dust_size < 0:
        raise PlanError(
            f"merge_size={merge_size}, dust_size={dust_size}: sizes are numbers of voxels.",
            "A negative one has no meaning.",
            ["segment(affinities, merge_size=0)", "segment(affinities, dust_size=0)"],
        )


def _rows(seeds: Mapping[int, Sequence[Sequence[int]]] | None, shape: Sequence[int]) -> tuple[Seed, ...]:
    """Seeds, one row for each voxel.

    Raises
    ------
    VolumeError
        A number is not positive, or a voxel lies outside.
    """
    rows = [(int(number), tuple(map(int, voxel))) for number, voxels in (seeds or {}).items() for voxel in voxels]
    for number, voxel in rows:
        if number < 1 or len(voxel) != 3 or not all(0 <= i < n for i, n in zip(voxel, shape, strict=True)):
            raise VolumeError(
                f"The seed {number} at {voxel} is not one of this volume {tuple(shape)}.",
                "Seeds have positive numbers, and voxels (z, y, x) counted from the volume's first one.",
                [f"seeds={{1: [{tuple(n // 2 for n in shape)}], 2: [{(0,) * len(shape)}]}}", "leave seeds= out"],
            )
    return tuple(rows)
