"""The OpenVINO engine: on CPUs, the fastest in fp32 and by far in bf16."""

from __future__ import annotations

import io
import threading
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chunkinfer.errors import EngineError
from chunkinfer.networks.adapters.openvino import output_name, outputs_of
from chunkinfer.networks.engines.artefacts import kept
from chunkinfer.networks.engines.contract import Run, Setup
from chunkinfer.networks.engines.fitting import Takes, package_version
from chunkinfer.networks.model import TORCH_KINDS

if TYPE_CHECKING:
    import torch

    from chunkinfer.networks.model import Model

TAKES = Takes(
    packages=("openvino",),
    extra="openvino",
    kinds=(*TORCH_KINDS, "onnx", "openvino"),
    precisions={"cpu": ("fp32", "bf16", "fp16")},
    computes=("float32",),
)

HINTS = {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}
"""Precision -> OpenVINO's name of it, which it must be told: by default it computes in bf16 where the processor can."""


@dataclass(frozen=True)
class OpenVINO:
    """Networks compiled by OpenVINO for one size of patch.

    Sizes are fixed before compiling: compiled for any size, OpenVINO answers those that a network does not take with
    the result of the run before, without an error.
    """

    name: str = "openvino"

    def version(self) -> str:
        return package_version("openvino")

    def refuses(self, model: Model, setup: Setup) -> str | None:
        if refusal := TAKES.refusal(self.name, model, setup):
            return refusal
        if setup.precision != "fp32" and setup.precision.upper() not in _capabilities():
            # Told to compute in fp16, it computes in bf16 on such a processor, and says nothing.
            return f"this processor does not compute in {setup.precision}"
        return None

    def open(self, model: Model, setup: Setup, folder: Path) -> Run:
        openvino = import_module("openvino")
        core, options = openvino.Core(), _options(setup)

        def make(path: Path) -> None:
            network = _converted(core, self.name, model, setup)
            # What only other outputs need is not computed.
            one = openvino.Model([_output(network, model)], network.get_parameters())
            path.write_bytes(core.compile_model(one, "CPU", options).export_model().getvalue())

        def load(path: Path) -> Any:
            return core.import_model(path.read_bytes(), "CPU", options)

        from chunkinfer.networks.engines.exporting import attempting

        with attempting(self.name, model):
            compiled = kept(folder, "network.blob", make, load)
        _check(compiled, setup)
        return _Requests(compiled)


class _Requests:
    """One request per calling thread: it holds the thread's activations, and its output until the next call."""

    def __init__(self, compiled: Any) -> None:
        self._compiled, self._mine = compiled, threading.local()
        self._dtype = compiled.input(0).get_element_type().to_dtype()

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        import torch

        if not hasattr(self._mine, "request"):
            self._mine.request = self._compiled.create_infer_request()
        given = x.numpy(force=True).astype(self._dtype, copy=False)
        found = self._mine.request.infer([given], share_inputs=True, share_outputs=True)
        return torch.from_numpy(found[0])


def _options(setup: Setup) -> dict[str, Any]:
    return {
        "INFERENCE_PRECISION_HINT": HINTS[setup.precision],
        "EXECUTION_MODE_HINT": "ACCURACY" if setup.precision == "fp32" else "PERFORMANCE",
        "NUM_STREAMS": setup.kernels,
        "INFERENCE_NUM_THREADS": setup.kernels * setup.threads,
        "ENABLE_CPU_PINNING": False,  # several processes on one machine would pin themselves to the same cores
    }


def _converted(core: Any, engine: str, model: Model, setup: Setup) -> Any:
    """The network as OpenVINO's own graph, of the setup's size."""
    if model.kind in ("onnx", "openvino"):
        network = core.read_model(model.file())
    else:
        network = _from_torch(engine, model, setup)
    network.reshape({network.inputs[0]: list(setup.patch)})
    return network


def _output(network: Any, model: Model) -> Any:
    """The output of OpenVINO's graph that counts; of a torch module's it is the only one."""
    if model.of_torch:
        return network.outputs[0]
    named = outputs_of(network)
    name, _ = named[model.pick.index([n for n, _ in named], [shape for _, shape in named])]
    return next(one for i, one in enumerate(network.outputs) if output_name(one, i) == name)


def _from_torch(engine: str, model: Model, setup: Setup) -> Any:
    from chunkinfer.networks.engines import exporting

    def script() -> Any:
        return _read_script(_never_run(model.module_on("cpu")))

    def program() -> Any:
        return _read_program(exporting.exported(model, setup, reduced=False))

    def trace() -> Any:
        return _read_script(_never_run(exporting.traced(model, setup, reduced=False)))

    with exporting.quiet():
        alone = model.kind == "torchscript" and exporting.gives_tensor(model.module_on("cpu"))
        return exporting.first_that_works(engine, model, [script if alone else program, trace])


def _never_run(script: Any) -> Any:
    """A copy of a TorchScript module: OpenVINO cannot read one that has run."""
    import torch

    return torch.jit.load(io.BytesIO(script.save_to_buffer()))  # type: ignore[no-untyped-call]


def _read_program(program: Any) -> Any:
    return _frontend(
        import_module("openvino.frontend.pytorch.fx_decoder").TorchFXPythonDecoder.from_exported_program(program)
    )


def _read_script(script: Any) -> Any:
    return _frontend(import_module("openvino.frontend.pytorch.ts_decoder").TorchScriptPythonDecoder(script))


def _frontend(decoder: Any) -> Any:
    """What `openvino.convert_model` does between checks of its arguments and messages to its makers."""
    frontend = import_module("openvino.frontend").FrontEndManager().load_by_framework("pytorch")
    return frontend.convert(frontend.load(decoder))


def _capabilities() -> list[str]:
    return list(import_module("openvino").Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"))


def _check(compiled: Any, setup: Setup) -> None:
    """OpenVINO computes in the precision that it was told."""
    openvino = import_module("openvino")
    asked = {"fp32": openvino.Type.f32, "bf16": openvino.Type.bf16, "fp16": openvino.Type.f16}[setup.precision]
    runs = compiled.get_property("INFERENCE_PRECISION_HINT")
    if runs != asked:
        raise EngineError(
            f"OpenVINO was told to compute in {setup.precision}, and computes in {runs.get_type_name()}.",
            "This processor has no instructions for the precision that was asked for.",
            ['infer(volume, model, engine="openvino", precision="fp32")', 'infer(volume, model, engine="torch")'],
        )
