"""What becomes of the network's values before they are stored: activation, channels, classes, threshold.

::

    network -> activation -> channels -> blended or cropped -> argmax or threshold -> result
               '-- each patch, on the device --'              '-- each voxel, on the device --'

Nothing that is left out here is copied from the device or stored.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from chunkinfer.errors import PlanError

if TYPE_CHECKING:
    import torch

ActivationFunction = Callable[["torch.Tensor"], "torch.Tensor"]
"""(n, c, *space) -> (n, c2, *space), voxel by voxel."""


def _softmax(values: torch.Tensor) -> torch.Tensor:
    return values.softmax(1)


VOXELWISE: dict[str, ActivationFunction] = {
    "sigmoid": lambda values: values.sigmoid(),
    "tanh": lambda values: values.tanh(),
    "relu": lambda values: values.relu(),
}
"""Activations of single values: channels that are not kept need none."""

ACTIVATIONS: dict[str, ActivationFunction] = {**VOXELWISE, "softmax": _softmax}
"""Activations by name; softmax is over channels."""

MOST_CLASSES = 2**16


@dataclass(frozen=True)
class Output:
    """What is made of the network's values; by default they are stored as they are."""

    activation: str | ActivationFunction | None = None
    """A name of `ACTIVATIONS` or a function (n, c, *space) -> (n, c2, *space); per patch, before blending."""
    channels: tuple[int, ...] | None = None
    """Channels kept after the activation, in this order; None keeps all."""
    argmax: bool = False
    """Store the number of the largest channel, counted among those kept; after blending."""
    threshold: float | None = None
    """Store 1 where a value is above it and 0 elsewhere; after blending."""
    activated: int | None = None
    """Channels that a function gives as activation; None: as many as it takes."""

    @property
    def decides(self) -> bool:
        """Whether the result is whole numbers: classes, or 0 and 1."""
        return self.argmax or self.threshold is not None

    def blended_channels(self, channels_out: int) -> int:
        """Channels that are blended or cropped, of ``channels_out`` that the network gives."""
        activated = channels_out if self.activated is None else self.activated
        return activated if self.channels is None else len(self.channels)

    def channels_of(self, channels_out: int) -> int:
        """Channels of the result, of ``channels_out`` that the network gives."""
        return 1 if self.argmax else self.blended_channels(channels_out)

    def dtype_of(self, channels_out: int, dtype: np.dtype[Any]) -> np.dtype[Any]:
        """dtype of the result; ``dtype`` where values are stored, uint8 or uint16 where it is whole numbers."""
        if self.argmax and self.blended_channels(channels_out) > 256:
            return np.dtype(np.uint16)
        return np.dtype(np.uint8) if self.decides else dtype

    def describe(self) -> dict[str, Any]:
        """What is asked for, as values that JSON holds; a function by its name and its code."""
        activation = self.activation
        said = {
            "activation": describe_function(activation) if callable(activation) else activation,
            "channels": None if self.channels is None else list(self.channels),
            "argmax": self.argmax or None,
            "threshold": self.threshold,
        }
        return {name: value for name, value in said.items() if value is not None}

    def on_patch(self, values: torch.Tensor) -> torch.Tensor:
        """Activation and channels, on the network's whole output (n, c, *space); gives a new tensor or a view.

        Always the whole output, also where little of it is kept: the last bits of an activation depend on where in a
        tensor a value lies.
        """
        if isinstance(self.activation, str) and self.activation in VOXELWISE:
            return VOXELWISE[self.activation](self._kept(values))
        function = ACTIVATIONS[self.activation] if isinstance(self.activation, str) else self.activation
        return self._kept(values if function is None else function(values))

    def _kept(self, values: torch.Tensor) -> torch.Tensor:
        if self.channels is None:
            return values
        first, n = self.channels[0], len(self.channels)
        if self.channels == tuple(range(first, first + n)):
            return values[:, first : first + n]
        return values[:, list(self.channels)]


AS_IT_IS = Output()
"""The network's values, all of them."""


def describe_function(function: Callable[..., Any]) -> str:
    """A function by its name and its code, so that another one is another run."""
    from chunkinfer.networks.identity.code import code_of

    return f"{getattr(function, '__qualname__', type(function).__name__)} {code_of(function).digest[:16]}"


def resolve_output(
    channels_out: int,
    *,
    activation: object = None,
    channels: object = None,
    argmax: bool = False,
    threshold: object = None,
    dtype: object = None,
    ndim: int = 3,
    compute: str = "float32",
) -> Output:
    """The one form of what the caller asked for.

    Parameters
    ----------
    channels_out
        Channels that the network gives.
    activation
        None, a name of `ACTIVATIONS`, or a function (n, c, *space) -> (n, c2, *space) of torch tensors that works voxel
        by voxel.
    channels
        A channel, or a sequence of them; None keeps all.
    argmax, threshold
        At most one of them.
    dtype
        Of the result, as the caller gave it. With argmax and threshold it follows from them: nothing is scaled to
        [0, 255] there.
    ndim, compute
        Spatial axes and floating-point type of what an activation is given.

    Raises
    ------
    PlanError
        Something is unknown, out of range, contradictory, or looks at more than one voxel.
    """
    function = _activation(activation)
    activated = _channels_given(function, channels_out, ndim, compute) if callable(function) else None
    available = channels_out if activated is None else activated
    kept = None if channels is None else _channels(channels, available)
    output = Output(function, kept, bool(argmax), None if threshold is None else _threshold(threshold), activated)
    if function == "softmax" and channels_out == 1:
        raise PlanError(
            'activation="softmax" is 1 everywhere: the network gives one channel.',
            "softmax is over channels; a single one usually means a sigmoid.",
            ['activation="sigmoid"', "leave activation= out"],
        )
    _check_decision(output, output.blended_channels(channels_out), dtype, channels_out)
    return output


