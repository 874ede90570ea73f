"""A copy of the network that can be run at any size for nothing: without data, on the meta device, where it can."""

from __future__ import annotations

import copy
import io
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from chunkinfer.errors import ModelError
from chunkinfer.networks.adapters.torch import picked
from chunkinfer.networks.outputs import ONLY, Pick, first_line
from chunkinfer.networks.trace.dependence import Reason
from chunkinfer.networks.trace.follow import Followed, follow
from chunkinfer.networks.trace.program import Program, Recorder


class NoMap(ValueError):
    """The network runs, and what it gives is not a map of its input."""

    def __init__(self, found: tuple[int, ...], axes: int) -> None:
        super().__init__(f"its output has shape {found} instead of (1, channels, {axes} spatial axes)")
        self.found = found


@dataclass(frozen=True)
class Ran:
    """A run of the network at one size."""

    shape: tuple[int, ...]
    """Shape of the output, (1, channels, *space)."""
    program: Program
    """The operators that it ran."""


class Subject:
    """A network prepared for tracing; the caller's module is never touched.

    Parameters
    ----------
    module
        The copy.
    device
        Where it runs.
    channels, dtype
        The input's.
    pick
        Takes the output that counts.
    """

    def __init__(self, module: nn.Module, device: torch.device, channels: int, dtype: torch.dtype, pick: Pick) -> None:
        self.module, self.device, self.channels, self.dtype, self.pick = module, device, channels, dtype, pick
        self._running: list[str] = []
        if not isinstance(module, torch.jit.ScriptModule):
            for path, layer in module.named_modules():
                self._watch(layer, f"{path} ({type(layer).__name__})".strip())

    @property
    def is_free(self) -> bool:
        """Whether a run costs nothing, however large."""
        return self.device.type == "meta"

    def _watch(self, layer: nn.Module, name: str) -> None:
        if isinstance(layer, torch.jit.ScriptModule):
            return
        layer.register_forward_pre_hook(lambda *_: self._running.append(name), prepend=True)
        layer.register_forward_hook(lambda *_: self._left())

    def _left(self) -> None:
        self._running.pop()

    def _run(self, x: torch.Tensor) -> torch.Tensor:
        self._running.clear()
        return picked(self.pick, self._call(x))

    def _call(self, x: torch.Tensor) -> Any:
        if isinstance(self.module, torch.fx.GraphModule) and any(
            "nn_module_stack" in node.meta for node in self.module.graph.nodes
        ):
            return _NamedLayers(self.module, self._running).run(x)
        return self.module(x)

    def _input(self, shape: Sequence[int]) -> torch.Tensor:
        return torch.zeros((1, self.channels, *shape), dtype=self.dtype, device=self.device)

    def ran(self, shape: Sequence[int]) -> Ran | Exception:
        """A run on an input of this spatial shape, or why there is none.

        Raises
        ------
        ModelError
            What it gives is no single tensor: that is so at any size.
        """
        recorder = Recorder()
        try:
            with torch.no_grad(), torch.random.fork_rng(devices=[]), recorder:
                found = tuple(self._run(self._input(shape)).shape)
        except ModelError:
            raise
        except Exception as error:  # whatever the network raises on a size it does not take
            return error
        if len(found) != 2 + len(shape) or found[0] != 1 or 0 in found:
            return NoMap(found, len(shape))
        return Ran(found, recorder.program)

    def difference(self, shape: Sequence[int], other: Sequence[int]) -> Reason | None:
        """Where the programs at two spatial shapes that it takes part ways; None if they are the same."""
        one, two = self.ran(shape), self.ran(other)
        assert isinstance(one, Ran)
        assert isinstance(two, Ran)
        if (k := one.program.first_difference(two.program)) is None:
            return None
        lines = []
        for at in (shape, other):
            recorder = Recorder(look_at=k)
            with torch.no_grad(), torch.random.fork_rng(devices=[]), recorder:
                self._run(self._input(at))
            lines.append(recorder.line)
        first, second = (line or "another operator" for line in lines)
        told = f"{first}" if first == second else f"{first}, against {second}"
        return Reason(
            name_of(self.module),
            f"computes something else on {_times(shape)} voxels than on {_times(other)}, because its forward looks at "
            f"the size: {told}",
        )

    def follow(self, shape: Sequence[int]) -> Followed:
        """Run it at this spatial shape and follow what the output reads."""
        with torch.random.fork_rng(devices=[]):
            return follow(self._run, self._input(shape), lambda: self._running[-1] if self._running else "")


