"""Heads of deep supervision: recognised where a network gives several maps, with a way out that was tried."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress

from torch import nn

from chunkinfer.errors import AmbiguousOutput, ChunkinferError, ModelError
from chunkinfer.networks.trace.subject import Subject

_SWITCH = "deep_supervision"
"""Attribute by which MONAI's and nnU-Net's networks and their decoders turn it on and off."""


def explained(error: ModelError, subject: Subject, shape: Sequence[int]) -> ModelError:
    """The error of a network that gives several outputs or none, with what makes it give one, if something was seen to.

    In train mode it may give the heads of deep supervision, or a dict of losses.
    """
    line = _remedy(subject, shape)
    if line is None:
        return error
    how = "In eval mode" if line == _EVAL else "Without deep supervision"
    return type(error)(error.what, f"{how} it gives one output: {line}", [line, *error.ways])


def stacked(name: str, found: Sequence[int], subject: Subject, shape: Sequence[int]) -> AmbiguousOutput:
    """The error of a network that stacks its heads along an axis of their own, such as MONAI's DynUNet in train mode.

    Parameters
    ----------
    name
        Name of the network.
    found
        Shape of its output, (1, heads, channels, *spatial).
    subject, shape
        A copy of it, and the spatial shape of the input.
    """
    line = _remedy(subject, shape)
    return AmbiguousOutput(
        f"{name} gives an output of shape {tuple(found)}, which has one axis too many: {found[1]} maps stacked as "
        f"(n, heads, c, *space).",
        "They are the heads of deep supervision, which a network gives "
        + ("in train mode." if line == _EVAL else "to be trained with.")
        if line
        else "They are heads of deep supervision, or of several tasks.",
        [
            *([line] if line else []),
            f"take the first: infer(volume, torch.nn.Sequential(model, torch.nn.Flatten(1, 2)), "
            f"channels={_channels(found[2])})",
        ],
    )


_EVAL = "model.eval()"


def _channels(count: int) -> str:
    return "0" if count == 1 else f"tuple(range({count}))"


def _remedy(subject: Subject, shape: Sequence[int]) -> str | None:
    """The line after which the network gives one map; None if nothing was found that does."""
    for line in _changed(subject.module):
        with suppress(ChunkinferError):
            found = subject.ran(shape)
            if not isinstance(found, Exception):
                return line
    return None


def _changed(module: nn.Module) -> Iterator[str]:
    """Change the module, a copy, step by step, and tell with which line the caller would."""
    if any(layer.training for layer in module.modules()):
        module.eval()
        yield _EVAL
    for path, layer in module.named_modules():
        if getattr(layer, _SWITCH, False) is True:
            setattr(layer, _SWITCH, False)
            yield f"{'.'.join(filter(None, ('model', path, _SWITCH)))} = False"
