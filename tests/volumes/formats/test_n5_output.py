"""N5 as an output, read back by tensorstore, whose driver knows nothing of ours."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorstore as ts

import chunkinfer as ci
from chunkinfer.errors import DestinationError
from chunkinfer.volumes.arrays.create import ArraySpec, create, open_destination
from chunkinfer.volumes.arrays.open import open_source
from tests.lib.storage.filling import fill

ARRAY = np.random.default_rng(0).integers(0, 2**16, (3, 20, 24, 28), dtype="u2")
MADE: dict[str, Any] = {"shape": ARRAY.shape, "dtype": "u2", "dims": "czyx", "chunks": (3, 8, 8, 8), "format": "n5"}
PLACE: dict[str, Any] = {"voxel_size": {"z": 40, "y": 4, "x": 4}, "unit": "nm", "offset": {"z": -3, "x": 7}}


@pytest.mark.parametrize("compression", [None, "none", "blosc"])
def test_a_dataset(tmp_path: Path, compression: str | None) -> None:
    array = ARRAY.copy()
    array[:, :8, :8, :8] = 0  # stored all the same: an absent chunk means an unfinished write
    names = {"channel_names": ["a", "b", "c"]}
    fill(create(tmp_path / "o", ArraySpec(**MADE, **PLACE, compression=compression, attributes=names)), array)
    theirs = ts.open({"driver": "n5", "kvstore": f"file://{tmp_path / 'o'}"}).result()
    np.testing.assert_array_equal(theirs.read().result().T, array)
    assert theirs.domain.labels == ("x", "y", "z", "c")
    assert [str(unit) for unit in theirs.dimension_units[:3]] == ["4 nm", "4 nm", "40 nm"]
    assert sum(path.is_file() for path in (tmp_path / "o").rglob("*")) == 1 + 3 * 3 * 4
    source = open_source(tmp_path / "o")
    assert (source.voxel_size, source.unit) == ({"z": 40, "y": 4, "x": 4}, "nm")
    assert source.offset == {"z": -3, "y": 0, "x": 7}
    assert source.names == names
    np.testing.assert_array_equal(open_destination(f"n5://{tmp_path / 'o'}")[:], array)


def test_overwriting(tmp_path: Path) -> None:
    fill(create(tmp_path / "o", ArraySpec(**MADE)), ARRAY)
    (tmp_path / "o" / "notes.txt").write_text("mine")
    with pytest.raises(DestinationError, match="holds an array already"):
        create(tmp_path / "o", ArraySpec(**MADE))
    create(tmp_path / "o", ArraySpec(**{**MADE, "format": "zarr3"}), overwrite=True)
    assert {p.name for p in (tmp_path / "o").iterdir()} - {".chunkinfer"} == {"zarr.json", "notes.txt"}


REFUSED = [
    ({"dtype": "bool"}, "uint8, int8"),
    ({"shards": (3, 16, 16, 16)}, "each chunk is an object"),
    ({"encoding": "jpeg"}, "compression="),
    ({"compression": "zstd"}, "gzip, none, blosc"),
]


@pytest.mark.parametrize(("change", "message"), REFUSED)
def test_what_the_format_cannot_hold(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(DestinationError, match=message):
        create(tmp_path / "o", ArraySpec(**{**MADE, **change}))
    assert not (tmp_path / "o").exists()


def test_saved_and_resumed(tmp_path: Path) -> None:
    ci.save(ARRAY[0], f"n5://{tmp_path / 'o'}", progress=False)
    assert json.loads((tmp_path / "o" / "attributes.json").read_text())["axes"] == ["x", "y", "z"]
    np.testing.assert_array_equal(ci.open_volume(tmp_path / "o").values, ARRAY[0])
    assert ci.save(ARRAY[0], tmp_path / "o", format="n5", progress=False).computed == 0
    assert ci.verify(tmp_path / "o", progress=False).ok
