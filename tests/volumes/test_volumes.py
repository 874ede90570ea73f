"""What people do to a volume before they infer, and where the voxels of the result are."""

from __future__ import annotations

import json
import pickle
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr
from dask.base import tokenize
from torch import nn

import chunkinfer as ci
from chunkinfer.errors import PlanError, VolumeError
from chunkinfer.geometry.boxes import Box
from chunkinfer.networks.trace.tracing import Trace, trace
from chunkinfer.volumes.arrays.create import ArraySpec, create
from chunkinfer.volumes.arrays.source import Source
from chunkinfer.volumes.lazy import must_exchange, origin_of
from chunkinfer.volumes.volume import as_volume
from tests.lib.nets import EXACT, Entry, UNet
from tests.lib.whole import whole

Array = np.ndarray[Any, Any]

SHAPE, VOXEL, ORIGIN = (26, 40, 44), (40.0, 4.0, 4.0), (-7, 100, 0)

NETS = {
    "3D": Entry(lambda: UNet(3, ((1, 2, 2),), n=1)),
    "2D": Entry(lambda: UNet(2, ((2, 2),), n=1), ndim=2),
    "3D, two channels": Entry(lambda: nn.Conv3d(2, 2, 3, padding=1), channels=2),
    "2D, two channels": Entry(lambda: nn.Conv2d(2, 2, 3, padding=1), channels=2, ndim=2),
    "valid": EXACT["valid conv"],
    "downsampling": EXACT["downsampling"],
    "super-resolution": EXACT["super-resolution"],
}

_cache: dict[str, tuple[nn.Module, Trace]] = {}


def net_of(name: str) -> tuple[nn.Module, Trace]:
    if name not in _cache:
        net = NETS[name].make()
        _cache[name] = net, trace(net, NETS[name].channels, NETS[name].ndim)
    return _cache[name]


def expected(name: str, values: Array) -> Array:
    """The network on all voxels at once."""
    net, contract = net_of(name)
    values = values.astype("f4")
    return whole(net, contract, values if values.ndim > NETS[name].ndim else values[np.newaxis])


