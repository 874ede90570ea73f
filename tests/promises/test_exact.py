"""The promise: infer(volume, model) is model(volume), however it was cut."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from hypothesis import Phase, assume, given, settings
from hypothesis import strategies as st
from torch import nn

import chunkinfer as ci
from chunkinfer.errors import NotExact, PlanError
from chunkinfer.networks.model import open_model
from chunkinfer.networks.trace.tracing import Trace
from tests.lib.nets import EXACT, REFUSED
from tests.lib.probes import without_voxels
from tests.lib.whole import whole

FAST = [Phase.explicit, Phase.generate]
"""Shrinking a failure would run networks for minutes; the drawn cut is small enough to read."""

_cache: dict[tuple[str, torch.dtype], tuple[nn.Module, Trace]] = {}


def net_of(name: str, dtype: torch.dtype) -> tuple[nn.Module, Trace]:
    if (name, dtype) not in _cache:
        entry = EXACT[name]
        net = entry.make().to(dtype)
        _cache[name, dtype] = net, open_model(net).trace(entry.channels, entry.ndim)
    return _cache[name, dtype]


@contextmanager
def counted(net: nn.Module) -> Iterator[list[int]]:
    """Forward passes on real voxels, not those of the tracer."""
    calls: list[int] = []

    def hook(module: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        if not without_voxels(args[0]):
            calls.append(args[0].shape[0])

    handle = net.register_forward_pre_hook(hook)
    try:
        yield calls
    finally:
        handle.remove()


@st.composite
def cuts(draw: st.DrawFn, contract: Trace, sizes: list[int], ndim: int) -> tuple[list[int], list[int]]:
    """A patch and a block that an exact run can have, per axis: a few zones along each, so that runs stay short."""
    patches, blocks = [], []
    for axis, n in zip(contract.axes, sizes, strict=True):
        zone = max(axis.period, n // draw(st.integers(1, 5 if ndim == 2 else 3)))
        low = -(-axis.low // axis.period) * axis.period
        patch = axis.accepted_at_least(low + -(-zone // axis.period) * axis.period + axis.high)
        patches.append(patch)
        zone = (patch - low - axis.high) // axis.period * axis.period
        blocks.append(int(zone / axis.stride) * draw(st.integers(1, 3)))
    return patches, blocks


def volume_for(draw: st.DataObject, name: str, contract: Trace) -> list[int]:
    top = 120 if EXACT[name].ndim == 2 else 40
    return [draw.draw(st.integers(axis.smallest, max(axis.smallest, top))) for axis in contract.axes]


def check(name: str, dtype: torch.dtype, tolerance: float, absolute: bool, data: st.DataObject) -> None:
    net, contract = net_of(name, dtype)
    entry = EXACT[name]
    sizes = volume_for(data, name, contract)
    patch, block = data.draw(cuts(contract, sizes, entry.ndim))
    volume = np.random.default_rng(sum(sizes)).standard_normal((entry.channels, *sizes))
    volume = volume.astype("f8" if dtype == torch.float64 else "f4")
    expected = whole(net, contract, volume)
    assume(expected.size > 0)
    given_volume = volume[0] if entry.channels == 1 else volume
    try:
        plan = ci.plan(given_volume, net, patch=patch, block=block)
    except PlanError:  # a patch of another residue than the volume's own size
        assume(False)
    with counted(net) as calls:
        result = ci.infer(given_volume, net, patch=patch, block=block).compute(scheduler="synchronous")
    assert len(calls) == len(plan.lattice) == plan.patches
    assert result.shape == expected.shape
    assert result.dtype == volume.dtype
    scale = 1 + np.abs(expected).max() if absolute else np.abs(expected).max()
    assert np.abs(result - expected).max() <= tolerance * scale


@pytest.mark.parametrize(
    "name", [n if i % 2 == 0 else pytest.param(n, marks=pytest.mark.slow) for i, n in enumerate(sorted(EXACT))]
)
def test_float64_equals_the_whole_volume(name: str) -> None:
    @settings(max_examples=1, phases=FAST)
    @given(st.data())
    def run(data: st.DataObject) -> None:
        check(name, torch.float64, 1e-12, True, data)

    run()


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(EXACT))
def test_float32_equals_the_whole_volume(name: str) -> None:
    @settings(max_examples=1, phases=FAST)
    @given(st.data())
    def run(data: st.DataObject) -> None:
        check(name, torch.float32, 5e-5, False, data)

    run()


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(EXACT))
def test_many_cuts_equal_the_whole_volume(name: str) -> None:
    @settings(max_examples=30, phases=FAST)
    @given(st.data(), st.sampled_from([torch.float32, torch.float64]))
    def run(data: st.DataObject, dtype: torch.dtype) -> None:
        double = dtype == torch.float64
        check(name, dtype, 1e-12 if double else 5e-5, double, data)

    run()


@pytest.mark.parametrize(
    "name", [n if i % 2 else pytest.param(n, marks=pytest.mark.slow) for i, n in enumerate(sorted(EXACT))]
)
def test_the_plan_chooses_numbers_that_are_exact(name: str) -> None:
    net, contract = net_of(name, torch.float64)
    entry = EXACT[name]
    sizes = [max(axis.smallest, 60 if entry.ndim == 2 else 30) + i for i, axis in enumerate(contract.axes)]
    volume = np.random.default_rng(0).standard_normal((entry.channels, *sizes))
    result = ci.infer(volume if entry.channels > 1 else volume[0], net).compute()
    expected = whole(net, contract, volume)
    assert result.shape == expected.shape
    assert np.abs(result - expected).max() <= 1e-12 * (1 + np.abs(expected).max())


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_what_cannot_be_tiled_is_refused_by_name(name: str) -> None:
    entry = REFUSED[name]
    net = entry.make()
    volume = np.zeros((entry.channels, *(96,) * entry.ndim), "f4")
    with pytest.raises(NotExact) as caught:
        ci.infer(volume if entry.channels > 1 else volume[0], net)
    assert entry.layer in caught.value.what
    assert "overlap=" in str(caught.value) or "model.eval()" in str(caught.value)


def test_a_thin_axis_hides_nothing() -> None:
    """An axis that one small patch spans is confirmed at a size that shows what the other axis reads."""
    net, contract = net_of("window attention", torch.float32)
    volume = np.random.default_rng(0).random((1, 4, 37), dtype="f4")
    result = ci.infer(volume[0], net, patch=(12, 20)).compute()
    assert np.abs(result - whole(net, contract, volume)).max() < 1e-5


def test_batches_and_threads_are_part_of_the_run_and_blocks_are_not() -> None:
    net, _ = net_of("strided", torch.float32)
    volume = np.random.default_rng(0).random((40, 40, 40), dtype="f4")
    plan = ci.plan(volume, net, patch=36)
    zone = [axis.zone for axis in plan.lattice.axes]
    settled = {"patch": 36, "batch": 3}
    reference = ci.infer(volume, net, **settled).compute()
    for times in (1, 2, 3):
        block = [z * times for z in zone]
        again = ci.infer(volume, net, block=block, **settled).compute(scheduler="threads")
        assert np.array_equal(again, reference)


def test_digest_tells_networks_apart() -> None:
    a, b = EXACT["U-Net, nearest"].make(), EXACT["U-Net, nearest"].make()
    assert open_model(a).digest == open_model(b).digest
    assert open_model(a).digest != open_model(EXACT["U-Net, linear"].make()).digest  # same weights, same repr
    with torch.no_grad():
        next(b.parameters()).add_(1e-3)
    assert open_model(a).digest != open_model(b).digest
