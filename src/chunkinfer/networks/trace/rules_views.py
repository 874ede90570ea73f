"""Operators that move elements without computing: reshapes, permutations, slices, concatenation, pixel shuffle."""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from chunkinfer.networks.trace.call import Call, Rule
from chunkinfer.networks.trace.dependence import (
    Dim,
    Dims,
    Factor,
    Unfollowed,
    collapse,
    is_spatial,
    merge,
    regroup,
    size_of,
)


def view(call: Call) -> Dims:
    return regroup(call.source, call.shape)


def permute(call: Call) -> Dims:
    dims = call.source
    return tuple(dims[k] for k in call["dims"])


def transpose(call: Call) -> Dims:
    dims = list(call.source)
    if len(dims) > 1:
        i, j = call.get("dim0", 0), call.get("dim1", 1)
        dims[i], dims[j] = dims[j], dims[i]
    return tuple(dims)


def unsqueeze(call: Call) -> Dims:
    dims = list(call.source)
    dims.insert(call["dim"] % (len(dims) + 1), (Factor(1),))
    return tuple(dims)


def squeeze(call: Call) -> Dims:
    dims = call.source
    candidates = call.indices("dim", len(dims))
    return tuple(dim for k, dim in enumerate(dims) if k not in candidates or size_of(dim) != 1)


def expand(call: Call) -> Dims:
    return call.combine([call.source], call.shape)


def repeat(call: Call) -> Dims:
    dims = call.source
    new = len(call.shape) - len(dims)
    out: list[Dim] = [(Factor(size),) for size in call.shape]
    for k, dim in enumerate(dims):
        if size_of(dim) == call.shape[new + k]:
            out[new + k] = dim
        elif is_spatial(dim):
            raise Unfollowed("it repeats the patch along a spatial axis")
    return tuple(out)


def slicing(call: Call) -> Dims:
    dims = list(call.source)
    k = call.get("dim", 0) % len(dims)
    size, taken = size_of(dims[k]), call.shape[call.get("dim", 0) % len(dims)]
    if taken != size:
        step = call.get("step") or 1
        start = call.get("start") or 0
        start = max(start + size, 0) if start < 0 else min(start, size)
        dims[k] = (collapse(dims[k]).take(start + step * np.arange(taken), Fraction(step)),)
    return tuple(dims)


def select(call: Call) -> Dims:
    dims = list(call.source)
    dropped = dims.pop(call["dim"] % len(dims))
    call.refuse_spatial([dropped], "takes a single position of a spatial axis")
    return tuple(dims)


def split(call: Call) -> list[Dims]:
    k = call.get("dim", 0) % len(call.source)
    parts, start = [], 0
    for output in call.outputs:
        dims = list(call.source)
        if output.shape[k] != size_of(dims[k]):
            dims[k] = (collapse(dims[k]).take(start + np.arange(output.shape[k]), Fraction(1)),)
        parts.append(tuple(dims))
        start += output.shape[k]
    return parts


def unbind(call: Call) -> list[Dims]:
    return [select(call)] * len(call.outputs)


def concatenate(call: Call) -> Dims:
    # Empty one-dimensional tensors are ignored by torch, for compatibility with its past.
    sources = [call.dims(t) for t in call["tensors"] if t.shape != (0,)]
    k = call.get("dim", 0) % len(call.shape)
    if any(is_spatial(dims[k]) for dims in sources) and len(sources) > 1:
        raise Unfollowed("it joins tensors end to end along a spatial axis")
    return tuple(
        ((Factor(size),) if len(sources) > 1 else sources[0][i])
        if i == k
        else merge([dims[i] for dims in sources], call.refuse)
        for i, size in enumerate(call.shape)
    )


def stack(call: Call) -> Dims:
    sources = [call.dims(t) for t in call["tensors"]]
    dims = [merge([dims[i] for dims in sources], call.refuse) for i in range(len(sources[0]))]
    dims.insert(call.get("dim", 0) % len(call.shape), (Factor(len(sources)),))
    return tuple(dims)


def pixel_shuffle(call: Call) -> Dims:
    factor = call["upscale_factor"]
    dims = call.source
    fine = [collapse(dim) for dim in dims[-2:]]
    spatial = [(f.take(np.repeat(np.arange(f.size), factor), Fraction(1, factor)),) for f in fine]
    return (*dims[:-3], (Factor(call.shape[-3]),), *spatial)


def pixel_unshuffle(call: Call) -> Dims:
    factor = call["downscale_factor"]
    dims = call.source
    spatial = []
    for f in (collapse(dim) for dim in dims[-2:]):
        spatial.append((f.gather(np.arange(f.size).reshape(-1, factor), Fraction(factor)),))
    return (*dims[:-3], (Factor(call.shape[-3]),), *spatial)


def unfold(call: Call) -> Dims:
    """Windows along a dimension; each counts as reading all of itself."""
    dims = list(call.source)
    k, step = call["dimension"] % len(dims), call["step"]
    taps = np.arange(call.shape[k])[:, None] * step + np.arange(call["size"])
    dims[k] = (collapse(dims[k]).gather(taps, Fraction(step)),)
    return (*dims, (Factor(call["size"]),))


def index(call: Call) -> Dims:
    """``tensor[:, [2, 0, 1]]``: a list of positions along one dimension that is not spatial."""
    dims = list(call.source)
    chosen = call["indices"] if call.name == "index" else [None] * (call["dim"] % len(dims)) + [call["index"]]
    given = [(k, positions) for k, positions in enumerate(chosen) if positions is not None]
    if len(given) != 1 or given[0][1].ndim != 1 or any(is_spatial(d) for d in call.dims(given[0][1])):
        raise Unfollowed("it looks positions up")
    k = given[0][0]
    if is_spatial(dims[k]):
        raise Unfollowed("it looks positions up along a spatial axis")
    dims[k] = (Factor(call.shape[k]),)
    return tuple(dims)


def embedding(call: Call) -> Dims:
    if any(is_spatial(dim) for dim in call.dims(call["weight"])):
        raise Unfollowed("its table is computed from the volume")
    return (*call.dims(call["indices"]), (Factor(call.shape[-1]),))


RULES: dict[str, Rule] = {
    **dict.fromkeys(["view", "_unsafe_view", "reshape", "_reshape_alias", "unflatten", "flatten"], view),
    "permute": permute,
    **dict.fromkeys(["transpose", "t", "swapaxes"], transpose),
    "unsqueeze": unsqueeze,
    "squeeze": squeeze,
    "expand": expand,
    "repeat": repeat,
    **dict.fromkeys(["slice", "narrow"], slicing),
    "select": select,
    **dict.fromkeys(["split", "split_with_sizes", "chunk", "unsafe_split", "unsafe_split_with_sizes"], split),
    "unbind": unbind,
    "cat": concatenate,
    "stack": stack,
    "pixel_shuffle": pixel_shuffle,
    "pixel_unshuffle": pixel_unshuffle,
    "unfold": unfold,
    **dict.fromkeys(["index", "index_select"], index),
    "embedding": embedding,
}
