"""A step of a pipeline: a command and its plain parameters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Step:
    """One step."""

    command: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """Numbers, texts, lists and tables, as YAML knows them."""
    name: str | None = None
    """What later steps call its result: ``--as``."""
    source: str | None = None
    """The earlier step whose result it works on: ``--from``; by default the one before."""
