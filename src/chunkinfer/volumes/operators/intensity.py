"""Operators on values: contrast, type, thresholds."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from math import isfinite
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from chunkinfer.errors import VolumeError
from chunkinfer.support.tokens import keep_tokens
from chunkinfer.volumes.operators.arguments import number
from chunkinfer.volumes.operators.histograms import limits_of
from chunkinfer.volumes.operators.lazy import Declared, opened, voxelwise

__all__ = ["cast", "dequantize", "invert", "normalize", "quantize", "threshold"]


def normalize(
    volume: Any,
    *,
    range: Sequence[float] | None = None,
    percentile: Sequence[float] | None = None,
    sections: bool = False,
) -> Any:
    """Stretch contrast: low to 0, high to 1, what lies outside is clipped. NaN stays NaN.

    Parameters
    ----------
    volume
        Of any type.
    range
        ``(low, high)``, in the volume's values.
    percentile
        ``(low, high)`` in percent: the values up to which these shares of the voxels lie. They are found by histograms,
        in a first pass over the volume when this is called. 1 and 99 where neither is given.
    sections
        Percentiles of each section along z instead of the whole volume, for sections of changing brightness.

    Returns
    -------
    float32 volume in [0, 1].
    """
    found = opened(volume)
    if range is not None and (percentile is not None or sections):
        raise VolumeError(
            "normalize got range= and percentiles.",
            "The limits are either given or found.",
            ["normalize(volume, range=(0, 255))", "normalize(volume, percentile=(1, 99))"],
        )
    if range is not None:
        low, high = _ordered("range", range)
        return voxelwise(partial(_stretched, low=low, high=high), found, Declared.like(found, "f4"))
    shares = _ordered("percentile", (1, 99) if percentile is None else percentile, most=100)
    sections = sections and "z" in found.dims  # an image is a section
    lows, highs = limits_of(found, shares, sections)
    if not sections:
        function = partial(_stretched, low=float(lows[0]), high=float(highs[0]))
        return voxelwise(function, found, Declared.like(found, "f4"))
    return voxelwise(_stretched, found, Declared.like(found, "f4"), (lows, ("z",)), (highs, ("z",)))


def invert(volume: Any) -> Any:
    """Turn dark into bright: integers are mirrored in their type's range, as 255 - value is; floats become 1 - value.

    Parameters
    ----------
    volume
        Of any type.
    """
    found = opened(volume)
    return voxelwise(_inverted, found, Declared.like(found))


def cast(volume: Any, dtype: DTypeLike) -> Any:
    """Change the type; integers are clipped to its range, fractions are cut off, NaN becomes 0 in integers.

    Parameters
    ----------
    volume
        Of any type.
    dtype
        Such as "uint8" or "float32".
    """
    found, kind = opened(volume), _type("dtype", dtype, "biuf")
    return voxelwise(partial(_cast, dtype=kind), found, Declared.like(found, kind))


def quantize(volume: Any, dtype: DTypeLike = "uint8") -> Any:
    """Store [0, 1] in integers: 0 as 0, 1 as the type's largest value, rounded to the nearest, clipped outside.

    Parameters
    ----------
    volume
        Floating-point values; NaN becomes 0.
    dtype
        An unsigned integer type.
    """
    found, kind = opened(volume), _type("dtype", dtype, "u")
    _require(found.array.dtype.kind == "f", f"quantize takes floats, not {found.array.dtype}", "normalize(volume)")
    return voxelwise(partial(_quantized, dtype=kind), found, Declared.like(found, kind))


def dequantize(volume: Any) -> Any:
    """The inverse of `quantize`: unsigned integers to float32 in [0, 1].

    Parameters
    ----------
    volume
        Of an unsigned integer type.
    """
    found = opened(volume)
    _require(found.array.dtype.kind == "u", f"dequantize takes unsigned integers, not {found.array.dtype}",
             'cast(volume, "float32")')  # fmt: skip
    return voxelwise(_dequantized, found, Declared.like(found, "f4"))


def threshold(volume: Any, value: float) -> Any:
    """1 where a voxel is above a value, 0 elsewhere, as uint8.

    Parameters
    ----------
    volume
        Of any type.
    value
        What 1 lies above.
    """
    found = opened(volume)
    return voxelwise(partial(_above, value=number("value", value)), found, Declared.like(found, "u1"))


def _stretched(voxels: NDArray[Any], low: Any = 0.0, high: Any = 1.0) -> NDArray[Any]:
    """In float32 where it holds the values, otherwise in float64."""
    wide = np.result_type(voxels, np.float32)
    low, high = np.asarray(low, wide), np.asarray(high, wide)
    found: NDArray[Any] = np.subtract(voxels, low, dtype=wide)
    found /= np.where(high > low, high - low, wide.type(1))
    return np.clip(found, 0, 1, out=found).astype("f4", copy=False)


def _inverted(voxels: NDArray[Any]) -> NDArray[Any]:
    return voxels.dtype.type(1) - voxels if voxels.dtype.kind == "f" else ~voxels


def _cast(voxels: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    if dtype.kind not in "iu" or voxels.dtype.kind == "b":
        with np.errstate(over="ignore"):  # to float16, say: infinite
            return voxels.astype(dtype)
    info = np.iinfo(dtype)
    if voxels.dtype.kind == "f":
        voxels = voxels.astype(np.float32 if dtype.itemsize <= 2 and voxels.dtype.itemsize <= 4 else np.float64)
        above = voxels >= info.max  # no float is the largest of 64 bits
        found: NDArray[Any] = np.where(above | np.isnan(voxels), 0, np.maximum(voxels, info.min)).astype(dtype)
        found[above] = info.max
        return found
    mine = np.iinfo(voxels.dtype)
    return np.asarray(np.clip(voxels, max(info.min, mine.min), min(info.max, mine.max)), dtype)


def _quantized(voxels: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    wide = np.float32 if dtype.itemsize == 1 and voxels.dtype.itemsize <= 4 else np.float64
    top = wide(np.iinfo(dtype).max)
    found: NDArray[Any] = np.multiply(voxels, top, dtype=wide)
    np.fmax(found, 0, out=found)  # NaN too
    np.minimum(found, top, out=found)
    np.rint(found, out=found)
    return found.astype(dtype) if dtype.itemsize < 8 else _cast(found, dtype)  # no float is the largest of 64 bits


def _dequantized(voxels: NDArray[Any]) -> NDArray[Any]:
    return np.asarray(voxels / np.float64(np.iinfo(voxels.dtype).max), "f4")


def _above(voxels: NDArray[Any], value: float) -> NDArray[Any]:
    return (voxels > value).astype("u1")


def _ordered(name: str, pair: Sequence[float], most: float | None = None) -> tuple[float, float]:
    """Two numbers, the first below the second; within 0 and ``most``."""
    try:
        low, high = (float(v) for v in pair)
    except (TypeError, ValueError):
        low, high = 1.0, 0.0
    if not low < high or not isfinite(high - low) or (most is not None and not 0 <= low < high <= most):
        raise VolumeError(
            f"{name}={pair!r} is not a lower and an upper limit.",
            "The first number is the lower one." + (f" Both are from 0 to {most:g}." if most is not None else ""),
            [f"{name}=(1, 99)", f"leave {name}= out"],
        )
    return low, high


def _type(name: str, given: DTypeLike, kinds: str) -> np.dtype[Any]:
    """A type of voxels out of some kinds."""
    try:
        found = np.dtype(given)
    except TypeError:
        found = None
    if found is None or found.kind not in kinds:
        raise VolumeError(
            f"{name}={given!r} is no type that fits.",
            "It is one of unsigned integers." if kinds == "u" else "Voxels are integers, floats or bool.",
            [f'{name}="uint8"', f'{name}="uint16"'],
        )
    return found


def _require(holds: bool, fact: str, line: str) -> None:
    if not holds:
        raise VolumeError(f"{fact}.", "The volume's type does not fit the operator.", [line, "look at volume.dtype"])


keep_tokens(globals(), "chunkinfer.operators.intensity")
