"""What zarr's metadata means: fill values, keys of chunks, codecs, numbers packed by xarray, coordinates, archives."""

from __future__ import annotations

import gzip
import json
import subprocess
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pytest
import xarray as xr

import chunkinfer as ci
from chunkinfer.errors import AmbiguousSource, DestinationError, MissingChunk, SourceError
from chunkinfer.volumes.arrays.create import ArraySpec, create
from chunkinfer.volumes.arrays.open import open_source

zarr = pytest.importorskip("zarr")
numcodecs = pytest.importorskip("numcodecs")

pytestmark = [
    pytest.mark.filterwarnings("ignore:Consolidated metadata"),
    pytest.mark.filterwarnings("ignore:Failed to open Zarr store with consolidated"),
]

ARRAY = np.random.default_rng(0).integers(1, 200, (6, 7, 8), dtype="u1")


def stored(folder: Path, version: int, dtype: str = "u1", **options: Any) -> Path:
    z = zarr.create_array(
        str(folder), shape=ARRAY.shape, chunks=(3, 4, 5), dtype=dtype, zarr_format=version, **options
    )  # fmt: skip
    z[...] = ARRAY
    return folder


def changed(folder: Path, **members: Any) -> Path:
    path = next(path for path in (folder / ".zarray", folder / "zarr.json") if path.exists())
    path.write_text(json.dumps({**json.loads(path.read_text()), **members}))
    return folder


# Fill values, as other writers have them


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("fill", [np.nan, np.inf, -np.inf])
def test_numbers_that_json_lacks(tmp_path: Path, version: int, fill: float) -> None:
    """zarr-python 3.0 wrote NaN without quotation marks, as Python's json does."""
    folder = changed(stored(tmp_path / "a", version, "f4"), fill_value=fill)
    next(folder.glob("c/0/0/0" if version == 3 else "0.0.0")).unlink()
    with pytest.raises(MissingChunk):
        open_source(folder)[...]
    expected = ARRAY.astype("f4")
    expected[:3, :4, :5] = fill
    np.testing.assert_array_equal(open_source(folder, missing="fill")[...], expected)


def test_nan_in_attributes_of_version_3(tmp_path: Path) -> None:
    folder = stored(tmp_path / "a", 3, attributes={"nodata": float("nan"), "voxel_size": [4, 2, 2]})
    source = open_source(folder)
    assert source.voxel_size["z"] == 4
    np.testing.assert_array_equal(source[...], ARRAY)


@pytest.mark.parametrize(("version", "fill"), [(2, -1), (2, ""), (2, 300), (3, None), (3, -1), (3, "NaN")])
def test_fill_values_that_no_voxel_can_have(tmp_path: Path, version: int, fill: Any) -> None:
    folder = changed(stored(tmp_path / "a", version), fill_value=fill)
    with pytest.raises(SourceError, match=r"fill_value = .*\n.*fill value is a number"):
        open_source(folder)
    np.testing.assert_array_equal(open_source(changed(folder, fill_value=0))[...], ARRAY)  # as advised


# Keys of chunks


def test_nested_chunks_that_nobody_told_of(tmp_path: Path) -> None:
    folder = stored(tmp_path / "a", 2, chunk_key_encoding={"name": "v2", "separator": "/"})
    meta = json.loads((folder / ".zarray").read_text())
    del meta["dimension_separator"]
    (folder / ".zarray").write_text(json.dumps(meta))
    for missing in ("error", "fill"):
        np.testing.assert_array_equal(open_source(folder, missing=missing)[...], ARRAY)


@pytest.mark.parametrize(("real", "stated"), [("/", "."), (".", "/")])
def test_keys_that_contradict_the_metadata(tmp_path: Path, real: str, stated: str) -> None:
    folder = stored(tmp_path / "a", 2, chunk_key_encoding={"name": "v2", "separator": real})
    changed(folder, dimension_separator=stated)
    with pytest.raises(SourceError, match="separator"):
        open_source(folder, missing="fill")
    np.testing.assert_array_equal(open_source(changed(folder, dimension_separator=real))[...], ARRAY)  # as advised


# Codecs


def copied(error: SourceError, folder: Path) -> Path:
    """What the line of an error makes."""
    line = next(way for way in error.ways if "zarr.open_array" in way)
    code = line[line.index("a = zarr") :].replace("copy.zarr", str(folder / "copy.zarr"))
    exec(code, {"zarr": zarr})
    return folder / "copy.zarr"


ENCODED = [
    {"compressors": numcodecs.LZ4()},
    {"filters": [numcodecs.Delta(dtype="u1")]},
]


@pytest.mark.parametrize("options", ENCODED)
def test_codecs_of_version_2_are_named(tmp_path: Path, options: dict[str, Any]) -> None:
    folder = stored(tmp_path / "a", 2, **options, attributes={"voxel_size": [4, 2, 2]})
    with pytest.raises(SourceError, match=r"encoded by (lz4|delta)") as caught:
        open_source(folder)
    source = open_source(copied(caught.value, tmp_path))
    assert source.voxel_size["z"] == 4
    np.testing.assert_array_equal(source[...], ARRAY)


