"""Operators that may read a whole axis: statistics, normalisation, products of matrices, attention, sorting.

Each is exact as long as it works along channels, or along the positions inside a window; along a spatial axis it makes
every output voxel depend on the whole patch, and says so.
"""

from __future__ import annotations

from chunkinfer.networks.trace.call import Call, Rule
from chunkinfer.networks.trace.dependence import Dim, Dims, Factor, is_spatial, plain, size_of

_WHOLE = "so every output voxel depends on the whole patch"


def reduction(call: Call) -> Dims:
    dims = call.source
    reduced = call.indices("dim", len(dims))
    call.refuse_spatial([dims[k] for k in reduced], f"takes the {call.name} over a whole spatial axis, {_WHOLE}")
    keep = call.get("keepdim", False)
    return tuple((Factor(1),) if k in reduced else dim for k, dim in enumerate(dims) if keep or k not in reduced)


def adaptive_pooling(call: Call) -> Dims:
    dims = call.source
    rank = int(call.name[call.name.index("pool") + 4])
    call.refuse_spatial(dims[-rank:], f"pools windows whose size follows from the size of the patch, {_WHOLE}")
    return (*dims[:-rank], *plain(call.shape[-rank:]))


def group_norm(call: Call) -> list[Dims]:
    call.refuse_spatial(
        call.source[2:], f"normalises by the mean and variance of the patch (group or instance normalisation), {_WHOLE}"
    )
    return [call.source, *(plain(t.shape) for t in call.outputs[1:])]


def layer_norm(call: Call) -> list[Dims]:
    rank = len(call["normalized_shape"])
    dims = call.source
    call.refuse_spatial(dims[-rank:], f"normalises over a spatial axis, {_WHOLE}")
    scaled = tuple(dim if is_spatial(dim) else (Factor(size_of(dim)),) for dim in dims[-rank:])
    return [(*dims[:-rank], *scaled), *((*dims[:-rank], *plain([1] * rank)) for _ in call.outputs[1:])]


def batch_norm(call: Call) -> list[Dims]:
    # "..._no_training" has no flag; some forms call it "train".
    training = call.get("training", call.get("train", "no_training" not in call.name and "legit" in call.name))
    if training and "BatchNorm" in call.layer:
        call.refuse_spatial(
            call.source,
            "normalises by the statistics of the patch, because it is in train mode or keeps no running statistics: "
            "call model.eval()",
        )
    elif training:
        call.refuse_spatial(
            call.source,
            "normalises by the mean and variance of the patch (instance normalisation, or batch normalisation in "
            f"train mode), {_WHOLE}",
        )
    return [call.source, *(plain(t.shape) for t in call.outputs[1:])]


def along(call: Call) -> list[Dims]:
    """Operators that work along one dimension or several, and keep the others apart."""
    dims = call.source
    worked = call.indices("dim" if "dim" in call.arguments else "dims", len(dims))
    what = f"{call.name.strip('_')} works along a spatial axis, {_WHOLE}"
    call.refuse_spatial([dims[k] for k in worked], what)
    return [
        tuple((Factor(size),) if k in worked else dims[k] for k, size in enumerate(output.shape))
        if not any(is_spatial(dims[k]) for k in worked)
        else dims
        for output in call.outputs
    ]


_PRODUCT = f"multiplies matrices over a spatial axis (attention or a dense layer), {_WHOLE}"


def _product(call: Call, left: Dims, right: Dims) -> Dims:
    """``(..., rows, k) @ (..., k, columns)``."""
    call.refuse_spatial([left[-1], right[-2] if len(right) > 1 else right[-1]], _PRODUCT)
    batch = call.combine([left[:-2], right[:-2]], call.shape[:-2]) if len(left) > 2 else ()
    ends: tuple[Dim, ...] = (*left[-2:-1], *right[-1:]) if len(right) > 1 else left[-2:-1]
    return (*batch, *ends)


def product(call: Call) -> Dims:
    left, right = list(call.arguments.values())[:2]
    return _product(call, call.dims(left), call.dims(right))


def added_product(call: Call) -> Dims:
    added, left, right = list(call.arguments.values())[:3]
    return call.combine([call.dims(added), _product(call, call.dims(left), call.dims(right))], call.shape)


def linear(call: Call) -> Dims:
    dims = call.dims(call["input"])
    call.refuse_spatial(dims[-1:], _PRODUCT)
    return (*dims[:-1], (Factor(call.shape[-1]),))


def attention(call: Call) -> list[Dims]:
    query, key, value = (call.dims(call[name]) for name in ("query", "key", "value"))
    call.refuse_spatial(
        [query[-1], key[-1], key[-2], value[-2]], f"attends to every position of a spatial axis, {_WHOLE}"
    )
    batch = call.combine([query[:-2], key[:-2], value[:-2]], call.shape[:-2])
    result = (*batch, query[-2], value[-1])
    return [result, *(plain(t.shape) for t in call.outputs[1:])]


_REDUCTIONS = [
    "mean",
    "sum",
    "amax",
    "amin",
    "max",
    "min",
    "var",
    "std",
    "var_mean",
    "std_mean",
    "logsumexp",
    "prod",
    "any",
    "all",
    "linalg_vector_norm",
    "norm",
    "argmax",
    "argmin",
    "median",
    "nanmedian",
    "mode",
    "count_nonzero",
]
_ADAPTIVE = [f"{kind}_pool{n}d" for kind in ("_adaptive_avg", "adaptive_avg", "adaptive_max") for n in (1, 2, 3)]
_BATCH_NORMS = [
    "native_batch_norm",
    "cudnn_batch_norm",
    "miopen_batch_norm",
    "_native_batch_norm_legit",
    "_native_batch_norm_legit_no_training",
    "_batch_norm_with_update",
    "_batch_norm_no_update",
]
_ALONG = [
    "_softmax",
    "_log_softmax",
    "softmax",
    "log_softmax",
    "_safe_softmax",
    "cumsum",
    "cumprod",
    "cummax",
    "cummin",
    "logcumsumexp",
    "sort",
    "argsort",
    "topk",
    "flip",
    "roll",
    "glu",
    "_fft_r2c",
    "_fft_c2c",
    "_fft_c2r",
]
_ATTENTIONS = [
    "scaled_dot_product_attention",
    "_scaled_dot_product_attention_math",
    "_scaled_dot_product_flash_attention",
    "_scaled_dot_product_flash_attention_for_cpu",
    "_scaled_dot_product_efficient_attention",
    "_scaled_dot_product_cudnn_attention",
    "_scaled_dot_product_fused_attention_overrideable",
]

RULES: dict[str, Rule] = {
    **dict.fromkeys(_REDUCTIONS, reduction),
    **dict.fromkeys(_ADAPTIVE, adaptive_pooling),
    "native_group_norm": group_norm,
    **dict.fromkeys(["native_layer_norm", "_fused_rms_norm"], layer_norm),
    **dict.fromkeys(_BATCH_NORMS, batch_norm),
    **dict.fromkeys(_ALONG, along),
    **dict.fromkeys(["mm", "bmm", "matmul", "mv"], product),
    **dict.fromkeys(["addmm", "baddbmm", "addmv"], added_product),
    "linear": linear,
    **dict.fromkeys(_ATTENTIONS, attention),
}
