"""Segment affinities, and score a segmentation: plain and in memory, to compare outputs and not to reconstruct tissue.

Needs scikit-image, of the extra ``demo``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from chunkinfer.errors import MissingExtra


def segment(affinities: NDArray[Any], *, seed: float = 0.9, foreground: float = 0.5) -> NDArray[np.int32]:
    """Watershed of affinities, from seeds where a voxel is joined to all its neighbours.

    Parameters
    ----------
    affinities
        (d, ...) with one channel for each of the d axes that follow: how surely voxel v belongs to the same object as
        its predecessor along that axis, in [0, 1]; of integers, as a fraction of their type's maximum.
    seed
        Voxels whose affinities all exceed it are seeds; those that touch are one.
    foreground
        Voxels whose mean affinity exceeds it are filled from the seeds.

    Returns
    -------
    segmentation
        Ids from 1, 0 between the objects; axes as the affinities without the channels.
    """
    measure, watershed = _skimage("measure").label, _skimage("segmentation").watershed
    scale = np.iinfo(affinities.dtype).max if np.issubdtype(affinities.dtype, np.integer) else 1
    mean = affinities.mean(0, dtype=np.float32) / np.float32(scale)
    seeds = measure(affinities.min(0) > seed * scale, connectivity=1)
    result: NDArray[np.int32] = watershed(-mean, seeds, mask=mean > foreground).astype(np.int32)
    return result


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

    Arganda-Carreras et al., "Crowdsourcing the creation of image segmentation algorithms for connectomics", 2015.
    """
    error, _, _ = _skimage("metrics").adapted_rand_error(labels, segmentation, ignore_labels=(0,))
    return float(error)


def _skimage(module: str) -> Any:
    from importlib import import_module

    try:
        return import_module(f"skimage.{module}")
    except ImportError as error:
        raise MissingExtra(
            "Scores need scikit-image, which is not installed.",
            "It is in the extra demo.",
            ['pip install "chunkinfer[demo]"'],
        ) from error
