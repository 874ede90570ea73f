"""A PNG in memory: shown in notebooks, and saved; and what draws it."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from chunkinfer.errors import MissingExtra, VolumeError


def check_name(path: str | os.PathLike[str] | None) -> None:
    """Raise `VolumeError` where a file's name says that it is no PNG."""
    if path is not None and Path(path).suffix.lower() != ".png":
        better = Path(path).with_suffix(".png")
        raise VolumeError(f"{path} does not end in .png.", "Pictures are written as PNG.", [f"call it {better}"])


def require_matplotlib(what: str = "Pictures", extra: str = "view") -> None:
    """Raise `MissingExtra` where nothing can be drawn: asked before the work whose result is to be drawn."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as problem:
        raise MissingExtra.of(what, "matplotlib", extra) from problem


@dataclass(frozen=True)
class Picture:
    """A PNG; a notebook draws it."""

    png: bytes = field(repr=False)
    """The file's content."""
    path: Path | None = None
    """Where it was saved, if anywhere."""

    def save(self, path: str | os.PathLike[str]) -> Picture:
        """Write it to a file; the folder is made."""
        check_name(path)
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(self.png)
        return Picture(self.png, target)

    def _repr_png_(self) -> bytes:
        return self.png
