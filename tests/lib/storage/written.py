"""What other libraries write: files, stacks of pictures, N5."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

h5py = pytest.importorskip("h5py")
mrcfile = pytest.importorskip("mrcfile")
nibabel = pytest.importorskip("nibabel")
tifffile = pytest.importorskip("tifffile")
Image = pytest.importorskip("PIL.Image")

Array = np.ndarray[Any, Any]
RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 60000, (5, 40, 50), dtype="u2")
COLOUR = RNG.integers(0, 255, (3, 3, 20, 30), dtype="u1")
"""(c, z, y, x)"""


def tif(voxels: Array, **options: Any) -> Callable[[Path], None]:
    return lambda path: tifffile.imwrite(path, voxels, **{"photometric": "minisblack", **options})


def h5(voxels: Array, name: str = "volumes/raw", **options: Any) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        with h5py.File(path, "w") as file:
            file.create_dataset(name, data=voxels, **options)

    return write


def nii(voxels: Array, kind: Any = None) -> Callable[[Path], None]:
    """Voxels are (z, y, x), and stored as (x, y, z)."""
    return lambda path: nibabel.save((kind or nibabel.Nifti1Image)(voxels.T, np.eye(4)), path)


def mrc(voxels: Array, **header: int) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        with mrcfile.new(path) as file:
            file.set_data(voxels)
            for name, value in header.items():
                file.header[name] = value

    return write


OME = {"axes": "ZYX"}
FILES: dict[str, tuple[Callable[[Path], None], Array]] = {
    "plain.tif": (tif(GREY), GREY),
    "one_page.tif": (tif(GREY[0]), GREY[0]),
    "big_endian.tif": (tif(GREY, byteorder=">"), GREY),
    "strips.tif": (tif(GREY, rowsperstrip=7), GREY),
    "zlib.tif": (tif(GREY, rowsperstrip=7, compression="zlib"), GREY),
    "lzw.tif": (tif(GREY, compression="lzw", predictor=True), GREY),
    "zstd.tif": (tif(GREY, tile=(16, 32), compression="zstd"), GREY),
    "tiles.tif": (tif(GREY, tile=(16, 32)), GREY),
    "float.tif": (
        tif((GREY / 3).astype("f4"), tile=(16, 16), compression="zlib", predictor=True),
        (GREY / 3).astype("f4"),
    ),
    "bits.tif": (tif(GREY > 30000), GREY > 30000),
    "big.tif": (tif(GREY, bigtiff=True, metadata=None), GREY),
    "imagej.tif": (tif(GREY, imagej=True, metadata={"axes": "ZYX"}), GREY),
    "hyperstack.tif": (
        tif(COLOUR.transpose(1, 0, 2, 3), imagej=True, metadata={"axes": "ZCYX"}),
        COLOUR,
    ),
    "ome.tif": (tif(COLOUR, ome=True, metadata={"axes": "CZYX"}, compression="zlib"), COLOUR),
    "times.ome.tif": (tif(GREY[:, None], ome=True, metadata={"axes": "TZYX"}), GREY),
    "colour.tif": (tif(COLOUR.transpose(1, 2, 3, 0), photometric="rgb", tile=(16, 16)), COLOUR),
    "planes.tif": (
        tif(COLOUR.swapaxes(0, 1), photometric="rgb", planarconfig="separate", compression="zlib"),
        COLOUR,
    ),
    "chunks.h5": (h5(GREY, chunks=(2, 16, 16), compression="gzip", shuffle=True), GREY),
    "contiguous.hdf5": (h5(GREY.astype(">f8"), name="main"), GREY.astype("f8")),
    "bits.h5": (h5(COLOUR > 99), COLOUR > 99),
    "one.nii": (nii(GREY), GREY),
    "two.nii": (nii(GREY.astype(">i2"), nibabel.Nifti2Image), GREY.astype("i2")),
    "times.nii": (nii(COLOUR), COLOUR),
    "zipped.nii.gz": (nii(GREY), GREY),
    "int16.mrc": (mrc(GREY.astype("i2")), GREY.astype("i2")),
    "half.rec": (mrc(GREY.astype("f2")), GREY.astype("f2")),
    "turned.map": (mrc(GREY, mapc=3, mapr=1, maps=2), GREY.transpose(2, 0, 1)),
    "c.npy": (lambda path: np.save(path, GREY), GREY),
    "fortran.npy": (lambda path: np.save(path, np.asfortranarray(GREY)), GREY),
}
"""File -> what writes it, and what it shall hold in the order (t, c, z, y, x)."""


# Sections

VOXELS = np.random.default_rng(0).integers(1, 255, (6, 20, 30), dtype="u1")


def picture_file(path: Path, picture: np.ndarray[Any, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".tif":
        tifffile.imwrite(path, picture, compression="zlib")
    else:
        Image.fromarray(picture).save(path)


def stack(folder: Path, names: Sequence[str], voxels: np.ndarray[Any, Any] = VOXELS) -> Path:
    for name, picture in zip(names, voxels, strict=False):
        picture_file(folder / name, picture)
    return folder


# N5

ARRAY = np.random.default_rng(0).integers(1, 60000, (10, 20, 30), dtype="u2")


def n5(folder: Path, array: np.ndarray[Any, Any] = ARRAY, **attributes: Any) -> Path:
    """An array in numpy order as N5 stores it: x first."""
    import tensorstore as ts

    meta = {
        "dimensions": array.shape[::-1],
        "blockSize": [8] * array.ndim,
        "dataType": array.dtype.name,
        "compression": {"type": "gzip"},
    }
    spec = {"driver": "n5", "kvstore": {"driver": "file", "path": f"{folder}/"}, "metadata": meta}
    ts.open(spec, create=True).result()[...].write(array.T).result()
    path = folder / "attributes.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **attributes}))
    return folder
