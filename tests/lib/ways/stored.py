"""Rows of what is at a place: something is written there, and opening or saving it is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import dask.array
import numpy as np
import pytest

import chunkinfer as ci
from tests.lib.ways.rows import Row, computed

h5py = pytest.importorskip("h5py")
mrcfile = pytest.importorskip("mrcfile")
nibabel = pytest.importorskip("nibabel")
tifffile = pytest.importorskip("tifffile")
zarr = pytest.importorskip("zarr")

ARRAY = np.random.default_rng(0).integers(1, 200, (6, 7, 8), dtype="u1")

LIBRARIES = {"h5py": h5py, "mrcfile": mrcfile, "nibabel": nibabel, "tifffile": tifffile, "zarr": zarr, "dask": dask}


def read(made: Callable[[], Any], url: str, **given: Any) -> Any:
    """Write what is there, open it and read it all."""
    made()
    return computed(ci.open_volume(url, **given))


def opens(what: str, lines: int, made: Callable[[], Any], url: str = "v", **given: Any) -> Row:
    """A place that cannot be opened or read, once ``made`` has written there."""
    names = MappingProxyType({**LIBRARIES, "array": ARRAY, "url": url})
    return Row(what, partial(read, made), {"url": url, **given}, lines, names)


def change(path: str, **members: Any) -> None:
    """Change members of a metadata object."""
    text = Path(path)
    text.write_text(json.dumps({**json.loads(text.read_text()), **members}))


def array(
    version: int = 3, place: str = "v", values: Any = ARRAY, meta: Any = None, **options: Any
) -> Callable[[], Any]:
    """An array of zarr, whose metadata is then changed by ``meta``."""

    def write() -> None:
        chunks = tuple(max(1, n // 2) for n in values.shape)
        made = zarr.create_array(
            place, shape=values.shape, dtype=values.dtype, chunks=chunks, zarr_format=version, overwrite=True, **options
        )
        made[...] = values
        if meta:
            change(f"{place}/{'zarr.json' if version == 3 else '.zarray'}", **meta)

    return write


def after(*steps: Callable[[], Any]) -> Callable[[], Any]:
    """One after the other."""

    def write() -> None:
        for step in steps:
            step()

    return write
