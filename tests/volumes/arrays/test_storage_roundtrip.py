"""What is written is what is read, in every format, with its place in the world."""

from __future__ import annotations

import pickle
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chunkinfer.volumes.arrays.create import ArraySpec, create, open_destination, write_unit
from chunkinfer.volumes.arrays.open import open_source
from chunkinfer.volumes.arrays.source import Source
from tests.lib.storage.filling import fill

LAYOUTS = [
    ("zarr2", False, "every format"),
    ("zarr3", False, "every format"),
    ("zarr3", True, "inner chunks are the readable unit"),
    ("precomputed", False, "x, y, z are turned"),
    ("precomputed", True, "shards go past tensorstore's driver"),
]


@pytest.mark.parametrize(("format", "sharded", "why"), LAYOUTS)
@settings(max_examples=10, deadline=None)
@given(data=st.data())
def test_any_shape_chunk_and_offset(format: str, sharded: bool, why: str, data: st.DataObject) -> None:
    rank = data.draw(st.integers(2, 4))
    dims = ("c", "z", "y", "x")[4 - rank :]
    shape = tuple(data.draw(st.integers(1, 3 if dim == "c" else 24)) for dim in dims)
    chunks = tuple(
        size if dim == "c" else data.draw(st.sampled_from([5, 8, 12])) for dim, size in zip(dims, shape, strict=True)
    )
    shards = None
    if sharded:
        times = [1 if dim == "c" else data.draw(st.sampled_from([1, 2, 4])) for dim in dims]
        asked = tuple(chunk * k for chunk, k in zip(chunks, times, strict=True))
        shards = write_unit("out", format=format, shape=shape, dims=dims, chunks=chunks, shards=asked)
        assert all(got >= min(want, size) for got, want, size in zip(shards, asked, shape, strict=True))
    spatial = [dim for dim in dims if dim != "c"]
    offset = {dim: data.draw(st.integers(-(10**6), 10**6)) for dim in spatial}
    voxel_size = {dim: data.draw(st.sampled_from([1.0, 4.0, 3.7, 40.0])) for dim in spatial}
    dtype = data.draw(st.sampled_from(["uint8", "uint16", "float32", "int32", "uint64", "int8"]))
    encoding = "raw" if format == "precomputed" else None
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    array = (rng.random(shape) * 100 * (rng.random(shape) < 0.5)).astype(dtype)
    if data.draw(st.booleans()):
        array[..., : chunks[-1]] = 0
    with tempfile.TemporaryDirectory() as folder:
        destination = create(
            f"{folder}/out",
            ArraySpec(
                format=format,
                shape=shape,
                dtype=dtype,
                dims=dims,
                chunks=chunks,
                shards=shards,
                voxel_size=voxel_size,
                unit="nm",
                offset=offset,
                encoding=encoding,
                attributes={"channel_names": ["a"]},
            ),
        )
        if shards is not None:
            # A unit may end beyond the array; both say where the next one would start.
            assert all(a == b or min(a, b) >= n for a, b, n in zip(destination.shards, shards, shape, strict=True))
        fill(pickle.loads(pickle.dumps(destination)), array)
        source = open_source(f"{folder}/out")
        assert (source.shape, source.dims, source.dtype) == (shape, dims, np.dtype(dtype))
        assert (source.voxel_size, source.unit, source.offset) == (voxel_size, "nm", offset)
        assert source.names == {"channel_names": ["a"]}
        assert all(isinstance(value, int) for value in source.offset.values())
        np.testing.assert_array_equal(source[...], array)
        key = tuple(
            data.draw(st.one_of(st.integers(0, size - 1), st.slices(size).filter(lambda s: s.step in (None, 1))))
            for size in shape
        )
        np.testing.assert_array_equal(source[key], array[key])
        np.testing.assert_array_equal(destination.read(tuple(slice(0, n) for n in shape)), array)
        assert open_destination(f"{folder}/out") == destination


@pytest.mark.parametrize(("format", "sharded", "why"), LAYOUTS)
def test_zeros_are_stored_too(tmp_path: Path, format: str, sharded: bool, why: str) -> None:
    shards = (16, 16, 16) if sharded else None
    out = create(
        tmp_path / "o",
        ArraySpec(format=format, shape=(20, 20, 20), dtype="u1", dims="zyx", chunks=(8, 8, 8), shards=shards),
    )
    fill(out, np.zeros((20, 20, 20), "u1"))
    assert not open_source(tmp_path / "o", missing="error")[...].any()


