"""Steps that make objects and meshes. They compute when they are reached: a label depends on the whole volume."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np

from chunkinfer.runs.events import Subscriber
from chunkinfer.volumes.volume import as_volume

if TYPE_CHECKING:
    from chunkinfer.objects.meshes.meshing import MeshReport
    from chunkinfer.objects.segmentation.result import Segmentation


def segment(
    volume: Any,
    *,
    work: str | None = None,
    low: float = 0.05,
    high: float = 0.995,
    merge_threshold: float = 0.5,
    merge_size: int = 250,
    dust_size: int = 100,
    agglomerate: float | None = 0.6,
    order: str = "zyx",
    sign: int = -1,
    mask: Any = None,
    consecutive: bool = False,
    client: Any = None,
    progress: bool | None = None,
    events: Sequence[Subscriber] = (),
) -> Any:
    """Cut a volume into objects: watershed of affinities, merging by size, agglomeration by mean affinity.

    Parameters
    ----------
    volume
        Affinities with three channels, or a boundary map.
    work
        A folder for what is computed, where the same command goes on after a crash; by default a temporary one.
    low
        Edges with an affinity of at most this are cut.
    high
        Edges with a higher affinity count as this.
    merge_threshold
        Pairs of objects whose strongest contact has at least this affinity merge if one is smaller than merge_size.
    merge_size
        In voxels.
    dust_size
        Objects of fewer voxels become background.
    agglomerate
        The mean affinity down to which objects merge, the highest first.
    order
        Of the channels: zyx or xyz.
    sign
        -1: a channel is the edge to the voxel before; 1: to the one behind.
    mask
        A volume of any resolution: the name of an earlier step, or a URL; where it is 0 is background.
    consecutive
        Labels 1, 2, ... instead of those that tell where an object begins.
    """
    from chunkinfer.objects.segmentation import segmenting

    found = segmenting.segment(
        volume, work, low=low, high=high, merge_threshold=merge_threshold, merge_size=merge_size, dust_size=dust_size,
        agglomerate=agglomerate, order=order, sign=sign, mask=mask, client=client, progress=progress, events=events,
    )  # fmt: skip
    return _labels(found, consecutive)


def components(
    volume: Any,
    *,
    work: str | None = None,
    connectivity: int = 6,
    multilabel: bool | None = None,
    dust_size: int = 0,
    consecutive: bool = False,
    client: Any = None,
    progress: bool | None = None,
    events: Sequence[Subscriber] = (),
) -> Any:
    """Number the connected parts of a volume.

    Parameters
    ----------
    volume
        Voxels that are not 0 are connected.
    work
        A folder for what is computed, where the same command goes on after a crash; by default a temporary one.
    connectivity
        6: neighbours share a face; 18: or an edge; 26: or a corner.
    multilabel
        Whether voxels of different values are not connected; by default for segmentations.
    dust_size
        Components of fewer voxels become background.
    consecutive
        Labels 1, 2, ... instead of those that tell where a component begins.
    """
    from chunkinfer.objects.segmentation import connecting

    found = connecting.connected_components(
        volume, work, connectivity=connectivity, multilabel=multilabel, dust_size=dust_size, client=client,
        progress=progress, events=events,
    )  # fmt: skip
    return _labels(found, consecutive)


def mesh(
    volume: Any,
    url: str,
    *,
    simplify: float = 100,
    max_error: float | None = None,
    format: str = "legacy",
    sharded: bool = False,
    overwrite: bool = False,
    client: Any = None,
    progress: bool | None = None,
    events: Sequence[Subscriber] = (),
) -> MeshReport:
    """Make Neuroglancer meshes of the volume's objects.

    Parameters
    ----------
    volume
        Labels.
    url
        Of a precomputed segmentation, such as an earlier step saved, or of a folder of their own.
    simplify
        One of so many triangles is enough; 1 keeps all.
    max_error
        Nanometres by which a simplified surface may lie beside the marched one; by default half a voxel.
    format
        legacy, or multires: levels of detail, compressed by Draco.
    sharded
        Store many objects together; multires only.
    overwrite
        Delete the meshes that are there and start anew.
    """
    from chunkinfer.objects.meshes import meshing

    return meshing.mesh(
        volume, url, simplify=simplify, max_error=max_error, format=format, sharded=sharded, overwrite=overwrite,
        client=client, progress=progress, events=events,
    )  # fmt: skip


def _labels(found: Segmentation, consecutive: bool) -> Any:
    return found.consecutive() if consecutive else found.labels


def declared(volume: Any) -> Any:
    """What the labels of a volume are before they are found: zeros on its voxels."""
    about = as_volume(volume, 3)
    zeros = da.zeros(about.space_shape, dtype=np.uint64, chunks=about.array.chunks[-3:])
    return about.frame.label(zeros, about.frame.space, name="segmentation", attrs={"type": "segmentation"})


OBJECTS: dict[str, Callable[..., Any]] = {"segment": segment, "components": components}
"""The steps that make objects."""
