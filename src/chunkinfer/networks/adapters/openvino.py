"""The OpenVINO adapter: a .xml file (with its .bin) as a function of arrays."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chunkinfer.errors import MissingExtra, ModelError
from chunkinfer.networks.adapters.callable import File
from chunkinfer.networks.inputs import check_inputs
from chunkinfer.networks.outputs import Shape, can_be_map

if TYPE_CHECKING:
    from chunkinfer.networks.network import Array

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
        model = core.read_model(path)
    except RuntimeError as error:
        raise ModelError(
            f"{path} cannot be opened by OpenVINO: {error}",
            "The .bin file with the weights is not beside it, or another version wrote it.",
            [
                f"put the file with its weights beside it, as {Path(path).with_suffix('.bin').name}",
                'write it again: openvino.save_model(openvino.convert_model(module, example_input=x), "model.xml")',
            ],
        ) from error
    inputs = [(output_name(one, i), _shape(one), _dtype(one)) for i, one in enumerate(model.inputs)]
    check_inputs(path, inputs)
    ((_, shape, dtype),) = inputs
    return File(Path(path).name, _Engine(core, path, dtype), shape, dtype, outputs_of(model))


def outputs_of(model: Any) -> tuple[tuple[str, Shape], ...]:
    """Names and shapes of a model's outputs that can be a map."""
    named = ((output_name(one, i), _shape(one)) for i, one in enumerate(model.outputs))
    return tuple((name, shape) for name, shape in named if can_be_map(shape))


def output_name(port: Any, place: int) -> str:
    """Name of an input or output; its place where it has none."""
    return str(port.any_name) if port.names else str(place)


def _shape(port: Any) -> Shape:
    return tuple(n.get_length() if n.is_static else None for n in port.get_partial_shape())


def _dtype(port: Any) -> str:
    return str(port.get_element_type().to_dtype().name)


class _Engine:
    """The network compiled for one shape at a time.

    Compiled for any shape, it answers sizes that it does not take with the result of the run before, without an error.
    """

    def __init__(self, core: Any, path: str, dtype: str) -> None:
        self._core, self._path, self._dtype = core, path, dtype
        self._shape: tuple[int, ...] | None = None
        self._compiled: Any = None

    def __call__(self, x: Array) -> dict[str, Array]:
        if x.shape != self._shape:
            model = self._core.read_model(self._path)
            model.reshape(list(x.shape))
            self._compiled, self._shape = self._core.compile_model(model, "CPU", _EXACT), x.shape
        given = self._compiled([x.astype(self._dtype, copy=False)])
        return {output_name(port, i): given[port] for i, port in enumerate(self._compiled.outputs)}
