"""Arrays that others wrote: zarr-python, OME-Zarr, cloud-volume, numpy; and everything that can be wrong with them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chunkinfer.errors import AmbiguousSource, MissingChunk, SourceError, SourceNotFound
from chunkinfer.volumes.arrays.create import ArraySpec, create
from chunkinfer.volumes.arrays.open import open_source
from tests.lib.storage.filling import fill

zarr = pytest.importorskip("zarr")

ARRAY = np.random.default_rng(0).integers(1, 255, (20, 24, 28), dtype="u1")


@pytest.mark.parametrize(
    ("version", "shards", "dtype"),
    [(2, None, ">u2"), (3, None, "<f4"), (3, (16, 16, 16), "u1"), (2, None, "bool"), (3, None, "f8")],
)
def test_reads_what_zarr_python_writes(tmp_path: Path, version: int, shards: Any, dtype: str) -> None:
    array = ARRAY.astype(dtype)
    z = zarr.create_array(
        str(tmp_path / "a"), shape=array.shape, dtype=dtype, chunks=(8, 8, 8), shards=shards, zarr_format=version
    )
    z[:] = array
    z.attrs["channel_names"] = ["raw"]
    source = open_source(tmp_path / "a")
    assert source.chunks == (8, 8, 8)
    assert source.shards == (shards or (8, 8, 8))
    assert source.dtype == np.dtype(dtype).newbyteorder("=")
    assert source.names == {"channel_names": ["raw"]}
    assert (source.unit, source.voxel_size["z"], source.offset["z"]) == ("", 1.0, 0)
    np.testing.assert_array_equal(source[3:, 1:20, 5], array[3:, 1:20, 5])


def v3(folder: Path, shape: tuple[int, ...] = (4, 4, 4), names: Any = None, **attributes: Any) -> Path:
    z = zarr.create_array(str(folder), shape=shape, dtype="u1", chunks=shape, dimension_names=names)
    z[...] = np.arange(np.prod(shape)).reshape(shape).astype("u1")
    z.attrs.update(attributes)
    return folder


AXES = [
    ((2, 3), None, ("y", "x"), "rank 2"),
    ((2, 3, 4), None, ("z", "y", "x"), "rank 3"),
    ((2, 3, 4, 5), None, ("c", "z", "y", "x"), "rank 4"),
    ((2, 3, 4, 5, 6), None, ("t", "c", "z", "y", "x"), "rank 5"),
    ((2, 3, 4), ["t", "y", "x"], ("t", "y", "x"), "names count"),
    ((2, 3, 4), ["dim_0", "dim_1", "dim_2"], ("z", "y", "x"), "xarray's way of not naming"),
    ((2, 3, 4), ["X", "Y", "Channel"], ("c", "y", "x"), "another order is turned"),
]


@pytest.mark.parametrize(("shape", "names", "dims", "why"), AXES)
def test_axes(tmp_path: Path, shape: tuple[int, ...], names: Any, dims: tuple[str, ...], why: str) -> None:
    source = open_source(v3(tmp_path / "a", shape, names))
    assert source.dims == dims
    stored = np.arange(np.prod(shape)).reshape(shape).astype("u1")
    if names and names[0] == "X":
        stored = stored.transpose(2, 1, 0)
    np.testing.assert_array_equal(source[...], stored)


def test_axes_of_version_2(tmp_path: Path) -> None:
    z = zarr.create_array(str(tmp_path / "a"), shape=(2, 3, 4), dtype="u1", chunks=(2, 3, 4), zarr_format=2)
    z.attrs["_ARRAY_DIMENSIONS"] = ["c", "y", "x"]
    assert open_source(tmp_path / "a").dims == ("c", "y", "x")


@pytest.mark.parametrize(("shape", "names"), [((4,), None), ((2, 3), ["lat", "lon"]), ((2, 3), ["x", "x"])])
def test_axes_that_are_no_volume(tmp_path: Path, shape: tuple[int, ...], names: Any) -> None:
    with pytest.raises(SourceError, match=r"axes|rank"):
        open_source(v3(tmp_path / "a", shape, names))


PLACEMENTS = [
    ({"voxel_size": [40, 4, 4], "offset": [400, -8, 0], "units": ["nm"] * 3}, ("nm", 40.0, 10), "funlib, world units"),
    ({"resolution": [40, 4, 4]}, ("", 40.0, 0), "resolution alone"),
    ({"voxel_size": [40, 4]}, ("", 1.0, 0), "ambiguous, so unread"),
    ({"voxel_size": "big"}, ("", 1.0, 0), "no numbers"),
    ({"dimension_units": ["0.04 um", "4 nm", "4 nm"]}, ("nm", 40.0, 0), "mixed units become nm"),
]


@pytest.mark.parametrize(("attributes", "expected", "why"), PLACEMENTS)
def test_placement_of_other_tools(tmp_path: Path, attributes: dict[str, Any], expected: Any, why: str) -> None:
    source = open_source(v3(tmp_path / "a", **attributes))
    unit, size, offset = expected
    assert (source.unit, source.offset["z"]) == (unit, offset)
    assert source.voxel_size["z"] == pytest.approx(size)


# OME-Zarr


def ome(folder: Path, version: int) -> Path:
    axes = [{"name": "c", "type": "channel"}]
    axes += [{"name": dim, "type": "space", "unit": "micrometer"} for dim in "zyx"]
    datasets = []
    group = zarr.open_group(str(folder), mode="w", zarr_format=version)
    for level in range(2):
        factor = 2**level
        shape = (2, 8 // factor, 8 // factor, 8 // factor)
        group.create_array(f"s{level}", shape=shape, dtype="u1", chunks=shape)[...] = level + 1
        transforms = [
            {"type": "scale", "scale": [1, 0.04, 0.004 * factor, 0.004 * factor]},
            {"type": "translation", "translation": [0, 0.4, 0.002 * (factor - 1), -0.008]},
        ]
        datasets.append({"path": f"s{level}", "coordinateTransformations": transforms})
    image = {
        "axes": axes,
        "datasets": datasets,
        "coordinateTransformations": [{"type": "scale", "scale": [1, 1, 2, 2]}],
    }
    block = {"multiscales": [image], "omero": {"channels": [{"label": "actin"}, {"label": "dapi"}]}}
    group.attrs.update(block if version == 2 else {"ome": {"version": "0.5", **block}})
    return folder


@pytest.mark.parametrize("version", [2, 3])
def test_ome_levels(tmp_path: Path, version: int) -> None:
    ome(tmp_path / "o", version)
    fine, coarse = open_source(tmp_path / "o"), open_source(tmp_path / "o", level=1)
    assert fine.dims == ("c", "z", "y", "x")
    assert (fine.shape, coarse.shape) == ((2, 8, 8, 8), (2, 4, 4, 4))
    assert fine.unit == coarse.unit == "um"
    assert fine.voxel_size == pytest.approx({"z": 0.04, "y": 0.008, "x": 0.008})
    assert fine.offset == {"z": 10, "y": 0, "x": -2}
    assert coarse.offset == {"z": 10, "y": 0.25, "x": -1}
    assert fine.names == {"channel_names": ["actin", "dapi"]}
    assert (coarse[...] == 2).all()
    assert open_source(tmp_path / "o", array="s1").shape == coarse.shape
    for level in (2, -1):
        with pytest.raises(SourceError, match="0: s0; 1: s1"):
            open_source(tmp_path / "o", level=level)
    # A folder that holds one image counts as that image.
    shutil.move(tmp_path / "o", tmp_path / "g" / "image")
    zarr.open_group(str(tmp_path / "g"), mode="a", zarr_format=version)
    assert open_source(tmp_path / "g", level=1).shape == coarse.shape


def test_ome_transformations_that_are_not_understood(tmp_path: Path) -> None:
    group = zarr.open_group(str(tmp_path / "o"), mode="w")
    group.create_array("0", shape=(4, 4, 4), dtype="u1")
    step = {"type": "affine", "affine": [[1, 0, 0, 0]]}
    axes = [{"name": dim, "type": "space"} for dim in "zyx"]
    image = {"axes": axes, "datasets": [{"path": "0", "coordinateTransformations": [step]}]}
    group.attrs["ome"] = {"multiscales": [image]}
    with pytest.raises(SourceError, match="affine"):
        open_source(tmp_path / "o")


# Groups


# zarr-python says so of version 3; the consolidated form is read all the same.
@pytest.mark.filterwarnings("ignore:Consolidated metadata")
@pytest.mark.parametrize("version", [2, 3])
def test_groups(tmp_path: Path, version: int) -> None:
    group = zarr.open_group(str(tmp_path / "g"), mode="w", zarr_format=version)
    with pytest.raises(SourceError, match="without arrays"):
        open_source(tmp_path / "g")
    group.create_array("volumes/raw", shape=(4, 4, 4), dtype="u1")
    assert open_source(tmp_path / "g").shape == (4, 4, 4)
    group.create_array("volumes/labels", shape=(4, 4, 5), dtype="u8")
    with pytest.raises(AmbiguousSource, match=r"array='volumes/labels'") as caught:
        open_source(tmp_path / "g")
    assert "volumes/raw" in str(caught.value)
    assert open_source(tmp_path / "g", array="volumes/labels").dtype == "u8"
    zarr.consolidate_metadata(str(tmp_path / "g"))
    with pytest.raises(AmbiguousSource, match=r"array='volumes/labels'"):
        open_source(tmp_path / "g")
    with pytest.raises(SourceNotFound):
        open_source(tmp_path / "g", array="volumes/nothing")
    with pytest.raises(SourceError, match=r"\.\."):
        open_source(tmp_path / "g", array="../g")


# What can be wrong


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(SourceNotFound) as caught:
        open_source(tmp_path / "nothing")
    assert isinstance(caught.value, FileNotFoundError)
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match="neither an array nor a group"):
        open_source(tmp_path / "empty")
    (tmp_path / "a.txt").write_text("hello")
    with pytest.raises(SourceError, match="single file"):
        open_source(tmp_path / "a.txt")
    with pytest.raises(SourceError, match="missing="):
        open_source(tmp_path / "empty", missing="zeros")


@pytest.mark.skipif(not hasattr(os, "setuid") or os.getuid() != 0, reason="takes permissions away from itself")
def test_no_permission(tmp_path: Path) -> None:
    v3(tmp_path / "a")
    (tmp_path / "a" / "zarr.json").chmod(0)
    for folder in [tmp_path / "a", tmp_path, *list(tmp_path.parents)[:-2]]:
        folder.chmod(0o755)
    code = (
        "import os, sys; import chunkinfer.volumes.arrays.create as c, chunkinfer.volumes.arrays.open as o\n"
        "import tensorstore; os.setuid(65534)\n"
        "try: o.open_source(sys.argv[1])\n"
        "except o.SourceError as e: print(e)\n"
        "try: c.create(sys.argv[1] + '2', c.ArraySpec(shape=(4, 4), dtype='u1', dims='yx'))\n"
        "except c.DestinationError as e: print(e)\n"
    )
    out = subprocess.run([sys.executable, "-c", code, str(tmp_path / "a")], capture_output=True, text=True)
    assert out.stdout.count("does not allow it: missing permissions") == 2, out


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("zarr.json", '{"zarr_format": 3, "node'),
        (".zarray", "[]"),
        ("info", ""),
        ("zarr.json", '{"node_type": "array"}'),
    ],
)
def test_damaged_metadata(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / name).write_text(text)
    with pytest.raises(SourceError, match=r"not a JSON object|cannot be understood"):
        open_source(tmp_path / "a")


def test_metadata_that_contradicts_itself(tmp_path: Path) -> None:
    folder = v3(tmp_path / "a")
    meta = json.loads((folder / "zarr.json").read_text())
    meta["chunk_grid"]["configuration"]["chunk_shape"] = [4]
    (folder / "zarr.json").write_text(json.dumps(meta))
    with pytest.raises(SourceError, match=r"chunk_grid.* = \[4\], which is not read"):
        open_source(folder)


@pytest.mark.parametrize("dtype", ["complex64", "<U4", "datetime64[s]"])
def test_types_that_are_no_numbers(tmp_path: Path, dtype: str) -> None:
    zarr.create_array(str(tmp_path / "a"), shape=(4, 4), dtype=dtype, zarr_format=2)
    with pytest.raises(SourceError, match="made of numbers"):
        open_source(tmp_path / "a")
    np.save(tmp_path / "a.npy", np.zeros((4, 4), dtype))
    with pytest.raises(SourceError, match="made of numbers"):
        open_source(tmp_path / "a.npy")


@pytest.mark.parametrize("dtype", ["r16", "string", "bfloat16", {"name": "numpy.datetime64"}])
def test_types_of_version_3_that_are_no_numbers(tmp_path: Path, dtype: Any) -> None:
    folder = v3(tmp_path / "a")
    meta = json.loads((folder / "zarr.json").read_text())
    (folder / "zarr.json").write_text(json.dumps({**meta, "data_type": dtype}))
    with pytest.raises(SourceError, match="made of numbers"):
        open_source(folder)


def test_structured_types(tmp_path: Path) -> None:
    dtype = np.dtype([("a", "u1"), ("b", "f4")])
    zarr.create_array(str(tmp_path / "a"), shape=(4, 4), dtype=dtype, zarr_format=2)
    with pytest.raises(SourceError, match="made of numbers"):
        open_source(tmp_path / "a")


def test_several_formats(tmp_path: Path) -> None:
    v3(tmp_path / "a")
    zarr.create_array(str(tmp_path / "a"), shape=(5, 5), dtype="u1", zarr_format=2, overwrite=False)
    with pytest.raises(SourceError, match="several formats"):
        open_source(tmp_path / "a")
    assert open_source(f"zarr2://{tmp_path / 'a'}").shape == (5, 5)
    assert open_source(f"zarr3://{tmp_path / 'a'}").shape == (4, 4, 4)


LAYOUTS = [("zarr2", None), ("zarr3", None), ("zarr3", (16, 16, 16)), ("precomputed", None), ("precomputed", (16,) * 3)]


@pytest.mark.parametrize(("format", "shards"), LAYOUTS)
def test_missing_chunks(tmp_path: Path, format: str, shards: Any) -> None:
    out = create(
        tmp_path / "o",
        ArraySpec(format=format, shape=(32, 32, 32), dtype="u1", dims="zyx", chunks=(8,) * 3, shards=shards),
    )
    first = tuple(slice(0, unit) for unit in out.shards)
    out.write(first, np.ones(out.shards, "u1"))
    source = open_source(tmp_path / "o")
    assert (source[first] == 1).all()
    with pytest.raises(MissingChunk, match=r"missing='fill'") as caught:
        source[:]
    assert "chunk" in str(caught.value)
    assert str(tmp_path / "o") in str(caught.value)
    filled = open_source(tmp_path / "o", missing="fill")
    assert filled[:].sum() == np.prod(out.shards)
    with pytest.raises(MissingChunk):
        out.read((slice(0, 32),) * 3)


@pytest.mark.parametrize(("format", "shards"), LAYOUTS)
def test_damaged_chunks(tmp_path: Path, format: str, shards: Any) -> None:
    out = create(
        tmp_path / "o",
        ArraySpec(format=format, shape=(16, 16, 16), dtype="u1", dims="zyx", chunks=(8,) * 3, shards=shards),
    )
    fill(out, ARRAY[:16, :16, :16])
    for path in (tmp_path / "o").rglob("*"):
        if path.is_file() and path.name not in ("zarr.json", ".zarray", ".zattrs", "info"):
            path.write_bytes(path.read_bytes()[:7])
    for missing in ("error", "fill"):
        with pytest.raises(SourceError, match=r"in the box \[0:5, 0:6, 0:16\]") as caught:
            open_source(tmp_path / "o", missing=missing)[:5, :6]
        assert str(tmp_path / "o") in str(caught.value)
        assert not isinstance(caught.value, MissingChunk)


# npy


@pytest.mark.parametrize("order", ["C", "F"])
def test_npy(tmp_path: Path, order: str) -> None:
    np.save(tmp_path / "a.npy", np.asarray(ARRAY.astype(">u2"), order=order))
    source = open_source(tmp_path / "a.npy")
    assert (source.format, source.dims, source.dtype) == ("npy", ("z", "y", "x"), np.dtype("u2"))
    assert source.chunks == ARRAY.shape
    np.testing.assert_array_equal(source[2:5, ::1, 7], ARRAY[2:5, :, 7])
    assert source[0].dtype == np.dtype("u2")
    assert source.row == {"C": 2, "F": 0}[order]
    assert source.cropped(((0, 1), (0, 1), (0, 1))).row is None


def test_npy_with_objects_or_cut_short(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([[{}, {}]], dtype=object), allow_pickle=True)
    with pytest.raises(SourceError, match="Python objects"):
        open_source(tmp_path / "a.npy")
    np.save(tmp_path / "b.npy", ARRAY)
    (tmp_path / "b.npy").write_bytes((tmp_path / "b.npy").read_bytes()[:1000])
    with pytest.raises(SourceError, match="memory-mapped"):
        open_source(tmp_path / "b.npy")
