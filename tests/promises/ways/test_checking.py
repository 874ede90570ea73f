"""Ways out of errors about checks of an output, and of the commands that look at one."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import chunkinfer as ci
from chunkinfer.api.tiling_error import tiling_error
from chunkinfer.errors import ChunkinferError
from chunkinfer.tools.cli import COMMANDS, main, told_to_a_shell
from chunkinfer.tools.cli.advice import options_of
from tests.lib.ways.advice import followed
from tests.lib.ways.commands import commanded
from tests.lib.ways.rows import NAMES, NET, NORM, QUIET, VOLUME, Row, each, network, refusals, row, save

pytestmark = pytest.mark.slow

SAMPLE = np.random.default_rng(0).random((40, 40, 40)).astype("f4")


def scaled(voxels: Any) -> Any:
    return voxels * 2


def audit(array: Any, *, model: Any = NET, volume: Any = VOLUME, **given: Any) -> Any:
    """Of an output that is stored first."""
    save(array, "stored.zarr")
    return ci.audit("stored.zarr", volume, model, **given)


def audit_of_a_foreign_output() -> Any:
    save(ci.infer(VOLUME, NET), "stored.zarr")
    shutil.rmtree("stored.zarr/.chunkinfer")
    return ci.audit("stored.zarr", VOLUME, NET)


def unknown(**given: Any) -> Any:
    """The output of a network that was given as a module."""
    return damaged(ci.infer(ci.open_volume("em.zarr"), NET), **given)


def damaged(array: Any, **given: Any) -> Any:
    """Verified after one of its chunks changed."""
    if not Path("stored.zarr").exists():
        save(array, "stored.zarr", chunks=(2, 4, 4, 4)[-array.ndim :], shards=False)
    chunk = next(path for path in sorted(Path("stored.zarr/c").rglob("*")) if path.is_file())
    chunk.write_bytes(b"torn")
    return ci.verify("stored.zarr", repair=True, **QUIET, **given)


def by_file(place: Path) -> Any:
    """The output of a model file."""
    torch.jit.save(torch.jit.script(NET), place / "unet.pt")
    return ci.infer(ci.open_volume(place / "em.zarr"), str(place / "unet.pt"))


def replaced() -> Any:
    save(VOLUME, "stored.zarr")
    save(VOLUME[:4], "other.zarr")
    shutil.rmtree("other.zarr/.chunkinfer")
    shutil.copytree("stored.zarr/.chunkinfer", "other.zarr/.chunkinfer")
    return ci.verify("other.zarr", **QUIET)


def tiling(model: Any = NET, **given: Any) -> Any:
    return ci.tiling_error(model, SAMPLE if model is NORM else VOLUME, **{"timed": False, **given})


RESULT = ci.infer(VOLUME, NET)
CHECKED = [
    row("cannot be audited", 1, audit, array=ci.infer(VOLUME, NET, threshold=0.5)),
    row("No network made", 1, audit, array=VOLUME),
    row("is not a network's own output", 1, audit, array=RESULT * 2),
    row("has no ledger", 1, audit_of_a_foreign_output),
    row("There is nothing to measure", 2, tiling, {"sample": SAMPLE}, model=NORM, halos=[], overlaps=[]),
    row("has no ledger", 0, lambda: ci.status("em"), {}),
    row("its ledger speaks of", 1, replaced, {"url": "other.zarr", "array": VOLUME}),
    row("does not say where its network", 1, unknown, {"the_network": NET}),
    row("does not say how to compute", 2, damaged, {"array": VOLUME + 1, "url": "stored.zarr"}, array=VOLUME + 1),
]  # fmt: skip


@pytest.mark.parametrize("row", each({"checked": CHECKED}))
def test_lines_about_checks(row: Row, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "em").mkdir()
    names = {"audit": ci.audit, "verify": ci.verify, "tiling_error": tiling_of, **row.names}
    refusals(row._replace(names=names), tmp_path, monkeypatch)


def tiling_of(model: Any, sample: Any, **given: Any) -> Any:
    return ci.tiling_error(model, sample, timed=False, **given)


def test_a_line_about_a_function_that_scaled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    given = {"array": ci.infer(VOLUME, NET, normalize=scaled)}
    with pytest.raises(ChunkinferError, match="with a function") as refused:
        audit(**given)
    names = {**NAMES, "audit": ci.audit, "output": "stored.zarr", "the_function": scaled}
    assert len(list(followed(refused.value, audit, given, names))) == 1


def test_lines_about_the_model_of_a_repair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save(VOLUME, "em.zarr")
    given = {"array": by_file(tmp_path)}
    names = {**NAMES, "verify": ci.verify, "save": save, "url": "stored.zarr", **given}
    with pytest.raises(ChunkinferError, match="names the model file") as refused:
        damaged(**given)
    assert len(list(followed(refused.value, damaged, given, names))) == 2
    with pytest.raises(ChunkinferError, match="was made with") as refused:
        damaged(**given, model=network(last=nn.Tanh()))
    assert len(list(followed(refused.value, damaged, given, names))) == 1


def test_a_line_about_a_sample_that_is_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiling_error, "_available", lambda device: 1 << 14)
    with pytest.raises(ChunkinferError, match="at once takes about") as refused:
        tiling(halos=[0])
    assert len(list(followed(refused.value, tiling, {}, {**NAMES, "sample": VOLUME}))) == 1


def test_a_deletion_without_a_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save(VOLUME, "em.zarr")
    with pytest.raises(ChunkinferError, match="Nothing was deleted") as refused:
        main(["delete", "em.zarr"], standalone_mode=False)
    assert not list(followed(refused.value, main, {}, NAMES))
    assert commanded(refused.value) == ["delete em.zarr --yes"]
    assert not Path("em.zarr").exists()


def test_options_that_a_command_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was advised as an argument is an option, and the command with it ends well."""
    monkeypatch.chdir(tmp_path)
    save(VOLUME, "em.zarr")
    words = ["plan", "em.zarr", "--model", by_file_at(tmp_path), "--window", "box"]
    with pytest.raises(ChunkinferError, match="is not known") as refused:
        main(words, standalone_mode=False)
    told = told_to_a_shell(refused.value, options_of(words, COMMANDS))
    assert not list(followed(told, main, {}, NAMES))
    options = [way for way in told.ways if way.startswith("--")]
    assert options, told.ways
    for option in options:
        main([*words[:4], *option.split()[:2]], standalone_mode=False)


def by_file_at(place: Path) -> str:
    by_file(place)
    return str(place / "unet.pt")
