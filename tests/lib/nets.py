"""Small networks of the kinds that segment volumes: those that can be tiled exactly, and those that must be refused.

Weights, and the running statistics of batch normalisation, are random and the same in every process.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Layer = Callable[..., nn.Module]

CONV: dict[int, Layer] = {2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED: dict[int, Layer] = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
NORM: dict[int, Layer] = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
POOL: dict[int, Layer] = {2: nn.MaxPool2d, 3: nn.MaxPool3d}
LINEAR = {2: "bilinear", 3: "trilinear"}


@dataclass(frozen=True)
class Entry:
    """A network of the zoo."""

    build: Callable[[], nn.Module]
    channels: int = 1
    """Input channels."""
    ndim: int = 3
    """Spatial axes."""
    layer: str = ""
    """Of a refused network: a part of the name of the layer to blame."""
    train: bool = False
    """Whether it is left in train mode."""
    output: int | None = None
    """Of a network with several outputs, the one that is taken."""

    def make(self) -> nn.Module:
        """The network: always with the same weights."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            net = self.build()
            for layer in net.modules():
                if isinstance(layer, (nn.BatchNorm2d, nn.BatchNorm3d)):
                    with torch.no_grad():
                        layer.running_mean.uniform_(-0.3, 0.3)
                        layer.running_var.uniform_(0.5, 2)
                        layer.weight.uniform_(0.5, 1.5)
                        layer.bias.uniform_(-0.3, 0.3)
        return net.train(self.train)


def block(ndim: int, channels_in: int, channels_out: int, n: int, k: int, padding: int, norm: Layer) -> nn.Sequential:
    """``n`` times convolution, normalisation, leaky ReLU (a plain one can hide the context of so few channels)."""
    layers: list[nn.Module] = []
    for i in range(n):
        conv = CONV[ndim](channels_in if i == 0 else channels_out, channels_out, k, padding=padding)
        layers += [conv, norm(channels_out), nn.LeakyReLU(0.1)]
    return nn.Sequential(*layers)


