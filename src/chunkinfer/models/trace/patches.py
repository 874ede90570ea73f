"""Confirm a patch at its own size, before anything runs on it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from math import ceil, prod

import torch
from torch import nn

from chunkinfer.geometry.contract import AxisContract
from chunkinfer.models.trace.dependence import Reach, Reason
from chunkinfer.models.trace.subject import name_of, subjects
from chunkinfer.models.trace.tracing import Trace

_REAL_VOXELS = 128**3
"""Voxels of the largest patch that is checked where data must flow."""


def check_patch(
    module: nn.Module,
    trace: Trace,
    channels: int,
    patch: Sequence[int],
    clean: Sequence[tuple[int, int] | None],
) -> tuple[Reason, ...]:
    """Confirm, at the patch's own size, that its clean zone is the whole-volume result.

    Parameters
    ----------
    module
        The network that was traced.
    trace
        Its trace.
    channels
        Input channels.
    patch
        Input voxels per axis.
    clean
        The clean zone of an interior patch per axis, half-open, in input voxels from the patch's start: outputs
        anchored in it are kept. A patch flush with the low (high) end of the volume keeps all below (above) it too.
        None where one patch spans the axis: it keeps everything.

    Returns
    -------
    tuple of Reason
        What is wrong; empty if nothing is, or if checking would mean computing a large patch.
    """
    if trace.reasons or trace.declared is not None:  # what the tracer could not follow it cannot confirm either
        return trace.reasons
    for subject in subjects(module, channels, _dtype_of(module), trace.pick):
        if not subject.is_free and prod(patch) > _REAL_VOXELS:
            return ()
        found = subject.output_shape(patch)
        if isinstance(found, Exception):
            failure: Exception = found
            continue
        followed = subject.follow(patch)
        return followed.reasons or tuple(
            reason
            for axis, zone in enumerate(clean)
            if zone is not None
            for reason in _axis_errors(followed.reach(axis), trace.axes[axis], axis, patch[axis], zone)
        )
    return (Reason(name_of(module), f"does not run on a patch of {tuple(patch)} voxels: {failure}"),)


def _axis_errors(
    reach: Reach | None, contract: AxisContract, axis: int, patch: int, zone: tuple[int, int]
) -> Iterator[Reason]:
    layer = f"axis {axis}"
    if reach is None:
        yield Reason(layer, "what the output reads along this axis could not be followed")
        return
    count = len(reach.low)
    if count != contract.output_size(patch) or reach.stride != contract.stride:
        yield Reason(layer, f"{patch} voxels give {count} output voxels instead of {contract.output_size(patch)}")
        return
    # Outputs whose anchor o * stride lies in the zone.
    first, stop = (ceil(Fraction(end) / contract.stride) for end in zone)
    ends = (("low", reach.padded_low[first:], "above"), ("high", reach.padded_high[:stop], "below"))
    for end, padded, side in ends:
        if padded.any():
            yield Reason(
                layer,
                f"in a patch of {patch} voxels, {int(padded.sum())} output voxels of the clean zone [{zone[0]}, "
                f"{zone[1]}) or {side} it read beyond the patch's {end} end",
            )


def _dtype_of(module: nn.Module) -> torch.dtype:
    """The dtype that a network computes in: its weights'."""
    return next((p.dtype for p in module.parameters() if p.is_floating_point()), torch.float32)
