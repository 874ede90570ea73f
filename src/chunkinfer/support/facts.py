"""Facts of a run that one part tells another: frozen values, and the JSON in which ledgers hold them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Self


@dataclass(frozen=True)
class SourceFacts:
    """A volume that was read, as far as it can be named."""

    url: str | None
    digest: str | None = None
    """Digest of the metadata, where it is stored."""
    version: Any = None
    """What the store says of its last change."""
    start: tuple[int, ...] | None = None
    """First stored voxel of the part that was read; None for all of it."""
    shape: tuple[int, ...] | None = None
    """Shape of that part."""
    array: str | None = None
    """Name of the lazy array, where it is in no store. dask makes it of all that the array is computed from; of objects
    that dask cannot look into, the name is another one in each process."""

    def to_json(self) -> dict[str, Any]:
        """Plain values, for a ledger."""
        if self.array is not None:
            return {"array": self.array, "url": self.url}
        part = {} if self.start is None or self.shape is None else {"start": [*self.start], "shape": [*self.shape]}
        return {"url": self.url, "digest": self.digest, "version": self.version, **part}

    @classmethod
    def from_json(cls, said: Mapping[str, Any]) -> Self:
        """The facts that a ledger holds."""
        facts: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in said.items()}
        return cls(**facts)

    def fingerprint(self) -> dict[str, Any]:
        """Plain values in which two inputs of a network differ; the name of the result follows from ``array``."""
        said = self.to_json()
        said.pop("array", None)
        return said

    def identity(self) -> dict[str, Any]:
        """Plain values in which any two volumes differ, for a table that is computed from them."""
        return {("computed" if name == "array" else name): value for name, value in self.to_json().items()}


@dataclass(frozen=True)
class ModelFacts:
    """A network, as a ledger names it."""

    name: str
    digest: str
    version: str | None = None
    """The version that its owner gave it."""
    output: str | int | None = None
    """Which of several outputs is taken."""

    def to_json(self) -> dict[str, Any]:
        """Plain values, for a ledger."""
        given = {"version": self.version, "output": self.output}
        return {"name": self.name, "digest": self.digest, **{k: v for k, v in given.items() if v is not None}}


@dataclass(frozen=True)
class NetworkFacts:
    """A network's part in a computation."""

    source: SourceFacts
    """Its input."""
    model: ModelFacts
    settings: Mapping[str, Any]
    """What fixes bits and blocks, as `Plan.settings` gives it."""
    axes: tuple[str, ...]
    """Names of the spatial axes, in order."""
    verdict: str
    """What kind of equality with the network on the whole volume the result has, in words."""
    programs: tuple[str, ...] | None = None
    """Digests of what the network calls at the patches of the run; None where they are not known."""
    zone: tuple[int, ...] | None = None
    """Output voxels of a patch's clean zone; None where patches are blended."""
    doubt: str | None = None
    """Why another network may have this digest; None where that cannot be."""
    model_file: str | None = None
    """Path or URL of the network's file, if it came from one."""
    planned: Mapping[str, int] = field(default_factory=dict)
    """Voxels of a chunk of the output, by axis, that the plan counted on."""
    asked: tuple[str, ...] = ()
    """Settings that the caller gave; the others may be adopted from an earlier run."""
    plan: str = ""
    """The plan, as text."""
    precision_check: str | None = None
    """What reduced precision changes, in words."""
    slots: int = 1
    """Blocks in flight in one process."""
    array: str = ""
    """Name of the lazy array that the network makes."""
    other: Mapping[str, Any] = field(default_factory=dict)
    """What a ledger holds besides, written by another version."""

    def to_json(self) -> dict[str, Any]:
        """Plain values, for a ledger."""
        return {**plain(self), "source": self.source.to_json(), "model": self.model.to_json(), **self.other}

    @classmethod
    def from_json(cls, said: Mapping[str, Any]) -> Self:
        """The facts that a ledger holds."""
        known, other = split(cls, said)
        parts = {"source": SourceFacts.from_json(said["source"]), "model": ModelFacts(**said["model"])}
        return cls(**{**known, **parts, "other": other})

    def fingerprint(self) -> dict[str, Any]:
        """Plain values that decide whether one run may go on where another ended."""
        settings = dict(self.settings)
        if mask := (settings.get("skips") or {}).get("mask"):
            source = SourceFacts.from_json(mask["source"]).fingerprint()
            settings["skips"] = {**settings["skips"], "mask": {**mask, "source": source}}
        return {
            "source": self.source.fingerprint(),
            "model": self.model.to_json(),
            "programs": None if self.programs is None else list(self.programs),
            "settings": settings,
            "zone": None if self.zone is None else list(self.zone),
            "verdict": self.verdict,
            "axes": list(self.axes),
            **self.other,
        }


def plain(facts: Any) -> dict[str, Any]:
    """The fields of a dataclass of facts as JSON takes them, but for ``other``, what another version wrote besides."""
    said = {f.name: getattr(facts, f.name) for f in fields(facts) if f.name != "other"}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in said.items()}


def split(kind: Any, said: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The fields that a dataclass of facts has, lists as tuples; and the rest."""
    names = {f.name for f in fields(kind)} - {"other"}
    known = {name: tuple(v) if isinstance(v, list) else v for name, v in said.items() if name in names}
    return known, {name: value for name, value in said.items() if name not in names}
