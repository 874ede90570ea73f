"""Tokens that stay when code moves: ledgers hold names that dask makes of values, and so of where their classes lie."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import partial
from types import FunctionType
from typing import Any

_FIRST: dict[type, str] = {}


def keep_tokens(names: Mapping[str, Any], module: str) -> None:
    """Let dask take a module's functions and dataclasses by the name that the module had first.

    A run that was begun when they lay elsewhere goes on then: its ledger holds the same names.

    Parameters
    ----------
    names
        The module's ``globals()``, at its end.
    module
        The name it had.
    """
    for value in list(names.values()):
        if getattr(value, "__module__", None) != names["__name__"]:
            continue
        if isinstance(value, FunctionType):
            value.__dask_tokenize__ = partial(_by_name, module, value.__qualname__)  # type: ignore[attr-defined]
        elif isinstance(value, type) and is_dataclass(value) and not hasattr(value, "__dask_tokenize__"):
            _FIRST[value] = module
            value.__dask_tokenize__ = _of_fields  # type: ignore[attr-defined]


def _by_name(module: str, name: str) -> tuple[str, list[str]]:
    """As dask normalises a class or function: the digest of its pickle, which holds these two texts."""
    from dask.hashing import hash_buffer_hex

    texts = b"".join(b"\x8c" + bytes([len(text)]) + text.encode() + b"\x94" for text in (module, name))
    frame = texts + b"\x93\x94."
    return hash_buffer_hex(b"\x80\x05\x95" + len(frame).to_bytes(8, "little") + frame), []


def _of_fields(value: Any) -> tuple[Any, ...]:
    """As dask normalises a dataclass."""
    from dask.tokenize import normalize_token

    kind, made = type(value), value.__dataclass_params__
    return (
        _by_name(_FIRST.get(kind, kind.__module__), kind.__qualname__),
        [(name, getattr(made, name)) for name in made.__slots__],
        [(field.name, normalize_token(getattr(value, field.name, None))) for field in fields(value)],
    )
