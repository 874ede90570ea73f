"""A network taken out of its Python: for one size of patch, as a graph that compilers read. Imports torch."""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from chunkinfer.errors import ChunkinferError, EngineError
from chunkinfer.networks.adapters.torch import is_script, picked
from chunkinfer.networks.engines.contract import Setup
from chunkinfer.networks.engines.torch_eager import last_layout, reduced_type
from chunkinfer.networks.outputs import Pick

if TYPE_CHECKING:
    from chunkinfer.networks.model import Model

TALKATIVE = ("", "torch.onnx._internal.exporter._registration", "torch._export.non_strict_utils")
"""Loggers that tell of torchvision's absence, and of sizes that are meant to be fixed; OpenVINO tells the root one of
operators that torch no longer decomposes, with a traceback."""


class OneTensor(nn.Module):
    """A network with one tensor in and one out: the output that counts, where it has several.

    In reduced precision the casts are part of it, so that compilers fuse them.
    """

    def __init__(self, network: nn.Module, pick: Pick, dtype: torch.dtype | None = None, ndim: int = 5) -> None:
        super().__init__()
        self.network, self.pick, self.dtype = network, pick, dtype
        self.layout = last_layout(ndim, torch.contiguous_format)
        self.training = False  # of this module alone: a network's own modes are its caller's

    def forward(self, x: Tensor) -> Tensor:
        if self.dtype is None:
            return picked(self.pick, self.network(x))
        y = picked(self.pick, self.network(x.to(self.dtype, memory_format=self.layout)))
        return y.to(torch.float32, memory_format=torch.contiguous_format)


def prepared(network: nn.Module, pick: Pick, setup: Setup, reduced: bool = True) -> OneTensor:
    """The network as engines compile it; a copy where its weights are cast.

    Parameters
    ----------
    network
        Left as it is.
    pick
        Which of its outputs counts.
    reduced
        Whether the setup's precision is in the graph; False for engines that reduce it themselves.
    """
    if setup.precision == "fp32" or not reduced:
        return OneTensor(network, pick)
    ndim = len(setup.patch)
    with quiet():
        own = copy.deepcopy(network)
    for tensor in (*own.parameters(), *own.buffers()):
        if tensor.is_floating_point():
            layout = last_layout(ndim, torch.preserve_format) if tensor.ndim == ndim else torch.preserve_format
            tensor.data = tensor.data.to(reduced_type(setup.precision), memory_format=layout)
    return OneTensor(own, pick, reduced_type(setup.precision), ndim)


def gives_tensor(script: torch.nn.Module) -> bool:
    """Whether a TorchScript module returns one tensor, and no container."""
    (returned,) = cast(Any, script).forward.schema.returns
    return bool(returned.type.kind() == "TensorType")


def noise(setup: Setup, seed: int = 0) -> Tensor:
    """An input of the setup's size, the same in every process; torch's own random numbers are left alone."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(setup.patch, generator=generator, dtype=getattr(torch, setup.compute)).to(setup.device)


def exported(model: Model, setup: Setup, reduced: bool = True) -> torch.export.ExportedProgram:
    """The network as a torch.export program of fixed size. Nothing is computed.

    Control flow that depends on voxels is refused by torch.export itself.
    """
    network, x = model.module_on(setup.device), noise(setup)
    with torch.no_grad(), quiet():
        if is_script(network):
            from torch._export.converter import TS2EPConverter  # torch offers no public way from TorchScript

            network = TS2EPConverter(cast(torch.jit.ScriptModule, network), (x,)).convert().module()
        return torch.export.export(prepared(network, model.pick, setup, reduced), (x,))


def traced(model: Model, setup: Setup, reduced: bool = True) -> torch.jit.ScriptModule:
    """The network as TorchScript of fixed size. It runs once, and for a torch module three times.

    Raises
    ------
    EngineError
        The module decides by the values of voxels, which a trace of one run cannot follow.
    """
    x = noise(setup)
    subject = prepared(model.module_on(setup.device), model.pick, setup, reduced)
    with torch.no_grad(), quiet():
        script: torch.jit.ScriptModule = torch.jit.trace(subject, x, check_trace=False)  # type: ignore[no-untyped-call]
        # Files hold their control flow, or cannot have any.
        if model.kind == "module" and not _agree(script(x := noise(setup, 1)), subject(x)):
            raise EngineError(
                f"{model.name} does other things for other voxels, and a trace of it cannot follow.",
                "Its forward method reads values in Python: .item(), or an if on a tensor.",
                ["write it with torch.where", 'engine="torch"'],
            )
    return script


def _agree(found: Tensor, expected: Tensor) -> bool:
    scale = expected.abs().max().item()
    return found.shape == expected.shape and torch.allclose(found, expected, rtol=0, atol=1e-3 * scale, equal_nan=True)


def first_that_works(engine: str, model: Model, attempts: Sequence[Callable[[], Any]]) -> Any:
    """The result of the first attempt that raises nothing.

    Raises
    ------
    EngineError
        None does; every failure is shown.
    """
    failures: list[Exception] = []
    for attempt in attempts:
        try:
            return attempt()
        except Exception as error:
            failures.append(error)
    raise failed(engine, model, failures)


@contextmanager
def attempting(engine: str, model: Model) -> Iterator[None]:
    """Errors of compilers as `EngineError`."""
    try:
        yield
    except ChunkinferError:
        raise
    except Exception as error:
        raise failed(engine, model, [error]) from error


def failed(engine: str, model: Model, failures: Sequence[Exception]) -> EngineError:
    """The error of an engine that cannot compile a network."""
    said = "; ".join(f"{type(e).__name__}: {' '.join(str(e).split())[:400]}" for e in failures)
    return EngineError(
        f"{engine} cannot compile {model.name}: {said}",
        "The network uses an operation or a Python construct that this engine does not have.",
        ['engine="torch"', 'engine="auto" takes what works'],
    )


@contextmanager
def quiet() -> Iterator[None]:
    """What torch says on the way is of no use to a caller: deprecations of what it is asked for, sizes held fixed."""
    levels = [(logger := logging.getLogger(name), logger.level) for name in TALKATIVE]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger, _ in levels:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in levels:
                logger.setLevel(level)


@contextmanager
def intra_op(setup: Setup) -> Iterator[None]:
    """The setup's threads while something is compiled, as the kernel's own threads will have them: compilers ask."""
    before = torch.get_num_threads()
    if setup.device == "cpu":
        torch.set_num_threads(setup.threads)
    try:
        yield
    finally:
        if torch.get_num_threads() != before:
            torch.set_num_threads(before)