@pytest.mark.parametrize("name", ["zfpy", "numcodecs.delta"])
def test_codecs_of_version_3_are_named(tmp_path: Path, name: str) -> None:
    folder = stored(tmp_path / "a", 3)
    codecs = json.loads((folder / "zarr.json").read_text())["codecs"]
    with pytest.raises(SourceError, match=rf"codecs\.2\.name = .*{name}.* is not registered\n.*compression or filter"):
        open_source(changed(folder, codecs=[*codecs, {"name": name, "configuration": {}}]))


def test_bytes_behind_the_end_of_a_chunk(tmp_path: Path) -> None:
    """z5py wrote them, and numcodecs does not mind."""
    folder = stored(tmp_path / "a", 2, compressors=numcodecs.Blosc("lz4"))
    for chunk in folder.glob("[0-9]*"):
        chunk.write_bytes(chunk.read_bytes() + bytes(16))
    with pytest.raises(SourceError, match="bytes behind its end") as caught:
        open_source(folder)[...]
    np.testing.assert_array_equal(open_source(copied(caught.value, tmp_path))[...], ARRAY)


@pytest.mark.parametrize("version", [2, 3])
def test_a_store_that_was_zipped(tmp_path: Path, version: int) -> None:
    folder = stored(tmp_path / "a", version)
    for path in folder.rglob("*"):
        if path.is_file() and path.name != "0.1.1":
            path.write_bytes(gzip.compress(path.read_bytes()))
    with pytest.raises(SourceError, match="compressed by gzip") as caught:
        open_source(folder)
    subprocess.run(caught.value.ways[0].partition(": ")[2], shell=True, check=False, stderr=subprocess.DEVNULL)
    np.testing.assert_array_equal(open_source(folder)[...], ARRAY)


# What xarray stores

VALUES = np.random.default_rng(0).random((6, 7, 8)).astype("f4")
POSITIONS = {"z": np.arange(6) * 40.0 + 400, "y": np.arange(7) * 4.0, "x": np.arange(8) * 4.0 - 8}


def dataset(folder: Path, version: int, values: Any = VALUES, encoding: Any = None, **coords: Any) -> Path:
    made = xr.Dataset({"em": (("z", "y", "x"), values)}, coords={**POSITIONS, **coords})
    made.to_zarr(folder, zarr_format=version, encoding={"em": encoding} if encoding else None)
    return folder


PACKED = [
    {"dtype": "i2", "scale_factor": 0.01, "_FillValue": -32768},
    {"dtype": "i2", "add_offset": 5.0, "scale_factor": 0.01, "_FillValue": -1},
    {"dtype": "f4", "missing_value": 0.5},
]


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("encoding", PACKED)
def test_packed_numbers_are_not_taken_for_values(tmp_path: Path, version: int, encoding: dict[str, Any]) -> None:
    folder = dataset(tmp_path / "d.zarr", version, encoding=encoding)
    with pytest.raises(SourceError, match=r"not its values: .*(scale_factor|missing_value)") as caught:
        ci.open_volume(folder)
    lines = [way.partition(": ")[2] for way in caught.value.ways]
    values, numbers = (eval(line, {"xarray": xr}) for line in lines)
    np.testing.assert_allclose(values, VALUES, atol=0.1)
    assert numbers.dtype == encoding["dtype"]
    assert ci.operators.cast(values.fillna(0), "float64").z[0] == 400


def test_missing_values_of_version_2(tmp_path: Path) -> None:
    """There xarray keeps _FillValue as the fill value."""
    folder = dataset(tmp_path / "d.zarr", 2, values=ARRAY.astype("i2"), encoding={"_FillValue": 7})
    with pytest.raises(SourceError, match="fill_value = 7"):
        open_source(folder)


def test_a_chunk_larger_than_the_memory(tmp_path: Path) -> None:
    """tensorstore would end the process."""
    folder = stored(tmp_path / "a", 2)
    changed(folder, chunks=[3, 4, 2**45])
    with pytest.raises(SourceError, match="GiB of memory"):
        open_source(folder)[...]


