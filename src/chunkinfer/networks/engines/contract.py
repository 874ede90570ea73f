"""What an engine is: a way to run a network, opened for one size of patch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import torch

    from chunkinfer.networks.model import Model

Run = Callable[["torch.Tensor"], "torch.Tensor"]
"""A network that runs: contiguous (n, c, *space) of the compute type, on the device, to (n, c, *space) on the device.

The result is of the compute type, of float32 for reduced precision, or of what the network itself gives. Several
threads may call at the same time. A result is valid until the thread that made it calls again: engines may write into
the same memory.
"""


@dataclass(frozen=True)
class Setup:
    """What a network is opened for. Equal setups of one model give equal bits with one engine."""

    patch: tuple[int, ...]
    """Of the input, (n, c, *space): every call has this shape."""
    device: str
    """cpu or cuda."""
    threads: int
    """Intra-op threads of one call, on a CPU."""
    kernels: int
    """Calls at the same time, each from a thread of its own."""
    compute: str = "float32"
    """Type of the input: float32, or float64 for a network in double precision."""
    precision: str = "fp32"
    """fp32, bf16 or fp16 inside the network."""


class Engine(Protocol):
    """A way to run networks. Stateless; imports what it needs when it is asked to run."""

    @property
    def name(self) -> str:
        """What ``engine=`` calls it."""
        ...

    def version(self) -> str:
        """Of the package that does the work: results and compiled artefacts belong to one version."""
        ...

    def refuses(self, model: Model, setup: Setup) -> str | None:
        """Why it cannot run this model in this setup, in words that follow "because"; None if nothing is against it.

        Names the line to paste where a package is missing. Quick: nothing is compiled.
        """
        ...

    def open(self, model: Model, setup: Setup, folder: Path) -> Run:
        """Compile the network, or load what an earlier process left in the folder.

        Parameters
        ----------
        model, setup
            What to run, and on what; `refuses` gave None.
        folder
            For compiled artefacts, of this engine, version, model and setup alone. It may not exist; an artefact is
            written under another name and then renamed, because processes start together.

        Raises
        ------
        EngineError
            The engine cannot compile or run the network.
        """
        ...
