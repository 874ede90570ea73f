"""Stored boxes against recomputed ones, and chunks that cannot be read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chunkinfer.api.audit.boxes import Planes, Tiles, distance, middle, touching
from chunkinfer.api.audit.reference import Reference
from chunkinfer.api.audit.report import Finding
from chunkinfer.api.audit.run import Run
from chunkinfer.errors import MissingChunk, SourceError
from chunkinfer.geometry.boxes import Box

Array = NDArray[Any]

ROUND_OFF = {"fp32": 1e-4, "bf16": 2.0**-5, "fp16": 2.0**-8}
"""Precision -> round-off between two ways of computing one value, as a part of the largest value.

Sums of a convolution are taken in another order where its input has another size. In float32 the tests of exact tiling
allow 5e-5 of the largest value for that; here it is twice that, and small networks move by 5e-7. In reduced precision
every layer rounds to 8 or 11 bits, so a sum that lands on the other side of a boundary moves by 2^-8 or 2^-11, and
later layers add such steps up: eight of them are allowed."""

TF32 = 2.0**-8
"""The same for convolutions that ran on a GPU in float32, which torch rounds to the 11 bits of TF32. Taken from
fp16, whose bits they are; not measured."""

DOUBLE = 1e-9
"""The same for networks in double precision."""

QUANTUM = {"uint8": 0.5, "float16": 2.0**-11, "float32": 2.0**-24, "float64": 0.0}
"""Rounding to the stored type: in levels for uint8, otherwise as a part of the largest value. The network's own value
is compared before it is quantised, so half a level is enough where comparing levels would need a whole one."""

JPEG = 32.0
"""Levels by which the encoding, at quality 90, may move a value at an edge: a guess on the large side."""

KEPT = 32
"""Boxes over the tolerance whose voxels are kept for telling faults apart."""


@dataclass(frozen=True)
class Compared:
    """One box, compared."""

    kind: str
    box: Box
    """In voxels of the output, over the spatial axes."""
    largest: float
    """Largest absolute difference; infinite for NaN."""
    where: tuple[int, ...]
    """Its voxel, (c, *space)."""
    stored: float
    expected: float
    share: float
    """Of the box's voxels, those that differ by more than the tolerance so far."""
    constant: bool
    """Whether all stored values are one, and those expected are not."""
    reference: Array = field(repr=False, compare=False, default_factory=lambda: np.zeros(0))
    """(c, *space), as it should be; kept for the first boxes over the tolerance."""
    error: Array = field(repr=False, compare=False, default_factory=lambda: np.zeros(0))
    """(*space), the largest difference of all channels; kept as ``reference`` is."""


