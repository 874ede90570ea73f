"""Trace a network: find a size that it takes, follow what it reads there, and state the contract of each axis."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import torch
from torch import nn

from chunkinfer.errors import ModelError
from chunkinfer.geometry.contract import AxisContract
from chunkinfer.networks.outputs import ONLY, Pick, exporting, wrapper
from chunkinfer.networks.probing.verifying import Seen
from chunkinfer.networks.trace.axis import AxisSearch
from chunkinfer.networks.trace.dependence import Reason
from chunkinfer.networks.trace.follow import Followed
from chunkinfer.networks.trace.heads import explained, stacked
from chunkinfer.networks.trace.signature import unsuitable
from chunkinfer.networks.trace.subject import NoMap, Ran, Subject, name_of, subjects

_FREE_SIZES = (96, 48, 192, 240, 144, 120, 64, 72, 256, 224, 160, 128, 512)
"""Sizes tried first on the meta device: many divisors, and common sizes of fixed networks."""
_REAL_SIZES = (24, 16, 12, 32, 8, 48, 36, 40, 64)
"""Sizes tried first where data must flow."""
_ENOUGH = 8
"""Sizes at which a network that gives no map is believed to give none at any other."""


@dataclass(frozen=True)
class Trace:
    """What a network needs, gives and accepts, as found by running it."""

    axes: tuple[AxisContract, ...]
    """The contract of each spatial axis. Period, stride, crop and sizes hold also for a network that is not exact;
    its context is then stated as 0."""
    channels_in: int
    """Channels that the network takes."""
    channels_out: int
    """Channels that it gives."""
    dtype: str
    """Name of the output's dtype, such as ``"float32"``."""
    reasons: tuple[Reason, ...]
    """Why it cannot be tiled exactly; empty if it can."""
    operations: tuple[str, ...]
    """The ATen operators that the volume went through, with the shapes they gave, in order."""
    declared: tuple[Seen, ...] | None = None
    """Of a contract that is the network's own word (``tiling_contract``) and not traced: what real runs showed."""
    base: tuple[int, ...] = ()
    """Spatial shape at which it was traced first."""
    pick: Pick = ONLY
    """Which output was traced."""
    probed: bool = False
    """Whether it was found by running the network and not by following it: then it holds as far as that shows."""

    @property
    def exact(self) -> bool:
        """Whether tiles with enough context give the whole-volume result."""
        return not self.reasons


def trace(
    module: nn.Module,
    channels: int,
    ndim: int,
    *,
    dtype: torch.dtype = torch.float32,
    size: Sequence[int] | None = None,
    pick: Pick = ONLY,
) -> Trace:
    """Find out what a network reads around each output voxel, and which sizes it takes.

    The network runs a few times without data (on the meta device), or on small tensors where it cannot. The caller's
    module stays as it is.

    Parameters
    ----------
    module
        An ``nn.Module``, a ``torch.jit.ScriptModule``, or the ``module()`` of a ``torch.export`` program. It takes
        ``(1, channels, *spatial)``.
    channels
        Input channels.
    ndim
        Spatial axes.
    dtype
        The input's dtype.
    size
        A spatial shape that the network takes, for networks of a fixed size that differs between axes.
    pick
        Which of its outputs counts.

    Raises
    ------
    AmbiguousOutput
        It gives several outputs, and none was chosen.
    ModelError
        The network runs at none of many sizes, or takes another number of channels.
    """
    failure: Exception | None = None
    for subject in subjects(module, channels, dtype, pick):
        start, error = _first_run(subject, ndim, size)
        if start is not None:
            return _traced(subject, start)
        failure = failure or error
    raise _unrunnable(module, channels, ndim, dtype, size, failure, pick) from failure


def at_lengths(module: nn.Module, found: Trace, shape: Sequence[int], dtype: torch.dtype) -> Trace:
    """The trace for a volume of a shape: each axis' contract as it is at the volume's own length.

    Parameters
    ----------
    module, dtype
        As for `trace`.
    found
        What it gave, without a reason against exactness.
    shape
        Spatial voxels of the volume.
    """
    odd = [axis for axis, (c, n) in enumerate(zip(found.axes, shape, strict=True)) if not c.accepts(n)]
    subject = next(
        s for s in subjects(module, found.channels_in, dtype, found.pick) if isinstance(s.ran(found.base), Ran)
    )
    start = subject.follow(found.base)
    axes = list(found.axes)
    for axis in odd:
        axes[axis] = AxisSearch(subject, start, axis).at(shape[axis], axes[axis])
    return replace(found, axes=tuple(axes))


