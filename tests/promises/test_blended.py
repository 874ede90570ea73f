"""Blending: one lattice anchored at the volume, so the same bits for every cut; and what a slice shares with it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import chunkinfer as ci
from chunkinfer.networks.trace.tracing import Trace, trace
from chunkinfer.tiling.kernel.blend_weights import WINDOWS
from tests.lib.nets import EXACT, Entry, UNet

FAST = [Phase.explicit, Phase.generate]
"""Shrinking a failure would run networks for minutes; the drawn cut is small enough to read."""

Array = np.ndarray[Any, Any]


class Doubled(nn.Module):
    """Twice as fine, after a normalisation over the whole patch."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.norm, self.after = nn.Conv2d(1, 2, 3, padding=1), nn.InstanceNorm2d(2), nn.Conv2d(2, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.after(nn.functional.interpolate(self.norm(self.before(x)), scale_factor=2.0, mode="nearest"))


def _halved() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.InstanceNorm2d(2), nn.MaxPool2d(2), nn.Conv2d(2, 2, 1))


def _shrunk() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.InstanceNorm2d(2), nn.LeakyReLU(0.1), nn.Conv2d(2, 2, (2, 3)))


# Normalisation over the patch makes every output voxel depend on where its patch lies: any other lattice shows.
NETS = {
    "instance norm, 2D": Entry(lambda: UNet(2, ((2, 2),), norm=nn.InstanceNorm2d, n=1), ndim=2),
    "instance norm, 3D": Entry(lambda: UNet(3, ((1, 2, 2),), norm=nn.InstanceNorm3d, n=1)),
    "instance norm, valid": Entry(_shrunk, ndim=2),
    "instance norm, half as fine": Entry(_halved, ndim=2),
    "instance norm, twice as fine": Entry(Doubled, ndim=2),
    "valid conv": EXACT["valid conv"],
    "U-Net, valid": EXACT["U-Net, valid"],
    "downsampling": EXACT["downsampling"],
    "super-resolution": EXACT["super-resolution"],
    "two channels in": Entry(lambda: nn.Conv3d(2, 1, 3, padding=1), channels=2),
}

_cache: dict[str, tuple[nn.Module, Trace]] = {}


def net_of(name: str) -> tuple[nn.Module, Trace]:
    if name not in _cache:
        net = NETS[name].make()
        _cache[name] = net, trace(net, NETS[name].channels, NETS[name].ndim, dtype=torch.float32)
    return _cache[name]


@dataclass(frozen=True)
class Case:
    """A volume and its lattice: everything that may fix the bits."""

    name: str
    sizes: tuple[int, ...]
    patch: tuple[int, ...]
    overlap: tuple[int, ...]
    window: str
    batch: int

    @property
    def volume(self) -> Array:
        channels = NETS[self.name].channels
        shape = self.sizes if channels == 1 else (channels, *self.sizes)
        return np.random.default_rng(sum(self.sizes)).random(shape, dtype="f4")

    def infer(self, volume: Any = None, **cut: Any) -> Any:
        given = self.volume if volume is None else volume
        settled = {"patch": self.patch, "overlap": self.overlap, "window": self.window, "batch": self.batch}
        return ci.infer(given, net_of(self.name)[0], **settled, **cut)


