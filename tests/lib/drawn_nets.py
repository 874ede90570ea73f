"""Networks drawn at random, of the layers and habits that people's networks have, also those that look at the size.

Each is a chain of small steps with a skip connection around some of them. What a step does to a size is nowhere written
down: the oracle is the network itself, run on the volume.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import chunkinfer as ci
from chunkinfer.errors import ChunkinferError, PlanError

CONV = {2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
MAX = {2: F.max_pool2d, 3: F.max_pool3d}
MEAN = {2: F.avg_pool2d, 3: F.avg_pool3d}
LINEAR = {2: "bilinear", 3: "trilinear"}
CHANNELS = 2


class Step(nn.Module):
    """A function of one tensor, with the layer that it uses, if any."""

    def __init__(self, name: str, run: Callable[..., Tensor], layer: nn.Module | None = None) -> None:
        super().__init__()
        self.name, self.run, self.layer = name, run, layer

    def forward(self, x: Tensor) -> Tensor:
        return self.run(x) if self.layer is None else self.run(self.layer, x)

    def extra_repr(self) -> str:
        return self.name


class Skip(nn.Module):
    """Steps with a connection around them, and what is done where the two are of different sizes."""

    def __init__(self, steps: nn.Sequential, fit: str, join: str, ndim: int) -> None:
        super().__init__()
        self.steps, self.fit, self.join, self.ndim = steps, fit, join, ndim
        self.mix = CONV[ndim](2 * CHANNELS, CHANNELS, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.steps(x)
        if self.fit == "resize":
            y = F.interpolate(y, size=x.shape[2:])
        elif self.fit == "resize, linear":
            y = F.interpolate(y, size=x.shape[2:], mode=LINEAR[self.ndim], align_corners=False)
        elif self.fit == "pad":
            missing = [n - m for n, m in zip(x.shape[2:], y.shape[2:], strict=True)]
            y = F.pad(y, [v for m in reversed(missing) for v in (m // 2, m - m // 2)])
        elif self.fit == "crop":
            n = [min(a, b) for a, b in zip(x.shape[2:], y.shape[2:], strict=True)]
            x, y = _start(x, n), _start(y, n)
        elif self.fit == "crop to the middle":
            n = [min(a, b) for a, b in zip(x.shape[2:], y.shape[2:], strict=True)]
            x, y = _middle(x, n), _middle(y, n)
        return x + y if self.join == "add" else self.mix(torch.cat([x, y], 1))


def _start(x: Tensor, shape: list[int]) -> Tensor:
    for axis, n in enumerate(shape):
        x = x.narrow(2 + axis, 0, n)
    return x


def _middle(x: Tensor, shape: list[int]) -> Tensor:
    for axis, n in enumerate(shape):
        x = x.narrow(2 + axis, (x.shape[2 + axis] - n) // 2, n)
    return x


def draw(rng: Random, ndim: int) -> nn.Module:
    """A network with one input channel; in double precision, in eval mode, with weights of its own."""
    torch.manual_seed(rng.getrandbits(31))
    steps: list[nn.Module] = [Step("first", lambda layer, x: layer(x), CONV[ndim](1, CHANNELS, 1))]
    for _ in range(rng.randint(1, 3)):
        if rng.random() < 0.5:
            steps.append(_skip(rng, ndim, rng.randint(1, 2)))
        else:
            steps.append(_step(rng, ndim))
    if rng.random() < 0.12:
        steps.append(_size_dependent(rng, ndim))
    return nn.Sequential(*steps).double().eval()


def _skip(rng: Random, ndim: int, depth: int) -> Skip:
    factor, plain = rng.choice([2, 2, 2, 3]), rng.random() < 0.8
    steps: list[nn.Module] = [_down(rng, ndim, factor, plain), _convolution(rng, ndim, plain)]
    if depth > 1:
        steps.append(_skip(rng, ndim, depth - 1))
    steps.append(_up(rng, ndim, factor if rng.random() < 0.9 else 2, plain))
    fit = rng.choice(["", "", "resize", "resize, linear", "pad", "crop", "crop to the middle"])
    return Skip(nn.Sequential(*steps), fit, rng.choice(["add", "cat"]), ndim)


def _step(rng: Random, ndim: int) -> nn.Module:
    return rng.choice([_convolution, _convolution, _down, _up, _edge])(rng, ndim)


def _convolution(rng: Random, ndim: int, plain: bool = False) -> Step:
    """A convolution; a plain one keeps the size."""
    kernel, dilation = rng.choice([1, 3, 3, 5] if plain else [1, 2, 3, 3, 5]), rng.choice([1, 1, 1, 2])
    padding = dilation * (kernel - 1) // 2
    padding = padding if plain else rng.choice([0, padding, padding, 1])
    mode = rng.choice(["zeros", "zeros", "zeros", "reflect", "replicate"])
    layer = CONV[ndim](CHANNELS, CHANNELS, kernel, dilation=dilation, padding=padding, padding_mode=mode)
    name = f"conv {kernel}, dilation {dilation}, padding {padding} {mode}"
    return Step(name, lambda layer, x: F.leaky_relu(layer(x), 0.1), layer)


def _down(rng: Random, ndim: int, stride: int = 2, plain: bool = False) -> Step:
    """Fewer voxels; plain pooling and plain strided convolutions keep a multiple of the stride whole."""
    kernel = stride if plain else rng.choice([2, 2, 3])
    kind = rng.choice(["conv", "max", "mean", "max, ceil", "mean, ceil", "resize by half"])
    name = f"down: {kind}, kernel {kernel}, stride {stride}"
    if kind == "conv":
        kernel, padding = (3, 1) if plain else (kernel, rng.choice([0, kernel // 2]))
        return Step(name, lambda layer, x: layer(x), CONV[ndim](CHANNELS, CHANNELS, kernel, stride, padding))
    if kind == "resize by half":
        return Step(name, lambda x: F.interpolate(x, scale_factor=1 / stride, mode="nearest"))
    ceil_mode, padding = kind.endswith("ceil"), 0 if plain else rng.choice([0, 0, kernel // 2])
    pool = MAX[ndim] if kind.startswith("max") else MEAN[ndim]
    return Step(name, lambda x: pool(x, kernel, stride, padding, ceil_mode=ceil_mode))


def _up(rng: Random, ndim: int, factor: int = 2, plain: bool = False) -> Step:
    """More voxels; plain ones give a multiple."""
    kind = rng.choice(["transposed", "transposed, output_padding", "nearest", "nearest-exact", "linear", "size"])
    name = f"up: {kind}, {factor}"
    if kind.startswith("transposed"):
        kernel, padding, extra = factor, 0, 0
        if "output" in kind:
            kernel, padding, extra = 3, 1, factor - 1
        elif not plain:
            kernel, padding = rng.choice([factor + 1, 3]), rng.choice([0, 1])
        layer = TRANSPOSED[ndim](CHANNELS, CHANNELS, kernel, factor, padding, extra)
        return Step(name, lambda layer, x: layer(x), layer)
    if kind == "size":
        return Step(name, lambda x: F.interpolate(x, size=[factor * n for n in x.shape[2:]]))
    mode = LINEAR[ndim] if kind == "linear" else kind
    corners = {"align_corners": False} if kind == "linear" else {}
    return Step(name, lambda x: F.interpolate(x, scale_factor=float(factor), mode=mode, **corners))


def _edge(rng: Random, ndim: int) -> Step:
    kind = rng.choice(["crop one", "crop both", "pad", "pad, reflect", "even", "to a multiple"])
    if kind == "crop one":
        return Step(kind, lambda x: x[..., 1:])
    if kind == "crop both":
        return Step(kind, lambda x: x[(..., *[slice(1, -1)] * ndim)])
    if kind == "pad":
        return Step(kind, lambda x: F.pad(x, [1, 2] * ndim, value=0.5))
    if kind == "pad, reflect":
        return Step(kind, lambda x: F.pad(x, [2, 1] * ndim, mode="reflect"))
    if kind == "even":
        return Step(kind, lambda x: _start(x, [n // 2 * 2 for n in x.shape[2:]]))
    multiple, pool = rng.choice([2, 3, 4]), MAX[ndim]

    def padded(x: Tensor) -> Tensor:
        missing = [-n % multiple for n in reversed(x.shape[2:])]
        y = pool(F.pad(x, [v for m in missing for v in (0, m)], mode="replicate"), multiple)
        return _start(F.interpolate(y, scale_factor=float(multiple)), list(x.shape[2:]))

    return Step(f"{kind} of {multiple}", padded)


def _size_dependent(rng: Random, ndim: int) -> Step:
    kind = rng.choice(["branch", "number of voxels", "at least", "kernel"])
    limit = rng.randint(8, 40)
    if kind == "branch":
        return Step(f"twice below {limit}", lambda x: x * 2 if x.shape[2] < limit else x)
    if kind == "number of voxels":
        return Step(kind, lambda x: x * (x.numel() ** 0.5))
    if kind == "kernel":
        return Step(kind, lambda x: MEAN[ndim](x, min(5, *x.shape[2:]), 1))

    def at_least(x: Tensor) -> Tensor:
        missing = [max(0, limit - n) for n in reversed(x.shape[2:])]
        y = MEAN[ndim](F.pad(x, [v for m in missing for v in (0, m)], mode="replicate"), 3, 1, 1)
        return _start(y, list(x.shape[2:]))

    return Step(f"at least {limit}", at_least)


@dataclass(frozen=True)
class Outcome:
    """What became of one volume and one patch."""

    kind: str
    """equal; padded: equal on the longer volume that the plan names, where the network refuses the volume; refused;
    different: what must not be; crash: an error of somebody else's."""
    patches: int
    detail: str


