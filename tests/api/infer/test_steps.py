"""Output steps, masks, empty input and augmentation through infer and save."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr

import chunkinfer as ci
from chunkinfer.errors import ChunkinferError, DestinationError, PlanError, SettingsDiffer, VolumeError
from tests.lib.nets import Entry, UNet

V = np.random.default_rng(0).integers(1, 255, (24, 28, 36), dtype=np.uint8)
NET = Entry(lambda: UNet(3, ((2, 2, 2),), n=1)).make()
"""Period 2, context 5 and 5."""
WAYS = {"exact": {"patch": 20}, "blended": {"patch": 20, "overlap": 8}}
BLOCKS = (8, (24, 16, 36))


def both(way: str, block: object, **steps: object) -> np.ndarray:
    kept = {"block": block} if way == "exact" or block == (24, 16, 36) else {"block": 12}
    return ci.infer(V, NET, **WAYS[way], **kept, **steps).compute()


@pytest.mark.parametrize("way", ["exact", pytest.param("blended", marks=pytest.mark.slow)])
def test_steps_are_what_numpy_makes_of_the_plain_result(way: str) -> None:
    plain = both(way, 8)
    assert np.array_equal(both(way, 8, channels=(2, 0)), plain[[2, 0]])
    assert np.array_equal(both(way, 8, argmax=True), plain.argmax(0, keepdims=True))
    assert np.array_equal(both(way, 8, threshold=0.1), plain > 0.1)
    activated = both(way, 8, activation=lambda x: x.clamp(0, 1), channels=1)
    if way == "exact":
        assert np.array_equal(activated, plain[1:2].clip(0, 1))
    decided = [both(way, block, activation="softmax", argmax=True) for block in BLOCKS]
    assert decided[0].dtype == np.uint8
    assert np.array_equal(*decided)


def test_a_step_is_in_the_plan_and_in_the_fingerprint(tmp_path: Path) -> None:
    assert "argmax True" in str(ci.plan(V, NET, argmax=True))
    assert ci.plan(V, NET, argmax=True).channels_out == 1
    ci.save(ci.infer(V, NET, argmax=True), tmp_path / "out.zarr", progress=False)
    with pytest.raises(SettingsDiffer):
        ci.save(ci.infer(V, NET, threshold=0.5), tmp_path / "out.zarr", progress=False)
    with pytest.raises(PlanError, match="contradict"):
        ci.infer(V, NET, argmax=True, threshold=0.5)


@pytest.mark.parametrize("way", WAYS)
def test_a_mask_changes_nothing_that_is_wanted(way: str, tmp_path: Path) -> None:
    coarse = np.zeros((6, 7, 9), bool)
    coarse[1:3, 2:5, 3:6] = True
    wanted = coarse.repeat(4, 0).repeat(4, 1).repeat(4, 2)
    plain = both(way, 8)
    for block in BLOCKS:
        found = both(way, block, mask=coarse, fill=-1)
        assert np.array_equal(found[:, wanted], plain[:, wanted])
        assert (found[:, ~wanted] == -1).all()
    report = ci.save(
        ci.infer(V, NET, **WAYS[way], block=12 if way == "blended" else 8, mask=coarse), tmp_path / "out.zarr"
    )
    assert 0 < report.patches_skipped < report.patches
    assert "patches" in str(report)
    header = json.loads((tmp_path / "out.zarr" / ".chunkinfer" / "run.json").read_text())
    assert header["patches_skipped"] == report.patches_skipped


def test_blocks_without_a_wanted_voxel_read_nothing(tmp_path: Path) -> None:
    ci.save(V, tmp_path / "em.zarr", chunks=(8, 8, 8), shards=False, progress=False)
    for chunk in (tmp_path / "em.zarr" / "c").glob("2/*/*"):  # the last sections are gone
        chunk.unlink()
    mask = np.zeros(V.shape, bool)
    mask[:4] = True
    volume = ci.open_volume(tmp_path / "em.zarr")
    found = np.asarray(ci.infer(volume, NET, patch=16, block=4, mask=mask).compute())
    assert np.array_equal(found[:, :4], ci.infer(V[:16], NET, patch=16, block=(16, 4, 4)).compute()[:, :4])
    whole = ci.infer(volume, NET, patch=16, block=4)
    with pytest.raises(ChunkinferError):
        whole.compute()


@pytest.mark.parametrize("way", WAYS)
def test_empty_patches_are_left_out(way: str) -> None:
    volume = V.copy()
    volume[:, :, 12:] = 0
    plain = ci.infer(volume, NET, **WAYS[way], block=12 if way == "blended" else 8).compute()
    found = [
        ci.infer(volume, NET, **WAYS[way], block=block, empty=empty, fill=7).compute()
        for block in ((12, 12, 36) if way == "blended" else (8, 8, 36), (24, 24, 24))
        for empty in (0, "constant")
    ]
    for other in found:
        assert np.array_equal(found[0], other)
    skipped = (found[0] == 7).all(0)
    assert 0 < skipped.mean() < 0.8
    assert np.array_equal(found[0][:, ~skipped], plain[:, ~skipped])


def test_a_mask_of_another_resolution_lies_by_position() -> None:
    frame = {"z": np.arange(24) * 40.0, "y": np.arange(28) * 8.0, "x": np.arange(36) * 8.0}
    volume = xr.DataArray(V, dims=("z", "y", "x"), coords=frame)
    tissue = xr.DataArray(
        np.array([[[1, 0]]]), dims=("z", "y", "x"), coords={"z": [0.0], "y": [0.0], "x": [0.0, 144.0]},
        attrs={"voxel_size": {"z": 960.0, "y": 224.0, "x": 144.0}},
    )  # fmt: skip
    found = ci.infer(volume, NET, mask=tissue, fill=-5).values
    assert (found[..., 18:] == -5).all()
    assert (found[..., :18] != -5).any()
    with pytest.raises(VolumeError, match="does not cover"):
        ci.infer(volume, NET, mask=tissue.isel(x=slice(0, 1)))


def test_a_mask_is_neither_overwritten_nor_forgotten(tmp_path: Path) -> None:
    ci.save(np.ones(V.shape, np.uint8), tmp_path / "mask.zarr", progress=False)
    result = ci.infer(V, NET, mask=tmp_path / "mask.zarr")
    with pytest.raises(DestinationError, match="is what this run reads"):
        ci.save(result, tmp_path / "mask.zarr", overwrite=True, progress=False)
    ci.save(result, tmp_path / "out.zarr", progress=False)
    with pytest.raises(SettingsDiffer, match="mask"):
        ci.save(ci.infer(V, NET, mask=np.ones(V.shape, bool)), tmp_path / "out.zarr", progress=False)


@pytest.mark.slow
def test_augmentation_does_not_depend_on_the_cut_and_is_said(tmp_path: Path) -> None:
    model = ci.augment(NET, flips="zyx", transpose="yx")
    plan = ci.plan(V, model, patch=22)
    assert "16" in (plan.augmentation or "")
    assert plan.flops_per_voxel == pytest.approx(16 * ci.plan(V, NET, patch=22, block=plan.block).flops_per_voxel)
    found = [ci.infer(V, model, patch=22, block=block).compute() for block in (10, (24, 28, 36))]
    assert np.array_equal(*found)
    x = torch.from_numpy(V.astype("f4") / 255)[None, None]
    turned = [
        f(NET(b(x)))
        for flip in [[d for d in range(3) if k >> d & 1] for k in range(8)]
        for b, f in (
            (lambda t, i=flip: t.flip([2 + d for d in i]), lambda t, i=flip: t.flip([2 + d for d in i])),
            (
                lambda t, i=flip: t.flip([2 + d for d in i]).transpose(3, 4),
                lambda t, i=flip: t.transpose(3, 4).flip([2 + d for d in i]),
            ),
        )
    ]
    with torch.no_grad():
        expected = torch.stack(turned).mean(0)[0].detach().numpy()
    assert np.abs(found[0] - expected).max() < 1e-5
    ci.save(ci.infer(V, model, patch=22), tmp_path / "out.zarr", progress=False)
    with pytest.raises(SettingsDiffer, match="model"):
        ci.save(ci.infer(V, NET, patch=22), tmp_path / "out.zarr", progress=False)
