"""Trace a network: find sizes that it takes, follow what it reads there, and state the contract of each axis."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import torch
from torch import nn

from chunkinfer.errors import ModelError
from chunkinfer.geometry.contract import AxisContract
from chunkinfer.models.trace.contract import (
    Sizes,
    agree,
    context,
    period_of,
    sizes_taken,
    smallest_size,
    split_crop,
)
from chunkinfer.models.trace.dependence import Reach, Reason
from chunkinfer.models.trace.follow import Followed
from chunkinfer.models.trace.subject import Subject, subjects

_FREE_SIZES = (96, 48, 192, 240, 144, 120, 64, 72, 256, 224, 160, 128, 512)
"""Sizes tried first on the meta device: many divisors, and common sizes of fixed networks."""
_REAL_SIZES = (24, 16, 12, 32, 8, 48, 36, 40, 64)
"""Sizes tried first where data must flow."""
_FREE_LIMIT, _REAL_LIMIT = 16384, 256
"""Voxels on the traced axis beyond which a context is not looked for."""
_REAL_VOXELS = 128**3
"""Voxels of the largest patch that is checked where data must flow."""


@dataclass(frozen=True)
class Trace:
    """What a network needs, gives and accepts, as found by running it."""

    axes: tuple[AxisContract, ...]
    """The contract of each spatial axis. Period, stride, crop and sizes hold also for a network that is not exact;
    its context is then stated as 0."""
    channels_in: int
    """Channels that the network takes."""
    channels_out: int
    """Channels that it gives."""
    dtype: str
    """Name of the output's dtype, such as ``"float32"``."""
    reasons: tuple[Reason, ...]
    """Why it cannot be tiled exactly; empty if it can."""
    operations: tuple[str, ...]
    """The ATen operators that the volume went through, with the shapes they gave, in order."""

    @property
    def exact(self) -> bool:
        """Whether tiles with enough context give the whole-volume result."""
        return not self.reasons


def trace(
    module: nn.Module,
    channels: int,
    ndim: int,
    *,
    dtype: torch.dtype = torch.float32,
    size: Sequence[int] | None = None,
) -> Trace:
    """Find out what a network reads around each output voxel, and which sizes it takes.

    The network runs a few times without data (on the meta device), or on small tensors where it cannot. The caller's
    module stays as it is.

    Parameters
    ----------
    module
        An ``nn.Module``, a ``torch.jit.ScriptModule``, or the ``module()`` of a ``torch.export`` program. It takes
        ``(1, channels, *spatial)``; if it returns a tuple, list or dict, the first tensor in it counts.
    channels
        Input channels.
    ndim
        Spatial axes.
    dtype
        The input's dtype.
    size
        A spatial shape that the network takes, for networks of a fixed size that differs between axes.

    Raises
    ------
    ModelError
        The network runs at none of many sizes, or takes another number of channels.
    """
    failure: Exception | None = None
    for subject in subjects(module, channels, dtype):
        start, error = _first_run(subject, ndim, size)
        if start is not None:
            return _traced(subject, start)
        failure = failure or error
    raise _unrunnable(module, channels, ndim, dtype, size, failure)


def _starts(subject: Subject, ndim: int, size: Sequence[int] | None) -> Iterator[tuple[int, ...]]:
    if size is not None:
        yield tuple(size)
        return
    likely, limit = (_FREE_SIZES, 600) if subject.is_free else (_REAL_SIZES, 100)
    rest = (n for n in range(1, limit) if n not in likely)
    yield from ((n,) * ndim for n in (*likely, *rest))


def _first_run(subject: Subject, ndim: int, size: Sequence[int] | None) -> tuple[Followed | None, Exception | None]:
    """A run at some size, one without a reason against exactness if there is one among the first few that run."""
    first: Followed | None = None
    error: Exception | None = None
    ran = 0
    for shape in _starts(subject, ndim, size):
        found = subject.output_shape(shape)
        if isinstance(found, Exception):
            error = error or found
            if first is not None and shape[0] not in (*_FREE_SIZES, *_REAL_SIZES):
                break
            continue
        ran += 1
        followed = subject.follow(shape)
        first = first or followed
        if not followed.reasons:
            return followed, None
        if ran == (4 if subject.is_free else 1):
            break
    return first, error


