"""The oracle: a network on the whole volume at once, as the promise defines it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from chunkinfer.networks.trace.tracing import Trace


def whole(net: nn.Module, trace: Trace, data: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """(c, *space) -> (c, *space): the network on the volume as it is. Where it refuses that, and only there, on the
    volume that is edge-padded at the far end to lengths that it takes, cut back to the voxels of the volume."""
    with torch.no_grad():
        try:
            return _first(net(torch.from_numpy(data)[None]))[0].numpy()
        except RuntimeError:  # torch's error of shapes that do not fit
            pads = [(0, axis.accepted_at_least(n) - n) for axis, n in zip(trace.axes, data.shape[1:], strict=True)]
            out = _first(net(torch.from_numpy(np.pad(data, [(0, 0), *pads], mode="edge"))[None]))
    sizes = [axis.output_size(n) for axis, n in zip(trace.axes, data.shape[1:], strict=True)]
    return out[0].numpy()[(slice(None), *(slice(0, n) for n in sizes))]


def _first(out: Any) -> torch.Tensor:
    return out if isinstance(out, torch.Tensor) else next(iter(out.values() if isinstance(out, dict) else out))
