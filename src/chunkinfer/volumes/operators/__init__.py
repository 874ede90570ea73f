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

from chunkinfer.volumes.operators.combining import add, combine, mask, maskout, multiply
from chunkinfer.volumes.operators.filters import apply, clahe, gaussian, median
from chunkinfer.volumes.operators.intensity import cast, dequantize, invert, normalize, quantize, threshold
from chunkinfer.volumes.operators.over_channels import argmax, channels, mean_channel, vote
from chunkinfer.volumes.operators.shapes import crop, downsample, pad, rechunk, transpose, upsample

OPERATORS: dict[str, Callable[..., Any]] = {
    function.__name__.replace("_", "-"): function
    for function in (
        normalize, clahe, invert, cast, quantize, dequantize, threshold,
        mask, multiply, add, combine, maskout,
        channels, argmax, vote, mean_channel,
        crop, pad, transpose, downsample, upsample, rechunk,
        gaussian, median, apply,
    )
}  # fmt: skip
"""Every operator, by the name of its command."""

__all__ = [
    "OPERATORS", "add", "apply", "argmax", "cast", "channels", "clahe", "combine", "crop", "dequantize", "downsample",
    "gaussian", "invert", "mask", "maskout", "mean_channel", "median", "multiply", "normalize", "pad", "quantize",
    "rechunk", "threshold", "transpose", "upsample", "vote",
]  # fmt: skip
