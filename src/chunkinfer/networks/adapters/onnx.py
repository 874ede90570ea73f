"""The ONNX adapter: a .onnx file as a function of arrays, computed by onnxruntime."""

from __future__ import annotations

from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chunkinfer.errors import MissingExtra, ModelError
from chunkinfer.networks.adapters.callable import File
from chunkinfer.networks.inputs import check_inputs
from chunkinfer.networks.outputs import Shape, can_be_map, exporting_onnx

if TYPE_CHECKING:
    from chunkinfer.networks.network import Array

_DTYPES = {"float": "float32", "double": "float64"}
"""ONNX's names that are not numpy's."""


def open_onnx(path: str) -> File:
    """Open a .onnx file on the CPU, on one thread, so that equal inputs give equal bits.

    Raises
    ------
    MissingExtra
        onnxruntime is not installed.
    ModelError
        It cannot open the file, or the file takes something else than one array (n, c, *space).
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
            ["pip install --upgrade onnxruntime", f"write it again: {exporting_onnx(3)}"],
        ) from error
    check_inputs(path, inputs := [(one.name, _shape(one), input_dtype(one)) for one in session.get_inputs()])
    ((name, shape, dtype),) = inputs
    outputs = tuple((one.name, _shape(one)) for one in named_outputs(session))
    return File(Path(path).name, partial(_run, session, name, dtype), shape, dtype, outputs)


def input_dtype(stated: Any) -> str:
    """Name of the dtype of an input or output of a session."""
    kind = str(stated.type).removeprefix("tensor(").removesuffix(")")
    return _DTYPES.get(kind, kind)


def named_outputs(session: Any) -> list[Any]:
    """The outputs of a session that can be a map."""
    return [one for one in session.get_outputs() if can_be_map(one.shape)]


def _shape(stated: Any) -> Shape:
    return tuple(n if isinstance(n, int) else None for n in stated.shape)


def _run(session: Any, name: str, dtype: str, x: Array) -> dict[str, Array]:
    given = session.run(None, {name: x.astype(dtype, copy=False)})
    return {one.name: value for one, value in zip(session.get_outputs(), given, strict=True)}
