"""Affinities as they come, turned at the door: channels in the order z, y, x; channel d of v joins v and v - e_d."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chunkinfer.errors import VolumeError
from chunkinfer.geometry.boxes import Box
from chunkinfer.tiling.kernel.canvas import HIGHEST, LOWEST

ORDERS = {"zyx": (0, 1, 2), "xyz": (2, 1, 0)}
"""Names of channel orders: where the channels for z, y and x are."""


@dataclass(frozen=True)
class Edges:
    """What the channels of a volume say of the edges between its voxels."""

    kind: str = "affinity"
    """affinity: three channels; boundary: one, high where a membrane is."""
    order: str = "zyx"
    """Of the channels."""
    sign: int = -1
    """-1: a channel joins v and v - e_d; +1: v and v + e_d."""

    def __post_init__(self) -> None:
        if self.order not in ORDERS or self.sign not in (-1, 1):
            raise VolumeError(
                f"edges={self.order!r} with sign {self.sign} are no affinities that are known here.",
                "Channel d joins a voxel and its neighbour before it (-1) or behind it (+1) along axis d.",
                ['segment(affinities, order="xyz")', "segment(affinities, sign=1)"],
            )

    @classmethod
    def of(cls, channels: int, order: str, sign: int) -> Edges:
        """Of a volume with so many channels; 0 where it has no such axis.

        Raises
        ------
        VolumeError
            It has neither three channels nor one.
        """
        if channels not in (0, 1, 3):
            raise VolumeError(
                f"The volume has {channels} channels.",
                "Affinities have three, for z, y and x; a boundary map has one.",
                ["three of them: segment(affinities[:3])", "one, a map of boundaries: segment(affinities[0])"],
            )
        return cls("affinity" if channels == 3 else "boundary", order, sign)

    @property
    def halo(self) -> int:
        """Voxels before a box that its edges are made of."""
        return int(self.kind == "boundary" or self.sign == 1)

    def turned(self, voxels: NDArray[Any], start: Sequence[int]) -> NDArray[Any]:
        """Affinities of a box as the watershed takes them.

        Parameters
        ----------
        voxels
            (channels, z, y, x), uint8, bool or floating in [0, 1].
        start
            Where the voxels begin in the volume. Edges out of the volume are 0.

        Returns
        -------
        (3, z, y, x), uint8 or float32, of the box that `covered` tells.

        Raises
        ------
        VolumeError
            Some are NaN, or outside of [0, 1].
        """
        if voxels.dtype == bool:
            voxels = voxels.astype(np.uint8) * np.uint8(255)
        elif voxels.dtype != np.uint8:
            voxels = voxels.astype(np.float32, copy=False)
            _check_range(voxels, start)
        if self.kind == "affinity":
            voxels = voxels if self.order == "zyx" else voxels[list(ORDERS[self.order])]
            if self.sign == -1:
                return voxels
        one = voxels.dtype.type(255 if voxels.dtype == np.uint8 else 1)
        faces = [(0, 0), *((int(a == 0), 0) for a in start)]  # what lies beyond the volume has no edges
        voxels = np.pad(voxels, faces, constant_values=one if self.kind == "boundary" else 0)
        inside, made = (slice(1, None),) * 3, []
        for d in range(3):
            before = tuple(slice(0, -1) if axis == d else slice(1, None) for axis in range(3))
            if self.kind == "affinity":
                made.append(voxels[d][before])
            else:
                made.append(one - np.maximum(voxels[0][inside], voxels[0][before]))
        return np.stack(made)

    def covered(self, seen: Box) -> Box:
        """The box that `turned` gives affinities for, of the voxels of a box."""
        return Box(tuple(a + self.halo * (a > 0) for a in seen.start), seen.stop)


def _check_range(voxels: NDArray[Any], start: Sequence[int]) -> None:
    """Refuse what is no probability, and say where the first of it is."""
    low, high = float(voxels.min(initial=0)), float(voxels.max(initial=0))
    if low >= LOWEST and high <= HIGHEST:
        return  # NaN is neither
    wrong = ~((voxels >= LOWEST) & (voxels <= HIGHEST))
    channel, *inside = (int(i) for i in np.unravel_index(np.argmax(wrong), wrong.shape))
    place = tuple(a + i for a, i in zip(start, inside, strict=True))
    where = f"channel {channel} of voxel {place} (z, y, x, counted from the volume's first)"
    if np.isnan(low) or np.isnan(high):
        raise VolumeError(
            f"The affinities are NaN: {where}, and {np.isnan(voxels).sum()} in this block.",
            "A network that diverged leaves NaN, and so do divisions by zero.",
            [
                "take NaN for no edge: segment(affinities.fillna(0)), or dask.array.nan_to_num(affinities)",
                "check the network's weights and what it is fed",
            ],
        )
    raise VolumeError(
        f"The affinities reach from {low:.4g} to {high:.4g} in this block; {where} is "
        f"{float(voxels[(channel, *inside)]):.4g}.",
        "They are probabilities in [0, 1]. Usually the network ends without a sigmoid and returns logits.",
        [
            'end it with one: segment(infer(volume, model, activation="sigmoid"))',
            "what is stored already: segment(1 / (1 + numpy.exp(-affinities)))",
        ],
    )
