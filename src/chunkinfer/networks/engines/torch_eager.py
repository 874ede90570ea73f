"""torch, operator by operator: the reference that every engine is compared with."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from chunkinfer.networks.engines.contract import Run, Setup

if TYPE_CHECKING:
    import torch

    from chunkinfer.networks.model import Model

WARM_UP = 3
"""Calls after which TorchScript's profiling executor has made up its mind, and its bits stay."""


class TorchEager:
    """Runs the module as it is. Reduced precision is autocast: weights and sums that need float32 keep it."""

    name = "torch"

    def version(self) -> str:
        """Of torch."""
        import torch

        return str(torch.__version__)

    def refuses(self, model: Model, setup: Setup) -> str | None:
        """Files of other frameworks and functions are not torch's."""
        return None if model.of_torch else f"torch does not open what is {model.kind}"

    def open(self, model: Model, setup: Setup, folder: Path) -> Run:
        """Nothing is compiled."""
        import torch

        network = model.network(setup.device)
        if setup.precision == "fp32":
            return network
        kind, last = reduced_type(setup.precision), last_layout(len(setup.patch), torch.contiguous_format)

        def run(patches: torch.Tensor) -> torch.Tensor:
            with torch.autocast(setup.device, dtype=kind):
                return network(patches.to(memory_format=last)).float()

        if model.kind == "torchscript":
            with torch.inference_mode():
                for _ in range(WARM_UP):
                    run(torch.zeros(setup.patch, device=setup.device))
        return run


def reduced_type(precision: str) -> torch.dtype:
    """torch's type of bf16 or fp16."""
    import torch

    return {"bf16": torch.bfloat16, "fp16": torch.float16}[precision]


def last_layout(ndim: int, otherwise: torch.memory_format) -> torch.memory_format:
    """Channels last, in which reduced precision is computed: given otherwise, every layer would convert, and bf16 is 2
    times as fast as fp32 where it could be 3 to 6. ``otherwise`` for tensors of other dimensions."""
    import torch

    return {4: torch.channels_last, 5: torch.channels_last_3d}.get(ndim, otherwise)


def reproducible() -> None:
    """Let CUDA give equal bits for equal patches, and float32 where it says so: for this whole process.

    cuDNN would otherwise choose by timing, add in the order in which threads arrive, and round products to TF32.
    """
    import torch

    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
