"""Confirm a lattice: what its patches compute is what the network computes on the whole volume."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
import torch
from torch import nn

from chunkinfer.networks.trace.dependence import NOTHING, Integers, Reach, Reason
from chunkinfer.networks.trace.subject import Ran, Subject, name_of, subjects
from chunkinfer.networks.trace.tracing import Trace

_REAL_VOXELS = 128**3
"""Voxels of the largest patch or volume that is checked where data must flow."""


@dataclass(frozen=True)
class Place:
    """Where a patch lies along one axis, and what of it is kept."""

    start: int
    """Input voxel of the volume at which it starts."""
    first: int
    """The first output voxel of the volume that is taken from it."""
    stop: int
    """The first output voxel after these."""


@dataclass(frozen=True)
class Cut:
    """One axis of a volume, cut into patches."""

    size: int
    """Input voxels of the volume."""
    patch: int
    """Input voxels of a patch."""
    places: tuple[Place, ...] = ()
    """None where one patch spans the axis and nothing is to be compared."""


def check_patches(
    module: nn.Module,
    trace: Trace,
    cuts: Sequence[Cut],
    patch: Sequence[int] | None = None,
    volume: Sequence[int] | None = None,
) -> tuple[Reason, ...]:
    """Confirm that patches compute what the network computes on the whole volume.

    The network is traced at the shape of a patch and at that of the volume, which costs nothing without data. Both must
    run the same operators with the same arguments, and each output voxel must read the same input voxels in its patch
    as in the volume, and the same ends of it. What holds at one size is not believed of another.

    Parameters
    ----------
    module
        The network that was traced.
    trace
        Its trace.
    cuts
        One for each spatial axis.
    patch, volume
        Voxels of a patch and of the volume, where the cuts are of others that read the same.

    Returns
    -------
    tuple of Reason
        What is wrong; empty if nothing is, or if checking would mean computing a large patch.
    """
    if trace.reasons or trace.declared is not None:  # what the tracer could not follow it cannot confirm either
        return trace.reasons
    shapes = tuple(cut.patch for cut in cuts), tuple(cut.size for cut in cuts)
    failure: Exception | None = None
    for subject in subjects(module, trace.channels_in, _dtype_of(module), trace.pick):
        if not subject.is_free and max(map(prod, shapes)) > _REAL_VOXELS:
            return ()
        for at in shapes:
            if not isinstance(found := subject.ran(at), Ran):
                failure, reason = found, Reason(name_of(module), f"does not run on {tuple(at)} voxels: {found}")
                break
        else:
            return tuple(_differences(subject, cuts, patch or shapes[0], volume or shapes[1]))
    return (reason,) if failure is not None else ()


def _differences(
    subject: Subject, cuts: Sequence[Cut], patch: Sequence[int], volume: Sequence[int]
) -> Iterator[Reason]:
    # Without data, too, a tensor has no more bytes than 64 bits can count: then the shorter volume tells.
    if all(isinstance(subject.ran(at), Ran) for at in (patch, volume)) and (
        different := subject.difference(patch, volume)
    ):
        yield different
        return
    in_patch, in_volume = subject.follow([cut.patch for cut in cuts]), subject.follow([cut.size for cut in cuts])
    if reasons := (*in_patch.reasons, *in_volume.reasons):
        yield from reasons
        return
    for axis, cut in enumerate(cuts):
        here, there = in_patch.reach(axis), in_volume.reach(axis)
        if here is None or there is None or here.stride != there.stride:
            yield Reason(f"axis {axis}", "what the output reads along this axis could not be followed")
        elif wrong := _misread(here, there, cut):
            yield Reason(f"axis {axis}", wrong)


def _misread(patch: Reach, volume: Reach, cut: Cut) -> str:
    """Which output voxels read something else in their patch than in the volume; empty if none do."""
    for place in cut.places:
        origin = int(place.start / patch.stride)
        zone = slice(place.first - origin, place.stop - origin)
        if zone.start < 0 or zone.stop > len(patch.low) or place.stop > len(volume.low):
            return (
                f"{cut.patch} voxels give {len(patch.low)} output voxels and {cut.size} give {len(volume.low)}, which "
                "does not fit the lattice"
            )
        whole = slice(place.first, place.stop)
        wrong = (
            (_moved(patch.low[zone], place.start) != volume.low[whole])
            | (_moved(patch.high[zone], place.start) != volume.high[whole])
            | (patch.padded_low[zone] != volume.padded_low[whole])
            | (patch.padded_high[zone] != volume.padded_high[whole])
        )
        if wrong.any():
            return (
                f"in a patch of {cut.patch} voxels at {place.start} of {cut.size}, {int(wrong.sum())} of the output "
                f"voxels [{place.first}, {place.stop}) read other voxels, or another end, than in the whole volume"
            )
    return ""


def _moved(ends: Integers, start: int) -> Integers:
    """Ends of intervals in the volume's voxels; those of outputs that read nothing stay as they are."""
    return np.where(np.abs(ends) >= NOTHING // 2, ends, ends + start)


def _dtype_of(module: nn.Module) -> torch.dtype:
    """The dtype that a network computes in: its weights'."""
    return next((p.dtype for p in module.parameters() if p.is_floating_point()), torch.float32)
