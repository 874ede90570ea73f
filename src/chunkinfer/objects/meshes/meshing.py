"""mesh: Neuroglancer meshes of the objects of a label volume."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from chunkinfer.errors import PlanError, VolumeError
from chunkinfer.geometry.boxes import BlockGrid
from chunkinfer.objects.meshes import formats
from chunkinfer.objects.meshes.marching import March
from chunkinfer.objects.meshes.places import MESH, Place, place_of
from chunkinfer.objects.meshes.stitching import Stitch, buckets
from chunkinfer.objects.meshes.surfaces import require
from chunkinfer.runs.events import Subscriber
from chunkinfer.runs.passes import check_finished, to_npz
from chunkinfer.runs.record.ledger import Ledger
from chunkinfer.runs.report import RunReport
from chunkinfer.runs.run import Where
from chunkinfer.runs.session import Session, session
from chunkinfer.stores.files import FOLDER, Files
from chunkinfer.support.arguments import per_axis
from chunkinfer.volumes.arrays.placement import nanometres
from chunkinfer.volumes.kinds import as_labels, refuse_picture_for_labels
from chunkinfer.volumes.lazy import Reader, check_reads
from chunkinfer.volumes.volume import Volume, as_volume, source_of

if TYPE_CHECKING:
    import pandas as pd

VOXELS = 2**23
"""Of a block, about. Its task takes 30 bytes a voxel on labels of neurites, of eight bytes each; 300 on pure noise."""

LONGEST = 2**14
"""Voxels of a block along an axis, at most: half voxels are kept in 16 bits."""

COLUMNS = ("label", "marched", "triangles", "volume", "bytes")


@dataclass(frozen=True)
class MeshReport:
    """What `mesh` made; printed, a few lines."""

    url: str
    """Where the meshes are: what Neuroglancer opens."""
    format: str
    objects: dict[str, NDArray[Any]]
    """Of each object: ``label``, ``triangles``, how many were ``marched`` before simplification, the ``volume`` that
    they enclose in nm^3, and ``bytes`` stored."""
    blocks: RunReport
    """How the pass over the blocks went."""
    buckets: RunReport
    """How the pass over the objects went."""

    @property
    def seconds(self) -> float:
        """Wall time of this run."""
        return self.blocks.seconds + self.buckets.seconds

    def frame(self) -> pd.DataFrame:
        """The objects as a table, a row each."""
        import pandas as pd

        return pd.DataFrame(self.objects)

    def __str__(self) -> str:
        total = {name: int(self.objects[name].sum()) for name in ("triangles", "marched", "bytes")}
        rows = [
            ("meshes", f"{len(self.objects['label']):,} objects at {self.url} ({self.format})"),
            ("size", f"{total['triangles']:,} triangles of {total['marched']:,}, {total['bytes'] / 1e6:.1f} MB"),
            ("time", f"{self.blocks.seconds:.1f} s for {self.blocks.blocks} blocks, "
                     f"{self.buckets.seconds:.1f} s for the objects"),
        ]  # fmt: skip
        return "\n".join(f"{name + ':':<8}{value}" for name, value in rows)

    __repr__ = __str__


def mesh(
    labels: Any,
    url: Any,
    *,
    ids: Sequence[int] | None = None,
    simplify: float = 100,
    max_error: float | None = None,
    format: str = "legacy",
    sharded: bool = False,
    block: int | Sequence[int] | None = None,
    overwrite: bool = False,
    client: Any = None,
    progress: bool | None = None,
    events: Sequence[Subscriber] = (),
) -> MeshReport:
    """Make Neuroglancer meshes of the objects of a label volume.

    Surfaces are marched block by block and put together object by object. They are closed, at the volume's faces too,
    and the same for every cut into blocks. Run again after a crash, the same call does what is missing. Meshes are
    announced in the segmentation's metadata when they are complete.

    Parameters
    ----------
    labels
        (z, y, x), unsigned integers: a DataArray, dask, zarr or numpy array, or a URL. 0 is background.
    url
        Of a precomputed segmentation, whose ``mesh`` folder they go to, or of a folder of their own.
    ids
        Labels of the objects that are wanted; by default all.
    simplify
        One of so many triangles is enough; 1 keeps all.
    max_error
        Nanometres by which a simplified surface may lie beside the marched one, as root of the mean square; by default
        half the mean edge of a voxel. Simplification ends where either is reached. The volume stays.
    format
        "legacy" (one mesh per object) or "multires" (levels of detail, in pieces, compressed by Draco).
    sharded
        Store many objects together; "multires" only.
    block
        Voxels that a task marches over, (z, y, x); by default about 2^23.
    overwrite
        Delete the meshes that are there and start anew.
        The same call with ``overwrite=True``, killed or paused before its end, goes on.
    client
        The `distributed.Client` to run on.
    progress
        Show a progress bar; by default in terminals and notebooks.
    events
        Called with every `chunkinfer.runs.events.Event` of the run.

    Returns
    -------
    MeshReport
        What was made, with a table of the objects.

    Raises
    ------
    MissingExtra
        zmesh, or for "multires" DracoPy, is not installed.
    VolumeError
        These are no labels in three dimensions.
    PlanError
        Arguments that make no sense.
    DestinationError
        The place cannot take meshes, or has some.
    SettingsDiffer
        Another call with other settings began there; shows both.
    OutputInUse
        Another run writes there at this moment.
    RunError, RunPaused
        As for `save`.
    """
    run = _Meshing(as_volume(labels), url, ids, simplify, max_error, format, sharded, block)
    with session(run.place.url, Where(client, progress, events)) as here:
        run.settle(here, overwrite)
        return run(here)


class _Meshing:
    """One run of one volume to one place."""

    def __init__(
        self, volume: Volume, url: Any, ids: Any, simplify: float, max_error: float | None, format: str, sharded: bool,
        block: Any,
    ) -> None:  # fmt: skip
        _check(volume, simplify, max_error, format, sharded)
        require()
        if format == "multires":
            formats.require_draco()
        self.place: Place = place_of(url)
        self.volume, self.format, self.sharded = volume, format, sharded
        self.ids = None if ids is None else np.unique(np.asarray(ids, np.uint64))
        size = nanometres(volume.frame.voxel_size, volume.frame.unit)
        self.voxel = (size["z"], size["y"], size["x"])
        start = volume.frame.origin
        self.offset = (start["z"], start["y"], start["x"])
        self.simplify = float(simplify)
        self.max_error = prod(self.voxel) ** (1 / 3) / 2 if max_error is None else float(max_error)
        shape = volume.array.shape
        asked = per_axis("block", block, volume.dims, 1)
        sizes = [given or chosen for given, chosen in zip(asked, _block(volume), strict=True)]
        self.grid = BlockGrid.regular(shape, [min(b, n, LONGEST) for b, n in zip(sizes, shape, strict=True)])
        chosen = None if self.ids is None else hashlib.blake2b(self.ids.tobytes(), digest_size=8).hexdigest()
        self.about = {"labels": source_of(volume).identity(), "ids": chosen}
        made = (format, sharded, self.simplify, self.max_error, self.voxel, self.offset, self.grid.sizes)
        self.call = {**self.about, "made": made}

    def settle(self, here: Session, overwrite: bool) -> None:
        """Make room, or find that an earlier run goes on."""
        if overwrite:
            here.overwrite(MESH, self.call, self.place.clear)
        if Ledger(Files(self.place.url, f"{FOLDER}/{MESH}-blocks")).header() is None:
            self.place.check_empty(cleared=overwrite)

    def __call__(self, here: Session) -> MeshReport:
        """Do what is missing."""
        place, url = self.place, self.place.url
        source = self.volume.origin
        check_reads(source, self.grid.sample(), len(self.grid))
        surfaces, lists = place.kept("surfaces"), place.kept("lists")
        march = March(Reader(source, channels=False), self.grid, self.ids, surfaces)
        tables = here.tables(f"{MESH}-blocks", self.grid, march, self.about)

        rows, shard_bits, minishard_bits = buckets(tables, self.sharded)
        sharding = formats.sharding(shard_bits, minishard_bits) if self.sharded else None
        settings = {
            "format": self.format, "simplify": self.simplify, "max_error": self.max_error, "sharding": sharding,
            "voxel": self.voxel, "offset": self.offset,
        }  # fmt: skip
        stitch = Stitch(
            surfaces, lists, place.folder, self.format, self.voxel, self.offset, self.simplify, self.max_error,
            shard_bits if self.sharded else None, minishard_bits,
        )  # fmt: skip
        name, grid = f"{MESH}-objects", BlockGrid.regular((len(rows),), (1,))
        if Ledger(Files(url, f"{FOLDER}/{name}")).header() is None:
            for number, row in enumerate(rows):
                lists.write(f"{number}.npz", to_npz(row))
        found = list(here.tables(name, grid, stitch, settings))

        here.lease.check()
        place.announce(formats.info(self.format, sharding))
        for files in (surfaces, lists):
            files.delete_many(files.list())
        objects = {column: np.concatenate([table[column] for table in found]) for column in COLUMNS} if found else {
            column: np.zeros(0, np.int64) for column in COLUMNS
        }  # fmt: skip
        order = np.argsort(objects["label"])
        objects = {column: values[order] for column, values in objects.items()}
        return MeshReport(place.folder.url, self.format, objects, here.reports[f"{MESH}-blocks"], here.reports[name])


def _block(volume: Volume) -> list[int]:
    """Whole chunks of the volume, about `VOXELS` of them, as nearly a cube as they allow."""
    block = [chunks[0] for chunks in volume.array.chunks]
    while prod(block) < VOXELS:
        short = [d for d, n in enumerate(volume.array.shape) if block[d] < n]
        if not short:
            break
        block[min(short, key=lambda d: block[d])] *= 2
    return block


def _check(volume: Volume, simplify: float, max_error: float | None, format: str, sharded: bool) -> None:
    """Refuse what cannot be meshed, or not in this way."""
    dtype = volume.array.dtype
    if volume.dims != ("z", "y", "x") or dtype.kind not in "bu":
        raise VolumeError(
            f"Meshes are made of labels (z, y, x) of unsigned integers; this is {volume.dims} of {dtype}.",
            "Labels are counted from 1 up; 0 is background, and there are no channels.",
            [f"mesh({as_labels(volume)}, url)", "segment it first, if these are no labels"],
        )
    refuse_picture_for_labels(volume, "labels")
    check_finished(volume)
    if format not in formats.FORMATS:
        raise PlanError(
            f"There is no format {format!r} of meshes.",
            f"Formats are {', '.join(formats.FORMATS)}.",
            ["format='legacy': one mesh per object", "format='multires': levels of detail"],
        )
    if sharded and format == "legacy":
        raise PlanError(
            "Legacy meshes cannot be sharded.",
            "Neuroglancer looks for an object of its own for each of them.",
            ["mesh(labels, url, format='multires', sharded=True)", "or without sharded=True"],
        )
    if not simplify >= 1 or (max_error is not None and not max_error >= 0):
        raise PlanError(
            f"simplify={simplify} and max_error={max_error} do not say how far a mesh is simplified.",
            "simplify is 1 or more, max_error is in nanometres.",
            ["simplify=100: one of a hundred triangles is enough", "simplify=1: all triangles"],
        )