@pytest.mark.parametrize("version", [2, 3])
def test_groups_of_unknown_versions(tmp_path: Path, version: int) -> None:
    zarr.open_group(str(tmp_path / "g"), mode="w", zarr_format=version).create_array("a", shape=(4, 4), dtype="u1")
    path = tmp_path / "g" / (".zgroup" if version == 2 else "zarr.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), "zarr_format": 4}))
    with pytest.raises(SourceError, match="zarr_format = 4"):
        open_source(tmp_path / "g")
    assert open_source(tmp_path / "g" / "a").shape == (4, 4)


def test_packed_numbers_without_a_group(tmp_path: Path) -> None:
    attributes = {"scale_factor": 0.5, "add_offset": 3, "_FillValue": int(ARRAY[0, 0, 0])}
    folder = stored(tmp_path / "a", 3, attributes=attributes)
    with pytest.raises(SourceError, match=r"scale_factor = 0.5, add_offset = 3, _FillValue") as caught:
        open_source(folder)
    values, numbers = (eval(way.partition(": ")[2], {"dask": __import__("dask")}) for way in caught.value.ways)
    np.testing.assert_array_equal(values, np.where(ARRAY[0, 0, 0] == ARRAY, np.nan, ARRAY * 0.5 + 3))
    assert isinstance(numbers, da.Array)


@pytest.mark.parametrize("version", [2, 3])
def test_a_dataset_is_its_only_volume(tmp_path: Path, version: int) -> None:
    volume = ci.open_volume(dataset(tmp_path / "d.zarr", version))
    np.testing.assert_array_equal(volume, VALUES)
    for dim, positions in POSITIONS.items():
        np.testing.assert_array_equal(volume[dim], positions)


def test_a_dataset_of_several_volumes_offers_no_coordinates(tmp_path: Path) -> None:
    made = xr.Dataset(dict.fromkeys(("em", "labels"), (("z", "y", "x"), VALUES)), coords=POSITIONS)
    made.to_zarr(tmp_path / "d.zarr", zarr_format=2, consolidated=False)
    with pytest.raises(AmbiguousSource, match="2 arrays: em, labels") as caught:
        open_source(tmp_path / "d.zarr")
    assert all("em" in way or "labels" in way for way in caught.value.ways)


CUTS = [{}, {"z": slice(2, 5), "x": slice(3, 8)}, {"z": slice(2, 3)}, {"y": slice(0, 1), "x": slice(0, 1)}]


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("unit", ["nm", "um", ""])
def test_our_volumes_through_xarray_and_back(tmp_path: Path, version: int, cut: dict[str, slice], unit: str) -> None:
    create(
        tmp_path / "a.zarr",
        ArraySpec(
            shape=ARRAY.shape,
            dtype="u1",
            dims="zyx",
            unit=unit,
            voxel_size={"z": 0.3, "y": 0.1, "x": 0.1},
            offset={"z": 10, "y": -3, "x": 2.5},
        ),
    ).write((slice(None),) * 3, ARRAY)
    volume = ci.open_volume(tmp_path / "a.zarr").isel(cut)
    volume.to_dataset(name="em").to_zarr(tmp_path / "d.zarr", zarr_format=version)
    again = ci.open_volume(tmp_path / "d.zarr")
    np.testing.assert_array_equal(again, volume)
    assert again.attrs["voxel_size"] == pytest.approx(volume.attrs["voxel_size"])
    assert again.attrs.get("unit", "") == unit
    for dim in "zyx":
        np.testing.assert_allclose(again[dim], volume[dim], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("positions", [[0, 4, 8, 12, 16, 24], [20, 16, 12, 8, 4, 0], [0, 0, 0, 0, 0, 0]])
def test_positions_that_are_no_grid(tmp_path: Path, positions: list[float]) -> None:
    folder = dataset(tmp_path / "d.zarr", 3, z=np.array(positions, float))
    with pytest.raises(SourceError, match="coordinates of axis z") as caught:
        open_source(folder)
    volume = eval(caught.value.ways[0].partition(": ")[2], {"xarray": xr})
    assert "z" not in volume.coords
    np.testing.assert_array_equal(volume, VALUES)


def test_arrays_that_are_no_coordinates(tmp_path: Path) -> None:
    root = zarr.open_group(str(tmp_path / "g"), mode="w")
    root.create_array("em", shape=(4, 4, 4), dtype="u1", dimension_names="zyx")
    root.create_array("z", shape=(5,), dtype="f4")
    root.create_array("y", shape=(4, 4), dtype="f4")
    assert open_source(tmp_path / "g", array="em").voxel_size == {"z": 1.0, "y": 1.0, "x": 1.0}


# Archives


@pytest.mark.parametrize("suffix", [".zarr.zip", ".ozx"])
def test_archives(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    with zarr.storage.ZipStore(str(path), mode="w") as store:
        zarr.open_group(store=store, mode="w").create_array(
            "volumes/raw", shape=ARRAY.shape, chunks=(3, 4, 5), dtype="u1", attributes={"voxel_size": [4, 2, 2]}
        )[...] = ARRAY  # fmt: skip
    for url in (path, path / "volumes" / "raw", f"file://{path}/volumes"):
        source = open_source(url)
        assert source.voxel_size["z"] == 4
        np.testing.assert_array_equal(source[...], ARRAY)
    assert "volumes/raw" in str(ci.info(path))
    with pytest.raises(DestinationError, match="can only be read"):
        create(path / "new", ArraySpec(shape=(4, 4), dtype="u1", dims="yx"))
