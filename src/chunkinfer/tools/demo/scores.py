"""Segment affinities, and score a segmentation: plain and in memory, to compare outputs and not to reconstruct tissue.

Needs scikit-image, of the extra ``demo``.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chunkinfer.errors import MissingExtra


def segment(affinities: NDArray[Any], *, seed: float = 0.8, foreground: float = 0.3) -> NDArray[np.int32]:
    """Watershed of affinities from seeds, which are the connected regions of voxels well joined to all six neighbours.

    Parameters
    ----------
    affinities
        (d, ...) with one channel for each of the d axes that follow: how surely voxel v belongs to the same object as
        its predecessor along that axis, in [0, 1]; of integers, as a fraction of their type's maximum.
    seed
        A voxel is in a seed if the mean of its affinities, to predecessors and successors, exceeds it.
    foreground
        Voxels whose mean exceeds this are filled from the seeds, the best joined first.

    Returns
    -------
    segmentation
        Ids from 1, 0 between the objects; axes as the affinities without the channels.
    """
    from scipy.ndimage import binary_erosion

    label, watershed = skimage("measure").label, skimage("segmentation").watershed
    joined = mean_affinity(affinities)
    seeds = label(joined > seed, connectivity=1)
    # Only the rim of a seed can flood anything; leaving out its core changes nothing and takes a third of the time.
    core = binary_erosion(seeds > 0)
    flooded = watershed(-joined, np.where(core, 0, seeds), mask=(joined > foreground) & ~core)
    result: NDArray[np.int32] = np.where(core, seeds, flooded)
    return result


def mean_affinity(affinities: NDArray[Any]) -> NDArray[np.float32]:
    """Mean of each voxel's affinities to its predecessor and its successor along every axis; all else as `segment`."""
    scale = np.iinfo(affinities.dtype).max if np.issubdtype(affinities.dtype, np.integer) else 1
    total: NDArray[np.float32] = affinities.sum(0, dtype=np.float32)
    for axis, channel in enumerate(affinities):
        rows, back = np.moveaxis(total, axis, 0), np.moveaxis(channel, axis, 0)
        rows[:-1] += back[1:]
        rows[-1] += back[-1]  # no successor: the predecessor counts twice
    total /= np.float32(2 * len(affinities) * scale)
    return total


def affinities_of(labels: NDArray[Any]) -> NDArray[np.float32]:
    """Perfect affinities of labels: 1 where a voxel and its predecessor along an axis have the same id other than 0.

    Voxels without a predecessor count as joined to one.

    Parameters
    ----------
    labels
        (...) ids, 0 for background.

    Returns
    -------
    affinities
        (d, ...) for d axes, 0 or 1.
    """
    result = np.repeat((labels > 0)[None].astype(np.float32), labels.ndim, axis=0)
    for axis, channel in enumerate(result):
        rows, same = np.moveaxis(channel, axis, 0), np.moveaxis(labels, axis, 0)
        rows[1:] *= same[1:] == same[:-1]
    return result


def adapted_rand_error(segmentation: NDArray[Any], labels: NDArray[Any]) -> float:
    """1 minus the F-score of pairs of voxels that are rightly together: 0 is perfect; where labels are 0, nobody asks.

    Voxels that the segmentation left at 0 count as one segment, so leaving out is no way to a better score.
    Arganda-Carreras et al., "Crowdsourcing the creation of image segmentation algorithms for connectomics", 2015.
    """
    error, _, _ = skimage("metrics").adapted_rand_error(labels, segmentation, ignore_labels=(0,))
    return float(error)


def skimage(module: str) -> Any:
    """A module of scikit-image; `MissingExtra` where that is absent."""
    try:
        return import_module(f"skimage.{module}")
    except ImportError as error:
        raise MissingExtra.of("Scores", "scikit-image", "demo") from error
