"""The passes of a segmentation: blocks cut, tables joined up a tree, labels named down it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import prod
from tempfile import TemporaryDirectory
from typing import Any

import dask.array as da
import numpy as np
from dask.array.overlap import ensure_minimum_chunksize, overlap
from dask.base import tokenize

from chunkinfer.errors import PlanError, VolumeError
from chunkinfer.geometry.boxes import BlockGrid
from chunkinfer.objects.segmentation.fragments import Cut, Fragments, Seen
from chunkinfer.objects.segmentation.reducing import Down, Joins, Tree, Up
from chunkinfer.runs.passes import Step, Tables, check_finished, temporary_folder
from chunkinfer.runs.record.ledger import Ledger
from chunkinfer.runs.record.overwriting import MARK
from chunkinfer.runs.run import Where
from chunkinfer.runs.session import Session, session
from chunkinfer.stores.files import FOLDER, LEASE, Files
from chunkinfer.stores.urls import locate
from chunkinfer.volumes.arrays.chunk_shape import default_chunks
from chunkinfer.volumes.arrays.create import ArraySpec, create, open_destination
from chunkinfer.volumes.arrays.destination import Destination
from chunkinfer.volumes.arrays.erase import check_room, delete_keys, make_room
from chunkinfer.volumes.arrays.layout import choose_layout
from chunkinfer.volumes.derived import as_declared
from chunkinfer.volumes.lazy import check_reads, must_exchange
from chunkinfer.volumes.volume import Volume, source_of

BLOCK = 1 << 22
"""Voxels of a block, about, where no network decides it."""

ONE = BlockGrid(((1,),))
"""The grid of a pass over the volume as a whole."""

_temporary = list[TemporaryDirectory[str]]()
"""Folders that go with this process: labels are lazy, so they are read as long as it lives."""


class Passes:
    """The passes of one segmentation."""

    def __init__(self, here: Session, volume: Volume, overwrite: bool) -> None:
        self.here, self.volume, self.overwrite = here, volume, overwrite
        self.place, self.reports = here.url, here.reports
        self.made = list[str]()
        """Arrays that were created."""

    def cut(
        self, name: str, cut: Cut, about: Mapping[str, Any], block: Sequence[int] | None
    ) -> tuple[Tables, Destination]:
        """Cut every block.

        Raises
        ------
        PlanError
            ``block`` is given for blocks that a network computes.
        """
        volume = self.volume
        step: Step | da.Array
        if must_exchange(volume.array):
            grid, step = self._exchanged(cut, block)
            blocks = BlockGrid(((volume.array.shape[0],),) * int(volume.channels) + grid.sizes)
        else:
            grid = blocks = BlockGrid.regular(volume.space_shape, block or block_of(volume))
            origin = volume.origin
            step = Seen(origin, volume.channels, cut.halo)
            check_reads(origin, [step.box(box) for box in grid.sample()], len(grid))
        tables, fragments = Tables(self.place, name, grid), self._destination(name, grid)
        store = Fragments(fragments, tables, cut, blocks)
        self.here.tables(name, grid, step, {"volume": source_of(volume).identity(), **about}, store)
        return tables, fragments

    def up(self, tree: Tree, blocks: Tables, joins: Joins) -> list[Tables]:
        """Join the tables of blocks, level by level. Their names tell what joined them."""
        found, about = [blocks], tokenize(joins)[:8]
        for level, grid in enumerate(tree.levels):
            found.append(self.over(f"up-{level + 1}-{about}", grid, Up(tree, level, found[-1], joins), {}))
        return found[1:]

    def down(self, tree: Tree, blocks: Tables, up: Sequence[Tables], joins: Joins) -> list[Tables]:
        """What each fragment has become, by group of blocks; and what is settled by that. The lowest level first."""
        found, about = list[Tables](), tokenize(joins)[:8]
        for level in reversed(range(len(tree.levels))):
            above = found[-1] if found else None
            step = Down(tree, level, up[level - 1] if level else blocks, up[level], above, joins)
            found.append(self.over(f"down-{level + 1}-{about}", tree.levels[level], step, {}))
        return found[::-1]

    def over(self, name: str, grid: BlockGrid, step: Step, about: Mapping[str, Any]) -> Tables:
        """A pass that leaves tables only."""
        return self.here.tables(name, grid, step, about)

    def once(self, name: str, step: Step) -> Tables:
        """A pass over the volume as a whole."""
        return self.over(name, ONE, step, {})

    def undo(self) -> None:
        """Delete what was written in a folder that had nothing of the kind."""
        for url in self.made:
            make_room(locate(url), overwrite=True)
            Files(url).tidy()
        names = [name for name in Files(self.place).list() if name != LEASE]
        delete_keys(locate(self.place), [f"{FOLDER}/{name}" for name in names])

    def _exchanged(self, cut: Cut, block: Sequence[int] | None) -> tuple[BlockGrid, da.Array]:
        """Blocks with what they need around them, out of blocks that are computed once."""
        array, front = self.volume.array, int(self.volume.channels)
        if block is not None:
            raise PlanError(
                f"block={tuple(block)}: the volume is computed in blocks of its own.",
                "A network's output is cut where the network's blocks are, so that none is computed twice.",
                ["infer(volume, model, block=...)", "leave block= out"],
            )
        least = max(cut.halo)
        sizes = (
            tuple(ensure_minimum_chunksize(least, n)) if sum(n) > least else (sum(n),) for n in array.chunks[front:]
        )
        grid = BlockGrid(tuple(sizes))
        array = as_declared(array).rechunk(((array.shape[0],),) * front + grid.sizes)
        depth: dict[int, Any] = {d + front: cut.halo if len(axis) > 1 else 0 for d, axis in enumerate(grid.sizes)}
        return grid, overlap(array, depth, boundary=dict.fromkeys(depth, "none"), allow_rechunk=False)

    def _destination(self, name: str, grid: BlockGrid) -> Destination:
        """The array of fragments, made where it is not there; another one of that name is the user's, and refused."""
        frame, url = self.volume.frame, f"{self.place}/{name}"
        if Ledger(Files(self.place, f"{FOLDER}/{name}")).header() is not None:
            return open_destination(url)
        files, begun = Files(self.place), f"{name}.begun"
        if files.read(begun) is None:  # else a run died before its pass began, and the array is its
            check_room(locate(url), self.overwrite)
            files.write(begun, b"")
        self.made.append(url)
        wanted = default_chunks(grid.shape, frame.space, frame.voxel_size)
        layout = choose_layout(url, "zarr3", grid.shape, frame.space, [axis[0] for axis in grid.sizes], {}, wanted)
        return create(
            url,
            ArraySpec(
                format="zarr3",
                shape=grid.shape,
                dtype="uint32",
                dims=frame.space,
                chunks=layout.chunks,
                shards=layout.shards,
                voxel_size=frame.voxel_size,
                unit=frame.unit,
                offset=frame.origin,
            ),
            overwrite=True,
        )