def _starts(subject: Subject, ndim: int, size: Sequence[int] | None) -> Iterator[tuple[int, ...]]:
    if size is not None:
        yield tuple(size)
        return
    stated = _stated(subject.module, ndim)
    likely, limit = (_FREE_SIZES, 600) if subject.is_free else (_REAL_SIZES, 100)
    rest = (n for n in range(1, limit) if n not in likely)
    sizes = likely[:1] if None not in stated else (*likely, *rest)
    yield from (tuple(s or n for s in stated) for n in sizes)


def _stated(module: nn.Module, ndim: int) -> tuple[int | None, ...]:
    """The spatial shape that a program of torch.export takes, with None for free axes, as all are of other modules."""
    nodes = module.graph.nodes if isinstance(module, torch.fx.GraphModule) else ()
    value = next((node.meta.get("val") for node in nodes if node.op == "placeholder"), None)
    if not isinstance(value, torch.Tensor) or value.ndim != 2 + ndim:
        return (None,) * ndim
    return tuple(n if isinstance(n, int) else None for n in value.shape[2:])


def _first_run(subject: Subject, ndim: int, size: Sequence[int] | None) -> tuple[Followed | None, Exception | None]:
    """A run at some size, one without a reason against exactness if there is one among the first few that run."""
    first: Followed | None = None
    error: Exception | None = None
    ran = maps_not = 0
    for shape in _starts(subject, ndim, size):
        try:
            found = subject.ran(shape)
        except ModelError as problem:
            raise explained(problem, subject, shape) from problem
        if isinstance(found, Exception):
            # What it says of its output tells more than why it did not run at another size.
            if error is None or (isinstance(found, NoMap) and not isinstance(error, NoMap)):
                error = found
            maps_not += isinstance(found, NoMap)
            if maps_not == _ENOUGH:
                break
            if first is not None and shape[0] not in (*_FREE_SIZES, *_REAL_SIZES):
                break
            continue
        ran += 1
        followed = subject.follow(shape)
        first = first or followed
        if not followed.reasons:
            return followed, None
        if ran == (4 if subject.is_free else 1):
            break
    return first, error


def _unrunnable(
    module: nn.Module,
    channels: int,
    ndim: int,
    dtype: torch.dtype,
    size: Sequence[int] | None,
    failure: Exception | None,
    pick: Pick,
) -> ModelError:
    if (problem := unsuitable(module)) is not None:
        raise problem from failure
    expected = next((n for n in _expected_channels(module) if n != channels), None)
    if expected is not None:
        for subject in subjects(module, expected, dtype, pick):
            if _first_run(subject, ndim, size)[0] is not None:
                return ModelError(
                    f"The first convolution of {name_of(module)} expects {expected} channels, "
                    f"and {channels} were given.",
                    "The volume and the network were not made for each other, or the channel axis is missing.",
                    [_of_channels(channels, expected), "change the network's first layer"],
                )
    axes = next((p.ndim - 2 for p in module.parameters() if p.ndim >= 3), ndim)
    if axes != ndim:
        return ModelError(
            f"The first convolution of {name_of(module)} works on {axes} spatial axes, and {ndim} were asked for.",
            "The volume and the network were not made for each other.",
            [
                f"give a volume with {axes} spatial axes: {', '.join('zyx'[-axes:])}, and c in front for channels",
                "run it on sections: xarray.concat([infer(volume.isel(z=z), model) for z in range(volume.sizes['z'])], "
                "'z')"
                if (axes, ndim) == (2, 3)
                else "take a network made for the volume's axes",
            ],
        )
    if isinstance(failure, NoMap):
        return _no_map(module, channels, ndim, dtype, size, failure, pick)
    cause = (str(failure).strip().splitlines() or [type(failure).__name__])[0]
    at = f"{tuple(size)}" if size is not None else "any size from 1 to 599"
    return ModelError(
        f"{name_of(module)} does not run on (1, {channels}, *space) with {ndim} spatial axes at {at}: {cause}",
        "The number of spatial axes or channels is another one, or its size is fixed at export.",
        [
            "compare the axes: c, z, y, x or z, y, x for a 3D network; c, y, x or y, x for a 2D one",
            f"write the file anew, with its sizes left open: {exporting(ndim)}"
            if isinstance(module, torch.fx.GraphModule | torch.jit.ScriptModule)
            else "let its forward method take any size",
            *([wrapper(f"self.model({{{key!r}: x}})")] if (key := _key(module, channels, dtype, pick)) else []),
        ],
    )


