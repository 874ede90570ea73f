"""Exact means the volume as it is: at every length it is the network on the volume, or it is refused before it runs."""

from __future__ import annotations

import re
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import xarray as xr
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import chunkinfer as ci
from chunkinfer.errors import NotExact, PlanError
from tests.lib.drawn_nets import compare, draw, volume_for


# The first two take a length of 3 voxels and not 48; the last loses all of an axis of 3.
@settings(max_examples=8)
@given(st.integers(0, 1 << 30))
@example(562)
@example(2432)
@example(1563)
def test_drawn_networks_are_equal_or_refused(seed: int) -> None:
    rng = Random(seed)
    ndim = rng.choice([2, 2, 3])
    net = draw(rng, ndim)
    for _ in range(3):
        volume, patch = volume_for(rng, ndim)
        outcome = compare(net, volume, patch)
        assert outcome.kind in ("equal", "padded", "refused"), f"{net}, {volume.shape}, {patch}: {outcome}"


def strided() -> nn.Module:
    torch.manual_seed(0)
    return nn.Conv2d(1, 2, 3, stride=2, padding=1).eval()


class Resizes(nn.Module):
    """A decoder that resizes to the size of its input."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(1, 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(F.max_pool2d(self.conv(x), 2), size=x.shape[2:])


def unet() -> nn.Module:
    """A network that refuses odd lengths."""
    torch.manual_seed(0)

    class Small(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.up = nn.Conv2d(1, 2, 3, padding=1), nn.ConvTranspose2d(2, 2, 2, 2)

        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x)
            return y + self.up(F.max_pool2d(y, 2))

    return Small().eval()


def on(net: nn.Module, volume: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    with torch.no_grad():
        found: np.ndarray[Any, Any] = net(torch.from_numpy(volume)[None, None])[0].numpy()
    return found


ODD = np.random.default_rng(0).random((45, 51), dtype="f4")


@pytest.mark.parametrize("patch", [None, (9, 17), (21, 51)])
def test_a_strided_network_on_an_odd_volume(patch: Any) -> None:
    result = ci.infer(ODD, strided(), patch=patch).compute()
    assert np.abs(result - on(strided(), ODD)).max() < 1e-6


def test_a_patch_of_another_residue_is_refused_with_one_that_fits() -> None:
    with pytest.raises(PlanError, match="does not fit a volume of 45 voxels") as caught:
        ci.plan(ODD, strided(), patch=(16, 17))
    advised = int(re.search(r"patch=\{'y': (\d+)\}", str(caught.value))[1])  # type: ignore[index]
    assert np.abs(ci.infer(ODD, strided(), patch=(advised, 17)).compute() - on(strided(), ODD)).max() < 1e-6


def test_a_length_that_cannot_be_cut_is_refused_with_lines_that_work() -> None:
    volume, model = xr.DataArray(ODD, dims=("y", "x")), Resizes().eval()
    with pytest.raises(NotExact, match="45 voxels along y cannot be cut exactly") as caught:
        ci.infer(volume, model, patch=16)
    assert "resizes by a ratio that depends on the size of the input" in caught.value.what
    padded, sliced, blended = caught.value.ways
    assert "46 along y and 52 along x" in padded
    infer = ci.infer
    scope = {"volume": volume, "model": model, "infer": lambda *a, **k: infer(*a, patch=(16, 52), **k)}
    longer = eval(padded[padded.index("infer(") :], scope).compute(scheduler="synchronous")
    assert np.abs(longer.values - on(model, np.pad(ODD, [(0, 1), (0, 1)], mode="edge"))[:, :45, :51]).max() < 1e-6
    part = sliced[sliced.index("infer(") :]
    shorter = eval(part, scope | {"infer": infer})
    assert np.abs(shorter.values - on(model, ODD[:44, :50])).max() < 1e-6
    assert eval(blended[blended.index("infer(") :], scope | {"infer": infer}).shape == (2, 45, 51)


def test_a_length_that_cannot_be_cut_is_exact_where_one_patch_spans_it() -> None:
    model = Resizes().eval()
    volume = ODD[:, :50]
    plan = ci.plan(volume, model, patch=(45, 16))
    assert [len(a.starts) for a in plan.lattice.axes] == [1, 5]
    assert np.abs(ci.infer(volume, model, patch=(45, 16)).compute() - on(model, volume)).max() < 1e-6


def test_a_length_that_the_network_refuses_says_which_volume_is_meant(tmp_path: Path) -> None:
    volume, model = ODD[:, :50], unet()
    plan = ci.plan(volume, model, patch=16)
    said = (
        "the volume and 1 more plane at the end of y, edge-padded "
        "(because the network gives nothing for 45 voxels along y)"
    )
    assert said in plan.verdict
    report = ci.save(ci.infer(volume, model, patch=16), tmp_path / "out.zarr", progress=False)
    assert "edge-padded" in str(report)
    assert "edge-padded" in str(ci.open_volume(tmp_path / "out.zarr").attrs)
    expected = on(model, np.pad(volume, [(0, 1), (0, 0)], mode="edge"))[:, :45]
    assert np.abs(ci.open_volume(tmp_path / "out.zarr").values - expected).max() < 1e-6


def test_a_longer_volume_on_purpose_is_part_of_the_run(tmp_path: Path) -> None:
    asked = ci.infer(ODD, strided(), patch=(16, 16), pad="edge")
    assert "as asked by pad=" in ci.plan(ODD, strided(), patch=(16, 16), pad="edge").verdict
    padded = on(strided(), np.pad(ODD, [(0, 1), (0, 1)], mode="edge"))
    assert np.abs(asked.compute() - padded).max() < 1e-6
    ci.save(asked, tmp_path / "out.zarr", progress=False)
    assert ci.audit(tmp_path / "out.zarr", ODD, strided()).ok
    with pytest.raises(ci.errors.SettingsDiffer, match="pad"):
        ci.save(ci.infer(ODD, strided(), patch=(17, 17)), tmp_path / "out.zarr", progress=False)
    with pytest.raises(PlanError, match="pad='zero' is not known"):
        ci.plan(ODD, strided(), pad="zero")


def test_an_audit_means_the_same_volume(tmp_path: Path) -> None:
    ci.save(ci.infer(ODD, strided(), patch=(17, 17)), tmp_path / "out.zarr", progress=False)
    report = ci.audit(tmp_path / "out.zarr", ODD, strided())
    assert report.ok, report


@pytest.mark.parametrize("net", ["flips", "transposed"])
def test_an_augmented_network_on_an_odd_volume(net: str) -> None:
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv2d(1, 2, 3, stride=2, padding=1), nn.ConvTranspose2d(2, 1, 3, 2, 1)).eval()
    variants = {"flips": {"flips": "yx"}, "transposed": {"flips": "", "transpose": "yx"}}[net]
    model = ci.augment(plain, **variants)
    with torch.no_grad():
        x = torch.from_numpy(ODD)[None, None]
        if net == "flips":
            axes = [[], [2], [3], [2, 3]]
            expected = torch.stack([plain(x.flip(f)).flip(f) for f in axes]).mean(0)
        else:
            expected = torch.stack([plain(x), plain(x.transpose(2, 3)).transpose(2, 3)]).mean(0)
    result = ci.infer(ODD, model, patch=(17, 25)).compute()
    assert np.abs(result - expected[0].numpy()).max() < 1e-6


def halves(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Every second voxel with both its neighbours, zeros beyond the ends: a strided layer without torch."""
    y = np.pad(x, [(0, 0), (0, 0), (0, 0), (1, 1)])
    return y[..., :-2:2] + 2 * y[..., 1:-1:2] - y[..., 2::2][..., : y[..., 1:-1:2].shape[-1]]


def even_only(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """As `halves`, for even lengths."""
    if x.shape[-1] % 2:
        raise ValueError("odd")
    return halves(x)


def shares(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """A function that is another one on odd lengths: it reads the last voxel everywhere."""
    return x if x.shape[-1] % 2 == 0 else x + x[..., -1:]


def test_functions_are_probed_at_the_length_of_the_volume() -> None:
    result = ci.infer(ODD, halves, patch=(45, 17)).compute()
    assert np.array_equal(result, halves(ODD[None, None])[0])
    assert "edge-padded" in ci.plan(ODD, even_only, patch=(45, 16)).verdict
    assert "edge-padded" not in ci.plan(ODD, halves, patch=(45, 17)).verdict
