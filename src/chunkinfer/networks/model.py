"""The model contract: what a run needs to know of a network, and a reference that travels in its place."""

from __future__ import annotations

import hashlib
import io
import json
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from chunkinfer.errors import ModelError, UntrustedModel
from chunkinfer.geometry.contract import AxisContract
from chunkinfer.networks import files
from chunkinfer.networks.adapters import callable as opaque
from chunkinfer.networks.adapters import torch as adapter
from chunkinfer.networks.outputs import Pick, chosen
from chunkinfer.support.lru import Lru

if TYPE_CHECKING:
    import torch

    from chunkinfer.networks.augment import Augmentation
    from chunkinfer.networks.identity.shippable import Shippable
    from chunkinfer.networks.network import Array, Network
    from chunkinfer.networks.trace.tracing import Trace

KEPT_OPEN = 4
"""Networks that a process keeps open; the least recently used one is closed first."""

TORCH_KINDS = ("module", "torchscript", "export")
"""Kinds of model that hold a torch module; the others can only be called."""

_open: Lru[tuple[str, str], Any] = Lru(KEPT_OPEN)
_traces: WeakKeyDictionary[torch.nn.Module, dict[_TraceKey, Trace]] = WeakKeyDictionary()
_probed: dict[_TraceKey, Trace] = {}
_lock = threading.RLock()

_TraceKey = tuple[Any, ...]


