"""Model files that somebody prepared: nothing in them runs when they are opened, however they are disguised."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import chunkinfer as ci
from chunkinfer.errors import ModelError, UntrustedModel
from chunkinfer.networks import model as opened
from chunkinfer.networks.model import deliver, open_model

V = np.zeros((16, 16, 16), "f4")
NET = nn.Conv3d(1, 1, 3, padding=1).eval()


class Hostile:
    """Leaves a mark when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = str(mark)

    def __reduce__(self) -> Any:
        return open, (self.mark, "w")


@pytest.fixture
def mark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What a hostile file leaves behind; networks of other tests are closed first."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(opened, "_open", type(opened._open)())
    return tmp_path / "mark"


def saved(thing: Any) -> bytes:
    """As torch.save writes it."""
    buffer = io.BytesIO()
    torch.save(thing, buffer)
    return buffer.getvalue()


def script() -> bytes:
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.trace(NET, torch.zeros(1, 1, 8, 8, 8)), buffer)
    return buffer.getvalue()


def program() -> bytes:
    buffer = io.BytesIO()
    dims = {2: torch.export.Dim("z"), 3: torch.export.Dim("y"), 4: torch.export.Dim("x")}
    torch.export.save(torch.export.export(NET, (torch.zeros(1, 1, 8, 8, 8),), dynamic_shapes=(dims,)), buffer)
    return buffer.getvalue()


def rewritten(archive: bytes, change: Callable[[str, bytes], bytes | None], **more: bytes) -> bytes:
    """An archive with other contents; members are named by what follows their common folder."""
    source, target = zipfile.ZipFile(io.BytesIO(archive)), io.BytesIO()
    changed = False
    with zipfile.ZipFile(target, "w") as file:
        for member in source.namelist():
            root, _, name = member.partition("/")
            content = change(name, source.read(member))
            changed |= content is not None
            file.writestr(member, source.read(member) if content is None else content)
        for name, content in more.items():
            file.writestr(f"{root}/{name}", content)
    assert changed or more, source.namelist()
    return target.getvalue()


def script_with(pickled: str) -> Callable[[Hostile], bytes]:
    """TorchScript whose pickle of this name is hostile."""
    return lambda h: rewritten(script(), lambda name, _: pickle.dumps(h, protocol=2) if name == pickled else None)


def program_with_inputs(hostile: Hostile) -> bytes:
    """torch.export falls back to plain pickles for the example inputs."""
    return rewritten(program(), lambda name, _: saved(hostile) if name.startswith("data/sample_inputs/") else None)


def program_with_weights(hostile: Hostile) -> bytes:
    """Weights may be stored as pickles, and the archive itself says which are."""

    def change(name: str, content: bytes) -> bytes | None:
        if name.endswith("weights_config.json"):
            table = json.loads(content)
            for entry in table["config"].values():
                entry["use_pickle"] = True
            return json.dumps(table).encode()
        return saved(hostile) if name.startswith("data/weights/weight_") else None

    return rewritten(program(), change)


def program_with_object(hostile: Hostile) -> bytes:
    """A constant that torch opens by pickle itself."""
    entry = {"path_name": "opaque_obj_0", "is_param": False, "use_pickle": True, "tensor_meta": None}

    def change(name: str, content: bytes) -> bytes | None:
        return json.dumps({"config": {"it": entry}}).encode() if name.endswith("constants_config.json") else None

    return rewritten(program(), change, **{"data/constants/opaque_obj_0": pickle.dumps(hostile)})


def program_with_library(hostile: Hostile) -> bytes:
    """A library that torch would load into the process."""
    return rewritten(program(), lambda *_: None, **{"data/aotinductor/model/it.so": b"\x7fELF"})


def program_with_expression(hostile: Hostile) -> bytes:
    """The size of an axis, which torch evaluates as Python when it opens the archive: the format is code."""

    def hostilely(value: Any) -> Any:
        if isinstance(value, list):
            return [hostilely(v) for v in value]
        if isinstance(value, dict):
            said = f"open({hostile.mark!r}, 'w')"
            return {k: said if k == "expr_str" else hostilely(v) for k, v in value.items()}
        return value

    def change(name: str, content: bytes) -> bytes | None:
        return json.dumps(hostilely(json.loads(content))).encode() if name.startswith("models/") else None

    return rewritten(program(), change)


