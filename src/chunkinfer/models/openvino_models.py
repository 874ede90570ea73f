"""The OpenVINO adapter: a .xml file (with its .bin) as a function of arrays."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chunkinfer.errors import MissingExtra, ModelError
from chunkinfer.models.opaque import File

if TYPE_CHECKING:
    from chunkinfer.models.network import Array

_EXACT = {
    "INFERENCE_NUM_THREADS": 1,
    "INFERENCE_PRECISION_HINT": "f32",  # by default bfloat16 on processors that have it
}


def open_openvino(path: str) -> File:
    """Open an OpenVINO file on the CPU, on one thread and in full precision.

    Raises
    ------
    MissingExtra
        openvino is not installed.
    ModelError
        It cannot open the file.
    """
    try:
        openvino = import_module("openvino")
    except ImportError as error:
        raise MissingExtra.of("OpenVINO files", "openvino", "openvino") from error
    core = openvino.Core()
    try:
        taken = core.read_model(path).input(0)
    except RuntimeError as error:
        raise ModelError(
            f"{path} cannot be opened by OpenVINO: {error}",
            "The .bin file with the weights is not beside it, or another version wrote it.",
            [f"ls {Path(path).with_suffix('.bin')}", 'write it again: openvino.save_model(model, "model.xml")'],
        ) from error
    shape = tuple(n.get_length() if n.is_static else None for n in taken.get_partial_shape())
    return File(Path(path).name, _Engine(core, path), shape, taken.get_element_type().to_dtype().name)


class _Engine:
    """The network compiled for one shape at a time.

    Compiled for any shape, it answers sizes that it does not take with the result of the run before, without an error.
    """

    def __init__(self, core: Any, path: str) -> None:
        self._core, self._path = core, path
        self._shape: tuple[int, ...] | None = None
        self._compiled: Any = None

    def __call__(self, x: Array) -> Array:
        if x.shape != self._shape:
            model = self._core.read_model(self._path)
            model.reshape(list(x.shape))
            self._compiled, self._shape = self._core.compile_model(model, "CPU", _EXACT), x.shape
        y: Array = self._compiled([x])[0]
        return y
