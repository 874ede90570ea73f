"""Where a segmentation is wrong: a lazy volume of errors, and a picture of them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import dask.array as da
import numpy as np
from numpy.typing import NDArray

from chunkinfer.objects.evaluation.laying import Laid
from chunkinfer.objects.evaluation.scoring import Parts
from chunkinfer.objects.evaluation.tables import found, lengths, starts
from chunkinfer.support.colours import label_colours
from chunkinfer.support.tokens import keep_tokens

RIGHT, SPLIT, MERGED = 0, 1, 2
"""What a voxel of the map is."""

COLOURS = {SPLIT: (242, 142, 43), MERGED: (214, 39, 120)}
"""Red, green and blue of errors: orange and magenta. What is right is a pale shade of its segment's colour."""


@dataclass(frozen=True, eq=False)
class Errors:
    """Which voxels are wrong, by the labels on them."""

    ignore: NDArray[np.uint64]
    """Labels of the truth where nothing is asked."""
    truth: NDArray[np.uint64]
    """Labels of the truth that are asked, sorted, and the segment that each is in mostly."""
    segment_of: NDArray[np.uint64]
    segments: NDArray[np.uint64]
    """Segments on these, sorted, and the label of the truth that each holds mostly."""
    truth_of: NDArray[np.uint64]

    @classmethod
    def of(cls, split: Parts, merged: Parts, ignore: tuple[int, ...]) -> Errors:
        """By the parts of the truth's objects, and those of the segments."""
        return cls(np.array(ignore, np.uint64), split.labels, split.main, merged.labels, merged.main)

    def __call__(self, truth: NDArray[Any], segments: NDArray[Any]) -> NDArray[np.uint8]:
        """The errors of voxels: 0 right, or nothing is asked; 2 in a segment that is mostly another object's;
        1 else not in the largest part of its object, or in no segment.

        Looked up once for each run of voxels of one pair.
        """
        a = np.ascontiguousarray(truth, np.uint64).reshape(-1)
        b = np.ascontiguousarray(segments, np.uint64).reshape(-1)
        first = starts(a, b)
        t, s = a[first], b[first]
        largest, owner = self.segment_of[found(self.truth, t)], self.truth_of[found(self.segments, s)]
        kind = np.where((s == 0) | (s != largest), SPLIT, RIGHT)
        kind = np.where((s != 0) & (t != owner), MERGED, kind)
        kind = np.where(np.isin(t, self.ignore), RIGHT, kind).astype(np.uint8)
        return np.repeat(kind, lengths(first, len(a))).reshape(truth.shape)


def lazy_errors(laid: Laid, errors: Errors) -> Any:
    """The map of the common box (segmentation first, then truth): uint8, lazy, a DataArray if one of them is."""
    segments, truth = _cropped(laid)
    return _labelled(laid, da.map_blocks(_errors, truth, segments, errors=errors, dtype=np.uint8, meta=_empty(truth)))


def lazy_picture(laid: Laid, errors: Errors) -> Any:
    """The same in colours: (3, ...) uint8, red, green and blue."""
    segments, truth = _cropped(laid)
    draw = partial(_coloured, errors=errors)
    colours = da.map_blocks(
        draw, truth, segments, dtype=np.uint8, new_axis=0, chunks=((3,), *truth.chunks), meta=_empty(truth, 1)
    )
    return laid.frame.label(colours, ("c", *laid.frame.space), name="errors: orange split, magenta merged", attrs={})


def _cropped(laid: Laid) -> tuple[da.Array, da.Array]:
    """The common box of both, in the first one's chunks."""
    arrays = []
    for volume, part in zip(laid.volumes, laid.parts, strict=True):
        array = volume.array[0] if volume.channels else volume.array
        arrays.append(array[tuple(slice(s, s + n) for s, n in zip(part.start, laid.shape, strict=True))])
    return arrays[0], arrays[1].rechunk(arrays[0].chunks)


def _labelled(laid: Laid, array: da.Array) -> Any:
    if not any(volume.labelled for volume in laid.volumes):
        return array
    return laid.frame.label(array, laid.frame.space, name="errors", attrs={"type": "segmentation"})


def _empty(array: da.Array, more: int = 0) -> NDArray[np.uint8]:
    return np.empty((0,) * (array.ndim + more), np.uint8)


def _errors(truth: NDArray[Any], segments: NDArray[Any], errors: Errors) -> NDArray[np.uint8]:
    return errors(truth, segments)


def _coloured(truth: NDArray[Any], segments: NDArray[Any], errors: Errors) -> NDArray[np.uint8]:
    colours = np.empty((3, *truth.shape), np.uint8)
    for plane in range(len(truth)):  # one by one: a voxel takes a hundred bytes on the way
        colours[:, plane] = np.moveaxis(_painted(truth[plane], segments[plane], errors), -1, 0)
    return colours


def _painted(truth: NDArray[Any], segments: NDArray[Any], errors: Errors) -> NDArray[np.uint8]:
    """Red, green and blue, (..., 3)."""
    kinds = errors(truth, segments)
    pale = 200 + 55 * (label_colours(segments) - 0.5)  # pale, so that errors stand out
    colours = np.where((segments != 0)[..., None], pale, 255).astype(np.uint8)
    colours[np.isin(truth, errors.ignore)] = 90  # nothing is asked here
    shade = 0.7 + 0.3 * label_colours(truth).mean(axis=-1, keepdims=True)  # so that objects are told apart
    for kind, colour in COLOURS.items():
        colours[kinds == kind] = (shade[kinds == kind] * colour).astype(np.uint8)
    return colours


keep_tokens(globals(), "chunkinfer.evaluation.mistakes")
