"""The compile engine: torch.compile with Inductor; on a GPU, its kernels replayed as a CUDA graph."""

from __future__ import annotations

import tempfile
import threading
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chunkinfer.networks.engines.artefacts import found, pack, store, unpack
from chunkinfer.networks.engines.contract import Run, Setup
from chunkinfer.networks.engines.fitting import BY_TORCH, package_version
from chunkinfer.networks.engines.inductor import COMPILING, missing_compiler, options

if TYPE_CHECKING:
    import torch

    from chunkinfer.networks.model import Model

TAKES = replace(BY_TORCH, kinds=("module", "export"))

ARCHIVE = "inductor.zip"
"""Inductor's own folder of generated and compiled code, as one file that can be checked."""


@dataclass(frozen=True)
class Compiled:
    """Networks compiled by torch.compile for one size of patch.

    Unlike ``export`` it takes networks that are part Python. A second start finds compiled code and still has to follow
    the network's Python, so it is slower to start.
    """

    name: str = "compile"

    def version(self) -> str:
        return package_version("torch")

    def refuses(self, model: Model, setup: Setup) -> str | None:
        return TAKES.refusal(self.name, model, setup) or missing_compiler(setup)

    def open(self, model: Model, setup: Setup, folder: Path) -> Run:
        from chunkinfer.networks.engines.exporting import attempting

        with COMPILING, attempting(self.name, model):
            for archive in found(folder, ARCHIVE):
                try:
                    return _open(model, setup, archive=archive)
                except Exception:  # code of another machine or compiler
                    archive.unlink(missing_ok=True)
            return _open(model, setup, keep=folder)


def _open(model: Model, setup: Setup, archive: Path | None = None, keep: Path | None = None) -> Run:
    """Compile with what an archive holds, or compile and keep an archive of it."""
    from torch._inductor.runtime.cache_dir_utils import temporary_cache_dir

    with tempfile.TemporaryDirectory() as place, temporary_cache_dir(place):
        if archive is not None:
            unpack(archive, Path(place))
        run = _compile(model, setup)
        if keep is not None:
            store(keep, ARCHIVE, lambda path: pack(Path(place), path))
    return _Graphs(run) if setup.device == "cuda" else run


def _compile(model: Model, setup: Setup) -> Run:
    """The network compiled, and run once, because torch.compile compiles when it is called."""
    import torch
    from torch._dynamo import config
    from torch._inductor import config as inductor_config

    from chunkinfer.networks.engines import exporting

    network = exporting.prepared(model.module_on(setup.device), model.pick, setup)
    compiled = torch.compile(network, dynamic=False)

    def run(x: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            # Tensors made outside of inference mode are another kind, which would be compiled for anew.
            result: torch.Tensor = compiled(x if x.is_inference() else x.clone())
            return result

    # Each network and size counts as a recompilation of the same function, and beyond a limit they run uncompiled.
    limits = config.patch(recompile_limit=10_000, accumulated_recompile_limit=10_000)
    # Given to torch.compile as options, not all of these are followed.
    settings = inductor_config.patch(options(setup))
    with exporting.intra_op(setup), exporting.quiet(), limits, settings:
        run(exporting.noise(setup))
    return run


class _Graphs:
    """A CUDA graph per calling thread, which writes to the same output every time.

    Inductor's own graphs belong to the thread that compiled, so they are recorded here.
    """

    def __init__(self, run: Run) -> None:
        self._run, self._mine = run, threading.local()

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        import torch

        mine = self._mine
        with torch.inference_mode():
            if not hasattr(mine, "graph"):
                self._record(mine, x)
            mine.x.copy_(x)
            mine.graph.replay()
            found: torch.Tensor = mine.y
            return found

    def _record(self, mine: Any, x: torch.Tensor) -> None:
        import torch

        with COMPILING:  # one recording at a time
            mine.x = x.clone()
            side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):  # libraries choose their kernels in the first calls
                for _ in range(2):
                    self._run(mine.x)
            torch.cuda.current_stream().wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                mine.y = self._run(mine.x)
            mine.graph = graph