class UNet(nn.Module):
    """A U-Net with same padding.

    Parameters
    ----------
    ndim
        Spatial axes.
    factors
        Pooling factors of each level.
    up
        "transposed" convolution, "nearest", "linear", or "corners" (linear with align_corners).
    norm
        From channels to a normalisation layer; batch normalisation by default.
    n, k
        Convolutions per level, and their kernel size.
    """

    def __init__(
        self,
        ndim: int = 3,
        factors: Sequence[tuple[int, ...]] = ((1, 2, 2), (2, 2, 2)),
        channels: int = 2,
        up: str = "transposed",
        norm: Layer | None = None,
        n: int = 2,
        k: int = 3,
    ) -> None:
        super().__init__()
        self.factors, self.up = [tuple(map(float, f)) for f in factors], up
        norm = norm or NORM[ndim]
        widths = [channels + i for i in range(len(factors) + 1)]
        pairs = list(zip(widths, widths[1:], factors, strict=False))
        self.mode = {
            "transposed": {},
            "nearest": {"mode": "nearest"},
            "linear": {"mode": LINEAR[ndim], "align_corners": False},
            "corners": {"mode": LINEAR[ndim], "align_corners": True},
        }[up]
        self.encoders = nn.ModuleList(
            block(ndim, inner, outer, n, k, k // 2, norm) for inner, outer in zip([1, *widths], widths, strict=False)
        )
        self.pools = nn.ModuleList(POOL[ndim](factor) for factor in factors)
        self.ups = nn.ModuleList(
            TRANSPOSED[ndim](b, a, f, stride=f) if up == "transposed" else CONV[ndim](b, a, 1) for a, b, f in pairs
        )
        self.decoders = nn.ModuleList(block(ndim, 2 * a, a, n, k, k // 2, norm) for a, _, _ in pairs)
        self.head = CONV[ndim](widths[0], 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        skips = []
        for encoder, pool in zip(self.encoders[:-1], self.pools, strict=True):
            skips.append(encoder(x))
            x = pool(skips[-1])
        x = self.encoders[-1](x)
        for i in reversed(range(len(self.pools))):
            if self.mode:
                x = F.interpolate(x, scale_factor=self.factors[i], **self.mode)
            x = self.decoders[i](torch.cat([skips[i], self.ups[i](x)], 1))
        return torch.sigmoid(self.head(x))


class ValidUNet(nn.Module):
    """The first U-Net: no padding, skips cropped around their centre. Depth 4 maps 572 voxels to 388."""

    def __init__(self, ndim: int = 2, depth: int = 2, channels: int = 2) -> None:
        super().__init__()
        widths = [channels] * (depth + 1)
        self.encoders = nn.ModuleList(
            block(ndim, 1 if i == 0 else widths[i - 1], w, 2, 3, 0, lambda _: nn.Identity())
            for i, w in enumerate(widths)
        )
        self.pool = POOL[ndim](2)
        self.ups = nn.ModuleList(TRANSPOSED[ndim](channels, channels, 2, stride=2) for _ in range(depth))
        self.decoders = nn.ModuleList(
            block(ndim, 2 * channels, channels, 2, 3, 0, lambda _: nn.Identity()) for _ in range(depth)
        )
        self.head = CONV[ndim](channels, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        skips = []
        for encoder in self.encoders[:-1]:
            x = encoder(x)
            if any(size % 2 for size in x.shape[2:]):
                raise RuntimeError("odd size before pooling")
            skips.append(x)
            x = self.pool(x)
        x = self.encoders[-1](x)
        for up, decoder, skip in zip(self.ups, self.decoders, reversed(skips), strict=True):
            x = up(x)
            for axis in range(2, x.ndim):
                skip = skip.narrow(axis, (skip.shape[axis] - x.shape[axis]) // 2, x.shape[axis])
            x = decoder(torch.cat([skip, x], 1))
        return self.head(x)


class ResidualUNet(nn.Module):
    """A residual symmetric U-Net for anisotropic volumes: sums instead of skips, flat kernels outside, linear up."""

    def __init__(self, channels: int = 2) -> None:
        super().__init__()

        def unit(kernel: tuple[int, int, int]) -> nn.Sequential:
            conv = nn.Conv3d(channels, channels, kernel, padding=tuple(k // 2 for k in kernel))
            return nn.Sequential(nn.BatchNorm3d(channels), nn.ELU(), conv)

        def units() -> nn.ModuleList:
            return nn.ModuleList([unit((1, 3, 3)), unit((3, 3, 3)), unit((3, 3, 3))])

        self.embed = nn.Conv3d(1, channels, (1, 5, 5), padding=(0, 2, 2))
        self.encoders = nn.ModuleList(units() for _ in range(3))
        self.decoders = nn.ModuleList(units() for _ in range(2))
        self.head = nn.Conv3d(channels, 3, (1, 5, 5), padding=(0, 2, 2))

    @staticmethod
    def residual(units: nn.ModuleList, x: Tensor) -> Tensor:
        x = units[0](x)
        return units[2](units[1](x)) + x

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        skips = []
        for units in self.encoders[:-1]:
            skips.append(self.residual(units, x))
            x = F.max_pool3d(skips[-1], (1, 2, 2))
        x = self.residual(self.encoders[-1], x)
        for units, skip in zip(self.decoders, reversed(skips), strict=True):
            x = F.interpolate(x, scale_factor=(1.0, 2.0, 2.0), mode="trilinear", align_corners=False) + skip
            x = self.residual(units, x)
        return torch.sigmoid(self.head(x))


class DenseNet(nn.Module):
    """An FC-DenseNet: every layer reads all before it in its block; up by transposed convolution k3 s2."""

    def __init__(self, growth: int = 2, layers: int = 2, depth: int = 2) -> None:
        super().__init__()

        def dense(channels: int) -> nn.ModuleList:
            widths = [channels + growth * i for i in range(layers)]
            return nn.ModuleList(
                nn.Sequential(nn.BatchNorm2d(w), nn.ReLU(), nn.Conv2d(w, growth, 3, padding=1)) for w in widths
            )

        new = growth * layers
        width, skips = 4, []
        self.embed = nn.Conv2d(1, width, 3, padding=1)
        self.encoders, self.downs = nn.ModuleList(), nn.ModuleList()
        for _ in range(depth):
            self.encoders.append(dense(width))
            width += new
            skips.append(width)
            self.downs.append(nn.Sequential(nn.BatchNorm2d(width), nn.Conv2d(width, width, 1), nn.MaxPool2d(2)))
        self.bottom = dense(width)
        self.ups, self.decoders = nn.ModuleList(), nn.ModuleList()
        for skip in reversed(skips):
            self.ups.append(nn.ConvTranspose2d(new, new, 3, stride=2, padding=1, output_padding=1))
            self.decoders.append(dense(skip + new))
        self.head = nn.Conv2d(new, 2, 1)

    @staticmethod
    def run(layers: nn.ModuleList, x: Tensor) -> tuple[Tensor, Tensor]:
        new = []
        for layer in layers:
            new.append(layer(x))
            x = torch.cat([x, new[-1]], 1)
        return x, torch.cat(new, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        skips = []
        for encoder, down in zip(self.encoders, self.downs, strict=True):
            x, _ = self.run(encoder, x)
            skips.append(x)
            x = down(x)
        _, new = self.run(self.bottom, x)
        for up, decoder, skip in zip(self.ups, self.decoders, reversed(skips), strict=True):
            _, new = self.run(decoder, torch.cat([up(new), skip], 1))
        return self.head(new)


class Dilated(nn.Module):
    """Parallel dilated convolutions (ASPP), with or without its branch of global pooling."""

    def __init__(self, pooling: bool = False) -> None:
        super().__init__()
        self.branches = nn.ModuleList(nn.Conv2d(1, 2, 3, padding=r, dilation=r) for r in (1, 3, 6))
        self.image = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(1, 2, 1)) if pooling else None
        self.head = nn.Conv2d(8 if pooling else 6, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        found = [branch(x) for branch in self.branches]
        if self.image is not None:
            found.append(self.image(x).expand(-1, -1, *x.shape[2:]))
        return self.head(torch.cat(found, 1))


class ChannelsLast(nn.Module):
    """A ConvNeXt block: LayerNorm and dense layers along channels only."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 7, padding=3)
        self.norm, self.dense = nn.LayerNorm(4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.dense(F.gelu(self.norm(self.conv(x).permute(0, 2, 3, 1)))).permute(0, 3, 1, 2)


class Strided(nn.Module):
    """Strided convolutions k3 s2 p1 down, transposed ones k4 s2 p1 up; flat in the second level."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv3d(1, 2, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv3d(2, 2, 3, stride=(1, 2, 2), padding=1),
            nn.ReLU(),
            nn.ConvTranspose3d(2, 2, (3, 4, 4), stride=(1, 2, 2), padding=1),
            nn.ReLU(),
            nn.ConvTranspose3d(2, 2, 4, stride=2, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class PixelShuffle(nn.Module):
    """Works at half the sampling, with the other voxels as channels."""

    def __init__(self) -> None:
        super().__init__()
        self.coarse, self.fine = nn.Conv2d(4, 8, 3, padding=1), nn.Conv2d(2, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.fine(F.pixel_shuffle(self.coarse(F.pixel_unshuffle(x, 2)), 2))


class SpaceToDepth(nn.Module):
    """As `PixelShuffle`, in 3D, written with views."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv3d(8, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        n, _, z, y, w = x.shape
        cells = x.view(n, 1, z // 2, 2, y // 2, 2, w // 2, 2).permute(0, 1, 3, 5, 7, 2, 4, 6)
        found = self.conv(cells.reshape(n, 8, z // 2, y // 2, w // 2))
        fine = found.view(n, 1, 2, 2, 2, z // 2, y // 2, w // 2).permute(0, 1, 5, 2, 6, 3, 7, 4)
        return fine.reshape(n, 1, z, y, w)


class WindowAttention(nn.Module):
    """Attention inside windows of 4 by 4 voxels, on a grid that is anchored at the origin."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.qkv, self.head = nn.Conv2d(1, 4, 3, padding=1), nn.Linear(4, 12), nn.Conv2d(4, 1, 1)
        self.bias = nn.Parameter(torch.randn(16, 16))

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        n, c, h, w = x.shape
        windows = x.view(n, c, h // 4, 4, w // 4, 4).permute(0, 2, 4, 3, 5, 1).reshape(-1, 16, c)
        q, k, v = self.qkv(windows).chunk(3, -1)
        attended = torch.softmax(q @ k.transpose(1, 2) + self.bias, -1) @ v
        back = attended.view(n, h // 4, w // 4, 4, 4, c).permute(0, 5, 1, 3, 2, 4)
        return self.head(back.reshape(n, c, h, w))


class Upsampled(nn.Module):
    """Super-resolution: the output is twice as fine."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.after = nn.Conv2d(1, 2, 3, padding=1), nn.Conv2d(2, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.after(F.interpolate(self.before(x), scale_factor=2.0, mode="nearest"))


class PadsToMultiple(nn.Module):
    """Pads any size to a multiple of 4 inside, and crops again: takes all sizes, but is exact only on multiples."""

    def __init__(self) -> None:
        super().__init__()
        self.net = UNet(2, ((2, 2), (2, 2)))

    def forward(self, x: Tensor) -> Tensor:
        missing = [-size % 4 for size in x.shape[2:]]
        low = [m // 2 for m in missing]
        pads = [low[1], missing[1] - low[1], low[0], missing[0] - low[0]]
        y = self.net(F.pad(x, pads))
        return y[:, :, low[0] : low[0] + x.shape[2], low[1] : low[1] + x.shape[3]]


class Outputs(nn.Module):
    """Returns a dict with a map beside a global score, which is none."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv3d(1, 2, 3, padding=1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        y = self.conv(x)
        return {"affinities": y, "score": y.mean((1, 2, 3, 4))}


class SqueezeExcite(nn.Module):
    """Weighs channels by their mean over the whole patch."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.after = nn.Conv3d(1, 3, 3, padding=1), nn.Conv3d(3, 2, 3, padding=1)
        self.squeeze = nn.Sequential(nn.AdaptiveAvgPool3d(1), nn.Conv3d(3, 3, 1), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        x = self.before(x)
        return self.after(x * self.squeeze(x))


class Attention(nn.Module):
    """Every voxel attends to every other."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 1, 1)
        self.attend = nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        tokens = x.flatten(2).transpose(1, 2)
        attended = self.attend(tokens, tokens, tokens, need_weights=False)[0]
        return self.head(attended.transpose(1, 2).reshape(x.shape))


class Positions(nn.Module):
    """Adds where a voxel lies."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) + torch.linspace(0, 1, x.shape[-1], device=x.device)


class SliceAssigned(nn.Module):
    """Writes its border by slice assignment."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        y[:, :, :2] = 0
        return y


class Brightest(nn.Module):
    """Normalises by the brightest voxel, read in Python."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return y / (1 + y.max().item())


class Halves(nn.Module):
    """Adds the upper half of the patch to the lower: no layer looks wrong, but the distance is the patch's."""

    def forward(self, x: Tensor) -> Tensor:
        half = x.shape[-1] // 2
        return x + F.pad(x[..., half:], (0, half))


def _plain() -> nn.Module:
    return nn.Sequential(
        nn.Conv3d(1, 2, 3, padding=1),
        nn.ReLU(),
        nn.Conv3d(2, 2, 5, padding=2),
        nn.Conv3d(2, 2, (1, 3, 3), padding="same"),
    )


def _dilated() -> nn.Module:
    convs = [nn.Conv2d(1 if r == 1 else 2, 2, 3, padding=r, dilation=r) for r in (1, 2, 4, 8)]
    return nn.Sequential(*(layer for conv in convs for layer in (conv, nn.ReLU())))


def _even() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 2, 4, padding="same"), nn.ReLU(), nn.Conv2d(2, 2, (2, 5), padding="same"))


def _reflecting() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 2, 5, padding=2, padding_mode="reflect"),
        nn.ReLU(),
        nn.Conv2d(2, 1, 3, padding=1, padding_mode="replicate"),
    )


def _downsampling() -> nn.Module:
    return nn.Sequential(
        nn.Conv3d(1, 2, 3, padding=1), nn.ReLU(), nn.AvgPool3d((1, 2, 2)), nn.Conv3d(2, 2, 3, padding=1)
    )


EXACT: dict[str, Entry] = {
    "plain conv": Entry(_plain),
    "valid conv": Entry(lambda: nn.Sequential(nn.Conv3d(1, 2, 3), nn.ReLU(), nn.Conv3d(2, 2, (1, 5, 5)))),
    "pointwise": Entry(lambda: nn.Conv3d(1, 2, 1)),
    "dilated": Entry(_dilated, ndim=2),
    "even kernels, same": Entry(_even, ndim=2),
    "even kernels, valid": Entry(lambda: nn.Sequential(nn.Conv2d(1, 2, 4), nn.ReLU(), nn.Conv2d(2, 2, 2)), ndim=2),
    "U-Net, transposed": Entry(UNet),
    "U-Net, nearest": Entry(lambda: UNet(up="nearest")),
    "U-Net, linear": Entry(lambda: UNet(up="linear")),
    "U-Net, no normalisation, factor 3": Entry(
        lambda: UNet(2, ((3, 3),), up="nearest", norm=lambda _: nn.Identity()), ndim=2
    ),
    "U-Net, valid": Entry(ValidUNet, ndim=2),
    "U-Net, valid, depth 4": Entry(lambda: ValidUNet(2, 4), ndim=2),
    "strided": Entry(Strided),
    "residual U-Net": Entry(ResidualUNet),
    "FC-DenseNet": Entry(DenseNet, ndim=2),
    "super-resolution": Entry(Upsampled, ndim=2),
    "downsampling": Entry(_downsampling),
    "pixel shuffle": Entry(PixelShuffle, ndim=2),
    "space to depth": Entry(SpaceToDepth),
    "window attention": Entry(WindowAttention, ndim=2),
    "LayerNorm over channels": Entry(ChannelsLast, ndim=2),
    "ASPP": Entry(Dilated, ndim=2),
    "reflect and replicate": Entry(_reflecting, ndim=2),
    "pads to a multiple": Entry(PadsToMultiple, ndim=2),
    "dict of outputs": Entry(Outputs),
}

REFUSED: dict[str, Entry] = {
    "instance norm": Entry(lambda: UNet(norm=nn.InstanceNorm3d), layer="encoders.0.1 (InstanceNorm3d)"),
    "group norm": Entry(lambda: UNet(norm=lambda c: nn.GroupNorm(1, c)), layer="encoders.0.1 (GroupNorm)"),
    "squeeze-excite": Entry(SqueezeExcite, layer="squeeze.0 (AdaptiveAvgPool3d)"),
    "attention": Entry(Attention, ndim=2, layer="attend (MultiheadAttention)"),
    "ASPP with image pooling": Entry(lambda: Dilated(pooling=True), ndim=2, layer="image.0 (AdaptiveAvgPool2d)"),
    "align_corners": Entry(lambda: UNet(up="corners"), layer="(UNet)"),
    "BatchNorm in train mode": Entry(
        lambda: nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.BatchNorm2d(2)),
        ndim=2,
        train=True,
        layer="1 (BatchNorm2d)",
    ),
    "Dropout in train mode": Entry(
        lambda: nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.Dropout(0.5)), ndim=2, train=True, layer="1 (Dropout)"
    ),
    "channel dropout in train mode": Entry(
        lambda: nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.Dropout2d(0.5)),
        ndim=2,
        train=True,
        layer="1 (Dropout2d)",
    ),
    "position embedding": Entry(Positions, ndim=2, layer="(Positions)"),
    "LayerNorm over space": Entry(
        lambda: nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.LayerNorm([2, 48, 48])), ndim=2, layer="1 (LayerNorm)"
    ),
    "circular padding": Entry(lambda: nn.Conv2d(1, 2, 3, padding=1, padding_mode="circular"), ndim=2, layer="(Conv2d)"),
    "slice assignment": Entry(SliceAssigned, ndim=2, layer="(SliceAssigned)"),
    "value read in Python": Entry(Brightest, ndim=2, layer="(Brightest)"),
    "halves added": Entry(Halves, ndim=2, layer="Halves"),
}
