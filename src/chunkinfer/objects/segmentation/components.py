"""Connected components: each block labels its own voxels, and tables of voxels on faces join them.

::

    block           fragments 1..n, in raster order of their first voxels     label = 1 + least linear index of
                    faces: the voxels with a neighbour in another block       the volume among the voxels
    joined blocks   voxels on faces that are neighbours, of equal value:      least label of what is united
                    their fragments are one
                    faces: those with a neighbour outside of all the blocks

No halo is read. Neighbours across a face, an edge or a corner are all on faces of their blocks, so one table serves
6, 18 and 26 neighbours, and the result depends on which voxels are neighbours only.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chunkinfer.errors import VolumeError
from chunkinfer.geometry.boxes import Box
from chunkinfer.objects.segmentation.flowing import find, unite
from chunkinfer.objects.segmentation.graph import Integers, Labels
from chunkinfer.support.jit import compiled

EARLIER = [(z, y, x) for z, y, x in product((-1, 0, 1), repeat=3) if (z, y, x) < (0, 0, 0)]
"""Of each pair of opposite directions (z, y, x), the one that leads to an earlier voxel in raster order."""


@dataclass(frozen=True, eq=False)
class Components:
    """The fragments of a region: its boxes joined as far as they go. Columns of `label` and of `face`."""

    boxes: tuple[Box, ...]
    """What the region covers; boxes that fill a box have become that box."""
    label: Labels
    """1 + the least linear index, in the volume, of a fragment's voxels; ascending, uint64."""
    size: Integers
    """Voxels of each fragment, int64."""
    value: Labels
    """The value of its voxels, uint64 (the bits of a negative one); 1 where all but 0 are alike."""
    face: Labels
    """Linear indices of voxels that have a neighbour outside of the region; ascending, uint64."""
    fragment: NDArray[np.uint32]
    """The fragment that each of these is in, as its place in ``label``."""

    def arrays(self) -> dict[str, NDArray[Any]]:
        """The columns by name, and the boxes, int64, (boxes, start or stop, axes)."""
        boxes = np.array([(box.start, box.stop) for box in self.boxes], np.int64)
        columns = {name: getattr(self, name) for name in ("label", "size", "value", "face", "fragment")}
        return {"boxes": boxes, **columns}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Components:
        """What `arrays` gave, from an npz file for example."""
        boxes = tuple(Box(tuple(start), tuple(stop)) for start, stop in arrays["boxes"].tolist())
        return cls(boxes, *(arrays[name] for name in ("label", "size", "value", "face", "fragment")))


def components_step(
    voxels: NDArray[Any], box: Box, shape: Sequence[int], connectivity: int = 6, multilabel: bool = False
) -> tuple[NDArray[np.uint32], Components]:
    """Label the components of one block.

    It takes 5 bytes a voxel beside ``voxels`` and the result, up to 12 where ``multilabel``.

    Parameters
    ----------
    voxels
        ``(z, y, x)``, of the block alone: booleans, integers, or floating point numbers where all but 0 are one.
    box
        Where the block lies in the volume.
    shape
        The volume's, ``(z, y, x)``.
    connectivity
        Neighbours share a face (6), a face or an edge (18), or any corner (26).
    multilabel
        Voxels of different values are not connected; otherwise all but 0 are alike. 0 is background.

    Returns
    -------
    fragments, table
        ``(z, y, x)`` uint32: 0 for the background, k for row k - 1 of the table.

    Raises
    ------
    VolumeError
        Another connectivity, or many labels that are not integers.
    """
    near = _earlier(connectivity)
    if not multilabel:
        voxels = voxels != 0
    elif voxels.dtype.kind not in "biu":
        raise VolumeError(
            f"Labels are integers, and these voxels are {voxels.dtype}.",
            "A probability or an affinity map has as many values as voxels.",
            ["connected_components(volume > 0.5)", "connected_components(volume.astype('uint64'), multilabel=True)"],
        )
    kind = np.dtype(np.uint8 if voxels.dtype.itemsize == 1 else np.uint32 if voxels.dtype.itemsize <= 4 else np.uint64)
    framed = np.zeros((voxels.shape[0] + 1, voxels.shape[1] + 2, voxels.shape[2] + 2), kind)
    framed[1:, 1:-1, 1:-1] = voxels
    met = [offset for offset in near if (*offset[:2], offset[2] + 1) in [*near, (0, 0, 0)]]
    steps, fresh = (
        tuple((np.array(some) @ _strides(framed.shape)).tolist()) for some in (near, sorted({*near} - {*met}))
    )
    fragments, first, size = _count(*_number(framed, steps, fresh), *voxels.shape)
    at = np.array(np.unravel_index(first, voxels.shape))
    value = framed[1:, 1:-1, 1:-1][tuple(at)].astype(np.uint64)
    label = 1 + (at + np.array(box.start)[:, None]).T @ _strides(shape)
    low, high = zip(*((a > 0, b < n) for a, b, n in zip(box.start, box.stop, shape, strict=True)), strict=True)
    face, fragment = _faces(fragments, np.array(low), np.array(high), np.array(box.start), np.array(shape))
    return fragments, Components((box,), label.astype(np.uint64), size, value, face, fragment)


