"""Operators that look at a voxel's surroundings; at the volume's faces the nearest voxel stands for what is beyond."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from chunkinfer.errors import VolumeError
from chunkinfer.support.tokens import keep_tokens
from chunkinfer.volumes.operators.applying import applied, imported
from chunkinfer.volumes.operators.arguments import lengths, whole_numbers
from chunkinfer.volumes.operators.around import Local
from chunkinfer.volumes.operators.contrast import Clahe
from chunkinfer.volumes.operators.lazy import Declared, opened, result_of

__all__ = ["apply", "clahe", "gaussian", "median"]

TRUNCATE = 4.0
"""Standard deviations at which a Gaussian ends."""


def gaussian(volume: Any, sigma: float | Sequence[float], *, unit: str = "voxels") -> Any:
    """Smooth with a Gaussian that ends at four standard deviations: float64 of float64, float32 of all else.

    Parameters
    ----------
    volume
        Of any type.
    sigma
        Standard deviation, one number or (z, y, x).
    unit
        "voxels", or "physical": sigma is in the unit of the voxel size.
    """
    found = opened(volume)
    each = lengths("sigma", sigma, found.frame, unit)
    lead = (0.0,) * (found.array.ndim - len(each))
    halo = tuple(int(TRUNCATE * s + 0.5) for s in (*lead, *each))
    dtype = np.dtype("f8" if found.array.dtype == np.float64 else "f4")
    step = Local(partial(_gaussian, sigma=(*lead, *each), dtype=dtype), halo, found.array.shape)
    return result_of(step, found, Declared.like(found, dtype))


def median(volume: Any, size: int | Sequence[int] = 3) -> Any:
    """The median of a box around each voxel.

    Parameters
    ----------
    volume
        Of any type.
    size
        Odd voxels of the box, one number or (z, y, x).
    """
    found = opened(volume)
    each = whole_numbers("size", size, found.frame.space, least=1)
    if any(n % 2 == 0 for n in each):
        raise VolumeError(f"size={size!r} is not odd.", "The voxel lies in the middle of its box.",
                          ["size=3", "size=(1, 3, 3)"])  # fmt: skip
    whole = (1,) * (found.array.ndim - len(each)) + each
    step = Local(partial(_median, size=whole), tuple(n // 2 for n in whole), found.array.shape)
    return result_of(step, found, Declared.like(found))


def clahe(volume: Any, *, tile: int | Sequence[int] = 64, clip: float = 0.01) -> Any:
    """Equalise contrast around each voxel, in each section: adaptive histograms with limited contrast.

    Tiles lie on one grid from the volume's voxel 0, and a voxel is mapped by the histograms of the four tiles around it
    (Pizer et al. 1987; Zuiderveld 1994), so no cut changes the result.

    Parameters
    ----------
    volume
        Integers of at most 16 bits, or floats in [0, 1]; NaN counts as 0.
    tile
        Voxels of a tile, one number or (y, x).
    clip
        Share of a tile's voxels that one of its 256 bins keeps; the others are spread over all.

    Returns
    -------
    float32 volume in [0, 1].
    """
    found = opened(volume)
    kind = found.array.dtype
    if kind.kind in "iu" and kind.itemsize > 2:
        raise VolumeError(f"clahe does not take {kind}.", "Its 256 bins lie over the whole range of a type.",
                          ["clahe(normalize(volume))", 'clahe(cast(volume, "uint16"))'])  # fmt: skip
    height, width = whole_numbers("tile", tile, found.frame.space[-2:], least=2)
    if not 0 < clip <= 1:
        raise VolumeError(f"clip={clip!r} is no share.", "It lies above 0 and is at most 1.",
                          ["clip=0.01", "clip=1 clips nothing"])  # fmt: skip
    step = Clahe((height, width), float(clip), found.array.shape)
    return result_of(step, found, Declared.like(found, "f4"))


def apply(
    volume: Any, function: Any, *, halo: int | Sequence[int] = 0, dtype: DTypeLike | None = None, **parameters: Any
) -> Any:
    """Any function of numpy arrays that keeps the shape: your own operator.

    Parameters
    ----------
    volume
        Of any kind.
    function
        Takes the voxels of a box with its halo, (c, z, y, x) with all channels or (z, y, x), and returns as many;
        called in workers. At the volume's faces the box ends there. Or its name, "module:function", which is imported.
    halo
        Voxels that it looks at around each, one number or (z, y, x). Too few of them are seams.
    dtype
        Of the result; the volume's by default.
    parameters
        Passed to the function.

    Raises
    ------
    OutputError
        While it is computed: the function gave another shape, or a type that ``dtype`` cannot hold.
    """
    found = opened(volume)
    each = whole_numbers("halo", halo, found.frame.space)
    channels = found.array.shape[: found.array.ndim - len(each)]  # as a halo: the function sees all of them
    call = imported(function) if isinstance(function, str) else function
    if not callable(call):
        raise VolumeError(f"{call!r} is no function.", "It takes and returns numpy arrays.",
                          ["apply(volume, numpy.sqrt)", 'apply(volume, "numpy:sqrt")'])  # fmt: skip
    declared = Declared.like(found, dtype)
    step = Local(
        partial(applied, function=call, dtype=declared.dtype, **parameters), (*channels, *each), found.array.shape
    )
    return result_of(step, found, declared)


def _gaussian(voxels: NDArray[Any], sigma: tuple[float, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    from scipy.ndimage import gaussian_filter

    found: NDArray[Any] = gaussian_filter(voxels.astype(dtype, copy=False), sigma, mode="nearest", truncate=TRUNCATE)
    return found


def _median(voxels: NDArray[Any], size: tuple[int, ...]) -> NDArray[Any]:
    from scipy.ndimage import median_filter

    half = voxels.dtype == np.float16  # which scipy does not take
    found = median_filter(voxels.astype(np.float32) if half else voxels, size, mode="nearest")
    return np.asarray(found, voxels.dtype)


keep_tokens(globals(), "chunkinfer.operators.filters")
