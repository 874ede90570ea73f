"""The export engine: torch.export, compiled ahead of time by AOTInductor. A second start only loads a library."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chunkinfer.networks.engines.artefacts import kept
from chunkinfer.networks.engines.contract import Run, Setup
from chunkinfer.networks.engines.fitting import BY_TORCH, package_version
from chunkinfer.networks.engines.inductor import COMPILING, missing_compiler, options

if TYPE_CHECKING:
    import torch

    from chunkinfer.networks.model import Model


@dataclass(frozen=True)
class Exported:
    """Networks compiled ahead of time by AOTInductor for one size of patch."""

    name: str = "export"

    def version(self) -> str:
        return package_version("torch")

    def refuses(self, model: Model, setup: Setup) -> str | None:
        return BY_TORCH.refusal(self.name, model, setup) or missing_compiler(setup)

    def open(self, model: Model, setup: Setup, folder: Path) -> Run:
        import torch

        from chunkinfer.networks.engines.exporting import attempting

        with attempting(self.name, model):
            loader = kept(folder, "network.pt2", lambda path: _compile(model, setup, path), lambda p: _load(p, setup))

        def run(x: torch.Tensor) -> torch.Tensor:
            with torch.inference_mode():
                found: torch.Tensor = loader.boxed_run([x])[0]
                return found.contiguous()  # ahead of time, Inductor leaves bf16's layout in the output

        return run


def _compile(model: Model, setup: Setup, path: Path) -> None:
    import torch
    from torch._inductor import aoti_compile_and_package
    from torch._inductor.runtime.cache_dir_utils import temporary_cache_dir

    from chunkinfer.networks.engines import exporting

    with COMPILING, tempfile.TemporaryDirectory() as place, temporary_cache_dir(place):
        program = exporting.exported(model, setup)
        # Weights become constants only where no gradient can be asked for.
        with exporting.intra_op(setup), exporting.quiet(), torch.no_grad():
            aoti_compile_and_package(program, package_path=str(path), inductor_configs=options(setup))


def _load(path: Path, setup: Setup) -> Any:
    """The compiled library, for as many calls at the same time as there are kernels.

    `torch._inductor.aoti_load_package` does the same after importing the whole compiler, which takes seconds.
    """
    from torch._C._aoti import AOTIModelPackageLoader

    return AOTIModelPackageLoader(str(path), "model", False, setup.kernels, -1)
