"""The ONNX adapter: a .onnx file as a function of arrays, computed by onnxruntime."""

from __future__ import annotations

from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chunkinfer.errors import MissingExtra, ModelError
from chunkinfer.models.opaque import File

if TYPE_CHECKING:
    from chunkinfer.models.network import Array

_DTYPES = {"float": "float32", "double": "float64"}
"""ONNX's names that are not numpy's."""


def open_onnx(path: str) -> File:
    """Open a .onnx file on the CPU, on one thread, so that equal inputs give equal bits.

    Raises
    ------
    MissingExtra
        onnxruntime is not installed.
    ModelError
        It cannot open the file.
    """
    try:
        onnxruntime = import_module("onnxruntime")
    except ImportError as error:
        raise MissingExtra.of("ONNX files", "onnxruntime", "onnx") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4  # a size that the network does not take is an answer here, not an incident
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has a class for every cause, all of them its own
        raise ModelError(
            f"{path} cannot be opened by onnxruntime: {error}",
            "The file is cut short, or uses operators newer than the onnxruntime that is installed.",
            ["pip install --upgrade onnxruntime", f'check it: onnx.checker.check_model("{path}")'],
        ) from error
    (taken, *_) = session.get_inputs()
    kind = taken.type.removeprefix("tensor(").removesuffix(")")
    shape = tuple(n if isinstance(n, int) else None for n in taken.shape)
    return File(Path(path).name, partial(_run, session, taken.name), shape, _DTYPES.get(kind, kind))


def _run(session: Any, name: str, x: Array) -> Array:
    y: Array = session.run(None, {name: x})[0]
    return y
