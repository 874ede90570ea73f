"""What is advised about ONNX and OpenVINO files: each line is run, and the file that it writes is one that serves."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import chunkinfer as ci
from chunkinfer import operators as op
from tests.lib.ways.rows import NET, SHAPE, VOLUME, Row, infer, refusals, row

onnx, openvino = pytest.importorskip("onnx"), pytest.importorskip("openvino")
pytest.importorskip("onnxruntime")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

X = torch.zeros(1, 1, *SHAPE)
PAIR = torch.zeros(2, 1, *SHAPE)


class Scaled(nn.Module):
    """Takes a second input."""

    def __init__(self) -> None:
        super().__init__()
        self.net = NET

    def forward(self, x: Tensor, scale: Tensor) -> Tensor:
        result: Tensor = self.net(x) * scale
        return result


class Moved(nn.Module):
    """Takes and gives channels last."""

    def __init__(self) -> None:
        super().__init__()
        self.net = NET

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.net(x.permute(0, 4, 1, 2, 3)).permute(0, 2, 3, 4, 1)
        return result


class Stored(nn.Module):
    """Takes stored values, and scales them itself."""

    def forward(self, x: Tensor) -> Tensor:
        return x.float() / 255


def written(path: str, model: nn.Module, *inputs: Tensor, free: tuple[int, ...] = (2, 3, 4)) -> str:
    """A file of ONNX, or of OpenVINO by way of one."""
    axes, made = {k: f"n{k}" for k in free}, path.replace(".xml", ".onnx")
    torch.onnx.export(
        model.eval(), inputs, made, dynamo=False, input_names=["x", "scale"][: len(inputs)], output_names=["y"],
        dynamic_axes={"x": axes, "y": axes},
    )  # fmt: skip
    if path.endswith(".xml"):
        openvino.save_model(openvino.Core().read_model(made), path, compress_to_fp16=False)
    return path


def of(path: str, make: Callable[[str], Any], volume: Any = VOLUME, **given: Any) -> Any:
    """A file that is made first."""
    make(path)
    return infer(volume, path, **given)


def field(path: str, make: Callable[[str], Any], **given: Any) -> Any:
    make(path)
    return ci.receptive_field(path, **given)


def truths(path: str) -> None:
    """An input of truth values."""
    h = onnx.helper
    x, y = (h.make_tensor_value_info(n, onnx.TensorProto.BOOL, [1, 1, "z", "y", "x"]) for n in "xy")
    graph = h.make_graph([h.make_node("Identity", ["x"], ["y"])], "g", [x], [y])
    onnx.save(h.make_model(graph, opset_imports=[h.make_opsetid("", 17)], ir_version=9), path)


def table(path: str) -> None:
    """An input of two axes."""
    written(path, nn.Linear(4, 4), torch.zeros(1, 4), free=(0,))


def no_input(path: str) -> None:
    constant = openvino.op.Constant(np.ones((1, 1, 4, 4, 4), "f4"))
    openvino.save_model(openvino.Model([openvino.opset13.result(constant)], [], "m"), path)


BYTES = op.quantize(VOLUME)
TOOLS = {"module": NET, "x": X, "onnx": onnx, "openvino": openvino, "value": np.ones(1, "f4")}


def of_file(what: str, lines: int, path: str, make: Callable[[str], Any], call: Any = of, **given: Any) -> Row:
    return row(what, lines, call, TOOLS | {"path": path, "model": path}, path=path, make=make, **given)


FILES = [
    (of_file("takes 2 inputs", 2, "a.onnx", lambda p: written(p, Scaled(), X, torch.ones(1))), "one.onnx"),
    (of_file("takes 2 inputs", 2, "a.xml", lambda p: written(p, Scaled(), X, torch.ones(1))), "one.xml"),
    (of_file("takes no input", 2, "a.xml", no_input), "model.onnx"),
    (of_file("takes bool", 1, "a.onnx", truths), ""),
    (of_file("takes no image or volume", 1, "a.onnx", table), ""),
    (of_file("takes 2 patches at a time", 2, "a.onnx", lambda p: written(p, NET, PAIR)), "model.onnx"),
    (of_file("takes 2 patches at a time", 2, "a.xml", lambda p: written(p, NET, PAIR)), "one.xml"),
    (of_file("takes its channels last", 1, "a.onnx",
             lambda p: written(p, Moved(), X.permute(0, 2, 3, 4, 1), free=(1, 2, 3))), "first.xml"),
    (of_file("cannot be opened by onnxruntime", 1, "a.onnx", lambda p: Path(p).write_bytes(b"\x08")), "model.onnx"),
    (of_file("cannot be opened by OpenVINO", 1, "a.xml", lambda p: Path(p).write_bytes(b"<net/>")), "model.xml"),
    (of_file("were asked for", 1, "a.onnx", lambda p: written(p, NET, X), field, channels=2), ""),
    (of_file("were asked for", 1, "a.onnx", lambda p: written(p, NET, X), volume=VOLUME[0]), ""),
    (of_file("takes uint8, and the volume's dtype is", 1, "a.onnx", lambda p: written(p, Stored(), X.byte())), ""),
    (of_file("it is given stored values as they are", 1, "a.onnx", lambda p: written(p, Stored(), X.byte()),
             volume=BYTES, normalize=(0, 9)), ""),
]  # fmt: skip


@pytest.mark.parametrize(("row", "made"), [pytest.param(*each, id=each[0].what) for each in FILES])
def test_every_line_about_files_of_others_works(
    row: Row, made: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with warnings.catch_warnings():
        refusals(row, tmp_path, monkeypatch)
        if made:
            infer(VOLUME, made)
