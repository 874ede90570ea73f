"""The ONNX Runtime engine: what .onnx files are run by."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chunkinfer.networks.adapters.onnx import input_dtype, named_outputs
from chunkinfer.networks.engines.artefacts import kept
from chunkinfer.networks.engines.contract import Run, Setup
from chunkinfer.networks.engines.fitting import Takes, package_version
from chunkinfer.networks.model import TORCH_KINDS
from chunkinfer.networks.outputs import ONLY, Pick

if TYPE_CHECKING:
    import torch

    from chunkinfer.networks.model import Model

TAKES = Takes(
    packages=("onnxruntime",),
    extra="onnx",
    kinds=(*TORCH_KINDS, "onnx"),
    precisions={"cpu": ("fp32",)},  # its CPU kernels of convolutions are in float32 alone
    computes=("float32",),
)


@dataclass(frozen=True)
class OnnxRuntime:
    """Networks as ONNX files, run by ONNX Runtime. Its own optimisation takes milliseconds and is not kept."""

    name: str = "onnxruntime"

    def version(self) -> str:
        return package_version("onnxruntime")

    def refuses(self, model: Model, setup: Setup) -> str | None:
        return TAKES.refusal(self.name, model, setup)

    def open(self, model: Model, setup: Setup, folder: Path) -> Run:
        from chunkinfer.networks.engines.exporting import attempting

        def load(path: Path) -> _Sessions:
            return _Sessions(lambda: _session(path, setup), model.pick if model.kind == "onnx" else ONLY)

        with attempting(self.name, model):
            if model.kind == "onnx":
                return load(Path(model.file()))
            return kept(folder, "network.onnx", lambda path: _export(self.name, model, setup, path), load)


class _Sessions:
    """One session per calling thread, which has threads and working memory of its own, and an output that it keeps."""

    def __init__(self, make: Callable[[], Any], pick: Pick) -> None:
        self._make, self._pick, self._mine = make, pick, threading.local()
        self._spare = [make()]  # opened at once, so that a file that cannot be is known; the first thread takes it

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        mine = self._mine
        if not hasattr(mine, "session"):
            try:
                mine.session = self._spare.pop()
            except IndexError:
                mine.session = self._make()
            (taken,), given = mine.session.get_inputs(), named_outputs(mine.session)
            one = given[self._pick.index([one.name for one in given], [tuple(one.shape) for one in given])]
            mine.names, mine.dtype = (taken.name, one.name), input_dtype(taken)
            mine.output = None
        return _run(mine, x)


def _run(mine: Any, x: torch.Tensor) -> torch.Tensor:
    """One call without copies: ONNX Runtime reads the tensor where it is, and writes where it wrote before.

    A file that takes another type than float32 is given a copy in it.
    """
    import numpy as np
    import torch

    taken, given = mine.names
    x = x.contiguous()
    binding = mine.session.io_binding()
    if mine.dtype == "float32":
        binding.bind_input(taken, "cpu", 0, np.float32, tuple(x.shape), x.data_ptr())
    else:
        binding.bind_cpu_input(taken, x.numpy(force=True).astype(mine.dtype))
    if mine.output is None:
        binding.bind_output(given, "cpu")
        mine.session.run_with_iobinding(binding)
        first: torch.Tensor = torch.from_numpy(binding.copy_outputs_to_cpu()[0])
        mine.output = first
        return first
    out: torch.Tensor = mine.output
    binding.bind_output(given, "cpu", 0, out.numpy().dtype, tuple(out.shape), out.data_ptr())
    mine.session.run_with_iobinding(binding)
    return out


def _session(path: Path, setup: Setup) -> Any:
    runtime = import_module("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = setup.threads, 1
    options.log_severity_level = 4
    options.enable_mem_pattern = False  # planned as one piece, activations take 1.4 times the memory and no less time
    # Threads that wait in a loop take cores from other kernels.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _export(engine: str, model: Model, setup: Setup, path: Path) -> None:
    """Write the network as ONNX, by whichever of torch's exporters can: the older needs no other package."""
    import torch

    from chunkinfer.networks.engines import exporting

    x = exporting.noise(setup)

    def from_trace() -> None:
        script = exporting.traced(model, setup)
        with torch.no_grad(), exporting.quiet():
            torch.onnx.export(script, (x,), str(path), dynamo=False)

    def from_program() -> None:
        with torch.no_grad(), exporting.quiet():
            program = torch.onnx.export(exporting.exported(model, setup), dynamo=True, verbose=False)
            if program is None:
                raise RuntimeError("torch.onnx.export gave nothing")
            program.save(str(path), external_data=False)

    exporting.first_that_works(engine, model, [from_trace, from_program])
