"""The program that a network is at one size: its operators in order, with every argument that must not change with it.

A network is free to look at the size of what it is given, and then it is another network for the patch than for the
volume. What it reads does not tell (a map scaled by the number of voxels reads the same), but its program does.
"""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from chunkinfer.networks.trace import shortcuts

_SIZES = frozenset([
    "size", "shape", "sizes", "sym_size", "output_size", "input_size", "input_sizes", "target_size", "start", "end",
    "length", "split_size", "split_sizes", "steps", "normalized_shape", "repeats", "storage_offset", "sections",
])  # fmt: skip
"""Whole numbers that follow from the size of the input by their nature; what they do is seen by what is read."""

_UNSEEN = frozenset(["view", "_unsafe_view", "_reshape_alias", "clone", "alias", "detach", "expand", "lift_fresh"])
"""Operators that move no value: whether a reshape copies follows from sizes, too."""

_STRIDED = frozenset(["as_strided", "as_strided_", "new_empty_strided", "empty_strided", "_reshape_alias"])
"""Operators whose strides are those of memory."""

Instruction = tuple[str, tuple[Any, ...]]
"""Name of an operator, and its arguments that are no tensors and no sizes."""


@dataclass(frozen=True)
class Program:
    """Operators in the order in which a network called them."""

    instructions: tuple[Instruction, ...]

    def first_difference(self, other: Program) -> int | None:
        """Index of the first instruction that another program does not share; None if they are the same."""
        ours, theirs = self.instructions, other.instructions
        for k, (one, two) in enumerate(zip(ours, theirs, strict=False)):
            if one != two:
                return k
        return None if len(ours) == len(theirs) else min(len(ours), len(theirs))


class Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes the instructions of a network that runs under it, which it leaves as they are.

    Parameters
    ----------
    look_at
        Number of an instruction whose place in the source code is wanted.
    """

    def __init__(self, look_at: int | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.look_at = look_at
        self.line = ""
        """File, line and code that called the instruction asked for; empty where there is no source."""
        self._instructions: list[Instruction] = []

    @property
    def program(self) -> Program:
        """What was noted so far."""
        return Program(tuple(self._instructions))

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func.namespace != "profiler" and func.overloadpacket.__name__ not in _UNSEEN:
            if len(self._instructions) == self.look_at and not self.line:
                self.line = _calling_line()
            self._instructions.extend(_instructions(func, _kept(func, args, kwargs)))
        return shortcuts.run(func, args, kwargs)


@cache
def _fixed(func: Any) -> tuple[tuple[int, str], ...]:
    """Places and names of an operator's arguments that are part of the program."""
    left_out = _SIZES | {"stride"} if func.overloadpacket.__name__ in _STRIDED else _SIZES
    return tuple((i, a.name) for i, a in enumerate(func._schema.arguments) if a.name not in left_out)


def _kept(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
    """The arguments of a call that are part of the program."""
    kept: list[Any] = []
    for i, name in _fixed(func):
        value = args[i] if i < len(args) else kwargs.get(name)
        if isinstance(value, torch.Tensor):
            # A number that the network made of a size: on the meta device only its place in the program is known.
            if value.ndim == 0 and not value.is_meta:
                kept.append(value.item())
        elif not isinstance(value, list | tuple):
            kept.append(value)
        elif not any(isinstance(v, torch.Tensor) for v in value):
            kept.append(tuple(value))
    return tuple(kept)


def _instructions(func: Any, kept: tuple[Any, ...]) -> list[Instruction]:
    """A call as instructions: whether torch adds a bias inside a product of matrices, and in place, follows from sizes,
    too."""
    name = func.overloadpacket.__name__.rstrip("_")
    if name in ("addmm", "baddbmm") and set(kept) == {None}:
        return [("mm", ()), ("add", (None,))]
    return [("mm" if name == "bmm" else name, kept)]


def _calling_line() -> str:
    """The line of the network's own source that is running, as ``file:line in function: code``."""
    ours, torchs = str(Path(__file__).parents[2]), str(Path(torch.__file__).parent)
    for frame in reversed(traceback.extract_stack()):
        if frame.filename == __file__ or frame.filename.startswith(torchs):
            continue
        if frame.filename.startswith(ours) or frame.filename == "<string>":
            return ""  # what called the network: it has no source of its own, as exported programs have none
        return f"{Path(frame.filename).name}:{frame.lineno} in {frame.name}: {(frame.line or '').strip()}"
    return ""