@contextmanager
def passes_in(
    url: str | os.PathLike[str] | None,
    volume: Volume,
    call: Mapping[str, Any],
    overwrite: bool,
    where: Where,
) -> Iterator[Passes]:
    """The passes in a folder, a temporary one where there is none; nobody else writes there meanwhile.

    Of a volume that is refused, nothing stays that a better one would be compared with. ``call`` is what tells two
    calls on one volume apart: with ``overwrite``, the one that began goes on.
    """
    check_finished(volume)
    if url is None:
        _temporary.append(temporary_folder(where.client))
    place = _temporary[-1].name if url is None else locate(url).url
    with session(place, where) as here:
        files = Files(place)
        begun = [name for name in files.list() if name not in (LEASE, f"passes{MARK}")]
        if overwrite:
            asked = {"volume": source_of(volume).identity(), **call}
            here.overwrite("passes", asked, lambda: files.delete_many(begun))
        passes = Passes(here, volume, overwrite)
        try:
            yield passes
        except VolumeError:
            if overwrite or not begun:
                passes.undo()
            raise


def block_of(volume: Volume) -> list[int]:
    """About `BLOCK` voxels: whole chunks of the volume, grown along the shortest axis."""
    shape = volume.space_shape
    block = [min(max(axis), n) for axis, n in zip(volume.array.chunks[-3:], shape, strict=True)]
    while prod(block) > 2 * BLOCK:
        d = int(np.argmax(block))
        block[d] = -(-block[d] // 2)
    while prod(block) <= BLOCK // 2 and (short := [d for d in range(3) if block[d] < shape[d]]):
        d = min(short, key=lambda axis: block[axis])
        block[d] = min(2 * block[d], shape[d])
    return block
