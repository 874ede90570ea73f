"""Operators: lazy functions volume -> volume, which chain into one read of the source and one task per block.

>>> from chunkinfer import operators as op                                            # doctest: +SKIP
>>> clean = op.gaussian(op.normalize(volume, percentile=(1, 99)), 1.5)                # doctest: +SKIP
>>> ci.save(op.quantize(ci.infer(clean, "unet.pt2")), "affinities.precomputed")       # doctest: +SKIP

======================================  ==========================================================================
module                                  purpose
======================================  ==========================================================================
intensity, filters, combining           what users call
over_channels, shapes
steps, resampling, around, contrast     what is done to a box, and to the blocks of dask arrays
histograms                              values of a whole volume
arguments, applying                     numbers per axis; functions of your own, checked where they are called
lazy                                    from a step to a lazy volume
======================================  ==========================================================================
"""

from collections.abc import Callable
from typing import Any

from chunkinfer.volumes.operators import combining, filters, intensity, over_channels, shapes
from chunkinfer.volumes.operators.combining import *
from chunkinfer.volumes.operators.filters import *
from chunkinfer.volumes.operators.intensity import *
from chunkinfer.volumes.operators.over_channels import *
from chunkinfer.volumes.operators.shapes import *

OPERATORS: dict[str, Callable[..., Any]] = {
    name.replace("_", "-"): getattr(module, name)
    for module in (intensity, combining, over_channels, shapes, filters)
    for name in module.__all__
}
"""Every operator, by the name of its command: what its module's ``__all__`` lists."""

__all__ = [
    "OPERATORS",
    *intensity.__all__,
    *combining.__all__,
    *over_channels.__all__,
    *shapes.__all__,
    *filters.__all__,
]
