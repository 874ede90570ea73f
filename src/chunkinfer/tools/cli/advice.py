"""What errors advise, in the words of the command that was given: ``patch=64`` is ``--patch 64`` in a shell."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Collection, Sequence
from typing import Any

import click

CALL = re.compile(r"(?:chunkinfer\.)?\w+\((?:[^()]|\([^()]*\))*\)")
"""A call, of which arguments may have brackets of their own."""


def options_of(words: Sequence[str], commands: Sequence[click.Command]) -> frozenset[str]:
    """Names of the options that the command takes which the words begin with."""
    named = {command.name: command for command in commands}
    found = next((named[word] for word in words if word in named), None)
    return frozenset(p.name for p in found.params if isinstance(p, click.Option) and p.name) if found else frozenset()


def in_options(way: str, options: Collection[str]) -> str:
    """A way out with options in place of arguments; as it is where a shell has no words for it."""
    if (left := re.match(r"leave (\w+)= out", way)) and left[1] in options:
        return f"leave --{left[1].replace('_', '-')} out{way[left.end() :]}"
    for begun in re.finditer(r"(?:^|: )(?=\w+=)", way):
        start = begun.end()
        for end in (len(way), *(match.start() for match in reversed([*re.finditer(r"[:,;]? ", way)]))):
            if end > start and (line := _written(f"f({way[start:end]})", options)):
                return way[:start] + line + way[end:]
    return CALL.sub(lambda match: _written(match[0], options) or match[0], way)


def _written(call: str, options: Collection[str]) -> str:
    """The keywords of a call as options; empty where one of them is none, or its value cannot be written."""
    try:
        found = ast.parse(call, mode="eval").body
        assert isinstance(found, ast.Call)
        given = {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in found.keywords}
    except (SyntaxError, ValueError, AssertionError):
        return ""
    if not given or not set(given) <= set(options) or not all(isinstance(arg, ast.Name) for arg in found.args):
        return ""
    words = [_option(name, value) for name, value in given.items()]
    return " ".join(words) if all(words) else ""


def _option(name: str, value: Any) -> str:
    option = f"--{name.replace('_', '-')}"
    if value is True:
        return option
    numbers = value if isinstance(value, tuple | list) else (value,)
    if isinstance(value, str):
        return f"{option} {shlex.quote(value)}"
    if isinstance(value, dict):
        return f"{option} {','.join(f'{axis}={voxels}' for axis, voxels in value.items())}"
    if value is False or not all(isinstance(number, int | float) for number in numbers):
        return ""
    return f"{option} {','.join(map(str, numbers))}"
