"""What each ATen operator reads: a table from its name to a small function.

An operator that is not in the table is elementwise if torch tags it so; any other is not understood, and refused.
"""

from __future__ import annotations

import torch

from chunkinfer.networks.trace import rules_global, rules_views, rules_windows
from chunkinfer.networks.trace.call import Call, Rule
from chunkinfer.networks.trace.dependence import Dims, plain


def elementwise(call: Call) -> Dims:
    tensors = []
    for value in call.arguments.values():
        tensors += [t for t in (value if isinstance(value, (list, tuple)) else [value]) if isinstance(t, torch.Tensor)]
    return call.broadcast(tensors, call.shape)


def filled(call: Call) -> list[Dims]:
    """Fresh tensors that hold one value everywhere (or nothing yet)."""
    return [plain(output.shape, uniform=True) for output in call.outputs]


def dropout(call: Call) -> list[Dims]:
    if call.get("train") is not False:
        call.refuse("draws random numbers (dropout in train mode): call model.eval()")
    return [call.source] * len(call.outputs)


def leaky(call: Call) -> Dims:
    if call.get("training"):
        call.refuse("draws random numbers (train mode): call model.eval()")
    return call.source


def random(call: Call) -> list[Dims]:
    call.refuse("draws random numbers (dropout or noise): call model.eval(), or take the noise out")
    return [plain(output.shape, uniform=True) for output in call.outputs]


_ELEMENTWISE = [
    "clone",
    "contiguous",
    "alias",
    "detach",
    "_to_copy",
    "to",
    "copy",
    "copy_",
    "lift",
    "lift_fresh",
    "lift_fresh_copy",
    "where",
    "addcmul",
    "addcdiv",
    "celu",
    "elu",
    "selu",
    "prelu",
    "_prelu_kernel",
    "hardtanh",
    "hardtanh_",
    "fill",
    "fill_",
    "zero_",
    "masked_fill",
    "masked_fill_",
    "clamp",
    "native_dropout_backward",
]
_FILLED = [
    "empty",
    "zeros",
    "ones",
    "full",
    "scalar_tensor",
    "empty_like",
    "zeros_like",
    "ones_like",
    "full_like",
    "new_empty",
    "new_zeros",
    "new_ones",
    "new_full",
    "empty_strided",
    "new_empty_strided",
]

RULES: dict[str, Rule] = {
    **rules_windows.RULES,
    **rules_views.RULES,
    **rules_global.RULES,
    **dict.fromkeys(_ELEMENTWISE, elementwise),
    **dict.fromkeys(_FILLED, filled),
    "native_dropout": dropout,
    **dict.fromkeys(["rrelu_with_noise", "rrelu_with_noise_"], leaky),
}

MAKERS = frozenset(_FILLED)
"""Operators whose outputs hold one value everywhere, whatever their arguments."""


def rule_for(operator: torch._ops.OpOverload, call: Call) -> Rule | None:
    """The rule of an operator, or None if it is not understood."""
    # Two operators share these names: the elementwise maximum of two tensors, and the maximum over dimensions.
    if call.name in ("max", "min") and call.get("other") is not None:
        return elementwise
    if call.name in RULES:
        return RULES[call.name]
    if is_random(operator):
        return random
    return elementwise if torch.Tag.pointwise in operator.tags else None


def is_random(operator: torch._ops.OpOverload) -> bool:
    """Whether an operator draws random numbers, whatever its arguments."""
    name = operator.overloadpacket.__name__
    return torch.Tag.nondeterministic_seeded in operator.tags and name not in RULES
