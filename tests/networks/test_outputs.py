"""Several outputs: refused until one is chosen, and then that one, for every kind of network and every engine."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import Tensor, nn

import chunkinfer as ci
from chunkinfer.errors import AmbiguousOutput, ModelError, SettingsDiffer
from chunkinfer.networks.engines.contract import Setup
from chunkinfer.networks.engines.opening import open_network
from chunkinfer.networks.model import open_model
from chunkinfer.networks.outputs import Pick, chosen
from chunkinfer.networks.receptive_field import receptive_field
from chunkinfer.tools.cli import main as cli

Array = np.ndarray[Any, Any]
V: Array = np.random.default_rng(0).random((16, 16, 16), dtype="f4")


class Heads(nn.Module):
    """Two heads with different contexts: ``aux`` of one channel, ``out`` of two."""

    def __init__(self, form: Callable[[Tensor, Tensor], Any] = lambda aux, out: {"aux": aux, "out": out}) -> None:
        super().__init__()
        self.aux = nn.Conv3d(1, 1, 3, padding=1)
        self.out = nn.Conv3d(1, 2, 5, padding=2)
        self.form = form
        self.eval()

    def forward(self, x: Tensor) -> Any:
        return self.form(self.aux(x), self.out(x))


class Scripted(nn.Module):
    def __init__(self, heads: Heads) -> None:
        super().__init__()
        self.aux, self.out = heads.aux, heads.out

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"aux": self.aux(x), "out": self.out(x)}


class Pair(NamedTuple):
    logits: Any
    features: Any


@dataclasses.dataclass
class Result:
    logits: Any
    features: Any
    note: str = "not a tensor"


@torch.no_grad()
def head(net: Heads, name: str) -> Array:
    found: Array = getattr(net, name)(torch.from_numpy(V)[None, None])[0].numpy()
    return found


def close(found: Any, expected: Array) -> None:
    np.testing.assert_allclose(found.compute(scheduler="synchronous"), expected, atol=1e-5)


FORMS: dict[str, tuple[Callable[[Any, Any], Any], str | int, str | int]] = {
    "dict": (lambda aux, out: {"aux": aux, "out": out}, "aux", "out"),
    "dict, by number": (lambda aux, out: OrderedDict(aux=aux, out=out), 0, "1"),
    "tuple": (lambda aux, out: (aux, out), 0, 1),
    "tuple with None between": (lambda aux, out: (aux, None, out), 0, 2),
    "list, nested": (lambda aux, out: [[aux], {"out": out}], "0.0", "1.out"),
    "named tuple": (Pair, "logits", "features"),
    "dataclass": (Result, "logits", "features"),
}


@pytest.mark.parametrize("form", FORMS)
def test_the_chosen_output_is_taken_and_none_in_silence(form: str) -> None:
    make, first, second = FORMS[form]
    net = Heads(make)
    with pytest.raises(AmbiguousOutput, match=r"2 outputs.*\(1, 1, .*\(1, 2, "):
        ci.infer(V, net)
    close(ci.infer(V, net, output=first, patch=12), head(net, "aux"))
    close(ci.infer(V, net, output=second, patch=12), head(net, "out"))


ALONE: dict[str, Callable[[Any, Any], Any]] = {
    "dict": lambda aux, out: {"out": out},
    "tuple": lambda aux, out: (out,),
    "beside None": lambda aux, out: (None, out),
    "beside a loss and a score": lambda aux, out: (aux.mean(), out, aux.mean((1, 2, 3, 4))),
    "dataclass": lambda aux, out: Result(out, None),
}


@pytest.mark.parametrize("form", ALONE)
def test_the_only_output_is_taken_as_it_is(form: str) -> None:
    net = Heads(ALONE[form])
    close(ci.infer(V, net, patch=12), head(net, "out"))


def test_each_head_has_its_own_context() -> None:
    net = Heads()
    assert receptive_field(net, output="aux").context == ((1, 1),) * 3
    assert receptive_field(net, output="out", verify=True).context == ((2, 2),) * 3
    assert "output out" in str(ci.plan(V, net, output="out"))


@pytest.mark.parametrize("engine", ["torch", "torchscript", "openvino", "onnxruntime"])
def test_engines_run_the_chosen_output(engine: str) -> None:
    if engine in ("openvino", "onnxruntime"):
        pytest.importorskip(engine)
    net = Heads()
    close(ci.infer(V, net, output="out", patch=12, engine=engine), head(net, "out"))
    close(ci.infer(V, net, output="aux", patch=12, engine=engine), head(net, "aux"))


@pytest.mark.parametrize("engine", ["torch", "openvino"])
def test_torchscript_files_that_return_a_dict(engine: str, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    net, path = Heads(), tmp_path / "net.pt"
    torch.jit.script(Scripted(net).eval()).save(str(path))
    with pytest.raises(AmbiguousOutput, match=r'"aux".*"out"'):
        ci.infer(V, path)
    close(ci.infer(V, path, output="out", patch=12, engine=engine), head(net, "out"))


def test_exported_files_that_return_a_dict(tmp_path: Path) -> None:
    net, path = Heads(), tmp_path / "net.pt2"
    size = [torch.export.Dim(name) for name in "zyx"]
    program = torch.export.export(
        Scripted(net).eval(), (torch.zeros(1, 1, 12, 12, 12),), dynamic_shapes=(dict(enumerate(size, 2)),)
    )
    torch.export.save(program, path)
    with pytest.raises(AmbiguousOutput, match=r'"aux".*"out"'):
        ci.infer(V, path)
    close(ci.infer(V, path, output="out", patch=12), head(net, "out"))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning:torch.onnx")
def test_files_of_others_with_several_outputs(tmp_path: Path) -> None:
    for package in ("onnx", "onnxruntime", "openvino"):
        pytest.importorskip(package)
    import openvino

    net, path = Heads(lambda aux, out: (aux, out)), tmp_path / "net.onnx"
    free = {2: "z", 3: "y", 4: "x"}
    torch.onnx.export(
        net, (torch.zeros(1, 1, 12, 12, 12),), path, dynamo=False, input_names=["x"], output_names=["aux", "out"],
        dynamic_axes={"x": free, "aux": free, "out": free},
    )  # fmt: skip
    openvino.save_model(openvino.convert_model(path), path.with_suffix(".xml"), compress_to_fp16=False)
    for file, engine in ((path, "onnxruntime"), (path, "openvino"), (path.with_suffix(".xml"), "openvino")):
        with pytest.raises(AmbiguousOutput, match=r'"aux".*"out"'):
            ci.infer(V, file)
        for output in ("out", 1):
            model = open_model(file, output)
            run = open_network(model, Setup((1, 1, *V.shape), "cpu", threads=1, kernels=1), engine)
            np.testing.assert_allclose(run(torch.from_numpy(V)[None, None])[0].numpy(), head(net, "out"), atol=1e-5)
            np.testing.assert_allclose(model.function()(V[None, None])[0], head(net, "out"), atol=1e-5)


def test_functions_with_several_outputs() -> None:
    def both(x: Array) -> dict[str, Array]:
        return {"double": 2 * x, "more": x + 1}

    with pytest.raises(AmbiguousOutput, match=r'"double".*"more"'):
        ci.infer(V, both)
    close(ci.infer(V, both, output="more", patch=12), V[None] + 1)
    close(ci.infer(V, lambda x: (x + 1, 3.0), patch=12), V[None] + 1)
    with pytest.raises(AmbiguousOutput):  # of equal shapes, numpy would make one array
        ci.infer(V, lambda x: (x, x))


def test_another_output_is_another_run(tmp_path: Path) -> None:
    net, url = Heads(), str(tmp_path / "heads.zarr")
    ci.save(ci.infer(V, net, output="out", patch=12), url, progress=False)
    with pytest.raises(SettingsDiffer, match="output: stored out, asked aux"):
        ci.save(ci.infer(V, net, output="aux", patch=12, channels=0), url, progress=False)
    report = ci.save(ci.infer(V, net, output="out", patch=12), url, progress=False)
    assert (report.computed, report.skipped) == (0, report.blocks)
    assert ci.audit(url, V, net, progress=False).ok
    assert not ci.audit(url, V, net, output="aux", progress=False).ok
    assert ci.verify(url, volume=V, model=net, repair=True, progress=False).ok


def test_the_command_line_chooses(tmp_path: Path) -> None:
    net, file, url = Heads(), tmp_path / "net.pt", str(tmp_path / "em.zarr")
    torch.jit.script(Scripted(net).eval()).save(str(file))
    ci.save(V, url, progress=False)
    said = CliRunner().invoke(cli, ["plan", url, "--model", str(file), "--output", "out"])
    assert "output out" in said.output, said.output
    assert "1 + 1" in CliRunner().invoke(cli, ["field", str(file), "--output", "aux"]).output


def test_names_and_numbers() -> None:
    assert [chosen(o) for o in (None, "out", 1, np.int64(2))] == [None, "out", "1", "2"]
    for wrong in (-1, "", 1.5, True, ["out"]):
        with pytest.raises(ModelError, match="names no output"):
            chosen(wrong)
    with pytest.raises(ModelError, match="gives no output 'foo'"):
        Pick("foo")({"out": V, "aux": V})
    with pytest.raises(ModelError, match="gives no output '1'"):  # the second tensor has the place 2
        Pick("1")((V, None, V))
    net = Heads()
    assert open_model(net, 1) == open_model(net, "1") != open_model(net, 0)
    assert (
        open_model(net, 1).digest
        == open_model(net, "1").digest
        not in (open_model(net, 0).digest, open_model(net).digest)
    )


# --- heads of deep supervision ----------------------------------------------------------------------------------------


class Deep(nn.Module):
    """Gives the heads of three resolutions: as a list, or stacked as in MONAI's DynUNet."""

    def __init__(self, stack: bool, only_in_training: bool) -> None:
        super().__init__()
        self.decoder = nn.Module()
        self.decoder.deep_supervision = True
        self.conv, self.stack, self.only_in_training = nn.Conv3d(1, 2, 3, padding=1), stack, only_in_training

    def forward(self, x: Tensor) -> Any:
        y = self.conv(x)
        if not self.decoder.deep_supervision or (self.only_in_training and not self.training):
            return y
        coarse = nn.functional.avg_pool3d(y, 2)
        return torch.stack([y, nn.functional.interpolate(coarse, scale_factor=2)], 1) if self.stack else [coarse, y]


