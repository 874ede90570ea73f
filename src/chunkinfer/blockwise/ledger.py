"""The ledger: which blocks of an output are finished, under the fingerprint of the run that made them.

It lies inside the output, as small objects in a key-value store that every storage system can be::

    .chunkinfer/run.json              what the last run was and how it went (the report)
    .chunkinfer/ledger.json           fingerprint and frozen settings; written before the first block
    .chunkinfer/done-000017.json      runs of finished block numbers, [first, last] inclusive; written once

Probing the store cannot replace it: a block may be half written, and other writers may leave whole ones.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Mapping
from typing import Any

from chunkinfer.errors import DestinationError
from chunkinfer.storage import Files

HEADER = "ledger.json"


class Ledger:
    """Finished blocks of one output; one client writes it, at most every so often.

    Parameters
    ----------
    files
        The folder that holds it.
    """

    def __init__(self, files: Files) -> None:
        self.files = files
        self._segment = 0

    def header(self) -> dict[str, Any] | None:
        """Fingerprint and settings of the run that owns the output; None where there is none yet."""
        data = self.files.read(HEADER)
        return None if data is None else self._parse(HEADER, data)

    def begin(self, header: Mapping[str, Any]) -> None:
        """Write the header, before the first block; what an earlier run finished is forgotten first."""
        for name in self._segments():
            self.files.delete(name)
        self.files.write(HEADER, json.dumps(header, indent=1).encode())

    def done(self) -> set[int]:
        """Numbers of the finished blocks."""
        blocks: set[int] = set()
        for name in self._segments():
            data = self.files.read(name)
            if data is None:
                continue
            record = self._parse(name, data)
            if zlib.crc32(json.dumps(record.get("runs")).encode()) != record.get("crc32"):
                self._refuse(name, "its checksum does not fit")
            for first, last in record["runs"]:
                blocks.update(range(first, last + 1))
            self._segment = max(self._segment, int(name[5:-5]) + 1)
        return blocks

    def add(self, blocks: Iterable[int]) -> None:
        """Record blocks that are written and durable."""
        runs = _runs(blocks)
        if runs:
            record = {"runs": runs, "crc32": zlib.crc32(json.dumps(runs).encode())}
            self.files.write(f"done-{self._segment:06d}.json", json.dumps(record).encode())
            self._segment += 1

    def compact(self) -> None:
        """One object instead of many, at the end of a run."""
        old = self._segments()
        if len(old) > 1:
            self.add(self.done())
            for name in old:
                self.files.delete(name)

    def report(self, report: Mapping[str, Any]) -> None:
        """Write ``run.json``."""
        self.files.write("run.json", json.dumps(report, indent=1, default=str).encode())

    def _segments(self) -> list[str]:
        return sorted(n for n in self.files.list() if n.startswith("done-") and n.endswith(".json"))

    def _parse(self, name: str, data: bytes) -> dict[str, Any]:
        try:
            record = json.loads(data)
        except ValueError:
            self._refuse(name, "it is no JSON")
        if not isinstance(record, dict):
            self._refuse(name, "it holds no table")
        table: dict[str, Any] = record
        return table

    def _refuse(self, name: str, why: str) -> None:
        raise DestinationError(
            f"The ledger object {name} of this output is damaged: {why}.",
            "It was cut short by a full disk, or edited.",
            [
                "delete that object: only the blocks that it lists are computed again",
                "start anew: save(array, url, overwrite=True)",
            ],
        )


def differences(stored: Mapping[str, Any], asked: Mapping[str, Any]) -> list[str]:
    """What two headers do not share, a line each; but not what is of the machine or the call."""
    theirs, ours = _flat(stored), _flat(json.loads(json.dumps(asked, default=str)))
    hidden = {"plan", "precision_check", "asked", "kernels", "array", "versions"}
    names = [
        name
        for name in sorted(theirs.keys() | ours.keys())
        if theirs.get(name) != ours.get(name) and not hidden & set(name.split("."))
    ]
    if len(names) > 1:  # a computation is named by its settings, so it tells nothing new beside them
        names = [name for name in names if name != "computation"]
    return [f"{name}: stored {theirs.get(name, 'nothing')}, asked {ours.get(name, 'nothing')}" for name in names]


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """A nested table as dotted names."""
    if isinstance(value, list) and any(isinstance(v, dict) for v in value):
        value = {str(i): v for i, v in enumerate(value)}
    if not isinstance(value, dict):
        return {prefix: value}
    flat: dict[str, Any] = {}
    for key, inner in value.items():
        flat |= _flat(inner, f"{prefix}.{key}" if prefix else str(key))
    return flat


def _runs(blocks: Iterable[int]) -> list[list[int]]:
    """Sorted numbers as inclusive runs."""
    runs: list[list[int]] = []
    for block in sorted(set(blocks)):
        if runs and block == runs[-1][1] + 1:
            runs[-1][1] = block
        else:
            runs.append([block, block])
    return runs
