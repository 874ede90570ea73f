"""``.npy`` files, memory-mapped. No pickles."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from chunkinfer.stores.ranges import Stored
from chunkinfer.volumes.arrays.axes import recognise
from chunkinfer.volumes.arrays.meta import Contents
from chunkinfer.volumes.formats import flat
from chunkinfer.volumes.formats.flat import Flat

SUFFIXES = (".npy",)
WHAT = ".npy files"
NEEDS = "numpy"

VERSIONS = ((1, 0), (2, 0), (3, 0))


def describe(file: Stored, inside: str, level: int) -> Contents:
    """What the header says."""
    with file.open() as stream:
        if (version := np.lib.format.read_magic(stream)) not in VERSIONS:
            raise ValueError(f"it is of version {version}, and known are {VERSIONS}")
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(stream)
        if dtype.hasobject:
            raise ValueError("it holds Python objects, which would be unpickled")
        stored = recognise(None, len(shape), file.url, array=f"numpy.load({file.url!r})")
        spec = flat.spec(file, stream.tell(), shape, dtype, "F" if fortran else "C")
    return Contents(stored, shape, dtype, flat.chunks(stored, shape), spec)


def opened(spec: Mapping[str, Any], version: str) -> Flat:
    """The array, by boxes."""
    return Flat(spec)