class Comparing:
    """Recomputes boxes of a run's output, and remembers what was seen."""

    def __init__(self, run: Run, reference: Reference, tolerance: float | None, planes: Sequence[Planes]) -> None:
        self.run, self.reference, self.asked = run, reference, tolerance
        self.seams = [tuple(sorted((*a, *b))) for a, b in planes]
        self.near, self.far = (0.0, 0), (0.0, 0)
        """Sums of squared differences, and voxels: next to seams, and in the middle of clean zones."""
        self.levels = run.output.array.dtype == np.uint8
        self.scale = 0.0
        """Largest absolute value that was expected anywhere, in units of the output."""
        self.done: list[Compared] = []
        self.finished = set(run.finished)
        self.all_finished = len(self.finished) == len(run.grid)
        self.bad_chunks: dict[Box, str] = {}
        """Stored chunks that cannot be read, over the spatial axes, and why."""
        self.missing: set[Box] = set()
        self.nan_blocks: dict[int, int] = {}

    @property
    def tolerance(self) -> float:
        """Differences up to it are none, in units of the output."""
        if self.asked is not None:
            return self.asked
        rounding = QUANTUM.get(str(self.run.output.array.dtype), 0.0) * (1.0 if self.levels else self.scale)
        return max(rounding, JPEG if self.run.encoding == "jpeg" else 0.0) + self._round_off()[1] * self.scale

    @property
    def reason(self) -> str:
        """Where the tolerance comes from."""
        if self.asked is not None:
            return "given"
        how, part = self._round_off()
        stored = self.run.encoding or self.run.output.array.dtype
        return f"round-off of {how}, {part:.2g} of the largest value {self.scale:.3g}, stored as {stored}"

    def _round_off(self) -> tuple[str, float]:
        """In words, and as a part of the largest value."""
        settings = self.run.settings
        if self.run.model.compute_dtype() == "float64":
            return "double precision", DOUBLE
        if settings["precision"] == "fp32" and settings["device"] == "cuda":
            return "TF32", TF32
        return settings["precision"], ROUND_OFF[settings["precision"]]

    def looks_at(self, box: Box) -> bool:
        """Whether a box lies in finished blocks only."""
        return self.all_finished or self.finished.issuperset(touching(self.run.grid, box))

    def compare(self, kind: str, box: Box) -> Compared | None:
        """Recompute a box; None where it cannot be read, which is then known of its chunks."""
        try:
            stored = self.run.stored(box)
        except SourceError:
            self.find_unreadable(box)
            return None
        expected = self.reference(box) * (255.0 if self.levels else 1.0)
        self.scale = max(self.scale, float(np.abs(expected).max(initial=0)))
        error = np.abs(stored.astype(np.float64) - expected)
        error[~np.isfinite(error)] = np.inf
        at = np.unravel_index(int(error.argmax()), error.shape)
        self._sum_up(box, error)
        over = error > self.tolerance
        kept = over.any() and sum(c.reference.size > 0 for c in self.done) < KEPT
        found = Compared(
            kind=kind,
            box=box,
            largest=float(error[at]),
            where=(int(at[0]), *(int(a) + s for a, s in zip(at[1:], box.start, strict=True))),
            stored=float(stored[at]),
            expected=float(expected[at]),
            share=float(over.any(0).mean()),
            constant=bool(stored.min() == stored.max() and np.ptp(expected) > self.tolerance),
            **({"reference": expected.astype(np.float32), "error": error.max(0).astype(np.float32)} if kept else {}),
        )
        self.done.append(found)
        return found

    def _sum_up(self, box: Box, error: Array) -> None:
        if not any(self.seams) or not np.isfinite(error).all():
            return
        squared, off = (error**2).max(0), distance(box, self.seams)
        near, far = squared[off == 0], squared[off >= middle(self.seams)]
        self.near = self.near[0] + float(near.sum()), self.near[1] + near.size
        self.far = self.far[0] + float(far.sum()), self.far[1] + far.size

    def over(self) -> list[Compared]:
        """The boxes over the tolerance."""
        return [c for c in self.done if not c.largest <= self.tolerance]

    # ---- reading ----------------------------------------------------------------------------------------------------

    def scan(self) -> list[Box]:
        """Read every finished block once; the chunks that hold one value only, which torn ones often do."""
        suspects = []
        for block in self.run.finished:
            box = self.run.grid.box(self.run.grid.unravel(block))
            try:
                values = self.run.stored(box)
            except SourceError:
                self.find_unreadable(box)
                continue
            if values.dtype.kind == "f" and (bad := int(values.size - np.isfinite(values).sum())):
                self.nan_blocks[block] = bad
            for chunk in Tiles(box, self.run.chunk):
                part = values[(slice(None), *chunk.relative_to(box.start).slices)]
                if part.min() == part.max():
                    suspects.append(chunk)
        return suspects

    def find_unreadable(self, box: Box) -> None:
        """Which chunks of a box cannot be read."""
        for block in touching(self.run.grid, box):
            for chunk in Tiles(self.run.grid.box(self.run.grid.unravel(block)), self.run.chunk):
                if chunk in self.bad_chunks or not (chunk & box).size:
                    continue
                try:
                    self.run.stored(chunk)
                except SourceError as error:
                    self.bad_chunks[chunk] = error.what
                    if isinstance(error, MissingChunk):
                        self.missing.add(chunk)

    def unreadable(self) -> Iterator[Finding]:
        """A finding for each block with chunks that cannot be read, and for each with NaN."""
        blocks: dict[int, list[Box]] = {}
        for chunk in self.bad_chunks:
            blocks.setdefault(touching(self.run.grid, chunk)[0], []).append(chunk)
        for block, chunks in sorted(blocks.items()):
            absent = all(chunk in self.missing for chunk in chunks)
            named = ", ".join(map(str, chunks[:4])) + (f" and {len(chunks) - 4} more" if len(chunks) > 4 else "")
            of = len(Tiles(self.run.grid.box(self.run.grid.unravel(block)), self.run.chunk))
            text = f"{len(chunks)} of {of} chunks of block {block} {'are absent' if absent else 'cannot be read'}: "
            yield Finding(
                "missing" if absent else "unreadable",
                f"{text}{named}: {self.bad_chunks[chunks[0]]}",
                self.run.grid.box(self.run.grid.unravel(block)),
                "missing chunk" if absent else "torn chunk",
            )
        for block, bad in sorted(self.nan_blocks.items()):
            box = self.run.grid.box(self.run.grid.unravel(block))
            yield Finding("NaN", f"{bad:,} values of block {block} {box} are NaN or infinite", box)
