"""Names of sections: which files are meant, and which number in their names counts sections or tiles."""

from __future__ import annotations

import glob
import os
import re
from collections import Counter
from dataclasses import dataclass

from chunkinfer.errors import AmbiguousSource, SourceError, SourceNotFound
from chunkinfer.stores import failures
from chunkinfer.stores.ranges import probe, version_of
from chunkinfer.stores.store import kvstore
from chunkinfer.stores.urls import Location
from chunkinfer.volumes.formats.sections.pictures import SUFFIXES

RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
"""Numbers of sections, in a pattern that holds nothing else beside plain text."""

SPECIAL = re.compile(rf"\{{(?P<axis>[zyx])(?::0?(?P<width>\d*)d?)?\}}|{RANGE.pattern}|\*|\?")
"""What a pattern holds beside plain text."""

Cell = tuple[int, int, int]
"""Number of a section, and of a tile in y and x, as named."""


def is_pattern(location: Location) -> bool:
    """Whether a place names sections by a pattern; a file or folder of that very name comes first."""
    found = SPECIAL.search(str(location.kvstore["path"])) is not None
    return found and not (location.path is not None and location.path.exists())


@dataclass(frozen=True)
class Named:
    """Files that are sections, or tiles of them."""

    root: Location
    """The folder that they are in, or below."""
    names: dict[Cell, str]
    """Names below it, in the order of the cells."""
    span: tuple[int, int] | None = None
    """First and last section, where they were stated."""


def find(location: Location) -> Named | None:
    """The files of a pattern, or the pictures in a local folder; None if it holds none.

    Raises
    ------
    SourceNotFound
        No file fits the pattern.
    AmbiguousSource
        The names do not tell which number is the section.
    """
    if is_pattern(location):
        root, pattern = _split(location)
        if (stated := RANGE.search(pattern)) and len(SPECIAL.findall(pattern)) == 1:
            return Named(root, _stated(root, pattern, stated), (int(stated[1]), int(stated[2])))
        return Named(root, _numbered(root, pattern))
    if listed := _pictures_in(location):
        return Named(location, _numbered_by_difference(location, listed))
    return None


def _split(location: Location) -> tuple[Location, str]:
    """The folder above the first part of a path that is not plain text, and the rest."""
    parts = location.kvstore["path"].rstrip("/").split("/")
    plain = next(i for i, part in enumerate(parts) if SPECIAL.search(part))
    return location.parent(len(parts) - plain), "/".join(parts[plain:])


def _numbered(root: Location, pattern: str) -> dict[Cell, str]:
    """The files that fit a pattern, by their numbers."""
    if not pattern.lower().endswith((*SUFFIXES, "*")):
        raise SourceError(
            f"The pattern {pattern!r} does not say that it names pictures.",
            f"Sections are files that end in {', '.join(SUFFIXES)}.",
            ["end the pattern with the suffix of the pictures, such as *.png", f"or give the folder: {root.url}"],
        )
    expression, fields = _expression(pattern)
    listed = [(name, match) for name in _listed(root, pattern) if (match := re.fullmatch(expression, name))]
    listed = [(name, match) for name, match in listed if name.lower().endswith(SUFFIXES)]
    if not listed:
        raise _none(root, pattern)
    if not fields:
        return _numbered_by_difference(root, [name for name, _ in listed])
    found: dict[Cell, str] = {}
    for name, match in listed:
        numbers = {axis: int(match[group]) for group, axis in fields.items()}
        cell = (numbers.get("z", 0), numbers.get("y", 0), numbers.get("x", 0))
        if cell in found:
            raise _twice(root, found[cell], name)
        found[cell] = name
    return dict(sorted(found.items()))


def _stated(root: Location, pattern: str, stated: re.Match[str]) -> dict[Cell, str]:
    """The files of a range that are there, each of which is asked for: no store need list."""
    width = len(stated[1])
    every = {n: f"{pattern[: stated.start()]}{n:0{width}d}{pattern[stated.end() :]}"
             for n in range(int(stated[1]), int(stated[2]) + 1)}  # fmt: skip
    store = kvstore(root.kvstore)
    try:
        probes = {n: probe(store, name) for n, name in every.items()}
        found: dict[Cell, str] = {(n, 0, 0): every[n] for n, p in probes.items() if version_of(p) is not None}
    except failures.FAILURES as error:
        raise failures.unreadable(root.url, error) from error
    if not found:
        raise _none(root, pattern)
    return found


def _none(root: Location, pattern: str) -> SourceNotFound:
    return SourceNotFound(
        f"No file below {root.url} fits {pattern!r}.",
        "The names are other ones, or the folder is.",
        ["list the folder and compare", "{z} stands for any number, * for any text"],
    )


