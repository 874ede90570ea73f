"""What differing values look like: an offset, a halo too small, a stale block, a torn chunk. Simple, and never sure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import sqrt

import numpy as np

from chunkinfer.api.audit.boxes import Planes, Tiles, distance, middle, touching
from chunkinfer.api.audit.compare import Array, Compared, Comparing
from chunkinfer.api.audit.report import Finding
from chunkinfer.errors import SourceError
from chunkinfer.geometry.boxes import Box

TRIED = 8
"""Boxes over the tolerance that a shift is tried on."""

PLACED = 8
"""Bad blocks that are looked into; more are only counted."""

PROBES = 6
"""Further boxes in a bad block."""

FOLLOW_UP = "follow-ups"

FAINT = 10.0
"""Times that differences next to seams are larger than elsewhere when they are no round-off. Of 300 clean runs of small
networks on random voxels, the exact ones in float32 had 1.16 at most; a factor of ten leaves room for others."""

ENOUGH = 100
"""Voxels next to seams, and far from them, that such a ratio needs."""


def name_faults(comparing: Comparing, planes: Sequence[Planes], size: Sequence[int]) -> Iterator[Finding]:
    """A finding for each fault, with where it is, how large, and what it looks like.

    Parameters
    ----------
    comparing
        With every sampled box compared.
    planes
        As `seams` gives them.
    size
        Voxels of a box.
    """
    bad = comparing.over()
    if not bad:
        yield from _faint(comparing)
        return
    worst = worst_of(bad)
    text = f"{_where(comparing, worst)}; {len(bad)} of {len(comparing.done)} boxes differ"
    everywhere = _everywhere(comparing, bad)
    if everywhere and (shift := _shift(comparing, bad)):
        text += f", and agree with the output one voxel further ({shift})"
        yield Finding("values", text, worst.box, f"offset by one along {shift[1]}")
    elif nearness := _toward_seams(comparing, bad, planes, everywhere):
        blended = comparing.run.settings["overlap"] is not None
        looks_like = "blocks that do not fit together" if blended else "halo too small"
        yield Finding("values", f"{text}, and {nearness}", worst.box, looks_like)
    elif everywhere:
        yield Finding("values", f"{text}, all over the volume", worst.box, "another network, volume or normalize")
    else:
        yield from _blocks(comparing, bad, size)


def _faint(comparing: Comparing) -> Iterator[Finding]:
    """Differences within the tolerance that are no round-off, because that is the same next to seams and far from them.

    A halo that is one voxel too small may change less than the tolerance, which covers any machine; the voxels of this
    output tell its own round-off.
    """
    (near, n), (far, m) = comparing.near, comparing.far
    blended = comparing.run.settings["overlap"] is not None
    if blended or comparing.asked is not None or min(n, m) < ENOUGH:
        return
    at, away = sqrt(near / n), sqrt(far / m)
    if at > FAINT * max(away, 2.0**-24 * comparing.scale):
        text = f"within the tolerance, but {at:.2g} (root mean square) next to seams and {away:.2g} far from them"
        yield Finding("values", f"differences are {text}", None, "halo too small")


def _block_of(comparing: Comparing, c: Compared) -> int:
    """The block of a box's worst voxel."""
    [block] = touching(comparing.run.grid, Box(c.where[1:], tuple(v + 1 for v in c.where[1:])))
    return block


def _everywhere(comparing: Comparing, bad: Sequence[Compared]) -> bool:
    """Whether more blocks differ than agree, and more than one."""
    grid = comparing.run.grid
    worse = {_block_of(comparing, c) for c in bad}
    agree = {b for c in comparing.done if c.largest <= comparing.tolerance for b in touching(grid, c.box)}
    return len(worse) > len(agree - worse) and (len(worse) > 1 or len(grid) == 1)


def _where(comparing: Comparing, c: Compared) -> str:
    names = ("c", *comparing.run.volume.frame.space)
    voxel = ", ".join(f"{n} {v}" for n, v in zip(names, c.where, strict=True))
    return f"up to {c.largest:.3g} at voxel ({voxel}): {c.stored:.6g} stored, {c.expected:.6g} expected"


def _shift(comparing: Comparing, bad: Sequence[Compared]) -> str | None:
    """The shift by one voxel, such as "+x", after which boxes that differ agree; None if there is none.

    Nine voxels of ten are enough: those next to a face have no partner.
    """
    tried = [c for c in bad if c.reference.size][:TRIED]
    space = comparing.run.volume.frame.space
    whole = Box.of_shape(comparing.run.shape)
    for d, name in enumerate(space):
        for step in (1, -1):
            shares = [_agreement(comparing, c, whole, d, step) for c in tried]
            if shares and min(shares) >= 0.9:
                return f"{'+' if step > 0 else '-'}{name}"
    return None


def _agreement(comparing: Comparing, c: Compared, whole: Box, axis: int, step: int) -> float:
    """The share of a box's voxels that agree when the output is read ``step`` voxels further along an axis."""
    move = [-step if i == axis else 0 for i in range(len(whole.stop))]
    moved = c.box.relative_to(move) & whole
    if not moved.size:
        return 0.0
    try:
        stored = comparing.run.stored(moved)
    except SourceError:
        return 0.0
    back = moved.relative_to([-m for m in move]).relative_to(c.box.start)
    near = np.abs(stored - c.reference[(slice(None), *back.slices)]) <= comparing.tolerance
    return float(near.mean())


