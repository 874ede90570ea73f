"""What an output should be, from its definition alone: without the patches of a run, its blocks or its kernel."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import product
from math import ceil, floor, prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chunkinfer.geometry.boxes import Box
from chunkinfer.geometry.contract import AxisContract
from chunkinfer.geometry.lattice import round_up
from chunkinfer.networks.engines.torch_eager import reduced_type
from chunkinfer.networks.model import Model
from chunkinfer.tiling.kernel.blend_weights import WINDOWS
from chunkinfer.tiling.kernel.normalize import Affine, Normalize
from chunkinfer.tiling.kernel.outputs import Output

Array = NDArray[Any]
Read = Callable[[Box], Array]
"""An input box inside the volume -> its voxels, (channels, *space)."""
Forward = Callable[[Array], Array]
"""Stored voxels (channels, *space) -> the network's output (channels, *space), float64."""
Reference = Callable[[Box], Array]
"""An output box -> its voxels as they should be, (channels, *space), float64."""


def forward_of(model: Model, device: str, normalize: Normalize, precision: str, output: Output) -> Forward:
    """One forward pass, with the scaling, the precision and the output steps of a run."""
    import torch

    network, compute = model.network(device), np.dtype(model.compute_dtype())

    def run(voxels: Array) -> Array:
        if isinstance(normalize, Affine):
            values = (voxels.astype(compute) - normalize.offset) / normalize.scale
        else:
            values = np.asarray(normalize(voxels), compute)
        inside: AbstractContextManager[Any] = nullcontext()
        if precision != "fp32":
            inside = torch.autocast(device, dtype=reduced_type(precision))
        elif device == "cuda":  # convolutions round to TF32 there unless told otherwise
            inside = torch.backends.cudnn.flags(enabled=True, allow_tf32=False)
        with torch.inference_mode(), inside:
            result = output.on_patch(network(torch.from_numpy(np.ascontiguousarray(values))[None].to(device)))
        found: Array = result[0].to("cpu", torch.float64).numpy()
        return found

    return run


def far_padded(read: Read, box: Box, sizes: Sequence[int]) -> Array:
    """The voxels of a box that may reach beyond the volume's far end, where the last voxel is repeated."""
    voxels = read(box & Box.of_shape(sizes))
    missing = [(0, want - have) for want, have in zip(box.shape, voxels.shape[1:], strict=True)]
    return np.pad(voxels, [(0, 0), *missing], mode="edge")


