"""Blending windows: a table of one-dimensional values; products of them weigh a patch.

A window gives the raw weight of each output voxel of a patch along one axis. `axis_weights` divides it by the sum over
all patches of the lattice that contain the voxel. The lattice is a product of axes, so the normalised weights of a
patch are the product of its axes' weights, and no normaliser volume is needed.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from chunkinfer.geometry.lattice import AxisLattice

Weights = NDArray[np.float64]
Window = Callable[[int, int], Weights]
"""(patch, overlap), in output voxels, -> the raw weight of each of the patch's voxels, all positive."""


def _ramp(patch: int, overlap: int, rise: Callable[[Weights], Weights]) -> Weights:
    """Flat in the middle, rising over the overlap: neighbours that overlap by at most half sum to one."""
    weights = np.ones(patch)
    width = min(overlap, patch // 2)
    if width:
        flank: Weights = rise((np.arange(width) + 0.5) / width)
        weights[:width] = flank
        weights[patch - width :] = flank[::-1]
    return weights


def hann(patch: int, overlap: int) -> Weights:
    """Squared sine flanks: smooth, and neighbours sum to one."""
    return _ramp(patch, overlap, lambda t: np.sin(np.pi / 2 * t) ** 2)


def linear(patch: int, overlap: int) -> Weights:
    """Straight flanks: neighbours sum to one."""
    return _ramp(patch, overlap, lambda t: t)


def gaussian(patch: int, overlap: int) -> Weights:
    """MONAI's gaussian: sigma an eighth of the patch, cut off at 1e-3 of its peak."""
    t = np.arange(patch) - (patch - 1) / 2
    weights: Weights = np.maximum(np.exp(-0.5 * (t / (0.125 * patch)) ** 2), 1e-3)
    return weights


def bump(patch: int, overlap: int) -> Weights:
    """chunkflow's bump function ``exp(-1 / (1 - t^2))``, scaled to a peak of one."""
    t = (np.arange(patch) + 1) / (patch + 1) * 2 - 1
    weights: Weights = np.maximum(np.exp(1 - 1 / (1 - t * t)), 1e-6)
    return weights


WINDOWS: dict[str, Window] = {"hann": hann, "linear": linear, "gaussian": gaussian, "bump": bump}


@lru_cache(maxsize=4096)
def axis_weights(window: str, axis: AxisLattice, k: int) -> NDArray[np.float64]:
    """Normalised weights of patch ``k`` along an axis, float64, one per output voxel of the patch.

    They depend on the lattice alone, never on the block that is computed, and sum to one over the patches that contain
    a voxel.
    """
    raw = WINDOWS[window](axis.patch_output, axis.patch_output - axis.zone)
    origin, total = axis.origin(k), np.zeros(axis.patch_output)
    for j in axis.touching(origin, origin + axis.patch_output):
        shift = axis.origin(j) - origin
        low, high = max(shift, 0), min(shift + axis.patch_output, axis.patch_output)
        total[low:high] += raw[low - shift : high - shift]
    weights: NDArray[np.float64] = raw / total
    weights.flags.writeable = False  # shared by every caller through the cache
    return weights
