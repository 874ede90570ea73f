"""Networks that nobody can look into: functions of arrays, and files of other frameworks."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from chunkinfer.errors import ModelError
from chunkinfer.models.network import Array, Network
from chunkinfer.models.outputs import ONLY, Pick, shape_text

if TYPE_CHECKING:
    import torch

FILE_KINDS = {".onnx": "onnx", ".xml": "openvino"}
"""Kinds of files that torch does not open, by their suffix."""

Shape = tuple[int | None, ...]
"""With None for free axes."""


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
    """Names and shapes of its outputs, without those that have no axes."""


def is_opaque(model: object) -> bool:
    """Whether a model is a function of arrays, or a file that torch does not open."""
    import torch

    if isinstance(model, str | os.PathLike):
        return Path(model).suffix in FILE_KINDS
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
        return Network(name, lambda x: pick(model(x.copy())), channels, ndim)  # it may work in place
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
            "The arguments are another network's; the file says both itself.",
            [f'receptive_field("{file.name}")', f'receptive_field("{file.name}", channels={stated or channels})'],
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
        from chunkinfer.models.onnx_models import open_onnx as opened
    else:
        from chunkinfer.models.openvino_models import open_openvino as opened
    if not os.path.exists(path):
        raise ModelError(
            f"The model file {path} is not there.",
            "The path is relative to where Python was started, or the file is elsewhere.",
            [f"look for it: ls {os.path.dirname(path)}", "give the whole path"],
        )
    return opened(path)


def on_tensors(run: Callable[[Array], Any]) -> Callable[[torch.Tensor], torch.Tensor]:
    """A function of arrays as one of tensors, by way of the host's memory."""
    import torch

    def on_tensor(patches: torch.Tensor) -> torch.Tensor:
        result = np.asarray(run(patches.numpy(force=True)))
        if not result.flags.writeable:  # torch has no read-only tensors
            result = result.copy()
        return torch.from_numpy(np.ascontiguousarray(result)).to(patches.device)

    return on_tensor


TAKEN = ("float32", "float64", "float16", "uint8", "int8", "uint16", "int16", "int32", "int64")
"""Types of input that a file may ask for: voxels can be given in all of them."""


def check_inputs(path: str, inputs: Sequence[tuple[str, Shape, str]]) -> None:
    """Refuse a file that takes something else than one array of numbers (n, c, *space).

    Parameters
    ----------
    path
        Path of the file.
    inputs
        Name, shape and dtype of each input.

    Raises
    ------
    ModelError
        It takes several, has its channels last, or takes no numbers.
    """
    name = Path(path).name
    listed = ", ".join(f'"{n}" {shape_text(shape)} {dtype}' for n, shape, dtype in inputs)
    if len(inputs) != 1:
        (first, *_), *others = inputs or [("", (), "")]
        raise ModelError(
            f"{name} takes {len(inputs)} inputs: {listed}.",
            f"A volume is one of them; what the {'others are' if len(others) > 1 else 'other is'} nothing says.",
            [
                "fix the others in the file: m = onnx.load(path); m.graph.initializer.append(onnx.numpy_helper."
                f'from_array(value, "{others[0][0] if others else first}")); onnx.save(m, "one.onnx")',
                "give the torch module, wrapped in one whose forward(x) fills in the others: infer(volume, module)",
            ],
        )
    ((first, shape, dtype),) = inputs
    if dtype not in TAKEN:
        raise ModelError(
            f"{name} takes {dtype}: {listed}.",
            f"Voxels are given as {', '.join(TAKEN)}.",
            ["export it with an input in float32, and the conversion inside", "infer(volume, module) with the module"],
        )
    if shape[0] not in (None, 1):
        raise ModelError(
            f"{name} takes {shape[0]} patches at a time, no more and no fewer: {listed}.",
            "The size of the batch was fixed when it was exported; patches are given one by one.",
            [
                f'export it with a batch of 1, or a free one: torch.onnx.export(..., dynamic_axes={{"{first}": {{0: "n", '
                '2: "z", 3: "y", 4: "x"}})',
                "give the torch module itself: infer(volume, module)",
            ],
        )
    if _channels_last(shape):
        layout = "NDHWC" if len(shape) == 5 else "NHWC"
        ours = "NCDHW" if len(shape) == 5 else "NCHW"
        raise ModelError(
            f"{name} takes its channels last: {listed}.",
            "It was exported from a framework that orders axes (n, *space, c); here they are (n, c, *space).",
            [
                "export it with channels first: tf2onnx has --inputs-as-nchw and --outputs-as-nchw",
                "let OpenVINO turn them: p = openvino.preprocess.PrePostProcessor(openvino.Core().read_model(path)); "
                f'p.input().tensor().set_layout(openvino.Layout("{ours}")); '
                f'p.input().model().set_layout(openvino.Layout("{layout}")); '
                f'p.output().tensor().set_layout(openvino.Layout("{ours}")); '
                f'p.output().model().set_layout(openvino.Layout("{layout}")); '
                'openvino.save_model(p.build(), "first.xml", compress_to_fp16=False)',
            ],
        )


def _channels_last(shape: Shape) -> bool:
    """Whether the last axis has a size that channels have, 4 or less, and the others are free or larger."""
    if len(shape) not in (4, 5) or shape[-1] is None or shape[-1] > 4:
        return False
    return all(n is None or n > 4 for n in shape[1:-1])


def function_digest(function: Any) -> str:
    """blake2b of a function's code and what it holds."""
    import hashlib

    import cloudpickle

    return hashlib.blake2b(cloudpickle.dumps(function), digest_size=16).hexdigest()


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
