"""Stores and files whose metadata was changed at random: what is read of them here, and by their own libraries.

A `Format` says how one is written, how its metadata is changed, and who else reads it. `tried` changes one::

    equal      shape, axes, voxel size, unit, position and values are what the format's own library says
    refused    by an error of this library
    different  anything else: another value or place, an error of somebody else, or nobody else reads it at all
"""

from __future__ import annotations

import json
import math
import random
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from chunkinfer.errors import ChunkinferError
from chunkinfer.volumes.arrays.open import open_source

Array = np.ndarray[Any, Any]

EDGE = 12
"""Voxels of an axis that are compared: a changed shape may be larger than any memory."""

METRES = {
    "pm": 1e-12, "angstrom": 1e-10, "nm": 1e-9, "um": 1e-6, "mm": 1e-3, "cm": 1e-2, "dm": 0.1, "m": 1.0, "km": 1e3,
    "inch": 0.0254, "foot": 0.3048, "yard": 0.9144, "mile": 1609.344,
    "picometer": 1e-12, "nanometer": 1e-9, "micrometer": 1e-6, "millimeter": 1e-3, "centimeter": 1e-2,
    "meter": 1.0, "kilometer": 1e3, "parsec": 3.0856775814913673e16, "yottameter": 1e24,
}  # fmt: skip
"""Names of units that are drawn -> metres, written by hand."""


@dataclass(frozen=True)
class Asked:
    """How a store is opened."""

    level: int = 0
    missing: str = "error"
    """What an absent chunk is, as for `open_source`."""


@dataclass(frozen=True)
class Seen:
    """What a reader says of a store."""

    dims: tuple[str, ...]
    """Axes in numpy order."""
    shape: tuple[int, ...]
    voxel_size: Mapping[str, float]
    """Per spatial axis, in its unit; 1 where it is not known."""
    units: Mapping[str, str]
    """Per spatial axis; '' where it is not known."""
    offset: Mapping[str, float]
    """Of the first voxel's lower corner per spatial axis, in voxels."""
    values: Array
    """The first voxels along each axis, at most `EDGE`."""

    def differences(self, other: Seen) -> list[str]:
        """What another reader says otherwise."""
        found = [
            f"{name} {mine} and {theirs}"
            for name in ("dims", "shape")
            if (mine := getattr(self, name)) != (theirs := getattr(other, name))
        ]
        if found:
            return found
        for dim, size in self.voxel_size.items():
            mine, theirs = _length(size, self.units[dim]), _length(other.voxel_size[dim], other.units[dim])
            if (other.voxel_size[dim], other.units[dim]) == (1, ""):
                mine = (size, "")  # not known, which is 1 in any unit
            if mine[1] != theirs[1] or not math.isclose(mine[0], theirs[0], rel_tol=1e-6):
                found.append(f"voxel size along {dim} {mine} and {theirs}")
            if not math.isclose(self.offset[dim], other.offset[dim], rel_tol=1e-6, abs_tol=1e-3):
                found.append(f"offset along {dim} {self.offset[dim]} and {other.offset[dim]}")
        same = np.array_equal(self.values, other.values, equal_nan=self.values.dtype.kind == "f")
        return found + ([] if same else ["values"])


def _length(size: float, unit: str) -> tuple[float, str]:
    """In metres where the unit is a length that is known; otherwise in its own unit."""
    return (size * METRES[unit], "m") if unit in METRES else (size, unit)


def corner(shape: Sequence[int]) -> tuple[slice, ...]:
    """The box that is compared."""
    return tuple(slice(0, min(n, EDGE)) for n in shape)


def here(place: str | Path, asked: Asked) -> Seen:
    """What this library reads."""
    source = open_source(place, level=asked.level, missing=asked.missing)
    space = tuple(source.voxel_size)
    values = source[corner(source.shape)]
    return Seen(
        source.dims, source.shape, source.voxel_size, dict.fromkeys(space, source.unit), source.offset, values
    )  # fmt: skip


Reader = Callable[[Path, Asked], Seen]


@dataclass(frozen=True)
class Format:
    """A kind of store or file."""

    name: str
    write: Callable[[Path], None]
    """Write one below a folder."""
    change: Callable[[Path, random.Random], str]
    """Change what was written, and say what."""
    readers: Sequence[Reader]
    """Who reads it: the first one that does not refuse it is right."""
    inside: str = ""
    """Where it lies below the folder."""
    levels: int = 1


@dataclass(frozen=True)
class Outcome:
    """What became of one changed store."""

    verdict: str
    """"equal", "refused" or "different"."""
    change: str
    detail: str = ""


@dataclass
class Tried:
    """How often which verdict was found, and the changes that made a difference."""

    counts: dict[str, int] = field(default_factory=lambda: {"equal": 0, "refused": 0, "different": 0})
    differing: list[Outcome] = field(default_factory=list)

    def add(self, outcome: Outcome) -> None:
        self.counts[outcome.verdict] += 1
        if outcome.verdict == "different":
            self.differing.append(outcome)