def _activation(given: object) -> str | ActivationFunction | None:
    if given is None or callable(given):
        return given
    if isinstance(given, str) and given in ACTIVATIONS:
        return given
    raise PlanError(
        f"activation={given!r} is not known.",
        f"It is one of {', '.join(sorted(ACTIVATIONS))}, or a function of torch tensors (n, c, *space).",
        ['activation="sigmoid"', "activation=lambda values: values.clamp(0, 1)"],
    )


def _channels(given: object, available: int) -> tuple[int, ...]:
    several = isinstance(given, Sequence | np.ndarray) and not isinstance(given, str)
    sequence: Sequence[Any] = given if several else [given]  # type: ignore[assignment]
    whole = all(isinstance(c, int | np.integer) and not isinstance(c, bool) for c in sequence)
    ways = ["channels=0", f"channels=({', '.join(map(str, range(min(available, 3))))},)"]
    if not whole or not len(sequence):
        raise PlanError(f"channels={given!r} is no channel.", "It is a number, or several of them.", ways)
    kept = tuple(int(c) for c in sequence)
    if min(kept) < 0 or max(kept) >= available:
        raise PlanError(
            f"channels={given!r} asks for what is not there.", f"Channels are 0 to {available - 1} here.", ways
        )
    if len(set(kept)) < len(kept):
        raise PlanError(f"channels={given!r} names a channel twice.", "Each would be stored twice.", ways)
    return kept


def _threshold(given: object) -> float:
    if isinstance(given, int | float | np.integer | np.floating) and not isinstance(given, bool) and np.isfinite(given):
        return float(given)
    raise PlanError(
        f"threshold={given!r} is no number.",
        "Values above it are stored as 1, others as 0.",
        ["threshold=0.5", "leave threshold= out to store the values"],
    )


def _check_decision(output: Output, channels: int, dtype: object, channels_out: int) -> None:
    if not output.decides:
        return
    name = "argmax=True" if output.argmax else f"threshold={output.threshold}"
    if output.argmax and output.threshold is not None:
        raise PlanError(
            f"argmax=True and threshold={output.threshold} contradict each other.",
            "The number of the largest channel has no threshold.",
            ["leave threshold= out", "leave argmax= out: each channel gets its own 0 and 1"],
        )
    if output.argmax and not 1 < channels <= MOST_CLASSES:
        raise PlanError(
            f"argmax=True of {channels} channel(s).",
            f"It takes 2 to {MOST_CLASSES} of them to tell which is the largest.",
            [
                "leave argmax= out: threshold=0.5 turns one channel into 0 and 1",
                *(["leave channels= out: all of them are kept"] if output.channels is not None else []),
            ],
        )
    stored = output.dtype_of(channels_out, np.dtype(np.float32))
    if dtype is not None and np.dtype(dtype) != stored:  # type: ignore[call-overload]
        raise PlanError(
            f"dtype={dtype!r} and {name} contradict each other.",
            f"The result is whole numbers, stored as {stored}.",
            ["leave dtype= out", f"leave {name.partition('=')[0]}= out to store the values"],
        )


def _channels_given(function: ActivationFunction, channels: int, ndim: int, compute: str) -> int:
    """Channels that a function gives; refused where its result depends on how the volume was cut."""
    import torch

    space = (4, 5, 6)[-ndim:]
    generator = torch.Generator().manual_seed(0)
    sample = torch.randn((1, channels, *space), generator=generator, dtype=getattr(torch, compute))
    part = (..., slice(1, 4), slice(2, None)) if ndim > 1 else (..., slice(2, None))
    ways = ['activation="softmax"', "activation=lambda values: values.clamp(0, 1), any function of single voxels"]
    try:
        with torch.inference_mode():
            whole, cut = function(sample.clone()), function(sample[part].clone())
    except Exception as error:
        raise PlanError(
            f"activation= fails on a tensor {tuple(sample.shape)} of {compute}: {type(error).__name__}: {error}",
            "It is given the network's values of a batch of patches, (n, c, *space), as a torch tensor.",
            ways,
        ) from error
    if not isinstance(whole, torch.Tensor) or whole.ndim != 2 + ndim or (1, *space) != (len(whole), *whole.shape[2:]):
        shape = tuple(whole.shape) if isinstance(whole, torch.Tensor) else type(whole).__name__
        raise PlanError(
            f"activation= gives {shape} for a tensor {tuple(sample.shape)}.",
            "It gives a tensor of the same batch and space; only channels may differ.",
            ways,
        )
    # Nearly equal: the last bits of a function depend on where in a tensor a value lies.
    same = cut.shape == whole[part].shape and torch.allclose(whole[part], cut, 1e-4, 1e-5, equal_nan=True)
    if not same or not whole.shape[1]:
        raise PlanError(
            "activation= gives a voxel another value when the tensor around it is cut differently.",
            "Usually it divides by a mean or a maximum over the patch, which makes seams.",
            ways,
        )
    return int(whole.shape[1])
