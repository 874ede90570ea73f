"""Masks at any resolution: which voxels of a result are wanted, asked where a block is computed."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import groupby, pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chunkinfer.errors import VolumeError
from chunkinfer.geometry.boxes import Box
from chunkinfer.support.facts import SourceFacts
from chunkinfer.volumes.lazy import Reader


@dataclass(frozen=True)
class MaskAxis:
    """Output voxel ``i`` -> the mask voxel that contains its centre: ``(step * i + first) // per``.

    ::

        output   |  0  |  1  |  2  |  3  |  4  |      centres at i + 1/2
        mask     |        0        |        1        |      step 2, first 1, per 6: a third of the resolution

    A centre on the face between two mask voxels belongs to the upper one. Python's integers: no width to overflow.
    """

    step: int
    """Mask voxels per output voxel, times ``per``."""
    first: int
    """Position of the centre of output voxel 0, in mask voxels, times ``per``."""
    per: int
    """The common denominator."""
    size: int
    """Voxels of the mask. Centres outside take the nearest: an output may reach beyond its volume."""

    def at(self, i: int) -> int:
        """The mask voxel of an output voxel."""
        return min(max((self.step * i + self.first) // self.per, 0), self.size - 1)

    def runs(self, start: int, stop: int) -> tuple[list[int], list[int]]:
        """The mask voxels of the output voxels ``[start, stop)``, each once, and how many output voxels it has."""
        found = [(voxel, len(list(run))) for voxel, run in groupby(map(self.at, range(start, stop)))]
        return [voxel for voxel, _ in found], [count for _, count in found]


@dataclass(frozen=True, eq=False)
class Mask:
    """Says which voxels of a result are wanted: small, pickled with the network, read box by box.

    Axes are the result's spatial axes; boxes are in voxels of the result.
    """

    reader: Reader
    """Of the mask's voxels; of channels it has none or one."""
    axes: tuple[MaskAxis, ...]
    """One per spatial axis."""
    source: SourceFacts = field(default=SourceFacts(None))
    """What the mask was made from."""

    def __call__(self, out: Box) -> NDArray[np.bool_]:
        """True where a voxel of the box is wanted: where the mask voxel that contains its centre is not 0.

        Parameters
        ----------
        out
            Voxels of the result, not empty.

        Returns
        -------
        numpy.ndarray
            bool, of ``out.shape``.

        Raises
        ------
        VolumeError
            The mask is NaN there.
        """
        wanted, counts = self._looked_up(out)
        for axis, count in reversed(list(enumerate(counts))):  # the last axis first: the large copies are contiguous
            if max(count) > 1:
                wanted = np.repeat(wanted, count, axis)
        return wanted

    def seen(self, out: Box) -> Box:
        """The mask's voxels that are read for a box of the result."""
        ends = [(axis.at(a), axis.at(b - 1) + 1) for axis, a, b in zip(self.axes, out.start, out.stop, strict=True)]
        return Box(tuple(low for low, _ in ends), tuple(high for _, high in ends))

    def about(self) -> dict[str, Any]:
        """What the mask is, in plain values: for fingerprints and reports."""
        return {
            "source": self.source.to_json(),
            "shape": [axis.size for axis in self.axes],
            "lookup": [[axis.step, axis.first, axis.per] for axis in self.axes],
        }

    def __dask_tokenize__(self) -> tuple[str, str]:
        return "chunkinfer.blockwise.Mask", repr(self.about())

    def _looked_up(self, out: Box) -> tuple[NDArray[np.bool_], list[list[int]]]:
        """Every mask voxel that a box needs, once, and its number of output voxels along each axis."""
        seen = self.seen(out)
        part = self.reader(seen)[0]
        voxels, counts = [], []
        for axis, a, b, low in zip(self.axes, out.start, out.stop, seen.start, strict=True):
            found, count = axis.runs(a, b)
            voxels.append([voxel - low for voxel in found])
            counts.append(count)
        part = _picked(part, voxels)
        if part.dtype.kind == "f" and np.isnan(part).any():
            raise _undecided(seen)
        return part != 0, counts


def _picked(part: NDArray[Any], voxels: list[list[int]]) -> NDArray[Any]:
    """The given indices of each axis, ascending from the first to the last; a view where they are evenly spaced."""
    steps = [{b - a for a, b in pairwise(found)} or {1} for found in voxels]
    if all(len(step) == 1 for step in steps):
        return part[tuple(slice(None, None, step.pop()) for step in steps)]
    picked: NDArray[Any] = part[np.ix_(*voxels)]
    return picked


def _undecided(seen: Box) -> VolumeError:
    return VolumeError(
        f"The mask is NaN somewhere in its voxels {seen}.",
        "NaN says neither that a voxel is wanted nor that it is not.",
        ["NaN is not wanted: mask=(mask != 0) & (mask == mask)", "NaN is wanted: mask=mask != 0"],
    )
