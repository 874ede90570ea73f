"""Histograms of whole volumes and of sections: integer sums, so no cut changes them."""

from __future__ import annotations

from typing import Any

import dask.array as da
import numpy as np
from numpy.typing import NDArray

from chunkinfer.errors import VolumeError
from chunkinfer.support.payload import networks_of
from chunkinfer.volumes.volume import Volume

BINS = 2**16
"""Of values that are not integers of 16 bits or fewer, between the least and the largest."""


def limits_of(
    volume: Volume, percentile: tuple[float, float], sections: bool
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The values up to which two shares of the voxels lie: one pair, or one for each section along z.

    Of integers of at most 16 bits the values are exact, those of numpy's ``percentile(..., method="inverted_cdf")``,
    and one pass finds them. Otherwise they are the lower edge of one of 65,536 equal bins between the least and the
    largest finite voxel, which takes two passes.

    Raises
    ------
    VolumeError
        The volume is a network's output that is not stored, or holds no finite voxel.
    """
    array = volume.array
    if networks_of(array.dask):
        raise VolumeError(
            "Percentiles of a network's output would run the network now, and again when the result is stored.",
            "They are found in a pass of their own over the volume.",
            ["normalize(volume, range=(0, 1))", 'save(volume, "output.zarr") first, and open that'],
        )
    if array.dtype.kind == "b":
        least, width, bins = 0.0, 1.0, 2
    elif array.dtype.kind in "iu" and array.dtype.itemsize <= 2:
        info = np.iinfo(array.dtype)
        least, width, bins = float(info.min), 1.0, int(info.max) - int(info.min) + 1
    else:
        least, most = _extremes(array)
        least, width, bins = least, (most - least) / BINS or 1.0, BINS
    counts = _counts(volume, least, width, bins, sections)
    low, high = (least + width * _below(counts, share) for share in percentile)
    return low, high


def _extremes(array: da.Array) -> tuple[float, float]:
    """The least and the largest finite voxel."""
    chunks = (*((1,) * len(axis) for axis in array.chunks), (2,))
    each = da.map_blocks(
        _extremes_of, array, chunks=chunks, new_axis=array.ndim, dtype="f8", meta=np.empty((0,) * (array.ndim + 1))
    )
    found = each.compute().reshape(-1, 2)
    least, most = float(found[:, 0].min()), float(found[:, 1].max())
    if least > most:
        raise VolumeError(
            "The volume holds no finite voxel.",
            "All of it is NaN or infinite, so there are no percentiles.",
            ["normalize(volume, range=(0, 1))", "look at the volume: numpy.isfinite(volume).any()"],
        )
    return least, most


def _extremes_of(voxels: NDArray[Any]) -> NDArray[np.float64]:
    finite = voxels[np.isfinite(voxels)]
    pair = (finite.min(), finite.max()) if finite.size else (np.inf, -np.inf)
    return np.asarray(pair, "f8").reshape((1,) * voxels.ndim + (2,))


def _counts(volume: Volume, least: float, width: float, bins: int, sections: bool) -> NDArray[np.int64]:
    """(sections or 1, bins)."""
    array = volume.array
    z = volume.dims.index("z") if sections else None
    sizes = [axis if d == z else (1,) * len(axis) for d, axis in enumerate(array.chunks)]
    counts = da.map_blocks(
        _histogram, array, z, least, width, bins,
        chunks=(*sizes, (bins,)), new_axis=array.ndim, dtype=np.int64, meta=np.empty((0,) * (array.ndim + 1), np.int64),
    )  # fmt: skip
    found: NDArray[np.int64] = counts.sum(axis=tuple(d for d in range(array.ndim) if d != z)).compute()
    return found.reshape(-1, bins)


def _histogram(voxels: NDArray[Any], z: int | None, least: float, width: float, bins: int) -> NDArray[np.int64]:
    """Of a block: one along each of its axes, but along z as many as sections are asked for."""
    rows = [voxels] if z is None else list(np.moveaxis(voxels, z, 0))
    found = np.zeros((len(rows), bins), np.int64)
    for row, part in zip(found, rows, strict=True):
        flat = part.ravel()
        if flat.dtype.kind == "f":
            flat = flat[np.isfinite(flat)]
        index = np.clip((flat.astype(np.float64) - least) / width, 0, bins - 1).astype(np.intp)
        row += np.bincount(index, minlength=bins)
    return found.reshape([len(rows) if d == z else 1 for d in range(voxels.ndim)] + [bins])


def _below(counts: NDArray[np.int64], share: float) -> NDArray[np.float64]:
    """For each row: the first bin up to which at least so many percent lie."""
    sums = counts.cumsum(axis=1)
    wanted = np.maximum(1, np.ceil(sums[:, -1:] * (share / 100)))
    return np.asarray((sums >= wanted).argmax(axis=1), np.float64)
