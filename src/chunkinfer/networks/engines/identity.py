"""No network at all: what a run costs without one, and what it does to voxels."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from chunkinfer.networks.engines.contract import Run, Setup

if TYPE_CHECKING:
    import torch

    from chunkinfer.networks.model import Model


class Identity:
    """Gives back the voxels that it is given: the network's first input channel for each of its output channels.

    A network that crops is stood for by the middle of the patch; one that changes the sampling cannot be.
    """

    name = "identity"

    def version(self) -> str:
        """It has no versions."""
        return "1"

    def refuses(self, model: Model, setup: Setup) -> str | None:
        """Nothing that is known before the network's contract."""
        return None

    def open(self, model: Model, setup: Setup, folder: Path) -> Run:
        """Nothing is compiled."""
        from chunkinfer.errors import EngineError

        trace = model.plain.trace(setup.patch[1], len(setup.patch) - 2)
        if any(a.stride != 1 for a in trace.axes):
            raise EngineError(
                f"The identity engine cannot stand for {model.name}, whose output is sampled otherwise than its input.",
                "It gives back the voxels of its input.",
                ['take the network itself: infer(volume, model, engine="torch")', "take a network without scaling"],
            )
        cut = [
            slice(int(max(a.crop[0], 0)), n - int(max(a.crop[1], 0)))
            for a, n in zip(trace.axes, setup.patch[2:], strict=True)
        ]

        def run(patches: torch.Tensor) -> torch.Tensor:
            inner = patches[(slice(None), slice(0, 1), *cut)]
            return inner.expand(-1, trace.channels_out, *inner.shape[2:]).contiguous()

        return run
