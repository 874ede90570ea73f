"""Which of a network's outputs counts: one rule for modules, files and functions, when they are traced and when run.

A dict, tuple, list, namedtuple or dataclass with one tensor in it stands for that tensor; of several, none is taken
unless it was chosen. What has no axis beside the batch's (a loss, a score) is no output.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from numbers import Integral
from typing import Any

import numpy as np

from chunkinfer.errors import AmbiguousOutput, ModelError

Named = Sequence[tuple[str, Any]]
"""Tensors or arrays with their names: keys, fields, or places in a tuple or list; with dots where they are nested, and
empty for the only one that is returned as it is."""

Shape = tuple[int | None, ...]
"""A shape that a file states, with None for free axes."""


@dataclass(frozen=True)
class Pick:
    """Which output of a network counts, and how the network is called in errors."""

    output: str | None = None
    """Name, or number as text; None for the only one."""
    network: str = "The network"
    of_arrays: bool = False
    """Whether it is a function of arrays or a file, not a module."""

    def __call__(self, value: Any) -> Any:
        """The tensor or array that counts, of what a network returned.

        Raises
        ------
        AmbiguousOutput
            There are several, and none was chosen.
        ModelError
            There is none, or none of the chosen name.
        """
        found = named_outputs(value)
        if not found:
            raise ModelError(
                f"{self.network} returned no tensor but {type(value).__name__}.",
                "It returns something else than its result, or keeps it in an object of its own.",
                [f"return {'the array' if self.of_arrays else 'the tensor'} itself", *self._unpacked(value)],
            )
        one = found[self.index([name for name, _ in found], [tuple(one.shape) for _, one in found])][1]
        if not _is_real(one.dtype):
            raise ModelError(
                f"{self.network} gives values of the type {one.dtype}.",
                "A result is stored as real numbers, and nothing says what these are as such.",
                ["return one part, or both as channels", self._changed(("numpy.abs({})", "{}.abs()"))],
            )
        return one

    def _unpacked(self, value: Any) -> list[str]:
        """The way out of a network that returns an object which holds its result."""
        held = getattr(value, "__dict__", {})
        name = next((k for k, v in held.items() if can_be_map(getattr(v, "shape", ()))), None)
        return [] if name is None else [self._changed((f"{{}}.{name}",) * 2)]

    def _changed(self, calls: tuple[str, str]) -> str:
        """The network with something done to its result: as a function of arrays, and as a module."""
        if self.of_arrays:
            return f"infer(volume, lambda x: {calls[0].format('model(x)')})"
        return wrapper(calls[1].format("self.model(x)"))

    def index(self, names: Sequence[str], shapes: Sequence[tuple[Any, ...]]) -> int:
        """The place of the output that counts, among all of a network.

        Raises
        ------
        AmbiguousOutput, ModelError
            As for a call.
        """
        listed = ", ".join(
            f"{_called(n, i)} {shape_text(s)}" for i, (n, s) in enumerate(zip(names, shapes, strict=True))
        )
        if self.output is None:
            if len(names) == 1:
                return 0
            heads = names[0].isdigit() and _are_heads(shapes)
            maps = [i for i, shape in enumerate(shapes) if len(shape) == max(map(len, shapes))]
            first = max(maps, key=lambda i: prod(shapes[i])) if heads else maps[-1]
            raise AmbiguousOutput(
                f"{self.network} gives {len(names)} outputs, and nothing says which of them is meant: {listed}.",
                "They are heads of deep supervision, the same answer at several resolutions; the largest is the result."
                if heads
                else "A result holds one of them, and the others would be lost.",
                [
                    f"choose: infer(volume, model, output={_argument(names[first])})",
                    "store each: for name in "
                    f"({', '.join(map(_argument, names))}): save(infer(volume, model, output=name), f'{{name}}.zarr')",
                ],
            )
        if self.output in names:
            return list(names).index(self.output)
        places = not any(name.isdigit() for name in names)  # where names are numbers, there are no others
        if places and self.output.isdigit() and int(self.output) < len(names):
            return int(self.output)
        raise ModelError(
            f"{self.network} gives no output {self.output!r}: it gives {listed}.",
            "An output is named by its key, its field or its place.",
            [f"infer(volume, model, output={_argument(names[0] or '0')})"]
            + ["leave output= out: there is only one"] * (len(names) == 1),
        )


ONLY = Pick()
"""For networks with one output, in functions that know no name."""


def chosen(output: object) -> str | None:
    """The one form of ``output=``: a name, or a number as text; None for the only one.

    Raises
    ------
    ModelError
        It is neither a name nor a number.
    """
    if output is None or (isinstance(output, str) and output):
        return output
    if isinstance(output, Integral) and not isinstance(output, bool) and int(output) >= 0:
        return str(int(output))
    raise ModelError(
        f"output={output!r} names no output of a network.",
        "It is the key of a dict, the name that a file gives, or a place in a tuple, from 0 on.",
        ["output=0 takes the first", "leave output= out, if there is only one"],
    )


def named_outputs(value: Any) -> list[tuple[str, Any]]:
    """The tensors and arrays in what a network returned, by name, of those that can be a map."""
    return [(name, one) for name, one in _leaves("", value) if can_be_map(one.shape)]


def all_outputs(value: Any) -> list[tuple[str, Any]]:
    """All tensors and arrays in what a network returned, by name, whatever their shapes."""
    return list(_leaves("", value))


def can_be_map(shape: Sequence[Any]) -> bool:
    """Whether a shape has axes beside the batch's: others belong to a loss or a score."""
    return len(shape) > 1


