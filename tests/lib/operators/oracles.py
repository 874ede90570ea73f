"""Every operator beside the same in plain numpy and scipy on the whole array, with arguments at random."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import trunc
from typing import Any

import numpy as np
from hypothesis import strategies as st
from scipy import ndimage

from chunkinfer import operators as op
from chunkinfer.geometry.boxes import Box
from tests.lib.pyramids.oracle import coarser

Array = np.ndarray[Any, Any]
Draw = Callable[[st.SearchStrategy[Any]], Any]

INTEGERS = ("u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8")
FLOATS = ("f2", "f4", "f8")
ALL = ("?", *INTEGERS, *FLOATS)


@dataclass(frozen=True)
class Case:
    """An operator with arguments drawn for an array: the lazy one, and what it must give."""

    make: Callable[[Draw, Array], tuple[Callable[[Any], Any], Array]]
    """From the whole array, (z, y, x) or (c, z, y, x), to the operator and the expected array."""
    types: tuple[str, ...] = ALL
    channels: bool | None = None
    """Whether it needs an array with channels; None if either will do."""

    def takes(self, values: Array) -> bool:
        """Whether an array fits."""
        return values.dtype.str[1:].replace("b1", "?") in self.types and self.channels in (None, values.ndim == 4)


def voxels(dtype: str, shape: tuple[int, ...], seed: int) -> Array:
    """Random voxels of all values of a type; floats around [0, 1]."""
    rng = np.random.default_rng(seed)
    kind = np.dtype(dtype)
    if kind.kind == "b":
        return rng.random(shape) < 0.5
    if kind.kind == "f":
        return rng.normal(0.5, 0.5, shape).astype(kind)
    info = np.iinfo(kind)
    wide = rng.integers(info.min, info.max, shape, kind, endpoint=True)
    return np.where(rng.random(shape) < 0.5, wide, rng.integers(0, 5, shape)).astype(kind)  # labels repeat


def same(found: Array, expected: Array) -> None:
    """Equal bits, of the same type and shape."""
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    np.testing.assert_array_equal(found, expected)


# ---- values ---------------------------------------------------------------------------------------------------------


def stretched(values: Array, low: Any, high: Any) -> Array:
    wide = np.result_type(values, np.float32)
    low, high = np.asarray(low, wide), np.asarray(high, wide)
    span = np.where(high > low, high - low, 1).astype(wide)
    return np.clip((values.astype(wide) - low) / span, 0, 1).astype("f4")


def normalize_range(draw: Draw, values: Array) -> Any:
    low, width = draw(st.integers(-200, 200)), draw(st.sampled_from([0.5, 1, 7, 255]))
    return lambda v: op.normalize(v, range=(low, low + width)), stretched(values, low, low + width)


def normalize_percentile(draw: Draw, values: Array) -> Any:
    low = draw(st.sampled_from([0, 0.1, 1, 10, 50]))
    high = draw(st.sampled_from([50.5, 90, 99, 99.9, 100]))
    limits = (np.percentile(values, p, method="inverted_cdf").astype("f8") for p in (low, high))
    return lambda v: op.normalize(v, percentile=(low, high)), stretched(values, *limits)


def normalize_sections(draw: Draw, values: Array) -> Any:
    others = tuple(d for d in range(values.ndim) if d != values.ndim - 3)
    limits = (np.percentile(values, p, axis=others, method="inverted_cdf").astype("f8") for p in (5, 95))
    low, high = (each[:, None, None] for each in limits)
    return lambda v: op.normalize(v, percentile=(5, 95), sections=True), stretched(values, low, high)


def invert(draw: Draw, values: Array) -> Any:
    if values.dtype.kind == "f":
        return op.invert, (1 - values).astype(values.dtype)
    if values.dtype.kind == "b":
        return op.invert, ~values
    info = np.iinfo(values.dtype)
    mirrored = [int(info.min) + int(info.max) - int(v) for v in values.flat]
    return op.invert, np.array(mirrored, values.dtype).reshape(values.shape)


def cast(draw: Draw, values: Array) -> Any:
    kind = np.dtype(draw(st.sampled_from(ALL)))
    if kind.kind in "iu":
        info = np.iinfo(kind)
        clipped = [min(max(trunc(v), int(info.min)), int(info.max)) for v in values.ravel().tolist()]
        return lambda v: op.cast(v, kind), np.array(clipped, kind).reshape(values.shape)
    with np.errstate(over="ignore"):
        return lambda v: op.cast(v, kind.name), values.astype(kind)


def quantize(draw: Draw, values: Array) -> Any:
    kind = np.dtype(draw(st.sampled_from(["u1", "u2"])))
    wide = np.dtype("f4" if kind == "u1" and values.dtype != "f8" else "f8")
    top = np.iinfo(kind).max
    return lambda v: op.quantize(v, kind), np.rint(np.clip(values.astype(wide), 0, 1) * top).astype(kind)


def dequantize(draw: Draw, values: Array) -> Any:
    return op.dequantize, (values.astype("f8") / np.iinfo(values.dtype).max).astype("f4")


def threshold(draw: Draw, values: Array) -> Any:
    value = draw(st.sampled_from([0, 0.25, 2, 200, -1]))
    return lambda v: op.threshold(v, value), (values > value).astype("u1")


# ---- several volumes ------------------------------------------------------------------------------------------------


def combine(draw: Draw, values: Array) -> Any:
    name = draw(st.sampled_from(["add", "multiply", "maximum", "minimum"]))
    other = voxels(draw(st.sampled_from(["u1", "f4"])), values.shape, 1)
    many = draw(st.sampled_from([None, 1, 3]))  # the channels of the other
    if values.ndim == 4:
        other = other if many is None else other[:1] if many == 1 else other[0]
    elif many is not None:
        other = np.stack([other + k for k in range(many)]).astype(other.dtype)
    with np.errstate(over="ignore"):
        return lambda v: op.combine(v, other, name), getattr(np, name)(values, other)


def arithmetic(draw: Draw, values: Array) -> Any:
    number = draw(st.sampled_from([2, 0.5, np.float32(0.25), np.int64(3), np.float64(2)]))
    function, exact = draw(st.sampled_from([(op.multiply, np.multiply), (op.add, np.add)]))
    with np.errstate(over="ignore"):
        return lambda v: function(v, number), exact(values, number)


def mask(draw: Draw, values: Array) -> Any:
    factors = [draw(st.sampled_from([f for f in (1, 2, 3) if n % f == 0])) for n in values.shape[-3:]]
    coarse = voxels("?", tuple(n // f for n, f in zip(values.shape[-3:], factors, strict=True)), 2)
    fine = np.kron(coarse, np.ones(factors, bool))
    return lambda v: op.mask(v, coarse, fill=1), np.where(fine, values, values.dtype.type(1))


def maskout(draw: Draw, values: Array) -> Any:
    labels = voxels(draw(st.sampled_from(["u1", "i4", "u8"])), values.shape[-3:], 3)
    remove = draw(st.lists(st.sampled_from([0, 1, 2, 3, 300, -5]), max_size=3))
    given = labels[None] if draw(st.booleans()) else labels
    blank = np.where(np.isin(labels, remove), 0, values).astype(values.dtype)
    return lambda v: op.maskout(v, given, remove=remove), blank


# ---- channels -------------------------------------------------------------------------------------------------------


def channels(draw: Draw, values: Array) -> Any:
    which = draw(st.lists(st.integers(-len(values), len(values) - 1), min_size=1, max_size=4))
    return lambda v: op.channels(v, which), values[which]


def argmax(draw: Draw, values: Array) -> Any:
    return op.argmax, values.argmax(0).astype("u1")


def vote(draw: Draw, values: Array) -> Any:
    return lambda v: op.vote(v, value=0.25), (np.mean(values > 0.25, 0) > 0.5).astype("u1")


def mean_channel(draw: Draw, values: Array) -> Any:
    return op.mean_channel, values.mean(0, dtype="f8").astype("f4")


# ---- places ---------------------------------------------------------------------------------------------------------


def a_box(draw: Draw, shape: tuple[int, ...]) -> Box:
    """A box inside of an array, not empty."""
    ends = [sorted(draw(st.sets(st.integers(0, n), min_size=2, max_size=2))) for n in shape]
    return Box(tuple(a for a, _ in ends), tuple(b for _, b in ends))


def crop(draw: Draw, values: Array) -> Any:
    box = a_box(draw, values.shape[-3:])
    return lambda v: op.crop(v, box.slices), values[(..., *box.slices)]


def pad(draw: Draw, values: Array) -> Any:
    width = [(draw(st.integers(0, 9)), draw(st.integers(0, 9))) for _ in range(3)]
    whole = [(0, 0)] * (values.ndim - 3) + width
    if draw(st.booleans()):
        return lambda v: op.pad(v, width, mode="edge"), np.pad(values, whole, "edge")
    return lambda v: op.pad(v, width, fill=1), np.pad(values, whole, constant_values=1)


def transpose(draw: Draw, values: Array) -> Any:
    axes = draw(st.permutations("zyx"))
    lead = values.ndim - 3
    order = [*range(lead), *(lead + "zyx".index(a) for a in axes)]
    return lambda v: op.transpose(v, "".join(axes)), values.transpose(order)


def downsample(draw: Draw, values: Array) -> Any:
    factors = tuple(draw(st.lists(st.integers(1, 4), min_size=3, max_size=3)))
    method = draw(st.sampled_from(["mean", "mode", "min", "max", "stride"]))
    whole = (1,) * (values.ndim - 3) + factors
    return lambda v: op.downsample(v, factors, method=method), coarser(values, whole, method)


def upsample(draw: Draw, values: Array) -> Any:
    factors = tuple(draw(st.lists(st.integers(1, 3), min_size=3, max_size=3)))
    found = values
    for axis, factor in enumerate(factors, values.ndim - 3):
        found = found.repeat(factor, axis)
    return lambda v: op.upsample(v, factors), found


def rechunk(draw: Draw, values: Array) -> Any:
    chunks = draw(st.integers(1, 9))
    return lambda v: op.rechunk(v, chunks), values


# ---- surroundings ---------------------------------------------------------------------------------------------------


def gaussian(draw: Draw, values: Array) -> Any:
    sigma = draw(st.sampled_from([(0.4, 0.7, 1), (0, 1.3, 0.3), (2, 0.2, 0.5)]))
    kind = "f8" if values.dtype == "f8" else "f4"
    lead = (0,) * (values.ndim - 3)
    return lambda v: op.gaussian(v, sigma), ndimage.gaussian_filter(values.astype(kind), lead + sigma, mode="nearest")


def median(draw: Draw, values: Array) -> Any:
    size = draw(st.sampled_from([3, (1, 3, 5), (3, 1, 1)]))
    each = (size,) * 3 if isinstance(size, int) else size
    wide = values.astype("f4") if values.dtype == "f2" else values
    found = ndimage.median_filter(wide, (1,) * (values.ndim - 3) + each, mode="nearest")
    return lambda v: op.median(v, size), found.astype(values.dtype)


def span(voxels: Array, scale: float) -> Array:
    """What a user writes: over a box of 5 x 3 x 3, and over all channels."""
    size = (2 * len(voxels) + 1, 5, 3, 3) if voxels.ndim == 4 else (5, 3, 3)
    high = ndimage.maximum_filter(voxels.astype("f4"), size, mode="nearest")
    return (high - voxels.astype("f4")) * np.float32(scale)


def apply(draw: Draw, values: Array) -> Any:
    # Maximum filters repeat the edge: a box that ends at the volume's faces sees what the whole array sees.
    return lambda v: op.apply(v, span, halo=(2, 1, 1), dtype="f4", scale=0.5), span(values, 0.5)


def equalised(section: Array, tile: tuple[int, int], clip: float) -> Array:
    """CLAHE of a uint8 section, voxel by voxel."""
    tables = {}
    for y, x in np.ndindex(*(-(-n // t) for n, t in zip(section.shape, tile, strict=True))):
        part = section[y * tile[0] : (y + 1) * tile[0], x * tile[1] : (x + 1) * tile[1]].ravel()
        counts = np.array([(part == value).sum() for value in range(256)], float)
        kept = np.minimum(counts, max(1.0, clip * part.size))
        tables[y, x] = np.cumsum(kept + (counts - kept).sum() / 256) / part.size
    last = [max(index) for index in zip(*tables, strict=True)]
    found = np.zeros(section.shape)
    for y, x in np.ndindex(*section.shape):
        (y0, wy), (x0, wx) = (divmod((i + 0.5) / t - 0.5, 1) for i, t in zip((y, x), tile, strict=True))
        for dy, dx in np.ndindex(2, 2):
            weight = (wy if dy else 1 - wy) * (wx if dx else 1 - wx)
            tile_of = min(max(int(y0) + dy, 0), last[0]), min(max(int(x0) + dx, 0), last[1])
            found[y, x] += weight * tables[tile_of][section[y, x]]
    return found


CASES = {
    "normalize, range": Case(normalize_range),
    "normalize, percentile": Case(normalize_percentile, ("u1", "i1", "u2", "i2")),
    "normalize, sections": Case(normalize_sections, ("u1", "i1", "u2", "i2")),
    "invert": Case(invert),
    "cast": Case(cast),
    "quantize": Case(quantize, FLOATS),
    "dequantize": Case(dequantize, ("u1", "u2", "u4")),
    "threshold": Case(threshold),
    "combine": Case(combine),
    "multiply and add": Case(arithmetic, ("u1", "i2", "f4", "f8")),
    "mask": Case(mask),
    "maskout": Case(maskout),
    "channels": Case(channels, channels=True),
    "argmax": Case(argmax, channels=True),
    "vote": Case(vote, channels=True),
    "mean-channel": Case(mean_channel, channels=True),
    "crop": Case(crop),
    "pad": Case(pad),
    "transpose": Case(transpose),
    "downsample": Case(downsample, ("?", "u1", "i2", "u4", "i8", "u8", "f4")),
    "upsample": Case(upsample),
    "rechunk": Case(rechunk),
    "gaussian": Case(gaussian),
    "median": Case(median),
    "apply": Case(apply),
}