def _unrunnable(
    module: nn.Module,
    channels: int,
    ndim: int,
    dtype: torch.dtype,
    size: Sequence[int] | None,
    failure: Exception | None,
) -> ModelError:
    expected = next((n for n in _expected_channels(module) if n != channels), None)
    if expected is not None:
        for subject in subjects(module, expected, dtype):
            if _first_run(subject, ndim, size)[0] is not None:
                return ModelError(
                    f"The first convolution of {_name(module)} expects {expected} channels, and {channels} were given.",
                    "The volume and the network were not made for each other, or the channel axis is missing.",
                    [f"give {expected} channels: a volume with dims (c, z, y, x)", "change the network's first layer"],
                )
    at = f"{tuple(size)}" if size is not None else "any size from 1 to 599"
    return ModelError(
        f"{_name(module)} does not run on (1, {channels}, *space) with {ndim} spatial axes at {at}: {failure}",
        "The number of spatial axes or channels is another one, or its size is fixed at export.",
        [
            "say the size that it was made for: size=(20, 256, 256)",
            "export it with dynamic spatial axes: torch.export.export(..., dynamic_shapes=...)",
        ],
    )


def _name(module: nn.Module) -> str:
    return str(getattr(module, "original_name", type(module).__name__))


def _expected_channels(module: nn.Module) -> list[int]:
    """Input channels of the first convolution or linear layer."""
    for layer in module.modules():
        for name in ("in_channels", "in_features"):
            if isinstance(found := getattr(layer, name, None), int):
                return [found]
    return [int(p.shape[1]) for p in module.parameters() if p.ndim >= 3][:1]


def _traced(subject: Subject, start: Followed) -> Trace:
    axes = [_Axis(subject, start, axis) for axis in range(len(start.strides))]
    contracts = tuple(axis.contract() for axis in axes)
    reasons = tuple(dict.fromkeys([*start.reasons, *(reason for axis in axes for reason in axis.reasons)]))
    return Trace(
        contracts,
        subject.channels,
        int(start.output.shape[1]),
        str(start.output.dtype).removeprefix("torch."),
        reasons,
        start.operations,
    )


class _Axis:
    """The search for one axis' contract, with the other axes at the size of the first run."""

    def __init__(self, subject: Subject, start: Followed, axis: int) -> None:
        self.subject, self.start, self.axis = subject, start, axis
        self.reasons: list[Reason] = []
        self.base = tuple(start.input_shape)
        reach = start.reach(axis)
        self.period = period_of(start.strides[axis], reach.stride if reach is not None else Fraction(1))
        self.stride = reach.stride if reach is not None else self._measured_stride()
        if reach is None:
            self.period = period_of(start.strides[axis], self.stride)
            if not start.reasons:
                self._refuse("what the output reads along this axis could not be followed")

    def contract(self) -> AxisContract:
        first = self.base[self.axis]
        sizes = self._sizes()
        if not sizes.residues:
            self._refuse(f"takes this axis only at the size of {first} voxels, so patches of other sizes do not run")
            residues: tuple[int, ...] = (first % self.period,)
            reference, low, high = first, 0, 0
        else:
            residues, low, high = self._context(sizes)
            reference = next(n for n in sizes.taken if n % self.period in residues)
        smallest = reference if not sizes.residues else self._smallest(sizes, residues)
        exact = not (self.reasons or self.start.reasons)
        return AxisContract(
            period=self.period,
            stride=self.stride,
            low=low if exact else 0,
            high=high if exact else 0,
            crop=split_crop(sizes.total),
            residues=residues,
            smallest=smallest,
        )

    def _refuse(self, text: str) -> None:
        self.reasons.append(Reason(f"axis {self.axis}", text))

    def _shape(self, size: int) -> tuple[int, ...]:
        return (*self.base[: self.axis], size, *self.base[self.axis + 1 :])

    def _output_size(self, size: int) -> int | None:
        found = self.subject.output_shape(self._shape(size))
        return None if isinstance(found, Exception) else found[2 + self.axis]

    def _measured_stride(self) -> Fraction:
        """Input per output voxels, where only sizes are known."""
        size = self.base[self.axis]
        here, there = self._output_size(size), self._output_size(size + self.period)
        if here is None or there is None or here == there:
            return Fraction(size, here) if here else Fraction(1)
        return Fraction(self.period, there - here)

    def _sizes(self) -> Sizes:
        first = self.base[self.axis]
        tried = range(first, first + 2 * self.period)
        outputs = {size: out for size in tried if (out := self._output_size(size)) is not None}
        return sizes_taken(outputs, tried, self.stride, self.period)

    def _smallest(self, sizes: Sizes, residues: tuple[int, ...]) -> int:
        def takes(size: int) -> bool:
            out = self._output_size(size)
            return out is not None and size - out * self.stride == sizes.total

        firsts = {size % self.period: size for size in reversed(sizes.taken)}
        return min(smallest_size(firsts[r], self.period, takes) for r in residues)

    def _context(self, sizes: Sizes) -> tuple[tuple[int, ...], int, int]:
        """The residues at which the network reads the same, and the context there."""
        if self.start.reasons or self.reasons:
            return sizes.residues, 0, 0
        residue = sizes.residues[0]
        size = next(n for n in sizes.taken if n % self.period == residue)
        limit = _FREE_LIMIT if self.subject.is_free else _REAL_LIMIT
        while size <= limit:
            reach = self._reach(size)
            found = context(reach, self.period) if reach is not None else None
            if reach is None or found is not None:
                break
            size = 2 * size + (residue - 2 * size) % self.period
        if reach is None or found is None:
            self._refuse(f"no part of the output is free of padding, up to a size of {limit} voxels")
            return sizes.residues, 0, 0
        if not found.periodic:
            self._refuse(
                f"what it reads does not repeat every {self.period} voxels, though no single layer explains that"
            )
            return sizes.residues, 0, 0
        agreeing = tuple(r for r in sizes.residues if self._agrees(reach, size, r))
        if residue not in agreeing:
            self._refuse("what it reads depends on the size of the patch, though no single layer explains that")
            return sizes.residues, 0, 0
        return agreeing, found.low, found.high

    def _reach(self, size: int) -> Reach | None:
        """What the output reads at this size, or None if that is not all."""
        followed = self.subject.follow(self._shape(size))
        if followed.reasons:
            self.reasons.extend(followed.reasons)
            return None
        return followed.reach(self.axis)

    def _agrees(self, reach: Reach, size: int, residue: int) -> bool:
        """Whether another size, with this residue, reads the same as the size of reference."""
        larger = size + ((residue - size) % self.period or self.period)
        followed = self.subject.follow(self._shape(larger))
        other = followed.reach(self.axis)
        return not followed.reasons and other is not None and agree(reach, other)