def voxels(dtype: str = "f4", shape: tuple[int, ...] = SHAPE) -> Array:
    rng = np.random.default_rng(0)
    return rng.random(shape).astype(dtype) if dtype[0] == "f" else rng.integers(0, 200, shape).astype(dtype)


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A zarr of chunks that fit nothing, at a negative origin."""
    path = tmp_path_factory.mktemp("volumes") / "em.zarr"
    target = create(
        path,
        ArraySpec(
            shape=SHAPE,
            dtype="f4",
            dims="zyx",
            chunks=(7, 16, 20),
            unit="nm",
            voxel_size=dict(zip("zyx", VOXEL, strict=True)),
            offset=dict(zip("zyx", ORIGIN, strict=True)),
        ),
    )
    data = voxels()
    for z in range(0, SHAPE[0], 7):
        for y in range(0, SHAPE[1], 16):
            for x in range(0, SHAPE[2], 20):
                box = np.s_[z : min(z + 7, SHAPE[0]), y : min(y + 16, SHAPE[1]), x : min(x + 20, SHAPE[2])]
                target.write(box, data[box])
    return path


def labelled(data: Any = None, origin: tuple[float, ...] = ORIGIN) -> xr.DataArray:
    data = da.from_array(voxels(), chunks=(7, 16, 20)) if data is None else data
    coords = {
        d: ((o + np.arange(n)) * s, {"units": "nm"})
        for d, n, s, o in zip("zyx", data.shape[-3:], VOXEL, origin, strict=True)
    }
    dims = ("c", "z", "y", "x")[-data.ndim :]
    return xr.DataArray(data, dims=dims, coords={d: (d, *c) for d, c in coords.items()}, name="em")


# ---- selections and arithmetic -----------------------------------------------------------------------------------

Step = Callable[[Any], Any]

NOTEBOOK: list[tuple[str, Step, str]] = [
    ("slice", lambda v: v[5:20], "one axis"),
    ("slice of all axes", lambda v: v[5:20, 3:33, 1:40], "every axis, on no grid"),
    ("slice of a slice", lambda v: v[2:][3:20], "twice"),
    ("every second voxel", lambda v: v[:, ::2, ::2], "another voxel size"),
    ("some sections", lambda v: v.isel(z=[3, 5, 7, 9]), "a list of indices, evenly spaced"),
    ("isel", lambda v: v.isel(x=slice(4, 40)), "by index"),
    ("isel of one", lambda v: v.isel(z=slice(5, 6)), "an axis of length one stays an axis"),
    ("sel", lambda v: v.sel(y=slice(408, 500)), "by position, both ends in"),
    ("normalised", lambda v: (v - 0.5) / 0.25, "elementwise operators"),
    ("normalised and cut", lambda v: ((v - 0.5) / 0.25)[3:21, 5:], "operators, then a slice"),
    ("astype", lambda v: v.astype("f8").astype("f4"), "casts"),
    ("rechunked", lambda v: v.chunk({"z": 26, "y": 11, "x": 3}), "chunks of the user's own"),
    ("thin tails", lambda v: v.chunk({"z": 25, "y": 39, "x": 43}), "last chunks of one voxel, thinner than the halo"),
    ("transposed", lambda v: v.transpose("x", "z", "y"), "axes are known by name"),
    ("channel of one", lambda v: v.expand_dims("c"), "a channel in front"),
    ("channel at the end", lambda v: v.expand_dims("c", axis=-1), "and behind"),
    ("channel picked", lambda v: xr.concat([v * 2, v], "c").isel(c=1), "one of two"),
    ("where", lambda v: v.where(v > 0.2, 0), "a mask"),
    ("padded", lambda v: v.pad(z=2, mode="edge", keep_attrs=True).drop_vars("z"), "more voxels than were read"),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("step", "why"), [row[1:] for row in NOTEBOOK], ids=[row[0] for row in NOTEBOOK])
@pytest.mark.parametrize("exchange", [None, True], ids=["read", "exchanged"])
def test_what_is_done_to_a_volume_first(stored: Path, step: Step, why: str, exchange: bool | None) -> None:
    volume = step(ci.open_volume(stored))
    values = volume.transpose(*(d for d in "czyx" if d in volume.dims)).values
    result = ci.infer(volume, net_of("3D")[0], patch={"y": 28, "x": 28}, exchange=exchange)
    assert result.dims == ("c", "z", "y", "x")
    got = result.values
    assert np.abs(got - expected("3D", values)).max() < 1e-5, why
    for d in "zyx":
        if d in volume.coords:
            assert np.array_equal(result.coords[d].values, volume.coords[d].values), why
    assert result.attrs["voxel_size"]["x"] == (8.0 if volume.sizes["x"] == 22 else 4.0)


@pytest.mark.parametrize("kind", ["numpy", "from_array", "from_zarr", "zarr.Array", "map_blocks", "persisted"])
def test_an_unlabelled_array_gives_a_dask_array(stored: Path, kind: str) -> None:
    zarr = pytest.importorskip("zarr")
    data = voxels()
    volume = {
        "numpy": lambda: data,
        "from_array": lambda: da.from_array(data, chunks=(10, 11, 12)),
        "from_zarr": lambda: da.from_zarr(str(stored)),
        "zarr.Array": lambda: zarr.open_array(stored, mode="r"),
        "map_blocks": lambda: da.from_array(data, chunks=13).map_blocks(np.abs),
        "persisted": lambda: da.from_array(data, chunks=13).persist(scheduler="synchronous"),
    }[kind]()
    result = ci.infer(volume, net_of("3D")[0], patch=(None, 28, 28))
    assert isinstance(result, da.Array)
    assert np.abs(result.compute() - expected("3D", data)).max() < 1e-5


@pytest.mark.parametrize("kind", ["str", "path", "file url", "zarr3 prefix"])
def test_a_url_gives_a_dataarray(stored: Path, kind: str) -> None:
    url = {"str": str(stored), "path": stored, "file url": f"file://{stored}", "zarr3 prefix": f"zarr3://{stored}"}[
        kind
    ]
    result = ci.infer(url, net_of("3D")[0])
    assert isinstance(result, xr.DataArray)
    assert np.abs(result.values - expected("3D", voxels())).max() < 1e-5
    assert result.attrs["unit"] == "nm"
    assert result.coords["z"].values[0] == -7 * 40


def test_a_zarr_of_xarrays_own(tmp_path: Path) -> None:
    pytest.importorskip("zarr")
    volume = labelled()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of zarr-python, about consolidated metadata
        volume.chunk(16).to_zarr(tmp_path / "em.zarr")
        again = xr.open_zarr(tmp_path / "em.zarr")["em"]
    result = ci.infer(again, net_of("3D")[0])
    assert np.abs(result.values - expected("3D", voxels())).max() < 1e-5
    for d in "zyx":
        assert np.array_equal(result.coords[d].values, volume.coords[d].values)


AXES = [
    ("2D", (40, 44), "y, x"),
    ("2D, two channels", (2, 40, 44), "channels, y, x"),
    ("3D", SHAPE, "z, y, x"),
    ("3D, two channels", (2, *SHAPE), "channels, z, y, x"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "shape", "why"), AXES)
@pytest.mark.parametrize("labels", [False, True])
@pytest.mark.parametrize("exchange", [False, True])
def test_two_and_three_axes_with_and_without_channels(
    name: str, shape: tuple[int, ...], why: str, labels: bool, exchange: bool, tmp_path: Path
) -> None:
    data = da.from_array(voxels(shape=shape), chunks=(1,) * (NETS[name].channels > 1) + (14,) * NETS[name].ndim)
    dims = ("c",) * (NETS[name].channels > 1) + ("z", "y", "x")[-NETS[name].ndim :]
    volume = xr.DataArray(data, dims=dims) if labels else data
    result = ci.infer(volume, net_of(name)[0], exchange=exchange)
    want = expected(name, data.compute())
    assert np.abs(np.asarray(result) - want).max() < 1e-5, why
    ci.save(result, tmp_path / "out.zarr", progress=False)
    again = ci.open_volume(tmp_path / "out.zarr")
    assert again.dims == ("c", *dims[-NETS[name].ndim :])
    assert np.array_equal(again.values, np.asarray(result))


SCALINGS: list[tuple[str, Any, float, str]] = [
    ("u1", None, 255, "uint8 is scaled to [0, 1]"),
    ("u1", (0, 100), 100, "unless something else is said"),
    ("u2", (0, 65535), 65535, "uint16 as the caller says"),
    ("i2", lambda a: a / np.float32(4), 4, "a function of single voxels"),
    ("f4", None, 1, "floats are taken as they are"),
    ("f8", None, 1, "in the network's own type"),
    ("f2", None, 1, "also of half precision"),
    ("bool", (0, 1), 1, "a mask"),
]


@pytest.mark.parametrize(("dtype", "normalize", "scale", "why"), SCALINGS)
def test_scaling(dtype: str, normalize: Any, scale: float, why: str) -> None:
    data = voxels("u1") > 100 if dtype == "bool" else voxels(dtype)
    result = ci.infer(data, net_of("3D")[0], normalize=normalize).compute()
    assert result.dtype == np.float32
    assert np.abs(result - expected("3D", data.astype("f4") / np.float32(scale))).max() < 1e-5, why


# ---- where the voxels of the result are ---------------------------------------------------------------------------


def test_an_output_on_the_same_grid_reuses_the_coordinates() -> None:
    # 0.1 is no binary fraction: computed by another formula, positions would differ in the last bit and align to less.
    at = np.linspace(0.3, 0.3 + 0.1 * 43, 44)
    volume = xr.DataArray(voxels(), dims=("z", "y", "x"), coords={"x": at, "y": ("y", np.arange(40) * 0.1)})
    result = ci.infer(volume, net_of("3D")[0])
    assert result.coords["x"].identical(volume.coords["x"])
    assert result.coords["y"].identical(volume.coords["y"])
    joined = xr.align(volume, result, join="inner")[0]
    assert joined.shape == volume.shape
    assert (volume + result).shape == (*SHAPE, 3)


def test_a_slice_keeps_its_place_and_attributes_do_not_lie(stored: Path) -> None:
    result = ci.infer(ci.open_volume(stored)[5:20, 3:], net_of("3D")[0])
    assert result.coords["z"].values[0] == (-7 + 5) * 40
    assert result.coords["y"].values[0] == (100 + 3) * 4
    assert "origin" not in result.attrs
    assert "offset" not in result.attrs
    assert result.attrs["source"] == str(stored)


GRIDS: list[tuple[str, dict[str, float], dict[str, float], str]] = [
    ("valid", {"z": 1, "y": 3, "x": 3}, {"z": 1, "y": 1, "x": 1}, "the first output voxel lies where its centre does"),
    ("downsampling", {"z": 0, "y": 0, "x": 0}, {"z": 1, "y": 2, "x": 2}, "voxels are larger"),
    ("super-resolution", {"y": 0, "x": 0}, {"y": 0.5, "x": 0.5}, "voxels are smaller"),
]


@pytest.mark.parametrize(("name", "moved", "stride", "why"), GRIDS)
@pytest.mark.parametrize("overlap", [None, 10])
def test_networks_that_move_or_scale_the_grid(
    name: str, moved: dict[str, float], stride: dict[str, float], why: str, overlap: int | None, tmp_path: Path
) -> None:
    volume = labelled().astype("f4")
    volume = volume if NETS[name].ndim == 3 else volume.isel(z=3, drop=True)
    result = ci.infer(volume, net_of(name)[0], overlap=overlap)
    for d, first in moved.items():
        size = dict(zip("zyx", VOXEL, strict=True))[d]
        start = volume.coords[d].values[0] + first * size
        want = start + np.arange(result.sizes[d]) * size * stride[d]
        assert np.array_equal(result.coords[d].values, want), why
        assert result.attrs["voxel_size"][d] == size * stride[d]
    ci.save(result, tmp_path / "out.zarr", progress=False)
    again = ci.open_volume(tmp_path / "out.zarr")
    for d in moved:
        assert np.array_equal(again.coords[d].values, result.coords[d].values)


@pytest.mark.parametrize("url", ["out.zarr", "zarr2://out.zarr", "out.precomputed"])
def test_coordinates_survive_storing(url: str, tmp_path: Path, stored: Path) -> None:
    prefix, _, name = url.rpartition("://")
    place = f"{prefix}://{tmp_path / name}" if prefix else tmp_path / name
    volume = ci.open_volume(stored)[5:20]
    result = ci.infer(volume, net_of("3D")[0])
    ci.save(result, place, progress=False)
    again = ci.open_volume(place)
    for d in "zyx":
        assert np.array_equal(again.coords[d].values, volume.coords[d].values)
        assert again.coords[d].attrs["units"] == "nm"
    assert again.attrs["unit"] == "nm"
    assert np.array_equal(again.values, result.values)
    assert again.coords["z"].values[0] == -80


def test_an_axis_of_one_voxel_keeps_its_size(stored: Path, tmp_path: Path) -> None:
    section = ci.open_volume(stored).isel(z=slice(4, 5))
    ci.save(ci.infer(section, net_of("3D")[0]), tmp_path / "section.zarr", progress=False)
    again = ci.open_volume(tmp_path / "section.zarr")
    assert again.attrs["voxel_size"]["z"] == 40
    assert again.coords["z"].values.tolist() == [-120]


CROOKED: list[tuple[str, Step, str, str]] = [
    ("reversed", lambda v: v[::-1], "reversed", "sortby"),
    ("section left out", lambda v: v.isel(z=[0, 1, 2, 4, 5]), "evenly", "interp"),
    ("twice the same", lambda v: v.assign_coords(y=np.zeros(SHAPE[1])), "axis y", "sortby"),
    ("not finite", lambda v: v.assign_coords(x=np.full(SHAPE[2], np.nan)), "not numbers", "drop_vars"),
    ("text", lambda v: v.assign_coords(x=[f"x{i}" for i in range(SHAPE[2])]), "not numbers", "drop_vars"),
]


@pytest.mark.parametrize(("step", "fact", "way"), [row[1:] for row in CROOKED], ids=[row[0] for row in CROOKED])
def test_axes_that_are_no_grid_are_refused(step: Step, fact: str, way: str) -> None:
    with pytest.raises(VolumeError, match=fact) as caught:
        ci.infer(step(labelled()), net_of("3D")[0])
    assert way in " ".join(caught.value.ways)


def test_time(tmp_path: Path) -> None:
    zarr = pytest.importorskip("zarr")
    for points in (1, 2):
        data = np.stack([voxels()] * points)
        names = ["t", "z", "y", "x"]
        zarr.create_array(tmp_path / f"{points}.zarr", data=data, dimension_names=names, chunks=(1, 16, 16, 16))
    one, two = ci.open_volume(tmp_path / "1.zarr"), ci.open_volume(tmp_path / "2.zarr")
    assert one.dims == ("z", "y", "x")
    assert np.abs(ci.infer(one, net_of("3D")[0]).values - expected("3D", voxels())).max() < 1e-5
    with pytest.raises(VolumeError, match="2 points") as caught:
        ci.infer(two, net_of("3D")[0])
    assert "isel(t=0)" in caught.value.ways[0]
    assert np.array_equal(ci.infer(two.isel(t=0), net_of("3D")[0]).values, ci.infer(one, net_of("3D")[0]).values)


# ---- what is dear to read -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small_chunks(tmp_path_factory: pytest.TempPathFactory) -> xr.DataArray:
    """512 chunks."""
    place = tmp_path_factory.mktemp("chunks") / "em.zarr"
    ci.save(voxels(shape=(32, 32, 32)), place, chunks=(4, 4, 4), shards=(32, 32, 32), progress=False)
    return ci.open_volume(place, chunks=(4, 4, 4))


@pytest.mark.parametrize("kind", ["stored", "in memory"])
def test_a_number_that_needs_the_whole_volume_is_refused_with_the_line_to_paste(
    small_chunks: xr.DataArray, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume = small_chunks if kind == "stored" else small_chunks.copy(data=da.from_array(small_chunks.values, chunks=4))
    net, block = nn.Conv3d(1, 1, 1), (8, 8, 8)
    with pytest.raises(PlanError, match="times the voxels") as caught:
        ci.infer(volume - volume.mean(), net, block=block, exchange=False)
    assert "float(volume.mean())" in " ".join(caught.value.ways)
    m = float(volume.mean())
    result = ci.infer(volume - m, net, block=block)  # the line that was pasted
    exchanged = ci.infer(volume - volume.mean(), net, block=block, exchange=True)
    corner = np.s_[:, :8, :8, :8]
    assert np.allclose(result[corner], exchanged[corner], atol=1e-6)
    monkeypatch.setattr("chunkinfer.volumes.arrays.layout.COPY_BYTES", 1)  # blocks of one shard
    with pytest.raises(PlanError, match="times the voxels"):
        ci.save(volume - volume.mean(), tmp_path / "out.zarr", chunks=(4, 4, 4), shards=(8, 8, 8))
    assert not (tmp_path / "out.zarr").exists()


def test_a_number_that_needs_some_more_of_the_volume_is_warned_of(small_chunks: xr.DataArray) -> None:
    with pytest.warns(UserWarning, match=r"float\(volume.mean\(\)\)"):
        ci.infer(small_chunks - small_chunks.mean("x"), nn.Conv3d(1, 1, 1), block=(4, 4, 4))


def test_a_number_that_each_of_some_blocks_computes_again_is_warned_of(tmp_path: Path) -> None:
    ci.save(voxels(shape=(8, 16, 16)), tmp_path / "em.zarr", chunks=(8, 8, 8), progress=False)
    volume, net = ci.open_volume(tmp_path / "em.zarr", chunks=(8, 16, 8)), nn.Conv3d(1, 1, 3, padding=1)
    how: dict[str, Any] = {"block": (4, 8, 8), "patch": (6, 10, 10)}
    with pytest.warns(UserWarning, match=r"Each of the 8 blocks of this volume reads all of it") as caught:
        ci.infer((volume - volume.mean()) / volume.std(), net, **how)  # its halo touches both chunks
    with pytest.warns(UserWarning, match=r"Each of the 8 blocks"):
        ci.plan((volume - volume.mean()) / volume.std(), net, **how)
    m, s = float(volume.mean()), float(volume.std())
    assert "infer(volume, model, normalize=(m, s))" in str(caught[0].message)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        one = ci.infer(volume, net, normalize=(m, s), **how)
        two = ci.infer((volume - m) / s, net, **how)
        ci.infer(volume - volume[0, 0, 0], net, **how)  # a number that needs little
        ci.infer(volume - volume.mean(), net)  # one block
    assert np.allclose(one, two, atol=1e-5)


def test_a_network_after_a_network_exchanges_halos() -> None:
    first = ci.infer(labelled(), nn.Conv3d(1, 1, 3, padding=1), patch=(None, 18, 18))
    second = ci.infer(first, net_of("3D")[0])
    assert np.abs(second.values - expected("3D", first.values)).max() < 1e-5


# ---- opening a part -----------------------------------------------------------------------------------------------

BOXES: list[tuple[Any, tuple[slice, ...], str]] = [
    ((slice(5, 20), slice(3, 33), slice(1, 40)), np.s_[5:20, 3:33, 1:40], "on no grid"),
    ((slice(7, 14), slice(16, 32), slice(20, 40)), np.s_[7:14, 16:32, 20:40], "one stored chunk"),
    ({"y": slice(39, None)}, np.s_[:, 39:, :], "by name, to the end"),
    ((slice(25, 26), slice(None), slice(0, 1)), np.s_[25:26, :, 0:1], "the last section"),
    (Box((1, 2, 3), (26, 40, 44)), np.s_[1:, 2:, 3:], "a Box"),
]


@pytest.mark.parametrize(("box", "index", "why"), BOXES, ids=[row[-1] for row in BOXES])
def test_a_part_is_the_part_that_slicing_gives(stored: Path, box: Any, index: tuple[slice, ...], why: str) -> None:
    part, sliced = ci.open_volume(stored, box=box), ci.open_volume(stored)[index]
    xr.testing.assert_identical(part.compute(), sliced.compute())
    assert isinstance(origin_of(part.data), Source), "blocks read it in one piece"
    if part.sizes["x"] > 4:
        net = net_of("3D")[0]
        assert np.array_equal(ci.infer(part, net).values, ci.infer(sliced, net).values), why


def test_a_part_of_a_part_and_what_travels(stored: Path) -> None:
    source = origin_of(ci.open_volume(stored).data)
    part = source.cropped(((5, 20), (3, 33), (1, 40))).cropped(((2, 9), (0, 30), (4, 5)))
    assert np.array_equal(part[...], voxels()[7:14, 3:33, 5:6])
    assert np.array_equal(pickle.loads(pickle.dumps(part))[1, 2:5], voxels()[8, 5:8, 5:6])
    assert part.offset == {"z": 0, "y": 103, "x": 5}
    tokens = {tokenize(s) for s in (source, part, source.cropped(((7, 14), (3, 33), (5, 7))))}
    assert len(tokens) == 3
    assert tokenize(part) == tokenize(source.cropped(((7, 14), (3, 33), (5, 6))))


def test_a_part_reads_every_stored_chunk_once(stored: Path) -> None:
    part = ci.open_volume(stored, box=(slice(5, 26), slice(3, 40), slice(19, 44)), chunks=None)
    edges = np.cumsum(part.chunks[2])[:-1] + 19
    assert all(edge % 20 == 0 for edge in edges), "chunks end where stored chunks do"


def test_two_chunkings_of_one_source_in_one_graph(stored: Path) -> None:
    a, b = ci.open_volume(stored), ci.open_volume(stored, chunks=(26, 7, 9))
    assert a.data.name != b.data.name
    assert np.array_equal((a + b).values, voxels() * 2)


@pytest.mark.parametrize("url", ["npy", "precomputed", "sharded precomputed"])
def test_parts_of_other_formats(url: str, tmp_path: Path) -> None:
    if url == "npy":
        np.save(tmp_path / "em.npy", voxels())
        place = tmp_path / "em.npy"
    else:
        place = tmp_path / "em.precomputed"
        shards = (32, 32, 32) if "sharded" in url else None
        ci.save(labelled(), place, chunks=(16, 16, 16), shards=shards, progress=False)
    box = (slice(5, 20), slice(17, 33), slice(1, 40))
    part, sliced = ci.open_volume(place, box=box), ci.open_volume(place)[box]
    xr.testing.assert_identical(part.compute(), sliced.compute())
    assert np.array_equal(part.values, voxels()[box])


def test_a_missing_chunk_of_a_part_is_named(stored: Path, tmp_path: Path) -> None:
    pytest.importorskip("zarr").create_array(
        tmp_path / "holes.zarr", shape=(40, 40, 40), chunks=(10, 10, 10), dtype="f4", fill_value=0
    )
    part = ci.open_volume(tmp_path / "holes.zarr", box=(slice(12, 19), slice(0, 5), slice(0, 5)))
    with pytest.raises(ci.errors.MissingChunk, match=r"c/1/0/0.*\[12:19"):
        part.values  # noqa: B018
    filled = ci.open_volume(tmp_path / "holes.zarr", box=(slice(12, 19), slice(0, 5), slice(0, 5)), missing="fill")
    assert not filled.values.any()


def test_a_part_of_a_petavoxel_opens_at_once(tmp_path: Path) -> None:
    size = 2_000_000
    meta = {
        "zarr_format": 3, "node_type": "array", "shape": [size] * 3, "data_type": "uint8", "fill_value": 7,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [64, 64, 64]}},
        "chunk_key_encoding": {"name": "default"}, "codecs": [{"name": "bytes"}], "attributes": {},
        "dimension_names": ["z", "y", "x"],
    }  # fmt: skip
    (tmp_path / "huge.zarr").mkdir()
    (tmp_path / "huge.zarr" / "zarr.json").write_text(json.dumps(meta))
    start = time.perf_counter()
    part = ci.open_volume(
        tmp_path / "huge.zarr", missing="fill", box=(slice(10**6, 10**6 + 100), slice(5, 70), slice(size - 9, size))
    )
    result = ci.infer(part, net_of("3D")[0])
    assert time.perf_counter() - start < 1
    assert len(part.data.dask) < 40
    assert (part.values == 7).all()
    assert part.coords["z"].values[0] == 10**6
    with dask.config.set(scheduler="synchronous"):
        assert result.isel(z=slice(0, 3)).values.shape == (3, 3, 65, 9)


def test_as_volume_takes_a_volume_of_every_kind(stored: Path) -> None:
    for given in (stored, str(stored), ci.open_volume(stored), voxels(), da.from_array(voxels())):
        assert as_volume(given).space_shape == SHAPE


def test_a_large_array_in_memory_stays_whole() -> None:
    """dask would cut it at 128 MiB, and carry a part in every task."""
    array = np.zeros((150, 1024, 1024), "u1")
    for volume in (array, xr.DataArray(array, dims=("z", "y", "x"))):
        lazy = as_volume(volume).array
        assert lazy.numblocks != (1, 1, 1)
        assert not must_exchange(lazy)
        assert isinstance(origin_of(lazy), np.ndarray)
        assert type(lazy[:1, :2, :3].compute()) is np.ndarray
