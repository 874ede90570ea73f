"""Compiled artefacts in a folder: made once, written under another name and renamed, and checked before they are used.

A file carries the digest of its bytes in its name. What was cut short or damaged is therefore never loaded, which for
machine code would end the process; it is made anew. Processes that start together may leave several, each of them good.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")


def kept(folder: Path, name: str, make: Callable[[Path], None], load: Callable[[Path], T]) -> T:
    """What the folder holds under a name, loaded; made first where it is absent, damaged or cannot be loaded.

    Parameters
    ----------
    folder
        May not exist.
    name
        Such as ``network.onnx``; stored as ``network.<digest>.onnx``.
    make
        Writes the file that it is given the path of.
    load
        Opens it. An error here on a file of an earlier process means that it does not fit this one.
    """
    for path in found(folder, name):
        try:
            return load(path)
        except Exception:  # whatever a library raises for a file of another machine
            path.unlink(missing_ok=True)
    return load(store(folder, name, make))


def found(folder: Path, name: str) -> list[Path]:
    """Undamaged files of a name, in an order that all processes share; damaged ones are removed."""
    stem, suffix = os.path.splitext(name)
    good = []
    for path in sorted(folder.glob(f"{stem}.*{suffix}")):
        if path.name == f"{stem}.{_digest(path)}{suffix}":
            good.append(path)
        else:
            path.unlink(missing_ok=True)
    return good


def store(folder: Path, name: str, make: Callable[[Path], None]) -> Path:
    """Make a file beside its final place, and rename it."""
    stem, suffix = os.path.splitext(name)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".making-") as place:
        made = Path(place) / name
        make(made)
        path = folder / f"{stem}.{_digest(made)}{suffix}"
        made.replace(path)
    return path


def pack(folder: Path, path: Path) -> None:
    """All files of a folder, in one archive."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(p for p in folder.rglob("*") if p.is_file()):
            archive.write(file, file.relative_to(folder))


def unpack(path: Path, folder: Path) -> None:
    """The files of an archive, back in a folder."""
    with zipfile.ZipFile(path) as archive:
        archive.extractall(folder)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
