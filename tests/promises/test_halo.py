"""A smaller halo on purpose: approximate where it is too small, and said so in plan, report and metadata."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import chunkinfer as ci
from chunkinfer.errors import ModelError, PlanError
from tests.lib.nets import Entry, UNet, ValidUNet

V = np.random.default_rng(0).random((40, 44, 52), dtype="f4")
NET = Entry(lambda: UNet(3, ((2, 2, 2),), n=1)).make()
"""Period 2, context 5 and 5."""
NORMED = UNet(3, ((2, 2, 2),), n=1, norm=torch.nn.InstanceNorm3d).eval()


def whole(net: torch.nn.Module, volume: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return net(torch.from_numpy(volume)[None, None])[0].numpy()


def error(halo: int) -> float:
    """With the same clean zones of 8 voxels for every halo."""
    kept = min(halo + halo % 2, 6)
    result = ci.infer(V, NET, halo=halo, patch=8 + 2 * kept, block=16).compute()
    return float(np.abs(result - whole(NET, V)).max())


def test_the_error_ends_at_the_context() -> None:
    found = [error(halo) for halo in (0, 2, 6)]
    assert found[0] > found[1] > 10 * found[2]
    assert found[2] < 1e-6


def test_blocks_do_not_matter() -> None:
    results = [ci.infer(V, NET, halo=2, patch=12, block=block).compute() for block in (8, 16, (24, 8, 40))]
    assert all(np.array_equal(results[0], other) for other in results[1:])


def test_a_halo_of_the_context_or_more_is_exact() -> None:
    assert ci.plan(V, NET, halo=5, patch=24) == ci.plan(V, NET, halo=50, patch=24)
    assert ci.plan(V, NET, halo=5, patch=24).exact
    assert ci.plan(V, NET, halo=5).settings() == ci.plan(V, NET).settings()


def test_a_network_with_unbounded_context() -> None:
    plan = ci.plan(V, NORMED, halo=4, patch=24)
    assert not plan.exact
    assert "InstanceNorm3d" in plan.verdict
    assert ci.infer(V, NORMED, halo=4, patch=24).compute().shape == (3, *V.shape)


def test_a_valid_network_keeps_its_crop() -> None:
    net = ValidUNet(2, depth=1)
    plan = ci.plan(V[0], net, halo=0, patch=44 + 8)
    assert [a.contract.high for a in plan.lattice.axes] == [16, 16]


def test_report_and_metadata_say_so(tmp_path: Path) -> None:
    report = ci.save(ci.infer(V, NET, halo=2, patch=12), tmp_path / "a.zarr", progress=False)
    assert report.header["networks"][0]["settings"]["halo"] == [2, 2, 2]
    assert "halo reduced on purpose to 2 x 2 x 2" in str(report)
    stored = json.loads((tmp_path / "a.zarr" / "zarr.json").read_text())
    assert "halo reduced on purpose" in stored["attributes"]["provenance"]["result"]
    again = ci.save(ci.infer(V, NET, halo=2), tmp_path / "a.zarr", progress=False)
    assert again.computed == 0, "the patch left out was not adopted from the run before"


def test_bad_halos() -> None:
    with pytest.raises(PlanError, match="contradict"):
        ci.plan(V, NET, halo=2, overlap=4)
    with pytest.raises(PlanError, match="halo on axis z is -1"):
        ci.plan(V, NET, halo=-1)
    with pytest.raises(ModelError, match="train"):
        ci.plan(V, UNet(3, ((2, 2, 2),), n=1), halo=2)
