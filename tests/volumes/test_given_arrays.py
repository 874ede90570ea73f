"""Arrays and DataArrays as people have them: taken for what they are, or refused with a line that works."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
import pytest
import scipy.sparse
import tensorstore
import torch
import xarray as xr
from torch import nn

import chunkinfer as ci
from chunkinfer.errors import ChunkinferError, VolumeError
from chunkinfer.volumes.volume import as_volume

h5py = pytest.importorskip("h5py")
nibabel = pytest.importorskip("nibabel")

V = np.random.default_rng(7).random((6, 8, 10), dtype="f4")
POINT = nn.Conv3d(1, 1, 1)
FLAT = nn.Conv2d(1, 1, 3, padding=1)


def unknown_chunks() -> da.Array:
    lazy = da.from_array(V, chunks=(3, 8, 10))
    return lazy[da.from_array(np.arange(6) % 2 == 0, chunks=3)]


def masked_blocks() -> da.Array:
    return da.ma.masked_greater(da.from_array(V, chunks=3), 0.5)


def tensor_store(place: str = "memory://") -> Any:
    metadata = {"shape": list(V.shape), "chunks": [8, 8, 8], "dtype": "<f4"}
    store = tensorstore.open({"driver": "zarr", "kvstore": place, "metadata": metadata, "create": True}).result()
    store.write(V).result()
    return store


def first_line(error: ChunkinferError) -> str:
    """The expression of the first way out."""
    line = error.ways[0].split(": ", 1)[-1] if not error.ways[0].startswith("volume") else error.ways[0]
    return re.sub(r"^volume = |, which runs.*$", "", line)


REFUSED: list[tuple[str, Callable[[], Any], str, Any]] = [
    ("masked", lambda: np.ma.masked_greater(V, 0.5), "masked", np.where(V > 0.5, 0, V)),
    ("masked blocks", masked_blocks, "masked", np.where(V > 0.5, 0, V)),
    ("unknown chunks", unknown_chunks, "unknown", V[::2]),
    ("tensor", lambda: torch.from_numpy(V).requires_grad_(), "Tensor of torch", V),
    ("list", V.tolist, "A list is no volume", V),
    ("image of nibabel", lambda: nibabel.Nifti1Image(V.T, np.eye(4)), "Nifti1Image of nibabel", V),
    ("sparse", lambda: scipy.sparse.csr_array(V[0]), "csr_array of scipy", V[0]),
    ("dict", lambda: {"em": V, "labels": V > 0}, "by name: em, labels", V),
]


@pytest.mark.parametrize(("make", "fact", "want"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_what_is_no_array_of_numbers_is_refused_with_a_line_that_works(
    make: Callable[[], Any], fact: str, want: Any
) -> None:
    volume = make()
    with pytest.raises(VolumeError, match=fact) as caught:
        ci.infer(volume, POINT)
    names = {"volume": volume, "numpy": np, "xarray": xr, "dask": dask}
    repaired = eval(first_line(caught.value), names)
    assert np.allclose(as_volume(repaired).array.compute(), want)


def test_a_tensorstore_is_refused_with_its_url(tmp_path: Path) -> None:
    for store, url in ((tensor_store(), "em.zarr"), (tensor_store(f"file://{tmp_path}/em.zarr/"), None)):
        with pytest.raises(VolumeError, match="absent chunks") as caught:
            ci.infer(store, POINT)
        assert np.array_equal(eval(caught.value.ways[1], {"volume": store}), V)
        if url is None:
            assert np.array_equal(eval(caught.value.ways[0], {"chunkinfer": ci}).values, V)


VERBS: dict[str, Callable[[Any], Any]] = {
    "infer": lambda v: ci.infer(v, POINT),
    "plan": lambda v: ci.plan(v, POINT),
    "save": lambda v: ci.save(v, "never.zarr"),
    "show": lambda v: ci.show(v, "never.png"),
    "statistics": ci.statistics,
    "components": ci.connected_components,
    "segment": lambda v: ci.segment(da.stack([v, v, v])),
    "gaussian": lambda v: ci.operators.gaussian(v, 1),
    "mask": lambda v: ci.infer(V[:3], POINT, mask=v),
}


CALLS = [(verb, labelled) for verb in VERBS for labelled in (False, True) if (verb, labelled) != ("segment", True)]
"""dask stacks its own arrays only."""


@pytest.mark.parametrize(("verb", "labelled"), CALLS)
def test_chunks_of_unknown_size_are_refused_by_every_verb(verb: str, labelled: bool) -> None:
    volume: Any = unknown_chunks()
    if labelled:
        volume = xr.DataArray(volume, dims=("z", "y", "x"))
    with pytest.raises(VolumeError, match="unknown"):
        VERBS[verb](volume)


def test_arrays_of_hdf5(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        dataset = file.create_dataset("em/raw", data=V)
        assert np.array_equal(as_volume(dataset).array.compute(), V)
        with pytest.raises(VolumeError, match="by name: raw") as caught:
            as_volume(file["em"])
        assert np.array_equal(as_volume(eval(caught.value.ways[0], {"volume": file["em"]})).array.compute(), V)
    with pytest.raises(VolumeError, match="closed"):
        as_volume(dataset)


def test_a_variable_of_xarray_has_named_axes() -> None:
    found = as_volume(xr.Variable(("x", "y", "z"), V.T))
    assert found.dims == ("z", "y", "x")
    assert np.array_equal(found.array.compute(), V)


# ---- DataArrays ---------------------------------------------------------------------------------------------------

RENAMES = [
    (("X", "Y", "Z"), ("x", "y", "z")),
    (("t", "Z", "Y", "X"), ("t", "z", "y", "x")),
    (("time", "channel", "Z", "Y", "X"), ("t", "c", "z", "y", "x")),
    (("plane", "row", "col"), ("z", "y", "x")),
    (("band", "y", "x"), ("c", "y", "x")),
    (("dim_0", "dim_1", "dim_2"), ("z", "y", "x")),
    (("lat", "lon"), ("y", "x")),
    (("x", "X", "y"), ("x", "z", "y")),
    (("Height", "Width", "Depth"), ("y", "x", "z")),
]


@pytest.mark.parametrize(("dims", "right"), RENAMES)
def test_one_rename_gives_all_axes(dims: tuple[str, ...], right: tuple[str, ...]) -> None:
    volume = xr.DataArray(np.arange(2 ** len(dims)).reshape([2] * len(dims)), dims=dims)
    with pytest.raises(VolumeError, match="known by name") as caught:
        as_volume(volume)
    renamed = eval(caught.value.ways[0], {"volume": volume})
    assert renamed.dims == right
    assert as_volume(renamed).dims == tuple(d for d in "tczyx" if d in right)


def test_names_that_are_no_text() -> None:
    volume = xr.DataArray(V).rename({"dim_0": 0, "dim_1": 1, "dim_2": "x"})
    with pytest.raises(VolumeError, match="known by name") as caught:
        as_volume(volume)
    assert eval(caught.value.ways[0], {"volume": volume}).dims == ("z", "y", "x")


def test_axes_beyond_five_are_selected() -> None:
    volume = xr.DataArray(np.zeros((2,) * 6), dims=("roi", "t", "c", "z", "y", "x"))
    with pytest.raises(VolumeError, match="roi") as caught:
        as_volume(volume)
    assert eval(caught.value.ways[0], {"volume": volume}).dims == ("t", "c", "z", "y", "x")


SIZES: list[tuple[Any, Any]] = [
    (None, (1, 1, 1)),
    ([], (1, 1, 1)),
    ({}, (1, 1, 1)),
    (8, (8, 8, 8)),
    (np.float32(8), (8, 8, 8)),
    ([40, 4, 4], (40, 4, 4)),
    (np.array([40, 4, 4.0]), (40, 4, 4)),
    ({"z": 40}, (40, 1, 1)),
    ({"z": np.float32(0.1), "y": np.int8(4)}, (0.1, 4, 1)),
    ("8x8x8 nm", None),
    ((4, 4), None),
    ((1, 40, 4, 4), None),
    ({"x": "4"}, None),
    (0, None),
    ({"z": -1}, None),
    (float("nan"), None),
    (True, None),
    (object(), None),
]


@pytest.mark.parametrize(("stated", "want"), SIZES, ids=[str(row[0])[:20] for row in SIZES])
def test_voxel_size_as_an_attribute(stated: Any, want: Any) -> None:
    volume = xr.DataArray(V, dims=("z", "y", "x"), attrs={"voxel_size": stated})
    if want is not None:
        assert tuple(as_volume(volume).frame.voxel_size.values()) == want
        return
    with pytest.raises(VolumeError, match="gives no size") as caught:
        as_volume(volume)
    for way in caught.value.ways:
        as_volume(eval(way.split(": ", 1)[-1] if way.startswith("leave") else way, {"volume": volume}))
    # Where coordinates tell the sizes, the attribute is not asked.
    placed = volume.assign_coords({d: np.arange(volume.sizes[d]) * 4.0 for d in volume.dims})
    assert set(as_volume(placed).frame.voxel_size.values()) == {4.0}


@pytest.mark.parametrize("unit", [None, ["nm"] * 3, {"z": "nm"}, 0, "", np.nan])
def test_what_is_no_text_is_no_unit(unit: Any, tmp_path: Path) -> None:
    volume = xr.DataArray(V, dims=("z", "y", "x"), attrs={"unit": unit})
    assert as_volume(volume).frame.unit == ""
    volume = volume.assign_coords(z=("z", np.arange(6.0), {"units": unit}), y=("y", np.arange(8.0), {"units": "um"}))
    assert as_volume(volume).frame.unit == "um"


def test_a_unit_of_intensities_is_no_unit_of_positions(tmp_path: Path) -> None:
    for unit, told in (("counts", ""), ("um", "um")):
        with h5py.File(tmp_path / f"{unit}.h5", "w") as file:
            file["raw"] = V
            file["raw"].attrs.update({"resolution": [40.0, 4.0, 4.0], "unit": unit})
        assert as_volume(ci.open_volume(tmp_path / f"{unit}.h5")).frame.unit == told


DATES = np.arange("2020-01-01", "2020-01-07", dtype="datetime64[D]")


@pytest.mark.parametrize("positions", [DATES, DATES - DATES[0], [str(i) for i in range(6)]], ids=lambda p: str(p)[:15])
def test_dates_and_texts_are_no_positions(positions: Any) -> None:
    with pytest.raises(VolumeError, match="not numbers"):
        as_volume(xr.DataArray(V, dims=("z", "y", "x"), coords={"z": positions}))


# ---- sections, one by one -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 5])
def test_results_of_sections_put_together_lie_where_the_volume_does(count: int) -> None:
    places = {
        d: (k + np.arange(n)) * s for d, n, k, s in zip("zyx", V.shape, (10, -3, 0), (40.0, 4.0, 4.0), strict=True)
    }
    volume = xr.DataArray(V, dims=("z", "y", "x"), coords=places, attrs={"voxel_size": [40, 4, 4], "unit": "nm"})
    volume = volume.assign_coords(session=3)[:count]
    parts = [ci.infer(volume.isel(z=z), FLAT) for z in range(count)]
    assert float(parts[0].z) == 400
    assert parts[0].session == 3
    joined = as_volume(xr.concat(parts, "z"))
    assert joined.frame == as_volume(volume).frame
    steps = [ci.operators.gaussian(volume.isel(z=z), 1) for z in range(count)]
    assert as_volume(xr.concat(steps, "z")).frame == as_volume(volume).frame


def test_one_section_is_no_volume_of_objects() -> None:
    section = V[0] > 0.5
    with pytest.raises(VolumeError, match="has two axes") as caught:
        ci.connected_components(section)
    volume = eval(caught.value.ways[0].split(" is ")[0], {"volume": section})
    assert as_volume(volume, 3).space_shape == (1, 8, 10)
    labelled = xr.DataArray(section, dims=("y", "x"))
    with pytest.raises(VolumeError, match="has two axes") as caught:
        ci.connected_components(labelled)
    assert 'expand_dims("z")' in caught.value.ways[0]


READS: dict[str, Callable[[Any, Path], Any]] = {
    "infer by reading": lambda v, place: ci.infer(v, POINT, patch=2, exchange=False).compute(),
    "infer by exchanging": lambda v, place: ci.infer(v, POINT, patch=2, exchange=True).compute(),
    "operator": lambda v, place: ci.operators.gaussian(v, 1).compute(),
    "statistics": lambda v, place: ci.statistics((v * 9).astype("u1"), progress=False),
    "save": lambda v, place: ci.save(v, place / "out.zarr", progress=False),
    "components": lambda v, place: ci.connected_components(v > 0.5, progress=False).labels.compute(),
}


@pytest.mark.parametrize("verb", READS)
@pytest.mark.parametrize(
    "wrong", [lambda b: b[:-1], lambda b: b[:1], lambda b: b[0], lambda b: b[None], lambda b: b.T], ids=range(5)
)
def test_blocks_of_another_shape_than_declared_are_refused(
    verb: str, wrong: Callable[[Any], Any], tmp_path: Path
) -> None:
    lazy = da.from_array(V, chunks=(2, 4, 5))
    lying = lazy.map_blocks(wrong, dtype="f4", chunks=lazy.chunks, meta=np.empty((0, 0, 0), "f4"))
    with pytest.raises(ChunkinferError, match=r"of the volume declares the shape \(.*\), and has \("):
        READS[verb](lying, tmp_path)
    with dask.config.set(scheduler="synchronous"):
        READS[verb](lazy, tmp_path / "right")


def test_a_turned_block_is_not_stored(tmp_path: Path) -> None:
    """Of blocks that are stored as they are computed; reshaped, it would have the right number of voxels."""
    lazy = da.zeros((64, 256, 256), chunks=(32, 256, 256), dtype="f4")
    turned = lazy.map_blocks(np.transpose, dtype="f4", chunks=lazy.chunks)
    ci.save(lazy, tmp_path / "right.zarr", chunks=(32, 64, 64), progress=False)
    with pytest.raises(ChunkinferError, match=r"declares the shape \(32, 256, 256\), and has \(256, 256, 32\)"):
        ci.save(turned, tmp_path / "turned.zarr", chunks=(32, 64, 64), progress=False)


class Foreign:
    """An array that numpy's functions refuse, and that can only be converted."""

    def __init__(self, values: Any) -> None:
        self.values, self.shape, self.dtype, self.ndim = values, values.shape, values.dtype, values.ndim

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        return np.asarray(self.values, dtype)

    def __getitem__(self, key: Any) -> Foreign:
        return Foreign(self.values[key])

    def __array_function__(self, *_: Any) -> Any:
        return NotImplemented

    def __array_ufunc__(self, *_: Any, **__: Any) -> Any:
        return NotImplemented


def test_an_array_that_only_converts_is_read() -> None:
    values = np.random.default_rng(0).random((8, 12, 12), np.float32)
    net = nn.Conv3d(1, 1, 3, padding=1).eval()
    np.testing.assert_array_equal(ci.infer(Foreign(values), net).compute(), ci.infer(values, net).compute())
