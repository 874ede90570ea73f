"""What is advised where a network does not serve: each line is pasted and run."""

from __future__ import annotations

import copy
import importlib
import os
import pickle
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import FunctionType, SimpleNamespace
from typing import Any
from zipfile import ZipFile

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import chunkinfer as ci
from chunkinfer.networks import files
from chunkinfer.networks import model as opened
from chunkinfer.networks.identity import shippable
from chunkinfer.networks.model import deliver, open_model
from chunkinfer.networks.receptive_field import check_trace
from tests.lib.ways.rows import AFFINITIES, NET, SHAPE, VOLUME, Row, each, infer, network, refusals, row

X = torch.zeros(1, 1, *SHAPE)


def augmented(model: Any = NET, volume: Any = VOLUME, **given: Any) -> Any:
    """The result of an augmented network."""
    return infer(volume, ci.augment(model, **given))


TOOLS: dict[str, Any] = {
    "module": NET, "x": X, "copy": copy, "os": os, "augment": augmented, "deliver": deliver, "path": "model.pt2",
}  # fmt: skip


def of(what: str, lines: int, call: Callable[..., Any] = infer, **given: Any) -> Row:
    """A row whose lines may name what networks are made and stored with."""
    return row(what, lines, call, TOOLS | {"model": given.get("model", NET)}, **given)


# ---- augmentation ----------------------------------------------------------------------------------------------------


FLAT = nn.Conv2d(1, 2, 3, padding=1).eval()
SECTION = VOLUME[0]
EVEN = nn.Conv3d(1, 1, (2, 3, 2)).eval()
THICK = nn.Conv3d(1, 1, (1, 2, 2), stride=(1, 2, 2)).eval()
MIXED = nn.Conv3d(1, 1, (1, 1, 2), stride=(1, 1, 2)).eval()
TWICE = ci.augment(NET, flips="z")


