"""engine=, precision= and networks of others: the same result as torch's, and said so."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import chunkinfer as ci
from chunkinfer.errors import EngineError, ModelError, PlanError, PrecisionError, SettingsDiffer
from chunkinfer.networks.engines import opening
from chunkinfer.networks.engines.contract import Run, Setup
from chunkinfer.tiling.plan import calibrate, resolve
from chunkinfer.tiling.plan import engine as engine_choice
from tests.lib.nets import Entry, UNet

V = np.random.default_rng(0).integers(0, 255, (24, 28, 36), dtype=np.uint8)
NET = torch.nn.Sequential(Entry(lambda: UNet(3, ((2, 2, 2),), n=1)).make(), torch.nn.Sigmoid()).eval()
"""Period 2, context 5 and 5."""
PATCH = {"patch": 20, "block": 8}


def whole(net: torch.nn.Module = NET) -> np.ndarray:
    with torch.no_grad():
        found: np.ndarray = net(torch.from_numpy(V.astype("f4") / 255)[None, None])[0].numpy()
    return found


class Fake:
    """An engine that gives torch's result, changed."""

    def __init__(self, name: str, change: Callable[[torch.Tensor], torch.Tensor], refusal: str | None = None) -> None:
        self.name, self.change, self.refusal, self.opened = name, change, refusal, 0

    def version(self) -> str:
        return "1"

    def refuses(self, model: Any, setup: Setup) -> str | None:
        return self.refusal

    def open(self, model: Any, setup: Setup, folder: Path) -> Run:
        self.opened += 1
        network = model.network("cpu")
        return lambda patches: self.change(network(patches))


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Fake]]:
    """Replaces all engines but torch."""

    def install(*engines: Fake) -> list[Fake]:
        table = {"torch": opening.ENGINES["torch"], **{e.name: e for e in engines}}
        for module in (opening, engine_choice, resolve, calibrate):
            monkeypatch.setattr(module, "ENGINES", table)
        monkeypatch.setattr(opening, "_open", type(opening._open)())
        return list(engines)

    return install


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime", "torchscript"])
def test_engines_equal_the_network_on_the_whole_volume_for_every_cut(engine: str) -> None:
    found = [ci.infer(V, NET, engine=engine, patch=20, block=block).compute() for block in (8, (16, 8, 36))]
    assert np.array_equal(*found)
    assert np.abs(found[0] - whole()).max() < 1e-5


def test_the_plan_names_the_engine() -> None:
    assert "torch: the reference" in str(ci.plan(V, NET))
    plan = ci.plan(V, NET, engine="onnxruntime")
    assert (plan.engine, plan.engine_why) == ("onnxruntime", "asked for")
    assert plan.settings()["engine"] == "onnxruntime"


def test_an_engine_that_is_not_there(fakes: Callable[..., list[Fake]]) -> None:
    with pytest.raises(PlanError, match="engine='tensorrt' is not known") as unknown:
        ci.infer(V, NET, engine="tensorrt")
    assert "openvino" in unknown.value.means
    fakes(Fake("absent", torch.sigmoid, "absent is not installed: pip install absent"))
    with pytest.raises(EngineError, match="pip install absent") as caught:
        ci.infer(V, NET, engine="absent")
    assert "torch" in caught.value.means


