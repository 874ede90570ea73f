"""The plan: every number of a run before anything runs, frozen, with a text and an HTML repr."""

from __future__ import annotations

import html
from dataclasses import dataclass
from itertools import pairwise
from math import ceil, prod
from typing import Any

from chunkinfer.geometry import BlockGrid, PatchLattice


def human_bytes(size: float) -> str:
    """Bytes with a binary unit."""
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if abs(size) < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} PiB"


@dataclass(frozen=True)
class Plan:
    """What a run is: everything that fixes its bits, and the numbers that follow."""

    axes: tuple[str, ...]
    """Names of the spatial axes, in order."""
    lattice: PatchLattice
    """Where the patches lie."""
    overlap: tuple[int, ...] | None
    """Input voxels that neighbouring patches share; None for exact tiling."""
    context: tuple[tuple[int, int], ...] | None
    """Input voxels, low and high, that the output was traced to read along each axis; None where that is unbounded."""
    reduced: tuple[int, ...] | None
    """The context kept around clean zones where the caller asked for less than was traced; None otherwise."""
    block: tuple[int, ...]
    """Output voxels of what one task writes."""
    window: str
    """Blending window; without meaning for exact tiling."""
    batch: int
    """Patches per forward pass."""
    normalize: str
    """How stored values are scaled, in words."""
    channels_in: int
    channels_out: int
    dtype_in: str
    """dtype of the volume."""
    dtype: str
    """dtype of the result."""
    compute: str
    """Floating-point type in which the network runs."""
    precision: str
    """fp32, bf16 or fp16 inside the network."""
    device: str
    """cpu or cuda."""
    threads: int
    """Intra-op threads of one kernel on a CPU."""
    kernels: int
    """Kernels at a time in one process of this machine."""
    model: str
    """Name of the model."""
    digest: str
    """Its digest."""
    model_bytes: int
    """Bytes of its weights."""
    activations: int
    """Bytes of activations of one batch, estimated."""
    reasons: tuple[str, ...]
    """Why the network cannot be tiled exactly; empty if it can."""
    source_chunks: tuple[int, ...]
    """Voxels of the volume's chunks along the spatial axes."""
    asked: tuple[str, ...]
    """Arguments that the caller gave; the others may be adopted from an earlier run on resume."""

    @property
    def exact(self) -> bool:
        """Whether the result is the network's on the whole volume."""
        return self.lattice.exact and self.reduced is None

    @property
    def grid(self) -> BlockGrid:
        """The blocks of the output."""
        return BlockGrid.regular(self.lattice.output, self.block)

    def settings(self) -> dict[str, Any]:
        """What fixes the bits and the blocks of a run, as plain values for a ledger or a comparison."""
        return {
            "patch": list(self.lattice.patch),
            "overlap": list(self.overlap) if self.overlap else None,
            "halo": list(self.reduced) if self.reduced else None,
            "block": list(self.block),
            "window": self.window,
            "batch": self.batch,
            "normalize": self.normalize,
            "dtype": self.dtype,
            "precision": self.precision,
            "device": self.device,
            "threads": self.threads,
        }

    # ---- what follows -------------------------------------------------------------------------------------------

    def _spans(self, d: int) -> list[tuple[int, int]]:
        edges = self.grid.edges[d]
        return list(pairwise(edges))

    @property
    def patches(self) -> int:
        """Patches that the run computes, those that two blocks share counted twice."""
        return prod(
            sum(len(axis.touching(*span)) for span in self._spans(d)) for d, axis in enumerate(self.lattice.axes)
        )

    @property
    def recompute(self) -> float:
        """Patch voxels that the network sees per voxel of the volume."""
        return self.patches * prod(self.lattice.patch) / prod(self.lattice.shape)

    @property
    def read_amplification(self) -> float:
        """Voxels of stored chunks read per voxel of the volume: halos, rounded out to chunks."""
        factor = 1.0
        for d, (axis, chunk) in enumerate(zip(self.lattice.axes, self.source_chunks, strict=True)):
            touched = 0
            for span in self._spans(d):
                low, high = axis.seen(*span)
                touched += min(ceil(high / chunk) * chunk, axis.size) - low // chunk * chunk
            factor *= touched / axis.size
        return factor

    @property
    def halo(self) -> tuple[tuple[int, int], ...]:
        """The most extra input voxels, low and high, that a block reads along each axis."""
        halos = []
        for d, axis in enumerate(self.lattice.axes):
            low = high = 0
            for a, b in self._spans(d):
                seen = axis.seen(a, b)
                low = max(low, int(a * axis.stride) - seen[0])
                high = max(high, seen[1] - int(b * axis.stride))
            halos.append((low, high))
        return tuple(halos)

    def memory(self) -> tuple[tuple[str, int], ...]:
        """Projected bytes of one process, as a sum whose terms can be checked."""
        import numpy as np

        largest = [min(b, n) for b, n in zip(self.block, self.lattice.output, strict=True)]
        seen = [
            min(int(b * a.stride) + low + high, a.size)
            for b, a, (low, high) in zip(largest, self.lattice.axes, self.halo, strict=True)
        ]
        read = prod(seen) * self.channels_in * np.dtype(self.dtype_in).itemsize
        sums = prod(largest) * self.channels_out * np.dtype(self.compute).itemsize
        slots = self.kernels + 1
        return (
            ("model", self.model_bytes),
            (f"activations of {self.kernels} kernel(s)", self.activations * self.kernels),
            (f"haloed inputs of {slots} + 1 blocks", read * (slots + 1)),
            (f"outputs of {slots} + 1 blocks", sums * (slots + 1)),
        )

    @property
    def verdict(self) -> str:
        """What kind of equality with the network on the whole volume this run gives, in words."""
        if self.exact:
            how = "to round-off" if self.precision == "fp32" else f"to the round-off of {self.precision}"
            return f"exact: equal to the network on the whole volume {how}"
        why = f" ({self.reasons[0]})" if self.reasons else ""
        if self.reduced:
            context = " x ".join(f"{max(pair)}" for pair in self.context) if self.context else "unbounded"
            kept = " x ".join(map(str, self.reduced))
            return f"halo reduced on purpose to {kept} voxels, where the context is {context}: an approximation{why}"
        return f"blended with {self.window} windows: an approximation of the network on the whole volume{why}"

    @staticmethod
    def _itemsize(dtype: str) -> int:
        import numpy as np

        return np.dtype(dtype).itemsize

    # ---- to look at ---------------------------------------------------------------------------------------------

    def _table(self) -> list[list[str]]:
        step = "clean zone" if self.lattice.exact else "stride"
        rows = [["axis", "voxels", "period", "context", "patch", step, "patches", "block", "halo", "output"]]
        for d, (name, a) in enumerate(zip(self.axes, self.lattice.axes, strict=True)):
            padded = f"{a.size}" + (f" (+{a.padded - a.size})" if a.padded > a.size else "")
            context = "{} + {}".format(*self.context[d]) if self.context else "unbounded"
            halo = "{} + {}".format(*self.halo[d])
            rows.append(
                [name, padded, str(a.contract.period), context, str(a.patch), str(a.step), str(len(a.starts)),
                 str(self.block[d]), halo, str(a.output)]
            )  # fmt: skip
        return rows

    def _facts(self) -> list[tuple[str, str]]:
        voxels = prod(self.lattice.shape)
        total = sum(size for _, size in self.memory())
        terms = " + ".join(f"{human_bytes(size)} {name}" for name, size in self.memory())
        return [
            ("model", f"{self.model}, {self.channels_in} -> {self.channels_out} channels, digest {self.digest[:12]}"),
            ("verdict", self.verdict),
            ("same bits for", f"any cut, with this network, patch, batch of {self.batch}, {self.precision}, "
             f"{self.threads} thread(s) a kernel, on {self.device}"),
            ("values", f"{self.dtype_in}, {self.normalize} -> {self.dtype}"),
            ("blocks", f"{len(self.grid):,}, one task each"),
            ("patches", f"{self.patches:,}, {self.recompute:.2f} patch voxels per voxel of the volume"),
            ("read amplification", f"{self.read_amplification:.2f}"),
            ("volume", f"{voxels:,} voxels, {human_bytes(voxels * self.channels_in * self._itemsize(self.dtype_in))}"),
            ("output", f"{prod(self.lattice.output):,} voxels x {self.channels_out} channels, "
             f"{human_bytes(prod(self.lattice.output) * self.channels_out * self._itemsize(self.dtype))}"),
            ("memory per process", f"{human_bytes(total)} = {terms}"),
        ]  # fmt: skip

    def __str__(self) -> str:
        table = self._table()
        widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
        lines = ["  ".join(cell.rjust(w) for cell, w in zip(row, widths, strict=True)) for row in table]
        lines += [f"{name + ':':<20}{value}" for name, value in self._facts()]
        return "\n".join(lines)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        head, *body = self._table()
        cells = "".join(f"<th>{html.escape(c)}</th>" for c in head)
        rows = "".join("<tr>" + "".join(f"<td>{html.escape(c)}</td>" for c in row) + "</tr>" for row in body)
        left = "<{} style='text-align:left'>"
        facts = "".join(
            f"<tr>{left.format('th')}{html.escape(k)}</th>{left.format('td')}{html.escape(v)}</td></tr>"
            for k, v in self._facts()
        )
        return f"<table><thead><tr>{cells}</tr></thead><tbody>{rows}</tbody></table><table>{facts}</table>"
