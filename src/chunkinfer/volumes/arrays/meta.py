"""Described: what the metadata of one array says, before the array is opened. Every format's reader returns one."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from chunkinfer.errors import DestinationError, SourceError
from chunkinfer.volumes.arrays.placement import Placement

DTYPES = (
    "bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "float16", "float32", "float64",
)  # fmt: skip
"""What a volume can be made of."""


@dataclass(frozen=True)
class Described:
    """What the metadata of one array says."""

    stored: tuple[str, ...]
    """Axes in stored order."""
    dims: tuple[str, ...]
    """Axes shown, in numpy order; stored axes that are not among them have length 1."""
    placement: Placement
    """Voxel size, unit and offset."""
    names: Mapping[str, Any] = field(default_factory=dict)
    """Further attributes."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Further members of the tensorstore spec."""


@dataclass(frozen=True)
class Contents:
    """What a file holds, or a stack of files, that is read by a library of its own; axes are in stored order."""

    stored: tuple[str, ...]
    """Axes, out of ("t", "c", "z", "y", "x")."""
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    chunks: tuple[int, ...]
    """What is decoded at a time."""
    spec: Mapping[str, Any]
    """What the format's reader opens, as JSON; ``kvstore`` says where."""
    placement: Placement = field(default_factory=Placement)
    """Voxel size, unit and offset."""
    names: Mapping[str, Any] = field(default_factory=dict)
    """Further attributes."""
    version: str = ""
    """Of a stack: changes when a file does."""


@dataclass(frozen=True)
class Request:
    """What an array to create shall be, in one form."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    dims: tuple[str, ...]
    chunks: tuple[int, ...]
    shards: tuple[int, ...] | None
    placement: Placement
    encoding: str | None
    compression: str | None
    attributes: Mapping[str, Any]


def check_dtype(name: Any, url: str) -> None:
    """Refuse what a network cannot be given, by the name in the metadata.

    This runs before tensorstore sees the metadata.
    """
    if name not in DTYPES:
        raise SourceError(
            f"{url} holds voxels of type {name!r}.",
            f"A volume is made of numbers of one type: {', '.join(DTYPES)}.",
            ["choose another array", "or convert it, one array per field or component"],
        )


def digest_of(*texts: bytes) -> str:
    """A digest of metadata objects."""
    total = hashlib.blake2b(digest_size=16)
    for text in texts:
        total.update(len(text).to_bytes(8, "little") + text)
    return total.hexdigest()


ZARR = "format='zarr3'"
"""A way out where another format holds what this one cannot."""


def unsupported(what: str, given: object, supported: object, ways: tuple[str, str]) -> DestinationError:
    """The error for a value that a format cannot hold."""
    listed = ", ".join(map(str, supported)) if isinstance(supported, tuple | list) else str(supported)
    return DestinationError(
        f"{what} cannot be {given!r}.",
        f"Supported: {listed}.",
        ways,
    )


def unsupported_type(what: str, dtype: str, supported: tuple[str, ...]) -> DestinationError:
    """The error for a type of voxels that a format cannot hold, and zarr can."""
    near = {"bool": "uint8", "float16": "float32", "float64": "float32", "int64": "int32", "uint64": "uint32"}
    fitting = near.get(dtype, "")
    convert = f"convert it, if its values fit: save(array.astype({fitting!r}), url)"
    return unsupported(what, dtype, supported, (ZARR, convert if fitting in supported else "or convert it"))
