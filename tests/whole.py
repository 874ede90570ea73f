"""The oracle: a network on the whole volume at once, as the promise defines it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from chunkinfer.models.trace import Trace


def whole(net: nn.Module, trace: Trace, data: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """(c, *space) -> (c, *space): far-padded once to a size that the network takes, and cut back to the volume."""
    pads = [(0, axis.accepted_at_least(n) - n) for axis, n in zip(trace.axes, data.shape[1:], strict=True)]
    padded = np.pad(data, [(0, 0), *pads], mode="edge")
    with torch.no_grad():
        out = net(torch.from_numpy(padded)[None])
    out = out if isinstance(out, torch.Tensor) else next(iter(out.values() if isinstance(out, dict) else out))
    sizes = [axis.output_size(n) for axis, n in zip(trace.axes, data.shape[1:], strict=True)]
    return out[0].numpy()[(slice(None), *(slice(0, n) for n in sizes))]