@dataclass(frozen=True)
class Model:
    """A reference to a network: it is equal to another by its digest, pickles to a path, a URL or bytes, and is opened
    once per process."""

    name: str
    """For people: the class or the file."""
    network_digest: str
    """Of all that can change what it computes (`chunkinfer.networks.identity.identity`); of a file, its content."""
    kind: str
    """module, torchscript or export; onnx or openvino for files of others; function for what can only be called."""
    path: str | None = field(default=None, compare=False)
    """Where the file is for the caller; for every worker too, unless there is an origin."""
    origin: files.Origin | None = field(default=None, compare=False)
    """Where a process gets the file from that does not find it at the path."""
    module: Shippable | None = field(default=None, compare=False, repr=False)
    """The module or function itself, pickled when it leaves the process."""
    unknown: str | None = field(default=None, compare=False, repr=False)
    """What of it is not in the digest, because nobody can tell it; None if nothing."""
    version: str | None = None
    """The caller's word for what is not in the digest."""
    output: str | None = None
    """Name or number of the output that counts; None for the only one. See `chunkinfer.networks.outputs`."""
    augmentation: Augmentation | None = None
    """Variants of each patch whose results are averaged; see `chunkinfer.augment`."""

    @property
    def digest(self) -> str:
        """Of the network, and of the output that was chosen, its augmentation and its version where there are any."""
        parts = [self.network_digest]
        if self.output is not None:
            parts.append(json.dumps({"output": self.output}))
        if self.augmentation is not None:
            parts.append(json.dumps(self.augmentation.token(), sort_keys=True))
        if self.version is not None:
            parts.append(f"version {self.version}")
        return parts[0] if len(parts) == 1 else hashlib.blake2b(" ".join(parts).encode(), digest_size=16).hexdigest()

    @property
    def doubt(self) -> str | None:
        """Why another network may have the same digest; None where that cannot be."""
        return self.unknown if self.version is None else None

    def versioned(self, version: str | None) -> Model:
        """The model under a version, which the caller changes when he changes what the digest cannot see."""
        if version is not None and (not isinstance(version, str) or not version):
            raise ModelError(
                f"version={version!r} is no name of a version.",
                "It is a text that changes with the network.",
                ['infer(volume, model, version="v3")', "leave version= out"],
            )
        return self if version is None else replace(self, version=version)

    @property
    def pick(self) -> Pick:
        """Takes the output that counts out of what the network returns."""
        return Pick(self.output, self.name, not self.of_torch)

    @property
    def of_torch(self) -> bool:
        """Whether it holds a torch module, into which one can look."""
        return self.kind in TORCH_KINDS

    @property
    def of_file(self) -> bool:
        """Whether it is opened from a file."""
        return self.path is not None or self.origin is not None

    @property
    def plain(self) -> Model:
        """The model without augmentation."""
        return replace(self, augmentation=None)

    def check(self) -> None:
        """Refuse a module or function that is no longer what it was when it was opened.

        Raises
        ------
        ModelError
            It was changed since, or this process has other code for it.
        """
        if self.module is not None:
            self.module.check(self.network_digest, self.name)

    def fresh(self) -> Model:
        """The same, to be checked again before it runs."""
        return self if self.module is None else replace(self, module=self.module.fresh())

    def program(self, shape: tuple[int, ...], dtype: str) -> str | None:
        """Digest of the operators that a module calls on inputs (n, c, *space) of this shape; None where it is part
        Python, or not a module but a file or a function."""
        return None if self.module is None else self.module.program(shape, dtype)

    def module_on(self, device: str) -> torch.nn.Module:
        """The torch module on a device, opened once per process; only of kinds that hold one.

        Raises
        ------
        ModelError
            The file is not there for this process, or is not the one that was planned with.
        """
        if self.module is not None:
            return self.module.on(device)
        module: torch.nn.Module = self._opened(device, lambda path: adapter.load_file(path, self.kind, device))
        return module

    def function(self) -> Callable[[Any], Any]:
        """What a model without a torch module is: a function of arrays that gives the output that counts, opened once
        per process.

        Raises
        ------
        ModelError
            As for `module_on`.
        """
        if self.module is not None:
            return opaque.on_arrays(self.module.get(), self.pick)
        run, pick = self._opened("cpu", opaque.open_file).run, self.pick
        return lambda x: pick(run(x))

    def file(self) -> str:
        """The path of the model's file, checked to be there and the one that was planned with.

        Raises
        ------
        ModelError
            It is neither, or cannot be fetched.
        """
        path = self.path or ""
        there = os.path.exists(path)
        if there and files.file_digest(path) == self.network_digest:
            return path
        if self.origin is not None:
            return files.kept(self.network_digest, self.name, self.origin)
        if not there:
            raise ModelError(
                f"The model file {path} is not there for this process.",
                "Workers on other machines need to see it under the same path.",
                [
                    f'send it along: infer(volume, deliver("{path}"))',
                    f'put it where workers can fetch it: infer(volume, "s3://bucket/{self.name}")',
                    "put it on a file system that all workers share",
                ],
            )
        raise ModelError(
            f"The model file {path} is not the one that this run was planned with.",
            "It was replaced in between, or another machine has another file under this path.",
            ["restore the file", "plan anew: infer(volume, model) reads the new one"],
        )

    def network(self, device: str) -> Callable[[torch.Tensor], torch.Tensor]:
        """The reference that every engine is compared with: (n, c, *space) -> (n, c, *space) on the device, any size.

        torch runs what torch can, in the network's own precision; a file or function of others runs itself.
        """
        if self.of_torch:
            run = adapter.callable_of(self.module_on(device), self.pick)
        else:
            run = opaque.on_tensors(self.function())
        return run if self.augmentation is None else self.augmentation.wrap(run)

    def _opened(self, device: str, load: Callable[[str], Any]) -> Any:
        """What a file holds, opened once per process."""
        with _lock:
            return _open.get_or_make((self.network_digest, device), lambda: load(self.file()))

    def compute_dtype(self) -> str:
        """float32, or float64 for a network in double precision."""
        if self.of_torch:
            return adapter.compute_dtype(self.module_on("cpu"), self.name, self.of_file)
        return "float32"

    def input_dtype(self) -> str:
        """Name of the dtype that the network takes: that of its weights, or what a file states."""
        if self.of_torch or self.module is not None:
            return self.compute_dtype()
        return str(self._opened("cpu", opaque.open_file).dtype)

    @property
    def is_copy(self) -> bool:
        """Whether it is a module that was copied, so that the caller's own one stays beside it."""
        return self.module is not None and self.module.copied

    def parameter_bytes(self) -> int:
        """Bytes of weights and buffers; of the file where nobody can look into it."""
        if self.of_torch:
            module = self.module_on("cpu")
            return sum(t.numel() * t.element_size() for t in (*module.parameters(), *module.buffers()))
        return sum(map(os.path.getsize, files.files_of(self.file()))) if self.of_file else 0

    def arrays(self, channels: int | None, ndim: int | None) -> Network:
        """The network, without augmentation, as a function of numpy arrays, on the CPU.

        Raises
        ------
        ModelError
            Channels or axes are None, and no file states them; or a file states others.
        """
        import torch

        from chunkinfer.networks.network import Network

        if not self.of_torch:
            what = self.file() if self.module is None else self.module.get()
            return opaque.open_opaque(what, channels, ndim, self.pick)
        if channels is None or ndim is None:
            raise opaque.unknown_input(self.name)
        run = self.plain.network("cpu")

        def on_arrays(x: Array) -> Array:
            with torch.no_grad():
                found: Array = run(torch.from_numpy(x.copy())).numpy(force=True)
            return found

        return Network(self.name, on_arrays, channels, ndim, self.compute_dtype())

    def trace(
        self,
        channels: int,
        ndim: int,
        size: tuple[int, ...] | None = None,
        *,
        volume: tuple[int, ...] | None = None,
        voxels: Callable[[], Sequence[Array]] | None = None,
    ) -> Trace:
        """The network's contract on every axis, remembered: traced from a torch module (see
        `chunkinfer.networks.trace.tracing.trace`), found by probing where nobody can look into it.

        A module that the tracer refuses, or a function, may state its contract itself, in an attribute
        ``tiling_contract``; it is believed after a check.

        Parameters
        ----------
        channels, ndim
            Input channels and spatial axes.
        size
            A spatial shape that the network takes, where it takes few.
        volume
            Spatial voxels of a volume, for the contracts at its own lengths. By default those that hold for any volume
            whose lengths the network takes.
        voxels
            Gives some boxes of the volume that it will run on, (channels, *space) each, scaled as the network takes
            them: probes are drawn from them too. Only called where probing needs them.
        """
        samples = () if self.of_torch or voxels is None else tuple(voxels())
        drawn = files.digest_of(s.tobytes() for s in samples)
        key = (self.network_digest, self.output, channels, ndim, size, drawn)

        def find() -> Trace:
            return self._traced(channels, ndim, size) if self.of_torch else self._probed(channels, ndim, size, samples)

        def at(shape: Sequence[int]) -> Trace:
            return self._remembered((*key, tuple(shape)), lambda: self._found_at(found, tuple(shape), samples))

        found = self._remembered(key, find)
        if self.augmentation is None:
            return found if volume is None else at(volume)
        self.augmentation.check(found.channels_out, ndim)
        return replace(found, axes=self.augmentation.contracts(found.axes, volume, lambda shape: at(shape).axes))

    def _remembered(self, key: _TraceKey, make: Callable[[], Trace]) -> Trace:
        with _lock:
            known = _traces.setdefault(self._callers(), {}) if self.of_torch else _probed
            if key not in known:
                known[key] = make()
            return known[key]

    def _found_at(self, found: Trace, volume: tuple[int, ...], samples: tuple[Array, ...]) -> Trace:
        stated = found.declared is not None and not found.probed
        if found.reasons or stated or all(map(AxisContract.accepts, found.axes, volume)):
            return found
        if self.of_torch:
            import torch

            from chunkinfer.networks.trace.tracing import at_lengths

            return at_lengths(self.module_on("cpu"), found, volume, getattr(torch, self.compute_dtype()))
        from chunkinfer.networks.probing.probing import probe_at

        network = replace(self.arrays(found.channels_in, len(volume)), samples=samples)
        return replace(found, axes=probe_at(network, found.axes, volume))

    def _callers(self) -> torch.nn.Module:
        """What traces are remembered with: the caller's own module, of which each call makes a copy."""
        found: torch.nn.Module = self.module_on("cpu") if self.module is None else self.module.caller
        return found

    def _traced(self, channels: int, ndim: int, size: tuple[int, ...] | None) -> Trace:
        import torch

        from chunkinfer.networks.stated_contract import confirm, contracts_of, declared_by
        from chunkinfer.networks.trace.tracing import trace

        module = self.module_on("cpu")
        found = trace(module, channels, ndim, dtype=getattr(torch, self.compute_dtype()), size=size, pick=self.pick)
        if not found.reasons or (declared := declared_by(module)) is None:
            return found
        axes = contracts_of(declared, ndim)
        with torch.random.fork_rng(devices=[]):
            seen = confirm(self.arrays(channels, ndim), axes)
        return replace(found, axes=axes, reasons=(), declared=seen)

    def _probed(self, channels: int, ndim: int, size: tuple[int, ...] | None, samples: tuple[Array, ...]) -> Trace:
        from chunkinfer.networks.probing.probing import declared_field, probe
        from chunkinfer.networks.stated_contract import WITHDRAW, contracts_of, declared_by
        from chunkinfer.networks.trace.dependence import Reason
        from chunkinfer.networks.trace.tracing import Trace

        network = replace(self.arrays(channels, ndim), samples=samples)
        declared = None if self.module is None else declared_by(self.module.get())
        field = (
            probe(network, size)
            if declared is None
            else declared_field(network, contracts_of(declared, ndim), WITHDRAW)
        )
        reasons = tuple(Reason(self.name, text) for text in field.reasons)
        return Trace(
            field.axes, channels, field.channels_out, field.dtype, reasons, (field.how,), field.verified,
            pick=self.pick, probed=field.how == "probed",
        )  # fmt: skip


