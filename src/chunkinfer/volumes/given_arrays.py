"""Arrays as people bring them, as dask arrays; what is no array of numbers in known places is refused."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import dask.array as da
import numpy as np

from chunkinfer.errors import VolumeError

CONVERSIONS = {
    "torch": "volume.detach().cpu().numpy()",
    "cupy": "volume.get()",
    "sparse": "volume.todense()",
    "scipy": "volume.toarray()",
    "SimpleITK": "SimpleITK.GetArrayFromImage(volume)",
    "nibabel": "xarray.DataArray(numpy.asarray(getattr(volume, 'dataobj', volume)), dims=('x', 'y', 'z'))",
}
"""Library -> the line that makes an array of its arrays, which do not turn into one by themselves, or not in numpy's
order."""

CASTS = {
    "c": ["take its magnitude: abs(volume)", "take its real part: volume.real"],
    "M": ["count from 1970: volume.astype('int64')", "choose another array"],
    "m": ["count: volume.astype('int64')", "choose another array"],
}
"""Kind of a dtype that no voxels have -> how numbers are made of it."""


def lazy_array(array: Any) -> da.Array:
    """A dask, zarr, numpy, h5py or similar array as a dask array; nothing is computed.

    Raises
    ------
    VolumeError
        It is no such array, its values are masked, the sizes of its chunks are unknown, or it is empty or not numeric.
    """
    module = type(array).__module__.partition(".")[0]
    if isinstance(array, da.Array):
        _check_blocks(array)
    elif isinstance(array, np.ma.MaskedArray):
        raise _masked("volume.filled(0)", "volume.data")
    elif module == "h5py" and not array:
        raise _closed(array)
    elif module == "tensorstore":
        raise _tensorstore(array)
    elif module in CONVERSIONS or not (isinstance(getattr(array, "dtype", None), np.dtype) and hasattr(array, "shape")):
        raise _no_array(array, module)
    check_voxels(array)
    if isinstance(array, da.Array):
        return array
    return da.from_zarr(array) if module == "zarr" else _in_memory(array)


def check_voxels(volume: Any, names: Sequence[str] = ()) -> None:
    """Refuse what is no image, before anything is made of it; ``names`` are those of its axes, if they are known."""
    if np.dtype(volume.dtype).kind not in "biuf":
        raise VolumeError(
            f"A volume of dtype {volume.dtype} is no image.",
            "Voxels are integers or floating-point numbers.",
            CASTS.get(np.dtype(volume.dtype).kind, ["convert its values to numbers first", "choose another array"]),
        )
    names = names or ("t", "c", "z", "y", "x")[-len(volume.shape) :]
    for name, n in zip(names, volume.shape[-len(names) :], strict=False):
        if n < 1:
            raise VolumeError(
                f"The volume has no voxels along {name}.",
                "A selection came out empty.",
                ["look at volume.shape", "select a range that lies inside the volume"],
            )


class _Whole(np.ndarray[Any, Any]):
    """An array in memory that dask leaves whole: it cuts others when it sees them, and then each block's task carries
    its part, instead of one copy for each worker."""

    def __getitem__(self, key: Any) -> Any:
        return self.view(np.ndarray)[key]


def _in_memory(array: Any) -> da.Array:
    """An array that is read by boxes, as a dask array."""
    meta = np.empty((0,) * len(array.shape), array.dtype)
    lazy: da.Array = da.from_array(array.view(_Whole) if type(array) is np.ndarray else array, meta=meta)
    return lazy


def _check_blocks(array: da.Array) -> None:
    """Refuse chunks of unknown size, and blocks that are no plain arrays."""
    if np.isnan([size for sizes in array.chunks for size in sizes]).any():
        raise VolumeError(
            f"The sizes of the array's chunks are unknown: its shape is {array.shape}.",
            "It was selected by a lazy condition, or comes from a table; where a voxel lies is not known either.",
            ["run the selection: volume.compute_chunk_sizes()", "if it fits into memory: volume.compute()"],
        )
    meta = getattr(array, "_meta", None)
    if isinstance(meta, np.ma.MaskedArray):
        raise _masked("dask.array.ma.filled(volume, 0)", "dask.array.ma.getdata(volume)")
    module = type(meta).__module__.partition(".")[0]
    if module in CONVERSIONS:
        line = CONVERSIONS[module].replace("volume", "block")
        raise VolumeError(
            f"The blocks of the array are of {module}: {type(meta).__name__}.",
            "A volume's blocks are numpy arrays.",
            [
                f"volume.map_blocks(lambda block: {line}, dtype=volume.dtype, meta=numpy.array(()))",
                "store it as zarr, and give its URL",
            ],
        )


def _masked(filled: str, under: str) -> VolumeError:
    return VolumeError(
        "The array is masked.",
        "A network takes numbers, and what lies under the mask is arbitrary.",
        [f"say what the masked voxels are: {filled}", f"use what lies under the mask: {under}"],
    )


def _closed(given: Any) -> VolumeError:
    return VolumeError(
        f"The {type(given).__name__} of HDF5 is closed.",
        "Blocks are read later, when they are computed.",
        [
            "give its file, which is opened where it is read: chunkinfer.open_volume('em.h5', array='raw')",
            "compute inside of with",
        ],
    )


def _no_array(given: Any, module: str) -> VolumeError:
    if hasattr(given, "keys"):  # a dict, a group of zarr or HDF5, an archive of numpy
        names = list(map(str, given.keys()))
        return VolumeError(
            f"A {type(given).__name__} holds arrays by name: {', '.join(names[:20]) or 'none'}.",
            "A verb works on one volume.",
            [f"volume[{name!r}]" for name in names[:2]] or ['chunkinfer.open_volume("em.zarr")'],
        )
    listed = "numpy.asarray(volume)" if isinstance(given, list | tuple) or hasattr(given, "__array__") else None
    line = CONVERSIONS.get(module, listed)
    return VolumeError(
        f"A {type(given).__name__} {f'of {module} ' if module in CONVERSIONS else ''}is no volume.",
        "A volume is an xarray.DataArray, a dask, zarr or numpy array, or a URL.",
        [line or "make an array of it", 'where it is stored: chunkinfer.open_volume("em.zarr")'],
    )


def _tensorstore(store: Any) -> VolumeError:
    url = str(store.kvstore.url) if store.kvstore is not None else ""
    known = url.startswith(("file://", "s3://", "gs://", "http://", "https://"))
    return VolumeError(
        "A TensorStore is no volume: it is open in this process only, and reads absent chunks as fill values.",
        "Workers open a volume by its URL, and an absent chunk is an error.",
        [
            f"chunkinfer.open_volume({url.rstrip('/')!r})" if known else "store it where all workers reach it",
            "volume.read().result()",
        ],
    )
