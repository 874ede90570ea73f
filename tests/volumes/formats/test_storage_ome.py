"""OME-Zarr of every version: versions, coordinate systems (RFC-5), levels that do not say where they are."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chunkinfer.errors import DestinationError, SourceError
from chunkinfer.volumes.arrays.levels import open_image
from chunkinfer.volumes.arrays.open import open_source

zarr = pytest.importorskip("zarr")

AXES = [{"name": dim, "type": "space", "unit": "micrometer"} for dim in "zyx"]
SCALE = {"type": "scale", "scale": [4, 3, 2]}
SHIFT = {"type": "translation", "translation": [32, 21, 10]}


def group(folder: Path, block: dict[str, Any], shapes: tuple[tuple[int, ...], ...] = ((4, 6, 8),)) -> Path:
    """A group of version 3 with arrays 0, 1, ... that hold their number."""
    root = zarr.open_group(str(folder), mode="w")
    for number, shape in enumerate(shapes):
        root.create_array(str(number), shape=shape, dtype="u1", chunks=shape)[...] = number + 1
    root.attrs.update(block)
    return folder


def image(*levels: list[dict[str, Any]] | None, **more: Any) -> dict[str, Any]:
    """An image with a list of transformations for each level; None for none."""
    datasets = [
        {"path": str(i), **({} if steps is None else {"coordinateTransformations": steps})}
        for i, steps in enumerate(levels)
    ]
    return {"axes": AXES, "datasets": datasets, **more}


def versioned(version: Any, **made: Any) -> dict[str, Any]:
    return {"ome": {"version": version, "multiscales": [made]}}


@pytest.mark.parametrize("version", ["0.7", "1.0", "0.60", "latest", 5, "0.4.1.2", ""])
@pytest.mark.parametrize("inside", [True, False], ids=["ome", "multiscales"])
def test_versions_that_are_not_known(tmp_path: Path, version: Any, inside: bool) -> None:
    made = image([SCALE])
    block = versioned(version, **made) if inside else {"multiscales": [{"version": version, **made}]}
    folder = group(tmp_path / "o", block)
    with pytest.raises(SourceError, match=re.escape(f"version {version!r}")):
        open_source(folder)
    assert open_source(folder, array="0").shape == (4, 6, 8)  # as advised


@pytest.mark.parametrize("version", ["0.1", "0.4", "0.5", "0.5-dev", "0.6.dev3", "0.6rc0", "0.6-dev1"])
def test_versions_that_are_known(tmp_path: Path, version: str) -> None:
    assert open_source(group(tmp_path / "o", versioned(version, **image([SCALE])))).voxel_size["z"] == 4


# From version 0.6 on

SYSTEM = {"name": "physical", "axes": AXES}
WORLD = {"name": "world", "axes": AXES}
ENDS = {"input": "0", "output": "physical"}
SEQUENCE = {"type": "sequence", **ENDS, "transformations": [SCALE, SHIFT]}
TO_WORLD = {"type": "affine", "input": "physical", "output": "world", "affine": [[0, 1, 0, 0]] * 3}


def systems(step: dict[str, Any], *others: dict[str, Any], **more: Any) -> dict[str, Any]:
    datasets = [{"path": "0", "coordinateTransformations": [step]}]
    return versioned("0.6", coordinateSystems=[*others, SYSTEM], datasets=datasets, **more)


INTRINSIC = [
    (systems({**SCALE, **ENDS}), (4.0, 0), "scale"),
    (systems(SEQUENCE), (4.0, 8), "sequence"),
    (systems({"type": "identity", **ENDS}), (1.0, 0), "identity"),
    (systems({**SEQUENCE, "transformations": []}), (1.0, 0), "a sequence of nothing"),
    (systems({"type": "translation", "translation": [32, 21, 10], **ENDS}), (1.0, 32), "translation"),
    (systems({**SCALE, "input": {"path": "0"}, "output": {"name": "physical"}}), (4.0, 0), "ends with paths"),
    (systems(SCALE), (4.0, 0), "ends left out"),
    (systems(SEQUENCE, WORLD, coordinateTransformations=[TO_WORLD]), (4.0, 8), "another system beside"),
    (systems({**SCALE, "input": "0", "output": "world"}, WORLD), (4.0, 0), "the one that levels lead to"),
]


@pytest.mark.parametrize(("block", "expected", "why"), INTRINSIC)
def test_places_in_the_intrinsic_system(tmp_path: Path, block: dict[str, Any], expected: Any, why: str) -> None:
    source = open_source(group(tmp_path / "o", block))
    assert (source.dims, source.unit) == (("z", "y", "x"), "um")
    assert (source.voxel_size["z"], source.offset["z"]) == expected


def test_axes_come_from_the_system(tmp_path: Path) -> None:
    axes = [{"name": "t", "type": "time", "unit": "second"}, *AXES[1:]]
    block = systems({**SCALE, **ENDS})
    block["ome"]["multiscales"][0]["coordinateSystems"] = [{"name": "physical", "axes": axes}]
    source = open_source(group(tmp_path / "o", block))
    assert (source.dims, source.voxel_size, source.unit) == (("t", "y", "x"), {"y": 3.0, "x": 2.0}, "um")


REFUSED = [
    (systems({"type": "rotation", "rotation": [[0, 1, 0]] * 3, **ENDS}), "'rotation'"),
    (systems({"type": "affine", "affine": [[1, 0, 0, 0]] * 3, **ENDS}), "'affine'"),
    (systems({"type": "displacements", "path": "field", **ENDS}), "'displacements'"),
    (systems({"type": "mapAxis", "mapAxis": [2, 1, 0], **ENDS}), "'mapAxis'"),
    (systems({"type": "byDimension", "transformations": [], **ENDS}), "'byDimension'"),
    (systems({"type": "scale", "path": "scales", **ENDS}), "'scale'"),
    (systems({**SEQUENCE, "transformations": [SEQUENCE]}), "'sequence'"),
    (systems({**SEQUENCE, "transformations": [SCALE, {"type": "affine", "affine": []}]}), "'affine'"),
    (systems({"type": "sequence", **ENDS}), "without a list"),
    (systems({**SCALE, "input": "0", "output": "nowhere"}), "nowhere"),
    (systems({**SCALE, "input": "1", "output": "physical"}), "begins at '1'"),
    (systems(SCALE, coordinateTransformations=[SCALE]), "another system"),
    (versioned("0.6", coordinateSystems=[SYSTEM], datasets=[{"path": "0"}]), "exactly one"),
    (versioned("0.6", coordinateSystems=[], datasets=[{"path": "0"}]), "exactly one|cannot be understood"),
]


@pytest.mark.parametrize(("block", "match"), REFUSED)
def test_what_does_not_lead_there_upright(tmp_path: Path, block: dict[str, Any], match: str) -> None:
    folder = group(tmp_path / "o", block)
    with pytest.raises(SourceError, match=match):
        open_source(folder)
    assert open_source(folder, array="0").voxel_size["z"] == 1  # as advised: without a place


def test_levels_are_not_added_to_systems(tmp_path: Path) -> None:
    with pytest.raises(DestinationError, match="coordinate systems"):
        open_image(group(tmp_path / "o", systems(SEQUENCE)))


@pytest.mark.parametrize(("version", "named"), [("0.5", True), ("0.4", True), ("0.2", False), (None, False)])
def test_axes_that_are_not_named(tmp_path: Path, version: Any, named: bool) -> None:
    made = {name: value for name, value in image([SCALE]).items() if name != "axes"}
    folder = group(tmp_path / "o", {"multiscales": [{"version": version, **made}]})
    if named:
        with pytest.raises(SourceError, match="axes are not named"):
            open_source(folder)
    else:
        assert open_source(folder).dims == ("z", "y", "x")  # older versions have no names


def test_an_axis_that_contradicts_itself(tmp_path: Path) -> None:
    axes = [{"name": "z", "type": "time"}, *AXES[1:]]
    with pytest.raises(SourceError, match="named 'z' and has the type 'time'"):
        open_source(group(tmp_path / "o", versioned("0.5", **{**image([SCALE]), "axes": axes})))


# Levels that do not say where they are

SHAPES = [
    ((8, 10, 13), (8, 5, 7), (1, 2, 2)),  # the last cell is cut
    ((8, 10, 13), (8, 5, 6), (1, 2, 2)),  # or left out
    ((8, 12, 16), (8, 4, 4), (1, 3, 4)),  # cells of 3 and of 4
    ((5, 16, 16), (2, 8, 8), (2, 2, 2)),  # 5 in 2 are cells of 2, 3 or 4: as the other axes say
]


@pytest.mark.parametrize(("finest", "shape", "times"), SHAPES)
@pytest.mark.parametrize("placed", [True, False])
def test_a_level_without_a_place(tmp_path: Path, finest: Any, shape: Any, times: Any, placed: bool) -> None:
    made = image([SCALE, SHIFT], None) if placed else image(None, None)
    folder = group(tmp_path / "o", versioned("0.5", **made), (finest, shape))
    fine, coarse = open_source(folder), open_source(folder, level=1)
    for dim, factor in zip("zyx", times, strict=True):
        assert coarse.voxel_size[dim] == factor * fine.voxel_size[dim]
        assert coarse.offset[dim] * coarse.voxel_size[dim] == fine.offset[dim] * fine.voxel_size[dim]
    assert fine.unit == coarse.unit == ("um" if placed else "")  # 1 um would be a size that nobody stated
    assert (coarse[...] == 2).all()


@pytest.mark.parametrize(
    ("finest", "shape"), [((8, 10, 12), (8, 7, 9)), ((5, 16, 18), (2, 4, 6)), ((4, 4, 4), (8, 8, 8))]
)
def test_a_level_whose_size_is_not_known(tmp_path: Path, finest: Any, shape: Any) -> None:
    folder = group(tmp_path / "o", versioned("0.5", **image([SCALE], None)), (finest, shape))
    with pytest.raises(SourceError, match="does not say how large its voxels are"):
        open_source(folder, level=1)
    np.testing.assert_array_equal(open_source(folder, array="1")[...], np.full(shape, 2))  # as advised
