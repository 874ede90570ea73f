"""The error of a tiling is that against the network on the whole sample, and ends where the traced context begins."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import dask.array as da
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import chunkinfer as ci
from chunkinfer.api.tiling_error import tiling_error as subject
from chunkinfer.api.tiling_error.report import on_front
from chunkinfer.api.tiling_error.tiling_error import tiling_error
from chunkinfer.errors import ModelError, PlanError, VolumeError
from tests.lib.nets import EXACT, REFUSED, Entry, UNet
from tests.lib.whole import whole

FAST = ("even kernels, same", "U-Net, valid", "strided", "super-resolution", "downsampling", "pads to a multiple")
"""Of every kind of contract one: strides, crops, odd contexts, outputs finer and coarser than the input."""

DENSE = ("plain conv", "dilated", "strided", "downsampling")
"""That have no maximum and no saturation: with positive weights every voxel of their context counts."""


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def random(shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(0).random(shape, dtype="f4")


def unet() -> torch.nn.Module:
    """Period 2, context 5 and 5."""
    return Entry(lambda: UNet(3, ((2, 2, 2),), n=1)).make()


@pytest.mark.slow
@pytest.mark.parametrize("name", [pytest.param(n, marks=[] if n in FAST else pytest.mark.slow) for n in EXACT])
def test_the_exact_row_is_exact(name: str) -> None:
    entry = EXACT[name]
    side = {"U-Net, valid, depth 4": 450, "residual U-Net": 128}.get(name, {2: 96, 3: 84}[entry.ndim])
    shape = (side if entry.ndim == 2 else 16, side, side)[-entry.ndim :]
    errors = tiling_error(entry.make(), random(shape), halos=[0], overlaps=[], timed=False)
    assert errors.base.kind == "exact"
    assert errors.base.max <= errors.round_off
    assert errors.effective_halo is not None


@pytest.mark.parametrize("name", DENSE)
def test_less_context_errs(name: str) -> None:
    net, ndim = EXACT[name].make(), EXACT[name].ndim
    with torch.no_grad():
        for weights in net.parameters():
            weights.abs_()
    errors = tiling_error(net, random((64, 64) if ndim == 2 else (40, 40, 40)), overlaps=[], timed=False)
    *less, exact = errors.rows
    assert less[0].halo == (0,) * ndim
    assert exact.max <= errors.round_off
    assert all(a.max > b.max for a, b in pairwise(errors.rows)), "a larger halo errs less"
    assert all(row.max > errors.round_off for row in less), "only the traced context is enough"
    assert all(a.recompute < b.recompute for a, b in pairwise(errors.rows)), "and costs more"
    assert errors.effective_halo is not None


def test_rows_are_what_infer_gives() -> None:
    net, data = unet(), random((24, 24, 24))
    errors = tiling_error(net, data, halos=[2, {"z": 0, "y": 4}], overlaps=[(4, 2, 4)], timed=False)
    from chunkinfer.networks.model import open_model

    expected = whole(net, open_model(net).trace(1, 3), data[None])
    for row in errors.rows:
        asked = {"exact": {}, "halo": {"halo": row.halo}, "blended": {"overlap": row.overlap}}[row.kind]
        large = ci.plan(da.zeros((1200, 1200, 1200), "f4"), net, patch=row.patch, block=4096, **asked)
        assert row.recompute == pytest.approx(large.recompute, rel=0.03)
        result = ci.infer(data, net, patch=row.patch, **asked).compute()
        assert row.max == pytest.approx(np.abs(result - expected).max(), rel=1e-3, abs=1e-6)
        assert row.rmse == pytest.approx(np.sqrt(((result - expected) ** 2).mean()), rel=1e-3, abs=1e-6)
        assert row.flipped == pytest.approx(((result > 0.5) != (expected > 0.5)).mean(), abs=1e-6)
    assert {row.kind for row in errors.rows} == {"exact", "halo", "blended"}
    assert all(
        a.step == z for a, z in zip(ci.plan(data, net, patch=errors.base.patch).lattice.axes, errors.zone, strict=True)
    )


def test_clean_zones_are_the_same_at_every_halo() -> None:
    net, data = unet(), random((24, 24, 24))
    errors = tiling_error(net, data, overlaps=[], timed=False)
    for row in errors.rows:
        asked = {} if row.kind == "exact" else {"halo": row.halo}
        lattice = ci.plan(data, net, patch=row.patch, **asked).lattice
        assert tuple(a.step if len(a.starts) > 1 else None for a in lattice.axes) == errors.zone


def test_an_axis_too_thin_to_be_cut_is_left_whole() -> None:
    net = unet()
    data = np.random.default_rng(0).random((6, 30, 30), dtype="f4")
    errors = tiling_error(net, data, overlaps=[8], timed=False)
    assert errors.zone[0] is None
    assert errors.base.max <= errors.round_off
    assert all((row.halo or row.overlap)[0] is None for row in errors.rows)
    assert "z not cut" in str(errors)
    assert ci.plan(data, net, halo=errors.rows[0].halo) is not None, "a halo of a row is one for infer"


@pytest.mark.slow
def test_a_network_without_a_bounded_context() -> None:
    errors = tiling_error(REFUSED["instance norm"].make(), random((24, 24, 24)), timed=False)
    assert errors.context is None
    assert "exact" not in {row.kind for row in errors.rows}
    assert {"halo", "blended"} == {row.kind for row in errors.rows}
    assert "unbounded (encoders.0.1" in str(errors)
    assert "on another volume gives other values" in str(errors)
    assert errors.base.kind == "halo"
    assert min(row.max for row in errors.rows) > errors.round_off


def test_a_valid_network_keeps_its_crop() -> None:
    errors = tiling_error(EXACT["U-Net, valid"].make(), random((96, 96)), overlaps=[40], threshold=None, timed=False)
    assert errors.base.max <= errors.round_off
    assert all(row.patch <= errors.base.patch for row in errors.rows)


def test_decisions_of_classes() -> None:
    conv = torch.nn.Conv3d
    net = torch.nn.Sequential(
        conv(1, 4, 5, padding=2, bias=False), conv(4, 3, 3, padding=1, bias=False), torch.nn.Softmax(1)
    )
    data = random((24, 24, 24))
    errors = tiling_error(net.eval(), data, halos=[0], overlaps=[], threshold=None, timed=False)
    assert errors.decisions == data.size
    assert errors.rows[0].flipped > 0 == errors.rows[-1].flipped


def test_time_is_relative_to_the_exact_row() -> None:
    errors = tiling_error(EXACT["plain conv"].make(), random((24, 24, 24)), halos=[0], overlaps=[2])
    assert errors.base.kind == "exact"
    assert errors.base.time == 1.0
    assert all(row.time > 0 for row in errors.rows)
    assert all(row.cost == row.time for row in errors.rows)


def test_labelled_and_stored_samples(tmp_path: Path) -> None:
    net = EXACT["plain conv"].make()
    data = np.random.default_rng(0).integers(0, 255, (30, 30, 30), np.uint8)
    np.save(tmp_path / "em.npy", data)
    settings = {"halos": [2], "overlaps": [], "timed": False}
    volume = ci.open_volume(tmp_path / "em.npy")
    results = [tiling_error(net, s, **settings) for s in (data, volume, volume.data, tmp_path / "em.npy")]
    assert all(other == results[0] for other in results[1:])
    assert tiling_error(net, data, normalize=(0, 255), **settings) == results[0]


def test_to_look_at(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    errors = tiling_error(unet(), random((24, 24, 24)), timed=False)
    assert "effective context" in str(errors)
    assert errors._repr_html_().count("<tr>") > len(errors.rows)
    assert json.loads(json.dumps(errors.as_dict()))["rows"][0]["kind"] == "halo"
    for column in ("rmse", "max", "flipped"):
        assert errors.plot(tmp_path / f"{column}.png", error=column).stat().st_size > 10_000
    with pytest.raises(PlanError, match="not a column"):
        errors.plot(tmp_path / "p.png", error="mean")
    front = errors.pareto()
    assert front
    assert [row.cost for row in front] == sorted(row.cost for row in front)


def plain_front(costs: list[float], errors: list[float]) -> list[bool]:
    """By comparing everything with everything."""
    points = list(zip(costs, errors, strict=True))
    return [not any(q != p and q[0] <= p[0] and q[1] <= p[1] for q in points) for p in points]


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=12))
def test_the_front_is_what_nothing_beats(points: list[tuple[int, int]]) -> None:
    costs, errors = [float(c) for c, _ in points], [float(e) for _, e in points]
    assert on_front(costs, errors) == plain_front(costs, errors)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"halos": 4}, "halos=4 is not a sequence"),
        ({"halos": {"z": 4}}, "is not a sequence"),
        ({"halos": [-1]}, "halo on axis z is -1"),
        ({"overlaps": "8"}, "is not a sequence"),
        ({"overlaps": [(1, 2)]}, "3 spatial axes"),
        ({"overlaps": [500]}, "does not fit a patch"),
        ({"patch": 5}, "A patch of 5 voxels"),
        ({"patch": 400}, "fits in one patch"),
        ({"threshold": "half"}, "is not a number"),
        ({"window": "boxcar"}, "window='boxcar'"),
    ],
)
def test_bad_input(change: dict, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        tiling_error(unet(), random((24, 24, 24)), **change)


def test_a_sample_that_has_no_seams_or_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    net = unet()
    with pytest.raises(PlanError, match="it has no seams"):
        tiling_error(net, random((12, 12, 12)))
    monkeypatch.setattr(subject, "_available", lambda device: 1 << 20)
    with pytest.raises(PlanError, match=r"1\.0 MiB are available"):
        tiling_error(net, random((24, 24, 24)))
    monkeypatch.undo()
    with pytest.raises(PlanError, match="one channel"):
        tiling_error(EXACT["reflect and replicate"].make(), random((96, 96)), threshold=None)
    with pytest.raises(PlanError, match="nothing to measure"):
        tiling_error(REFUSED["instance norm"].make(), random((24, 24, 24)), halos=[], overlaps=[])
    with pytest.raises(ModelError, match="train mode"):
        tiling_error(net.train(), random((24, 24, 24)))
    with pytest.raises(VolumeError, match="nothing says how to scale"):
        tiling_error(net.eval(), np.zeros((40, 40, 40), np.uint16))


def test_memory_that_is_left_is_known() -> None:
    assert 1 << 20 < subject._available("cpu") < 1 << 50
