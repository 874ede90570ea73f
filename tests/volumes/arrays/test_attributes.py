"""Attributes of a DataArray in the metadata of an output: JSON, and read again, in every format."""

from __future__ import annotations

import datetime
import json
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

import chunkinfer as ci
from chunkinfer.volumes.arrays.attributes import as_json
from chunkinfer.volumes.arrays.create import ArraySpec, create
from chunkinfer.volumes.arrays.open import open_source

FORMATS = ("zarr3", "zarr2", "ome-zarr", "ome-zarr-0.4", "precomputed", "n5")


class Stain(Enum):
    HEAVY = "uranyl"


ROUND: list[Any] = [1]
ROUND.append(ROUND)

KEPT: list[tuple[str, Any, Any]] = [
    ("number", 3, 3),
    ("large", 2**70, 2**70),
    ("too large", -(10**400), str(-(10**400))),
    ("no time", np.datetime64("NaT"), "NaT"),
    ("float32", np.float32(0.1), 0.1),
    ("array", np.arange(3), [0, 1, 2]),
    ("decimals", np.array([0.1, 0.2], "f4"), [0.1, 0.2]),
    ("truth", np.array([True, False]), [True, False]),
    ("nan", float("nan"), "NaN"),
    ("infinity", [np.inf, -np.inf], ["Infinity", "-Infinity"]),
    ("nans", np.array([np.nan, 1]), ["NaN", 1.0]),
    ("date", datetime.datetime(2020, 1, 1), "2020-01-01 00:00:00"),
    ("dates", np.array(["2020-01-01"], "M8[D]"), ["2020-01-01"]),
    ("path", Path("em") / "raw", "em/raw"),
    ("set", {2, 1}, [1, 2]),
    ("enumeration", Stain.HEAVY, "uranyl"),
    ("bytes", b"shot at dawn", "shot at dawn"),
    ("half a character", "\ud800", "?"),
    ("complex", 1j, "1j"),
    ("deep", {"a": [np.int64(3), (1, None)], 2: "b"}, {"a": [3, [1, None]], "2": "b"}),
    ("none", None, None),
    ("object", object(), None),
    ("function", len, None),
    ("round", ROUND, None),
    ("data", np.zeros(10**4), None),
    ("masked", np.ma.masked_greater(np.arange(3), 1), None),
]
"""Name, value, and what is kept of it; None where it is left out."""


@pytest.mark.parametrize(("value", "kept"), [row[1:] for row in KEPT], ids=[row[0] for row in KEPT])
def test_what_is_kept(value: Any, kept: Any) -> None:
    found = as_json({"x": value})
    assert found == ({} if kept is None else {"x": kept})
    json.dumps(found, allow_nan=False)


@pytest.mark.parametrize("format", FORMATS)
def test_all_of_them_in_every_format(tmp_path: Path, format: str) -> None:
    attributes = {name: value for name, value, _ in KEPT}
    create(
        tmp_path / "a",
        ArraySpec(format=format, shape=(4, 4, 4), dims=("z", "y", "x"), dtype="u1", attributes=attributes),
    )
    for file in (path for path in tmp_path.rglob("*") if path.is_file()):
        json.loads(file.read_text(), parse_constant=pytest.fail)  # NaN is no JSON
    assert open_source(tmp_path / "a").names == {name: kept for name, _, kept in KEPT if kept is not None}


def test_through_save(tmp_path: Path) -> None:
    """netCDF's and rioxarray's ``_FillValue``, and a key that is no text."""
    attributes: dict[Any, Any] = {"_FillValue": np.nan, ("a", 1): object(), 3: "three"}
    ci.save(xr.DataArray(np.ones((4, 4, 4)), dims=("z", "y", "x"), attrs=attributes), tmp_path / "a", progress=False)
    held = ci.open_volume(tmp_path / "a").attrs
    assert (held["_FillValue"], held["3"]) == ("NaN", "three")


@pytest.mark.parametrize("name", ["transform", "downsamplingFactors", "pixelResolution", "resolution", "axes", "units"])
@pytest.mark.parametrize("format", FORMATS)
def test_attributes_that_a_format_reads_as_its_own(tmp_path: Path, format: str, name: str) -> None:
    """rioxarray's ``transform`` is not COSEM's: voxels stay where they are."""
    create(
        tmp_path / "a",
        ArraySpec(
            format=format,
            shape=(4, 4, 4),
            dims=("z", "y", "x"),
            dtype="u1",
            unit="nm",
            voxel_size={"z": 40, "y": 4, "x": 4},
            offset={"z": 2, "y": 0, "x": 0},
            attributes={name: {"scale": [1, 2, 3], "axes": ["x", "y", "z"], "dimensions": [7, 7, 7]}},
        ),
    )
    source = open_source(tmp_path / "a")
    assert (source.voxel_size, source.offset) == ({"z": 40.0, "y": 4.0, "x": 4.0}, {"z": 2, "y": 0, "x": 0})


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.binary()
    | st.dates()
    | st.complex_numbers(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner) | st.tuples(inner, inner),
)


@given(attributes=st.dictionaries(st.text() | st.integers(), VALUES))
def test_any_attributes_are_json(attributes: dict[Any, Any]) -> None:
    kept = as_json(attributes)
    text = json.dumps(kept, allow_nan=False, ensure_ascii=False)
    assert json.loads(text.encode()) == kept
    assert as_json(kept) == {name: value for name, value in kept.items() if value is not None}
