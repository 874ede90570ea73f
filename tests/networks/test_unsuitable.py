"""What is no network for a volume as it is given: refused with its reason, and every way out that is named works."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import chunkinfer as ci
from chunkinfer.errors import ModelError, PlanError, VolumeError
from chunkinfer.networks.engines.contract import Setup
from chunkinfer.networks.engines.opening import open_network
from chunkinfer.networks.model import open_model

Array = np.ndarray[Any, Any]
V: Array = np.random.default_rng(0).random((14, 12, 13), dtype="f4")


def net() -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv3d(1, 2, 3, padding=1)).eval()


@torch.no_grad()
def expected() -> Array:
    found: Array = net()(torch.from_numpy(V)[None, None])[0].numpy()
    return found


def runs(model: Any, values: Array | None = None, **settings: Any) -> None:
    """It gives what the network gives on the whole volume."""
    found = ci.infer(V, model, patch=(10, 12, 10), **settings).compute(scheduler="synchronous")
    np.testing.assert_allclose(found, expected() if values is None else values, atol=1e-5)


def refused(model: Any, match: str) -> ModelError:
    with pytest.raises(ModelError, match=match) as caught:
        ci.infer(V, model)
    assert ": None" not in str(caught.value)
    return caught.value


# --- modules ----------------------------------------------------------------------------------------------------------


def test_lazy_layers_that_never_ran() -> None:
    lazy = nn.Sequential(nn.LazyConv3d(2, 3, padding=1)).eval()
    assert len(refused(lazy, "lazy, and never ran").ways) == 2
    lazy.load_state_dict(net().state_dict())
    runs(lazy)
    lazy = nn.Sequential(nn.LazyConv3d(2, 3, padding=1)).eval()
    lazy(torch.zeros(1, 1, 32, 32, 32))
    lazy.load_state_dict(net().state_dict())
    runs(lazy)


def test_weights_on_the_meta_device() -> None:
    with torch.device("meta"):
        model = nn.Sequential(nn.Conv3d(1, 2, 3, padding=1)).eval()
    assert "assign=True" in refused(model, "on the meta device").ways[0]
    model.load_state_dict(net().state_dict(), assign=True)
    runs(model)


class Locked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net, self.lock = net(), threading.Lock()

    def forward(self, x: Tensor) -> Tensor:
        with self.lock:
            result: Tensor = self.net(x)
            return result


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_modules_that_cannot_be_copied() -> None:
    locked = Locked().eval()
    error = refused(locked, r"cannot be copied: cannot pickle '_thread.lock' object")
    assert isinstance(error.__cause__, TypeError)
    runs(torch.jit.trace(locked, torch.zeros(1, 1, 32, 32, 32)))


class Timed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = net()

    def forward(self, x: Tensor, timestep: float, *, context: Any) -> Tensor:
        result: Tensor = self.net(x) * timestep
        return result


class Wrapped(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Any:
        return self.model(x, timestep=1.0, context=None)


def test_a_forward_method_of_more_than_a_volume() -> None:
    error = refused(Timed().eval(), "needs more than a volume: timestep, context")
    assert "return self.model(x, timestep=..., context=...)" in error.ways[0]
    runs(Wrapped(Timed()).eval())


def test_containers_without_a_forward_method() -> None:
    layers = nn.ModuleList([net()])
    assert "Sequential(*model)" in refused(layers, "no forward method").ways[0]
    runs(nn.Sequential(*layers).eval())


class Last(nn.Module):
    """The network, and what becomes of its result at the end of forward."""

    def __init__(self, change: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.net, self.change = net(), change
        self.eval()

    def forward(self, x: Tensor) -> Any:
        return self.change(self.net(x))


def test_a_missing_axis_of_channels() -> None:
    flat = Last(lambda y: y.argmax(1))
    refused(flat, "leaves out the axis of channels")
    runs(nn.Sequential(flat, nn.Unflatten(0, (-1, 1))), expected().argmax(0)[None].astype("f4"))


def test_a_forward_method_that_leaves_torch() -> None:
    model = Last(lambda y: y.detach().numpy())
    refused(model, "returns a numpy array: its forward leaves torch")
    runs(lambda x: model(torch.from_numpy(x).float()))


def test_functions_of_tensors() -> None:
    model = net()
    refused(lambda x: model(x), "is a function of torch tensors")
    refused(model.forward, "is a function of torch tensors")
    runs(lambda x: model(torch.from_numpy(x)).numpy(force=True))
    runs(lambda x: model(torch.from_numpy(x)))  # a tensor is as good as an array
    error = refused(functools.partial(model), "is a function of torch tensors")
    assert "infer(volume, function.func)" in error.ways[0]
    given = functools.partial(Timed().eval(), timestep=1.0, context=None)
    assert "self.model(x, timestep=1.0, context=None)" in refused(given, "torch tensors").ways[0]


def test_a_cause_is_kept() -> None:
    def broken(x: Array) -> Array:
        raise ZeroDivisionError("by nothing")

    with pytest.raises(ModelError, match="by nothing") as caught:
        ci.receptive_field(broken, channels=1, ndim=2)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


# --- files of others --------------------------------------------------------------------------------------------------


class Moved(nn.Module):
    """Takes and gives channels last."""

    def __init__(self) -> None:
        super().__init__()
        self.net = net()

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.net(x.permute(0, 4, 1, 2, 3)).permute(0, 2, 3, 4, 1)
        return result


class Second(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = net()

    def forward(self, x: Tensor, scale: Tensor) -> Tensor:
        result: Tensor = self.net(x) * scale
        return result


def onnx_file(path: Path, model: nn.Module, *inputs: Tensor, free: tuple[int, ...] = (2, 3, 4)) -> str:
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    names = ["x", "scale"][: len(inputs)]
    axes = {k: f"n{k}" for k in free}
    torch.onnx.export(
        model.eval(), inputs, path, dynamo=False, input_names=names, output_names=["y"],
        dynamic_axes={"x": axes, "y": axes},
    )  # fmt: skip
    return str(path)


quiet = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning:torch.onnx")


@quiet
def test_channels_last(tmp_path: Path) -> None:
    openvino = pytest.importorskip("openvino")
    path = onnx_file(tmp_path / "last.onnx", Moved(), torch.zeros(1, 12, 12, 12, 1), free=(1, 2, 3))
    line = refused(path, "takes its channels last").ways[1].partition(": ")[2].replace("first.xml", f"{path}.xml")
    exec(line, {"openvino": openvino, "path": path})
    assert_gives(open_model(f"{path}.xml"), "openvino")


@quiet
def test_two_inputs(tmp_path: Path) -> None:
    path = onnx_file(tmp_path / "two.onnx", Second(), torch.zeros(1, 1, 12, 12, 12), torch.ones(1))
    line = refused(path, '2 inputs: "x" .*, "scale"').ways[0].partition(": ")[2].replace("one.onnx", f"{path}.onnx")
    exec(line, {"onnx": pytest.importorskip("onnx"), "path": path, "value": np.ones(1, "f4")})
    assert_gives(open_model(f"{path}.onnx"), "onnxruntime")


@quiet
def test_a_batch_of_two(tmp_path: Path) -> None:
    path = onnx_file(tmp_path / "batch.onnx", net(), torch.zeros(2, 1, 12, 12, 12))
    refused(path, "takes 2 patches at a time")


def assert_gives(model: Any, engine: str, volume: Array = V, values: Array | None = None) -> None:
    run = open_network(model, Setup((1, 1, *volume.shape), "cpu", threads=1, kernels=1), engine)
    for _ in range(2):  # the second call writes where the first did
        found = run(torch.from_numpy(volume.astype("f4"))[None, None])[0].numpy()
    np.testing.assert_allclose(found, expected() if values is None else values, atol=2e-3)
    assert model.function()(volume[None, None].astype("f4")).dtype == found.dtype


@quiet
@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("taken", [torch.uint8, torch.float16, torch.float64])
def test_files_are_given_the_type_that_they_take(taken: torch.dtype, engine: str, tmp_path: Path) -> None:
    pytest.importorskip(engine)

    class Typed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net()

        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = self.net(x.float() / 255)
            return result

    path = onnx_file(tmp_path / "typed.onnx", Typed(), torch.zeros(1, 1, 12, 12, 12, dtype=taken))
    stored = (V * 255).astype("u1")
    with torch.no_grad():
        values = net()(torch.from_numpy(stored)[None, None].float() / 255)[0].numpy()
    assert open_model(path).input_dtype() == str(taken).removeprefix("torch.")
    assert_gives(open_model(path), engine, stored, values)


@quiet
@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("change", [lambda y: y.argmax(1, keepdim=True), lambda y: y > 0], ids=["int64", "bool"])
def test_files_that_give_integers(change: Callable[[Tensor], Tensor], engine: str, tmp_path: Path) -> None:
    pytest.importorskip(engine)
    path = onnx_file(tmp_path / "classes.onnx", Last(change), torch.zeros(1, 1, 12, 12, 12))
    values = change(torch.from_numpy(expected())[None])[0].numpy()
    assert_gives(open_model(path), engine, values=values)


@quiet
def test_a_network_of_stored_values_gets_no_others(tmp_path: Path) -> None:
    class Scales(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.tensor(255.0))

        def forward(self, x: Tensor) -> Tensor:
            return x.float() / self.scale

    path = onnx_file(tmp_path / "scales.onnx", Scales(), torch.zeros(1, 1, 8, 8, 8, dtype=torch.uint8))
    stored = (V * 255).astype("u1")
    found = ci.infer(stored, path, engine="onnxruntime", patch=8).compute(scheduler="synchronous")
    np.testing.assert_allclose(found[0], stored / np.float32(255), atol=1e-6)
    with pytest.raises(VolumeError, match="takes uint8, and the volume's dtype is float32"):
        ci.infer(V, path, engine="onnxruntime")
    with pytest.raises(PlanError, match="given stored values as they are"):
        ci.infer(stored, path, engine="onnxruntime", normalize=(0, 255))


# --- signatures and results -------------------------------------------------------------------------------------------


class Called(nn.Module):
    """A network that is called by keyword."""

    def __init__(self) -> None:
        super().__init__()
        self.net = net()

    def forward(self, *, image: Tensor) -> Tensor:
        result: Tensor = self.net(image)
        return result


class Losses(Called):
    """Gives losses in train mode, as torchvision's detectors do."""

    def forward(self, x: Tensor) -> Any:  # type: ignore[override]
        return {"loss": self.net(x).mean()} if self.training else self.net(x)


def test_signatures_and_modes_are_named() -> None:
    assert "self.model(image=x)" in refused(Called().eval(), "only by the name image").ways[1]
    losses = Losses().train()
    assert refused(losses, "returned no tensor but dict").ways[0] == "model.eval()"
    runs(losses.eval())
    refused(Last(lambda y: y[0]), "leaves out the axis of the batch")


def test_functions_that_leave_an_axis_out() -> None:
    def flat(x: Array) -> Array:
        return x[:, 0] * 2

    refused(flat, "gives no map of its input")
    runs(lambda x: flat(x)[:, None], 2 * V[None])


@pytest.mark.parametrize("change", [lambda x: x * 1j, lambda x: x.astype(object)], ids=["complex", "object"])
def test_values_that_are_no_real_numbers(change: Callable[[Array], Any]) -> None:
    with pytest.raises(ModelError, match="gives values of the type"):
        ci.receptive_field(change, channels=1, ndim=2)
