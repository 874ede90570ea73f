"""A module as a value: copied, and left as it was by a run that computes nothing."""

from __future__ import annotations

import copy
import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


def tensors_of(module: nn.Module) -> Iterator[torch.Tensor]:
    """The tensors that a module's layers hold: parameters, buffers of both kinds, those in attributes, lists and
    dicts."""
    seen: set[int] = set()
    for layer in module.modules():
        held = [layer._parameters, layer._buffers] if not isinstance(layer, torch.jit.ScriptModule) else []
        for value in (*held, *layer.parameters(recurse=False), *layer.buffers(recurse=False), *vars(layer).values()):
            for tensor in _within(value, 4):
                if id(tensor) not in seen:
                    seen.add(id(tensor))
                    yield tensor


def _within(value: Any, depth: int) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif depth and isinstance(value, dict):
        for each in value.values():
            yield from _within(each, depth - 1)
    elif depth and isinstance(value, list | tuple):
        for each in value:
            yield from _within(each, depth - 1)


@contextmanager
def left_as_it_was(module: nn.Module) -> Iterator[None]:
    """Take back what forward keeps in the layers' attributes, and in lists and dicts there."""
    before = []
    for layer in module.modules() if not isinstance(module, torch.jit.ScriptModule) else ():
        kept = {k: copy.copy(v) for k, v in vars(layer).items() if type(v) in (list, dict, set)}
        before.append((vars(layer), dict(vars(layer)), kept))
    try:
        yield
    finally:
        # Only what differs is touched, because others may run the module at this moment.
        for now, values, kept in before:
            _put_back(now, values)
            for name, content in kept.items():
                if isinstance(content, dict):
                    _put_back(values[name], content)
                elif [*map(id, values[name])] != [*map(id, content)]:
                    values[name].clear()
                    (values[name].extend if isinstance(content, list) else values[name].update)(content)


def _put_back(now: dict[Any, Any], before: dict[Any, Any]) -> None:
    for name in [*now]:
        if name not in before:
            del now[name]
    for name, value in before.items():
        if now.get(name, now) is not value:
            now[name] = value


def full_copy(module: nn.Module) -> nn.Module:
    """A module that shares nothing with the other, as far as torch can copy it."""
    if isinstance(module, torch.jit.ScriptModule):
        buffer = io.BytesIO()
        torch.jit.save(module, buffer)
        buffer.seek(0)
        loaded: nn.Module = torch.jit.load(buffer)  # type: ignore[no-untyped-call]
        return loaded
    # deepcopy takes what is in its memo for copied: so it copies no tensors, of which it refuses some.
    memo: dict[int, Any] = {id(tensor): _cloned(tensor) for tensor in tensors_of(module)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch's own, on copying an exported program
        return copy.deepcopy(module, memo)


def _cloned(tensor: torch.Tensor) -> torch.Tensor:
    if type(tensor) not in (torch.Tensor, nn.Parameter):
        return copy.deepcopy(tensor)
    with torch.inference_mode(False), torch.no_grad():
        made = tensor.detach().clone()
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(made, requires_grad=tensor.requires_grad)
    return made