@pytest.mark.slow
@pytest.mark.smoke
def test_auto_takes_the_fastest_that_agrees_with_the_reference(fakes: Callable[..., list[Fake]]) -> None:
    def slow(values: torch.Tensor) -> torch.Tensor:
        time.sleep(0.3)
        return values

    def failing(values: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("no such kernel")

    _, wrong, late, *_ = fakes(
        Fake("quick", lambda v: v),
        Fake("wrong", lambda v: v + 0.01),
        Fake("late", slow),
        Fake("broken", failing),
        Fake("absent", lambda v: v, "it is not installed"),
    )
    plan = ci.plan(V, NET, engine="auto", **PATCH)
    assert plan.engine in ("torch", "quick")
    for said in ("wrong not (its result differs", "broken not (RuntimeError: no such kernel)", "absent not (it is not"):
        assert said in plan.engine_why
    assert plan.engine_why.index("late") > plan.engine_why.index("quick")
    assert plan.precision == "fp32"
    assert wrong.opened == 1
    assert late.opened == 1
    again = ci.plan(V, NET, engine="auto", **PATCH)  # remembered: neither timed nor compared again
    assert (again.engine, late.opened) == (plan.engine, 1)


def test_a_network_is_opened_once_per_process_and_patch(fakes: Callable[..., list[Fake]], tmp_path: Path) -> None:
    (engine,) = fakes(Fake("counted", lambda v: v))
    report = ci.save(ci.infer(V, NET, engine="counted", **PATCH), tmp_path / "a.zarr", progress=False)
    assert report.computed > 4
    assert engine.opened == 1
    ci.infer(V, NET, engine="counted", patch=18, block=6).compute()
    assert engine.opened == 2


def test_a_run_keeps_its_engine_on_resume(tmp_path: Path) -> None:
    url = tmp_path / "out.zarr"
    ci.save(ci.infer(V, NET, engine="onnxruntime", **PATCH), url, progress=False)
    report = ci.save(ci.infer(V, NET, **PATCH), url, progress=False)  # left open: taken over
    assert (report.computed, report.header["networks"][0]["settings"]["engine"]) == (0, "onnxruntime")
    with pytest.raises(SettingsDiffer, match="engine"):
        ci.save(ci.infer(V, NET, engine="torch", **PATCH), url, progress=False)


def test_identity_gives_back_the_volume() -> None:
    found = ci.infer(V, NET, engine="identity", **PATCH).compute()
    assert np.array_equal(found, np.broadcast_to(V.astype("f4") / 255, (3, *V.shape)))


# ---- precision -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.smoke
def test_reduced_precision_is_checked_on_the_volume_and_reported(tmp_path: Path) -> None:
    plan = ci.plan(V, NET, precision="bf16", precision_tolerance=1.0, **PATCH)
    assert plan.check is not None
    assert plan.check.crops == 4
    assert 0 < plan.check.mean < plan.check.largest < 0.1
    assert plan.check.flipped is not None
    assert "against fp32" in str(plan)
    result = ci.infer(V, NET, precision="bf16", precision_tolerance=1.0, **PATCH)
    report = ci.save(result, tmp_path / "out.zarr", progress=False)
    assert str(plan.check) in str(report)
    measured = np.abs(np.asarray(ci.open_volume(tmp_path / "out.zarr")) - whole())
    assert 0 < measured.mean() < 3 * plan.check.mean


def test_what_changes_too_much_can_be_looked_at_and_not_run(tmp_path: Path) -> None:
    settings = {"precision": "bf16", "precision_tolerance": 0.0, **PATCH}
    cut = torch.nn.Sequential(NET, Far()).eval()  # decisions close to the threshold
    plan = ci.plan(V, cut, **settings)
    assert "running it is refused" in str(plan)
    result = ci.infer(V, cut, **settings)
    for run in (result.compute, lambda: ci.save(result, tmp_path / "out.zarr", progress=False)):
        with pytest.raises(PrecisionError, match="precision_tolerance=0") as caught:
            run()
        assert any("fp32" in way for way in caught.value.ways)
    assert not (tmp_path / "out.zarr").exists()


class Far(torch.nn.Module):
    """Decides by the last bits."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x * 1e3).frac()


class Times(torch.nn.Module):
    """Out of [0, 1]."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 30 * x - 10


def test_outputs_that_decide_nothing_are_judged_by_their_spread() -> None:
    logits = torch.nn.Sequential(NET[0], Times()).eval()
    plan = ci.plan(V, logits, precision="bf16", precision_tolerance=1.0, **PATCH)
    assert plan.check is not None
    assert plan.check.flipped is None
    assert 0 < plan.check.change < 0.1


@pytest.mark.parametrize("tolerance", [-1, "much", True])
def test_a_tolerance_is_a_share(tolerance: Any) -> None:
    with pytest.raises(PlanError, match="is no share"):
        ci.plan(V, NET, precision="bf16", precision_tolerance=tolerance)


# ---- networks of others ---------------------------------------------------------------------------------------------


def blurred(x: np.ndarray) -> np.ndarray:
    """The mean of three voxels along each axis, as anybody would write it."""
    for axis in (2, 3, 4):
        padded = np.pad(x, [(1, 1) if d == axis else (0, 0) for d in range(5)], mode="edge")
        x = sum(np.take(padded, range(i, i + x.shape[axis]), axis) for i in range(3)) / np.float32(3)
    return x


def test_a_function_of_arrays_is_probed_and_tiled_exactly(tmp_path: Path) -> None:
    plan = ci.plan(V, blurred, patch=12)
    assert plan.engine == "function"
    assert plan.context == ((1, 1),) * 3
    ci.save(ci.infer(V, blurred, patch=12, block=10), tmp_path / "out.zarr", progress=False)
    expected = blurred(V.astype("f4")[None, None] / 255)[0]
    assert np.allclose(np.asarray(ci.open_volume(tmp_path / "out.zarr")), expected, atol=1e-6)


def test_a_function_that_states_its_contract_is_believed_after_a_check() -> None:
    def stated(x: np.ndarray) -> np.ndarray:
        return blurred(x)

    stated.tiling_contract = {"context": 2}  # type: ignore[attr-defined]
    assert ci.plan(V, stated, patch=12).context == ((2, 2),) * 3


def test_a_function_that_states_too_little_is_refused() -> None:
    def stated(x: np.ndarray) -> np.ndarray:
        return blurred(x)

    stated.tiling_contract = {"context": 0}  # type: ignore[attr-defined]
    with pytest.raises(ModelError, match="does not hold"):
        ci.plan(V, stated, patch=12)


@pytest.mark.parametrize("suffix", [".onnx", pytest.param(".xml", marks=pytest.mark.slow)])
def test_files_of_other_frameworks(suffix: str, tmp_path: Path) -> None:
    point = torch.nn.Conv3d(1, 2, 3, padding=1).eval()
    path = tmp_path / f"net{suffix}"
    write(point, path)
    found = ci.infer(V, path, patch=16).compute()
    assert np.abs(found - whole(point)).max() < 1e-5
    assert ci.plan(V, path, patch=16).engine == {".onnx": "onnxruntime", ".xml": "openvino"}[suffix]
    with pytest.raises(EngineError, match="cannot run"):
        ci.infer(V, path, engine="torch", patch=16)


def write(net: torch.nn.Module, path: Path) -> None:
    if path.suffix == ".xml":
        import openvino

        openvino.save_model(
            openvino.convert_model(net, input=[(1, 1, -1, -1, -1)], example_input=torch.rand(1, 1, 8, 8, 8)), path,
            compress_to_fp16=False,
        )  # fmt: skip
        return
    axes = {"x": {2: "z", 3: "y", 4: "x"}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            net, (torch.rand(1, 1, 8, 8, 8),), path, input_names=["x"], dynamic_axes=axes, dynamo=False
        )  # fmt: skip


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(opening, "_open", type(opening._open)())
    found = ci.infer(V, NET, engine="onnxruntime", **PATCH).compute()
    assert np.abs(found - whole()).max() < 1e-5


@pytest.mark.parametrize("engine", ["torch", "torchscript"])
def test_torchscript_computes_in_the_precision_asked_for(engine: str, tmp_path: Path) -> None:
    torch.jit.save(torch.jit.trace(NET, torch.rand(1, 1, 8, 8, 8)), tmp_path / "net.pt")
    plan = ci.plan(V, tmp_path / "net.pt", engine=engine, precision="bf16", precision_tolerance=1.0, **PATCH)
    assert plan.check is not None
    assert plan.check.mean > 1e-5  # in fp32 it is below 1e-7: the precision was passed by in silence
