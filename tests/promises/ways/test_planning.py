"""What is advised where a plan, an engine or a kernel refuses: each line is pasted and run."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import xarray as xr
from torch import Tensor, nn

import chunkinfer as ci
from chunkinfer.networks.engines import openvino_engine
from chunkinfer.networks.engines.opening import ENGINES
from chunkinfer.support.device import require_device
from chunkinfer.tiling.plan import engine as engine_choice
from tests.lib.ways.rows import NET, STRIDED, VOLUME, Row, each, infer, refusals, row, save, settings

X = torch.zeros(1, 1, *VOLUME.shape)
BOTH = ("torch", "openvino", "function")


class Decides(nn.Module):
    """Does other things for other voxels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv3d(1, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x)
        return y if float(x.flatten()[0]) > 0.6 else -3 * y


class Bessel(nn.Module):
    """An operator that OpenVINO does not have."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.special.bessel_j0(x)


class Resizes(nn.Module):
    """Another network at odd lengths."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv3d(1, 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(F.max_pool3d(self.conv(x), 2), size=x.shape[2:])


class Long(nn.Module):
    """Another network on long images."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x)
        return y if x.shape[3] < 700 else 2 * y


def broken(part: nn.Module = NET) -> nn.Module:
    """A network whose training diverged."""
    model = copy.deepcopy(part)
    with torch.no_grad():
        next(model.parameters()).fill_(np.nan)
    return model


def flagged(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Gives fewer voxels once there is a file."""
    return x[..., 1:-1] if os.path.exists("flag") else x * 2


def later(model: Callable[..., Any]) -> Any:
    lazy = ci.infer(VOLUME, model, patch=8)
    Path("flag").touch()
    return lazy.compute(scheduler="synchronous")


def stored(**given: Any) -> Any:
    return save(array=VOLUME.astype("f4"), url="shards.precomputed", **given)


def alone(engine: str) -> Any:
    """The only engine that is here."""
    with pytest.MonkeyPatch.context() as patch:
        if engine == "auto":
            patch.setattr(engine_choice, "candidates", lambda model: [ENGINES["onnxruntime"]])
        return infer(precision="bf16", engine=engine)


def half(precision: str = "fp16", engine: str = "openvino") -> Any:
    """OpenVINO as on a processor that says more than it does."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(openvino_engine, "_capabilities", lambda: ["FP32", "BF16", "FP16"])
        return infer(precision=precision, engine=engine)


def of_one_size(model: str, **given: Any) -> Any:
    """A network exported for one size, which is no cube."""
    torch.export.save(torch.export.export(NET, (X[..., :6],)), model)
    return infer(VOLUME, model, **given)


ODD = VOLUME[:, :11, :11]
IMAGE = xr.DataArray(np.random.default_rng(0).random((8, 800)).astype("f4"), dims=("y", "x"))
ANEW = row("cannot be tiled exactly", 2, of_one_size, {"module": NET, "x": X}, model="static.pt2")
PLANNED = [
    row("prices: 'hour'", 2, ci.plan, volume=VOLUME, model=NET, prices={"hour": 1}),
    settings("engine='tensorrt' is not known", 2, engine="tensorrt"),
    row("No engine here runs", 1, alone, engine="auto"),
    settings("cannot be tiled exactly with patches of", 1, model=Long().eval(), volume=IMAGE, patch=(8, 100)),
    settings("cannot be cut exactly", 3, model=Resizes().eval(), volume=ODD, patch=(8, 6, 6)),
    settings("cannot be cut exactly", 3, model=Resizes().eval(), volume=ODD, patch=(8, 11, 6)),
    row("Shards of", 2, stored, chunks=(4, 4, 4), shards=(12, 12, 12)),
    row(
        "is not a whole number of chunks",
        2,
        save,
        array=ci.infer(VOLUME, NET, block=(3, 3, 12)),
        url="blocks.zarr",
        chunks=(2, 2, 2, 2),
    ),
    row(
        "is not a whole number of shards",
        2,
        save,
        array=ci.infer(VOLUME, NET, block=(4, 6, 6)),
        url="blocks.zarr",
        chunks=(2, 2, 3, 3),
        shards=(2, 8, 12, 12),
    ),
    settings("changes more than precision_tolerance", 2, precision="bf16", precision_tolerance=1e-12),
    settings("time axis with 2 points", 2, volume=VOLUME.expand_dims(t=2)),
    row("is in train mode", 2, infer, {"module": nn.Dropout(), "x": X}, model=nn.Dropout(), overlap=2),
    settings("halo= and overlap= contradict", 2, model=nn.Conv2d(1, 1, 3).eval(), volume=VOLUME[0], halo=1, overlap=2),
    settings("The volume holds NaN", 2, model=nn.Conv2d(1, 1, 3).eval(), volume=VOLUME[0].where(VOLUME[0] > 0.01)),
    settings("there is no CUDA device here", 1, device="cuda"),
]
RUN = [
    settings("a trace of it cannot follow", 1, model=Decides().eval(), engine="torchscript", overlap=4),
    settings("cannot compile", 2, model=Bessel().eval(), engine="openvino", overlap=4),
    settings("The identity engine cannot stand for", 1, model=STRIDED, engine="identity"),
    settings("cannot run Sequential in bf16", 2, engine="onnxruntime", precision="bf16", precision_tolerance=1),
    row("OpenVINO was told to compute in fp16", 2, half),
    row("; (1, 1, 8, 8, 8) was traced", 1, later, model=flagged),
    settings("returned NaN or infinite values", 0, model=broken()),
    row("this process sees no CUDA device", 1, require_device, device="cuda"),
]


@pytest.fixture(autouse=True)
def _few_engines(monkeypatch: pytest.MonkeyPatch) -> None:
    """ "auto" chooses between two, of which none compiles for a minute."""
    monkeypatch.setattr(engine_choice, "candidates", lambda model: [ENGINES[name] for name in BOTH[:2]])


@pytest.mark.parametrize("row", each({"planned": PLANNED, "run": RUN}))
def test_every_line_of_plans_and_runs_works(row: Row, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refusals(row, tmp_path, monkeypatch)


@pytest.mark.slow
def test_a_network_of_one_size_is_exact_once_it_is_exported_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusals(ANEW, tmp_path, monkeypatch)
    found = infer(VOLUME, "model.pt2", patch=6)
    np.testing.assert_allclose(found.values, infer().values, atol=1e-6)
