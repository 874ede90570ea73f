"""Tokens that stay when code moves."""

from __future__ import annotations

import sys
from functools import partial
from types import ModuleType
from typing import Any

import pytest
from dask.base import tokenize

CODE = """
from dataclasses import dataclass
from typing import Any

@dataclass(frozen=True)
class Step:
    function: Any
    size: int = 3

def clipped(block, low):
    return block
"""


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes a module of the same code under a name, and keeps the tokens of another name there if asked."""

    def made(name: str, first: str | None = None) -> ModuleType:
        found = ModuleType(name)
        monkeypatch.setitem(sys.modules, name, found)
        keep = (
            ""
            if first is None
            else f"\nfrom chunkinfer.support.tokens import keep_tokens\nkeep_tokens(globals(), {first!r})"
        )
        exec(CODE + keep, found.__dict__)
        return found

    return made


def steps(module: Any) -> list[Any]:
    return [module.clipped, module.Step(module.clipped), module.Step(partial(module.clipped, low=1), 5)]


def test_code_that_moved_has_the_tokens_it_had(module: Any) -> None:
    there, moved, elsewhere = module("first_home"), module("new_home", "first_home"), module("other_home")
    tokens = [[tokenize(step) for step in steps(each)] for each in (there, moved, elsewhere)]
    assert tokens[0] == tokens[1]
    assert not set(tokens[0]) & set(tokens[2]), "without it a token names the module"
    assert len(set(tokens[1])) == 3