def components_join(
    regions: Iterable[Components], shape: Sequence[int], connectivity: int = 6
) -> tuple[Components, Labels, Labels]:
    """One region of several: fragments that touch are one, with the least of their labels.

    Regions joined in any order, one by one or at once, come to the same. ``shape`` and ``connectivity`` are those of
    the blocks.

    Returns
    -------
    region, old, new
        The whole, and renames: labels that are no more, ascending, and what each became.
    """
    parts = list(regions)
    every = np.concatenate([part.label for part in parts])
    order = np.argsort(every, kind="stable")
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    label = every[order]
    size = np.concatenate([part.size for part in parts])[order]
    value = np.concatenate([part.value for part in parts])[order]
    starts = np.cumsum([0] + [len(part.label) for part in parts])
    face = np.concatenate([part.face for part in parts])
    by_index = np.argsort(face, kind="stable")
    face = face[by_index]
    fragment = place[np.concatenate([part.fragment + start for part, start in zip(parts, starts, strict=False)])]
    fragment = fragment[by_index]
    root = np.arange(len(label))
    _unite(face, fragment, value, root, np.array(shape), np.array(_earlier(connectivity)))
    kept = root == np.arange(len(root))
    np.add.at(size, root[~kept], size[~kept])
    rank = np.cumsum(kept) - 1
    boxes = _filled([box for part in parts for box in part.boxes])
    if len(boxes) == 1:
        outward = _outward(np.array(np.unravel_index(face.astype(np.int64), tuple(shape))), boxes[0], shape)
        face, fragment = face[outward], fragment[outward]
    fragment = rank[root[fragment]].astype(np.uint32)
    whole = Components(boxes, label[kept], size[kept], value[kept], face, fragment)
    return whole, label[~kept], label[root[~kept]]


def _earlier(connectivity: int) -> list[tuple[int, int, int]]:
    """Steps to a voxel's earlier neighbours."""
    furthest = {6: 1, 18: 2, 26: 3}.get(connectivity)
    if furthest is None:
        raise VolumeError(
            f"connectivity={connectivity} is not one of 6, 18 and 26.",
            "Voxels are neighbours by faces (6), by faces and edges (18), or by corners too (26).",
            ["connected_components(volume, connectivity=6)", "connected_components(volume, connectivity=26)"],
        )
    return [offset for offset in EARLIER if sum(map(abs, offset)) <= furthest]


def _strides(shape: Sequence[int]) -> Integers:
    return np.array([shape[1] * shape[2], shape[2], 1])


def _outward(at: Integers, box: Box, shape: Sequence[int]) -> NDArray[np.bool_]:
    """Which voxels, (3, n) in the volume, are on a face of the box that is not the volume's."""
    outward = np.zeros(at.shape[1], np.bool_)
    for axis in range(3):
        if box.start[axis] > 0:
            outward |= at[axis] == box.start[axis]
        if box.stop[axis] < shape[axis]:
            outward |= at[axis] == box.stop[axis] - 1
    return outward


def _filled(boxes: list[Box]) -> tuple[Box, ...]:
    """The box that disjoint boxes fill, or the boxes."""
    start = tuple(min(box.start[axis] for box in boxes) for axis in range(3))
    stop = tuple(max(box.stop[axis] for box in boxes) for axis in range(3))
    whole = Box(start, stop)
    return (whole,) if prod(whole.shape) == sum(box.size for box in boxes) else tuple(boxes)


@compiled
def _faces(
    fragments: NDArray[np.uint32], low: NDArray[np.bool_], high: NDArray[np.bool_], start: Integers, shape: Integers
) -> tuple[Labels, NDArray[np.uint32]]:
    """Voxels on those faces that are not the volume's: linear indices, ascending, and places of their fragments."""
    n0, n1, n2 = fragments.shape
    most = 2 * (n0 * n1 + n0 * n2 + n1 * n2)
    face, fragment, count = np.empty(most, np.uint64), np.empty(most, np.uint32), 0
    for z in range(n0):
        for y in range(n1):
            row = ((start[0] + z) * shape[1] + start[1] + y) * shape[2] + start[2]
            whole = (low[0] and z == 0) or (high[0] and z == n0 - 1) or (low[1] and y == 0) or (high[1] and y == n1 - 1)
            for x in range(0, n2, 1 if whole else max(n2 - 1, 1)):
                if fragments[z, y, x] and (whole or (low[2] and x == 0) or (high[2] and x == n2 - 1)):
                    face[count], fragment[count] = row + x, fragments[z, y, x] - 1
                    count += 1
    return face[:count].copy(), fragment[:count].copy()