def check_patch(
    module: nn.Module,
    trace: Trace,
    channels: int,
    patch: Sequence[int],
    clean: Sequence[tuple[int, int]],
) -> tuple[Reason, ...]:
    """Confirm, at the patch's own size, that its clean zone is the whole-volume result.

    Parameters
    ----------
    module
        The network that was traced.
    trace
        Its trace.
    channels
        Input channels.
    patch
        Input voxels per axis.
    clean
        The clean zone of an interior patch per axis, half-open, in input voxels from the patch's start: outputs
        anchored in it are kept. A patch flush with the low (high) end of the volume keeps all below (above) it too.

    Returns
    -------
    tuple of Reason
        What is wrong; empty if nothing is, or if checking would mean computing a large patch.
    """
    if trace.reasons:
        return trace.reasons
    for subject in subjects(module, channels, _dtype_of(module)):
        if not subject.is_free and np.prod(patch) > _REAL_VOXELS:
            return ()
        found = subject.output_shape(patch)
        if isinstance(found, Exception):
            failure: Exception = found
            continue
        followed = subject.follow(patch)
        return followed.reasons or tuple(
            reason
            for axis, zone in enumerate(clean)
            for reason in _axis_errors(followed.reach(axis), trace.axes[axis], axis, patch[axis], zone)
        )
    return (Reason(_name(module), f"does not run on a patch of {tuple(patch)} voxels: {failure}"),)


def _axis_errors(
    reach: Reach | None, contract: AxisContract, axis: int, patch: int, zone: tuple[int, int]
) -> Iterator[Reason]:
    layer = f"axis {axis}"
    if reach is None:
        yield Reason(layer, "what the output reads along this axis could not be followed")
        return
    count = len(reach.low)
    if count != contract.output_size(patch) or reach.stride != contract.stride:
        yield Reason(layer, f"{patch} voxels give {count} output voxels instead of {contract.output_size(patch)}")
        return
    # Outputs whose anchor o * stride lies in the zone.
    first, stop = (int(np.ceil(float(Fraction(end) / contract.stride))) for end in zone)
    ends = (("low", reach.padded_low[first:], "above"), ("high", reach.padded_high[:stop], "below"))
    for end, padded, side in ends:
        if padded.any():
            yield Reason(
                layer,
                f"in a patch of {patch} voxels, {int(padded.sum())} output voxels of the clean zone [{zone[0]}, "
                f"{zone[1]}) or {side} it read beyond the patch's {end} end",
            )


def _dtype_of(module: nn.Module) -> torch.dtype:
    """The dtype that a network computes in: its weights'."""
    return next((p.dtype for p in module.parameters() if p.is_floating_point()), torch.float32)