@pytest.mark.parametrize("format", ["zarr2", "zarr3"])
@pytest.mark.parametrize("compression", ["zstd", "blosc", "gzip", "none"])
@pytest.mark.parametrize("dtype", ["bool", "float16", "float64", "int64"])
def test_every_compression_and_type(tmp_path: Path, format: str, compression: str, dtype: str) -> None:
    array = np.arange(60).reshape(2, 5, 6).astype(dtype)
    out = create(
        tmp_path / "o", ArraySpec(format=format, shape=array.shape, dtype=dtype, dims="tyx", compression=compression)
    )
    fill(out, array)
    back = open_source(tmp_path / "o")
    assert back.dims == ("t", "y", "x")
    np.testing.assert_array_equal(back[...], array)


def test_fractional_offsets_survive_in_zarr(tmp_path: Path) -> None:
    create(
        tmp_path / "o", ArraySpec(shape=(4, 4), dtype="u1", dims="yx", offset={"y": 0.5, "x": -2}, voxel_size={"y": 3})
    )
    source = open_source(tmp_path / "o")
    assert (source.offset, source.voxel_size, source.unit) == ({"y": 0.5, "x": -2}, {"y": 3.0, "x": 1.0}, "")


def test_a_source_travels_without_handles(tmp_path: Path) -> None:
    array = np.arange(64, dtype="u2").reshape(4, 4, 4)
    fill(create(tmp_path / "o", ArraySpec(shape=array.shape, dtype="u2", dims="zyx")), array)
    source = open_source(tmp_path / "o")
    shipped = pickle.dumps(source)
    assert len(shipped) < 2000
    code = "import pickle, sys; print(pickle.loads(sys.stdin.buffer.read())[3, 3, 3])"
    out = subprocess.run([sys.executable, "-c", code], input=shipped, capture_output=True, check=True)
    assert int(out.stdout) == 63
    again = pickle.loads(shipped)
    assert again == source
    assert hash(again) == hash(source)
    assert again.__dask_tokenize__() == source.__dask_tokenize__()
    assert repr(source) == f"<Source {tmp_path / 'o'} (zarr3) z=4, y=4, x=4 uint16>"


def test_importing_stays_light() -> None:
    code = (
        "import sys, chunkinfer.volumes.arrays.create, chunkinfer.volumes.arrays.open, chunkinfer.runs.record.ledger; "
        "print([m for m in ('tensorstore', 'torch', 'dask', 'xarray', 'zarr') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_token_changes_with_the_array(tmp_path: Path) -> None:
    create(tmp_path / "o", ArraySpec(shape=(8, 8), dtype="u1", dims="yx"))
    first = open_source(tmp_path / "o")
    create(tmp_path / "o", ArraySpec(shape=(9, 8), dtype="u1", dims="yx"), overwrite=True)
    second = open_source(tmp_path / "o")
    assert second.shape == (9, 8)
    assert first != second


KEYS = [
    (np.s_[3], "an integer drops its axis"),
    (np.s_[-1, 2:], "negative integers"),
    (np.s_[2:-1, :, -2:], "negative bounds"),
    (np.s_[5:100], "beyond the end is cut, as in numpy"),
    (np.s_[..., 0], "ellipsis"),
    (np.s_[4:2], "empty"),
    (np.s_[::2, 1::3], "steps"),
    (np.s_[::-1, 5:1:-2, -1], "backwards"),
    (np.s_[np.int64(1) : np.int64(3)], "numpy integers"),
]


@pytest.mark.parametrize(("key", "why"), KEYS)
def test_indexing_is_numpys(tmp_path: Path, key: object, why: str) -> None:
    array = np.arange(6 * 7 * 8, dtype="i4").reshape(6, 7, 8)
    np.save(tmp_path / "a.npy", array)
    fill(create(tmp_path / "o", ArraySpec(shape=array.shape, dtype="i4", dims="zyx", chunks=(4, 4, 4))), array)
    for source in (open_source(tmp_path / "o"), open_source(tmp_path / "a.npy")):
        got = source[key]
        np.testing.assert_array_equal(got, array[key])
        assert got.dtype == array.dtype
        assert type(got) is np.ndarray


@pytest.mark.parametrize("key", [np.s_[0, 0, 0, 0], np.s_[9], np.s_[..., ...], np.s_["a"], np.s_[None]])
def test_other_keys_are_refused(tmp_path: Path, key: object) -> None:
    create(tmp_path / "o", ArraySpec(shape=(4, 4, 4), dtype="i4", dims="zyx"))
    with pytest.raises(IndexError):
        open_source(tmp_path / "o")[key]


def test_isinstance_source(tmp_path: Path) -> None:
    out = create(tmp_path / "o", ArraySpec(shape=(4, 4), dtype="u1", dims="yx"))
    assert isinstance(out, Source)
    assert np.asarray(open_source(tmp_path / "o", missing="fill")).shape == (4, 4)