def _expression(pattern: str) -> tuple[str, dict[int, str]]:
    """A regular expression for a pattern, and the axes of its groups."""
    text, at = "", 0
    fields: dict[int, str] = {}
    for part in SPECIAL.finditer(pattern):
        text += re.escape(pattern[at : part.start()])
        at = part.end()
        if part["axis"]:
            fields[len(fields) + 1] = part["axis"]
            text += rf"(\d{{{max(1, int(part['width'] or 1))},}})"
        else:
            text += "[^/]" if part[0] == "?" else "[^/]*"
    return text + re.escape(pattern[at:]), fields


def _listed(root: Location, pattern: str) -> list[str]:
    """Names below a folder that may fit a pattern; nothing outside of it."""
    if root.path is not None:
        stars = SPECIAL.sub(lambda part: part[0] if part[0] in "*?" else "*", pattern.replace("[", "[[]"))
        return glob.glob(stars, root_dir=root.path)
    try:
        return [key.decode() for key in kvstore(root.kvstore).list().result()]
    except failures.FAILURES as error:
        if root.kvstore["driver"] != "http":
            raise failures.unreadable(root.url, error, "listed") from error
        raise SourceError(
            f"{root.url} cannot be listed: http has no word for it.",
            "So it is not known how many sections there are.",
            [
                "state the first and the last number, as they are written: {00000..00249} in place of {z} or *",
                "or copy the files to a folder or a bucket",
            ],
        ) from error


def _pictures_in(location: Location) -> list[str]:
    """Names of the pictures in a local folder, all of one kind."""
    assert location.path is not None
    with os.scandir(location.path) as entries:
        names = [e.name for e in entries if e.name.lower().endswith(SUFFIXES) and not e.name.startswith(".")]
    kinds = Counter(name[name.rindex(".") :] for name in names)
    if len(kinds) > 1:
        listed = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
        raise AmbiguousSource(
            f"{location.url} holds pictures of several kinds: {listed}.",
            "Which of them are the sections cannot be guessed.",
            [f"open_volume({f'{location.url}/*{kind}'!r})" for kind in sorted(kinds)[:2]],
        )
    return names


def _numbered_by_difference(root: Location, names: list[str]) -> dict[Cell, str]:
    """Names by the one number in which they differ."""
    split = {name: re.split(r"(\d+)", name) for name in sorted(names)}
    texts = {tuple(parts[::2]) for parts in split.values()}
    numbers = [{int(n) for n in field} for field in zip(*(parts[1::2] for parts in split.values()), strict=False)]
    varying = [i for i, found in enumerate(numbers) if len(found) > 1]
    if len(texts) > 1 or len(varying) > 1 or (not varying and len(names) > 1):
        some = list(split)
        raise AmbiguousSource(
            f"The names of the files in {root.url} do not tell which number is the section: "
            f"{some[0]} and {some[-1]} are two of {len(some)}.",
            "They differ in more than one number, or in their text.",
            [
                *(f"open_volume({f'{root.url}/{pattern}'!r})" for pattern in _patterns(list(split.values()))),
                "say which number it is: {z} in its place, {y} and {x} for tiles, and * for other text",
                "or rename the files",
            ][:2],
        )
    field = varying[0] if varying else len(numbers) - 1
    found: dict[Cell, str] = {}
    for name, parts in split.items():
        cell = (int(parts[1::2][field]) if numbers else 0, 0, 0)
        if cell in found:
            raise _twice(root, found[cell], name)
        found[cell] = name
    return dict(sorted(found.items()))


def _patterns(names: list[list[str]]) -> list[str]:
    """Up to two patterns that choose sections: of all files by one number, or of those with one text.

    Parameters
    ----------
    names
        Split into text and numbers, in turn.
    """
    made: dict[str, None] = {}
    for text in dict.fromkeys(tuple(parts[::2]) for parts in names):
        group = [parts for parts in names if tuple(parts[::2]) == text]
        written = [list(field) for field in zip(*(parts[1::2] for parts in group), strict=True)]
        for at, field in enumerate(written):
            numbers = {int(n) for n in field}
            if len(numbers) < max(2, len(group)) or max(numbers) - min(numbers) >= len(numbers):
                continue  # several files have one number, or some are missing
            parts = list(group[0])
            for other, texts in enumerate(written):
                if len(set(texts)) > 1:
                    parts[2 * other + 1] = "{z}" if other == at else "*"
            made["".join(parts)] = None
    return list(made)[:2]


def _twice(root: Location, one: str, other: str) -> AmbiguousSource:
    return AmbiguousSource(
        f"{one} and {other} in {root.url} have the same number.",
        "Only one of them can be that section.",
        ["remove one of them, or choose by a pattern such as em_{z:05d}.png", "{z:05d} takes numbers of five digits"],
    )
