"""A run checks itself: parts of a few blocks are computed again, by a patch that lies elsewhere, and compared.

Where clean zones meet, each side was computed with just the context that was found for the network. A patch that is
moved by half a zone has both sides in its middle, with far more::

    blocks     ...--zone k--|--zone k+1--...
    patch k      |==========|===|             context of zone k: `high` voxels
    moved              |==========|==========|     the same voxels, far from its ends

Both agree to round-off if the context is right and the result does not depend on where a patch lies. The trace says so
of a network that it can follow; of one that was only probed, this is what finds what no probe showed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import ceil
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chunkinfer.errors import NotExact
from chunkinfer.geometry.boxes import Box
from chunkinfer.geometry.lattice import AxisLattice, PatchLattice, exact_axis, round_up
from chunkinfer.tiling.kernel.block_task import BlockTask
from chunkinfer.tiling.kernel.job import Job

Array = NDArray[Any]

SHARE = 0.02
"""Patches of a run that may be computed again, at most."""
MOST = 8
"""Parts of a run that are computed again unless the caller says how many."""

_ROUND_OFF = {"fp32": 1e-3}
"""Difference, as a share of the largest value, that is put down to the arithmetic."""
_REDUCED_ROUND_OFF = 0.1
_DECISIONS = 1e-3
"""Share of classes and of 0 and 1 that round-off may flip."""


def blocks_to_check(blocks: int, patches: int, asked: int | None, probed: bool, seed: int) -> frozenset[int]:
    """Numbers of the blocks that a run looks at again.

    Parameters
    ----------
    blocks, patches
        Of the run.
    asked
        How many the caller wants; None: at most `SHARE` of the patches, and `MOST`.
    probed
        Whether the network's context is only known by probing: then at least one.
    seed
        Chooses which; the same for the same run, wherever it goes on.
    """
    wanted = max(int(SHARE * patches), int(probed)) if asked is None else asked
    most = min(blocks, MOST if asked is None else asked)
    chosen = np.random.default_rng(seed).permutation(blocks)[: min(wanted, most)] if blocks < 1 << 24 else ()
    return frozenset(int(k) for k in chosen)


@dataclass(frozen=True)
class Moved:
    """A patch that lies elsewhere than those of the lattice."""

    box: Box
    """Input voxels that it sees, inside the volume."""
    lattice: PatchLattice
    """The patch alone, as a volume of its own."""
    clean: Box
    """Output voxels of the volume that it gives with enough context."""
    origin: tuple[int, ...]
    """Output voxel of the volume at which its output starts."""


def moved_patch(lattice: PatchLattice, out: Box, longer: bool) -> Moved | None:
    """The patch that lies across the most faces between clean zones of a block; None where no axis is cut.

    Parameters
    ----------
    lattice
        The run's patches.
    out
        A block, in output voxels.
    longer
        Whether the patch may have another size: then it also tells whether the result depends on that.
    """
    spans = [_moved_axis(a, lo, hi, longer) for a, lo, hi in zip(lattice.axes, out.start, out.stop, strict=True)]
    if all(len(a.starts) == 1 for a in lattice.axes):
        return None
    starts, axes, clean = zip(*spans, strict=True)
    box = Box(starts, tuple(s + a.size for s, a in zip(starts, axes, strict=True)))
    zone = Box(tuple(low for low, _ in clean), tuple(high for _, high in clean)) & out
    origin = tuple(int(s / a.stride) for s, a in zip(starts, axes, strict=True))
    return Moved(box, PatchLattice(axes), zone, origin)


def _moved_axis(axis: AxisLattice, low: int, high: int, longer: bool) -> tuple[int, AxisLattice, tuple[int, int]]:
    """Where the patch starts, the patch alone, and its clean zone in output voxels of the volume."""
    c, patch = axis.contract, axis.patch
    if longer and len(axis.starts) > 1:
        patch = min(axis.padded, patch + round_up(max(1, axis.step // 2), c.period))
    touched = axis.touching(low, high)
    face = touched[len(touched) // 2] * axis.step  # a face between zones, or the low end of the only one
    middle = face - (patch // 2) // c.period * c.period
    start = min(max(middle, 0), axis.padded - patch)
    alone = exact_axis(c, min(patch, axis.size - start), patch)
    first = 0 if start == 0 else ceil((start + round_up(c.low, c.period)) / c.stride)
    end = start + (patch - c.high) // c.period * c.period
    stop = axis.output if start + patch == axis.padded else int(end / c.stride)
    return start, alone, (first, max(first, min(stop, axis.output)))


def compare(
    job: Job, block: Array, out: Box, moved: Moved, again: Array, precision: str, keep: Array | None = None
) -> None:
    """Compare a block with what the moved patch gives.

    Parameters
    ----------
    job
        The run's.
    block, out
        The block (channels, *space), and its box in output voxels.
    moved, again
        The patch, and all of its output (channels, *space).
    precision
        fp32, bf16 or fp16 inside the network.
    keep
        Voxels of the block that are wanted; None: all.

    Raises
    ------
    NotExact
        They differ by more than round-off.
    """
    ours = block[(slice(None), *moved.clean.relative_to(out.start).slices)]
    theirs = again[(slice(None), *moved.clean.relative_to(moved.origin).slices)]
    if keep is not None:
        wanted = keep[moved.clean.relative_to(out.start).slices]
        ours, theirs = ours[:, wanted], theirs[:, wanted]
    if not ours.size:
        return
    if job.output.decides:
        differ = ours != theirs
        wrong = differ.mean() > _DECISIONS
    else:
        error = np.abs(ours.astype(np.float64) - theirs.astype(np.float64))
        largest = float(np.abs(theirs).max())
        limit = 1.0 if job.quantised else _ROUND_OFF.get(precision, _REDUCED_ROUND_OFF) * max(largest, 1e-30)
        if job.quantised and precision != "fp32":
            limit = 255 * _REDUCED_ROUND_OFF
        differ = ~(error <= limit)
        wrong = bool(differ.any())
    if wrong:
        raise _difference(int(differ.sum()), ours, theirs, moved)


def _difference(count: int, ours: Array, theirs: Array, moved: Moved) -> NotExact:
    error = float(np.nanmax(np.abs(ours.astype(np.float64) - theirs.astype(np.float64))))
    return NotExact(
        f"The run's own check failed: {count} of {ours.size} values of the voxels {moved.clean} are others when they "
        f"are computed again in a patch with more context, by up to {error:.3g} where values reach "
        f"{float(np.abs(theirs).max()):.3g}.",
        "The network reads further than was found out, or its result depends on where a patch lies, so the output is "
        "not the network on the whole volume.",
        [
            "measure it: print(ci.tiling_error(model, volume)) shows how the error falls with the halo",
            "blend overlapping patches, which promises less: infer(volume, model, overlap=32)",
            "state the context, if it is known: model.tiling_contract = {'context': 44, 'period': 8}",
        ],
    )


def check_block(
    job: Job,
    block: Array,
    out: Box,
    read: Callable[[Box], Array],
    run: Callable[[BlockTask], Array],
    precision: str,
    longer: bool,
    keep: Array | None = None,
    within: Box | None = None,
) -> None:
    """Compute a part of a block again and compare; see `moved_patch` and `compare`.

    Parameters
    ----------
    job, block, out, precision, longer, keep
        As for these.
    read
        Gives the stored voxels (channels, *space) of an input box inside the volume.
    run
        Computes a block.
    within
        Input voxels that may be read; None: all of the volume. A patch that needs others is not computed.
    """
    moved = moved_patch(job.lattice, out, longer)
    if moved is None or not moved.clean.size or (within is not None and moved.box & within != moved.box):
        return
    alone = replace(job, lattice=moved.lattice)
    data = read(moved.box)
    whole = Box.of_shape(data.shape[1:]), Box.of_shape(moved.lattice.output)
    again = run(BlockTask.of(alone, data, *whole))
    compare(job, block, out, moved, again, precision, keep)