def subjects(module: nn.Module, channels: int, dtype: torch.dtype, pick: Pick = ONLY) -> Iterator[Subject]:
    """Copies of the network to try, the cheapest first: one without data, then a real one on the CPU.

    Raises
    ------
    ModelError
        It cannot be copied in either way.
    """
    failures: list[Exception] = []
    module = getattr(module, "_orig_mod", module)  # torch.compile wraps the module that it was given
    for copied in _COPIES:
        try:
            ours, device = copied(module)
        except Exception as error:  # torch raises all kinds on modules that do not copy; then the next way serves
            failures.append(error)
            continue
        yield Subject(ours, device, channels, dtype, pick)
    if len(failures) == len(_COPIES):
        raise ModelError(
            f"{name_of(module)} cannot be copied: {first_line(failures[-1])}",
            "It holds what belongs to this process (a lock, an open file, a session, a generator), or a tensor that "
            "another one was computed into; tracing it and sending it to workers need a copy.",
            [
                "leave that out of the module: make it when it is needed, and give a tensor its values by .detach()",
                "give it without its Python: infer(volume, torch.jit.trace(model, torch.zeros"
                f"{(1, channels, *[32] * _axes(module))}))",
            ],
        ) from failures[-1]


def _axes(module: nn.Module) -> int:
    """Spatial axes of the first convolution."""
    return next((p.ndim - 2 for p in module.parameters() if p.ndim >= 3), 3)


def _times(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))


def name_of(module: nn.Module) -> str:
    """The class of a network; of TorchScript, the one it was made from."""
    return str(getattr(module, "original_name", type(module).__name__))


def _meta_copy(module: nn.Module) -> tuple[nn.Module, torch.device]:
    meta = torch.device("meta")
    if isinstance(module, torch.jit.ScriptModule):
        return _script_copy(module, meta), meta  # `to("meta")` raises on these, loading them there does not
    # Told that the weights were copied already, deepcopy leaves them alone, wherever they are and however large.
    memo: dict[int, Any] = {}
    for layer in module.modules():
        for value in (*layer.parameters(recurse=False), *layer.buffers(recurse=False), *vars(layer).values()):
            if isinstance(value, torch.Tensor):
                empty = value.detach().to(meta)
                is_parameter = isinstance(value, nn.Parameter)
                memo[id(value)] = nn.Parameter(empty, requires_grad=False) if is_parameter else empty
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch's own, on copying an exported program
        return copy.deepcopy(module, memo), meta


def _real_copy(module: nn.Module) -> tuple[nn.Module, torch.device]:
    cpu = torch.device("cpu")
    if isinstance(module, torch.jit.ScriptModule):
        return _script_copy(module, cpu), cpu
    return copy.deepcopy(module).to(cpu), cpu


_COPIES = (_meta_copy, _real_copy)


def _script_copy(module: torch.jit.ScriptModule, device: torch.device) -> nn.Module:
    buffer = io.BytesIO()
    torch.jit.save(module, buffer)
    buffer.seek(0)
    loaded: nn.Module = torch.jit.load(buffer, map_location=device)  # type: ignore[no-untyped-call]
    return loaded


class _NamedLayers(torch.fx.Interpreter):
    """Runs a flattened graph node by node, and tells which layer each node came from."""

    def __init__(self, module: torch.fx.GraphModule, running: list[str]) -> None:
        super().__init__(module)
        self._names = running

    def run_node(self, n: torch.fx.Node) -> Any:
        stack = list((n.meta.get("nn_module_stack") or {}).values())
        if not stack:
            return super().run_node(n)
        path, kind = stack[-1]
        kind = kind if isinstance(kind, str) else kind.__name__
        self._names.append(f"{path} ({kind.rsplit('.', 1)[-1]})".strip())
        try:
            return super().run_node(n)
        finally:
            self._names.pop()
