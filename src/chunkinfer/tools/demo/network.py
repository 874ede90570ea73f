"""The demo's network: a small 3D U-Net for affinities, with weights trained by ``scripts/train_demo_network.py``."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

WEIGHTS = Path(__file__).with_name("network.pt")
"""A state dict, float32."""

Kernel = tuple[int, int, int]
FLAT: Kernel = (1, 3, 3)
CUBIC: Kernel = (3, 3, 3)


class AffinityUNet(nn.Module):
    """A U-Net for sections thicker than pixels: it pools twice in (y, x), never in z, and its context is small.

    Input (n, 1, z, y, x), float in [0, 1]; y and x multiples of 4. Output (n, 3, z, y, x) in (0, 1): channel d is the
    probability that a voxel and its predecessor along (z, y, x)[d] lie in the same neurite.

    Convolutions, pooling and batch norm only, so in eval mode any cut into patches gives the same result.

    Parameters
    ----------
    widths
        Channels at full, half and quarter resolution.
    """

    def __init__(self, widths: tuple[int, int, int] = (8, 16, 32)) -> None:
        super().__init__()
        full, half, quarter = widths
        self.full_in = convolutions(1, full, CUBIC, FLAT)
        self.half_in = convolutions(full, half, CUBIC, CUBIC)
        self.quarter = convolutions(half, quarter, FLAT, CUBIC)
        self.half_out = convolutions(2 * half, half, CUBIC, FLAT)
        self.full_out = convolutions(2 * full, full, FLAT, FLAT)
        self.pool = nn.MaxPool3d((1, 2, 2))
        self.to_half = nn.ConvTranspose3d(quarter, half, (1, 2, 2), stride=(1, 2, 2))
        self.to_full = nn.ConvTranspose3d(half, full, (1, 2, 2), stride=(1, 2, 2))
        self.head = nn.Conv3d(full, 3, 1)

    def logits(self, image: torch.Tensor) -> torch.Tensor:
        """The output before the sigmoid, which is what a stable loss wants."""
        full = self.full_in(image)
        half = self.half_in(self.pool(full))
        deep = self.quarter(self.pool(half))
        half = self.half_out(torch.cat([self.to_half(deep), half], 1))
        full = self.full_out(torch.cat([self.to_full(half), full], 1))
        result: torch.Tensor = self.head(full)
        return result

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(self.logits(image))


def convolutions(channels: int, width: int, *kernels: Kernel) -> nn.Sequential:
    """Convolutions that keep the extents, each followed by batch norm and ReLU."""
    layers: list[nn.Module] = []
    for kernel in kernels:
        layers += [
            nn.Conv3d(channels, width, kernel, padding=(kernel[0] // 2, kernel[1] // 2, kernel[2] // 2), bias=False),
            nn.BatchNorm3d(width),
            nn.ReLU(inplace=True),
        ]
        channels = width
    return nn.Sequential(*layers)


def build() -> AffinityUNet:
    """The network, untrained."""
    return AffinityUNet()


def load() -> AffinityUNet:
    """The trained network, in eval mode."""
    network = build()
    network.load_state_dict(torch.load(WEIGHTS, map_location="cpu", weights_only=True))
    return network.eval()