@dataclass(frozen=True)
class Whole:
    """The network on the whole volume, seen through a crop with all the context that a box needs, in one pass."""

    read: Read
    forward: Forward
    axes: tuple[AxisContract, ...]
    sizes: tuple[int, ...]
    """Input voxels of the volume."""
    margin: tuple[int, ...]
    """Voxels of each crop beyond the traced context, a multiple of the period: a context that was traced too small
    makes patches and crops differ, where crops with that very context would agree with them."""
    last: dict[Box, Array] = field(default_factory=dict, repr=False, compare=False)
    """The output of the last crop: in a small volume all boxes have the same one."""

    def __call__(self, box: Box) -> Array:
        spans = [self.span(d, low, high) for d, (low, high) in enumerate(zip(box.start, box.stop, strict=True))]
        crop = Box(tuple(a for a, _ in spans), tuple(b for _, b in spans))
        if crop not in self.last:
            self.last.clear()
            self.last[crop] = self.forward(far_padded(self.read, crop, self.sizes))
        first = [int(a / c.stride) for a, c in zip(crop.start, self.axes, strict=True)]
        return self.last[crop][(slice(None), *box.relative_to(first).slices)]

    def span(self, axis: int, low: int, high: int) -> tuple[int, int]:
        """The crop along an axis for the output voxels ``[low, high)``.

        It starts at a multiple of the period, where pooling windows lie as in the whole volume, and has a size that the
        network takes. Where it reaches a face of the volume it is flush with it.
        """
        c, size = self.axes[axis], self.sizes[axis]
        padded = c.accepted_at_least(size)
        start = floor(low * c.stride / c.period) * c.period - round_up(c.low, c.period) - self.margin[axis]
        stop = ceil(high * c.stride / c.period) * c.period + c.high + self.margin[axis]
        start = max(0, start)
        stop += (padded - stop) % c.period
        stop += round_up(max(0, c.smallest - (stop - start)), c.period)
        if stop > size:
            stop = padded
            start = min(start, (padded - c.smallest) // c.period * c.period)
        return start, stop


@dataclass(frozen=True)
class Blended:
    """The weighted mean of all patches that contain a voxel, in plain loops and double precision."""

    read: Read
    forward: Forward
    axes: tuple[AxisContract, ...]
    sizes: tuple[int, ...]
    """Input voxels of the volume."""
    patch: tuple[int, ...]
    overlap: tuple[int, ...]
    """Input voxels."""
    window: str

    def __call__(self, box: Box) -> Array:
        parts = [self._weights(d, low, high) for d, (low, high) in enumerate(zip(box.start, box.stop, strict=True))]
        total: Array = np.zeros(0)
        for corner in product(*parts):
            start = tuple(s for s, _ in corner)
            value = self.forward(far_padded(self.read, self._patch(start), self.sizes))
            origin = [int(s / c.stride) for s, c in zip(start, self.axes, strict=True)]
            shape = tuple(a + n for a, n in zip(origin, value.shape[1:], strict=True))
            both = box & Box(tuple(origin), shape)
            weighted = value[(slice(None), *both.relative_to(origin).slices)]
            for d, ((_, weights), part) in enumerate(zip(corner, both.relative_to(box.start).slices, strict=True)):
                weighted = weighted * weights[part].reshape([-1 if i == d + 1 else 1 for i in range(value.ndim)])
            if not total.size:
                total = np.zeros((len(value), *box.shape))
            total[(slice(None), *both.relative_to(box.start).slices)] += weighted
        return total

    def _patch(self, start: tuple[int, ...]) -> Box:
        return Box(start, tuple(s + p for s, p in zip(start, self.patch, strict=True)))

    def _weights(self, axis: int, low: int, high: int) -> list[tuple[int, NDArray[np.float64]]]:
        """The patches along an axis that contain output voxels of ``[low, high)``: their starts, and their shares in
        each of these voxels."""
        contract, patch = self.axes[axis], self.patch[axis]
        step, grain = patch - self.overlap[axis], contract.stride.numerator
        end = patch + round_up(max(0, self.sizes[axis] - patch), grain)
        seen = contract.output_size(patch)
        raw = WINDOWS[self.window](seen, seen - int(step / contract.stride))
        found = []
        for start in (*range(0, end - patch, step), end - patch):
            shift = int(start / contract.stride) - low
            first, last = max(0, shift), min(high - low, shift + seen)
            if first < last:
                weights = np.zeros(high - low)
                weights[first:last] = raw[first - shift : last - shift]
                found.append((start, weights))
        total = np.sum([weights for _, weights in found], 0)
        return [(start, weights / total) for start, weights in found]


def margins(axes: Sequence[AxisContract]) -> tuple[int, ...]:
    """A quarter of the context beyond it, and a period at least."""
    return tuple(round_up(max(c.period, max(c.low, c.high) // 4), c.period) for c in axes)


def box_within(axes: Sequence[AxisContract], margin: Sequence[int], bytes_per_voxel: float, budget: int) -> Box:
    """The largest box, at the origin, whose crop's activations stay under a budget in bytes.

    At most 32 voxels along each axis in 3D, 128 in 2D: beyond that, boxes elsewhere say more.
    """
    edge = 128 if len(axes) == 2 else 32
    shape = [edge] * len(axes)

    def crop() -> list[Fraction]:
        return [n * c.stride + c.low + c.high + 2 * (m + c.period) for n, c, m in zip(shape, axes, margin, strict=True)]

    while prod(crop()) * bytes_per_voxel > budget and max(shape) > 1:
        longest = shape.index(max(shape))
        shape[longest] = -(-shape[longest] // 2)
    return Box.of_shape(shape)
