"""Volumes of labels laid on each other: their common voxels, cut into blocks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isclose, prod
from operator import index
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chunkinfer.errors import VolumeError
from chunkinfer.geometry.boxes import BlockGrid, Box
from chunkinfer.runs.passes import check_finished
from chunkinfer.volumes.arrays.placement import short_unit
from chunkinfer.volumes.frame import Frame
from chunkinfer.volumes.kinds import refuse_picture_for_labels
from chunkinfer.volumes.lazy import Reader, check_reads, held_by_workers
from chunkinfer.volumes.operators.arguments import whole_numbers
from chunkinfer.volumes.operators.lazy import opened
from chunkinfer.volumes.volume import Volume, source_of

BLOCK = 1 << 22
"""Voxels of a block, about: labels take 8 bytes each, so what a task holds is some 100 MB."""


@dataclass(frozen=True)
class Part:
    """The part of a volume that lies in the common box."""

    reader: Reader
    start: tuple[int, ...]
    """Where the common box begins, in voxels of the volume."""

    def read(self, box: Box) -> NDArray[Any]:
        """A box of the common voxels: (z, y, x), with axes of length one in front where the volume has fewer."""
        voxels: NDArray[Any] = self.reader(box.relative_to([-s for s in self.start]))[0]
        return voxels.reshape((1,) * (3 - voxels.ndim) + voxels.shape)

    def labels(self, box: Box) -> NDArray[np.uint64]:
        """The same of labels.

        Raises
        ------
        VolumeError
            One of them is negative.
        """
        voxels = self.read(box)
        if voxels.dtype.kind == "i" and voxels.size and voxels.min() < 0:
            raise VolumeError(
                f"There is a label {voxels.min()} in {box}.",
                "Labels are not negative; some tools write -1 where nothing is.",
                [
                    "they are background: labels * (labels >= 0)",
                    'they are large labels that were wrapped: labels.astype("uint64")',
                ],
            )
        return np.ascontiguousarray(voxels, np.uint64)


@dataclass(frozen=True)
class Laid:
    """Volumes on common voxels, and the blocks that these are cut into."""

    volumes: tuple[Volume, ...]
    parts: tuple[Part, ...]
    frame: Frame
    """Of the common box."""
    grid: BlockGrid

    @property
    def shape(self) -> tuple[int, ...]:
        """Voxels of the common box."""
        return self.grid.shape

    @property
    def box(self) -> dict[str, tuple[int, int]]:
        """The common box in the volumes' own coordinate system, in voxels."""
        corner = [round(self.frame.origin[d]) for d in self.frame.space]
        return {d: (a, a + n) for d, a, n in zip(self.frame.space, corner, self.shape, strict=True)}

    @property
    def whole(self) -> bool:
        """Whether it is all of each volume."""
        return all(volume.space_shape == self.shape for volume in self.volumes)

    def about(self) -> dict[str, Any]:
        """What tables made of it depend on, as JSON."""
        return {
            "sources": [source_of(volume).identity() for volume in self.volumes],
            "starts": [list(part.start) for part in self.parts],
            "shape": list(self.shape),
        }


def labels_of(volume: Any, name: str, beside: Volume | None = None) -> Volume:
    """A volume of labels in one form.

    Raises
    ------
    VolumeError
        It has several channels, or holds no integers.
    """
    found = single(volume, name, beside)
    if found.array.dtype.kind not in "biu":
        raise VolumeError(
            f"{name} is of {found.array.dtype}, and labels are integers.",
            "It may be a network's output that was not segmented yet.",
            [f'{name} = chunkinfer.operators.cast({name}, "uint64"), if it holds labels', "segment it first"],
        )
    refuse_picture_for_labels(found, name)
    return found


def labels_in(name: str, value: Any) -> tuple[int, ...]:
    """Labels that a caller named, sorted.

    Raises
    ------
    VolumeError
        They are no integers from 0 on.
    """
    try:
        labels = tuple(sorted({index(v) for v in np.atleast_1d(np.asarray(value, object)).tolist()}))
    except TypeError:
        labels = (-1,)
    if labels and not 0 <= labels[0] <= labels[-1] < 2**64:
        raise VolumeError(f"{name}={value!r} are not labels.", "Labels are integers from 0 on.",
                          [f"{name}=(0,)", f"{name}=()"])  # fmt: skip
    return labels


def single(volume: Any, name: str, beside: Volume | None = None) -> Volume:
    """A volume of one channel, which blocks can read parts of, in one form."""
    found = opened(volume, beside)
    if found.channels and found.array.shape[0] != 1:
        raise VolumeError(
            f"{name} has {found.array.shape[0]} channels.",
            "There is one value per voxel in it.",
            [f"{name}[0]", f'chunkinfer.operators.mean_channel({name}), or "argmax", or "vote"'],
        )
    if found.networks:
        raise VolumeError(
            f"{name} is a network's output that is not stored.",
            "The network would run now, and again for whatever else is made of its output.",
            [
                f'store it: chunkinfer.save({name}, "{name}.zarr")',
                f"compute it, if it fits: {name}.compute()",
            ],
        )
    if held_by_workers(found.array):
        raise VolumeError(
            f"{name} is in the memory of dask's workers.",
            "It was persisted, and a block's task cannot read parts of what other workers hold.",
            [f"bring it here: {name}.compute()", f'store it: chunkinfer.save({name}, "{name}.zarr")'],
        )
    return found


