"""evaluate: a segmentation against the truth, block by block."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from dask.base import tokenize
from numpy.typing import NDArray

from chunkinfer.errors import VolumeError
from chunkinfer.objects.evaluation.laying import Laid, labels_in, labels_of, laid
from chunkinfer.objects.evaluation.pairing import PAIRS, Compared, labels_at
from chunkinfer.objects.evaluation.passing import tables_of
from chunkinfer.objects.evaluation.report import Evaluation, parts_of
from chunkinfer.objects.evaluation.run_length import Nodes
from chunkinfer.objects.evaluation.skeletons import Skeletons
from chunkinfer.runs.events import Subscriber
from chunkinfer.runs.run import Where

NO_NODES = np.zeros((0, 3), np.int64)


def evaluate(
    segmentation: Any,
    truth: Any = None,
    *,
    skeletons: Any = None,
    ignore: Sequence[int] = (0,),
    merge_nodes: int = 1,
    url: str | os.PathLike[str] | None = None,
    block: int | Sequence[int] | None = None,
    overwrite: bool = False,
    client: Any = None,
    progress: bool | None = None,
    events: Sequence[Subscriber] = (),
) -> Evaluation:
    """Compare a segmentation with the truth: adapted Rand error, variation of information, expected run length.

    Each block leaves the table of its pairs of labels; the scores are computed from their sum, so that they are the
    same, bit for bit, for any cut into blocks and any number of workers.

    Parameters
    ----------
    segmentation, truth
        Volumes of labels, or their URLs. Volumes with coordinates are laid on each other by them, and compared in the
        box that both cover; volumes without must have one shape. The truth may be left out where there are skeletons.
    skeletons
        Traced neurites for the expected run length: `Skeletons`, or a mapping, an .npz file, an SWC file or a folder of
        them; positions are in the unit of the voxel size unless `Skeletons` say otherwise. Label 0 is no segment.
    ignore
        Labels of the truth whose voxels are left out. Segment 0 is a segment as any other, as in scikit-image.
    merge_nodes
        A segment merges skeletons of each of which it holds at least so many nodes.
    url
        A folder for the tables of blocks: the same call resumes after a crash, on any workers. By default a temporary
        one, on this machine.
    block
        Voxels of a block along each axis; by default whole chunks, about 4 million voxels.
    overwrite
        Forget the tables that are in the folder.
        The same call with ``overwrite=True``, killed or paused before its end, goes on.
    client, progress, events
        Where and how it runs, as for `save`.

    Returns
    -------
    Evaluation

    Raises
    ------
    VolumeError
        A volume holds no labels; they have no voxel in common; nothing of the truth is asked; no node lies inside.
    SourceError
        A volume or skeletons cannot be opened.
    PlanError
        No ``url`` is given, and workers may be on other machines.
    SettingsDiffer
        The folder holds tables of other volumes.
    RunError, RunPaused
        As for `save`.
    """
    ignored = labels_in("ignore", ignore)
    volumes = {"segmentation": labels_of(segmentation, "segmentation")}
    if truth is not None:
        volumes["truth"] = labels_of(truth, "truth", volumes["segmentation"])
    elif skeletons is None:
        raise VolumeError(
            "There is nothing to compare the segmentation with.",
            "It takes labels, or skeletons, that are right.",
            [
                "evaluate(segmentation, truth)",
                'evaluate(segmentation, skeletons="skeletons")  # a folder of .swc files',
            ],
        )
    common = laid(volumes, block)
    traced = None if skeletons is None else Skeletons.of(skeletons)
    nodes = NO_NODES if traced is None else traced.voxels(common.frame)
    inside = _inside(nodes, common)
    segments, *truths = common.parts
    step = Compared(segments, truths[0] if truths else None, nodes)
    about = {**common.about(), "nodes": tokenize(nodes)}
    with tables_of(
        step, "evaluate", common.grid, about,
        url, overwrite, Where(client, progress, events),
    ) as tables:  # fmt: skip
        table = PAIRS.joined(tables) if truths else {}
        labels = labels_at(tables, len(nodes)) if traced is not None else None
    on = None
    if traced is not None and labels is not None:
        on = Nodes(traced, traced.edge_lengths(common.frame), inside, labels, merge_nodes)
    return Evaluation(table, ignored, parts_of(table, ignored), on, common)


def error_map(segmentation: Any, truth: Any, *, ignore: Sequence[int] = (0,), **how: Any) -> Any:
    """Where a segmentation is wrong, as a lazy volume; see `Evaluation.error_map`.

    The volumes are compared first, in a pass over their blocks; who has an `Evaluation` already asks that.

    Parameters
    ----------
    segmentation, truth, ignore
        As for `evaluate`.
    how
        Where and how the pass runs, as for `evaluate`: ``url``, ``client`` and so on.
    """
    return evaluate(segmentation, truth, ignore=ignore, **how).error_map()


def _inside(nodes: NDArray[np.int64], common: Laid) -> NDArray[np.bool_]:
    shape = (1,) * (3 - len(common.shape)) + common.shape
    inside = np.asarray(((nodes >= 0) & (nodes < shape)).all(axis=1))
    if len(nodes) and not inside.any():
        low, high = (tuple(map(int, ends)) for ends in (nodes.min(axis=0), nodes.max(axis=0)))
        raise VolumeError(
            f"No node of the skeletons lies in the volume: they reach from voxel {low} to {high} of {shape}.",
            "Their positions may be x, y, z, or in voxels, or in another unit than the voxel size.",
            [
                'skeletons=chunkinfer.evaluation.Skeletons.of(skeletons, unit="voxels")',
                "if they are x, y, z, turn them round: nodes[:, ::-1]",
                "in nm of um: nodes * 1000",
            ],
        )
    return inside
