"""What an audit says: a table, findings, how much was looked at."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from chunkinfer.geometry.boxes import Box
from chunkinfer.support import html


@dataclass(frozen=True)
class Finding:
    """Something that is not as it should be."""

    kind: str
    """model, source, settings, ledger, shape, dtype, voxel size, offset, exactness, missing, unreadable, NaN or
    values."""
    text: str
    """What is so, where, how large, and what it looks like."""
    box: Box | None = None
    """In voxels of the output, over the spatial axes; None where it concerns all of it."""
    looks_like: str = ""
    """The fault that differing values look like, in a few words; empty if they look like none that is known."""

    def __str__(self) -> str:
        return f"{self.kind}: {self.text}"


@dataclass(frozen=True)
class Kind:
    """The boxes of one kind."""

    name: str
    """boxes, constant chunks, seams, faces, or follow-ups."""
    boxes: int
    """How many were recomputed and compared."""
    voxels: int
    """Their voxels, over the spatial axes."""
    largest: float
    """Largest absolute difference, in units of the output."""
    over: int
    """Boxes with a difference over the tolerance."""


@dataclass(frozen=True)
class AuditReport:
    """Whether a stored output is what its network gives on its volume."""

    output: str
    """URL of the output, or what it is."""
    verdict: str
    """The definition that it was compared with, in words."""
    kinds: tuple[Kind, ...]
    """What was recomputed."""
    largest: float
    """Largest absolute difference, in units of the output: levels for uint8."""
    where: tuple[int, ...] | None
    """Its voxel in the output, (c, *space); None if nothing was compared."""
    stored: float
    """The stored value there."""
    expected: float
    """The network's value there."""
    tolerance: float
    """Differences up to it are none, in units of the output."""
    judged: bool
    """Whether differences count: not where the halo was reduced on purpose and no tolerance was given."""
    reason: str
    """Where the tolerance comes from."""
    findings: tuple[Finding, ...]
    """What is wrong; empty if nothing was found."""
    notes: tuple[str, ...]
    """What the reader should know beside it."""
    blocks: tuple[int, int]
    """Blocks that boxes lay in, and finished blocks."""
    chunks: tuple[int, int]
    """Stored chunks that boxes lay in, and those of the finished blocks."""
    seams: tuple[int, int]
    """Planes between blocks or clean zones that boxes lay across, and all of them."""
    unfinished: int
    """Blocks that the ledger does not call finished; they were skipped."""
    seconds: float
    """Wall time."""

    @property
    def ok(self) -> bool:
        """Whether nothing was found."""
        return not self.findings

    @property
    def detectable(self) -> float:
        """Share of bad blocks that would have been found with a probability of 95 %: ``1 - 0.05 ** (1 / n)`` for ``n``
        blocks looked at, each bad in the box that was looked at; 0 if all were looked at."""
        looked, total = self.blocks
        return 0.0 if looked >= total else 1 - 0.05 ** (1 / looked) if looked else 1.0

    def as_dict(self) -> dict[str, Any]:
        """As plain values."""
        return {**asdict(self), "ok": self.ok, "detectable": self.detectable}

    # ---- to look at ---------------------------------------------------------------------------------------------

    def _table(self) -> list[list[str]]:
        head = ["kind", "boxes", "voxels", "largest difference", "over tolerance"]
        rows = [
            [k.name, f"{k.boxes:,}", f"{k.voxels:,}", f"{k.largest:.3g}", str(k.over) if self.judged else "not judged"]
            for k in self.kinds
        ]
        return [head, *rows]

    def _facts(self) -> list[tuple[str, str]]:
        count = f"{len(self.findings)} finding{'s' if len(self.findings) > 1 else ''}"
        answer = "nothing found" if self.ok else count
        at = "nothing was compared"
        if self.where is not None:
            at = f"{self.largest:.3g} at voxel {self.where}: {self.stored:.6g} stored, {self.expected:.6g} expected"
        power = "every finished block was looked at"
        if self.detectable:
            power = f"{self.detectable:.1%} bad blocks would have been found with a probability of 95 %"
        looked = ", ".join(
            f"{a:,} of {b:,} {name}" + (f" ({a / b:.1%})" if a < b else "")
            for name, (a, b) in (("blocks", self.blocks), ("chunks", self.chunks), ("seam planes", self.seams))
        )
        return [
            ("answer", answer),
            ("output", self.output),
            ("should be", self.verdict),
            ("largest", at),
            ("tolerance", f"{self.tolerance:.3g} ({self.reason})"),
            ("looked at", looked),
            ("power", power),
            ("unfinished", f"{self.unfinished:,} blocks, skipped" if self.unfinished else ""),
            *(("note", note) for note in self.notes),
            *(("finding", str(finding)) for finding in self.findings),
            ("time", f"{self.seconds:.1f} s"),
        ]

    def __str__(self) -> str:
        table = self._table()
        widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
        lines = ["  ".join(cell.rjust(w) for cell, w in zip(row, widths, strict=True)) for row in table]
        lines += [f"{name + ':':<12}{value}" for name, value in self._facts() if value]
        return "\n".join(lines)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        head, *body = self._table()
        facts = ((name, value) for name, value in self._facts() if value)
        return html.table(head, body) + html.facts(facts)
