"""Runs that check themselves: what a patch elsewhere gives for the same voxels."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import chunkinfer as ci
from chunkinfer.errors import NotExact, PlanError
from chunkinfer.geometry.boxes import Box
from chunkinfer.geometry.contract import AxisContract
from chunkinfer.geometry.lattice import PatchLattice, exact_axis
from chunkinfer.tiling.kernel.block import run_block
from chunkinfer.tiling.kernel.block_task import BlockTask
from chunkinfer.tiling.kernel.job import Job
from chunkinfer.tiling.kernel.normalize import resolve_normalize
from chunkinfer.tiling.kernel.self_check import blocks_to_check, check_block, moved_patch


def lattice_of(contract: AxisContract, sizes: tuple[int, ...], patch: int) -> PatchLattice:
    return PatchLattice(tuple(exact_axis(contract, n, patch) for n in sizes))


@given(st.data())
def test_a_moved_patch_has_the_context_of_all_that_is_compared(data: st.DataObject) -> None:
    period = data.draw(st.sampled_from([1, 2, 4]))
    stride = data.draw(
        st.sampled_from([s for s in (Fraction(1, 2), Fraction(1), Fraction(2)) if (period / s) % 1 == 0])
    )
    low, high = data.draw(st.integers(0, 9)), data.draw(st.integers(0, 9))
    contract = AxisContract(period, stride, low, high, (0, 0), (0,), period)
    patch = contract.accepted_at_least(-(-low // period) * period + high + period * data.draw(st.integers(1, 5)))
    size = data.draw(st.integers(period, 4 * patch))
    axis = exact_axis(contract, size, patch)
    first = data.draw(st.integers(0, axis.output - 1))
    out = Box((first,), (data.draw(st.integers(first + 1, axis.output)),))
    moved = moved_patch(PatchLattice((axis,)), out, data.draw(st.booleans()))
    if len(axis.starts) == 1:
        assert moved is None
        return
    assert moved is not None
    start, seen = moved.box.start[0], moved.lattice.patch[0]
    assert start % period == 0
    assert contract.accepts(seen)
    assert start >= 0
    assert start + seen <= axis.padded
    assert moved.box.stop[0] == min(start + seen, size)
    for o in range(moved.clean.start[0], moved.clean.stop[0]):
        assert out.start[0] <= o < out.stop[0]
        anchor = int(o * stride) // period * period
        assert start == 0 or start <= anchor - low
        assert start + seen == axis.padded or anchor + period + high <= start + seen


def box_sum(reach: int) -> nn.Module:
    """A network that reads so many voxels on each side."""
    net = nn.Conv2d(1, 1, 2 * reach + 1, padding=reach, bias=False)
    nn.init.constant_(net.weight, 1 / (2 * reach + 1) ** 2)
    return net.eval()


def checked(stated: int, real: int) -> None:
    """Compute blocks with a stated context, and check them."""
    lattice = lattice_of(AxisContract(1, Fraction(1), stated, stated, (0, 0), (0,), 1), (60, 60), 2 * stated + 10)
    net, voxels = box_sum(real), np.random.default_rng(0).random((1, 60, 60), dtype=np.float32)
    job = Job(
        lattice=lattice, window="hann", normalize=resolve_normalize(None, voxels.dtype), channels_in=1, channels_out=1,
        compute=np.dtype("f4"), dtype=np.dtype("f4"), batch=1, device="cpu", threads=1,
    )  # fmt: skip
    for out in (Box((0, 0), (20, 20)), Box((30, 30), (60, 60))):
        seen = lattice.seen(out)
        block = run_block(net, BlockTask.of(job, voxels[(slice(None), *seen.slices)], seen, out))
        check_block(
            job, block, out, lambda box: voxels[(slice(None), *box.slices)],
            lambda task: run_block(net, task), "fp32", longer=False,
        )  # fmt: skip


def test_a_context_that_is_too_small_is_found_and_one_that_is_not_passes() -> None:
    checked(4, 4)
    checked(5, 4)
    with pytest.raises(NotExact, match="own check failed") as caught:
        checked(3, 4)
    assert "tiling_error" in str(caught.value)


def test_blocks_are_chosen_once_and_are_few() -> None:
    assert blocks_to_check(1000, 8000, None, False, 7) == blocks_to_check(1000, 8000, None, False, 7)
    assert len(blocks_to_check(1000, 8000, None, False, 7)) == 8
    assert len(blocks_to_check(1000, 100, None, False, 7)) == 2  # 2 % of the patches
    assert len(blocks_to_check(10, 20, None, False, 7)) == 0
    assert len(blocks_to_check(10, 20, None, True, 7)) == 1
    assert len(blocks_to_check(10, 20, 100, False, 7)) == 10
    assert not blocks_to_check(10, 20, 0, True, 7)


@pytest.mark.parametrize("settings", [{}, {"dtype": "uint8"}, {"argmax": True}, {"threshold": 0.5}, {"batch": 3}])
def test_a_run_that_is_right_passes_its_own_check(settings: dict[str, object]) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv3d(1, 2, 3, stride=2, padding=1), nn.ReLU(), nn.ConvTranspose3d(2, 2, 2, 2), nn.Sigmoid()
    )
    volume = np.random.default_rng(0).random((30, 32, 34), dtype=np.float32)
    free = ci.infer(volume, net.eval(), patch=16, check=0, **settings).compute()
    assert np.array_equal(ci.infer(volume, net, patch=16, check=50, **settings).compute(), free)


class Opened:
    """A function that reads further than noise shows: 8 voxels on, where a value is one of a few."""

    __name__ = "opened"

    def __call__(self, x: np.ndarray) -> np.ndarray:
        y = x.copy()
        y[..., 8:] += np.abs(x[..., :-8] - np.float32(0.7)) < 1e-5
        return y


def test_what_no_probe_showed_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from chunkinfer.networks.model import Model, open_model

    opened = open_model(Opened())
    honest = opened.trace(1, 2)
    blind = replace(honest, axes=tuple(replace(a, low=0, high=0) for a in honest.axes), reasons=())
    monkeypatch.setattr(Model, "trace", lambda *_, **__: blind)
    volume = np.random.default_rng(0).choice(np.array([0.2, 0.7], "f4"), (64, 64))
    right = ci.infer(volume, opened, patch=(64, 16), check=0).compute()
    assert not np.array_equal(right[0], Opened()(volume[None, None])[0, 0])  # the fault is there
    with pytest.raises(NotExact, match="own check failed"):
        ci.infer(volume, opened, patch=(64, 16)).compute()
    with pytest.raises(ci.errors.RunError, match="own check failed"):
        ci.save(ci.infer(volume, opened, patch=(64, 16)), tmp_path / "out.zarr", progress=False)


def test_a_number_of_checks_is_a_count() -> None:
    with pytest.raises(PlanError, match="check=-1"):
        ci.plan(np.zeros((20, 20), "f4"), box_sum(1), check=-1)


def test_volumes_that_need_no_cut_are_not_checked() -> None:
    lattice = lattice_of(AxisContract(1, Fraction(1), 1, 1, (0, 0), (0,), 1), (9, 9), 9)
    assert moved_patch(lattice, Box((0, 0), (9, 9)), True) is None