def old_program(hostile: Hostile) -> bytes:
    """As torch 2.6 wrote them, its weights a pickle."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as file:
        from torch._export.serde.schema import SCHEMA_VERSION

        file.writestr("version", ".".join(map(str, SCHEMA_VERSION)))
        with zipfile.ZipFile(io.BytesIO(program())) as new:
            (model,) = (n for n in new.namelist() if n.endswith("models/model.json"))
            file.writestr("serialized_exported_program.json", new.read(model))
        for name in ("state_dict", "constants", "example_inputs"):
            file.writestr(f"serialized_{name}.pt", saved(hostile))
    return target.getvalue()


FILES: dict[str, Callable[[Hostile], bytes]] = {
    "a pickle": pickle.dumps,
    "a pickle of protocol 0": lambda h: pickle.dumps(h, protocol=0),
    "a torch.save": saved,
    "script, data": script_with("data.pkl"),
    "script, constants": script_with("constants.pkl"),
    "program, inputs": program_with_inputs,
    "program, weights": program_with_weights,
    "program, object": program_with_object,
    "program, library": program_with_library,
    "program of an older torch": old_program,
    "garbage": lambda h: np.random.default_rng(0).bytes(4000),
}


@pytest.mark.filterwarnings("ignore")  # torch warns of formats before it opens them
@pytest.mark.parametrize("suffix", [".pt", ".pt2", ".onnx", ".xml"])
@pytest.mark.parametrize("name", FILES)
def test_a_hostile_file_is_refused_and_nothing_of_it_runs(name: str, suffix: str, mark: Path, tmp_path: Path) -> None:
    path = tmp_path / f"model{suffix}"
    path.write_bytes(FILES[name](Hostile(mark)))
    with pytest.raises(ModelError):
        ci.infer(V, path, patch=8, overlap=2)
    with pytest.raises(ModelError):
        ci.receptive_field(path)
    assert not mark.exists()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", FILES)
def test_trusted_bytes_are_refused_too(name: str, mark: Path) -> None:
    """``trust=True`` is for what a network computes, not for what opening it executes."""
    data = FILES[name](Hostile(mark))
    with pytest.raises(ModelError):
        ci.infer(V, data, patch=8, overlap=2)
    with pytest.raises(ModelError):
        ci.infer(V, deliver(data, trust=True), patch=8, overlap=2)
    assert not mark.exists()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", [n for n in FILES if n.startswith("program, ")])
def test_what_an_archive_would_execute_is_named(name: str, mark: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.pt2"
    path.write_bytes(FILES[name](Hostile(mark)))
    with pytest.raises(UntrustedModel, match=r"would be executed when the file is opened[^$]*weights_only=True"):
        open_model(path).module_on("cpu")


@pytest.mark.filterwarnings("ignore")
def test_a_format_that_is_code_is_not_opened_without_consent(mark: Path) -> None:
    with pytest.raises(UntrustedModel, match="can be code"):
        ci.infer(V, program_with_expression(Hostile(mark)))
    assert not mark.exists()


@pytest.mark.filterwarnings("ignore")
def test_the_files_are_hostile(mark: Path, tmp_path: Path) -> None:
    """Opened by torch as such, they do leave their mark."""
    hostile = {n: FILES[n] for n in ("program, inputs", "program, weights", "program, object")}
    for name, make in {**hostile, "expression": program_with_expression}.items():
        path = tmp_path / "model.pt2"
        path.write_bytes(make(Hostile(mark)))
        with contextlib.suppress(Exception):
            torch.export.load(path).module()
        assert mark.exists(), name
        mark.unlink()


@pytest.mark.filterwarnings("ignore")
def test_what_is_not_hostile_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The archives above, unchanged; and the environment is as it was."""
    for name, data in (("model.pt", script()), ("model.pt2", program())):
        (tmp_path / name).write_bytes(rewritten(data, lambda *_: None, **{"extra/note": b"kept"}))
        for before in ("0", None):
            if before is None:
                monkeypatch.delenv("TORCH_FORCE_WEIGHTS_ONLY_LOAD", raising=False)
            else:
                monkeypatch.setenv("TORCH_FORCE_WEIGHTS_ONLY_LOAD", before)
            monkeypatch.setattr(opened, "_open", type(opened._open)())
            with torch.no_grad():
                x = torch.rand(1, 1, 8, 8, 8)
                assert torch.allclose(open_model(tmp_path / name).network("cpu")(x), NET(x), atol=1e-6)
            assert os.environ.get("TORCH_FORCE_WEIGHTS_ONLY_LOAD") == before
