"""Patches that do not run change no voxel that is wanted, however the volume is cut."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from chunkinfer.errors import PlanError
from chunkinfer.geometry.boxes import Box
from chunkinfer.tiling.kernel.skip import resolve_empty, resolve_fill, select
from tests.lib.kernel.blocks import Array, Case, cases, cuts, job_of, lattice, restless

FILL = 7


def _with_holes(data: st.DataObject, case: Case) -> Case:
    """The case with boxes of one value in its volume."""
    volume = case.volume.copy()
    value = data.draw(st.sampled_from([0, 1]))
    for _ in range(data.draw(st.integers(1, 2))):
        volume[(slice(None), *_box(data, volume.shape[1:]).slices)] = value
    return Case(replace(case.job, fill=FILL, empty=data.draw(st.sampled_from([None, 0, 1, "constant"]))), volume)


def _box(data: st.DataObject, shape: tuple[int, ...]) -> Box:
    ends = [sorted(data.draw(st.tuples(st.integers(0, n), st.integers(0, n)))) for n in shape]
    return Box(tuple(a for a, _ in ends), tuple(b for _, b in ends))


def _mask(data: st.DataObject, shape: tuple[int, ...]) -> Array | None:
    kind = data.draw(st.sampled_from(["none", "boxes", "speckles", "nothing"]))
    if kind == "none":
        return None
    keep = np.zeros(shape, np.bool_)
    if kind == "speckles":
        return np.random.default_rng(sum(shape)).random(shape) > 0.97
    for _ in range(2 if kind == "boxes" else 0):
        keep[_box(data, shape).slices] = True
    return keep


def _wanted(case: Case, keep: Array | None) -> Array:
    """The rule, voxel by voxel and patch by patch."""
    job, patches = case.job, case.job.lattice
    covered = np.zeros(patches.output, np.bool_)
    for index in product(*(range(len(axis.starts)) for axis in patches.axes)):
        inside = patches.patch_box(index) & Box.of_shape(patches.shape)
        values = np.unique(case.volume[(slice(None), *inside.slices)])
        empty = len(values) == 1 and (job.empty == "constant" or values[0] == job.empty)
        if job.empty is None or not empty:
            covered[patches.owned_box(index).slices] = True
    return covered if keep is None else covered & keep


@given(st.data())
def test_what_is_wanted_is_as_without_skipping(data: st.DataObject) -> None:
    case = _with_holes(data, data.draw(cases()))
    keep = _mask(data, case.whole.shape)
    everything = Case(replace(case.job, empty=None), case.volume).on_host(restless)
    expected = np.where(_wanted(case, keep), everything, everything.dtype.type(FILL))
    cut = data.draw(cuts(case))

    def host(out: Box) -> Array:
        return case.on_host(restless, out, keep=None if keep is None else keep[out.slices])

    def device(out: Box) -> Array:
        return case.on_device(restless, out, None if keep is None else keep[out.slices])

    for run in (host, device):
        assert np.array_equal(run(case.whole), expected)
        assert np.array_equal(case.cut(cut, run), expected)


class Counting:
    """A network that counts its calls."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return restless(x)


def test_patches_without_a_wanted_voxel_do_not_run() -> None:
    volume = np.zeros((1, 8, 8, 24), "u1")
    volume[..., 13] = 9
    patches = lattice((8, 8, 24), (8, 8, 8), (0, 0, 4))  # starts 0, 4, 8, 12, 16
    case = Case(job_of(patches, empty=0.0, fill=-1), volume)
    network = Counting()
    result = case.on_host(network)
    # Those at 8 and 12 hold something and cover 8 ... 20; those at 4 and 16 hold nothing and share that.
    assert (case.selected(), network.calls) == ((4, 1), 4)
    assert (result[..., 8:20] >= 0).all()
    assert (result[..., :8] == -1).all()
    assert (result[..., 20:] == -1).all()
    keep = np.zeros((8, 8, 24), np.bool_)
    keep[0, 0, 15] = True  # in the patches at 8 and 12
    network = Counting()
    result = case.on_host(network, keep=keep)
    assert (case.selected(keep), network.calls) == ((2, 3), 2)
    assert np.count_nonzero(result[0] >= 0) == 1


