"""copy: a stored volume to another place, in other chunks, another encoding or another format."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from chunkinfer.api.save import save
from chunkinfer.runs.events import Subscriber
from chunkinfer.runs.report import RunReport
from chunkinfer.stores.urls import locate
from chunkinfer.volumes.arrays.nodes import look
from chunkinfer.volumes.arrays.source import Source
from chunkinfer.volumes.lazy import origin_of
from chunkinfer.volumes.open import open_volume


def copy(
    src: Any,
    dst: Any,
    *,
    level: int = 0,
    array: str | None = None,
    box: Sequence[slice] | Mapping[str, slice] | None = None,
    voxel_size: Sequence[float] | None = None,
    offset: Sequence[float] | None = None,
    missing: str = "error",
    format: str | None = None,
    chunks: Sequence[int] | None = None,
    shards: Sequence[int] | bool | None = None,
    encoding: str | None = None,
    compression: str | None = None,
    pyramid: bool | int = False,
    overwrite: bool = False,
    client: Any = None,
    progress: bool | None = None,
    events: Sequence[Subscriber] = (),
) -> RunReport:
    """Copy a stored volume: its voxels and their type as they are, in other chunks, another encoding or format.

    It is ``save(open_volume(src), dst)`` with all that `save` promises: the same call resumes after a crash. And what
    it is stays what it is: labels of a precomputed volume that another tool wrote remain labels, whatever their type,
    and so does an image. So levels of labels hold their most frequent value, and labels of uint32 or uint64 that go to
    precomputed are stored as compressed_segmentation unless ``encoding`` says otherwise.

    Parameters
    ----------
    src
        A path or URL of anything that `open_volume` opens.
    dst
        A path or a ``file://``, ``s3://`` or ``gs://`` URL.
    level, array, box, voxel_size, offset, missing
        What to copy, as for `open_volume`: one level, one array of a group, a box of it.
    format, chunks, shards, encoding, compression, pyramid, overwrite
        How it is stored, as for `save`. Without ``pyramid``, one level is written, also of a source that has several.
    client, progress, events
        Where and how it runs, as for `save`.

    Returns
    -------
    RunReport
        Also written beside the copy, as ``.chunkinfer/run.json``.

    Raises
    ------
    SourceError
        Nothing is at ``src``, or it cannot be read.
    ChunkinferError
        What `save` raises.
    """
    volume = open_volume(
        src, level=level, array=array, box=box, voxel_size=voxel_size, offset=offset, missing=missing
    )  # fmt: skip
    return save(
        volume.assign_attrs({**_kind(origin_of(volume.data)), **volume.attrs}), dst, format=format, chunks=chunks,
        shards=shards, encoding=encoding, compression=compression, pyramid=pyramid, overwrite=overwrite, client=client,
        progress=progress, events=events,
    )  # fmt: skip


def _kind(source: Any) -> dict[str, str]:
    """Whether a precomputed volume is an image or a segmentation; other formats say so where `save` wrote them."""
    if not isinstance(source, Source) or source.format != "precomputed":
        return {}
    kind = look(replace(locate(source.url), format="precomputed")).meta.get("type")
    return {"type": kind} if kind in ("image", "segmentation") else {}
