"""What is written here is read by other tools, and the reverse: voxels, shape, data type, voxel size, offset, channels.

benchmarks/interoperability.py does the same with more tools, and in a browser.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from distributed import Client

import chunkinfer as ci
from chunkinfer.errors import MissingChunk, MissingExtra, SourceError
from chunkinfer.volumes.arrays.create import ArraySpec, create
from tests.lib.exchange import foreign
from tests.lib.exchange.cases import ROWS, Row, about, array_of, differences, expected, read_here, write
from tests.lib.exchange.page import page

Stores = Callable[[str, int], Path]


@pytest.fixture(scope="module", autouse=True)
def _client() -> Iterator[None]:
    """One for all that is saved."""
    with Client(processes=False, threads_per_worker=1, dashboard_address="127.0.0.1:0"):
        yield


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Stores:
    """Written when they are first asked for."""
    folder, made = tmp_path_factory.mktemp("stores"), {}

    def store(name: str, channels: int) -> Path:
        path = made.get((name, channels))
        if path is None:
            path = made[name, channels] = folder / f"store{len(made)}"
            write(ROWS[name], channels, path)
        return path

    return store


def wanted(row: Row, channels: int, path: Path, level: int) -> dict[str, Any]:
    """The level's voxels are those that pyramids/ compares with an oracle; the finest are the ones that were saved."""
    values = read_here(path, level)["values"] if level or row.tolerance else array_of(row, channels)
    return expected(row, channels, level, values)


READS = [
    (tool, name, channels)
    for tool in ("tensorstore", "zarr", "cloud-volume")
    for name, row in ROWS.items()
    for channels in row.channels
    if {"zarr": "zarr" in row.format, "cloud-volume": row.format == "precomputed"}.get(tool, True)
]


@pytest.mark.parametrize(("tool", "name", "channels"), READS)
def test_written_here_read_there(stores: Stores, tool: str, name: str, channels: int) -> None:
    pytest.importorskip(tool.replace("-", ""))
    row, path = ROWS[name], stores(name, channels)
    for level in range(row.levels):
        told = foreign.READERS[tool](path, row.format, level)
        assert differences(told, wanted(row, channels, path, level), row.tolerance) == {}
    assert {"values"} <= set(told)


@pytest.mark.parametrize(("name", "channels"), [(n, c) for n, row in ROWS.items() for c in row.channels])
def test_written_here_read_here(stores: Stores, name: str, channels: int) -> None:
    row, path = ROWS[name], stores(name, channels)
    for level in range(row.levels):
        told = read_here(path, level)
        assert differences(told, wanted(row, channels, path, level), row.tolerance) == {}
        assert ("channels" in told) == (channels == 2)


WRITES = [
    (tool, name, channels)
    for tool in ("tensorstore", "zarr", "cloud-volume")
    for name, row in ROWS.items()
    for channels in row.channels
    if row.format in {"zarr": ("zarr2", "zarr3"), "cloud-volume": ("precomputed",)}.get(tool, foreign.DRIVERS)
    and "ome" not in row.format
]
FILES = [
    ("tifffile", "v.ome.tif", 1), ("tifffile", "v.ome.tif", 2), ("h5py", "v.h5", 2), ("nibabel", "v.nii", 1),
    ("nibabel", "v.nii.gz", 2), ("mrcfile", "v.mrc", 1), ("numpy", "v.npy", 2), ("pillow", "sections", 1),
]  # fmt: skip


@pytest.mark.parametrize(("tool", "name", "channels"), WRITES)
def test_written_there_read_here(tmp_path: Path, tool: str, name: str, channels: int) -> None:
    pytest.importorskip(tool.replace("-", ""))
    row, levels = ROWS[name], ROWS[name].levels if tool == "cloud-volume" else 1
    array, path = array_of(row, channels), tmp_path / "v"
    wrote = foreign.WRITERS[tool](path, row.format, array, {**about(row), "levels": levels})
    for level in range(levels):
        told = read_here(path, level, missing="fill")  # tensorstore and zarr leave chunks of zeros out
        array, wrote = (array, wrote) if level == 0 else half(array, wrote)
        assert differences({k: told[k] for k in ("values", *wrote)}, {"values": array, **wrote}, row.tolerance) == {}