def test_a_block_of_which_nothing_is_wanted_is_filled() -> None:
    job = job_of(lattice((8, 8, 24), (8, 8, 8), None, context=0), empty="constant", fill=3, dtype=np.dtype("u1"))
    case = Case(job, np.full((1, 8, 8, 24), 5, "u1"))
    network = Counting()
    result = case.on_host(network)
    assert (case.selected(), network.calls) == ((0, 3), 0)
    assert result.dtype == np.uint8
    assert (result == 3).all()


def test_nothing_is_added_to_a_block_without_holes() -> None:
    case = Case(job_of(lattice((8, 8, 8), (8, 8, 8), None), empty=0.0), np.ones((1, 8, 8, 8), "u1"))
    out = case.whole
    selection = select(case.job, case.volume, out, out, np.ones(out.shape, np.bool_))
    assert selection.wanted is None
    assert selection.skipped == 0


def test_all_channels_decide_whether_a_patch_is_empty() -> None:
    volume = np.zeros((2, 4, 4, 4), "u1")
    volume[1] = 1
    job = job_of(lattice((4, 4, 4), (4, 4, 4), None), channels_in=2, fill=-1)
    for empty in ("constant", 0.0, 1.0):
        assert (Case(replace(job, empty=empty), volume).on_host(restless) >= 0).all()
    volume[1] = 0
    for empty in ("constant", 0.0):
        assert (Case(replace(job, empty=empty), volume).on_host(restless) == -1).all()


def test_nan_where_nothing_runs_is_no_error() -> None:
    volume = np.random.default_rng(0).random((1, 8, 8, 16), dtype="f4")
    volume[..., 12] = np.nan
    keep = np.zeros((8, 8, 16), np.bool_)
    keep[..., :8] = True
    case = Case(job_of(lattice((8, 8, 16), (8, 8, 8), None, context=0)), volume)
    for result in (case.on_host(restless, keep=keep), case.on_device(restless, keep=keep)):
        assert np.isfinite(result).all()
        assert not result[..., 8:].any()


BAD_EMPTY: list[Any] = ["nothing", True, float("nan"), (0, 1)]
BAD_FILL: list[tuple[Any, str]] = [
    (300, "uint8"), (-1, "uint8"), (0.5, "uint8"), ("0", "uint8"), (True, "uint8"), (1e6, "float16"),
]  # fmt: skip


@pytest.mark.parametrize("given_value", BAD_EMPTY)
def test_what_empty_cannot_be(given_value: Any) -> None:
    with pytest.raises(PlanError, match=r"empty=.* is neither a number nor") as caught:
        resolve_empty(given_value)
    assert len(caught.value.ways) == 2


@pytest.mark.parametrize(("given_value", "dtype"), BAD_FILL)
def test_what_fill_cannot_be(given_value: Any, dtype: str) -> None:
    with pytest.raises(PlanError, match=rf"fill=.* cannot be stored as {dtype}"):
        resolve_fill(given_value, np.dtype(dtype))


def test_what_empty_and_fill_may_be() -> None:
    assert [resolve_empty(e) for e in (None, "constant", 0, np.uint8(4), 0.5)] == [None, "constant", 0.0, 4.0, 0.5]
    assert [resolve_fill(f, np.dtype("u1")) for f in (0, 255, np.float32(7))] == [0.0, 255.0, 7.0]
    assert [resolve_fill(f, np.dtype("f4")) for f in (-1, 0.1, np.inf)] == [-1.0, 0.1, np.inf]
    assert np.isnan(resolve_fill(np.nan, np.dtype("f4")))
