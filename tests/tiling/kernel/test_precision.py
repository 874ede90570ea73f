"""Reduced precision and GPUs, through the same kernel."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import chunkinfer as ci


def network() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv3d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv3d(4, 2, 3, padding=1), nn.Sigmoid()
        ).eval()


VOLUME = np.random.default_rng(0).integers(0, 255, (20, 30, 30), np.uint8)


@pytest.mark.parametrize("settings", [{"patch": 16}, {"patch": 16, "overlap": 4}])
def test_bf16_rounds_and_keeps_every_cut_equal(settings: dict[str, int]) -> None:
    full = ci.infer(VOLUME, network(), **settings).compute()
    half = ci.infer(VOLUME, network(), precision="bf16", precision_tolerance=0.2, **settings).compute()
    assert half.dtype == np.float32
    assert 0 < np.abs(half - full).max() < 0.02
    again = ci.infer(VOLUME, network(), precision="bf16", precision_tolerance=0.2, block=24, **settings).compute()
    assert np.array_equal(half, again)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
@pytest.mark.parametrize("settings", [{"patch": 16}, {"patch": 16, "overlap": 4}, {"patch": 16, "dtype": "uint8"}])
def test_a_gpu_gives_the_cpus_result(settings: dict[str, object]) -> None:
    expected = ci.infer(VOLUME, network(), device="cpu", **settings).compute()  # type: ignore[arg-type]
    result = ci.infer(VOLUME, network(), device="cuda", **settings).compute()  # type: ignore[arg-type]
    tolerance = 1 if result.dtype == np.uint8 else 1e-3  # TF32 in convolutions
    assert np.abs(result.astype("f4") - expected).max() <= tolerance
