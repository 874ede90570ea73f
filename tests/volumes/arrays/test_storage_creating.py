"""Creating, overwriting and writing: what other tools read, and what is refused before any work."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chunkinfer.errors import DestinationError, SourceError, SourceNotFound
from chunkinfer.stores.files import Files
from chunkinfer.stores.urls import locate
from chunkinfer.volumes.arrays.create import ArraySpec, create, guess_format, open_destination, write_unit
from chunkinfer.volumes.arrays.open import open_source
from tests.lib.storage.crashing import a_crash_after
from tests.lib.storage.filling import fill

zarr = pytest.importorskip("zarr")

ARRAY = np.random.default_rng(0).integers(0, 255, (20, 24, 28), dtype="u1")
MADE: dict[str, Any] = {"shape": ARRAY.shape, "dtype": "u1", "dims": "zyx", "chunks": (8, 8, 8)}


def files_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.mark.parametrize(("format", "shards"), [("zarr2", None), ("zarr3", None), ("zarr3", (16, 16, 16))])
@pytest.mark.parametrize("dtype", ["u1", "f4", "f2", "bool"])
def test_zarr_python_reads_what_is_written(tmp_path: Path, format: str, shards: Any, dtype: str) -> None:
    array = ARRAY.astype(dtype)
    place: dict[str, Any] = {"voxel_size": {"z": 40, "y": 4, "x": 4}, "unit": "nm", "offset": {"z": -3}}
    out = create(tmp_path / "o", ArraySpec(format=format, **{**MADE, "dtype": dtype}, shards=shards, **place))
    fill(out, array)
    z = zarr.open_array(str(tmp_path / "o"), mode="r")
    np.testing.assert_array_equal(z[:], array)
    assert (z.chunks, z.shards) == ((8, 8, 8), shards)
    assert z.attrs["chunkinfer"] == {
        "voxel_size": {"z": 40.0, "y": 4.0, "x": 4.0}, "unit": "nm", "offset": {"z": -3, "y": 0, "x": 0},
    }  # fmt: skip
    if format == "zarr3":
        assert z.metadata.dimension_names == ("z", "y", "x")
        assert z.attrs["dimension_units"] == ["40 nm", "4 nm", "4 nm"]
    else:
        assert z.attrs["_ARRAY_DIMENSIONS"] == ["z", "y", "x"]


FORMATS = [
    ("out", None, "zarr3", "the default"),
    ("out.zarr", None, "zarr3", "the default"),
    ("out.precomputed", None, "precomputed", "by suffix"),
    ("out.precomputed/", None, "precomputed", "a slash changes nothing"),
    ("precomputed://s3://bucket/out", None, "precomputed", "by prefix"),
    ("zarr2://out", None, "zarr2", "by prefix"),
    ("zarr://out", None, "zarr3", "either version: the newer"),
    ("out.precomputed", "zarr2", "zarr2", "format= wins"),
]


@pytest.mark.parametrize(("url", "format", "expected", "why"), FORMATS)
def test_formats(url: str, format: str | None, expected: str, why: str) -> None:
    assert guess_format(url, format) == expected


def test_default_chunks(tmp_path: Path) -> None:
    out = create(tmp_path / "o", ArraySpec(shape=(5, 3, 100, 20, 100), dtype="u1", dims="tczyx"))
    assert out.chunks == out.shards == (1, 3, 64, 20, 64)


REFUSED = [
    ({"format": "hdf5"}, "zarr3, zarr2, precomputed"),
    ({"dims": "xyz"}, "in that order"),
    ({"dims": "zy"}, "3 positive|2 positive"),
    ({"dims": ("x",), "shape": (3,)}, "two to five"),
    ({"chunks": (8, 8)}, "3 positive"),
    ({"chunks": (8, 8, 0)}, "3 positive"),
    ({"shape": (8, 8, 0)}, "3 positive"),
    ({"shards": (16, 16, 12)}, r"shards=\(16, 16, 16\)"),
    ({"format": "zarr2", "shards": (16, 16, 16)}, "zarr2 has no shards"),
    ({"dtype": "complex64"}, "float16, float32"),
    ({"dtype": "<U3"}, "float16, float32"),
    ({"compression": "lzma"}, "zstd, blosc"),
    ({"encoding": "jpeg"}, "compression"),
    ({"voxel_size": {"x": 0}}, "positive"),
]


@pytest.mark.parametrize(("change", "message"), REFUSED)
def test_what_cannot_be_created(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(DestinationError, match=message):
        create(tmp_path / "o", ArraySpec(**{**MADE, **change}))
    assert not (tmp_path / "o").exists()


# What is there already


@pytest.mark.parametrize("old", ["zarr2", "zarr3", "precomputed"])
@pytest.mark.parametrize("new", ["zarr2", "zarr3", "precomputed"])
def test_overwriting_an_array_deletes_it_and_nothing_else(tmp_path: Path, old: str, new: str) -> None:
    fill(create(tmp_path / "o", ArraySpec(format=old, **MADE)), ARRAY)
    Files(tmp_path / "o").write("ledger/1", b"done")
    (tmp_path / "o" / "notes.txt").write_text("mine")
    (tmp_path / "o" / "mesh").mkdir()
    (tmp_path / "o" / "mesh" / "1").write_text("mine too")
    with pytest.raises(DestinationError, match="overwrite=True"):
        create(tmp_path / "o", ArraySpec(format=new, **MADE))
    np.testing.assert_array_equal(open_source(tmp_path / "o")[:], ARRAY)
    create(tmp_path / "o", ArraySpec(format=new, **MADE), overwrite=True)
    metadata = {"zarr2": [".zarray", ".zattrs"], "zarr3": ["zarr.json"], "precomputed": ["info"]}[new]
    left = [name for name in files_in(tmp_path / "o") if name != ".chunkinfer"]
    assert left == sorted([*metadata, "notes.txt", "mesh", "mesh/1"])
    assert Files(tmp_path / "o").list() == []


def test_what_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").write_text("years")
    zarr.open_group(str(tmp_path / "group"), mode="w").create_array("a", shape=(4, 4), dtype="u1")
    zarr.open_group(str(tmp_path / "group2"), mode="w", zarr_format=2).create_array("a", shape=(4, 4), dtype="u1")
    (tmp_path / "file").write_text("a file")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "info").write_text("{")
    (tmp_path / "mesh").mkdir()
    (tmp_path / "mesh" / "info").write_text('{"@type": "neuroglancer_legacy_mesh"}')
    before = files_in(tmp_path)
    for name, message in {
        "home": "not empty", "group": "is a group", "group2": "is a group", "file": "is a file",
        "broken": "damaged", "mesh": "not that of an array",
    }.items():  # fmt: skip
        with pytest.raises(DestinationError, match=message):
            create(tmp_path / name, ArraySpec(**MADE), overwrite=True)
    with pytest.raises(DestinationError, match="not empty"):
        create(tmp_path, ArraySpec(**MADE), overwrite=True)
    assert files_in(tmp_path) == before


def test_scale_keys_do_not_lead_elsewhere(tmp_path: Path) -> None:
    create(tmp_path / "v", ArraySpec(format="precomputed", **MADE))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").write_text("mine")
    info = json.loads((tmp_path / "v" / "info").read_text())
    info["scales"][0]["key"] = "../other"
    (tmp_path / "v" / "info").write_text(json.dumps(info))
    with pytest.raises(SourceError, match=r"\.\./other"):
        create(tmp_path / "v", ArraySpec(format="precomputed", **MADE), overwrite=True)
    assert (tmp_path / "other" / "file").exists()


def test_places_that_cannot_be_written() -> None:
    with pytest.raises(DestinationError, match="cannot be created"):
        create("/proc/chunkinfer/o", ArraySpec(**MADE))
    with pytest.raises(DestinationError, match="cannot be created"):
        create("/dev/null/o", ArraySpec(**MADE))


# Writing


@pytest.mark.parametrize("sharded", [False, True])
def test_only_whole_units_are_written(tmp_path: Path, sharded: bool) -> None:
    out = create(tmp_path / "o", ArraySpec(**MADE, shards=(16, 16, 16) if sharded else None))
    unit = 16 if sharded else 8
    assert out.shards == (unit,) * 3
    block = np.zeros((unit,) * 3, "u1")
    whole = (slice(0, unit),) * 3
    assert out.write(whole, block) == unit**3
    refused = [
        ((slice(1, unit + 1), *whole[1:]), block, rf"whole: 0:{min(20, 2 * unit)}"),
        ((slice(0, unit - 1), *whole[1:]), block[:-1], rf"whole: 0:{unit}"),
        (whole[1:], block, "2 axes"),
        ((slice(16, 32), *whole[1:]), block, "not inside"),
        ((slice(0, 0), *whole[1:]), block[:0], "not inside"),
        (whole, block[1:], "does not fit"),
        (whole, block.astype("f4"), "does not fit"),
    ]
    for box, array, message in refused:
        with pytest.raises(DestinationError, match=message):
            out.write(box, array)
    # The far edge cuts the last unit.
    out.write((slice(16, 20), slice(0, 24), slice(16, 28)), np.ones((4, 24, 12), "u1"))
    assert out.read((slice(16, 20), slice(0, 24), slice(16, 28))).all()


def test_any_memory_layout_is_written(tmp_path: Path) -> None:
    out = create(tmp_path / "o", ArraySpec(**MADE))
    out.write((slice(0, 20), slice(0, 24), slice(0, 28)), np.asfortranarray(ARRAY))
    np.testing.assert_array_equal(out[:], ARRAY)


def test_resuming(tmp_path: Path) -> None:
    with pytest.raises(SourceNotFound):
        open_destination(tmp_path / "o")
    create(tmp_path / "o", ArraySpec(**MADE)).write((slice(0, 8),) * 3, ARRAY[:8, :8, :8])
    again = open_destination(tmp_path / "o")
    again.write((slice(8, 16), slice(0, 8), slice(0, 8)), ARRAY[8:16, :8, :8])
    np.testing.assert_array_equal(again[:16, :8, :8], ARRAY[:16, :8, :8])
    np.save(tmp_path / "a.npy", ARRAY)
    with pytest.raises(DestinationError, match="only be read"):
        open_destination(tmp_path / "a.npy")


def test_write_unit() -> None:
    made: dict[str, Any] = {"shape": (3, 1000, 1000, 1000), "dims": "czyx", "chunks": (3, 64, 64, 64)}
    assert write_unit("o", **made) == (3, 64, 64, 64)
    assert write_unit("o", **made, shards=(3, 100, 64, 64)) == (3, 128, 64, 64)
    assert write_unit("o.precomputed", **made) == (3, 64, 64, 64)
    assert write_unit("o.precomputed", **made, shards=(3, 500, 500, 500)) == (3, 512, 512, 512)
    assert write_unit("o.precomputed", **made, shards=(3, 64, 128, 128)) == (3, 64, 128, 128)


# Files and URLs


def test_files(tmp_path: Path) -> None:
    files = Files(tmp_path / "o", ".chunkinfer/run")
    assert files.list() == []
    assert files.read("blocks/1") is None
    files.write("blocks/1", b"a")
    files.write("blocks/1", b"ab")
    files.write("plan.json", b"{}")
    assert files.list() == ["blocks/1", "plan.json"]
    assert files.read("blocks/1") == b"ab"
    assert (tmp_path / "o" / ".chunkinfer" / "run" / "plan.json").read_bytes() == b"{}"
    files.delete("plan.json")
    files.delete("plan.json")
    assert files.list() == ["blocks/1"]
    for name in ("../x", "", "a/../../x", "a//b"):
        with pytest.raises(SourceError):
            files.write(name, b"")


def test_urls(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    rows = [
        ("a/b/../c", {"driver": "file", "path": f"{tmp_path}/a/c/"}, "relative"),
        (f"file://{tmp_path}/a%20b", {"driver": "file", "path": f"{tmp_path}/a b/"}, "percent"),
        ("s3://bucket/a/b/", {"driver": "s3", "bucket": "bucket", "path": "a/b/"}, "trailing slash"),
        ("s3://bucket", {"driver": "s3", "bucket": "bucket", "path": ""}, "the bucket itself"),
        ("precomputed://gs://bucket/a", {"driver": "gcs", "bucket": "bucket", "path": "a/"}, "prefix"),
        ("https://host:8000/a", {"driver": "http", "base_url": "https://host:8000", "path": "/a/"}, "http"),
    ]
    for url, spec, why in rows:
        assert locate(url).kvstore == spec, why
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://localhost:9000/")
    assert locate("s3://bucket/a").kvstore["endpoint"] == "http://localhost:9000"
    assert locate("s3://bucket/a").kvstore["aws_region"] == "us-east-1"


@pytest.mark.parametrize(
    "url", ["s3://key:hunter2@bucket/a", "https://host/a?token=hunter2", "ftp://me:hunter2@host/a"]
)
def test_credentials_in_urls_are_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(SourceError) as caught:
        locate(url)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("format", ["zarr3", "zarr2", "precomputed"])
@pytest.mark.parametrize("after", [0, 1, 2, 4, 20, 29])
def test_a_deletion_that_a_crash_cut_short_is_finished(tmp_path: Path, format: str, after: int) -> None:
    url = tmp_path / "o"
    fill(create(url, ArraySpec(format=format, **MADE)), ARRAY)
    Files(url).write("lease.json", b"mine")
    with a_crash_after(after):
        create(url, ArraySpec(format=format, **MADE), overwrite=True)
    assert Files(url).read("lease.json") == b"mine"
    create(url, ArraySpec(format=format, **MADE), overwrite=True)
    assert Files(url).read("lease.json") == b"mine"
    left_over = [name for name in files_in(url) if (url / name).is_file()]
    metadata = {"zarr3": ["zarr.json"], "zarr2": [".zarray", ".zattrs"], "precomputed": ["info"]}[format]
    assert left_over == [".chunkinfer/lease.json", *metadata]
