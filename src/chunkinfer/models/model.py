"""The model contract: what a run needs to know of a network, and a reference that travels in its place."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from chunkinfer.errors import ModelError
from chunkinfer.models import torch_models as adapter

if TYPE_CHECKING:
    import torch

    from chunkinfer.models.network import Network
    from chunkinfer.models.trace import Trace

KEPT_OPEN = 4
"""Networks that a process keeps open; the least recently used one is closed first."""

_open: OrderedDict[tuple[str, str], torch.nn.Module] = OrderedDict()
_traces: WeakKeyDictionary[torch.nn.Module, dict[tuple[str, int, int, tuple[int, ...] | None], Trace]] = (
    WeakKeyDictionary()
)
_lock = threading.Lock()


@dataclass(frozen=True)
class Model:
    """A reference to a network: it is equal to another by its digest, pickles to a path or to bytes, and is opened once
    per process."""

    name: str
    """For people: the class or the file."""
    digest: str
    """blake2b of the weights and the structure, or of the file."""
    kind: str
    """module, torchscript or export."""
    path: str | None = field(default=None, compare=False)
    """Where the file is; it must be there for every worker too. Files are kept open by their digest."""
    module: adapter.Shippable | None = field(default=None, compare=False, repr=False)
    """The module itself, pickled when it leaves the process."""

    def module_on(self, device: str) -> torch.nn.Module:
        """The network on a device, opened once per process.

        Raises
        ------
        ModelError
            The file is not there for this process, or is not the one that was planned with.
        """
        if self.module is not None:
            return self.module.on(device)
        with _lock:
            key = (self.digest, device)
            if key not in _open:
                _open[key] = self._load(device)
                while len(_open) > KEPT_OPEN:
                    _open.popitem(last=False)
            _open.move_to_end(key)
            return _open[key]

    def network(self, device: str) -> Callable[[torch.Tensor], torch.Tensor]:
        """The callable that the kernel runs: (n, c, *space) -> (n, c, *space) on the device."""
        return adapter.callable_of(self.module_on(device))

    def _load(self, device: str) -> torch.nn.Module:
        path = self.path or ""
        if not os.path.exists(path):
            raise ModelError(
                f"The model file {path} is not there for this process.",
                "Workers on other machines need to see it under the same path.",
                ["put it on a file system that all workers share", "give infer the torch.nn.Module: it travels itself"],
            )
        if adapter.file_digest(path) != self.digest:
            raise ModelError(
                f"The model file {path} is not the one that this run was planned with.",
                "It was replaced in between, or another machine has another file under this path.",
                ["restore the file", "plan anew: infer(volume, model) reads the new one"],
            )
        return adapter.load_file(path, self.kind, device)

    def compute_dtype(self) -> str:
        """float32, or float64 for a network in double precision."""
        return adapter.compute_dtype(self.module_on("cpu"), self.name)

    def parameter_bytes(self) -> int:
        """Bytes of weights and buffers."""
        module = self.module_on("cpu")
        return sum(t.numel() * t.element_size() for t in (*module.parameters(), *module.buffers()))

    def arrays(self, channels: int, ndim: int) -> Network:
        """The network as a function of numpy arrays, on the CPU."""
        import torch

        from chunkinfer.models.network import Array, Network

        run = self.network("cpu")

        def on_arrays(x: Array) -> Array:
            with torch.no_grad():
                found: Array = run(torch.from_numpy(x.copy())).numpy(force=True)
            return found

        return Network(self.name, on_arrays, channels, ndim, self.compute_dtype())

    def trace(self, channels: int, ndim: int, size: tuple[int, ...] | None = None) -> Trace:
        """The network's contract on every axis; see `chunkinfer.models.trace.trace`. Remembered with the module.

        A module that the tracer refuses may state its contract itself, in an attribute ``tiling_contract``; it is
        believed after a check.
        """
        import torch

        from chunkinfer.models.declaring import confirm, contracts_of, declared_by
        from chunkinfer.models.trace import trace

        module = self.module_on("cpu")
        known = _traces.setdefault(module, {})
        key = (self.digest, channels, ndim, size)
        if key not in known:
            found = trace(module, channels, ndim, dtype=getattr(torch, self.compute_dtype()), size=size)
            if found.reasons and (declared := declared_by(module)) is not None:
                axes = contracts_of(declared, ndim)
                with torch.random.fork_rng(devices=[]):
                    seen = confirm(self.arrays(channels, ndim), axes)
                found = replace(found, axes=axes, reasons=(), declared=seen)
            known[key] = found
        return known[key]


def open_model(model: object) -> Model:
    """Anything that names a network, as a `Model`.

    Parameters
    ----------
    model
        A `torch.nn.Module`, the path of a TorchScript (``torch.jit.save``) or ``torch.export`` (.pt2) file, or a
        `Model`. A path that the caller types is consent to run what the file holds.

    Raises
    ------
    ModelError
        There is no such file, or it holds no network.
    UntrustedModel
        The file is a pickle: opening it would execute whatever its author put in.
    """
    if isinstance(model, Model):
        return model
    if isinstance(model, str | os.PathLike):
        path = os.path.abspath(Path(model).expanduser())
        return Model(Path(path).name, adapter.file_digest(path), adapter.file_kind(path), path=path)
    module = adapter.as_module(model)
    kind = "torchscript" if adapter.is_script(module) else "module"
    return Model(type(module).__name__, adapter.module_digest(module), kind, module=adapter.Shippable(module))
