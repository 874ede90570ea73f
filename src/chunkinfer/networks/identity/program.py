"""The program that a network is on an input: every ATen operator it calls, with its arguments and constants.

Whatever decides the output is in it, wherever it is written: forward's code, hooks, patched methods, closures, globals,
parametrisations, tensors that no state_dict knows. Nothing is computed: voxels are stood for by `Ghost`.
"""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from chunkinfer.networks.identity.contents import Contents
from chunkinfer.networks.trace import shortcuts

_META = torch.device("meta")

_READS_VALUE = ("_local_scalar_dense", "item", "is_nonzero", "equal")
"""Operators that give a value to Python."""


OPERATORS_OF_TORCH = ("aten", "prims", "prim", "quantized", "torchvision")
"""Namespaces of operators whose code has the version of an installed package."""


class NoProgram(Exception):
    """The network is part Python: what it does depends on more than operators and their arguments.

    Parameters
    ----------
    why
        In words that follow "it".
    unknown
        An operator of somebody's own, into whose code nobody looks.
    """

    def __init__(self, why: str, unknown: str | None = None) -> None:
        super().__init__(why)
        self.unknown = unknown


class Ghost(torch.Tensor):
    """A tensor without data that says it is on the device where the network runs; its shadow is on the meta device."""

    shadow: torch.Tensor

    @staticmethod
    def __new__(cls, shadow: torch.Tensor, device: torch.device) -> Ghost:
        """A ghost of the shadow's form."""
        ghost: Ghost = torch.Tensor._make_wrapper_subclass(
            cls, shadow.size(), strides=shadow.stride(), storage_offset=shadow.storage_offset(), dtype=shadow.dtype,
            device=device,
        )  # fmt: skip
        ghost.shadow = shadow
        return ghost

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    def _leaves(self, *args: Any, **kwargs: Any) -> Any:
        raise NoProgram("takes voxels out of torch")

    numpy = tolist = data_ptr = __array__ = __dlpack__ = _leaves

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Only a `Recorder` knows what an operator does to it."""
        raise NoProgram("keeps a tensor of one call for another")


def program(
    run: Callable[[torch.Tensor], Any],
    shape: Sequence[int],
    dtype: torch.dtype,
    device: torch.device,
    contents: Contents,
) -> str:
    """Digest of the operators that a network calls on an input of this shape.

    Parameters
    ----------
    run
        The network; it gives a tensor, or several in lists with their names. Its tensors stay as they are; what forward
        keeps in attributes is kept, so give a copy.
    shape
        Of the input, (n, c, *space).
    dtype, device
        Of the input.
    contents
        Gives digests of the tensors that the network holds.

    Raises
    ------
    NoProgram
        The network reads values of the volume in Python, or leaves torch.
    Exception
        Whatever it raises on an input that it does not take.
    """
    recorder = Recorder(device, contents)
    x = recorder.ghost(torch.empty(tuple(shape), dtype=dtype, device=_META))
    with torch.no_grad(), torch.random.fork_rng(devices=[]), recorder:
        y = run(x)
    return recorder.digest(y)


class Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Writes down every operator that is called while it is entered, and computes none."""

    def __init__(self, device: torch.device, contents: Contents) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._device, self._contents = device, contents
        self._text = hashlib.sha256()
        self._ghosts: list[Ghost] = []
        # Identities are only unique among living tensors, so the tensors are kept.
        self._numbers: dict[int, int] = {}
        self._of_shadow: dict[int, Ghost] = {}
        self._shadows: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def ghost(self, shadow: torch.Tensor) -> Ghost:
        """A tensor that the program makes, numbered."""
        known = self._of_shadow.get(id(shadow))
        if known is not None:
            if known.shape != shadow.shape:
                raise NoProgram("changes the shape of a tensor in place")
            return known
        made = Ghost(shadow, self._device)
        self._numbers[id(made)] = len(self._ghosts)
        self._of_shadow[id(shadow)] = made
        self._ghosts.append(made)
        return made

    def digest(self, output: Any) -> str:
        """Of the program with this output."""
        text = self._text.copy()
        text.update(f"-> {self._said(output)}".encode())
        return text.hexdigest()[:32]

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func.overloadpacket.__name__ in _READS_VALUE:
            return self._value(func, args, kwargs)
        if func.namespace not in OPERATORS_OF_TORCH:
            raise NoProgram(f"calls {func.name()}", f"the operator {func.name()}")
        said = [self._said(a) for a in args] + [f"{k}={self._said(v)}" for k, v in sorted(kwargs.items())]
        self._text.update(f"{func.name()}({', '.join(said)});".encode())
        result = shortcuts.run(func, self._shadowed(args), self._shadowed(self._on_meta(func, kwargs)))
        return _each_tensor(self.ghost, result)

    def _value(self, func: Any, args: Any, kwargs: Any) -> Any:
        """What Python reads: of the network's own tensors it is a constant, which shows in what it is used for."""
        tensors = [v for v in pytree.tree_leaves((args, kwargs)) if isinstance(v, torch.Tensor)]
        if any(isinstance(t, Ghost) for t in tensors):
            raise NoProgram("reads values of the volume in Python")
        return func(*args, **kwargs)

    def _on_meta(self, func: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Where nothing says where a tensor is to be made, it would be made for real."""
        makes = any(a.name == "device" for a in func._schema.arguments)
        inputs = any(str(a.type).startswith(("Tensor", "List[Tensor")) for a in func._schema.arguments)
        if makes and (kwargs.get("device") is not None or not inputs):
            return {**kwargs, "device": _META, **({"pin_memory": False} if kwargs.get("pin_memory") else {})}
        return kwargs

    def _shadowed(self, value: Any) -> Any:
        return _each_tensor(self._shadow, value)

    def _shadow(self, tensor: torch.Tensor) -> torch.Tensor:
        if isinstance(tensor, Ghost):
            if id(tensor) not in self._numbers:
                raise NoProgram("keeps a tensor of one call for another")
            return tensor.shadow
        if id(tensor) not in self._shadows:
            made = torch.empty_strided(tensor.size(), tensor.stride(), dtype=tensor.dtype, device=_META)
            self._shadows[id(tensor)] = tensor, made
            self._of_shadow.pop(id(made), None)
        return self._shadows[id(tensor)][1]

    # ---- an argument in words that are the same in every process ------------------------------------------------

    def _said(self, value: Any) -> str:
        if isinstance(value, torch.Tensor):
            number = self._numbers.get(id(value))
            return f"%{number}" if number is not None else f"<{self._contents.digest(value)}>"
        if isinstance(value, list | tuple):
            return f"[{', '.join(map(self._said, value))}]"
        if isinstance(value, torch.device):
            return "here" if value.type == self._device.type else value.type
        if isinstance(value, float):
            return value.hex()
        if isinstance(value, bool | int | complex | str | type(None)):
            return repr(value)
        if isinstance(value, torch.dtype | torch.layout | torch.memory_format | enum.Enum):
            return str(value)
        raise NoProgram(f"gives an operator a {type(value).__name__}")


def _each_tensor(of: Callable[[torch.Tensor], Any], value: Any) -> Any:
    """A nested value with something in place of each tensor. torch's own `tree_map` takes longer than the operators."""
    if isinstance(value, torch.Tensor):
        return of(value)
    if isinstance(value, tuple | list):
        return type(value)([_each_tensor(of, each) for each in value])
    if isinstance(value, dict):
        return {name: _each_tensor(of, each) for name, each in value.items()}
    return value
