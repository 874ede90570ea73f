"""A PNG in memory: shown in notebooks, and saved."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Picture:
    """A PNG; a notebook draws it."""

    png: bytes = field(repr=False)
    """The file's content."""
    path: Path | None = None
    """Where it was saved, if anywhere."""

    def save(self, path: str | os.PathLike[str]) -> Picture:
        """Write it to a file; the folder is made."""
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(self.png)
        return Picture(self.png, target)

    def _repr_png_(self) -> bytes:
        return self.png
