"""Networks that nobody can look into: functions of arrays, and files of other frameworks."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from chunkinfer.errors import ModelError
from chunkinfer.networks.network import Array, Network
from chunkinfer.networks.outputs import ONLY, Pick, Shape, first_line, named_outputs, wrapper

if TYPE_CHECKING:
    import torch

FILE_KINDS = {".onnx": "onnx", ".xml": "openvino"}
"""Kinds of files that torch does not open, by their suffix."""


@dataclass(frozen=True)
class File:
    """A network opened from a file of another framework."""

    name: str
    run: Callable[[Array], Mapping[str, Array]]
    """From an input, of whatever dtype, to every output by name."""
    shape: Shape
    """Shape of its input, batch and channels included."""
    dtype: str
    """Name of its input's dtype."""
    outputs: tuple[tuple[str, Shape], ...]
    """Names and shapes of its outputs, of those that can be a map."""


def is_function(model: object) -> bool:
    """Whether a model is a function, and no module of torch."""
    import torch

    return callable(model) and not isinstance(model, type | torch.nn.Module | torch.export.ExportedProgram)


def open_opaque(model: Any, channels: int | None, ndim: int | None, pick: Pick = ONLY) -> Network:
    """A function of arrays, a .onnx or a .xml file, as a `Network`.

    Raises
    ------
    AmbiguousOutput
        A file has several outputs, and none was chosen.
    ModelError
        Channels or axes are not given, and no file says them; or a file says otherwise.
    MissingExtra
        What opens the file is not installed.
    """
    if not isinstance(model, str | os.PathLike):
        name = getattr(model, "__name__", type(model).__name__)
        if channels is None or ndim is None:
            raise unknown_input(name)
        return Network(name, on_arrays(model, pick), channels, ndim)
    file = open_file(os.path.abspath(Path(model).expanduser()))
    pick.index([n for n, _ in file.outputs], [shape for _, shape in file.outputs])
    _, stated, *space = file.shape
    channels = channels or stated
    ndim = ndim or len(space)
    if channels is None:
        raise unknown_input(file.name)
    if (stated or channels, len(space)) != (channels, ndim):
        raise ModelError(
            f"{file.name} takes {stated or 'any number of'} channels on {len(space)} spatial axes, and {channels} on "
            f"{ndim} were asked for.",
            "The volume, or the arguments, are another network's; the file says both itself.",
            [
                f'ask it: receptive_field("{os.fspath(model)}")',
                f"give a volume with {stated or 'any'} channels on {len(space)} spatial axes",
            ],
        )
    shape = tuple(space) if any(n is not None for n in space) else None
    return Network(file.name, lambda x: pick(file.run(x)), channels, ndim, file.dtype, shape)


def open_file(path: str) -> File:
    """A .onnx or .xml file, opened by what its framework brings.

    Raises
    ------
    ModelError, MissingExtra
        As for `open_opaque`.
    """
    if path.endswith(".onnx"):
        from chunkinfer.networks.adapters.onnx import open_onnx as opened
    else:
        from chunkinfer.networks.adapters.openvino import open_openvino as opened
    return opened(path)


def on_arrays(function: Callable[[Any], Any], pick: Pick) -> Callable[[Array], Any]:
    """A function of arrays that gives the output that counts, and leaves its argument alone.

    Raises
    ------
    ModelError
        When called: it takes tensors of torch.
    """
    import torch

    def run(x: Array) -> Any:
        try:
            found = pick(function(x.copy()))
        except (TypeError, AttributeError) as error:
            if _takes_tensors(function, x):
                raise _of_tensors(function, pick.network, error) from error
            raise
        return found.numpy(force=True) if isinstance(found, torch.Tensor) else found

    return run


def _takes_tensors(function: Callable[[Any], Any], x: Array) -> bool:
    """Whether a function that fails on an array works on a tensor."""
    import torch

    try:
        with torch.no_grad():
            found = named_outputs(function(torch.from_numpy(x.copy())))
    except Exception:  # whatever it raises: it does not take tensors either
        return False
    return any(isinstance(one, torch.Tensor) for _, one in found)


def _of_tensors(function: Any, name: str, error: Exception) -> ModelError:
    import torch

    inner = getattr(function, "func", None)  # of functools.partial
    if isinstance(inner, torch.nn.Module) and not (function.args or function.keywords):
        way = "give the module itself: infer(volume, function.func)"
    elif isinstance(inner, torch.nn.Module):
        bound = [*map(_short, function.args), *(f"{k}={_short(v)}" for k, v in function.keywords.items())]
        given = ", ".join(["x", *bound])
        way = wrapper(f"self.model({given})", "function.func")
    else:
        way = "give the module itself, in eval mode, which is traced: infer(volume, module)"
    return ModelError(
        f"{name} is a function of torch tensors; given an array, it fails: {first_line(error)}",
        "A function is given numpy arrays, (n, c, *space), and returns such.",
        [way, "infer(volume, lambda x: function(torch.from_numpy(x)).numpy(force=True))"],
    )


def _short(value: object) -> str:
    """A value as Python writes it, where that is short."""
    text = repr(value)
    return text if len(text) <= 40 else "..."


def on_tensors(run: Callable[[Array], Any]) -> Callable[[torch.Tensor], torch.Tensor]:
    """A function of arrays as one of tensors, by way of the host's memory."""
    import torch

    def on_tensor(patches: torch.Tensor) -> torch.Tensor:
        result = np.asarray(run(patches.numpy(force=True)))
        if not result.flags.writeable:  # torch has no read-only tensors
            result = result.copy()
        return torch.from_numpy(np.ascontiguousarray(result)).to(patches.device)

    return on_tensor


def unknown_input(name: str) -> ModelError:
    """Nothing tells what a network takes."""
    return ModelError(
        f"How many channels and spatial axes {name} takes is not known.",
        "Only a network whose first layer is a convolution, or a file that states its input, tells them itself.",
        [
            "receptive_field(model, channels=1, ndim=3) for (z, y, x)",
            "receptive_field(model, channels=3, ndim=2) for (c, y, x)",
        ],
    )
