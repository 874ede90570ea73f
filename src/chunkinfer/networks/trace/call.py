"""One call of an ATen operator, as the rules see it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from chunkinfer.networks.trace.dependence import Dependence, Dim, Dims, Factor, is_spatial, merge, size_of


@dataclass
class Call:
    """An operator with its arguments by name, what they read, and what it returned."""

    name: str
    arguments: dict[str, Any]
    outputs: list[torch.Tensor]
    layer: str
    lookup: Callable[[torch.Tensor], Dependence]
    refused: list[str] = field(default_factory=list)
    """Reasons in words, in the order in which the rule gave them."""

    def __getitem__(self, argument: str) -> Any:
        return self.arguments[argument]

    def get(self, argument: str, default: Any = None) -> Any:
        """An argument, or the default where the operator has none of that name."""
        return self.arguments.get(argument, default)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the first output."""
        return tuple(self.outputs[0].shape)

    @property
    def source(self) -> Dims:
        """What the first argument reads."""
        return self.dims(next(iter(self.arguments.values())))

    def dims(self, tensor: torch.Tensor) -> Dims:
        """What a tensor reads, per dimension."""
        return self.lookup(tensor).dims

    def refuse(self, text: str) -> None:
        """State why the operator keeps the network from being tiled exactly."""
        if text not in self.refused:
            self.refused.append(text)

    def refuse_spatial(self, dims: Sequence[Dim], text: str) -> None:
        """Refuse if any of these dimensions runs along a spatial axis."""
        if any(is_spatial(dim) for dim in dims):
            self.refuse(text)

    def broadcast(self, tensors: Sequence[torch.Tensor], shape: Sequence[int]) -> Dims:
        """What an elementwise combination of tensors reads."""
        return self.combine([self.dims(t) for t in tensors], shape)

    def combine(self, sources: Sequence[Dims], shape: Sequence[int]) -> Dims:
        """As `broadcast`, for what the tensors read."""
        out: list[Dim] = []
        for k, size in enumerate(shape):
            aligned = [dims[k - len(shape)] for dims in sources if len(dims) >= len(shape) - k]
            full = [dim for dim in aligned if size_of(dim) == size]
            if size > 1:
                self.refuse_spatial([dim for dim in aligned if size_of(dim) == 1], STRETCHED)
            uniform = Factor(size, uniform=True)
            out.append(merge(full, self.refuse) if full else (uniform,))
        return tuple(out)

    def indices(self, argument: str, rank: int) -> list[int]:
        """An argument that names dimensions, as a list of indices from 0; all of them where it is None or empty."""
        value = self.get(argument)
        if value is None or (isinstance(value, (list, tuple)) and not value):
            return list(range(rank))
        return [int(k) % rank for k in (value if isinstance(value, (list, tuple)) else [value])] if rank else []

    def guess(self) -> list[Dims]:
        """Dimensions for the outputs of an operator that is not followed, by their sizes; good for strides only."""
        sources = [self.dims(t) for t in self.arguments.values() if isinstance(t, torch.Tensor)]
        found: dict[int, Factor] = {}
        for dims in sources:
            for dim in dims:
                if len(dim) == 1 and dim[0].reach is not None:
                    found.setdefault(dim[0].size, dim[0])
        guesses = []
        for output in self.outputs:
            rank = output.ndim
            alike = [dims for dims in sources if len(dims) == rank]
            guesses.append(
                tuple(
                    next(
                        (d[k] for d in alike if size_of(d[k]) == s and is_spatial(d[k])),
                        (found.get(s, Factor(s)),),
                    )
                    for k, s in enumerate(output.shape)
                )
            )
        return guesses


STRETCHED = "stretches a single voxel over a whole axis, so every output voxel depends on where the patch lies"

Rule = Callable[[Call], "Dims | list[Dims]"]
"""From a call to what its outputs read: one for the outputs of the first one's shape, or a list of one each."""
