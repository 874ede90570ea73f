"""Readers: by format, what describes a file and what reads boxes of it; each library is imported in its own module."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from importlib.util import find_spec
from threading import Lock
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from chunkinfer.errors import ChunkinferError, MissingExtra, SourceError
from chunkinfer.stores.ranges import Stored
from chunkinfer.stores.store import canonical
from chunkinfer.volumes.arrays.meta import Contents
from chunkinfer.volumes.formats import hdf5, mrc, nifti, npy, tiff
from chunkinfer.volumes.formats.sections import sections


class Adapter(Protocol):
    """A module for one format of single files."""

    @property
    def SUFFIXES(self) -> tuple[str, ...]:
        """Of its files, in lower case."""
        ...

    @property
    def WHAT(self) -> str:
        """The format in words."""
        ...

    @property
    def NEEDS(self) -> str:
        """The package that reads it."""
        ...

    def describe(self, file: Stored, inside: str, level: int) -> Contents:
        """What a file holds; ``inside`` names a part of it. Reads no voxels; raises whatever its library raises."""
        ...

    def opened(self, spec: Mapping[str, Any], version: str) -> Any:
        """What gives boxes, in stored order, for a tuple of slices: made once per process, for all threads."""
        ...


ADAPTERS: dict[str, Adapter] = {"npy": npy, "tiff": tiff, "hdf5": hdf5, "nifti": nifti, "mrc": mrc}
"""Format -> its module. Another format is another module."""

SUFFIXES = {suffix: name for name, adapter in ADAPTERS.items() for suffix in adapter.SUFFIXES}
"""Suffix -> format."""

NESTED = ("hdf5", "tiff")
"""Formats of which one file holds several arrays."""

LEVELS = ("tiff",)
"""Formats of which one file holds several levels."""

PARTS: dict[str, Callable[[Stored, str], list[tuple[str, int]]]] = {"hdf5": hdf5.parts, "tiff": tiff.parts}
"""Format -> what lists the arrays in one file, where it can hold several."""

OPENERS = {"sections": sections.opened, **{name: adapter.opened for name, adapter in ADAPTERS.items()}}
"""Format -> what opens it in this process, once."""

_opening = Lock()


@lru_cache(maxsize=16)
def _opened(format: str, spec: str, version: str) -> Any:
    return OPENERS[format](json.loads(spec), version)


def describe(format: str, file: Stored, inside: str, level: int) -> Contents:
    """What a file holds.

    Raises
    ------
    SourceError
        It is damaged, or another format than its name says.
    MissingExtra
        Its library is absent.
    """
    with _library(format, file.url):
        return ADAPTERS[format].describe(file, inside, level)


def parts(format: str, file: Stored, inside: str) -> list[tuple[str, int]]:
    """Name and level of every array in a file, or in the part of it that ``inside`` names.

    Raises
    ------
    SourceError, MissingExtra
        As for `describe`.
    """
    with _library(format, file.url):
        return PARTS[format](file, inside) if format in PARTS else [(inside, 0)]


@contextmanager
def _library(format: str, url: str) -> Iterator[None]:
    """What a format's library raises, as an error of ours."""
    try:
        yield
    except ChunkinferError:
        raise
    except ImportError as error:
        raise missing_library(format) from error
    except Exception as error:  # of damaged files, libraries raise whatever comes up
        raise SourceError(
            f"{url} cannot be opened as {ADAPTERS[format].WHAT}: {str(error)[:300]}",
            "It is truncated or damaged, or another format than its name says.",
            ["copy it anew, or open it with the format's own tools", "or convert it to zarr"],
        ) from error


def read(
    format: str, url: str, spec: dict[str, Any], version: str, box: tuple[tuple[int, int], ...]
) -> NDArray[np.generic]:
    """A box of a file, in its stored order.

    Raises
    ------
    SourceError
        It is damaged, or gone.
    MissingExtra
        Its library is absent on this machine.
    """
    try:
        with _opening:
            found = _opened(format, canonical(spec), version)
        return np.asarray(found[tuple(slice(start, stop) for start, stop in box)])
    except ChunkinferError:
        raise
    except ImportError as error:
        raise missing_library(format) from error
    except Exception as error:
        where = ", ".join(f"{start}:{stop}" for start, stop in box)
        lacks = "imagecodecs" in str(error) and find_spec("imagecodecs") is None
        raise SourceError(
            f"{url} cannot be read in the box [{where}] of its stored axes: {type(error).__name__}: {str(error)[:300]}",
            "The file was changed, truncated or damaged after it was opened, or its compression is not known here.",
            [
                "copy it anew, or open it with the format's own tools",
                'pip install "chunkinfer[formats]" on this machine' if lacks else "or convert it to zarr",
            ],
        ) from error


def missing_library(format: str) -> MissingExtra:
    """The error for a format whose library is absent."""
    return MissingExtra.of(ADAPTERS[format].WHAT, ADAPTERS[format].NEEDS, "formats")
