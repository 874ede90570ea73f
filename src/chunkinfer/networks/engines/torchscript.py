"""The TorchScript engine: traced, frozen and prepared for inference. Quick to start, a little faster than torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from chunkinfer.networks.engines.artefacts import kept
from chunkinfer.networks.engines.contract import Run, Setup
from chunkinfer.networks.engines.fitting import BY_TORCH, package_version

if TYPE_CHECKING:
    import torch

    from chunkinfer.networks.model import Model


@dataclass(frozen=True)
class TorchScript:
    """Networks traced for one size of patch."""

    name: str = "torchscript"

    def version(self) -> str:
        return package_version("torch")

    def refuses(self, model: Model, setup: Setup) -> str | None:
        return BY_TORCH.refusal(self.name, model, setup)

    def open(self, model: Model, setup: Setup, folder: Path) -> Run:
        import torch

        from chunkinfer.networks.engines import exporting

        def make(path: Path) -> None:
            script = exporting.traced(model, setup)
            # Batch normalisation is folded into weights in full precision only: in bf16 that doubles the error.
            frozen = torch.jit.freeze(script, optimize_numerics=setup.precision == "fp32")
            torch.jit.save(frozen, str(path))

        def load(path: Path) -> torch.nn.Module:
            frozen: torch.jit.ScriptModule = torch.jit.load(str(path), map_location=setup.device)  # type: ignore[no-untyped-call]
            if setup.precision != "fp32":
                return frozen
            return torch.jit.optimize_for_inference(frozen)  # its weights in oneDNN's layout cannot be saved

        with exporting.attempting(self.name, model), exporting.intra_op(setup), exporting.quiet(), torch.no_grad():
            script = kept(folder, "network.pt", make, load)

        def run(x: torch.Tensor) -> torch.Tensor:
            # The profiling executor compiles anew in the first calls, and fused kernels differ in the last bits.
            with torch.inference_mode(), torch.jit.optimized_execution(False):  # type: ignore[attr-defined]
                found: torch.Tensor = script(x)
                return found

        return run