def compare(net: nn.Module, volume: np.ndarray[Any, Any], patch: list[int] | None) -> Outcome:
    """`infer` beside the network on the volume.

    A patch of a size that does not fit is replaced by the one that the error advises, once for each axis.
    """
    with torch.no_grad():
        try:
            expected = net(torch.from_numpy(volume)[None, None])[0].numpy()
        except Exception:  # torch's own, of sizes that do not fit
            expected = None
    try:
        plan = _planned(net, volume, patch)
        found = ci.infer(volume, net, patch=patch).compute(scheduler="synchronous")
    except ChunkinferError as error:
        return Outcome("refused", 0, f"{type(error).__name__}: {error.what}")
    except Exception as error:
        return Outcome("crash", 0, f"{type(error).__name__}: {error}")
    patches = len(plan.lattice)
    kind, said = "equal", ""
    if expected is None or not expected.size:  # it refuses the volume, or loses all of it
        kind, said = "padded", "edge-padded"
        pads = [(0, axis.padded - axis.size) for axis in plan.lattice.axes]
        with torch.no_grad():
            try:
                longer = net(torch.from_numpy(np.pad(volume, pads, mode="edge"))[None, None])[0].numpy()
            except Exception as error:
                return Outcome("different", patches, f"nor does the longer volume run: {error}")
        expected = longer[(slice(None), *map(slice, found.shape[1:]))]
    if said not in plan.verdict or ("edge-padded" in plan.verdict) != bool(said):
        return Outcome("different", patches, f"the verdict does not say which volume is meant: {plan.verdict}")
    if found.shape != expected.shape:
        return Outcome("different", patches, f"shape {found.shape}, not {expected.shape}; patch {plan.lattice.patch}")
    error = float(np.abs(found - expected).max(initial=0)) / (1 + float(np.abs(expected).max(initial=0)))
    if not error < 1e-9:
        return Outcome("different", patches, f"by {error:.1e}; patch {plan.lattice.patch}")
    return Outcome(kind, patches, "")


def _planned(net: nn.Module, volume: np.ndarray[Any, Any], patch: list[int] | None) -> ci.Plan:
    """The plan with the patch; one that does not fit becomes the one that the error advises."""
    for _ in range(3 * volume.ndim):
        try:
            return ci.plan(volume, net, patch=patch)
        except PlanError as error:
            advised = re.search(r"patch=\{'(\w)': (\d+)\}", str(error))
            if patch is None or not advised:
                raise
            patch["zyx"[-volume.ndim :].index(advised[1])] = int(advised[2])
    return ci.plan(volume, net, patch=patch)


def volume_for(rng: Random, ndim: int) -> tuple[np.ndarray[Any, Any], list[int] | None]:
    """A volume of any lengths, and a patch, mostly one that cuts it."""
    longest = 70 if ndim == 2 else 26
    shape = [rng.randint(3, longest) for _ in range(ndim)]
    voxels = np.random.default_rng(rng.getrandbits(31)).standard_normal(shape)
    return voxels, None if rng.random() < 0.1 else [rng.randint(1, n) for n in shape]
