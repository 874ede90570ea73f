"""Follow what a network's output reads, by running it once under a dispatch mode that sees every ATen operator."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import torch
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from chunkinfer.networks.trace import shortcuts
from chunkinfer.networks.trace.call import Call
from chunkinfer.networks.trace.dependence import (
    Dependence,
    Dims,
    Factor,
    Reach,
    Reason,
    Unfollowed,
    collapse,
    plain,
    size_of,
)
from chunkinfer.networks.trace.rules import MAKERS, is_random, rule_for

_SLICE_WRITTEN = (
    "writes into a part of a tensor (slice assignment; circular padding does this too), which is not followed; "
    "torch.where is, and so is every other kind of padding"
)
_VALUE_READ = "reads a value of the volume in Python, so what it computes may differ from patch to patch"


class Follower(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Carries along what every tensor reads of the input.

    Parameters
    ----------
    x
        The network's input, ``(1, channels, *spatial)``.
    layer
        Tells which layer is running, or an empty string.
    """

    def __init__(self, x: torch.Tensor, layer: Callable[[], str]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.layer = layer
        self.operations: list[str] = []
        self.reasons: list[Reason] = []
        """Reasons that hold for everything the network computes, whichever tensor."""
        spatial = x.ndim - 2
        self.strides: tuple[set[Fraction], ...] = tuple({Fraction(1)} for _ in range(spatial))
        # Identities are only unique among living tensors, so the tensors are kept.
        self._known: dict[int, tuple[torch.Tensor, Dependence]] = {}
        self._aliases: dict[int, set[int]] = {}
        self._written: dict[int, Reason] = {}
        axes = tuple((Factor(n, Reach.identity(axis, n)),) for axis, n in enumerate(x.shape[2:]))
        self._remember(x, Dependence((*plain(x.shape[:2]), *axes)))

    def lookup(self, tensor: torch.Tensor) -> Dependence:
        """What a tensor reads; one that the follower never saw reads nothing."""
        entry = self._known.get(id(tensor))
        known = entry[1] if entry else Dependence(_constant(tensor))
        written = self._written.get(_storage(tensor))
        return Dependence(known.dims, (*known.reasons, written)) if written else known

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        inputs = list(_tensors((args, kwargs)))
        # An operator that writes in place changes what its argument reads: look before it runs.
        followed = any(id(t) in self._known or _storage(t) in self._written for t in inputs)
        result = shortcuts.run(func, args, kwargs)
        name = func.overloadpacket.__name__
        if followed or name in MAKERS or is_random(func):
            call = Call(name, _by_name(func, args, kwargs), list(_tensors(result)), self.layer(), self.lookup)
            self._follow(func, call, inputs if followed else [])
        return result

    def _follow(self, func: Any, call: Call, inputs: list[torch.Tensor]) -> None:
        if not call.outputs:
            if not call.name.startswith("_assert"):
                self.reasons.append(self._reason(call, _VALUE_READ))
            return
        if inputs:
            self.operations.append(f"{call.name} {' '.join('x'.join(map(str, t.shape)) for t in call.outputs)}")
        dims = self._dims(func, call)
        before = [reason for t in inputs for reason in self.lookup(t).reasons]
        reasons = tuple(dict.fromkeys([*before, *(self._reason(call, text) for text in call.refused)]))
        if func._schema.is_mutable:
            self._write(func, call, dims, reasons)
        for output, read in zip(call.outputs, dims, strict=True):
            self._remember(output, Dependence(read, reasons))

    def _dims(self, func: Any, call: Call) -> list[Dims]:
        rule = rule_for(func, call)
        try:
            if rule is None:
                raise Unfollowed("there is no rule for it")
            answer = rule(call)
            dims = (
                answer
                if isinstance(answer, list)
                else [answer if t.shape == call.outputs[0].shape else plain(t.shape) for t in call.outputs]
            )
            if [[size_of(dim) for dim in d] for d in dims] != [list(t.shape) for t in call.outputs]:
                raise Unfollowed("the shape of its result is not the expected one")
        except Exception as why:  # also a rule that does not fit some form of its operator must refuse, not crash
            if not call.refused:
                because = f": {why}" if isinstance(why, Unfollowed) else ""
                call.refuse(f"operator {call.name} is not understood, so it is treated as reading everything{because}")
            dims = call.guess()
        return dims

    def _write(self, func: Any, call: Call, dims: list[Dims], reasons: tuple[Reason, ...]) -> None:
        """Note what an in-place operator does to other tensors that share its argument's memory."""
        for argument in func._schema.arguments:
            target = call.get(argument.name)
            if not (argument.alias_info and argument.alias_info.is_write and isinstance(target, torch.Tensor)):
                continue
            # A tensor that is not known may be a view of a buffer, which is then read under another identity; and what
            # is written into a part differs from what is left beside it, even if both read the same.
            hidden = id(target) not in self._known
            partial = target.untyped_storage().nbytes() != target.numel() * target.element_size()
            shared = self._aliases.get(_storage(target), set()) - {id(target)}
            before = self.lookup(target)
            after = next((d for t, d in zip(call.outputs, dims, strict=True) if t is target), None)
            unchanged = after is not None and before.reasons == reasons and _same(before.dims, after)
            if hidden or partial or (shared and not unchanged):
                self._written[_storage(target)] = self._reason(call, _SLICE_WRITTEN)

    def _reason(self, call: Call, text: str) -> Reason:
        return Reason(call.layer or f"operator {call.name}", text)

    def _remember(self, tensor: torch.Tensor, dependence: Dependence) -> None:
        self._known[id(tensor)] = (tensor, dependence)
        self._aliases.setdefault(_storage(tensor), set()).add(id(tensor))
        for dim in dependence.dims:
            for factor in dim:
                if factor.reach is not None:
                    self.strides[factor.reach.axis].add(factor.reach.stride)


@dataclass(frozen=True, eq=False)
class Followed:
    """What one run of a network tells."""

    input_shape: tuple[int, ...]
    """Spatial shape of the input."""
    output: torch.Tensor
    dependence: Dependence
    strides: tuple[frozenset[Fraction], ...]
    """Input voxels per position of every map inside the network, per axis."""
    operations: tuple[str, ...]

    @property
    def reasons(self) -> tuple[Reason, ...]:
        """Why the output cannot be tiled exactly."""
        return self.dependence.reasons

    def reach(self, axis: int) -> Reach | None:
        """What the output's positions along an axis read of it; None if that could not be followed."""
        try:
            reach = collapse(self.dependence.dims[2 + axis]).reach
        except Unfollowed:
            return None
        return reach if reach is not None and reach.axis == axis else None


def follow(run: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor, layer: Callable[[], str]) -> Followed:
    """Run a network once and follow what its output reads.

    Parameters
    ----------
    run
        From input to output.
    x
        The input, ``(1, channels, *spatial)``, on the meta device or a real one.
    layer
        Tells which layer is running.
    """
    follower = Follower(x, layer)
    with torch.no_grad(), follower:
        y = run(x)
    found = follower.lookup(y)
    reasons = tuple(dict.fromkeys((*follower.reasons, *found.reasons)))
    return Followed(
        tuple(x.shape[2:]),
        y,
        Dependence(found.dims, reasons),
        tuple(frozenset(s) for s in follower.strides),
        tuple(follower.operations),
    )


def _constant(tensor: torch.Tensor) -> Dims:
    """Dimensions of weights and other tensors that read nothing; where the stride is 0, one value was expanded."""
    return tuple((Factor(n, uniform=step == 0),) for n, step in zip(tensor.shape, tensor.stride(), strict=True))


def _by_name(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Arguments by name, in the order of the operator's schema."""
    given: dict[str, Any] = {}
    for i, argument in enumerate(func._schema.arguments):
        if i < len(args):
            given[argument.name] = args[i]
        elif argument.name in kwargs:
            given[argument.name] = kwargs[argument.name]
        elif argument.has_default_value():
            given[argument.name] = argument.default_value
    return given


def _tensors(tree: Any) -> Iterator[torch.Tensor]:
    return (leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, torch.Tensor))


def _storage(tensor: torch.Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _same(before: Dims, after: Dims) -> bool:
    """Whether two tensors of one shape are known to read the same."""
    return len(before) == len(after) and all(
        len(ours) == len(theirs) and all(_alike(f, g) for f, g in zip(ours, theirs, strict=True))
        for ours, theirs in zip(before, after, strict=True)
    )


def _alike(one: Factor, other: Factor) -> bool:
    if one.size != other.size:
        return False
    if one.reach is None or other.reach is None:
        return one.reach is other.reach and (one.size == 1 or one.uniform == other.uniform)
    return one.reach.same(other.reach)
