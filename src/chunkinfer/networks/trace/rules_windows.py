"""Operators that read a window around each position: convolution, pooling, resampling, padding."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from chunkinfer.networks.trace.call import Call, Rule
from chunkinfer.networks.trace.dependence import Dim, Dims, Factor, Unfollowed, collapse, is_spatial


def _each(value: int | Sequence[int] | None, rank: int, default: int | Sequence[int]) -> list[int]:
    """An argument as one integer per axis."""
    if value is None or (not isinstance(value, int) and len(value) == 0):
        value = default
    if isinstance(value, int):
        return [value] * rank
    return [int(v) for v in value] if len(value) == rank else [int(value[0])] * rank


def _windows(factor: Factor, size: int, kernel: int, stride: int, padding: int, dilation: int) -> Factor:
    """Windows of ``kernel`` taps, ``stride`` apart, the first of which starts ``padding`` before the factor."""
    taps = np.arange(size)[:, None] * stride - padding + dilation * np.arange(kernel)
    return factor.gather(taps, Fraction(stride))


def _transposed(factor: Factor, size: int, kernel: int, stride: int, padding: int, dilation: int) -> Factor:
    """Position ``o`` reads ``i`` where ``o = i * stride - padding + dilation * j`` for a tap ``j`` of the kernel.

    All taps that an endless grid would have count, so that outputs which miss one at the ends are known as padded.
    """
    reach = dilation * (kernel - 1)
    shifted = np.arange(size)[:, None] + padding
    taps = -((reach - shifted) // stride) + np.arange(reach // stride + 1)
    rest = shifted - taps * stride
    return factor.gather(taps, Fraction(1, stride), present=(rest >= 0) & (rest <= reach) & (rest % dilation == 0))


def convolution(call: Call) -> Dims:
    weight = call["weight"]
    if any(is_spatial(dim) for dim in call.dims(weight)):
        raise Unfollowed("its kernel is computed from the volume")
    rank = weight.ndim - 2
    stride, padding, dilation = (_each(call[name], rank, 1) for name in ("stride", "padding", "dilation"))
    dims = call.dims(call["input"])
    call.refuse_spatial(dims[1:2], "mixes all positions of a spatial axis, which it takes for channels")
    window = _transposed if call["transposed"] else _windows
    spatial = [
        (window(collapse(dims[i + 2]), call.shape[i + 2], weight.shape[i + 2], stride[i], padding[i], dilation[i]),)
        for i in range(rank)
    ]
    return (dims[0], (Factor(call.shape[1]),), *spatial)


def pooling(call: Call) -> Dims:
    kernel = call["kernel_size"]
    rank = int(call.name[call.name.index("pool") + 4])
    kernel = _each(kernel, rank, kernel)
    stride = _each(call.get("stride"), rank, kernel)
    padding = _each(call.get("padding"), rank, 0)
    dilation = _each(call.get("dilation"), rank, 1)
    dims = call.source
    keep = len(dims) - rank
    spatial = [
        (_windows(collapse(dims[keep + i]), call.shape[keep + i], kernel[i], stride[i], padding[i], dilation[i]),)
        for i in range(rank)
    ]
    return (*dims[:keep], *spatial)


def _scales(call: Call, rank: int) -> list[float | None]:
    if call.get("scale_factors"):
        return list(call["scale_factors"])
    return [call.get(name) for name in {1: ["scales"], 2: ["scales_h", "scales_w"]}.get(rank, _SCALES_3D)]


_SCALES_3D = ["scales_d", "scales_h", "scales_w"]


def resampling(call: Call) -> Dims:
    rank = int(call.name[call.name.index("d", len("_upsample")) - 1])
    dims = call.source
    keep = len(dims) - rank
    spatial = [
        _resampled(call, dims[keep + i], call.shape[keep + i], scale) for i, scale in enumerate(_scales(call, rank))
    ]
    return (*dims[:keep], *spatial)


def _resampled(call: Call, dim: Dim, size: int, scale: float | None) -> Dim:
    if not is_spatial(dim) or size == sum(f.size for f in dim):
        return dim if size == collapse(dim).size else (Factor(size),)
    factor = collapse(dim)
    step = 1 / Fraction(scale).limit_denominator(64) if scale else Fraction(factor.size, size)
    if call.get("align_corners"):
        call.refuse(
            "interpolates with align_corners=True: where it samples depends on the size of the whole input; "
            "align_corners=False does not"
        )
    elif max(step.numerator, step.denominator) > 16:
        call.refuse(f"resizes by a ratio that depends on the size of the input ({factor.size} to {size} voxels)")
    # Position k samples the point (k + 1/2) * step - 1/2; whole numbers over one denominator, for long axes.
    num, den = step.numerator, 2 * step.denominator
    twice = (2 * np.arange(size) + 1) * num - den // 2
    if "nearest_exact" in call.name:
        return (factor.take(np.clip((twice + den // 2) // den, 0, factor.size - 1), step),)
    if "nearest" in call.name:
        return (factor.take(np.clip(np.arange(size) * num // step.denominator, 0, factor.size - 1), step),)
    before, after = (1, 2) if "cubic" in call.name else (0, 1)
    # A weight is a float32: only where the ratio is a power of two is it known on which side of a voxel a position
    # falls. Linear interpolation also multiplies the next voxel by zero where the position is a voxel. Other positions
    # are at least one over the denominator away from any voxel, far beyond round-off.
    exact = step.denominator & (step.denominator - 1) == 0
    voxel = (twice % den == 0) & (not exact)
    first = twice // den - voxel - before
    last = twice // den + after
    width = int((last - first).max()) + 1
    taps = np.minimum(first[:, None] + np.arange(width), last[:, None])
    padded = (first < 0, last > factor.size - 1)
    # Beyond the ends the first or last voxel is repeated, and a position below 0 is moved to 0.
    if before == 0:
        taps = np.where(first[:, None] < 0, np.arange(width), taps)
    return (factor.gather(np.clip(taps, 0, factor.size - 1), step, padded=padded),)


def padding(call: Call) -> Dims:
    amounts = call.get("pad") or call["padding"]
    dims = list(call.source)
    for i, (before, after) in enumerate(zip(amounts[::2], amounts[1::2], strict=True)):
        k = len(dims) - 1 - i
        if before == after == 0:
            continue
        factor = collapse(dims[k])
        at = np.arange(factor.size + before + after) - before
        ends = (at < 0, at > factor.size - 1)
        if call.name.startswith("reflection"):
            at = np.abs(at)
            at = np.where(at > factor.size - 1, 2 * (factor.size - 1) - at, at)
        elif call.name.startswith("replication"):
            at = np.clip(at, 0, factor.size - 1)
        dims[k] = (factor.gather(at[:, None], Fraction(1), padded=ends),)
    return tuple(dims)


_POOLS = ["avg_pool1d", "avg_pool2d", "avg_pool3d", "max_pool1d", "max_pool2d", "max_pool3d"]
_LINEAR = ["linear1d", "bilinear2d", "bicubic2d", "trilinear3d"]

RULES: dict[str, Rule] = {
    **dict.fromkeys(["convolution", "_convolution", "convolution_overrideable"], convolution),
    **dict.fromkeys([*_POOLS, "max_pool2d_with_indices", "max_pool3d_with_indices"], pooling),
    **dict.fromkeys([f"upsample_nearest{n}d" for n in (1, 2, 3)], resampling),
    **dict.fromkeys([f"_upsample_nearest_exact{n}d" for n in (1, 2, 3)], resampling),
    **dict.fromkeys([f"upsample_{kind}" for kind in _LINEAR], resampling),
    **dict.fromkeys(["constant_pad_nd"], padding),
    **dict.fromkeys([f"reflection_pad{n}d" for n in (1, 2, 3)], padding),
    **dict.fromkeys([f"replication_pad{n}d" for n in (1, 2, 3)], padding),
}
