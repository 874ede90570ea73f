"""The residual symmetric U-Net that connectomics trains: anisotropic, batch norm, as after Lee et al. 2017."""

from __future__ import annotations

import itertools

import torch
from torch import nn
from torch.nn import functional as F

DOWN = (1, 2, 2)


class Conv(nn.Sequential):
    """Batch norm, ReLU, convolution."""

    def __init__(self, taken: int, given: int) -> None:
        super().__init__(nn.BatchNorm3d(taken), nn.ReLU(), nn.Conv3d(taken, given, 3, padding=1, bias=False))


class Level(nn.Module):
    """Three convolutions, the middle two residual."""

    def __init__(self, taken: int, given: int) -> None:
        super().__init__()
        self.first, self.last = Conv(taken, given), Conv(given, given)
        self.inner = nn.Sequential(Conv(given, given), Conv(given, given))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        x = self.last(x + self.inner(x))
        return x


class ResidualUNet(nn.Module):
    """(n, 1, z, y, x) to three affinities of the same size; y and x in multiples of 8."""

    def __init__(self, widths: tuple[int, ...] = (16, 32, 64, 128)) -> None:
        super().__init__()
        self.enter = nn.Conv3d(1, widths[0], (1, 5, 5), padding=(0, 2, 2))
        self.down = nn.ModuleList(Level(a, b) for a, b in zip((widths[0], *widths), widths, strict=False))
        self.narrow = nn.ModuleList(nn.Conv3d(b, a, 1, bias=False) for a, b in itertools.pairwise(widths))
        self.up = nn.ModuleList(Level(a, a) for a in widths[:-1])
        self.leave = nn.Conv3d(widths[0], 3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.enter(x)
        skips = []
        for depth, level in enumerate(self.down):
            x = level(F.max_pool3d(x, DOWN) if depth else x)
            skips.append(x)
        for depth in reversed(range(len(self.up))):
            larger = F.interpolate(self.narrow[depth](x), scale_factor=tuple(map(float, DOWN)), mode="nearest")
            x = self.up[depth](larger + skips[depth])
        return torch.sigmoid(self.leave(x))


def residual_unet() -> nn.Module:
    """With weights that are the same in every run."""
    torch.manual_seed(0)
    return ResidualUNet().eval()