def pointwise(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Takes an even number of sections, of an odd number of rows."""
    if x.shape[2] % 2 or not x.shape[3] % 2:
        raise ValueError("another size")
    return x * 2


pointwise.tiling_contract = [  # type: ignore[attr-defined]
    {"context": 0, "period": 2},
    {"context": 0, "period": 2, "residues": (1,), "smallest": 1},
    {"context": 0},
]

AUGMENTED = [
    of("do not say what changes", 2, augmented, flips="", transpose="y"),
    of("names no axes", 2, augmented, flips="q"),
    of("names no axes", 2, augmented, transpose="yy"),
    of("are no offsets", 2, augmented, model=network(3), offsets=3),
    of("an edge from a voxel to itself", 2, augmented, model=network(3), offsets=[(0, 0, 0), (-1, 0, 0), None]),
    of("an edge from a voxel to itself", 2, augmented, offsets=[(-1, 0), (-1, 0, 0)]),
    of("belongs to two channels", 0, augmented, offsets=[(-1, 0, 0), (-1, 0, 0)]),
    of("offsets were given for a network with 2", 2, augmented, offsets=[(-1, 0, 0)]),
    of("do not suit a network of 2 axes", 2, augmented, model=FLAT, volume=SECTION),
    of("do not suit a network of 2 axes", 2, augmented, model=FLAT, volume=SECTION, flips="z", transpose="yx"),
    of("is of 2 axes, and the network has 3", 2, augmented, offsets=[(-1, 0), None]),
    of("is augmented already", 2, augmented, model=TWICE, offsets=[(-1, 0, 0), None]),
    of("at the low end of axis z", 1, augmented, model=EVEN),
    of("at the low end of axis x", 1, augmented, model=EVEN, flips="x"),
    of("have strides of", 2, augmented, model=THICK, transpose="zyx"),
    of("have strides of", 2, augmented, model=MIXED, flips="", transpose="yx"),
    of("No size suits axis", 2, augmented, model=pointwise, volume=VOLUME[:, :11, :11], transpose="zy"),
]


# ---- weights ---------------------------------------------------------------------------------------------------------


def stored_weights(model: Any, volume: Any = VOLUME) -> Any:
    """Weights that fit lie in a file beside."""
    torch.save(nn.Conv3d(1, 2, 3, padding=1).state_dict(), "weights.pt")
    return infer(volume, model)


def on_meta() -> nn.Module:
    with torch.device("meta"):
        return nn.Conv3d(1, 2, 3, padding=1).eval()


def through(model: nn.Module) -> Callable[[np.ndarray[Any, Any]], Any]:
    """A function of arrays that leads to a module."""
    return lambda x: model(torch.from_numpy(x)).numpy(force=True)


def mended(what: str, lines: int, model: Any, inner: Any = None, call: Callable[..., Any] = infer) -> Row:
    """A network that its lines change; the call then works."""
    return row(what, lines, call, TOOLS | {"model": model if inner is None else inner}, model=model)


# ---- files -----------------------------------------------------------------------------------------------------------

WEB: dict[str, bytes] = {}
"""What stores and servers hold, by the name of the file."""


class Store:
    """Stands for tensorstore's."""

    def __init__(self, spec: Any) -> None:
        pass

    def read(self, name: str) -> Any:
        if name == "denied.pt":
            raise ValueError("PERMISSION_DENIED: no")
        state, value = ("value", WEB[name]) if name in WEB else ("missing", b"")
        return SimpleNamespace(result=lambda: SimpleNamespace(state=state, value=value))


def script(path: str, model: nn.Module = NET) -> str:
    torch.jit.save(torch.jit.trace(model, X), path)
    return path


def near(model: Any, **given: Any) -> Any:
    """Of a network with files beside that lines name."""
    for name in ("unet.pt2", "model.pt2"):
        script(name)
    for name in ("net.pt", "other.pt"):
        WEB[name] = Path(script(name, network() if name == "net.pt" else network(3))).read_bytes()
    WEB["unet.pt"] = WEB["net.pt"]
    return infer(VOLUME, model() if isinstance(model, FunctionType) else model, **given)


def replaced(kept: str) -> Any:
    """A network whose file is another one when it runs."""
    near(NET)
    lazy = ci.infer(VOLUME, kept, patch=6)
    WEB["net.pt"] = WEB["other.pt"]
    Path("net.pt").write_bytes(WEB["other.pt"])
    forget()
    return lazy.compute(scheduler="synchronous")


def forget() -> None:
    """As in a process that has not seen the network yet."""
    opened._open.clear()
    for path in (files.user_cache() / "models").rglob("*.pt"):
        path.unlink()


def on_a_worker(model: str) -> Any:
    """A network whose file is not there where it runs."""
    near(NET)
    lazy = ci.infer(VOLUME, model, patch=6)
    Path(model).rename("moved.pt")
    forget()
    try:
        return lazy.compute(scheduler="synchronous")
    finally:
        Path("moved.pt").rename(model)


def bytes_of(path: str) -> bytes:
    near(NET)
    return Path(path).read_bytes()


def given_bytes(model: str) -> Any:
    return infer(VOLUME, bytes_of(model))


def delivered(data: bytes, trust: bool) -> Any:
    return deliver(bytes_of("net.pt"), trust=trust)


def written(name: str, data: bytes) -> str:
    Path(name).write_bytes(data)
    return name


def zipped(name: str, member: str) -> str:
    with ZipFile(name, "w") as file:
        file.writestr(member, b"")
    return name


def with_weights(name: str, make: Callable[[str], Any]) -> Any:
    """Of a file that is made first, with weights that fit in another one beside."""
    make(name)
    torch.save(NET.state_dict(), "weights.pt")
    return infer(VOLUME, name)


def script_half(path: str) -> str:
    model = nn.Conv3d(1, 1, 1).half().eval()
    torch.jit.save(torch.jit.script(model), path)
    return path


def exported(name: str, model: nn.Module = NET) -> None:
    torch.export.save(torch.export.export(model, (X,)), name)


def executing(name: str) -> None:
    """A program whose constants are a pickle of an object."""
    exported("plain.pt2")
    with ZipFile("plain.pt2") as old, ZipFile(name, "w") as new:
        for item in old.infolist():
            new.writestr(item, old.read(item))
        new.writestr(f"{old.namelist()[0].split('/')[0]}/data/aotinductor/model.so", b"")


PLACES = [
    of("There is no model file at", 1, near, model="https://nets.example/missing.pt#sha256=" + 64 * "0"),
    of("cannot be fetched", 1, near, model="https://nets.example/denied.pt"),
    of("is no digest", 1, near, model="https://nets.example/net.pt#md5=0"),
    of("is no digest", 1, near, model="http://nets.example/net.pt#md5=0"),
    of("would come without TLS", 1, near, model="http://nets.example/net.pt"),
    of("has the sha256", 1, near, model="https://nets.example/net.pt#sha256=" + 64 * "0"),
    row("has the sha256", 1, near, TOOLS, model=lambda: f"file://{os.getcwd()}/net.pt#sha256={64 * '0'}"),
    of("cannot be read", 2, near, model="missing/net.pt"),
    row("is not the one that this run was planned with", 1, replaced, {**TOOLS, "model": "https://a.example/net.pt"},
        kept="https://a.example/net.pt"),
    row("is not the one that this run was planned with", 1, replaced, {**TOOLS, "model": "net.pt"}, kept="net.pt"),
    of("is not there for this process", 2, on_a_worker, model="net.pt"),
    row("in a format that can be code", 2, given_bytes, {"data": b"", "deliver": delivered}, model="net.pt"),
    of("is no name of a version", 2, version=3),
    of("is no network", 2, near, model=3),
    of("is no network", 2, near, model=NET.state_dict()),
]  # fmt: skip

ARCHIVES = [
    of("is a pickle", 2, with_weights, name="net.pt", make=lambda n: written(n, b"\x80")),
    of("is neither a TorchScript nor", 2, with_weights, name="net.pt", make=lambda n: written(n, b"1")),
    of("was written by torch.save", 2, with_weights, name="net.pt", make=lambda n: torch.save(NET, n)),
    of("that holds no network", 2, with_weights, name="net.pt", make=lambda name: zipped(name, "a.txt")),
    of(
        "looks like a file of TorchScript",
        2,
        with_weights,
        name="net.pt",
        make=lambda n: zipped(n, "net/code/a.py"),
    ),
    of(
        "looks like a file of torch.export",
        2,
        with_weights,
        name="net.pt2",
        make=lambda name: zipped(name, "net/archive_format"),
    ),
    of("compiled machine code", 2, with_weights, name="net.pt2", make=executing),
    of("The weights of half.pt are", 2, with_weights, name="half.pt", make=lambda n: script_half(n)),
]

# ---- modules and functions -------------------------------------------------------------------------------------------


class Last(nn.Module):
    """A network, and what becomes of its result at the end of forward."""

    def __init__(self, change: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.features, self.change = nn.Conv3d(1, 2, 3, padding=1), change
        self.eval()

    def forward(self, x: Tensor) -> Any:
        return self.change(self.features(x))


class Named(Last):
    def forward(self, *, image: Tensor) -> Any:
        return self.change(self.features(image))


class Mapped(Last):
    def forward(self, x: Any) -> Any:
        return self.change(self.features(x["image"]))


class Timed(Last):
    def forward(self, x: Tensor, timestep: float) -> Any:
        return self.change(self.features(x)) * timestep


class Nothing(Last):
    def forward(self) -> Any:  # type: ignore[override]
        return None


class Locked(Last):
    def __init__(self) -> None:
        super().__init__(lambda y: y)
        self.lock = threading.Lock()


class Parts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Conv3d(1, 2, 3, padding=1)


class Sized(nn.Module):
    """Takes no cube."""

    def forward(self, x: Tensor) -> Tensor:
        assert x.shape[2] < x.shape[3]
        return x * 2


def same(y: Tensor) -> Tensor:
    return y


def held(y: Any) -> Any:
    return SimpleNamespace(count=1, scores=y)


def strict(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Takes an image of one size, or any volume of one channel."""
    if x.shape not in ((1, 2, 256, 256),) and (x.ndim, x.shape[1]) != (5, 1):
        raise ValueError("another size")
    return x * 2


def shifted(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return np.roll(x, 1, 2) * (np.arange(x.shape[2]) > 0)[:, None, None]


shifted.tiling_contract = {"context": 0}  # type: ignore[attr-defined]
MODULES = [
    of("returned no tensor", 1, model=Last(held)),
    of("returned no tensor", 0, model=Last(lambda y: None)),
    of("gives values of the type", 1, model=Last(lambda y: y.to(torch.complex64))),
    of("gives 2 outputs", 2, model=Last(lambda y: {"a": y, "b": y})),
    of("heads of deep supervision", 2, model=Last(lambda y: (y, y[..., ::2, ::2, ::2]))),
    of("gives no output 'c'", 1, model=Last(lambda y: {"a": y, "b": y}), output="c"),
    of("gives no output 'c'", 2, output="c"),
    of("names no output", 2, output=-1),
    of("maps stacked as", 1, model=Last(lambda y: torch.stack([y, y], 1))),
    of("has no forward method", 2, model=nn.ModuleList([nn.Conv3d(1, 2, 1)])),
    of("has no forward method", 2, model=nn.ModuleDict({"a": nn.Conv3d(1, 2, 1)})),
    of("has no forward method", 1, model=Parts()),
    of("only by the name image", 1, model=Named(same)),
    of("it takes nothing", 0, model=Nothing(same)),
    of("needs more than a volume", 0, model=Timed(same)),
    of("cannot be copied", 1, model=Locked()),
    of("expects 2 channels", 1, model=nn.Conv3d(2, 1, 1)),
    of("expects 1 channels", 1, model=nn.Conv3d(1, 1, 1), volume=AFFINITIES),
    of("works on 2 spatial axes", 1, model=FLAT),
    of("works on 3 spatial axes", 0, volume=SECTION),
    of("does not run on", 1, model=Mapped(same)),
    of("does not run on", 0, model=Sized()),
    of("does not run on", 1, model=torch.jit.script(Sized())),
    of("leaves out the axis of the batch", 1, model=Last(lambda y: y[0])),
    of("leaves out the axis of channels", 1, model=Last(lambda y: y.argmax(1))),
    of("gives no map of its input", 1, model=Last(lambda y: y.mean((2, 3, 4)))),
    of("its forward leaves torch", 1, model=Last(lambda y: y.numpy(force=True))),
]


def misread(model: nn.Module) -> Any:
    """As if the tracer had found too small a context."""
    given = open_model(model)
    found = given.trace(1, 3)
    axes = tuple(replace(axis, low=0, high=0) for axis in found.axes)
    return check_trace(given, replace(found, axes=axes))


FUNCTIONS = [
    of("The contract of Sequential does not hold", 2, misread, model=NET),
    row("returned no tensor", 1, infer, {"function": held}, model=held),
    row("gives values of the type", 1, infer, {"function": lambda x: x * 1j}, model=lambda x: x * 1j),
    row("gives no map of its input", 1, infer, {"function": lambda x: x[:, 0]}, model=lambda x: x[:, 0]),
    row("gives no map of its input", 1, infer, {"function": lambda x: x[0]}, model=lambda x: x[0], volume=AFFINITIES),
    of("gives no map of its input", 0, model=lambda x: x.mean((2, 3, 4))),
    row("is a function of torch tensors", 2, infer, TOOLS | {"function": lambda x: NET(x)}, model=lambda x: NET(x)),
    of("does not run on", 2, ci.receptive_field, model=strict, channels=2, ndim=2),
    of("cannot be read", 2, ci.receptive_field, model=NET, contract={"contexts": 4}),
    of("cannot be read", 2, ci.receptive_field, model=FLAT, contract=[{"context": 4}]),
    of("The contract of Sequential does not hold", 1, ci.receptive_field, model=NET, contract={"context": 0}),
    of("is not known", 2, ci.receptive_field, model=nn.Sigmoid()),
]

LAZY, FLAT_LAZY = nn.LazyConv3d(2, 3, padding=1), nn.LazyConv2d(2, 3, padding=1)
META, INNER, INNER_LAZY = on_meta(), on_meta(), nn.LazyConv3d(2, 3, padding=1)
HALF = nn.Conv3d(1, 1, 1).half().eval()
DROPPED, TRAINED = (nn.Sequential(nn.Conv3d(1, 2, 1), nn.Dropout(0.5)) for _ in range(2))
MENDED = [
    mended("its layer is lazy", 2, LAZY.eval(), call=stored_weights),
    mended("is on the meta device", 2, META, call=stored_weights),
    mended("A weight of the network is on torch's meta device", 2, through(INNER), INNER, stored_weights),
    mended("has no weights yet", 0, through(INNER_LAZY), INNER_LAZY),
    mended("The weights of Conv3d are", 2, HALF),
    mended("gives another result each time", 1, through(DROPPED), DROPPED),
    mended("The contract of shifted does not hold", 1, shifted),
    mended("is in train mode", 2, TRAINED, call=lambda model: infer(VOLUME, model, overlap=2)),
]

# ---- what changes while a result waits -------------------------------------------------------------------------------


def changed(model: Any, inner: nn.Module) -> Any:
    """A network that is not copied, as one of more than 1 GiB."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shippable, "COPIED", 0)
        lazy = ci.infer(VOLUME, model, patch=6)
        with torch.no_grad():
            next(inner.parameters()).add_(1)
        return lazy.compute(scheduler="synchronous")


SOURCE = (
    "from torch import nn\n\nclass Net(nn.Conv3d):\n    def forward(self, x):\n        return super().forward(x) * {}\n"
)


def of_another_version() -> Any:
    """A worker has another version of the module that a network's class is in."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(os.getcwd())
        Path("networks.py").write_text(SOURCE.format(1))
        sent = pickle.dumps(open_model(importlib.import_module("networks").Net(1, 1, 1).eval()))
        del sys.modules["networks"]
        Path("networks.py").write_text(SOURCE.format("2.0"))
        importlib.invalidate_caches()
        importlib.import_module("networks")
        return pickle.loads(sent).check()


class Client:
    """Stands for dask's."""

    def upload_file(self, path: str) -> None:
        assert Path(path).exists()


LARGE, REFERRED = (nn.Conv3d(1, 1, 3, padding=1).eval() for _ in range(2))
LEADS = through(REFERRED)
CHANGED = [
    row("was changed since infer() was called", 2, changed, TOOLS | {"model": LARGE}, model=LARGE, inner=LARGE),
    row("was changed since infer() was called", 1, changed, TOOLS | {"model": LEADS}, model=LEADS, inner=REFERRED),
    row("is another network in this process", 2, of_another_version, TOOLS | {"client": Client()}),
]


ROOMS = {"augmented": AUGMENTED, "places": PLACES, "archives": ARCHIVES, "modules": MODULES, "functions": FUNCTIONS,
         "changed": CHANGED}  # fmt: skip


@pytest.fixture(autouse=True)
def _own_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache of each test's own, and stores that hold what `WEB` does."""
    WEB.clear()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(files, "kvstore", Store)


@pytest.mark.filterwarnings("ignore:Using a non-tuple sequence:UserWarning")  # torch's, of a tensor in place of a dict
@pytest.mark.parametrize("row", each(ROOMS))
def test_every_line_of_networks_works(row: Row, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refusals(row, tmp_path, monkeypatch)


@pytest.mark.parametrize("row", each({"mended": MENDED}))
def test_networks_run_once_they_are_mended(row: Row, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refusals(row, tmp_path, monkeypatch)
    if row.lines:
        row.call(**row.given)
