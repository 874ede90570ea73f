"""Operators on channels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from operator import index
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chunkinfer.errors import VolumeError
from chunkinfer.support.tokens import keep_tokens
from chunkinfer.volumes.operators.arguments import number
from chunkinfer.volumes.operators.lazy import Declared, opened, result_of
from chunkinfer.volumes.operators.steps import Chosen, Function, OverChannels
from chunkinfer.volumes.volume import Volume

__all__ = ["argmax", "channels", "mean_channel", "vote"]


def channels(volume: Any, which: int | Sequence[int]) -> Any:
    """Keep some channels, in the order given.

    Parameters
    ----------
    volume
        (c, z, y, x).
    which
        Their numbers, from 0; one number keeps the channel axis too.
    """
    found = _with_channels(volume)
    count = found.array.shape[0]
    try:
        wanted = (index(which),) if np.ndim(which) == 0 else tuple(map(index, which))  # type: ignore[arg-type]
    except TypeError:
        wanted = ()
    if not wanted or any(not -count <= v < count for v in wanted):
        raise VolumeError(
            f"Channels {which!r} are not among the volume's {count}.",
            "Channels are counted from 0.",
            [f"channels(volume, {list(range(min(count, 2)))})", "look at volume.sizes['c']"],
        )
    wanted = tuple(v % count for v in wanted)
    names = None if found.channel is None else [found.channel[v] for v in wanted]
    declared = replace(Declared.like(found), shape=(len(wanted), *found.space_shape), channel=names)
    return result_of(Chosen(wanted), found, declared)


def argmax(volume: Any) -> Any:
    """The number of the largest channel, the first of equal ones: (z, y, x), uint8, or uint16 above 256 channels.

    Parameters
    ----------
    volume
        (c, z, y, x).
    """
    found = _with_channels(volume)
    dtype = np.dtype("u1" if found.array.shape[0] <= 256 else "u2")
    return _without_channels(found, partial(_argmax, dtype=dtype), dtype)


def vote(volume: Any, *, value: float = 0.5) -> Any:
    """1 where more than half of the channels are above a value, 0 elsewhere: (z, y, x), uint8.

    Parameters
    ----------
    volume
        (c, z, y, x).
    value
        What a channel's vote lies above.
    """
    return _without_channels(_with_channels(volume), partial(_vote, value=number("value", value)), np.dtype("u1"))


def mean_channel(volume: Any) -> Any:
    """The mean over channels: (z, y, x), float32.

    Parameters
    ----------
    volume
        (c, z, y, x).
    """
    return _without_channels(_with_channels(volume), _mean, np.dtype("f4"))


def _with_channels(volume: Any) -> Volume:
    found = opened(volume)
    if "c" not in found.dims:
        raise VolumeError(
            f"The volume has the axes {found.dims} and no channels.",
            "The operator works over channels.",
            ["volume.expand_dims('c')", "leave the operator out"],
        )
    return found


def _without_channels(volume: Volume, function: Function, dtype: np.dtype[Any]) -> Any:
    declared = Declared(volume.space_shape, volume.frame.space, dtype, volume.frame)
    return result_of(OverChannels(function, volume.array.shape[0]), volume, declared)


def _argmax(voxels: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    return np.asarray(voxels.argmax(axis=0), dtype)


def _vote(voxels: NDArray[Any], value: float) -> NDArray[Any]:
    return np.asarray(2 * (voxels > value).sum(axis=0) > len(voxels), "u1")


def _mean(voxels: NDArray[Any]) -> NDArray[Any]:
    return np.asarray(voxels.mean(axis=0, dtype=np.float64), "f4")


keep_tokens(globals(), "chunkinfer.operators.over_channels")