def laid(volumes: Mapping[str, Volume], block: int | Sequence[int] | None, covered: bool = False) -> Laid:
    """Lay volumes on each other by their coordinates.

    Parameters
    ----------
    volumes
        By the names that errors call them.
    block
        Voxels of a block along each axis; by default whole chunks of the first volume, `BLOCK` voxels or more.
    covered
        Refuse volumes that do not cover the first one.

    Raises
    ------
    VolumeError
        Their axes, voxel sizes or units differ, they lie between each other's voxels, or have none in common.
    SourceError
        One is the output of a run that has not ended.
    PlanError
        Reading a block of one of them would read far more than the block.
    """
    check_finished(*volumes.values())
    (name, first), *others = volumes.items()
    corners = [_corner(volume, first, {other: volume, name: first}) for other, volume in volumes.items()]
    low = tuple(map(max, zip(*corners, strict=True)))
    ends = [[c + n for c, n in zip(corner, v.space_shape, strict=True)]
            for corner, v in zip(corners, volumes.values(), strict=True)]  # fmt: skip
    high = tuple(map(min, zip(*ends, strict=True)))
    if any(a >= b for a, b in zip(low, high, strict=True)):
        raise _refused(volumes, "have no voxel in common", "One of them may lie elsewhere than its offset says.")
    if covered and (any(low) or high != first.space_shape):
        raise _refused(volumes, "do not cover the same voxels", f"Each voxel of {name} needs one of {others[0][0]}.")
    parts = []
    starts = [tuple(a - c for a, c in zip(low, corner, strict=True)) for corner in corners]
    for volume, start in zip(volumes.values(), starts, strict=True):
        parts.append(Part(volume.reader, start))
    space = first.frame.space
    stated = [(volume.frame, start) for volume, start in zip(volumes.values(), starts, strict=True)]
    placed, at = next((pair for pair in stated if pair[0].coords), stated[0])  # whichever says where it is
    shape = tuple(b - a for a, b in zip(low, high, strict=True))
    frame = Frame(
        space,
        placed.voxel_size,
        {d: placed.origin[d] + s for d, s in zip(space, at, strict=True)},
        placed.unit,
        {d: placed.coords[d][s : s + n] for d, s, n in zip(space, at, shape, strict=True) if d in placed.coords},
    )
    sizes = _whole_chunks(first) if block is None else whole_numbers("block", block, space, least=1)
    cut = (_cut(s, n, size) for s, n, size in zip(starts[0], shape, sizes, strict=True))
    result = Laid(tuple(volumes.values()), tuple(parts), frame, BlockGrid(tuple(cut)))
    for part in parts:
        boxes = [box.relative_to([-s for s in part.start]) for box in result.grid.sample()]
        check_reads(part.reader.array, boxes, len(result.grid))
    return result


def _corner(volume: Volume, first: Volume, both: Mapping[str, Volume]) -> tuple[int, ...]:
    """Where a volume begins, in voxels from the first one's corner."""
    a, b = first.frame, volume.frame
    if a.space != b.space:
        raise _refused(both, "have other axes", "They are compared voxel by voxel.")
    if not (a.coords and b.coords):  # one of them does not say where it is
        if first.space_shape != volume.space_shape:
            raise _refused(both, "are of other shapes", "Without coordinates, volumes lie on each other as they are.")
        return (0,) * len(a.space)
    if a.unit and b.unit and short_unit(a.unit) != short_unit(b.unit):
        raise _refused(both, f"are in {a.unit!r} and {b.unit!r}", "Sizes of voxels are compared as numbers.")
    if any(not isclose(a.voxel_size[d], b.voxel_size[d], rel_tol=1e-6) for d in a.space):
        raise _refused(both, "have voxels of other sizes", "They are levels of different resolution.")
    shift = [b.origin[d] - a.origin[d] for d in a.space]
    if any(abs(s - round(s)) > 1e-3 for s in shift):
        raise _refused(both, "lie between each other's voxels", f"They are shifted by {shift} voxels.")
    return tuple(map(round, shift))


def _refused(volumes: Mapping[str, Volume], what: str, means: str) -> VolumeError:
    places = "; ".join(f"{name}: {_place(volume)}" for name, volume in volumes.items())
    names = [*volumes]
    other = names[-1]
    return VolumeError(
        f"{' and '.join(names)} {what}: {places}.",
        means,
        [
            f"state where it is: chunkinfer.open_volume({other}, voxel_size=..., offset=...)",
            "bring them to one resolution first: chunkinfer.operators.downsample(...), chunkinfer.open_volume(level=1)",
        ],
    )


def _place(volume: Volume) -> str:
    frame = volume.frame
    axes = []
    for d, n in zip(frame.space, volume.space_shape, strict=True):
        axes.append(f"{d} {frame.origin[d]:g}:{frame.origin[d] + n:g}" if frame.coords else f"{d} {n}")
    size = " x ".join(f"{frame.voxel_size[d]:g}" for d in frame.space)
    return ", ".join(axes) + (f" of {size} {frame.unit}".rstrip() if frame.coords else " without coordinates")


def _whole_chunks(volume: Volume) -> Sequence[int]:
    """Voxels of a block: whole chunks, grown along the shortest axis to `BLOCK` voxels."""
    shape = volume.space_shape
    sizes = [max(axis) for axis in volume.array.chunks[volume.array.ndim - len(shape) :]]
    while prod(map(min, sizes, shape)) < BLOCK:
        short = [d for d, n in enumerate(shape) if sizes[d] < n]
        if not short:
            break
        sizes[min(short, key=lambda d: sizes[d])] *= 2
    return sizes


def _cut(start: int, n: int, size: int) -> tuple[int, ...]:
    """Blocks along an axis, cut where those of the whole volume are: the first one may be shorter."""
    first = min(n, size - start % size)
    full, last = divmod(n - first, size)
    return (first, *(size,) * full, *(last,) * (last > 0))
