"""An independent verifier: put NaN into one half of the input, and see which outputs become NaN."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from chunkinfer.networks.adapters.torch import picked
from chunkinfer.networks.outputs import ONLY, Pick
from chunkinfer.networks.trace.dependence import Flags


def nan_probe(
    module: nn.Module, channels: int, shape: Sequence[int], axis: int, cut: int, pick: Pick = ONLY
) -> tuple[Flags, Flags]:
    """Measure which outputs read which half of the input, by the spread of NaN.

    It knows nothing of the operators, and so checks `trace`: NaN spreads through everything but comparisons, also
    where its weight is zero. It needs real computation, so small shapes are advised.

    Parameters
    ----------
    module
        The network, on the CPU.
    channels
        Input channels.
    shape
        Input voxels per spatial axis.
    axis
        The spatial axis that is cut.
    cut
        The first voxel of the upper half.
    pick
        Which of its outputs counts.

    Returns
    -------
    below, above
        Per output voxel along the axis, whether it reads any input voxel below ``cut``, and any from ``cut`` on.
    """
    below = _spread(module, channels, shape, axis, slice(0, cut), pick)
    above = _spread(module, channels, shape, axis, slice(cut, None), pick)
    return below, above


def _spread(module: nn.Module, channels: int, shape: Sequence[int], axis: int, half: slice, pick: Pick) -> Flags:
    dtype = next((p.dtype for p in module.parameters() if p.is_floating_point()), torch.float32)
    x = torch.zeros((1, channels, *shape), dtype=dtype)
    x.movedim(2 + axis, 0)[half] = float("nan")
    # Fast convolution algorithms (Winograd) mix outputs in their intermediate sums, and so spread NaN too far.
    (enabled, *_) = torch.backends.mkldnn.set_flags(False)  # type: ignore[no-untyped-call]
    try:
        with torch.no_grad():
            y = picked(pick, module(x))
    finally:
        torch.backends.mkldnn.set_flags(enabled)  # type: ignore[no-untyped-call]
    found: Flags = y.isnan().movedim(2 + axis, 0).flatten(1).any(1).numpy()
    return found
