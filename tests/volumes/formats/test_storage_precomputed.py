"""Neuroglancer precomputed against cloud-volume, both ways."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chunkinfer.errors import DestinationError, SourceError
from chunkinfer.geometry.morton import code as morton_code
from chunkinfer.volumes.arrays.create import ArraySpec, create, write_unit
from chunkinfer.volumes.arrays.open import open_source
from chunkinfer.volumes.formats.precomputed import morton
from tests.lib.storage.filling import fill

cloudvolume = pytest.importorskip("cloudvolume")

RNG = np.random.default_rng(0)
PLACE: dict[str, Any] = {
    "voxel_size": {"z": 0.04, "y": 0.004, "x": 0.004},
    "unit": "micrometer",
    "offset": {"z": -7, "y": 100, "x": 3},
}


def volume(path: Path, **options: Any) -> Any:
    return cloudvolume.CloudVolume(f"file://{path}", progress=False, **options)


def smooth(*shape: int) -> np.ndarray:
    grids = np.meshgrid(*[np.linspace(0, 3, size) for size in shape], indexing="ij")
    return (127 + 120 * np.sin(sum(grids))).astype("u1")


WRITTEN = [
    ("u1", ("z", "y", "x"), "raw", None, 0, "image"),
    ("u1", ("z", "y", "x"), "raw", (16, 32, 32), 0, "image"),
    ("f4", ("c", "z", "y", "x"), "raw", None, 0, "image"),
    ("f4", ("c", "z", "y", "x"), "raw", (3, 16, 16, 32), 0, "image"),
    ("u1", ("z", "y", "x"), "jpeg", None, 6, "image"),
    ("u1", ("z", "y", "x"), "jpeg", (16, 16, 32), 6, "image"),
    ("u8", ("z", "y", "x"), None, None, 0, "segmentation"),
    ("u4", ("z", "y", "x"), "compressed_segmentation", (32, 32, 32), 0, "segmentation"),
    ("i8", ("z", "y", "x"), "raw", None, None, "no such type"),
]


@pytest.mark.parametrize(("dtype", "dims", "encoding", "shards", "tolerance", "kind"), WRITTEN)
def test_cloud_volume_reads_what_is_written(
    tmp_path: Path, dtype: str, dims: Any, encoding: Any, shards: Any, tolerance: Any, kind: str
) -> None:
    shape = (3, 30, 50, 40)[4 - len(dims) :]
    chunks = (3, 16, 16, 16)[4 - len(dims) :]
    array = smooth(*shape).astype(dtype)
    if kind == "segmentation":
        array = (array // 50).astype(dtype) * (2**40 if dtype == "u8" else 2**20)
    if shards is not None:
        shards = write_unit("o", format="precomputed", shape=shape, dims=dims, chunks=chunks, shards=shards)
    made = dict(shape=shape, dtype=dtype, dims=dims, chunks=chunks, shards=shards, encoding=encoding, **PLACE)
    if tolerance is None:
        with pytest.raises(DestinationError, match="uint8"):
            create(tmp_path / "o.precomputed", ArraySpec(**made))
        return
    out = create(tmp_path / "o.precomputed", ArraySpec(**made))
    fill(out, array)
    assert open_source(out.url)[...].shape == shape
    cv = volume(tmp_path / "o.precomputed", fill_missing=False)
    assert cv.info["type"] == kind
    assert tuple(cv.resolution) == (4, 4, 40)
    assert tuple(cv.voxel_offset) == (3, 100, -7)
    got = np.asarray(cv[:, :, :]).T
    np.testing.assert_allclose(got if "c" in dims else got[0], array, atol=tolerance, rtol=0)
    assert got.dtype == array.dtype


def test_jpeg_of_three_channels(tmp_path: Path) -> None:
    # cloud-volume does not read back even its own: it takes the interleaved colours for planes.
    array = smooth(3, 16, 32, 32)
    out = create(
        tmp_path / "o",
        ArraySpec(
            format="precomputed", shape=array.shape, dtype="u1", dims="czyx", chunks=(3, 16, 16, 16), encoding="jpeg"
        ),
    )
    fill(out, array)
    for stored in (out.read((slice(0, 3), slice(0, 16), slice(0, 32), slice(0, 32))), open_source(tmp_path / "o")[:]):
        assert 0 < np.abs(stored.astype(int) - array).mean() < 6


READ = [
    ("uint8", "raw", 1, 0),
    ("uint8", "jpeg", 1, 6),
    ("uint64", "compressed_segmentation", 1, 0),
    ("float32", "raw", 3, 0),
    ("uint8", "jpeg", 3, 24),
]


@pytest.mark.parametrize(("dtype", "encoding", "channels", "tolerance"), READ)
def test_reads_what_cloud_volume_writes(
    tmp_path: Path, dtype: str, encoding: str, channels: int, tolerance: int
) -> None:
    array = smooth(40, 50, 30, channels).astype(dtype)
    info = cloudvolume.CloudVolume.create_new_info(
        num_channels=channels, layer_type="image" if tolerance or dtype != "uint64" else "segmentation",
        data_type=dtype, encoding=encoding, resolution=(4, 4, 40), voxel_offset=(-16, 0, 7),
        volume_size=(40, 50, 30), chunk_size=(16, 16, 16),
    )  # fmt: skip
    cv = volume(tmp_path / "v", info=info, compress=False)
    cv.commit_info()
    cv[:, :, :] = array
    source = open_source(f"precomputed://file://{tmp_path / 'v'}")
    expected = array.transpose(3, 2, 1, 0) if channels > 1 else array[..., 0].T
    assert source.dims == (("c", "z", "y", "x") if channels > 1 else ("z", "y", "x"))
    assert (source.unit, source.voxel_size) == ("nm", {"z": 40.0, "y": 4.0, "x": 4.0})
    assert source.offset == {"z": 7, "y": 0, "x": -16}
    np.testing.assert_allclose(source[...], expected, atol=tolerance, rtol=0)


def test_compressed_local_chunks_are_refused(tmp_path: Path) -> None:
    info = cloudvolume.CloudVolume.create_new_info(
        1, "image", "uint8", "raw", resolution=(4, 4, 40), voxel_offset=(0, 0, 0), volume_size=(16, 16, 16),
        chunk_size=(16, 16, 16),
    )  # fmt: skip
    cv = volume(tmp_path / "v", info=info)
    cv.commit_info()
    cv[:, :, :] = smooth(16, 16, 16)
    with pytest.raises(SourceError, match=r"gunzip -r") as caught:
        open_source(tmp_path / "v", missing="fill")
    assert "compress=False" in str(caught.value)


def test_levels(tmp_path: Path) -> None:
    create(tmp_path / "v", ArraySpec(format="precomputed", shape=(8, 8, 8), dtype="u1", dims="zyx", offset={"x": 4}))
    info = json.loads((tmp_path / "v" / "info").read_text())
    info["scales"].append({**info["scales"][0], "key": "half", "size": [4, 4, 8], "resolution": [2, 2, 1]})
    (tmp_path / "v" / "info").write_text(json.dumps(info))
    coarse = open_source(tmp_path / "v", level=1, missing="fill")
    assert (coarse.shape, coarse.voxel_size["x"]) == ((8, 4, 4), 2.0)
    with pytest.raises(SourceError, match="0: 1_1_1; 1: half"):
        open_source(tmp_path / "v", level=2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scales": []}, "without scales"),
        ({"@type": "neuroglancer_legacy_mesh", "scales": None}, "legacy_mesh"),
        ({"data_type": "float64"}, r'data_type = "float64", which is not read'),
        ({"scales": [{"encoding": "compresso", "key": "1_1_1"}]}, "compresso"),
        ({"scales": [{"encoding": "raw", "key": "1_1_1"}]}, "cannot be understood"),
    ],
)
def test_infos_that_are_no_volume(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    create(tmp_path / "v", ArraySpec(format="precomputed", shape=(8, 8, 8), dtype="u1", dims="zyx"))
    info = json.loads((tmp_path / "v" / "info").read_text())
    (tmp_path / "v" / "info").write_text(json.dumps({**info, **change}))
    with pytest.raises(SourceError, match=message):
        open_source(tmp_path / "v")


@pytest.mark.parametrize("dims", [("y", "x"), ("c", "y", "x"), ("c", "z", "y", "x")])
@pytest.mark.parametrize("sharded", [False, True])
def test_the_axes_asked_for_come_back(tmp_path: Path, dims: tuple[str, ...], sharded: bool) -> None:
    shape = tuple({"c": 1, "z": 20, "y": 30, "x": 33}[dim] for dim in dims)
    chunks = tuple(1 if dim == "c" else 8 for dim in dims)
    shards = write_unit(
        "o", format="precomputed", shape=shape, dims=dims, chunks=chunks,
        shards=tuple(1 if dim == "c" else 16 for dim in dims) if sharded else None,
    )  # fmt: skip
    array = RNG.integers(0, 255, shape, dtype="u1")
    out = create(
        tmp_path / "v",
        ArraySpec(format="precomputed", shape=shape, dtype="u1", dims=dims, chunks=chunks, shards=shards),
    )
    fill(out, array)
    source = open_source(tmp_path / "v")
    assert source.dims == dims
    np.testing.assert_array_equal(source[...], array)
    got = np.asarray(volume(tmp_path / "v")[:, :, :]).T
    np.testing.assert_array_equal(got.reshape(shape), array)


# Shards


@given(st.tuples(*[st.integers(1, 20)] * 3), st.tuples(*[st.integers(1, 9)] * 3))
def test_a_shard_is_a_box(grid: tuple[int, int, int], request: tuple[int, int, int]) -> None:
    bits = morton.shard_bits(grid, request)
    box = morton.shard_box(grid, bits)
    assert all(have >= min(want, size) for have, want, size in zip(box, request, grid, strict=True))
    codes: dict[int, set[tuple[int, ...]]] = {}
    seen = set()
    for cell in np.ndindex(*grid):
        code = morton_code(cell, grid)
        seen.add(code)
        codes.setdefault(code >> bits, set()).add(tuple(i // b for i, b in zip(cell, box, strict=True)))
    assert len(seen) == np.prod(grid)
    assert all(len(boxes) == 1 for boxes in codes.values())
    assert len(codes) == len(set.union(*codes.values()))
    # The fewest bits: one less does not cover the request.
    if bits:
        smaller = morton.shard_box(grid, bits - 1)
        assert any(have < min(want, size) for have, want, size in zip(smaller, request, grid, strict=True))


def test_shards_of_other_shapes_are_refused_with_the_nearest(tmp_path: Path) -> None:
    made = {"format": "precomputed", "shape": (256, 256, 256), "dtype": "u1", "dims": "zyx", "chunks": (32, 32, 32)}
    with pytest.raises(DestinationError, match=r"shards=\(64, 128, 128\)"):
        create(tmp_path / "v", ArraySpec(shards=(32, 128, 128), **made))
    out = create(tmp_path / "v", ArraySpec(shards=(64, 128, 128), **made))
    assert out.shards == (64, 128, 128)
    sharding = json.loads((tmp_path / "v" / "info").read_text())["scales"][0]["sharding"]
    assert (sharding["preshift_bits"], sharding["minishard_bits"], sharding["shard_bits"]) == (5, 0, 4)


def test_one_shard_for_all(tmp_path: Path) -> None:
    array = RNG.integers(0, 255, (40, 40, 40), dtype="u1")
    out = create(
        tmp_path / "v",
        ArraySpec(
            format="precomputed", shape=array.shape, dtype="u1", dims="zyx", chunks=(4,) * 3, shards=(64, 64, 64)
        ),
    )
    assert out.write((slice(0, 40),) * 3, array) == array.nbytes
    assert len(list((tmp_path / "v").rglob("*.shard"))) == 1
    np.testing.assert_array_equal(np.asarray(volume(tmp_path / "v")[:, :, :])[..., 0].T, array)


def test_a_shard_is_replaced_as_a_whole(tmp_path: Path) -> None:
    out = create(
        tmp_path / "v",
        ArraySpec(format="precomputed", shape=(32, 32, 32), dtype="u1", dims="zyx", chunks=(8,) * 3, shards=(16,) * 3),
    )
    box = (slice(16, 32), slice(0, 16), slice(16, 32))
    out.write(box, np.full((16, 16, 16), 7, "u1"))
    assert (open_source(tmp_path / "v")[box] == 7).all()
    out.write(box, np.zeros((16, 16, 16), "u1"))
    assert not open_source(tmp_path / "v")[box].any()
    assert not out.read(box).any()


REFUSED = [
    ({"dtype": "f8"}, "uint8, int8"),
    ({"dtype": "bool"}, "uint8, int8"),
    ({"dtype": "f2"}, "uint8, int8"),
    ({"dims": "tyx"}, "axes"),
    ({"offset": {"x": 0.5}}, "not an integer"),
    ({"encoding": "jpeg", "dtype": "u2"}, "lossy"),
    ({"encoding": "jpeg", "dims": "cyx"}, "lossy"),
    ({"encoding": "compressed_segmentation"}, "uint32, uint64"),
    ({"encoding": "compresso"}, "raw, jpeg"),
    ({"dims": "cyx", "chunks": (1, 8, 8)}, "all 8"),
    ({"compression": "zstd"}, "encoding"),
]


@pytest.mark.parametrize(("change", "message"), REFUSED)
def test_what_the_format_cannot_hold(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    made: dict[str, Any] = {"shape": (8, 8, 8), "dtype": "u1", "dims": "zyx"} | change
    with pytest.raises(DestinationError, match=message):
        create(f"precomputed://{tmp_path}/v", ArraySpec(**made))
    assert not (tmp_path / "v").exists()
