"""Ways out of errors about volumes, their axes, their masks and what their voxels are."""

from __future__ import annotations

import shutil
from pathlib import Path

import h5py
import nibabel
import numpy as np
import pytest
import scipy.sparse
import tensorstore
import torch
import xarray as xr
from dask import array as da
from matplotlib import image

import chunkinfer as ci
from tests.lib.ways.rows import (
    AFFINITIES,
    LABELS,
    NAMES,
    NET,
    VOLUME,
    VOXELS,
    Row,
    each,
    infer,
    refusals,
    row,
    settings,
)

FLAT = torch.nn.Conv2d(1, 1, 1).eval()
FIVE = VOXELS[None, None]
SIZED = VOLUME.isel(z=slice(0, 1)).assign_coords(y=np.arange(12) * 4.0, x=np.arange(12) * 4.0)
WRONG_SIZE = SIZED.assign_attrs(voxel_size="8 nm")
FALLEN = VOLUME.isel(y=5)
PLACED = VOLUME.assign_coords({d: np.arange(n) * 1.0 for d, n in VOLUME.sizes.items()}).assign_attrs(unit="nm")
MASK = PLACED > 0.5
CUBITS = MASK.assign_attrs(unit="cubit")
COUNTED = MASK.rename(z="section")
SECTION = VOLUME[3]


def opened(url: str = "em.zarr", **given: object) -> object:
    return ci.open_volume(url, **given)  # type: ignore[arg-type]


def audited(volume: object) -> object:
    """Of an output that another volume's network made."""
    ci.save(ci.infer(VOLUME, NET), "output.zarr", progress=False, overwrite=True)
    return ci.audit("output.zarr", volume, NET)


VOLUMES = [
    row("does not give slices of the axes", 2, opened, box=3),
    row("box= takes [0:99:None] of axis z", 1, opened, box={"z": slice(0, 99)}),
    row("is one section", 1, audited, volume=VOXELS[0]),
    row("has two axes", 2, NAMES["region_graph"], labels=LABELS[:1], affinities=VOXELS[0]),
    settings("An array of 5 axes", 2, volume=FIVE),
    settings("mask= cannot be used. An array of 4 axes", 2, volume=SECTION, mask=MASK.data[:, None], model=FLAT),
    settings("An array of 1 axes", 0, volume=VOXELS[0, 0]),
    settings("an image has at least y and x", 1, volume=FALLEN),
    settings("is not one of", 1, volume=COUNTED),
    settings("gives no size along z", 2, volume=WRONG_SIZE),
]

KINDS = [
    row("has two axes", 2, NAMES["segment"], affinities=VOXELS[0]),
    row("has two axes", 2, NAMES["segment"], affinities=SECTION),
    row("has two axes", 2, NAMES["connected_components"], volume=LABELS[0] > 3),
]

MASKS = [
    settings("is not a known length", 1, mask=CUBITS, volume=PLACED),
    settings("mask= cannot be used. The volume's axes", 1, mask=COUNTED, volume=PLACED),
    row("mask= cannot be used. A Dataset", 1, infer, {"dataset": xr.Dataset({"a": MASK})}, model=NET,
        mask=xr.Dataset({"a": MASK}), volume=PLACED),
    settings("mask= cannot be used. An array of 2 axes", 1, mask=MASK.data[0], volume=PLACED),
    settings("The mask's spatial axes", 1, mask=MASK[0], volume=PLACED),
    settings("The mask's spatial axes", 1, mask=MASK, volume=PLACED[0], model=FLAT),
    settings("The mask's spatial axes", 1, mask="em.zarr", volume=SECTION, model=FLAT),
    settings("begins at", 2, mask=MASK.astype("u1").coarsen(z=2, y=2, x=2).max(), volume=PLACED),
    settings("The mask is NaN", 2, mask=VOLUME.where(VOLUME > 0.5).data),
    settings("The mask is NaN", 2, mask=PLACED.where(PLACED > 0.5), volume=PLACED),
]  # fmt: skip


@pytest.mark.parametrize("row", each({"volumes": VOLUMES, "kinds": KINDS, "masks": MASKS}, ("volumes",)))
def test_lines_about_volumes(row: Row, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "stack").mkdir()
    for z in range(2):
        image.imsave(tmp_path / "stack" / f"{z}.png", np.zeros((4, 4)))
    refusals(row, tmp_path, monkeypatch)


LAZY = da.from_array(VOXELS, chunks=4)
ROWS = da.from_array(VOXELS[0], chunks=6)
UNKNOWN = LAZY[LAZY[:, 0, 0] > 0.5]
MASKED = np.ma.masked_less(VOXELS, 0.5)
ARRAYS = [
    settings("of dtype complex64", 2, volume=VOXELS.astype("c8")),
    settings("of dtype complex64", 2, volume=VOLUME.astype("c8")),
    settings("of dtype <U", 0, volume=VOXELS.astype("U")),
    settings("of dtype datetime64", 1, volume=VOXELS.astype("i8").astype("M8[ns]")),
    settings("no voxels along z", 0, volume=VOLUME[:0]),
    settings("The sizes of the array's chunks are unknown", 2, volume=UNKNOWN),
    settings("The array is masked", 2, volume=MASKED),
    settings("The array is masked", 2, volume=da.from_array(MASKED, chunks=4)),
    settings("The blocks of the array are of scipy", 1, volume=ROWS.map_blocks(scipy.sparse.csr_array), model=FLAT),
    settings("holds arrays by name", 2, volume={"a": VOXELS, "b": VOXELS}),
    settings("holds arrays by name: none", 1, volume={}),
    settings("A list is no volume", 2, volume=VOXELS.tolist()),
    settings("A NoneType is no volume", 1, volume=None),
    settings("A Tensor of torch is no volume", 2, volume=torch.from_numpy(VOXELS)),
    settings("of scipy is no volume", 2, volume=scipy.sparse.csr_array(VOXELS[0]), model=FLAT),
    settings("of nibabel is no volume", 2, volume=nibabel.Nifti1Image(VOXELS.T, np.eye(4))),
]


@pytest.mark.parametrize("row", each({"arrays": ARRAYS}))
def test_lines_about_arrays(row: Row, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = row._replace(names={"nibabel": nibabel, "da": da})
    refusals(row, tmp_path, monkeypatch)


@pytest.mark.slow
def test_lines_about_arrays_in_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with h5py.File(tmp_path / "em.h5", "w") as file:
        file["raw"] = VOXELS
        closed = file["raw"]
    refusals(settings("of HDF5 is closed", 1, volume=closed), tmp_path, monkeypatch)
    shutil.rmtree(tmp_path / "skeletons")
    spec = {"driver": "zarr3", "kvstore": f"file://{tmp_path / 'em.zarr'}"}
    refusals(settings("A TensorStore is no volume", 2, volume=tensorstore.open(spec).result()), tmp_path, monkeypatch)
    shutil.rmtree(tmp_path / "skeletons")
    held = tensorstore.array(VOXELS)
    refusals(settings("A TensorStore is no volume", 1, volume=held), tmp_path, monkeypatch)


@pytest.mark.slow
def test_lines_about_a_mask_in_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from distributed import Client

    with Client(processes=False, dashboard_address=None):
        mask = (AFFINITIES[0] > 0.5).chunk(4).persist()
        refusals(settings("in the memory of dask's workers", 2, mask=mask), tmp_path, monkeypatch)
    assert np.array_equal(ci.open_volume(tmp_path / "mask.zarr").values, AFFINITIES[0] > 0.5)
