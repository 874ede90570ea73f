"""Colours of a plane: grey for images, red, green and blue for affinities, one colour per label."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from chunkinfer.errors import VolumeError
from chunkinfer.support.thinning import step

SAMPLE = 1 << 20
"""Voxels of a plane at most by which contrast is chosen."""

ROWS = 64
"""Of a picture that are coloured at a time."""

KINDS = ("image", "affinities", "segmentation")


def kind_of(dtype: DTypeLike, channels: int, kind: str | None = None) -> str:
    """What a volume is to be shown as.

    Parameters
    ----------
    dtype, channels
        Of the volume. Integers of 32 bits or more are ids; of several channels, it is affinities; else an image.
    kind
        The caller's word instead.

    Raises
    ------
    VolumeError
        There is no such kind, or labels that are no integers.
    """
    integers = np.dtype(dtype).kind in "iu"
    if kind is None:
        if channels > 1:
            return "affinities"
        return "segmentation" if integers and np.dtype(dtype).itemsize >= 4 else "image"
    if kind not in KINDS:
        raise VolumeError(
            f"kind={kind!r} is not a way to show a volume.",
            f"There are {', '.join(KINDS)}.",
            ["kind='image'", "leave kind= out: it is told from data type and channels"],
        )
    if kind == "segmentation" and (not integers or channels > 1):
        raise VolumeError(
            f"A volume of {channels} channel(s) of {np.dtype(dtype)} is no segmentation.",
            "Labels are integers, one per voxel.",
            ["kind='affinities' or kind='image'", "convert it: volume.astype('uint64')"],
        )
    return kind


def limits(planes: Iterable[NDArray[Any]], kind: str) -> tuple[float, float]:
    """The values shown darkest and brightest: of images, half a percent lies beyond each; of affinities, 0 and 1;
    labels have none."""
    planes = list(planes)
    dtype = planes[0].dtype
    if kind == "segmentation":
        return 0.0, 1.0
    if kind == "affinities":
        return 0.0, float(np.iinfo(dtype).max) if dtype.kind in "iu" else 1.0
    values = np.concatenate([plane.ravel()[:: step(plane.size, SAMPLE)] for plane in planes]).astype(np.float64)
    values = values[np.isfinite(values)]
    if not len(values):
        return 0.0, 1.0
    low, high = np.percentile(values, (0.5, 99.5))
    if low == high:  # nearly all of one value: what is bright in it may be less than half a percent
        low, high = values.min(), values.max()
    return float(low), float(high)


def coloured(plane: NDArray[Any], kind: str, low: float, high: float) -> NDArray[np.float32]:
    """A plane (channels, down, across) as red, green and blue (down, across, 3) in [0, 1].

    One channel is grey, or as affinities black, red, yellow, white; of two, blue is the mean; of more, the first three
    are taken.
    """
    if kind == "segmentation":
        return label_colours(plane[0])
    values = (plane[:3].astype(np.float32) - low) / np.float32(high - low or 1)
    values = np.clip(np.nan_to_num(values, nan=0.0), 0, 1)
    if len(values) == 1 and kind == "affinities":
        values = np.clip(3 * values - np.arange(3, dtype=np.float32)[:, None, None], 0, 1)
    elif len(values) == 1:
        values = np.repeat(values, 3, axis=0)
    elif len(values) == 2:
        values = np.stack([*values, values.mean(0)])
    return np.ascontiguousarray(np.moveaxis(values, 0, -1))


def pixels(plane: NDArray[Any], kind: str, low: float, high: float) -> NDArray[np.uint8]:
    """The same as bytes, made a few rows at a time: a picture is small, what it is computed by is not."""
    found = np.empty((*plane.shape[1:], 3), np.uint8)
    for start in range(0, plane.shape[1], ROWS):
        rows = slice(start, start + ROWS)
        found[rows] = np.rint(255 * coloured(plane[:, rows], kind, low, high))
    return found


def label_colours(ids: NDArray[Any]) -> NDArray[np.float32]:
    """Ids as red, green and blue (..., 3): 0 is black, any other has the same colour in every picture.

    Bits come from splitmix64 (Steele, Lea and Flood, 2014), so that neighbouring ids look nothing like each other.
    """
    mixed = ids.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    mixed ^= mixed >> np.uint64(31)
    hue, paleness, shade = (((mixed >> np.uint64(s)) & np.uint64(0xFFFF)) / np.float32(0xFFFF) for s in (0, 16, 32))
    pure = np.clip(np.abs((6 * hue[..., None] + np.array([0, 4, 2])) % 6 - 3) - 1, 0, 1)  # as in HSV
    colours = pure + 0.5 * paleness[..., None] * (1 - pure)
    colours *= 0.6 + 0.4 * shade[..., None]
    return np.where((ids != 0)[..., None], colours, 0).astype(np.float32)
