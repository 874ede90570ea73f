"""Synthetic electron microscopy of brain tissue, with ground truth: densely packed neurites, deterministic in a seed.

::

    centrelines            grown one by one into the emptiest place, steering away from the others; some branch
    power diagram          every voxel goes to the nearest centreline, thick neurites reaching farther
    warp                   a smooth bend of space, so that no interface is flat
    membranes              a band of even thickness between neurites; what it separates gets its own id
    image                  cytoplasm, mitochondria, vesicles, microtubules, synapses; then the microscope's own faults
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

CRUMB = 64
"""Scraps of fewer voxels, cut off between membranes, count as membrane."""


@dataclass(frozen=True)
class SyntheticEM:
    """An image and the neurites in it, axes (z, y, x)."""

    image: NDArray[np.uint8]
    """Grey values: membranes dark, cytoplasm bright."""
    labels: NDArray[np.uint32]
    """Neurite ids from 1; 0 is membrane and extracellular space. Every neurite is one connected component."""
    voxel_size: tuple[float, float, float]
    """Extent of a voxel along (z, y, x), in nm."""


def synthetic_em(shape: tuple[int, int, int] = (96, 384, 384), *, seed: int = 0) -> SyntheticEM:
    """A volume of synthetic neuropil with its ground truth.

    Parameters
    ----------
    shape
        Extents along (z, y, x), in voxels of (20, 8, 8) nm.
    seed
        The same seed and shape give the same volume.
    """
    from scipy import ndimage

    from chunkinfer.tools.demo.synthetic_image import paint
    from chunkinfer.tools.demo.synthetic_neurites import MEMBRANE, VOXEL_SIZE, assign, boundaries, grow, positions

    rng = np.random.default_rng(seed)
    neurites = grow(rng, np.multiply(shape, VOXEL_SIZE))
    owners = assign(neurites, positions(rng, shape))
    inside = ~boundaries(owners, MEMBRANE)
    # A neurite that leaves the volume and comes back is two in it: nothing in the image says otherwise.
    labels, count = ndimage.label(inside, output=np.uint32)
    kept = np.bincount(labels.ravel(), minlength=count + 1) >= CRUMB
    kept[0] = False
    labels = np.where(kept, np.cumsum(kept), 0).astype(np.uint32)[labels]
    return SyntheticEM(paint(rng, labels), labels, VOXEL_SIZE)
