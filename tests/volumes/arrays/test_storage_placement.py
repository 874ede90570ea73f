"""Where voxels are: units, sizes that were float32, and what attributes say of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from chunkinfer.errors import SourceError, VolumeError
from chunkinfer.volumes.arrays.create import ArraySpec, create
from chunkinfer.volumes.arrays.open import open_source
from chunkinfer.volumes.arrays.placement import METRES, Placement, common_unit, decimal, nanometres, short_unit
from tests.volumes.arrays.test_storage_reading import v3

# What a unit is in metres, by hand: the table that is tested is computed.
BY_HAND = {
    "yoctometer": 1e-24, "zeptometer": 1e-21, "attometer": 1e-18, "femtometer": 1e-15, "picometer": 1e-12,
    "angstrom": 1e-10, "nanometer": 1e-9, "micrometer": 1e-6, "millimeter": 1e-3, "centimeter": 1e-2,
    "decimeter": 0.1, "meter": 1.0, "hectometer": 100.0, "kilometer": 1e3, "megameter": 1e6, "gigameter": 1e9,
    "terameter": 1e12, "petameter": 1e15, "exameter": 1e18, "zettameter": 1e21, "yottameter": 1e24,
    "inch": 0.0254, "foot": 0.3048, "yard": 0.9144, "mile": 1609.344, "parsec": 3.0856775814913673e16,
}  # fmt: skip


def test_every_unit_of_ome_is_known() -> None:
    axis = pytest.importorskip("yaozarrs._axis")
    assert set(get_args(axis.ValidSpaceUnit)) == set(BY_HAND)
    for name, metres in BY_HAND.items():
        assert METRES[short_unit(name)] == metres
        assert nanometres({"z": 2.0}, name)["z"] == pytest.approx(2 * metres / 1e-9, rel=1e-11)


@pytest.mark.parametrize(
    ("name", "short"),
    [("Micrometers", "um"), ("µm", "um"), ("microns", "um"), ("nm", "nm"), ("Nanometre", "nm"), ("Mm", "Mm"),
     ("feet", "foot"), ("pixels", ""), ("", ""), (None, ""), ("furlong", "furlong")],
)  # fmt: skip
def test_names_of_units(name: Any, short: str) -> None:
    assert short_unit(name) == short


@pytest.mark.parametrize("name", [3, ["nm"], {"unit": "nm"}])
def test_what_is_no_name(name: Any) -> None:
    with pytest.raises(TypeError, match="not the name of a unit"):
        short_unit(name)


def test_units_that_differ() -> None:
    assert common_unit({"z": 0.04, "y": 4, "x": 4}, {"z": "um", "y": "nm", "x": "nm"}) == (
        {"z": 40.0, "y": 4.0, "x": 4.0}, "nm",
    )  # fmt: skip
    # bioformats2raw writes 1 without a unit where the distance of sections is not known
    assert common_unit({"z": 1.0, "y": 4, "x": 4}, {"y": "um", "x": "um"}) == ({"z": 1.0, "y": 4, "x": 4}, "um")
    for units in ({"y": "um", "x": "um"}, {"z": "furlong", "y": "um", "x": "um"}):
        with pytest.raises(SourceError, match="axis z cannot be compared"):
            common_unit({"z": 2.0, "y": 4, "x": 4}, units)


@pytest.mark.parametrize("written", [0.1, 4.28, 0.325, 8.01, 1234.1, 1e-7])
def test_a_size_that_was_a_float32(written: float) -> None:
    assert decimal(float(np.float32(written))) == written
    assert Placement({"z": float(np.float32(written))}).complete("zyx").voxel_size["z"] == written


@pytest.mark.parametrize("size", [0.1, 1 / 3, 1 / 1024, 4.25, 16777217.0, 1e300, 100.00000149])
def test_other_sizes_stay(size: float) -> None:
    assert decimal(size) == size


def test_precomputed_of_a_float32_in_micrometres(tmp_path: Path) -> None:
    sizes = dict.fromkeys("zyx", float(np.float32(0.1)))
    create(tmp_path / "o.precomputed", ArraySpec(shape=(4, 4, 4), dtype="u1", dims="zyx", voxel_size=sizes, unit="um"))
    scale = json.loads((tmp_path / "o.precomputed" / "info").read_text())["scales"][0]
    assert (scale["resolution"], scale["key"]) == ([100, 100, 100], "100_100_100")


@pytest.mark.parametrize(("unit", "nm"), [("inch", 25.4e6), ("kilometer", 1e12), ("", 1.0), (None, 1.0)])
def test_precomputed_is_in_nanometres(tmp_path: Path, unit: Any, nm: float) -> None:
    create(tmp_path / "o.precomputed", ArraySpec(shape=(4, 4, 4), dtype="u1", dims="zyx", unit=unit))
    assert open_source(tmp_path / "o.precomputed").voxel_size["z"] == nm


def test_an_unknown_length_is_not_taken_for_nanometres(tmp_path: Path) -> None:
    with pytest.raises(VolumeError, match=r"'furlong'.*no length"):
        create(tmp_path / "o.precomputed", ArraySpec(shape=(4, 4, 4), dtype="u1", dims="zyx", unit="furlong"))
    create(tmp_path / "o.zarr", ArraySpec(shape=(4, 4, 4), dtype="u1", dims="zyx", unit="furlong"))  # as advised
    assert open_source(tmp_path / "o.zarr").unit == "furlong"


UNREAD = [
    ({"voxel_size": [4, 4, 4], "units": ["nm", "nm"]}, "units"),
    ({"voxel_size": [4, 4, 4], "offset": [1, 2]}, "offset"),
    ({"voxel_size": [4, 4, 4], "offset": ["a", 0, 0]}, "offset"),
    ({"voxel_size": [4, 4, 4], "units": [1, 2, 3]}, "not the name of a unit"),
    ({"voxel_size": [-4, 4, 4]}, "voxel size"),
    ({"voxel_size": [float("inf"), 4, 4]}, "voxel size"),
    ({"dimension_units": ["4 nm", "4 nm"]}, "dimension_units"),
    ({"chunkinfer": {"voxel_size": {"z": "big"}}}, "cannot be understood"),
]


@pytest.mark.parametrize(("attributes", "match"), UNREAD)
def test_attributes_that_cannot_be_meant(tmp_path: Path, attributes: dict[str, Any], match: str) -> None:
    with pytest.raises(SourceError, match=match):
        open_source(v3(tmp_path / "a", **attributes))


def test_a_size_of_nothing_is_unknown(tmp_path: Path) -> None:
    source = open_source(v3(tmp_path / "a", resolution=[0, 0, 0], units="nm"))
    assert (source.voxel_size["z"], source.unit) == (1.0, "")
