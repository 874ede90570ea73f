"""Memory and arithmetic of a forward pass, without running it."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch

    from chunkinfer.networks.augment import Augmentation
    from chunkinfer.networks.model import Model
    from chunkinfer.networks.trace.tracing import Trace

PROBE = 48
"""Extent, in voxels per axis, at which a network that cannot run without data is measured and extrapolated."""


MAPPED = 32 << 20
"""Bytes from which on glibc always takes memory from the system, and returns it at once."""


@dataclass(frozen=True)
class ForwardPass:
    """What one forward pass of one batch takes."""

    tensors: int
    """Peak bytes of the tensors that are alive at one time, input included."""
    peak: int
    """The same with the workspace of convolutions on a CPU: copies in the layout of their kernels."""
    pooled: int
    """Peak bytes of the tensors below `MAPPED`, which an allocator keeps in pieces when they are freed."""
    flops: int
    """Floating-point operations of convolutions and matrix products; a multiplication and an addition count as two."""


def forward_pass(
    module: torch.nn.Module, channels: int, patch: Sequence[int], dtype: str, batch: int = 1
) -> ForwardPass:
    """Follow the sizes of all tensors through a forward pass of one batch.

    The module runs on meta tensors, which have sizes and no data, so this takes milliseconds at any patch size.

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
    batch
        Patches at a time: torch takes other implementations for more than one.
    """
    import torch

    from chunkinfer.networks.trace.subject import subjects

    small = tuple(min(n, PROBE) for n in patch)
    failures: list[Exception] = []
    for subject in subjects(module, channels, getattr(torch, dtype)):
        device = "meta" if subject.is_free else "cpu"
        shapes = [(batch, *patch), (1, *patch)] if subject.is_free else [(1, *small)]
        for n, *space in dict.fromkeys(shapes):
            try:
                one = _follow(subject.module, (n, channels, *space), dtype, device)
            except Exception as error:  # of a network that was exported for batches of one, or reads what voxels hold
                failures.append(error)
            else:
                return one if (n, *space) == (batch, *patch) else _times(one, batch * prod(patch) / (n * prod(space)))
    raise failures[0]


def model_pass(model: Model, trace: Trace, patch: Sequence[int], batch: int = 1) -> ForwardPass:
    """What one forward pass of a traced model takes, its augmentation counted."""
    if model.augmentation is None:
        return _plain_pass(model, trace.channels_in, tuple(patch), batch)
    return _augmented(model, model.augmentation, trace, tuple(patch), batch)


def _augmented(
    model: Model, augmentation: Augmentation, trace: Trace, patch: tuple[int, ...], batch: int
) -> ForwardPass:
    """One variant at a time, beside a turned copy of its input, its output put back, their sum and its counts."""
    passes = [_plain_pass(model.plain, trace.channels_in, shape, batch) for shape in augmentation.shapes(patch)]
    copies = np.dtype(trace.dtype).itemsize * batch * prod(patch) * (trace.channels_in + 2 * trace.channels_out + 1)
    return ForwardPass(
        tensors=max(one.tensors for one in passes) + copies,
        peak=max(one.peak for one in passes) + copies,
        pooled=max(one.pooled for one in passes),
        flops=passes[0].flops * len(augmentation.variants),
    )


_known: dict[tuple[str, int, tuple[int, ...], int], ForwardPass] = {}
"""Passes of networks by their digest: to remember them by the model would keep the copy of each module in memory."""


def _plain_pass(model: Model, channels: int, patch: tuple[int, ...], batch: int) -> ForwardPass:
    if not model.of_torch:
        return assumed_pass(channels, patch, batch)
    key = (model.digest, channels, patch, batch)
    if key not in _known:
        _known[key] = forward_pass(model.module_on("cpu"), channels, patch, model.compute_dtype(), batch)
    return _known[key]


ASSUMED_CHANNELS = 64
"""Channels, in float32 and at full resolution, that a network is taken to hold at a time where nobody can look."""


def assumed_pass(channels: int, patch: Sequence[int], batch: int = 1) -> ForwardPass:
    """What is taken for granted of a network that can only be called: an assumption, and no arithmetic is counted."""
    size = 4 * (channels + ASSUMED_CHANNELS) * prod(patch) * batch
    return ForwardPass(size, size, 0, 0)


def _times(one: ForwardPass, times: float) -> ForwardPass:
    return ForwardPass(*(int(times * n) for n in (one.tensors, one.peak, one.pooled, one.flops)))


def activation_bytes(module: torch.nn.Module, channels: int, patch: Sequence[int], dtype: str) -> int:
    """Peak bytes of the tensors that are alive at one time in a forward pass of one patch, input included."""
    return forward_pass(module, channels, patch, dtype).tensors


def _follow(module: torch.nn.Module, shape: tuple[int, ...], dtype: str, device: str) -> ForwardPass:
    import torch
    from torch.utils import _pytree as pytree
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils.flop_counter import FlopCounterMode

    weights = {t.untyped_storage()._cdata for t in (*module.parameters(), *module.buffers())}
    convolutions = (
        torch.ops.aten.convolution.default,
        torch.ops.aten._convolution.default,
    )  # the latter in TorchScript

    class Alive(TorchDispatchMode):  # type: ignore[no-untyped-call]
        now = tensors = peak = small = pooled = 0

        def __init__(self) -> None:
            super().__init__()  # type: ignore[no-untyped-call]
            self.seen: set[int] = set(weights)

        def born(self, tensor: torch.Tensor) -> None:
            storage = tensor.untyped_storage()
            if (key := storage._cdata) in self.seen:
                return
            self.seen.add(key)
            self.now += storage.nbytes()
            self.tensors = max(self.tensors, self.now)
            self.peak = max(self.peak, self.now)
            if storage.nbytes() < MAPPED:
                self.small += storage.nbytes()
                self.pooled = max(self.pooled, self.small)
            weakref.finalize(storage, self.died, key, storage.nbytes())

        def died(self, key: int, size: int) -> None:
            self.seen.discard(key)
            self.now -= size
            if size < MAPPED:
                self.small -= size

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = func(*args, **(kwargs or {}))
            if func in convolutions:
                during, after = _workspace(args, result)
                self.peak = max(self.peak, self.now + during, self.now + after + result.nbytes)
                if during < MAPPED:
                    self.pooled = max(self.pooled, self.small + during)
            for leaf in pytree.tree_leaves(result):
                if isinstance(leaf, torch.Tensor):
                    self.born(leaf)
            return result

    alive, counted = Alive(), FlopCounterMode(display=False)
    with torch.no_grad(), counted, alive:
        module(torch.zeros(shape, dtype=getattr(torch, dtype), device=device))
    return ForwardPass(alive.tensors, alive.peak, alive.pooled, counted.get_total_flops())


def _workspace(args: Sequence[Any], result: torch.Tensor) -> tuple[int, int]:
    """Bytes that a convolution on a CPU holds beside its input: while it computes, and while its result is copied out.

    torch's own kernels unfold the input into columns; oneDNN's read and write blocked copies, whose channels are padded
    to whole vector registers (inputs of fewer channels are read as they are). The second number leaves out the result.
    """
    x, weight, _, stride, padding, dilation, transposed, output_padding, groups = args[:9]
    backend = _backend(
        tuple(x.shape), tuple(weight.shape), x.dtype, tuple(stride), tuple(padding), tuple(dilation), bool(transposed),
        tuple(output_padding), int(groups),
    )  # fmt: skip
    size = x.element_size()
    if "Slow" in backend and not transposed:
        taps = weight[0].numel()
        columns = taps * result[:, 0].numel() * size if weight[0, 0].numel() > 1 else 0
        return result.nbytes + columns, columns
    if "Mkldnn" not in backend:
        return 0, 0
    if transposed:
        return x.nbytes + result.nbytes, result.nbytes
    vector = _vector_bytes() // size
    blocked_in = 0 if x.shape[1] < vector and groups == 1 else _padded(x, vector)
    blocked_out = _padded(result, vector)
    return blocked_in + blocked_out, blocked_out


def _padded(tensor: torch.Tensor, vector: int) -> int:
    channels = -(-tensor.shape[1] // vector) * vector
    return tensor.nbytes // tensor.shape[1] * channels


@cache
def _backend(
    shape: tuple[int, ...],
    weight: tuple[int, ...],
    dtype: torch.dtype,
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
    transposed: bool,
    output_padding: tuple[int, ...],
    groups: int,
) -> str:
    """The name of the implementation that torch would take on a CPU, asked with tensors that have no data."""
    import torch
    from torch._subclasses import FakeTensorMode

    with FakeTensorMode():
        x, w = torch.empty(shape, dtype=dtype), torch.empty(weight, dtype=dtype)
        return str(
            torch._C._select_conv_backend(
                x, w, None, list(stride), list(padding), list(dilation), transposed, list(output_padding), groups
            )
        )


@cache
def _vector_bytes() -> int:
    import torch

    return 64 if "AVX512" in torch.backends.cpu.get_cpu_capability() else 32
