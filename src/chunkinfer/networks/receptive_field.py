"""`receptive_field`: what a network reads around each output voxel, on its own, before any volume is at hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from chunkinfer.errors import ModelError
from chunkinfer.networks.adapters.callable import unknown_input
from chunkinfer.networks.field import ReceptiveField
from chunkinfer.networks.model import Model, open_model
from chunkinfer.networks.network import Flags
from chunkinfer.networks.probing.verifying import Seen, check_spread
from chunkinfer.networks.stated_contract import Declared, contracts_of

if TYPE_CHECKING:
    import torch

    from chunkinfer.networks.trace.tracing import Trace


def receptive_field(
    model: object,
    *,
    output: str | int | None = None,
    channels: int | None = None,
    ndim: int | None = None,
    verify: bool = False,
    size: int | Sequence[int] | None = None,
    contract: Declared | None = None,
) -> ReceptiveField:
    """What a network reads around each output voxel, which sizes it takes, and whether it can be tiled exactly.

    Networks of torch are traced, which takes a second or two: every operator is followed, and the context is neither
    too small nor a guess. Anything else is probed by running it: see Notes.

    Parameters
    ----------
    model
        A ``torch.nn.Module``; the path or URL of a TorchScript, torch.export (.pt2), ONNX (.onnx) or OpenVINO (.xml)
        file; or any function from a numpy array ``(1, channels, *space)`` to another.
    output
        Which output is taken, by name or number, of a network with several; as for `infer`.
    channels, ndim
        Input channels and spatial axes. By default those of the network's first convolution, or what its file says.
    verify
        Whether to check a trace by real runs: half of a small input becomes NaN, and it must not spread beyond the
        context. It takes seconds to minutes, with the size of the context.
    size
        Spatial voxels (of every axis, or of each) of a size that the network takes, where it takes few.
    contract
        What is known of the network, in place of a trace: an `AxisContract` or a mapping such as
        ``{"context": 44, "period": 8}``, for all axes or one each. It is believed after the same check as a probe's. An
        attribute ``tiling_contract`` of a module says the same, where the tracer finds a reason against exactness.

    Returns
    -------
    ReceptiveField
        Contract per axis, and the reasons why the network is not exact, if it isn't.

    Raises
    ------
    AmbiguousOutput
        It has several outputs, and none was chosen.
    ModelError
        The network can't be opened or doesn't run; its channels or axes are not known; or a real run contradicts a
        contract, with axis and voxels.
    MissingExtra
        What opens the file is not installed.

    Notes
    -----
    Probing finds what random inputs show: changes of several sizes, and NaN. A read that none of them shows beyond
    round-off is missed, so what it finds is a lower bound, which is then rounded up to whole periods and checked:
    tiles with this context must equal the whole. What does not end with distance is reported as not exact.
    """
    from chunkinfer.networks.probing.probing import declared_field, probe

    opened = open_model(model, output)
    if not opened.of_torch:
        network = opened.arrays(channels, ndim)
        if contract is not None:
            return declared_field(network, contracts_of(contract, network.ndim), "leave contract= out")
        return probe(network, _sizes(size, network.ndim))
    import torch

    module = opened.module_on("cpu")
    derived = channels is None or ndim is None
    channels, ndim = _input_of(module, opened.name, channels, ndim)
    if contract is not None:
        with torch.random.fork_rng(devices=[]):
            return declared_field(opened.arrays(channels, ndim), contracts_of(contract, ndim), "leave contract= out")
    try:
        found = opened.trace(channels, ndim, _sizes(size, ndim))
    except ModelError as error:
        if not derived:
            raise
        way = "state its input, if it is not the first convolution's: receptive_field(model, channels=1, ndim=3)"
        raise type(error)(error.what, error.means, [*error.ways, way]) from error
    return _traced(opened, found, verify)


def _sizes(size: int | Sequence[int] | None, ndim: int) -> tuple[int, ...] | None:
    return (size,) * ndim if isinstance(size, int) else tuple(size) if size is not None else None


def _input_of(module: torch.nn.Module, name: str, channels: int | None, ndim: int | None) -> tuple[int, int]:
    """Channels and axes of the first convolution, where they are not given."""
    from torch.nn.modules.conv import _ConvNd

    if channels is not None and ndim is not None:
        return channels, ndim
    for layer in module.modules():
        if isinstance(layer, _ConvNd):
            return channels or layer.in_channels, ndim or len(layer.kernel_size)
    # TorchScript and exported programs keep the weights: (channels out, channels in, *kernel).
    weight = next((p for p in module.parameters() if p.ndim in (4, 5)), None)
    if weight is None:
        raise unknown_input(name)
    return channels or int(weight.shape[1]), ndim or weight.ndim - 2


def _traced(model: Model, found: Trace, verify: bool) -> ReceptiveField:
    seen = found.declared
    if verify and found.exact and seen is None:
        seen = check_trace(model, found)
    return ReceptiveField(
        model.name,
        found.axes,
        found.channels_in,
        found.channels_out,
        found.dtype,
        "traced" if found.declared is None else "declared",
        tuple(map(str, found.reasons)),
        seen,
    )


def check_trace(model: Model, found: Trace) -> tuple[Seen, ...]:
    """How far NaN spreads, against the trace.

    Where none comes out (an output of integers, a comparison on the way), finite changes take its place.

    Raises
    ------
    ModelError
        It spreads beyond the context; axis and voxels are named.
    """
    import numpy as np

    from chunkinfer.networks.trace.probe import nan_probe

    module = model.module_on("cpu")
    network = model.arrays(found.channels_in, len(found.axes))

    def spread(shape: Sequence[int], axis: int, cut: int) -> tuple[Flags, Flags]:
        below, above = nan_probe(module, found.channels_in, shape, axis, cut, model.pick)
        return (below, above) if np.any(below | above) else network.changes(shape, axis, cut)

    return check_spread(model.name, found.axes, spread, "NaN")
