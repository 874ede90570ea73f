"""Error and time against the halo, for the networks of NIST's "Exact Tile-Based Segmentation Inference" (2021).

    python benchmarks/nist.py        # prints tables in markdown; about five minutes

The paper states the halo that a fully convolutional network needs as a formula,

    Eq. 1:    sum over convolutions of 2^level * floor(kernel / 2),    rounded up to a multiple of 2^levels

and here it is compared with what is traced from the network. Weights are random, of He's distribution, and the
statistics of batch normalisation are those of the image, so that signals neither vanish nor explode. Widths are an
eighth of the paper's, which changes times and no halo. Errors are shown in single precision, which is what runs, and in
double precision, which shows what round-off hides: how little of the far context reaches the output.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import chunkinfer as ci
from chunkinfer.api.tiling_error.report import TilingErrors
from chunkinfer.api.tiling_error.tiling_error import tiling_error

CLASSES = 2


def convolutions(channels: int, width: int) -> nn.Sequential:
    """Two 3x3 convolutions with same padding, each with ReLU and batch normalisation."""
    layers: list[nn.Module] = []
    for c in (channels, width):
        layers += [nn.Conv2d(c, width, 3, padding=1), nn.ReLU(), nn.BatchNorm2d(width)]
    return nn.Sequential(*layers)


class UNet(nn.Module):
    """The U-Net with same padding and transposed convolutions up; channels double at each level."""

    def __init__(self, depth: int, width: int = 8) -> None:
        super().__init__()
        widths = [width * 2**level for level in range(depth + 1)]
        self.down = nn.ModuleList(convolutions(a, b) for a, b in zip([1, *widths], widths, strict=False))
        self.up = nn.ModuleList(nn.ConvTranspose2d(2 * w, w, 2, stride=2) for w in reversed(widths[:-1]))
        self.merge = nn.ModuleList(convolutions(2 * w, w) for w in reversed(widths[:-1]))
        self.head = nn.Conv2d(width, CLASSES, 1)

    def forward(self, x: Tensor) -> Tensor:
        skips = []
        for level in self.down[:-1]:
            skips.append(level(x))
            x = F.max_pool2d(skips[-1], 2)
        x = self.down[-1](x)
        for up, merge, skip in zip(self.up, self.merge, reversed(skips), strict=True):
            x = merge(torch.cat([skip, up(x)], 1))
        return self.head(x)


class Dense(nn.Module):
    """A dense block: each layer reads everything before it; what is new comes first, all of it second."""

    def __init__(self, channels: int, growth: int, layers: int) -> None:
        super().__init__()
        widths = [channels + growth * i for i in range(layers)]
        self.layers = nn.ModuleList(
            nn.Sequential(nn.BatchNorm2d(w), nn.ReLU(), nn.Conv2d(w, growth, 3, padding=1)) for w in widths
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        new: list[Tensor] = []
        for layer in self.layers:
            new.append(layer(x))
            x = torch.cat([x, new[-1]], 1)
        return torch.cat(new, 1), x


class FCDenseNet(nn.Module):
    """FC-DenseNet-56: growth 12, four layers a block, five levels; an eighth of its 48 first channels."""

    def __init__(self, growth: int = 12, layers: int = 4, depth: int = 5, first: int = 48 // 8) -> None:
        super().__init__()
        width, new = first, growth * layers
        self.first = nn.Conv2d(1, width, 3, padding=1)
        self.down, self.pool = nn.ModuleList(), nn.ModuleList()
        skips = []
        for _ in range(depth):
            self.down.append(Dense(width, growth, layers))
            width += new
            skips.append(width)
            conv = nn.Conv2d(width, width, 1)
            self.pool.append(nn.Sequential(nn.BatchNorm2d(width), nn.ReLU(), conv, nn.MaxPool2d(2)))
        self.bottom = Dense(width, growth, layers)
        self.up = nn.ModuleList(nn.ConvTranspose2d(new, new, 3, 2, padding=1, output_padding=1) for _ in skips)
        self.merge = nn.ModuleList(Dense(skip + new, growth, layers) for skip in reversed(skips))
        self.head = nn.Conv2d(skips[0] + 2 * new, CLASSES, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        skips = []
        for block, pool in zip(self.down, self.pool, strict=True):
            _, x = block(x)
            skips.append(x)
            x = pool(x)
        new, _ = self.bottom(x)
        for up, block, skip in zip(self.up, self.merge, reversed(skips), strict=True):
            new, x = block(torch.cat([skip, up(new)], 1))
        return self.head(x)


def texture(shape: tuple[int, int]) -> np.ndarray:
    """An image of noise at scales from 1 to 128 pixels, (y, x) float32, about in [-3, 3]."""
    generator = torch.Generator().manual_seed(0)
    total = torch.zeros(1, 1, *shape)
    for octave in range(8):
        coarse = torch.randn(1, 1, *(max(2, n >> octave) for n in shape), generator=generator)
        total += F.interpolate(coarse, size=shape, mode="bilinear", align_corners=False)
    return (total / total.std())[0, 0].numpy()


@torch.no_grad()
def conditioned(net: nn.Module, image: np.ndarray) -> nn.Module:
    """The network in eval mode with batch statistics of the image, and classes that split it about evenly."""
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.kaiming_normal_(layer.weight)
        elif isinstance(layer, nn.BatchNorm2d):
            layer.momentum = None  # the plain mean of what it has seen
    x = torch.from_numpy(image)[None, None]
    logits = net.train()(x)
    net.head.bias -= logits.median(-1).values.median(-1).values[0]
    return net.eval()


@torch.no_grad()
def equation_1(net: nn.Module, side: int = 256) -> int:
    """NIST's formula, before rounding: a layer's level is how much smaller than the image its input is."""
    reach = []

    def seen(layer: nn.Conv2d, given: tuple[Tensor, ...], _: Tensor) -> None:
        reach.append(side // given[0].shape[-1] * (layer.kernel_size[0] // 2))

    hooks = [layer.register_forward_hook(seen) for layer in net.modules() if isinstance(layer, nn.Conv2d)]
    net(torch.zeros(1, 1, side, side))
    for hook in hooks:
        hook.remove()
    return sum(reach)


def measure(
    net: nn.Module, image: np.ndarray, zone: int, halos: Sequence[int], cut: tuple[bool, bool]
) -> tuple[TilingErrors, TilingErrors, int]:
    """Errors in single and double precision with clean zones of ``zone`` pixels, and Eq. 1 rounded up."""
    net = conditioned(net, image)
    axes = ci.plan(image, net, patch=image.shape).lattice.axes
    period = axes[0].contract.period
    formula = -(-equation_1(net) // period) * period
    patch = []
    for a, n, is_cut in zip(axes, image.shape, cut, strict=True):
        low, high = (-(-c // period) * period for c in (a.contract.low, a.contract.high))
        patch.append(low + zone + high if is_cut else n)
    asked = [tuple(h if is_cut else None for is_cut in cut) for h in sorted({*halos, formula})]
    settings = {"halos": asked, "overlaps": [], "patch": tuple(patch), "threshold": None}
    single = tiling_error(net, image, **settings)
    double = tiling_error(copy.deepcopy(net).double(), image, timed=False, **settings)
    return single, double, formula


def show(title: str, net: nn.Module, image: np.ndarray, found: tuple[TilingErrors, TilingErrors, int]) -> None:
    single, double, formula = found
    context = single.context[-1]
    period = ci.plan(image, net).lattice.axes[-1].contract.period
    print(f"\n{title}: image {image.shape[0]} x {image.shape[1]}, clean zones of {single.zone[-1]} pixels")
    print(f"(Eq. 1: {equation_1(net)}, rounded up {formula}; traced context: {context[0]} + {context[1]})\n")
    print("| halo | recompute | time / halo 0 | max error | rmse | pixels that differ | max error, double |")
    print("|---|---|---|---|---|---|---|")
    for row, exact in zip(single.rows, double.rows, strict=True):
        halo = row.halo[-1]
        marks = " (traced)" * (row.kind == "exact") + " (Eq. 1)" * (halo == min(formula, max(context)))
        print(
            f"| {halo}{marks} | {row.recompute:.2f} | "
            f"{row.time / single.rows[0].time:.2f} | {row.max:.1e} | {row.rmse:.1e} | "
            f"{row.flipped * single.decisions:,.0f} | {exact.max:.1e} |"
        )
    if formula >= max(context):
        print("\nEq. 1 is enough here: rounded up, it covers the traced context.")
        return
    at = next(row for row in double.rows if row.halo[-1] == formula)
    seen = at.max > 10 * double.rows[-1].max
    print(
        f"\nEq. 1 is {-(-max(context) // period) * period - formula} pixels too small here. Its largest error is "
        f"{at.max:.1e} in double precision, that of the traced context {double.rows[-1].max:.1e}"
        + ("." if seen else ": with these weights, what it leaves out does not reach the output.")
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=576, help="pixels along each side of the U-Nets' image")
    parser.add_argument("--length", type=int, default=1280, help="pixels along the FC-DenseNet's strip")
    options = parser.parse_args()
    torch.manual_seed(0)
    square, strip = texture((options.side, options.side)), texture((96, options.length))
    print(f"torch {torch.__version__}, {torch.get_num_threads()} thread(s); errors in logits of unit scale")
    for title, net, image, zone, halos, cut in (
        ("U-Net, depth 4", UNet(4), square, 192, (0, 16, 32, 48, 64, 80), (True, True)),
        ("U-Net, depth 2", UNet(2), square, 128, (0, 4, 8, 12, 16), (True, True)),
        ("FC-DenseNet-56", FCDenseNet(), strip, 256, (0, 32, 64, 128, 192, 256), (False, True)),
    ):
        show(title, net, image, measure(net, image, zone, halos, cut))


if __name__ == "__main__":
    main()