def half(array: np.ndarray[Any, Any], wrote: dict[str, Any]) -> tuple[np.ndarray[Any, Any], dict[str, Any]]:
    """The coarser level of precomputed volumes of other tools."""
    size = {d: 2 * n for d, n in wrote["voxel_size"].items()}
    return array[..., ::2, ::2, ::2], {"voxel_size": size, "offset": {d: n // 2 for d, n in wrote["offset"].items()}}


@pytest.mark.parametrize("tool", ["tensorstore", "zarr"])
def test_chunks_of_zeros_that_others_leave_out(tmp_path: Path, tool: str) -> None:
    row = ROWS["zarr 3"]
    foreign.WRITERS[tool](tmp_path / "v", row.format, array_of(row, 1), about(row))
    with pytest.raises(MissingChunk, match="missing='fill'"):
        read_here(tmp_path / "v")


@pytest.mark.parametrize(("tool", "file", "channels"), FILES)
def test_files_of_other_libraries(tmp_path: Path, tool: str, file: str, channels: int) -> None:
    row, path = ROWS["zarr 3"], tmp_path / file
    array = array_of(row, channels)
    wrote = foreign.WRITERS[tool](path, "", array, about(row))
    told = read_here(path)
    assert differences({k: told[k] for k in ("values", *wrote)}, {"values": array, **wrote}) == {}


@pytest.mark.parametrize(
    ("change", "what"), [({"filters": [{"id": "delta"}]}, "delta"), ({"compressor": {"id": "lz4"}}, "lz4")]
)
def test_encodings_of_zarr_python_that_are_not_read(tmp_path: Path, change: dict[str, Any], what: str) -> None:
    foreign.zarr_writes(tmp_path / "v", "zarr2", array_of(ROWS["zarr 2"], 1), about(ROWS["zarr 2"]))
    meta = json.loads((tmp_path / "v" / ".zarray").read_text())
    (tmp_path / "v" / ".zarray").write_text(json.dumps({**meta, **change}))
    with pytest.raises(SourceError, match=f"encoded by {what}"):
        ci.open_volume(tmp_path / "v")


@pytest.mark.parametrize("dims", ["zyx", "czyx"])
def test_n5_in_the_words_of_each_reader(tmp_path: Path, dims: str) -> None:
    """Neuroglancer and tensorstore: axes, units, resolution, no angstrom; Fiji: pixelResolution, first axis first."""
    shape = (2, 5, 6, 7)[-len(dims) :]
    place: dict[str, Any] = {"voxel_size": {"z": 25, "y": 2.5, "x": 5}, "offset": {"z": -3}}
    create(tmp_path / "v", ArraySpec(format="n5", shape=shape, dtype="u1", dims=dims, unit="angstrom", **place))
    meta = json.loads((tmp_path / "v" / "attributes.json").read_text())
    rest = [1.0] * (len(dims) - 3)
    assert meta["pixelResolution"] == {"dimensions": [0.5, 0.25, 2.5, *rest], "unit": "nm"}
    assert (meta["resolution"], meta["units"][:3]) == ([0.5, 0.25, 2.5, *rest], ["nm"] * 3)
    told = ci.open_volume(tmp_path / "v", missing="fill")
    assert (told.attrs["voxel_size"], told.attrs["unit"], float(told.z[0])) == (
        {"z": 2.5, "y": 0.25, "x": 0.5},
        "nm",
        -7.5,
    )
    create(tmp_path / "w", ArraySpec(format="n5", shape=shape, dtype="u1", dims=dims))
    assert "pixelResolution" not in json.loads((tmp_path / "w" / "attributes.json").read_text())


def test_cloud_volume_reads_where_a_volume_comes_from(tmp_path: Path) -> None:
    pytest.importorskip("cloudvolume")
    made_by = {"provenance": {"input": {"url": "gs://bucket/em"}, "steps": ["normalize"]}}
    out = create(
        tmp_path / "v", ArraySpec(format="precomputed", shape=(8, 8, 8), dtype="u1", dims="zyx", attributes=made_by)
    )
    out.write((slice(0, 8),) * 3, np.ones((8, 8, 8), "u1"))
    told = foreign.cloud_volume_reads(tmp_path / "v", "precomputed", 0)
    assert told["made_by"] == ["chunkinfer"]


FAMILIES = [
    ("yx", "u1", "um"),
    ("cyx", "f4", "nm"),
    ("tczyx", "u2", "angstrom"),
    ("tyx", "bool", "mm"),
    ("zyx", "u8", ""),
]


@pytest.mark.parametrize("format", ["ome-zarr", "ome-zarr-0.4"])
@pytest.mark.parametrize(("dims", "dtype", "unit"), FAMILIES)
def test_ome_zarr_is_valid(tmp_path: Path, format: str, dims: str, dtype: str, unit: str) -> None:
    """Structure and metadata, by the rules of the specification, of which no recommendation is missed either."""
    pytest.importorskip("yaozarrs")
    shape = tuple({"t": 3, "c": 2}.get(d, 11) for d in dims)
    out = create(
        tmp_path / "v",
        ArraySpec(
            format=format,
            shape=shape,
            dtype=dtype,
            dims=dims,
            unit=unit,
            chunks=[{"t": 1, "c": 2}.get(d, 4) for d in dims],
            voxel_size={d: 2.5 for d in dims if d in "zyx"},
            attributes={"channel_names": ["a", "b"]} if "c" in dims else None,
        ),
    )
    out.write(tuple(slice(0, n) for n in shape), np.ones(shape, dtype))
    ci.pyramid(tmp_path / "v", levels=1, progress=False)
    assert foreign.yaozarrs_validates(tmp_path / "v", format, 0) == {}


@pytest.mark.parametrize("format", ["ome-zarr", "ome-zarr-0.4"])
def test_the_validator_can_say_no(tmp_path: Path, format: str) -> None:
    yaozarrs = pytest.importorskip("yaozarrs._storage")
    create(tmp_path / "v", ArraySpec(format=format, shape=(8, 8), dtype="u1", dims="yx", unit="um"))
    name = "zarr.json" if format == "ome-zarr" else ".zattrs"
    text = (tmp_path / "v" / name).read_text()
    (tmp_path / "v" / name).write_text(text.replace('"path": "0"', '"path": "1"'))
    with pytest.raises(yaozarrs.StorageValidationError, match="not found"):
        foreign.yaozarrs_validates(tmp_path / "v", format, 0)


@pytest.mark.slow
def test_neuroglancer_reads_what_is_written_here(stores: Stores) -> None:
    """By its own page in a browser, from the URL alone: every voxel of images, and what it draws of segmentations."""
    try:
        with page() as shown:
            for name, row in ROWS.items():
                for channels in row.channels:
                    path = stores(name, channels)
                    for level in range(row.levels):
                        told = shown.read(row, path, level)
                        want = wanted(row, channels, path, level)
                        assert differences(told, want, row.tolerance) == {}, (name, channels, level)
    except MissingExtra as absent:
        pytest.skip(str(absent))
