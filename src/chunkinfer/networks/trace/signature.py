"""What a module's forward takes: one tensor, or something that no volume is."""

from __future__ import annotations

import inspect
from typing import Any, cast

import torch
from torch import nn

from chunkinfer.errors import ModelError
from chunkinfer.networks.outputs import wrapper
from chunkinfer.networks.trace.subject import name_of


def unsuitable(module: nn.Module) -> ModelError | None:
    """Why a module runs on no tensor at all, whatever its size; None where its signature is that of a network."""
    name = name_of(module)
    if getattr(type(module), "forward", None) is nn.Module.forward:
        return ModelError(
            f"{name} has no forward method: it holds layers, and does not run them.",
            "It is a container, such as a ModuleList, or a part of a network that another part runs.",
            [*_in_turn(module), wrapper(f"self.model{_first(module)}(x)")],
        )
    if (keyword := only_by_keyword(module)) is not None:
        return ModelError(
            f"The forward method of {name} takes no tensor by its place"
            + (f", only by the name {keyword}." if keyword else ": it takes nothing."),
            "A network is given patches of a volume as its first argument.",
            ["let forward take it by its place: def forward(self, x)", wrapper(f"self.model({keyword}=x)")]
            if keyword
            else ["let forward take it: def forward(self, x)", "give the part of it that takes a tensor"],
        )
    _, *others = [*required_arguments(module)] or [""]
    if not others:
        return None
    listed = ", ".join(others)
    given = ", ".join(f"{other}=..." for other in others)
    return ModelError(
        f"The forward method of {name} needs more than a volume: {listed}.",
        "A network is given patches of a volume, and nothing else.",
        [
            wrapper(f"self.model(x, {given})"),
            "give the arguments a default in forward, if they have one value",
        ],
    )


def _in_turn(module: nn.Module) -> list[str]:
    """The way out of a container of layers."""
    layers = {nn.ModuleList: "*model", nn.ModuleDict: "*model.values()"}
    found = next((layers[kind] for kind in layers if isinstance(module, kind)), None)
    return [f"run its layers in turn: infer(volume, torch.nn.Sequential({found}).eval())"] if found else []


def _first(module: nn.Module) -> str:
    """How the first of a module's parts is reached."""
    name = next((name for name, _ in module.named_children()), "net")
    if isinstance(module, nn.ModuleDict):
        return f"[{name!r}]"
    return f"[{name}]" if isinstance(module, nn.ModuleList) else f".{name}"


def only_by_keyword(module: nn.Module) -> str | None:
    """The first argument that forward takes by name alone where it takes none by place, "" for no argument at all."""
    if isinstance(module, torch.jit.ScriptModule):
        return None
    try:
        found = list(inspect.signature(module.forward).parameters.values())
    except (TypeError, ValueError):  # of a function that is not Python's
        return None
    if any(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD, p.VAR_POSITIONAL) for p in found):
        return None
    return next((p.name for p in found if p.kind is p.KEYWORD_ONLY), "")


def required_arguments(module: nn.Module) -> list[str]:
    """Names of the arguments without a default that a module's forward takes."""
    if isinstance(module, torch.jit.ScriptModule):
        arguments = cast(Any, module).forward.schema.arguments
        return [a.name for a in arguments[1:] if not a.has_default_value()]  # the first is the module
    several = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    try:
        found = inspect.signature(module.forward).parameters.values()
    except (TypeError, ValueError):  # of a function that is not Python's
        return []
    return [p.name for p in found if p.default is p.empty and p.kind not in several]
