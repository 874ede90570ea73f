"""N5: written by tensorstore, with the attributes of those who use it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chunkinfer.errors import AmbiguousSource, MissingChunk, SourceError
from chunkinfer.volumes.arrays.open import open_source
from tests.lib.storage.comparing import assert_same
from tests.lib.storage.written import ARRAY, n5

PLACED = [
    ({"pixelResolution": {"dimensions": [4, 4, 40], "unit": "nm"}}, ("nm", 40.0, 4.0, 0), "n5-viewer"),
    ({"resolution": [4, 4, 40], "offset": [8, 0, 400]}, ("", 40.0, 4.0, 10), "Paintera"),
    ({"resolution": [4, 4, 40], "units": ["nm", "nm", "nm"]}, ("nm", 40.0, 4.0, 0), "Neuroglancer"),
    ({"pixelResolution": [4, 4, 40], "downsamplingFactors": [2, 2, 1]}, ("", 40.0, 8.0, 0), "a level alone"),
    (
        {"transform": {"axes": ["z", "y", "x"], "scale": [5.24, 4, 4], "translate": [52.4, 0, 0], "units": ["nm"] * 3}},
        ("nm", 5.24, 4.0, 10),
        "COSEM",
    ),
    ({}, ("", 1.0, 1.0, 0), "nothing"),
]


@pytest.mark.parametrize(("attributes", "expected", "why"), PLACED)
def test_placement(tmp_path: Path, attributes: dict[str, Any], expected: Any, why: str) -> None:
    source = open_source(n5(tmp_path / "raw", **attributes, stain="osmium"))
    assert (source.unit, source.voxel_size["z"], source.voxel_size["x"], source.offset["z"]) == expected
    assert (source.format, source.names, source.chunks) == ("n5", {"stain": "osmium"}, (8, 8, 8))
    assert_same(source, ARRAY, (slice(2, 9), 3, slice(None, None, 2)))


def test_axes(tmp_path: Path) -> None:
    channels = np.stack([ARRAY, ARRAY // 2])
    assert_same(open_source(n5(tmp_path / "a", channels)), channels)
    stored = channels.transpose(1, 2, 0, 3)  # N5's order is x, c, y, z
    source = open_source(n5(tmp_path / "b", stored, axes=["x", "c", "y", "z"]))
    assert source.dims == ("c", "z", "y", "x")
    assert_same(source, channels)


@pytest.mark.parametrize("attributes", [True, False], ids=["of the group", "of nobody"])
def test_levels(tmp_path: Path, attributes: bool) -> None:
    group = tmp_path / "em.n5" / "volumes" / "raw"
    coarse = ARRAY[:, ::2, ::2]
    n5(group / "s0")
    n5(group / "s1", coarse)
    if attributes:
        words = {"scales": [[1, 1, 1], [2, 2, 1]], "pixelResolution": {"dimensions": [4, 4, 40], "unit": "nm"}}
        (group / "attributes.json").write_text(json.dumps(words))
    (tmp_path / "em.n5" / "attributes.json").write_text('{"n5": "2.5.0"}')
    for url in (group, tmp_path / "em.n5"):
        assert_same(open_source(url), ARRAY)
        assert_same(open_source(url, level=1), coarse)
    sizes = {"z": 40.0, "y": 8.0, "x": 8.0} if attributes else {"z": 1.0, "y": 1.0, "x": 1.0}
    assert open_source(group, level=1).voxel_size == sizes
    with pytest.raises(SourceError, match="0: s0; 1: s1"):
        open_source(group, level=2)
    n5(tmp_path / "em.n5" / "labels")
    with pytest.raises(AmbiguousSource, match="array='volumes/raw'"):
        open_source(tmp_path / "em.n5")
    assert_same(open_source(tmp_path / "em.n5", array="volumes/raw", level=1), coarse)


def test_missing_and_damaged_chunks(tmp_path: Path) -> None:
    folder = n5(tmp_path / "raw")
    chunk = folder / "1" / "0" / "1"
    whole = chunk.read_bytes()
    chunk.unlink()
    with pytest.raises(MissingChunk, match="missing='fill'"):
        open_source(folder)[:]
    assert (open_source(folder, missing="fill")[8:, :8, 8:16] == 0).all()
    chunk.write_bytes(whole[:30])
    with pytest.raises(SourceError, match="raw cannot be read") as caught:
        open_source(folder)[:]
    assert not isinstance(caught.value, MissingChunk)


def test_levels_of_cosem_share_their_corner(tmp_path: Path) -> None:
    """Translations are of centres: that of 8 nm cells lies 2 nm behind that of 4 nm voxels."""
    group, coarse = tmp_path / "em.n5", ARRAY[::2, ::2, ::2]
    for name, array, size, start in (("s0", ARRAY, 4, 40), ("s1", coarse, 8, 42)):
        transform = {"axes": ["z", "y", "x"], "scale": [size] * 3, "translate": [start] * 3, "units": ["nm"] * 3}
        n5(group / name, array, transform=transform)
    for level, offset in ((0, 10), (1, 5)):
        source = open_source(group, level=level)
        assert (source.offset["z"], source.voxel_size["z"] * source.offset["z"]) == (offset, 40)
        assert open_source(group / f"s{level}").offset == source.offset


def test_codecs_are_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r'compression.type = "lz4".* is not registered'):
        open_source(n5(tmp_path / "raw", compression={"type": "lz4", "blockSize": 65536}))


WRONG_PLACES = [
    {"n5": "5.0.0"},
    {"transform": "identity"},
    {"transform": {"axes": ["z", "y", "t"], "scale": [4, 4, 4]}},
    {"pixelResolution": [4, 4, 4], "downsamplingFactors": [2, 2]},
    {"pixelResolution": [4, 4, 4], "downsamplingFactors": "2"},
    {"resolution": [4, 4, 4], "units": ["nm", "nm"]},
]


@pytest.mark.parametrize("change", WRONG_PLACES)
def test_places_that_are_not_understood(tmp_path: Path, change: dict[str, Any]) -> None:
    with pytest.raises(SourceError, match=r"version|cannot be understood|attribute units"):
        open_source(n5(tmp_path / "raw", **change))


@pytest.mark.parametrize(
    "change", [{"dataType": "complex64"}, {"dimensions": [3]}, {"blockSize": "big"}, {"axes": ["a", "b", "c"]}]
)
def test_attributes_that_are_wrong(tmp_path: Path, change: dict[str, Any]) -> None:
    with pytest.raises(SourceError):
        open_source(n5(tmp_path / "raw", **change))


def test_a_prefix_chooses(tmp_path: Path) -> None:
    zarr = pytest.importorskip("zarr")
    n5(tmp_path / "raw")
    zarr.create_array(str(tmp_path / "raw"), shape=(4, 4), dtype="u1", zarr_format=2)
    with pytest.raises(SourceError, match="n5://"):
        open_source(tmp_path / "raw")
    assert_same(open_source(f"n5://{tmp_path / 'raw'}"), ARRAY)
