"""The answer of `receptive_field`: a frozen value with a text and an HTML repr."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from chunkinfer.geometry.contract import AxisContract
from chunkinfer.networks.probing.verifying import Seen
from chunkinfer.support import html

_HOW = {
    "traced": "traced: every operator was followed",
    "probed": "probed: the most that inputs of several kinds showed, rounded up to whole periods; a read that none of "
    "them showed would be missed",
    "declared": "declared, and checked on real runs",
}


@dataclass(frozen=True)
class ReceptiveField:
    """What a network reads around each output voxel, gives, and takes."""

    model: str
    """Name of the network."""
    axes: tuple[AxisContract, ...]
    """The contract of each spatial axis: period, stride, context, crop and sizes, in voxels. Of a network that is not
    exact the context is unknown, and stated as 0."""
    channels_in: int
    channels_out: int
    dtype: str
    """Of the output."""
    how: str
    """traced, probed or declared."""
    reasons: tuple[str, ...]
    """Why tiles cannot be exact, each beginning with the layer; empty if they can."""
    verified: tuple[Seen, ...] | None
    """How far real runs showed each axis to be read, never beyond the context; None if none was made for that."""

    @property
    def exact(self) -> bool:
        """Whether tiles with this context give the whole-volume result."""
        return not self.reasons

    @property
    def context(self) -> tuple[tuple[int, int], ...]:
        """Input voxels, below and above, that a block of whole periods reads around itself, per axis."""
        return tuple((a.low, a.high) for a in self.axes)

    @property
    def period(self) -> tuple[int, ...]:
        """Input voxels by which a shift of the input shifts the output and does nothing else, per axis."""
        return tuple(a.period for a in self.axes)

    @property
    def scale(self) -> tuple[Fraction, ...]:
        """Output voxels per input voxel, per axis."""
        return tuple(1 / a.stride for a in self.axes)

    @property
    def crop(self) -> tuple[tuple[int | Fraction, int | Fraction], ...]:
        """Input voxels by which the output is smaller, at the low and the high end, per axis."""
        return tuple(a.crop for a in self.axes)

    @property
    def tight(self) -> tuple[bool, ...] | None:
        """Whether real runs showed all of the context to be read, per axis; None if none were made."""
        if self.verified is None:
            return None
        return tuple(seen.reaches(axis) for seen, axis in zip(self.verified, self.axes, strict=True))

    # ---- to look at --------------------------------------------------------------------------------------------------

    def _table(self) -> list[list[str]]:
        head = ["axis", "context", "period", "scale", "crop", "sizes"]
        rows = [head + (["seen"] if self.verified else [])]
        for d, a in enumerate(self.axes):
            context = f"{a.low} + {a.high}" if self.exact else "unknown"
            crop = f"{a.crop[0]} + {a.crop[1]}"
            row = ["zyx"[d - len(self.axes)], context, str(a.period), str(1 / a.stride), crop, sizes(a)]
            if self.verified:
                row.append(f"{self.verified[d].low} + {self.verified[d].high}")
            rows.append(row)
        return rows

    def _facts(self) -> list[tuple[str, str]]:
        facts = [
            ("network", f"{self.model}, {self.channels_in} -> {self.channels_out} channels, {self.dtype}"),
            ("verdict", f"exact{', as far as probing shows' if self.how == 'probed' else ''}: tiles with this context "
             "equal the network on the whole volume, to round-off"
             if self.exact else "not exact: no context makes tiles equal to the network on the whole volume"),
            *(("because", reason) for reason in self.reasons[:3]),
        ]  # fmt: skip
        if len(self.reasons) > 3:
            facts.append(("", f"and {len(self.reasons) - 3} more"))
        facts.append(("known by", _HOW[self.how]))
        if self.verified is not None:
            cuts = sum(seen.cuts for seen in self.verified)
            text = f"real runs with {cuts} cuts: nothing beyond the context was seen to be read"
            if self.how != "traced":
                text += "; tiles with this context equal the whole, at its borders and between"
            elif all(self.tight or ()):
                text += ", and all of it is"
            else:
                text += ", and not all of it was seen to be"
            facts.append(("verified", text))
        return facts

    def __str__(self) -> str:
        table = self._table()
        widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
        lines = ["  ".join(cell.rjust(w) for cell, w in zip(row, widths, strict=True)) for row in table]
        lines += [f"{name + ':' if name else '':<12}{value}" for name, value in self._facts()]
        return "\n".join(lines)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        head, *body = self._table()
        return html.table(head, body) + html.facts(self._facts())


def sizes(axis: AxisContract) -> str:
    """The sizes that an axis takes, in words."""
    first = f"from {axis.smallest}"
    if len(axis.residues) == axis.period:
        return first
    if axis.residues == (0,):
        return f"multiples of {axis.period}, {first}"
    if len(axis.residues) <= 4:
        return f"{first}, {' or '.join(f'{axis.period} k + {r}' if r else f'{axis.period} k' for r in axis.residues)}"
    return f"{first}, {len(axis.residues)} of {axis.period} residues"
