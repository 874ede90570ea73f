"""Names of outputs: what they say of the format, and which are refused."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import chunkinfer as ci
from chunkinfer.errors import DestinationError


@pytest.mark.parametrize("name", ["x.tif", "x.TIFF", "x.h5", "x.nii.gz", "x.mrc", "x.png", "x.npy", "x.npz"])
def test_an_output_is_not_named_as_a_file_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    array = np.random.default_rng(0).integers(0, 255, (4, 5, 6)).astype("uint16")
    with pytest.raises(DestinationError, match="is the name of a single file") as refused:
        ci.save(array, name, progress=False)
    assert not list(tmp_path.iterdir())
    folder, *file, stated = refused.value.ways
    names: dict[str, Any] = {"array": array, "save": partial(ci.save, progress=False)}
    exec(folder, names)
    assert np.array_equal(ci.open_volume(tmp_path / "x.zarr"), array)
    for line in file:
        library, call = line.removeprefix("a small one, as a file: ").split(".", 1)
        modules = {"numpy": np, "chunkinfer": ci, library: pytest.importorskip(library)}
        exec(f"{library}.{call}", {**names, **modules})
        if name != "x.png":
            assert np.array_equal(ci.open_volume(tmp_path / name), array)
        (tmp_path / name).unlink()
    assert len(file) == (name != "x.npz")
    exec(stated.removeprefix("a zarr folder of that name: "), names)
    assert np.array_equal(ci.open_volume(f"zarr3://{tmp_path / name}"), array)


def test_n5_by_its_suffix(tmp_path: Path) -> None:
    array = np.arange(60, dtype="uint16").reshape(3, 4, 5)
    ci.save(array, tmp_path / "x.n5", progress=False)
    assert (tmp_path / "x.n5" / "attributes.json").exists()
    assert np.array_equal(ci.open_volume(tmp_path / "x.n5"), array)