def _no_map(
    module: nn.Module,
    channels: int,
    ndim: int,
    dtype: torch.dtype,
    size: Sequence[int] | None,
    failure: NoMap,
    pick: Pick,
) -> ModelError:
    """The error of a network that runs and gives no map, with the layer that loses the axes where one is known."""
    subject = next(subjects(module, channels, dtype, pick))
    shape = next((s for s in _starts(subject, ndim, size) if isinstance(subject.ran(s), NoMap)), None)
    if shape is not None and _is_stack(failure.found, shape):
        return stacked(name_of(module), failure.found, subject, shape)
    if len(failure.found) == 1 + ndim and failure.found[0] > 1:
        return ModelError(
            f"{name_of(module)} leaves out the axis of the batch: {failure}.",
            "Its forward method takes the first of its results, or gives a list of them.",
            ["end forward with all results, without [0]", wrapper("self.model(x)[None]")],
        )
    if len(failure.found) == 1 + ndim:
        return ModelError(
            f"{name_of(module)} leaves out the axis of channels: {failure}.",
            "It squeezes its only channel, or stores the number of the largest one.",
            [
                "put it back: infer(volume, torch.nn.Sequential(model, torch.nn.Unflatten(0, (-1, 1))))",
                "or end forward with result[:, None]; for classes, return the channels, and infer with argmax=True",
            ],
        )
    reasons = subject.follow(shape).reasons if shape is not None else ()
    why = next((f" {reason}." for reason in reasons if "pool" in str(reason).lower()), "")
    return ModelError(
        f"{name_of(module)} gives no map of its input: {failure}.{why}",
        "It is a classifier or a regressor: it gives one answer for a whole image. Or its axes are in another order.",
        [
            f"take the part that keeps the axes: infer(volume, model.{part})"
            if (part := _part(module, channels, dtype, shape))
            else "take a network that gives a value for each voxel",
            "wrap it in a module whose forward returns (n, channels, *space)",
        ],
    )


def _of_channels(given: int, expected: int) -> str:
    """The way out of a volume with other channels than the network takes."""
    if given > expected:
        return f"give {expected} channels of (c, z, y, x): infer(volume[:{expected}], model)"
    if given == 1:
        repeated = f"xarray.concat([volume] * {expected}, 'c')"
        return f"give {expected} channels, such as this one repeated: infer({repeated}, model)"
    return f"give {expected} channels: a volume with dims (c, z, y, x)"


def _key(module: nn.Module, channels: int, dtype: torch.dtype, pick: Pick) -> str | None:
    """The name under which a network looks for its input, of one that takes a dict."""
    asked: list[object] = []

    class Given(dict[str, torch.Tensor]):
        def __missing__(self, key: str) -> torch.Tensor:
            asked.append(key)
            raise KeyError(key)

    with suppress(Exception), torch.no_grad():
        next(subjects(module, channels, dtype, pick)).module(Given())
    return next((key for key in asked if isinstance(key, str)), None)


def _part(module: nn.Module, channels: int, dtype: torch.dtype, shape: Sequence[int] | None) -> str | None:
    """The first part of a network that gives a map of the network's own input."""
    for name, part in module.named_children():
        for subject in subjects(part, channels, dtype):
            if shape is not None and isinstance(subject.ran(shape), Ran):
                return name
    return None


def _is_stack(found: Sequence[int], shape: Sequence[int]) -> bool:
    """Whether an output has the form (1, heads, channels, *spatial)."""
    return len(found) == 3 + len(shape) and found[0] == 1 and all(n > 1 for n in found[3:])


def _expected_channels(module: nn.Module) -> list[int]:
    """Input channels of the first convolution or linear layer."""
    for layer in module.modules():
        for name in ("in_channels", "in_features"):
            if isinstance(found := getattr(layer, name, None), int):
                return [found]
    return [int(p.shape[1]) for p in module.parameters() if p.ndim >= 3][:1]


def _traced(subject: Subject, start: Followed) -> Trace:
    axes = [AxisSearch(subject, start, axis) for axis in range(len(start.strides))]
    contracts = tuple(axis.contract() for axis in axes)
    reasons = tuple(dict.fromkeys([*start.reasons, *(reason for axis in axes for reason in axis.reasons)]))
    return Trace(
        contracts,
        subject.channels,
        int(start.output.shape[1]),
        str(start.output.dtype).removeprefix("torch."),
        reasons,
        start.operations,
        base=start.input_shape,
        pick=subject.pick,
    )