def open_model(model: object, output: str | int | None = None) -> Model:
    """Anything that names a network, as a `Model`.

    Parameters
    ----------
    model
        A `torch.nn.Module`, the path or URL of a TorchScript (``torch.jit.save``), ``torch.export`` (.pt2), ONNX
        (.onnx) or OpenVINO (.xml) file, the bytes of an ONNX file, any function from an array (n, c, *space) to
        another, or a `Model`. A path or URL that the caller types is consent to run what the file holds. A URL may end
        in ``#sha256=`` and the digest that the file must have (of OpenVINO's two files, one after the other); one of
        http:// has to.
    output
        Name or number of the output that counts, of a network with several.

    Raises
    ------
    ModelError
        There is no such file, or it holds no network.
    UntrustedModel
        The file is a pickle: opening it would execute whatever its author put in. Or it comes without TLS and digest,
        or as bytes that can be code, which nobody said to trust.
    SourceError
        A URL carries credentials, or its scheme is not known.
    """
    opened = _reference(model)
    return opened if output is None else replace(opened, output=chosen(output))


def _reference(model: object) -> Model:
    if isinstance(model, Model):
        return model
    if isinstance(model, bytes):
        return _from_bytes(model, trust=False)
    if isinstance(model, str) and "://" in model:
        return _from_url(model)
    if isinstance(model, str | os.PathLike):
        path = os.path.abspath(Path(model).expanduser())
        digest = files.file_digest(path)
        return Model(Path(path).name, digest, _kind_of(path, path), path=path)
    if opaque.is_function(model):
        return _held(getattr(model, "__name__", type(model).__name__), "function", model)
    module = adapter.as_module(model)
    return _held(type(module).__name__, "torchscript" if adapter.is_script(module) else "module", module)


