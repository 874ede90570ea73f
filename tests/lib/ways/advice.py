"""Runs what an error advises, as somebody would who pastes it.

A way out is one of these, with or without a few words and a colon before it:

- ``patch=64`` or ``patch=(64, 64), overlap=8``: the same call, with these arguments
- ``leave patch= out``: the same call, without that one
- a line for a shell that begins with one of ``COMMANDS``, which every system has: it is run
- lines below a first one that ends in a colon, such as a class and how it is used: they are run
- anything else that is Python: it is run, in a namespace where ``volume``, ``model`` and so on are what was given
"""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from textwrap import dedent
from typing import Any

import chunkinfer
from chunkinfer.errors import ChunkinferError

SOURCE = str(Path(chunkinfer.__file__).parent)
LOG = os.environ.get("WAYS_FOLLOWED")
"""Where `benchmarks/ways.py` reads which errors were followed: file and line of each, from the source's folder on."""

COMMANDS = ("gunzip", "bunzip2", "unxz", "tar", "find")

if LOG:
    made = ChunkinferError.__init__

    def noted(self: ChunkinferError, *args: Any, **kwargs: Any) -> None:
        """An error that knows the line which made it; a copy from another process keeps what it was told."""
        made(self, *args, **kwargs)
        frame = sys._getframe(1)
        while frame.f_back and frame.f_code.co_filename.endswith("errors.py"):
            frame = frame.f_back
        if (file := frame.f_code.co_filename).startswith(SOURCE):
            self.place = f"{Path(file).relative_to(SOURCE)} {frame.f_lineno}"  # type: ignore[attr-defined]

    ChunkinferError.__init__ = noted  # type: ignore[method-assign]


def followed(
    error: ChunkinferError, call: Callable[..., Any], given: Mapping[str, Any], names: Mapping[str, Any]
) -> Iterator[tuple[str, Any]]:
    """Each way out that is a line, and what following it gave. Ways in words alone are left out.

    Parameters
    ----------
    error
        What was raised.
    call, given
        The call that raised it, with its keyword arguments.
    names
        What else the lines may name.
    """
    if LOG and (place := getattr(error, "place", None)):
        with Path(LOG).open("a") as log:
            log.write(f"{place}\n")
    for way in error.ways:
        if left := re.match(r"leave (\w+)= out", way):
            yield way, call(**{k: v for k, v in given.items() if k != left[1]})
            continue
        if shell := re.search(rf"^(?:.*: )?((?:{'|'.join(COMMANDS)}) .*)", way):
            subprocess.run(shell[1], shell=True, check=True, stderr=subprocess.DEVNULL)
            yield way, None
            continue
        for line in _lines(way):
            scope = dict(names)
            if (arguments := _arguments(line, scope)) is not None:
                yield way, call(**{**given, **arguments})
                break
            if (found := _value(line, scope)) is not None:
                yield way, found[0]
                break


def _lines(way: str) -> Iterator[str]:
    """The text, and what follows each colon or "or" in it: the longest first, and shorter ones without their end."""
    first, _, below = way.partition(":\n")
    if below and "\n" not in first and "..." not in below:
        yield dedent(below)
        return
    starts = [0, *(m.end() for m in re.finditer(r": |, or |^or |^take |^then ", way))]
    for start in starts:
        words = way[start:]
        ends = [len(words), *(m.start() for m in reversed([*re.finditer(r"[:,;]? ", words)]))]
        for end in ends:
            if re.search(r"[=(\[.]", words[:end]) and "..." not in words[:end]:
                yield words[:end]


def _arguments(line: str, scope: dict[str, Any]) -> dict[str, Any] | None:
    """What ``a=1, b=2`` says."""
    try:
        call = ast.parse(f"f({line})", mode="eval").body
    except SyntaxError:
        return None
    if not isinstance(call, ast.Call) or call.args or not call.keywords or any(k.arg is None for k in call.keywords):
        return None
    return {str(k.arg): eval(ast.unparse(k.value), scope) for k in call.keywords}


def _value(line: str, scope: dict[str, Any]) -> tuple[Any] | None:
    """What the statements of a line give: the last one's value."""
    try:
        body = ast.parse(line).body
    except SyntaxError:
        return None
    if not body or all(isinstance(part, ast.Expr) and isinstance(part.value, ast.Name | ast.Constant) for part in body):
        return None
    *before, last = body
    for part in before:
        exec(ast.unparse(part), scope)
    if isinstance(last, ast.Expr):
        return (eval(ast.unparse(last), scope),)
    exec(ast.unparse(last), scope)
    return (scope,)
