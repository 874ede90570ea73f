"""Headers of ledgers: what a run is, and whether another one may go on where it ended."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from math import ceil
from typing import Any, Self

from chunkinfer.errors import DestinationError
from chunkinfer.geometry.boxes import BlockGrid
from chunkinfer.runs.record.ledger import Ledger
from chunkinfer.support.facts import NetworkFacts, SourceFacts, plain, split

FOLLOWING = ("computation", "programs")
"""Facts that follow from settings and networks: beside other differences they tell nothing new."""


@dataclass(frozen=True)
class LevelFacts:
    """Coarser levels of an output."""

    method: str
    factors: Sequence[Sequence[int]]
    """Voxels of each level per voxel of the next one, along the axes of the array."""
    with_finest: int
    """How many levels are written with the blocks."""


@dataclass(frozen=True)
class OutputFacts:
    """The array that a run writes."""

    format: str
    shape: tuple[int, ...]
    dtype: str
    dims: tuple[str, ...]
    block: tuple[int, ...]
    """Voxels of what one task writes."""
    counts: tuple[int, ...]
    """Blocks along each axis."""
    voxel_size: Mapping[str, float]
    unit: str
    offset: Mapping[str, float]
    """Position of the first voxel, in voxels, by axis."""
    chunks: tuple[int, ...]
    shards: tuple[int, ...] | None
    encoding: str | None
    compression: str | None
    pyramid: LevelFacts | None = None
    """The levels that are made with it; None for none."""
    other: Mapping[str, Any] = field(default_factory=dict)
    """What a ledger holds besides, written by another version."""

    @property
    def grid(self) -> BlockGrid:
        """The blocks. Where halos were exchanged, a thin last block was joined to its neighbour, as counts tell."""
        axes = zip(self.counts, self.shape, self.block, strict=True)
        joined = [b if n < ceil(size / b) else 1 for n, size, b in axes]
        return BlockGrid.regular(self.shape, self.block, joined)

    def to_json(self) -> dict[str, Any]:
        """Plain values, for a ledger."""
        return {**plain(self), "pyramid": None if self.pyramid is None else asdict(self.pyramid), **self.other}

    @classmethod
    def from_json(cls, said: Mapping[str, Any]) -> Self:
        """The facts that a ledger holds."""
        known, other = split(cls, said)
        levels = None if (made := said.get("pyramid")) is None else LevelFacts(**made)
        return cls(**{**known, "pyramid": levels, "other": other})

    def fingerprint(self) -> dict[str, Any]:
        """Plain values that decide whether one run may go on where another ended; counts follow from blocks."""
        said = self.to_json()
        del said["counts"]
        return said


@dataclass(frozen=True)
class RunHeader:
    """What a run of `save` is: equal fingerprints give equal bits in equal places."""

    computation: str
    """Name of the lazy array: a digest of what it is computed from, and how."""
    networks: tuple[NetworkFacts, ...]
    """Those that compute it, in order."""
    copied: SourceFacts | None
    """What is copied, where no network computes."""
    destination: OutputFacts
    versions: Mapping[str, str]
    """Of the libraries that a result depends on."""
    overwrote: bool = False
    """Whether it began by deleting what was there."""
    other: Mapping[str, Any] = field(default_factory=dict)
    """What a ledger holds besides, written by another version."""

    def to_json(self) -> dict[str, Any]:
        """Plain values, for a ledger."""
        return {
            "computation": self.computation,
            "networks": [network.to_json() for network in self.networks],
            "copied": None if self.copied is None else self.copied.to_json(),
            "destination": self.destination.to_json(),
            "versions": dict(self.versions),
            "overwrote": self.overwrote,
            **self.other,
        }

    @classmethod
    def from_json(cls, said: Mapping[str, Any]) -> Self:
        """The header that a ledger holds."""
        known, other = split(cls, said)
        return cls(
            **{
                **known,
                "networks": tuple(map(NetworkFacts.from_json, said["networks"])),
                "copied": None if said["copied"] is None else SourceFacts.from_json(said["copied"]),
                "destination": OutputFacts.from_json(said["destination"]),
                "other": other,
            }
        )

    @classmethod
    def of(cls, ledger: Ledger) -> Self | None:
        """The header of a ledger; None where no run of `save` began there."""
        said = ledger.header()
        if said is None or "destination" not in said:
            return None
        try:
            return cls.from_json(said)
        except (KeyError, TypeError) as error:
            url = ledger.files.url
            raise DestinationError(
                f"The ledger of {url} is not of this version: {error}.",
                "Another version of chunkinfer wrote it, or somebody edited it.",
                ["start anew: save(array, url, overwrite=True)", f"delete the output: chunkinfer.delete({url!r})"],
            ) from error

    def fingerprint(self) -> dict[str, Any]:
        """Plain values that decide whether one run may go on where another ended."""
        return {
            "computation": self.computation,
            "networks": [network.fingerprint() for network in self.networks],
            "destination": self.destination.fingerprint(),
            **self.other,
        }


@dataclass(frozen=True)
class PassHeader:
    """What a pass over a volume is: equal fingerprints give equal tables."""

    made: Mapping[str, Any]
    """What its tables depend on, as JSON."""
    versions: Mapping[str, str]
    """Of the libraries that a result depends on."""

    def to_json(self) -> dict[str, Any]:
        """Plain values, for a ledger."""
        return {**self.made, "versions": dict(self.versions)}

    @classmethod
    def of(cls, ledger: Ledger) -> Self | None:
        """The header of a ledger; None where nothing began there."""
        said = ledger.header()
        if said is None:
            return None
        return cls({k: v for k, v in said.items() if k != "versions"}, said.get("versions", {}))

    def fingerprint(self) -> Mapping[str, Any]:
        """Plain values that decide whether one pass may go on where another ended."""
        return self.made


def differences(stored: Mapping[str, Any], asked: Mapping[str, Any]) -> list[str]:
    """Differences between two fingerprints, a line each."""
    theirs, ours = (_flat(json.loads(json.dumps(each, default=str))) for each in (stored, asked))
    names = [name for name in sorted(theirs.keys() | ours.keys()) if theirs.get(name) != ours.get(name)]
    for follows in FOLLOWING:
        others = [name for name in names if follows not in name.split(".")]
        names = others or names
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
