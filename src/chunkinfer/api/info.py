"""info: what is at a URL: levels, arrays, sections, and how far the run is that writes it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from chunkinfer.errors import ChunkinferError
from chunkinfer.runs.record.headers import RunHeader
from chunkinfer.runs.record.ledger import Ledger
from chunkinfer.stores.files import Files
from chunkinfer.stores.urls import locate
from chunkinfer.volumes.arrays.inventory import Inventory, inventory
from chunkinfer.volumes.arrays.open import DRIVERS
from chunkinfer.volumes.arrays.source import Source

COLUMNS = ("shape", "type", "voxel size", "offset", "chunks", "shards", "compression")


@dataclass(frozen=True)
class Info:
    """What is at a URL; printed, a table."""

    inventory: Inventory
    run: Mapping[str, Any] | None
    """Of the run that wrote it: ``blocks`` and how many are ``done``, or a ``problem``; None without a ledger."""

    def as_dict(self) -> dict[str, Any]:
        """As plain values."""
        found = self.inventory
        return {
            "url": found.url,
            "kind": found.kind,
            "levels" if found.levels else "arrays": [
                {"name": item.name, **({"problem": item.problem} if item.source is None else _plain(item.source)),
                 "compression": item.codec}
                for item in found.items
            ],
            "run": None if self.run is None else dict(self.run),
        }  # fmt: skip

    def __str__(self) -> str:
        found, (first, *others) = self.inventory, self.inventory.items
        rows = [("url", found.url), ("kind", self.kind)]
        if first.source is not None and (found.levels or not others):
            if (files := first.files) is not None:
                rows.append(("files", str(files)))
            rows += [(str(k), str(v)) for k, v in first.source.names.items()]
        rows.append(("run", self._run()))
        wide = max(len(name) for name, _ in rows) + 3
        head = "\n".join(f"{name + ':':<{wide}}{value}" for name, value in rows if value)
        table: list[Sequence[str]] = [("" if found.levels else "array", *COLUMNS)]
        for number, item in enumerate(found.items):
            if item.source is not None:
                name = f"{number}: {item.name}" if found.levels else item.name
                table.append((name, *_row(item.source), item.codec))
        problems = [f"{item.name}: {item.problem}" for item in found.items if item.source is None]
        return "\n".join([head, "", *(_aligned(table) if len(table) > 1 else ()), *problems])

    __repr__ = __str__

    @property
    def kind(self) -> str:
        """Format, kind, and how many levels or arrays."""
        found = self.inventory
        formats = dict.fromkeys(item.source.format for item in found.items if item.source)
        many = f", {len(found.items)} {'levels' if found.levels else 'arrays'}" if len(found.items) > 1 else ""
        return f"{', '.join(formats)} {found.kind}{many}".strip()

    def _run(self) -> str:
        if self.run is None:
            return ""
        if "blocks" not in self.run:
            return str(self.run.get("problem", "its ledger is beside it"))
        done, blocks = self.run["done"], self.run["blocks"]
        more = "" if done == blocks else f"; chunkinfer status {self.inventory.url}"
        return f"{done:,} of {blocks:,} blocks stored{more}"


def info(url: str | os.PathLike[str], *, array: str | None = None) -> Info:
    """Look what is at a URL; only metadata is read.

    Parameters
    ----------
    url
        Of anything that `open_volume` opens. All levels of an image are told, all arrays of a group, an HDF5 or a TIFF
        file, which sections of a stack are missing, and how far the run is that writes it.
    array
        Tell of this array of a group or file only.

    Returns
    -------
    Info
        Printed, a table; ``as_dict()`` is for programs.

    Raises
    ------
    SourceError
        Nothing is there that can be opened.
    """
    found = inventory(url, array)
    return Info(found, _run_of(found))


def _run_of(found: Inventory) -> dict[str, Any] | None:
    """What the ledger at a place says."""
    if not any(item.source is not None and item.source.format in DRIVERS for item in found.items):
        return None
    ledger = Ledger(Files(found.url))
    try:
        if (header := RunHeader.of(ledger)) is None:
            return None
        if locate(found.url).kvstore["driver"] == "http":  # which cannot list
            return {}
        blocks = prod(header.destination.counts)
        return {"blocks": blocks, "done": ledger.done(blocks).count}
    except ChunkinferError as error:
        return {"problem": error.what}


def _plain(source: Source) -> dict[str, Any]:
    """An array as plain values."""
    return {
        "format": source.format,
        "dims": list(source.dims),
        "shape": list(source.shape),
        "dtype": source.dtype.name,
        "bytes": prod(source.shape) * source.dtype.itemsize,
        "voxel_size": source.voxel_size,
        "unit": source.unit,
        "offset": source.offset,
        "chunks": list(source.chunks),
        "shards": list(source.shards) if source.shards != source.chunks else None,
        "attributes": source.names,
    }


def _row(source: Source) -> tuple[str, ...]:
    sizes = ", ".join(f"{d} {n}" for d, n in zip(source.dims, source.shape, strict=True))
    voxel = " x ".join(f"{size:g}" for size in source.voxel_size.values())
    offset = ", ".join(f"{at:g}" for at in source.offset.values())
    shards = _times(source.shards) if source.shards != source.chunks else "none"
    return sizes, source.dtype.name, f"{voxel} {source.unit}".strip(), offset, _times(source.chunks), shards


def _times(sizes: Sequence[int]) -> str:
    return " x ".join(map(str, sizes))


def _aligned(table: Sequence[Sequence[str]]) -> list[str]:
    """Columns two spaces apart; those in which no row has anything are left out."""
    kept = [i for i in range(len(table[0])) if any(row[i] for row in table[1:])]
    width = {i: max(len(row[i]) for row in table) for i in kept}
    return ["  ".join(f"{row[i]:<{width[i]}}" for i in kept).rstrip() for row in table]
