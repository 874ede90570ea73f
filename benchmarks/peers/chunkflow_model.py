"""The file that chunkflow asks for beside the weights: how to open the network."""

from typing import Any


def load_model(weights: str) -> Any:
    """A TorchScript file, on the CPU."""
    import torch

    return torch.jit.load(weights, map_location="cpu").eval()
