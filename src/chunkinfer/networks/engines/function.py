"""The universal engine: any function of arrays."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from chunkinfer.networks.engines.contract import Run, Setup

if TYPE_CHECKING:
    from chunkinfer.networks.model import Model


class Function:
    """Calls a Python function with a numpy array (n, c, *space); it may compute by whatever means it likes."""

    name = "function"

    def version(self) -> str:
        """Of numpy: the function's own code is in the model's digest."""
        return np.__version__

    def refuses(self, model: Model, setup: Setup) -> str | None:
        """Only functions, and only in their own precision."""
        if model.kind != "function":
            return f"{model.name} is no function of arrays"
        if setup.precision != "fp32":
            return "a function chooses its precision itself"
        return None

    def open(self, model: Model, setup: Setup, folder: Path) -> Run:
        """Nothing is compiled."""
        return model.network(setup.device)