@st.composite
def cases(draw: st.DrawFn, name: str) -> Case:
    """Few patches along each axis, on volumes that fit nothing in particular, sometimes smaller than a patch."""
    sizes, patch, overlap = [], [], []
    for axis in net_of(name)[1].axes:
        grain, lost = axis.stride.numerator, int(sum(axis.crop))
        p = axis.accepted_at_least(lost + draw(st.integers(4, 16)))
        step = draw(st.integers(1, (p - lost) // grain)) * grain
        patch.append(p)
        overlap.append(p - step)
        sizes.append(draw(st.integers(lost + grain, p + 3 * step)))
    return Case(
        name,
        tuple(sizes),
        tuple(patch),
        tuple(overlap),
        draw(st.sampled_from(sorted(WINDOWS))),
        draw(st.integers(1, 3)),
    )


@st.composite
def cuts(draw: st.DrawFn, shape: tuple[int, ...]) -> dict[str, Any]:
    """A block of any shape, at most a few along each axis, by either way of reading."""
    most = 4 if len(shape) == 2 else 3
    block = tuple(draw(st.integers(-(-n // most), n)) for n in shape)
    return {"block": block, "exchange": draw(st.booleans())}


def blended_by_hand(case: Case) -> Array:
    """The definition, in plain loops: weighted patches over the sum of their weights, in double precision."""
    net, contract = net_of(case.name)
    volume = case.volume.reshape(NETS[case.name].channels, *case.sizes)
    starts, strides, spans, padded = [], [], [], []
    for axis, n, p, o in zip(contract.axes, case.sizes, case.patch, case.overlap, strict=True):
        stride, end = axis.stride, p
        while end < n:  # the volume is padded to a whole number of output voxels
            end += stride.numerator
        starts.append([*range(0, end - p, p - o), end - p])
        strides.append(stride)
        spans.append(-(-(n - sum(axis.crop)) // stride))
        padded.append((0, end - n))
    volume = np.pad(volume, [(0, 0), *padded], mode="edge")
    total: Array | None = None
    for corner in product(*starts):
        box = tuple(slice(s, s + p) for s, p in zip(corner, case.patch, strict=True))
        with torch.no_grad():
            value = net(torch.from_numpy(volume[(slice(None), *box)])[None])[0].double().numpy()
        if total is None:
            shape = [int((ends[-1]) / s) + n for ends, s, n in zip(starts, strides, value.shape[1:], strict=True)]
            total, weight = np.zeros((value.shape[0], *shape)), np.zeros(shape)
            table = WINDOWS[case.window]
            raw = np.ones(value.shape[1:])
            for d, (n, p, o, s) in enumerate(zip(raw.shape, case.patch, case.overlap, strides, strict=True)):
                axis_raw = table(n, n - int((p - o) / s))
                raw *= axis_raw.reshape([-1 if i == d else 1 for i in range(raw.ndim)])
        at = tuple(slice(int(c / s), int(c / s) + n) for c, s, n in zip(corner, strides, raw.shape, strict=True))
        total[(slice(None), *at)] += value * raw
        weight[at] += raw
    assert total is not None
    kept = tuple(slice(0, int(n)) for n in spans)
    return (total / weight)[(slice(None), *kept)]


def check(data: st.DataObject, name: str) -> None:
    case = data.draw(cases(name))
    whole = case.infer(block=tuple(2 * n + 64 for n in case.sizes)).compute(scheduler="synchronous")
    expected = blended_by_hand(case)
    assert whole.shape == expected.shape
    assert whole.dtype == np.float32
    assert np.abs(whole - expected).max(initial=0) <= 2e-5 * (1 + np.abs(expected).max(initial=0))
    cut = data.draw(cuts(whole.shape[1:]))
    again = case.infer(**cut).compute(scheduler=data.draw(st.sampled_from(["synchronous", "threads"])))
    assert np.array_equal(again, whole)


@pytest.mark.parametrize("name", sorted(NETS))
def test_every_cut_gives_the_same_bits_and_they_are_the_definition(name: str) -> None:
    @settings(max_examples=2, phases=FAST)
    @given(st.data())
    def run(data: st.DataObject) -> None:
        check(data, name)

    run()


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(NETS))
def test_many_cuts_give_the_same_bits_and_they_are_the_definition(name: str) -> None:
    @settings(max_examples=80, phases=FAST)
    @given(st.data())
    def run(data: st.DataObject) -> None:
        check(data, name)

    run()


def test_a_volume_smaller_than_the_patch_is_its_padded_patch() -> None:
    net, _ = net_of("instance norm, 2D")
    volume = np.random.default_rng(0).random((5, 30), dtype="f4")
    result = ci.infer(volume, net, patch=(16, 32), overlap=4).compute()
    with torch.no_grad():
        alone = net(torch.from_numpy(np.pad(volume, [(0, 11), (0, 2)], mode="edge"))[None, None])[0].numpy()
    assert np.allclose(result, alone[:, :5, :30], atol=1e-6)  # the weight of a patch alone is one


@pytest.mark.parametrize("batch", [2, 3, 4])
def test_a_patch_has_the_same_bits_in_every_place_of_its_batch(batch: int) -> None:
    """Elementwise kernels compute the last few values of a tensor otherwise, and so those of the batch's last patch."""
    net = nn.Sequential(nn.Conv2d(1, 3, 1), nn.Sigmoid())
    volume = np.random.default_rng(1).random((30, 31), dtype="f4")
    for overlap in (None, 1):
        whole = ci.infer(volume, net, patch=5, overlap=overlap, batch=batch, block=60).compute()
        for block in [(5, 5), (10, 15), (30, 20)] if overlap is None else [(7, 1), (11, 13), (30, 16)]:
            again = ci.infer(volume, net, patch=5, overlap=overlap, batch=batch, block=block).compute()
            assert np.array_equal(again, whole), (overlap, block)


# What a slice has in common with the volume that it was cut from. A slice is a volume with its own borders, so nothing
# holds at its edge; how far inside, and how exactly, follows from where the patches lie.

PERIOD, CONTEXT, ZONE, STRIDE = 4, 12, 40, 16
"""Of the runs below, on the axis that is cut: the context is rounded up to the period."""

EXACTLY, BLENDED = {"patch": {"x": 64}}, {"patch": {"y": 20, "x": 24}, "overlap": {"x": 8}}

CUTS: list[tuple[dict[str, Any], int, int, float | None, str]] = [
    (EXACTLY, 9 * PERIOD, CONTEXT, 1e-6, "a multiple of the period: round-off, one context inside"),
    (EXACTLY, ZONE, 64, 0.0, "a multiple of the clean zone: the patches coincide, a patch inside"),
    (EXACTLY, 9 * PERIOD + 2, CONTEXT, None, "pooling windows lie otherwise on the voxels"),
    (BLENDED, 2 * STRIDE, 24, 0.0, "a multiple of the stride: the patches coincide, a patch inside"),
    (BLENDED, 9 * PERIOD, 24, None, "a multiple of the period alone: the patches lie elsewhere"),
    (BLENDED, 9 * PERIOD + 2, 24, None, "a multiple of neither"),
]


def _axis_unet(norm: Callable[[int], nn.Module] | None) -> nn.Module:
    return Entry(lambda: UNet(2, ((1, 2), (1, 2)), norm=norm, n=1), ndim=2).make()


@pytest.mark.slow
@pytest.mark.parametrize(("settled", "cut", "inside", "tolerance", "why"), CUTS, ids=[row[-1] for row in CUTS])
def test_the_slice_rule(settled: dict[str, Any], cut: int, inside: int, tolerance: float | None, why: str) -> None:
    net = _axis_unet(nn.InstanceNorm2d if "overlap" in settled else None)
    volume = np.random.default_rng(0).random((20, 320), dtype="f4")
    [_, x] = ci.plan(volume, net, **settled).lattice.axes
    assert (x.contract.period, x.step) == (PERIOD, STRIDE if "overlap" in settled else ZONE)
    of_all = ci.infer(volume, net, **settled).compute()[..., cut:280]
    of_slice = ci.infer(volume[:, cut:280], net, **settled).compute()
    difference = np.abs(of_all - of_slice)
    middle = difference[..., inside:-inside].max()
    assert difference[..., : inside // 4].max() > 1e-4, "the slice has borders of its own"
    if tolerance is None:
        assert middle > 1e-4, why
    else:
        assert middle <= tolerance, why


STRIDED: list[tuple[str, Fraction]] = [("downsampling", Fraction(2)), ("super-resolution", Fraction(1, 2))]


@pytest.mark.parametrize(("name", "stride"), STRIDED)
def test_the_slice_rule_counts_input_voxels(name: str, stride: Fraction) -> None:
    net, contract = net_of(name)
    volume = np.random.default_rng(0).random((40,) * len(contract.axes), dtype="f4")
    of_all, of_slice = ci.infer(volume, net).compute(), ci.infer(volume[..., 8:], net).compute()
    inside = int(4 / stride)
    assert np.abs(of_all[..., int(8 / stride) :] - of_slice)[..., inside:].max() <= 1e-6