def _toward_seams(
    comparing: Comparing, bad: Sequence[Compared], planes: Sequence[Planes], everywhere: bool
) -> str | None:
    """Whether differences in several blocks are largest at seams and fade away from them, in words."""
    kept = [c for c in bad if c.error.size and np.isfinite(c.error).all()]
    if len({_block_of(comparing, c) for c in kept}) < min(2, len(comparing.run.grid)):
        return None
    errors = [np.maximum(c.error - comparing.tolerance, 0) for c in kept]
    seams = [tuple(sorted((*a, *b))) for a, b in planes]
    if everywhere:
        seams = [
            _likely(kept, errors, d, axis, between)
            for d, (axis, (between, _)) in enumerate(zip(seams, planes, strict=True))
        ]
    if not any(seams):
        return None
    at, away = _near_and_far(errors, [distance(c.box, seams) for c in kept], middle(seams))
    if not at > 4 * away:
        return None
    return f"they grow toward the seams: {at:.2g} over the tolerance on average next to one, {away:.2g} further off"


def _likely(
    kept: Sequence[Compared], errors: Sequence[Array], axis: int, planned: tuple[int, ...], between: tuple[int, ...]
) -> tuple[int, ...]:
    """The planes along an axis where differences are largest.

    A run whose context was wrong had other clean zones than the ones that follow from today's; but a whole number of
    them made a block.
    """
    options = [planned]
    if between:
        block, last = between[0], between[-1] + between[0]
        options += [tuple(range(block // k, last, block // k)) for k in range(1, 9) if block % k == 0 and block > k]

    def contrast(planes: tuple[int, ...]) -> float:
        alone = [planes if d == axis else () for d in range(errors[0].ndim)]
        at, away = _near_and_far(errors, [distance(c.box, alone) for c in kept], middle(alone))
        return at / away if away else at

    return max(options, key=lambda o: contrast(o) if o else 0.0)


def _near_and_far(errors: Sequence[Array], distances: Sequence[Array], off: int) -> tuple[float, float]:
    """Mean errors next to a seam, and ``off`` voxels from it or more; 0 and 1 where there are no such voxels."""
    near = np.concatenate([e[d == 0] for e, d in zip(errors, distances, strict=True)])
    far = np.concatenate([e[d >= off] for e, d in zip(errors, distances, strict=True)])
    return (float(near.mean()), float(far.mean())) if near.size and far.size else (0.0, 1.0)


def _blocks(comparing: Comparing, bad: Sequence[Compared], size: Sequence[int]) -> Iterator[Finding]:
    """A finding for each bad block: all of it, or a part that stored chunks bound."""
    run, blocks = comparing.run, dict[int, Compared]()
    for c in sorted(bad, key=lambda c: -c.largest):
        blocks.setdefault(_block_of(comparing, c), c)
    for block, c in list(blocks.items())[:PLACED]:
        box = run.grid.box(run.grid.unravel(block))
        chunks = Tiles(box, run.chunk)
        looks_like, detail = _part(comparing, box, chunks, size)
        yield Finding("values", f"block {block} {box}: {_where(comparing, c)}; {detail}", c.box, looks_like)
    if len(blocks) > PLACED:
        yield Finding("values", f"{len(blocks) - PLACED} more blocks differ", worst_of(bad).box)


def worst_of(boxes: Sequence[Compared]) -> Compared:
    """The box with the largest difference."""
    return max(boxes, key=lambda c: c.largest)


def _part(comparing: Comparing, box: Box, chunks: Tiles, size: Sequence[int]) -> tuple[str, str]:
    """What a bad block looks like after a few more boxes, one in each of several chunks; or parts of its only one."""
    known = {i: c for i, chunk in enumerate(chunks) for c in comparing.done if _inside(c.box, chunk)}
    parts: Sequence[Box] = [chunks[i] for i in range(len(chunks)) if i not in known]
    if len(chunks) == 1:
        parts = list(Tiles(box, [max(1, -(-n // 2)) for n in box.shape]))
    step = max(1, len(parts) // PROBES)
    for part in parts[::step][:PROBES]:
        low = [a + (n - min(n, s)) // 2 for a, n, s in zip(part.start, part.shape, size, strict=True)]
        comparing.compare(
            FOLLOW_UP, Box(tuple(low), tuple(a + min(n, s) for a, n, s in zip(low, part.shape, size, strict=True)))
        )
    inside = [c for c in comparing.done if _inside(c.box, box)]
    over = [c for c in inside if not c.largest <= comparing.tolerance]
    if not over:  # only seam boxes reach into this block
        return "", f"the {len(inside)} other boxes in it agree"
    blank = all(c.constant for c in over)
    value = f", and hold nothing but {over[0].stored:g}" if blank else ""
    if len(over) < len(inside):
        return "torn chunk", f"{len(over)} of {len(inside)} boxes in it differ{value}; the others agree"
    what = "torn chunk" if blank else "stale or foreign block"
    return what, f"all {len(inside)} boxes in it differ{value}, while other blocks agree"


def _inside(inner: Box, outer: Box) -> bool:
    return (inner & outer) == inner