@pytest.mark.parametrize("stack", [False, True])
def test_deep_supervision_is_named_with_the_line_that_ends_it(stack: bool) -> None:
    net = Deep(stack, only_in_training=True).train()
    with pytest.raises(AmbiguousOutput, match=r"eval\(\)") as refused:
        ci.infer(V, net)
    assert refused.value.ways[0] == "model.eval()"
    expected = net.conv(torch.from_numpy(V)[None, None])[0].detach().numpy()
    close(ci.infer(V, net.eval(), patch=12), expected)

    net = Deep(stack, only_in_training=False).eval()
    with pytest.raises(AmbiguousOutput) as refused:
        ci.infer(V, net)
    assert refused.value.ways[0] == "model.decoder.deep_supervision = False"
    assert net.decoder.deep_supervision is True  # tried on a copy
    if stack:
        assert "Flatten(1, 2)" in refused.value.ways[1]
        first = nn.Sequential(net, nn.Flatten(1, 2))
        close(ci.infer(V, first, channels=tuple(range(2)), patch=12), expected_of(net))
    else:
        assert any("output=1" in way for way in refused.value.ways)  # the largest
        close(ci.infer(V, net, output=1, patch=12), expected_of(net))
    net.decoder.deep_supervision = False
    close(ci.infer(V, net, patch=12), expected_of(net))


@torch.no_grad()
def expected_of(net: Deep) -> Array:
    found: Array = net.conv(torch.from_numpy(V)[None, None])[0].numpy()
    return found
