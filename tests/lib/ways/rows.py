"""Calls that are refused, and what their ways out name: each row is a call, and the lines that it advises are run.

What the advised lines give is computed where it is lazy, so that a line which only moves the error further is found.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from itertools import count
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import dask.array
import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn

import chunkinfer as ci
from chunkinfer import operators as op
from chunkinfer.errors import ChunkinferError
from tests.lib.ways.advice import followed

SHAPE = (8, 12, 12)
RNG = np.random.default_rng(0)
VOXELS = RNG.random(SHAPE).astype("f4")
VOLUME = xr.DataArray(VOXELS, dims=("z", "y", "x"), name="em")
AFFINITIES = xr.DataArray(RNG.random((3, *SHAPE)).astype("f4"), dims=("c", "z", "y", "x"))
LABELS = (np.arange(8 * 12 * 12, dtype="u4") // 100).reshape(SHAPE)
PICTURE = RNG.integers(0, 255, (4, 32, 32)).astype("u1")
QUIET = {"progress": False}


class Row(NamedTuple):
    """A call that is refused."""

    what: str
    """Of the error's text."""
    call: Callable[..., Any]
    given: dict[str, Any]
    lines: int
    """How many of its ways are lines."""
    names: Mapping[str, Any] = MappingProxyType({})


def network(channels: int = 2, last: nn.Module | None = None) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv3d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv3d(4, channels, 1), last or nn.Sigmoid()
    ).eval()


NET = network()
VALID = nn.Conv3d(1, 2, 5).eval()
STRIDED = nn.Conv3d(1, 1, 2, stride=2).eval()
POOLED = nn.Sequential(nn.Conv3d(1, 2, 3, padding=1), nn.MaxPool3d(2), nn.Upsample(scale_factor=2)).eval()
NORM = nn.Sequential(nn.Conv3d(1, 2, 3, padding=1), nn.InstanceNorm3d(2, track_running_stats=False)).eval()


def computed(found: Any) -> Any:
    """A lazy result in memory."""
    return found.compute(scheduler="synchronous") if callable(getattr(found, "compute", None)) else found


def infer(volume: Any = VOLUME, model: Any = NET, **settings: Any) -> Any:
    lazy = ci.infer(volume, model, **settings)
    computed(lazy[tuple(slice(0, n) for n in lazy.data.chunksize)] if isinstance(lazy, xr.DataArray) else lazy)
    return lazy


def save(array: Any, url: Any, **settings: Any) -> Any:
    return ci.save(array, url, **{**QUIET, **settings})


COUNT = count()

NAMES: dict[str, Any] = {
    "volume": VOLUME, "model": NET, "infer": infer, "plan": ci.plan, "chunkinfer": ci, "ci": ci, "numpy": np,
    "xarray": xr, "dask": dask, "open_volume": ci.open_volume, "torch": torch,
    "affinities": AFFINITIES, "labels": LABELS, "nn": nn, "receptive_field": ci.receptive_field,
    "show": ci.show, "array": VOLUME,
    **{name.replace("-", "_"): function for name, function in op.OPERATORS.items()},
    **{name: partial(getattr(ci, name), **QUIET)
       for name in ("segment", "watershed", "connected_components", "region_graph", "evaluate", "statistics")},
}  # fmt: skip


def refusals(row: Row, place: Path, monkeypatch: pytest.MonkeyPatch, stored: bool = True) -> ChunkinferError:
    """The error, once its ways have been run; ``stored`` says whether there are volumes and skeletons at the place."""
    monkeypatch.chdir(place)
    if stored:
        ci.save(VOLUME, place / "em.zarr", progress=False)
        (place / "skeletons").mkdir()
        (place / "skeletons" / "1.swc").write_text("1 0 1 1 1 1 -1\n2 0 2 2 2 1 1\n")
    given = {"volume": VOLUME, "model": NET, **row.given}  # what lines call by the names of arguments
    names = {**NAMES, **given, "save": save, "url": str(place / "new.zarr"), **row.names}
    with pytest.raises(ChunkinferError) as refused:
        row.call(**row.given)
    error = refused.value
    assert row.what in str(error).replace("\n", " "), error
    done = []
    for way, found in followed(error, row.call, row.given, names):
        computed(found)
        done.append(way)
    assert len(done) == row.lines, (done, error.ways)
    return error


def settings(what: str, lines: int, **given: Any) -> Row:
    return Row(what, infer, given, lines)


def row(what: str, lines: int, call: Callable[..., Any], names: dict[str, Any] | None = None, **given: Any) -> Row:
    return Row(what, call, given, lines, names or {})


def each(rooms: Mapping[str, Sequence[Row]], quick: Collection[str] = ()) -> list[Any]:
    """Rows of several rooms as parameters of a test, with their names; all but the quick rooms' are slow."""
    return [
        pytest.param(row, id=f"{room}: {row.what[:40]}", marks=[pytest.mark.slow] * (room not in quick))
        for room, rows in rooms.items()
        for row in rows
    ]
