"""Memory of a forward pass, without running it."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

PROBE = 48
"""Extent, in voxels per axis, at which a network that cannot run without data is measured and extrapolated."""


def activation_bytes(module: torch.nn.Module, channels: int, patch: tuple[int, ...], dtype: str) -> int:
    """Peak bytes of the tensors that are alive at one time in a forward pass of one patch, input included.

    The module runs on meta tensors, which have sizes and no data, so this takes milliseconds at any patch size. What
    a convolution needs as workspace while it runs is not in it.

    Parameters
    ----------
    module
        The network; left as it is.
    channels
        Input channels.
    patch
        Extent of the patch, in voxels.
    dtype
        float32 or float64.
    """
    import torch

    from chunkinfer.models.trace.subject import subjects

    subject = next(subjects(module, channels, getattr(torch, dtype)))
    if subject.is_free:
        return _peak(subject.module, (1, channels, *patch), dtype, "meta")
    small = tuple(min(n, PROBE) for n in patch)
    voxels = torch.Size(patch).numel() / torch.Size(small).numel()
    return int(_peak(subject.module, (1, channels, *small), dtype, "cpu") * voxels)


def _peak(module: torch.nn.Module, shape: tuple[int, ...], dtype: str, device: str) -> int:
    import torch
    from torch.utils import _pytree as pytree
    from torch.utils._python_dispatch import TorchDispatchMode

    weights = {t.untyped_storage()._cdata for t in (*module.parameters(), *module.buffers())}

    class Alive(TorchDispatchMode):  # type: ignore[no-untyped-call]
        now = peak = 0

        def __init__(self) -> None:
            super().__init__()  # type: ignore[no-untyped-call]
            self.seen: set[int] = set(weights)

        def born(self, tensor: torch.Tensor) -> None:
            storage = tensor.untyped_storage()
            if (key := storage._cdata) in self.seen:
                return
            self.seen.add(key)
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self.died, key, storage.nbytes())

        def died(self, key: int, size: int) -> None:
            self.seen.discard(key)
            self.now -= size

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = func(*args, **(kwargs or {}))
            for leaf in pytree.tree_leaves(result):
                if isinstance(leaf, torch.Tensor):
                    self.born(leaf)
            return result

    alive = Alive()
    with torch.no_grad(), alive:
        module(torch.zeros(shape, dtype=getattr(torch, dtype), device=device))
    return alive.peak