def _held(name: str, kind: str, given: object) -> Model:
    """A module or function, as the value that it is now."""
    from chunkinfer.networks.identity.shippable import Shippable

    held = Shippable(given)
    found = held.identity()
    return Model(name, found.digest, kind, module=held, unknown=found.doubt)


def deliver(model: object, *, trust: bool = False) -> Model:
    """A network whose file travels with the run: for workers that see neither its path nor its URL.

    The bytes are part of the run's held tasks, never of its windows: they pass through the scheduler and arrive once at
    each worker process, where they are checked. So for a large file, and for many workers, a URL is the better way.

    Parameters
    ----------
    model
        What `open_model` takes; or the bytes of a TorchScript or ``torch.export`` file.
    trust
        Says that bytes in a format that can be code (TorchScript, ``torch.export``) are from someone you trust. Paths
        and URLs don't need it: typing one says so.

    Raises
    ------
    ModelError, UntrustedModel, SourceError
        As for `open_model`.
    """
    opened = _from_bytes(model, trust) if isinstance(model, bytes) else open_model(model)
    if not opened.of_file:
        return opened  # modules and functions travel anyway
    content = {Path(part).name: Path(part).read_bytes() for part in files.files_of(opened.file())}
    return replace(opened, origin=files.Carried(content))


def _from_url(url: str) -> Model:
    place, pin = files.place_of(url)
    if place.path is not None:
        path = str(place.path)
        files.check_pin(path, (Path(part).read_bytes() for part in files.files_of(path)), pin)
        return open_model(path)
    remote = files.Remote.at(place)
    content = remote.files()
    files.check_pin(place.url, content.values(), pin)
    digest = files.digest_of(content.values())
    path = files.kept(digest, remote.name, files.Carried(content))
    return Model(remote.name, digest, _kind_of(path, place.url), origin=remote)


def _from_bytes(data: bytes, trust: bool) -> Model:
    """A model of one file, which travels; ONNX by the first field of its message, the rest as archives."""
    kind = "onnx" if data[:1] == b"\x08" else adapter.file_kind("What was given", io.BytesIO(data))
    if kind in TORCH_KINDS and not trust:
        raise UntrustedModel(
            f"These {len(data)} bytes are a network in a format that can be code ({kind}).",
            "Bytes tell nothing of where they are from; running them runs whatever their author put in.",
            [
                "say that you trust them: infer(volume, deliver(data, trust=True))",
                'name the file, which says the same: infer(volume, "model.pt2")',
            ],
        )
    name = "network" + {"onnx": ".onnx", "torchscript": ".pt", "export": ".pt2"}[kind]
    return Model(name, files.digest_of([data]), kind, origin=files.Carried({name: data}))


def _kind_of(path: str, called: str) -> str:
    """What a file is: by its suffix what others wrote, by its content what torch did."""
    if kind := opaque.FILE_KINDS.get(Path(path).suffix):
        return kind
    with open(path, "rb") as file:
        return adapter.file_kind(called, file)
