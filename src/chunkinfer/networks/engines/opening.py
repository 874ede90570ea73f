"""Engines by name, and networks opened once per process."""

from __future__ import annotations

import shutil
import tempfile
import threading
import weakref
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from chunkinfer.errors import EngineError
from chunkinfer.networks.engines.cache import compiled_folder
from chunkinfer.networks.engines.compiled import Compiled
from chunkinfer.networks.engines.contract import Engine, Run, Setup
from chunkinfer.networks.engines.exported import Exported
from chunkinfer.networks.engines.function import Function
from chunkinfer.networks.engines.identity import Identity
from chunkinfer.networks.engines.onnx_engine import OnnxRuntime
from chunkinfer.networks.engines.openvino_engine import OpenVINO
from chunkinfer.networks.engines.torch_eager import TorchEager, reproducible
from chunkinfer.networks.engines.torchscript import TorchScript
from chunkinfer.support.lru import Lru

if TYPE_CHECKING:
    from chunkinfer.networks.model import Model

_ALL: tuple[Engine, ...] = (
    TorchEager(),
    OpenVINO(),
    TorchScript(),
    OnnxRuntime(),
    Compiled(),
    Exported(),
    Function(),
    Identity(),
)

ENGINES = {engine.name: engine for engine in _ALL}
"""Every engine by its name, the quick to open first."""

AUTO = "auto"
"""``engine=`` that asks for the fastest one."""

KEPT_OPEN = 8
"""Networks, each for one size of patch, that a process keeps open; the least recently used is closed first."""

_Key = tuple[str, str, str | None, Setup]

_NATIVE = {"onnx": "onnxruntime", "openvino": "openvino", "function": "function"}

READ_THE_MODULE = ("torch", "function")
"""Engines whose runs read the very module or function that they were opened with; the others hold what it was then."""


_open: Lru[_Key, Run] = Lru(KEPT_OPEN)
_lock = threading.RLock()


def native_engine(model: Model) -> str:
    """The engine that a model is made for: what runs where no other is asked for."""
    return _NATIVE.get(model.kind, "torch")


def candidates(model: Model) -> list[Engine]:
    """The engines that ``"auto"`` chooses from."""
    if model.kind == "function":
        return [ENGINES["function"]]
    return [e for e in ENGINES.values() if e.name not in ("function", "identity")]


def require(engine: str, model: Model, setup: Setup) -> None:
    """Raise `EngineError` where an engine cannot run a model."""
    if reason := ENGINES[engine].refuses(model, setup):
        others = [e.name for e in candidates(model) if e.name != engine and not e.refuses(model, setup)]
        raise EngineError(
            f"engine={engine!r} cannot run {model.name} in {setup.precision} on {setup.device}: {reason}.",
            f"Engines that can, here: {', '.join(others)}." if others else "No other engine here can, either.",
            [f'engine="{others[0]}"', 'engine="auto" takes the fastest of those that can']
            if others
            else [f'engine="{native_engine(model)}", precision="fp32", device="cpu"'],
        )


def open_network(model: Model, setup: Setup, engine: str) -> Run:
    """A model opened by an engine for one size of patch; once per process, and compiled once per machine.

    Raises
    ------
    EngineError
        The engine cannot run it here: not installed, another device, a precision that it does not have.
    ModelError
        The model's file is not there, or is another one.
    """
    if model.augmentation is not None and engine != "identity":
        sizes = model.augmentation.shapes(setup.patch[2:])
        setups = [replace(setup, patch=(*setup.patch[:2], *size)) for size in sizes]
        return model.augmentation.wrap({each.patch: _opened(model.plain, each, engine) for each in setups})
    return _opened(model.plain, setup, engine)


def _opened(model: Model, setup: Setup, engine: str) -> Run:
    # Kernels of one process start together, and only one of them opens the network.
    with _lock:
        model.check()
        program = model.program(setup.patch, setup.compute)
        held, table = model.module, _open
        if held is not None and (program is None or engine in READ_THE_MODULE):
            table = held.opened  # another module with this digest could be another one by now
        return table.get_or_make(
            (engine, model.digest, program, setup), lambda: _open_anew(model, setup, engine, program)
        )


def _open_anew(model: Model, setup: Setup, name: str, program: str | None) -> Run:
    require(name, model, setup)
    if setup.device == "cuda":
        reproducible()
    engine = ENGINES[name]
    if model.module is None or program is not None or engine.name in READ_THE_MODULE:
        return engine.open(model, setup, compiled_folder(engine, model, setup, program))
    # Nothing says what the module will be in another process, so nothing is left for it.
    place = tempfile.mkdtemp(prefix="chunkinfer-")
    run = engine.open(model, setup, Path(place))
    weakref.finalize(run, shutil.rmtree, place, ignore_errors=True)
    return run
