"""What an engine takes, as a table, and the refusals that follow from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import TYPE_CHECKING

from chunkinfer.networks.engines.contract import Setup
from chunkinfer.networks.model import TORCH_KINDS

if TYPE_CHECKING:
    import torch

    from chunkinfer.networks.model import Model

KINDS = {
    "module": "a torch module",
    "torchscript": "a TorchScript file",
    "export": "a torch.export file",
    "onnx": "an ONNX file",
    "openvino": "an OpenVINO file",
    "function": "a plain function, which cannot be looked into",
}
"""Kind of a model -> words for it."""


@dataclass(frozen=True)
class Takes:
    """What an engine takes."""

    packages: tuple[str, ...]
    """That must be importable."""
    extra: str
    """Of chunkinfer, that brings them."""
    kinds: tuple[str, ...]
    """Of models."""
    precisions: Mapping[str, tuple[str, ...]]
    """Device -> precisions on it."""
    computes: tuple[str, ...] = ("float32", "float64")
    """Types of the input."""

    def refusal(self, engine: str, model: Model, setup: Setup) -> str | None:
        """Why the model or the setup is not in this table, in words that follow "because"; None where it is."""
        for package in self.packages:
            if find_spec(package) is None:
                return f'{package} is not installed: pip install "chunkinfer[{self.extra}]"'
        if model.kind not in self.kinds:
            taken = " or ".join(KINDS[kind] for kind in self.kinds)
            return f"{engine} takes {taken}, and {model.name} is {KINDS.get(model.kind, model.kind)}"
        if setup.device not in self.precisions:
            return f"{engine} runs on {' and '.join(self.precisions)} here, and the run is on {setup.device}"
        if setup.precision not in (known := self.precisions[setup.device]):
            return f"{engine} computes in {' and '.join(known)} on {setup.device}, not in {setup.precision}"
        if setup.compute not in self.computes:
            return f"{engine} computes in float32, and {model.name} is in double precision"
        if model.kind == "module" and (layers := training(model.module_on("cpu"))):
            return f"{layers[0]} is in train mode, and what is compiled is not: model.eval()"
        return None


BY_TORCH = Takes(
    packages=("torch",),
    extra="torch",
    kinds=TORCH_KINDS,
    precisions={"cpu": ("fp32", "bf16"), "cuda": ("fp32", "bf16", "fp16")},
)
"""What torch's own compilers take."""


def training(module: torch.nn.Module) -> list[str]:
    """Names of layers that compute something else in train mode than in eval mode, and are in train mode."""
    from torch.nn.modules.batchnorm import _NormBase
    from torch.nn.modules.dropout import _DropoutNd

    return [
        f"{name or 'the network'} ({type(layer).__name__})"
        for name, layer in module.named_modules()
        if isinstance(layer, (_NormBase, _DropoutNd)) and layer.training and getattr(layer, "track_running_stats", True)
    ]


def package_version(package: str) -> str:
    """The version of an installed package, "none" where it is absent."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"