def _is_real(dtype: Any) -> bool:
    """Whether a dtype, of numpy or torch, is of real numbers, whole numbers or truth values."""
    name = np.dtype(dtype).name if isinstance(dtype, np.dtype) else str(dtype).removeprefix("torch.")
    return name.startswith(("float", "bfloat", "int", "uint", "bool"))


def _leaves(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        yield name, value
        return
    prefix = f"{name}." if name else ""
    for key, inner in _items(value):
        yield from _leaves(f"{prefix}{key}", inner)


def _items(value: Any) -> list[tuple[Any, Any]]:
    """What a container holds, by key, field or place; nothing of what is no container."""
    if isinstance(value, Mapping):
        return list(value.items())
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return list(zip(value._fields, value, strict=True))
    if isinstance(value, (tuple, list)):
        return list(enumerate(value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [(field.name, getattr(value, field.name)) for field in dataclasses.fields(value)]
    return []


def _are_heads(shapes: Sequence[Sequence[Any]]) -> bool:
    """Whether outputs are maps of the same channels at several resolutions."""
    known = all(isinstance(n, int) for shape in shapes for n in shape)
    alike = len({tuple(shape[:2]) for shape in shapes}) == 1 and min(map(len, shapes)) > 2
    return known and alike and len({tuple(shape) for shape in shapes}) > 1


def _argument(name: str) -> str:
    return name if name.isdigit() else f'"{name}"'


def _called(name: str, place: int) -> str:
    return _argument(name) if name else str(place)


ITSELF = "give the torch.nn.Module itself: infer(volume, module)"
"""The way out of a file that does not serve."""


def shape_text(shape: Sequence[Any]) -> str:
    """A shape as Python writes it, with the names or question marks that files have for free axes."""
    listed = ", ".join("?" if n is None else str(n) for n in shape)
    return f"({listed},)" if len(shape) == 1 else f"({listed})"


def wrapper(call: str, model: str = "model") -> str:
    """Lines that wrap a network in a module that calls it in another way.

    Parameters
    ----------
    call
        What its forward returns, such as ``self.model(x)[0]``.
    model
        What the network is called where the lines are pasted.
    """
    return f"""wrap it:
        class Wrapped(torch.nn.Module):
            def __init__(self, model):
                super().__init__()
                self.model = model

            def forward(self, x):
                return {call}

        infer(volume, Wrapped({model}).eval())"""


def exporting(ndim: int, module: str = "module") -> str:
    """The line that exports a module with its sizes left open, so that it can be cut.

    Parameters
    ----------
    ndim
        Spatial axes.
    module
        What it is called where the line is pasted.
    """
    return f'torch.export.save(torch.export.export({module}, (x,), {free_sizes(ndim)}), "model.pt2")'


def exporting_onnx(ndim: int) -> str:
    """The line that exports a module to ONNX, with a batch of 1 and its sizes left open."""
    return f'torch.onnx.export(module, (x[:1],), "model.onnx", {free_sizes(ndim)})'


def free_sizes(ndim: int) -> str:
    """The argument of torch.export that leaves spatial sizes open."""
    free = ", ".join(f"{2 + d}: torch.export.Dim.AUTO" for d in range(ndim))
    return f"dynamic_shapes=({{{free}}},)"


def first_line(error: BaseException) -> str:
    """The first line of an error's text; its class where it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