def tried(format: Format, folder: Path, chance: random.Random) -> Outcome:
    """Write a store, change it and read it.

    Parameters
    ----------
    format
        Which kind.
    folder
        For what is written; the unchanged store is kept in it and copied.
    chance
        What is drawn from.
    """
    original, copy = folder / f"{format.name} as written", folder / "changed"
    if not original.exists():
        format.write(original)
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(original, copy)
    place = copy / format.inside
    change = format.change(place, chance)
    asked = Asked(chance.randrange(format.levels), chance.choice(["error", "fill"]))
    try:
        mine = here(place, asked)
    except ChunkinferError as error:
        return Outcome("refused", change, str(error))
    except Exception as error:
        return Outcome("different", change, f"{type(error).__name__}: {error}")
    refusals = []
    for reader in format.readers:
        try:
            theirs = reader(place, asked)
        except Exception as error:  # libraries raise whatever comes up
            refusals.append(f"{reader.__name__}: {type(error).__name__}: {error}"[:200])
            continue
        found = mine.differences(theirs)
        return Outcome("different" if found else "equal", change, f"{reader.__name__}: {'; '.join(found)}, {asked}")
    return Outcome("different", change, f"nobody else reads it: {refusals}, {asked}")


# Changes of JSON

ODD = (None, True, False, "", "x", "NaN", -1, 0, 1, 2, 2.5, 10**5, 2**63, 1e300, -1e-3, float("nan"), float("inf"), [],
       {}, [1], {"a": 1})  # fmt: skip
"""Values that may stand anywhere."""


def json_changes(*names: str, words: Sequence[Any]) -> Callable[[Path, random.Random], str]:
    """What changes one member, or two, of one of the documents.

    Parameters
    ----------
    names
        Of the documents, below the store.
    words
        Values that the format knows: names of axes, units, versions, types, transformations.
    """

    def change(place: Path, chance: random.Random) -> str:
        path = place / chance.choice(names)
        document = json.loads(path.read_text())
        said = [_changed(document, chance, words) for _ in range(chance.choice([1, 1, 1, 2]))]
        path.write_text(json.dumps(document))
        return f"{path.relative_to(place)}: {', then '.join(said)}"

    return change


def _nodes(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths of everything in a document."""
    items: Sequence[tuple[Any, Any]] = ()
    if isinstance(value, dict):
        items = list(value.items())
    elif isinstance(value, list):
        items = list(enumerate(value))
    return [found for name, part in items for found in ((*path, name), *_nodes(part, (*path, name)))]


def _at(document: Any, path: tuple[Any, ...]) -> Any:
    for name in path:
        document = document[name]
    return document


def _changed(document: Any, chance: random.Random, words: Sequence[Any]) -> str:
    """Change a document in place, and say how."""
    nodes = _nodes(document)
    if not nodes:
        return "nothing left"
    path = chance.choice(nodes)
    parent, name = _at(document, path[:-1]), path[-1]
    where, old = "/".join(map(str, path)), parent[name]
    kind = chance.choice(["delete", "odd", "word", "alike", "alike", "alike", "add", "elsewhere"])
    if kind == "delete":
        del parent[name]
        return f"{where} deleted"
    if kind == "add":
        new, value = chance.choice(("foo", *(w for w in words if isinstance(w, str)))), chance.choice((*ODD, *words))
        target = old if isinstance(old, dict) else parent
        if isinstance(target, dict):
            target[new] = value
            return f"{where}: {new!r} = {value!r} beside or in it"
        target.insert(chance.randrange(len(target) + 1), value)
        return f"{where}: {value!r} put beside it"
    if kind == "odd":
        value = chance.choice(ODD)
    elif kind == "word":
        value = chance.choice(words)
    elif kind == "elsewhere":
        value = json.loads(json.dumps(_at(document, chance.choice(nodes))))
    else:
        value = _alike(old, chance, words)
    parent[name] = value
    return f"{where} = {value!r}, was {old!r}"[:400]


def _alike(old: Any, chance: random.Random, words: Sequence[Any]) -> Any:
    """Another value of the same kind."""
    if isinstance(old, bool) or old is None:
        return chance.choice([True, False, None, 0, 1])
    if isinstance(old, int | float):
        return chance.choice([-old, 0, old * 2, old + 1, old - 1, old / 2, float(old), str(old), old * 1e9, old + 1e-9])
    if isinstance(old, str):
        strings = [word for word in words if isinstance(word, str)]
        return chance.choice([old.upper(), f"{old}s", f" {old}", *chance.choices(strings, k=5)])
    if isinstance(old, list):
        mixed = list(old)
        chance.shuffle(mixed)
        return chance.choice(
            [old[::-1], mixed, mixed, old[:-1], old[1:], [*old, *old[-1:]], [old], dict(enumerate(old))]
        )
    names = list(old)
    chance.shuffle(names)
    return chance.choice([[old], {name: old[name] for name in names[1:]}, dict(zip(names, old.values(), strict=True))])
