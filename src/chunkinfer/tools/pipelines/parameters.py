"""One parameter of a command: what words it takes, and what they mean.

Values are plain: numbers, texts, lists and tables, as YAML knows them. They become Python's just before the call::

    words              plain                                   Python
    1 99               [1, 99]                                 (1, 99)
    z=0:100,y=10:      {"z": [0, 100], "y": [10, None]}        {"z": slice(0, 100), "y": slice(10, None)}
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

VOLUMES = frozenset(("other", "mask", "labels"))
"""Parameters that are a second volume: its URL, the name of an earlier step, or a number."""
TEXTS = ("url", "model", "function")
"""Parameters that are texts, whatever else Python's callers may give for them."""

_SEQUENCES, _TABLES = {"Sequence", "tuple", "list"}, {"Mapping", "dict"}
_KNOWN = {"int", "float", "bool", "str", "DTypeLike", "None", *_SEQUENCES, *_TABLES}
_NUMBER = re.compile(r"[+-]?((\d+\.?\d*|\.\d+)(e[+-]?\d+)?|inf|nan)", re.IGNORECASE)
_SPAN = re.compile(rf"(?P<start>{_NUMBER.pattern})?:(?P<stop>{_NUMBER.pattern})?", re.IGNORECASE)


@dataclass(frozen=True)
class Parameter:
    """A parameter of a function, as a command line sees it."""

    name: str
    annotation: str
    required: bool
    argument: bool
    """Given by its place; all others are options."""
    default: Any = None
    help: str = ""

    @classmethod
    def of(cls, parameter: inspect.Parameter, help: str) -> Parameter:
        """What a signature says."""
        required = parameter.default is parameter.empty
        annotation = parameter.annotation
        if annotation is parameter.empty:
            annotation = "bool" if isinstance(parameter.default, bool) else "Any"
        elif not isinstance(annotation, str):
            annotation = inspect.formatannotation(annotation)
        argument = required and parameter.kind is not parameter.KEYWORD_ONLY
        return cls(parameter.name, annotation, required, argument, None if required else parameter.default, help)

    @property
    def option(self) -> str:
        """``--voxel-size``."""
        return f"--{self.name.replace('_', '-')}"

    @property
    def kinds(self) -> set[str]:
        """The alternatives of the annotation, without what stands in brackets."""
        text = self.annotation
        while "[" in text:
            text, before = re.sub(r"\[[^\[\]]*\]", "", text), text
            if text == before:
                break
        return set(re.findall(r"\w+", text.replace("typing.", "").replace("collections.abc.", "")))

    @property
    def text(self) -> bool:
        """Whether words are taken as they are."""
        return self.name in TEXTS or self.kinds - {"None"} <= {"str", "DTypeLike"}

    @property
    def flag(self) -> bool:
        """Whether the option stands alone, or may."""
        return "bool" in self.kinds

    @property
    def several(self) -> bool:
        """Whether the option takes as many numbers as follow it."""
        return self.kinds - {"None", "Callable"} <= _SEQUENCES

    @property
    def box(self) -> bool:
        """Whether it holds spans of axes."""
        return "slice" in self.annotation

    def takes(self, words: Sequence[str]) -> int:
        """How many of the words that follow the option belong to it."""
        count = next((i for i, w in enumerate(words) if not _numeric(w)), len(words))
        if self.several and count:
            return count
        if self.flag:
            return min(count, 1) if self.kinds - {"None"} != {"bool"} else 0
        return min(len(words), 1)

    def parse(self, words: Sequence[str]) -> Any:
        """The plain value of words; no words stand for True."""
        if not words:
            return True
        if self.text:
            return words[0]
        if self.name in VOLUMES:
            return _one(words[0]) if _NUMBER.fullmatch(words[0]) else words[0]
        return self.settled([_one(w) for w in words] if len(words) > 1 else _plain(words[0]))

    def settled(self, value: Any) -> Any:
        """A plain value in the one form that all ways of writing it share."""
        if isinstance(value, tuple | list):
            value = _lists(value)
            return [value] if self.box and len(value) == 2 and not any(isinstance(v, list) for v in value) else value
        if self.text and isinstance(value, int | float) and not isinstance(value, bool):
            return str(value)
        return [value] if self.several and not isinstance(value, Mapping) else _lists(value)

    def fits(self, value: Any) -> bool:
        """Whether a plain value is of a kind that the function takes."""
        kinds = self.kinds
        if self.text:
            return isinstance(value, str)
        if self.name in VOLUMES:
            return isinstance(value, str | int | float) and not isinstance(value, bool)
        if not kinds <= _KNOWN:
            return True
        if isinstance(value, bool):
            return "bool" in kinds
        if isinstance(value, int | float):
            return "float" in kinds or (isinstance(value, int) and "int" in kinds)
        if isinstance(value, str):
            return bool({"str", "DTypeLike"} & kinds)
        numbers = not {"str", "Any"} & set(re.findall(r"\w+", re.sub(r"(Mapping|dict)\[str", "", self.annotation)))
        if isinstance(value, list):
            return bool(_SEQUENCES & kinds) and not (numbers and _texts(value))
        return isinstance(value, Mapping) and bool(_TABLES & kinds) and not (numbers and _texts(list(value.values())))

    def python(self, value: Any) -> Any:
        """What the function is called with."""
        if isinstance(value, Mapping):
            return {k: self.python(v) if not self.box else _span(v) for k, v in value.items()}
        if isinstance(value, list):
            return tuple(_span(v) for v in value) if self.box else tuple(map(self.python, value))
        return value

    def words(self, value: Any) -> list[str]:
        """The words that `parse` takes for a plain value, without the option's name."""
        if self.several and isinstance(value, list) and not any(isinstance(v, list) for v in value):
            return [_word(v) for v in value]
        return [_word(value)]


def _numeric(word: str) -> bool:
    return all(_NUMBER.fullmatch(part) for part in word.split(","))


def _plain(word: str) -> Any:
    parts = word.split(",")
    if all(re.match(r"\w+=", part) for part in parts):
        return {k: _one(v) for k, _, v in (part.partition("=") for part in parts)}
    return _one(word) if len(parts) == 1 else [_one(part) for part in parts]


def _one(word: str) -> Any:
    if word.lower() in ("true", "false"):
        return word.lower() == "true"
    if _NUMBER.fullmatch(word):
        return int(word) if re.fullmatch(r"[+-]?\d+", word) else float(word)
    if found := _SPAN.fullmatch(word):
        return [_one(end) if end else None for end in (found["start"], found["stop"])]
    return word


def _word(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        return ",".join(f"{k}={_part(v)}" for k, v in value.items())
    return ",".join(map(_part, value)) if isinstance(value, list) else str(value)


def _part(value: Any) -> str:
    """Of a list or a table: a span as ``a:b``."""
    if isinstance(value, list):
        return ":".join("" if v is None else str(v) for v in value)
    return _word(value)


def _lists(value: Any) -> Any:
    """Tuples as lists, at any depth."""
    if isinstance(value, Mapping):
        return {k: _lists(v) for k, v in value.items()}
    return [_lists(v) for v in value] if isinstance(value, tuple | list) else value


def _span(value: Any) -> Any:
    return slice(*value) if isinstance(value, list) and len(value) == 2 else value


def _texts(values: list[Any]) -> bool:
    return any(_texts(v) if isinstance(v, list) else isinstance(v, str | bool | Mapping) for v in values)
