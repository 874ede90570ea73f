"""OME-Zarr as an output of one level: metadata, overwriting, and where levels of other tools lie."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

import chunkinfer as ci
from chunkinfer.errors import DestinationError
from chunkinfer.volumes.arrays.create import ArraySpec, create, guess_format, open_destination
from chunkinfer.volumes.arrays.open import open_source
from chunkinfer.volumes.formats import ome as ome_metadata
from tests.lib.storage.filling import fill

ARRAY = np.random.default_rng(0).integers(0, 255, (2, 12, 20, 24), dtype="u1")
MADE: dict[str, Any] = {
    "shape": ARRAY.shape, "dtype": "u1", "dims": "czyx", "chunks": (2, 8, 8, 8), "unit": "nm",
    "voxel_size": {"z": 40, "y": 4, "x": 4}, "offset": {"z": -3}, "attributes": {"channel_names": ["a", "b"]},
}  # fmt: skip


@pytest.mark.parametrize("format", ["ome-zarr", "ome-zarr-0.4"])
def test_one_level(tmp_path: Path, format: str) -> None:
    fill(create(tmp_path / "o", ArraySpec(format=format, **MADE)), ARRAY)
    again = open_destination(f"{format}://{tmp_path / 'o'}")
    np.testing.assert_array_equal(again[:], ARRAY)
    source = open_source(tmp_path / "o")
    assert source.url == str(tmp_path / "o")
    assert (source.voxel_size, source.unit) == ({"z": 40, "y": 4, "x": 4}, "nm")
    assert source.offset == {"z": -3, "y": 0, "x": 0}
    np.testing.assert_array_equal(zarr.open_group(str(tmp_path / "o"), mode="r")["0"][:], ARRAY)
    with pytest.raises(DestinationError, match="holds an array already"):
        create(tmp_path / "o", ArraySpec(format=format, **MADE))


@pytest.mark.parametrize("old", ["ome-zarr", "ome-zarr-0.4", "precomputed", "zarr2"])
@pytest.mark.parametrize("new", ["ome-zarr", "ome-zarr-0.4", "precomputed", "zarr3"])
def test_overwriting_leaves_what_is_not_the_image(tmp_path: Path, old: str, new: str) -> None:
    fill(create(tmp_path / "o", ArraySpec(format=old, **MADE)), ARRAY)
    (tmp_path / "o" / "notes.txt").write_text("mine")
    create(tmp_path / "o", ArraySpec(format=new, **MADE), overwrite=True)
    left = {str(p.relative_to(tmp_path / "o")) for p in (tmp_path / "o").rglob("*") if p.is_file()}
    made = {
        "ome-zarr": {"zarr.json", "0/zarr.json"},
        "ome-zarr-0.4": {".zattrs", ".zgroup", "0/.zattrs", "0/.zarray"},
        "precomputed": {"info"},
        "zarr3": {"zarr.json"},
    }
    assert left == made[new] | {"notes.txt"}


def test_a_group_with_more_than_the_image_is_not_overwritten(tmp_path: Path) -> None:
    create(tmp_path / "o", ArraySpec(format="ome-zarr", **MADE))
    create(tmp_path / "o" / "labels" / "cells", ArraySpec(**MADE))
    with pytest.raises(DestinationError, match="more than one image"):
        create(tmp_path / "o", ArraySpec(format="ome-zarr", **MADE), overwrite=True)
    assert open_source(tmp_path / "o" / "labels" / "cells").shape == ARRAY.shape


def test_by_suffix() -> None:
    assert guess_format("a/b.ome.zarr") == "ome-zarr"
    assert guess_format("a/b.ome.zarr/") == "ome-zarr"
    assert guess_format("zarr2://a/b.ome.zarr") == "zarr2"
    assert guess_format("a/b.zarr") == "zarr3"


def test_axes_that_are_no_image(tmp_path: Path) -> None:
    with pytest.raises(DestinationError, match="y and x"):
        create(tmp_path / "o", ArraySpec(format="ome-zarr", shape=(3, 4), dtype="u1", dims="cz"))


LEVELS = [
    ([0.0, 2.0], [0.0, 0.0], "centres of averaged cells: corners agree"),
    ([8.0, 10.0], [2.0, 1.0], "the same, with an offset"),
    ([0.0, 0.0], [0.0, 0.0], "corners, or subsampled voxels"),
    ([0.0, 8.0], [0.0, 1.0], "an offset of its own"),
]


@pytest.mark.parametrize(("translations", "offsets", "why"), LEVELS)
def test_where_levels_of_other_tools_lie(translations: list[float], offsets: list[float], why: str) -> None:
    datasets = [
        ome_metadata.dataset(str(k), [4.0 * 2**k], [shift]) for k, shift in enumerate(translations)
    ]  # fmt: skip
    image = {"axes": [{"name": "x", "type": "space", "unit": "nanometer"}], "datasets": datasets}
    places = [ome_metadata.placement(image, k, ("x",), "somewhere") for k in (0, 1)]
    assert [place.offset["x"] for place in places] == offsets, why
    assert [place.voxel_size["x"] for place in places] == [4, 8]


def test_subsampled_levels_keep_their_centres(tmp_path: Path) -> None:
    image = json.loads('{"datasets": [{"path": "0"}], "axes": ["x"], "type": "old"}')
    made = ome_metadata.with_levels(image, ["1"], [[2]], "stride", "here")
    assert made["datasets"][1]["coordinateTransformations"][1]["translation"] == [0.0]
    assert made["type"] == "stride"
    assert "type" not in ome_metadata.with_levels(made, [], [], "", "here")


def test_save_by_suffix(tmp_path: Path) -> None:
    ci.save(ARRAY[0], tmp_path / "v.ome.zarr", progress=False)
    group = zarr.open_group(str(tmp_path / "v.ome.zarr"), mode="r")
    assert [axis["name"] for axis in group.attrs["ome"]["multiscales"][0]["axes"]] == ["z", "y", "x"]
    np.testing.assert_array_equal(ci.open_volume(tmp_path / "v.ome.zarr").values, ARRAY[0])
    again = ci.save(ARRAY[0], tmp_path / "v.ome.zarr", progress=False)
    assert again.computed == 0
    assert ci.verify(tmp_path / "v.ome.zarr", progress=False).ok