@compiled
def _number(
    framed: Any, steps: tuple[int, ...], fresh: tuple[int, ...]
) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    """Provisional numbers of the voxels of a block with a frame of background, and which of the numbers are equal.

    ``steps`` lead to the earlier neighbours of a voxel, ``fresh`` to those that the voxel before it in the row is no
    neighbour of. They are tuples, because loops over these are unrolled.
    """
    n0, n1, n2 = framed.shape[0] - 1, framed.shape[1] - 2, framed.shape[2] - 2
    values = framed.reshape(-1)
    numbers = np.zeros(len(values), np.uint32)
    root = np.zeros(1024, np.uint32)
    count = 1
    for z in range(1, n0 + 1):
        for y in range(1, n1 + 1):
            row = (z * (n1 + 2) + y) * (n2 + 2)
            number = 0
            for i in range(row + 1, row + 1 + n2):
                value = values[i]
                if value == 0:
                    continue
                if values[i - 1] == value:
                    for step in fresh:
                        j = i + step
                        # Where j - 1 has the value too, the voxel before has met it.
                        if values[j] == value and values[j - 1] != value and numbers[j] != number:
                            unite(root, number, numbers[j])
                            number = find(root, number)
                else:
                    number = 0
                    for step in steps:
                        j = i + step
                        if values[j] == value and numbers[j] != number:
                            unite(root, number or numbers[j], numbers[j])
                            number = find(root, numbers[j])
                    if number == 0:
                        if count == len(root):
                            larger = np.empty(2 * count, np.uint32)
                            larger[:count] = root
                            root = larger
                        number = root[count] = count
                        count += 1
                numbers[i] = number
    return numbers, root[:count]


@compiled
def _count(
    numbers: NDArray[np.uint32], root: NDArray[np.uint32], n0: int, n1: int, n2: int
) -> tuple[NDArray[np.uint32], Integers, Integers]:
    """Fragments numbered in the order of their first voxels, these voxels, and sizes."""
    count = len(root)
    final = np.zeros(count, np.uint32)
    fragments = 0
    for number in range(1, count):
        if root[number] == number:
            fragments += 1
            final[number] = fragments
        else:
            final[number] = final[root[number]]  # which is less, and has its own
    first, size = np.zeros(fragments + 1, np.int64), np.zeros(fragments + 1, np.int64)
    result = np.empty((n0, n1, n2), np.uint32)
    for z in range(n0):
        for y in range(n1):
            row, k, start = ((z + 1) * (n1 + 2) + y + 1) * (n2 + 2) + 1, np.uint32(0), 0
            for x in range(n2):
                here = final[numbers[row + x]]
                result[z, y, x] = here
                if here != k:
                    size[k] += x - start
                    k, start = here, x
                    if size[k] == 0:
                        first[k] = (z * n1 + y) * n2 + x
            size[k] += n2 - start
    return result, first[1:], size[1:]


@compiled
def _unite(face: Labels, fragment: Integers, value: Labels, root: Integers, shape: Integers, earlier: Integers) -> None:
    """Unite fragments that have neighbouring voxels of one value; ``root`` becomes the least place of each set."""
    steps = np.empty(len(earlier), np.int64)
    for k in range(len(earlier)):
        steps[k] = (earlier[k, 0] * shape[1] + earlier[k, 1]) * shape[2] + earlier[k, 2]
    at = np.zeros(len(earlier), np.int64)  # indices ascend, and so do those of neighbours in one direction
    for n in range(len(face)):
        index = np.int64(face[n])
        y, x = index // shape[2] % shape[1], index % shape[2]
        for k in range(len(steps)):
            wanted = index + steps[k]
            while at[k] < n and np.int64(face[at[k]]) < wanted:
                at[k] += 1
            if at[k] == n or np.int64(face[at[k]]) != wanted:
                continue
            if not (0 <= y + earlier[k, 1] < shape[1] and 0 <= x + earlier[k, 2] < shape[2]):
                continue  # the end of the row before
            i, j = fragment[n], fragment[at[k]]
            if value[i] == value[j]:
                unite(root, i, j)
    for i in range(len(root)):
        root[i] = find(root, i)
