"""The watershed of one block: basins as far as the block shows them, and what a join needs to know about its faces.

::

    edge (v, d)      joins v and v - e_d; it is v's, and its key is 3 * lin(v) + d
    exists           where its affinity w is > low (NaN is not), both voxels are in the volume and in the mask;
                     w above high counts as high
    height of v      the largest w of its edges; a voxel without edges is background
    plateau          voxels joined by edges that are the highest of both ends
    exit             a plateau's edge to a higher voxel that is the highest of its own end; each plateau follows one,
                     that with the largest key
    basin            plateaus that flow into each other; its label is 1 + its least linear index

Nothing here depends on an order, so blocks agree wherever they look at the same edges. A block sees its voxels'
neighbours' heights with a halo of 2. What it cannot know is written down at its faces: which of its voxels share a
plateau with one outside, and which exits were the best so far or lead outside (`joining`). The loops are in `flowing`
and `contacts`.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chunkinfer.errors import PlanError, VolumeError
from chunkinfer.geometry.boxes import Box
from chunkinfer.objects.segmentation.contacts import ENTRY, ROWS, cuts, region_graph, volume_keys
from chunkinfer.objects.segmentation.flowing import Array, Corner, Longs, flow, follow, number, steepest_of
from chunkinfer.objects.segmentation.graph import SCALE, Graph

HALO = 2
"""Voxels that a block has to see beyond itself."""

LARGEST = (1 << 31) // 6
"""Voxels of a block with a border of one: six numbers for each fit into 32 bits."""


def block_step(
    affinities: Array,
    box: Box,
    seen: Box,
    shape: Sequence[int],
    low: float,
    high: float,
    mask: Array | None = None,
    *,
    graph: bool = True,
) -> tuple[NDArray[np.uint32], dict[str, Array]]:
    """The watershed of a block.

    Parameters
    ----------
    affinities
        (3, z, y, x) over ``seen``, uint8 (255 is 1) or float32. Channel d at voxel v joins v and v - e_d. NaN: the
        edge does not exist, and is no contact either.
    box
        The block, in voxels of the volume.
    seen
        What ``affinities`` cover: at least the block and 2 voxels around it, as far as the volume goes.
    shape
        The volume's (z, y, x).
    low, high
        Edges with w <= low are dropped, those above high count as high; 0 <= low < high. uint8 is compared as w / 255
        in float64, float32 with both thresholds rounded to float32.
    mask
        (z, y, x) over ``seen``, bool or uint8: voxels where it is 0 have no edges, so they are background.
    graph
        False leaves the region graph empty, which takes half the time: for basins alone. The graph of a join is then
        of no use.

    Returns
    -------
    fragments
        (z, y, x) of the block, uint32: 0 is background, k the row k - 1 of ``label`` and ``size``.
    tables
        - ``box`` (2, 3) and ``volume`` (3,), int64: start and stop of the block, and ``shape``
        - ``label`` (n,) uint64, ascending: 1 + the least linear index of each fragment; ``size`` (n,) int64, voxels
        - ``a``, ``b``, ``most``, ``total``, ``count``, ``key``: the region graph inside the block (`graph.Graph`)
        - ``cut_row`` uint32, ``cut_tie`` bool: for each voxel of the faces -z, -y, -x, +x, +y, +z towards the rest of
          the volume, in C order, its fragment (0: no contact over this face), and whether it shares a plateau with the
          voxel outside; ``cut_weight`` int32: the affinity to it, times `SCALE`, for the first three faces
        - ``exit_row`` uint32, ``exit_key`` int64, ``exit_to`` uint32: fragments that go on outside: the best exit
          known, and the fragment that it leads to (0: it leads outside)

    Raises
    ------
    VolumeError
        dtype or shape do not fit, or ``seen`` is too small.
    PlanError
        The thresholds are not 0 <= low < high, or the block has more than 350 million voxels.

    Notes
    -----
    Memory beside arguments and results: `working_bytes`.
    """
    _check(affinities, box, seen, shape, low, high, mask)
    affinities = np.ascontiguousarray(affinities)
    masked = np.empty((0, 0, 0), np.uint8) if mask is None else np.ascontiguousarray(mask).view(np.uint8)
    least, largest = _levels(affinities.dtype, low, high)
    scale = SCALE / 255 if affinities.dtype == np.uint8 else float(SCALE)
    start, volume, faces = _corner(box.start), _corner(shape), _faces(box, shape)
    framed = _corner([n + 2 for n in box.shape])
    offset = _corner([b - 1 - s for b, s in zip(box.start, seen.start, strict=True)])
    first = _corner([s == 0 for s in seen.start])

    steepest = np.zeros(framed, np.uint8)
    steepest_of(steepest, affinities, masked, offset, first, least, largest)
    fragments = np.arange(prod(framed), dtype=np.int32).reshape(framed)  # parents, until they are numbered
    exits = np.full(framed, -1, np.int32)
    flat = fragments.ravel()
    flow(steepest, flat, exits.ravel())
    exit_at, exit_key, exit_to = follow(steepest, flat, exits.ravel(), faces)
    label, size = number(steepest, flat, start, volume)
    cut_row, cut_tie, cut_weight = cuts(steepest, fragments, affinities, offset, faces, scale)
    tables: dict[str, Array] = {
        "box": np.array([box.start, box.stop], np.int64),
        "volume": np.array(shape, np.int64),
        "label": label,
        "size": size,
        "cut_row": cut_row,
        "cut_tie": cut_tie,
        "cut_weight": cut_weight,
        "exit_row": flat[exit_at].astype(np.uint32),
        "exit_key": volume_keys(exit_key, framed, start, volume),
        "exit_to": np.where(exit_to < 0, 0, flat[exit_to]).astype(np.uint32),
    }
    del steepest
    if graph:
        tables |= region_graph(fragments, exits.ravel(), label, size, affinities, offset, start, volume, scale)
    else:
        tables |= Graph.empty().arrays()
    del exits
    return np.ascontiguousarray(fragments[1:-1, 1:-1, 1:-1]).view(np.uint32), tables


def working_bytes(shape: Sequence[int], fragments: int, rows: int) -> int:
    """The most memory that `block_step` holds beside its arguments, results included.

    Parameters
    ----------
    shape
        The block's (z, y, x).
    fragments, rows
        Of its tables: lengths of ``label`` and ``a``.
    """
    framed, faces = prod(n + 2 for n in shape), 2 * sum(prod(shape) // n for n in shape)
    tables = 16 * fragments + 9 * faces
    flowing = 9 * framed + 24 * faces
    counting = 8 * framed + (20 + ENTRY.itemsize) * fragments + 56 * rows + 48 * ROWS
    return tables + max(flowing, counting)


def _corner(values: Sequence[int]) -> Corner:
    z, y, x = (int(v) for v in values)
    return z, y, x


def _check(
    affinities: Array, box: Box, seen: Box, shape: Sequence[int], low: float, high: float, mask: Array | None
) -> None:
    if affinities.dtype not in (np.uint8, np.float32) or affinities.shape != (3, *seen.shape):
        raise VolumeError(
            f"A block's affinities are {affinities.dtype} of shape {affinities.shape}; uint8 or float32 of shape "
            f"{(3, *seen.shape)} is needed.",
            "Channels are edges towards lower z, y and x.",
            ["affinities[:3].astype('float32')", "quantise them to uint8"],
        )
    if mask is not None and mask.shape != seen.shape:
        raise VolumeError(f"The mask has shape {mask.shape}, what it lies on {seen.shape}.")
    whole = Box.of_shape(shape)
    needed = Box(tuple(a - HALO for a in box.start), tuple(b + HALO for b in box.stop)) & whole
    if box.size == 0 or box & whole != box or needed & seen != needed or seen & whole != seen:
        raise VolumeError(
            f"A block {box} of a volume of {tuple(shape)} needs affinities over {needed}; there are those over {seen}.",
            f"The watershed looks {HALO} voxels beyond a block.",
        )
    if not 0 <= low < high:
        raise PlanError(
            f"low={low} and high={high} are not 0 <= low < high.",
            "Edges up to low are dropped, those above high count as high.",
            ["segment(affinities, low=0.01, high=0.99)"],
        )
    if prod(n + 2 for n in box.shape) > LARGEST:
        raise PlanError(f"A block of {box.shape} is too large for the watershed.", ways=["block=(512, 512, 512)"])


def _levels(dtype: np.dtype[Any], low: float, high: float) -> tuple[Any, Any]:
    """The thresholds in the affinities' own dtype, such that comparisons decide as documented."""
    if dtype == np.float32:
        return np.float32(low), np.float32(high)
    values = np.arange(256) / 255
    dropped, clamped = np.flatnonzero(values <= low), np.flatnonzero(values >= high)
    return np.uint8(dropped[-1]), np.uint8(clamped[0] if len(clamped) else 255)


def _faces(box: Box, shape: Sequence[int]) -> Longs:
    """The directions that lead out of the block but not out of the volume."""
    minus = [d for d in range(3) if box.start[d] > 0]
    plus = [5 - d for d in (2, 1, 0) if box.stop[d] < shape[d]]
    return np.array(minus + plus, np.int64)
