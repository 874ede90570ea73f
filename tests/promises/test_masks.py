"""Masks at any resolution: which voxels of a result are wanted, against a search in fractions, voxel by voxel."""

from __future__ import annotations

import json
import pickle
from fractions import Fraction
from math import ceil, floor
from pathlib import Path
from typing import Any

import cloudpickle
import dask.array as da
import numpy as np
import pytest
import xarray as xr
import zarr
from hypothesis import assume, given
from hypothesis import strategies as st

import chunkinfer as ci
from chunkinfer.errors import VolumeError
from chunkinfer.geometry.boxes import BlockGrid, Box
from chunkinfer.volumes.alignment import resolve_mask, whole_factor
from chunkinfer.volumes.arrays.create import ArraySpec, create
from chunkinfer.volumes.frame import Frame
from chunkinfer.volumes.masks import Mask
from chunkinfer.volumes.volume import as_volume

Array = np.ndarray[Any, Any]


def placed(data: Any, size: Any, origin: Any = 0, unit: str = "nm") -> xr.DataArray:
    """An array with coordinates; sizes and origins per axis or one for all."""
    dims = tuple("zyx"[-data.ndim :])
    sizes = dict(zip(dims, np.broadcast_to(size, data.ndim).tolist(), strict=True))
    starts = dict(zip(dims, np.broadcast_to(origin, data.ndim).tolist(), strict=True))
    return Frame(dims, sizes, starts, unit).label(data, dims, name="mask", attrs={})


def resolved(mask: Any, volume: Any, crop: Any = None, stride: Any = None, shape: Any = None) -> Mask:
    """A mask for the result of a network on a volume; by default on the same grid."""
    held = as_volume(volume)
    axes = len(held.frame.space)
    frame = held.frame.moved([float(c) for c in crop or (0,) * axes], [float(s) for s in stride or (1,) * axes])
    return resolve_mask(mask, held, frame, shape or held.space_shape)


def whole(mask: Mask, shape: tuple[int, ...]) -> Array:
    return mask(Box.of_shape(shape))


def some(shape: tuple[int, ...], seed: int = 0) -> Array:
    return np.random.default_rng(seed).random(shape) < 0.4


# ---------------------------------------------------------------------------------------------------------------------
# Against the oracle.


RATIOS = [Fraction(a, b) for a, b in [(1, 1), (2, 1), (3, 1), (4, 1), (16, 1), (1, 2), (1, 3), (1, 4), (8, 3), (3, 8),
                                      (7, 5), (5, 7), (250, 81)]]  # fmt: skip


@st.composite
def axes(draw: st.DrawFn) -> dict[str, Any]:
    """One axis: a volume, a network's output on it, and a mask that covers the output."""
    size = draw(st.sampled_from([Fraction(4), Fraction(40), Fraction(8, 3), Fraction(1, 3), Fraction("0.0081")]))
    # Floating-point coordinates tell fractions of a voxel near 0, and whole voxels far away.
    part = draw(st.sampled_from([Fraction(0), Fraction(1, 3), Fraction(-1, 7)]))
    n, origin = draw(st.integers(1, 24)), draw(st.integers(-50, 10**4 if part else 10**6))
    stride = draw(st.sampled_from([Fraction(1), Fraction(2), Fraction(3), Fraction(1, 2), Fraction(1, 3)]))
    crop = draw(st.integers(0, (n - 1) // 2))
    outputs = ceil((n - 2 * crop) / stride)
    ratio = draw(st.sampled_from(RATIOS))
    # Of the mask: an origin anywhere below the output, on its own grid or off it, and an end above.
    first = floor((origin + crop) / ratio - part) - draw(st.integers(0, 2)) + part
    last = ceil((origin + max(n, crop + outputs * stride)) / ratio) + draw(st.integers(0, 2))
    lead = first * ratio - origin
    assume(not (ratio > 1 and ratio.denominator == 1 and ratio % 2 == 0 and lead.denominator == 2))
    assume(lead != (ratio - 1) / 2 or ratio <= 1)
    return {
        "size": size, "n": n, "origin": origin, "stride": stride, "crop": crop, "outputs": outputs,
        "ratio": ratio, "first": first, "mask": ceil(last - first),
    }  # fmt: skip


def searched(axis: dict[str, Any]) -> list[int]:
    """The mask voxel of each output voxel, found by looking at every one of them."""
    found = []
    for i in range(axis["outputs"]):
        centre = (axis["origin"] + axis["crop"] + (i + Fraction(1, 2)) * axis["stride"]) * axis["size"]
        edges = [(axis["first"] + j) * axis["ratio"] * axis["size"] for j in range(axis["mask"] + 1)]
        found.append(next(j for j in range(axis["mask"]) if edges[j] <= centre < edges[j + 1]))
    return found


@given(st.lists(axes(), min_size=2, max_size=3), st.data())
def test_every_voxel_gets_the_mask_voxel_that_contains_its_centre(given_: list[dict[str, Any]], data: Any) -> None:
    def per_axis(key: str) -> list[Any]:
        return [axis[key] for axis in given_]

    values = some(tuple(per_axis("mask")))
    volume = placed(da.zeros(per_axis("n"), dtype="u1"), [float(s) for s in per_axis("size")], per_axis("origin"))
    mask = resolved(
        placed(values, [float(a["size"] * a["ratio"]) for a in given_], [float(f) for f in per_axis("first")]),
        volume, per_axis("crop"), per_axis("stride"), tuple(per_axis("outputs")),
    )  # fmt: skip
    expected = values[np.ix_(*map(searched, given_))]
    np.testing.assert_array_equal(whole(mask, expected.shape), expected)
    # Any box is the same part of it, and asks for no more of the mask than it needs.
    start = [data.draw(st.integers(0, n - 1)) for n in expected.shape]
    stop = [data.draw(st.integers(a + 1, n)) for a, n in zip(start, expected.shape, strict=True)]
    box = Box(tuple(start), tuple(stop))
    np.testing.assert_array_equal(mask(box), expected[box.slices])
    needed = [searched(axis)[a:b] for axis, a, b in zip(given_, start, stop, strict=True)]
    assert mask.seen(box) == Box(tuple(n[0] for n in needed), tuple(n[-1] + 1 for n in needed))


@given(
    st.lists(st.tuples(st.integers(1, 9), st.integers(1, 5)), min_size=2, max_size=3),
    st.sampled_from(["volume", "bare"]),
)
def test_an_array_without_coordinates_is_a_volume_reduced_by_whole_factors(
    cells: list[tuple[int, int]], kind: str
) -> None:
    values = some(tuple(n for n, _ in cells))
    expected = values
    for axis, (_, factor) in enumerate(cells):
        expected = np.repeat(expected, factor, axis)
    zeros = da.zeros(expected.shape, dtype="u1")
    volume = placed(zeros, 8 / 3, 7) if kind == "volume" else zeros
    np.testing.assert_array_equal(whole(resolved(values, volume), expected.shape), expected)


@given(st.integers(1, 60), st.integers(1, 60))
def test_a_whole_factor_is_certain_or_not_taken(voxels: int, n: int) -> None:
    kept = [f for f in range(1, voxels + 1) if ceil(voxels / f) == n]
    dropped = [f for f in range(1, voxels + 1) if voxels // f == n]
    if voxels % n == 0:
        assert whole_factor(voxels, n) == voxels // n
    elif kept and {*kept, *dropped} == {kept[0]}:
        assert whole_factor(voxels, n) == kept[0]
    else:
        assert whole_factor(voxels, n) is None


# ---------------------------------------------------------------------------------------------------------------------
# Kinds of mask.


def test_a_fine_mask_speaks_for_the_voxel_above_the_centre_of_a_coarse_one() -> None:
    values = np.arange(16) % 4 == 2  # the centre of [0, 4) is the lower face of its third voxel
    mask = resolved(placed(values[None].repeat(4, 0), [4, 1]), placed(da.zeros((4, 4)), 4))
    assert whole(mask, (4, 4)).all()


def test_a_stored_mask_travels_small_and_reads_what_it_needs(tmp_path: Path) -> None:
    values = some((8, 8, 8))
    volume = placed(da.zeros((30, 32, 64), dtype="u1"), (40, 4, 4), (3, 8, -16))
    size = (160, 16, 32)
    ci.save(placed(da.from_array(values), size, (0, 2, -2)).astype("u1"), tmp_path / "mask.zarr", progress=False)
    expected = values.repeat(4, 0).repeat(4, 1).repeat(8, 2)[3:][:30]
    volume = volume.isel(z=slice(0, 29))
    for mask in (str(tmp_path / "mask.zarr"), tmp_path / "mask.zarr", ci.open_volume(tmp_path / "mask.zarr")):
        found = resolved(mask, volume)
        np.testing.assert_array_equal(whole(found, (29, 32, 64)), expected)
        assert len(pickle.dumps(found)) < 4000
        again = pickle.loads(pickle.dumps(found))
        np.testing.assert_array_equal(whole(again, (29, 32, 64)), expected)
        about = json.loads(json.dumps(found.about()))
        assert about == again.about()
        assert about["source"]["url"].endswith("mask.zarr")
        assert about["source"]["digest"]


def test_only_the_part_under_a_box_is_read(tmp_path: Path) -> None:
    # Stored without most of its chunks: reading one of those is an error.
    target = create(
        tmp_path / "mask.zarr",
        ArraySpec(
            shape=(64, 64),
            dtype="u1",
            dims="yx",
            chunks=(8, 8),
            unit="nm",
            voxel_size={"y": 8, "x": 8},
            offset={"y": 0, "x": 0},
        ),
    )
    target.write(np.s_[8:16, 16:24], np.eye(8, dtype="u1"))
    mask = resolved(str(tmp_path / "mask.zarr"), placed(da.zeros((512, 512)), 1))
    np.testing.assert_array_equal(mask(Box((64, 128), (128, 192))), np.eye(8, dtype=bool).repeat(8, 0).repeat(8, 1))
    with pytest.raises(ci.errors.MissingChunk):
        mask(Box((63, 128), (128, 192)))


@pytest.mark.parametrize("dtype", ["bool", "u1", "i8", "f4", "f2"])
@pytest.mark.parametrize("kind", ["numpy", "dask", "zarr", "DataArray", "one channel", "bare DataArray"])
def test_kinds(kind: str, dtype: str) -> None:
    expected = some((6, 7, 8))
    values = (expected * 3).astype(dtype)
    mask = {
        "numpy": lambda: values,
        "dask": lambda: da.from_array(values, chunks=3) * 1,
        "zarr": lambda: zarr.array(values),
        "DataArray": lambda: placed(values, 4),
        "one channel": lambda: values[None],
        "bare DataArray": lambda: xr.DataArray(values, dims=("z", "y", "x")).transpose("x", "y", "z"),
    }[kind]()
    found = resolved(mask, placed(da.zeros((6, 7, 8)), 4))
    for one in (found, cloudpickle.loads(cloudpickle.dumps(found))):
        np.testing.assert_array_equal(whole(one, (6, 7, 8)), expected)
    assert whole(found, (6, 7, 8)).dtype == bool
    assert json.loads(json.dumps(found.about()))


def test_negative_and_fractional_values_are_wanted() -> None:
    values = np.array([[0.0, -0.0, -1.0, 0.25, np.inf]])
    assert whole(resolved(values, np.zeros((1, 5))), (1, 5)).tolist() == [[False, False, True, True, True]]


def test_about_tells_masks_apart() -> None:
    volume, values = placed(da.zeros((8, 8)), 4), some((4, 4))
    about = {
        name: json.dumps(resolved(mask, volume).about())
        for name, mask in {
            "this": placed(values, 8), "moved": placed(np.pad(values, 1), 8, -1), "other": placed(~values, 8),
        }.items()
    }  # fmt: skip
    assert len({*about.values()}) == 3
    assert json.dumps(resolved(placed(values.copy(), 8), volume).about()) == about["this"]


def test_units_are_converted_where_both_are_stated() -> None:
    values = some((4, 4))
    volume = placed(da.zeros((16, 16)), 4)
    expected = values.repeat(4, 0).repeat(4, 1)
    for size, unit in ((16, "nm"), (0.016, "um"), (1.6e-5, "mm"), (160, "angstrom"), (0.016, "micrometer"), (16, "")):
        np.testing.assert_array_equal(whole(resolved(placed(values, size, unit=unit), volume), (16, 16)), expected)
    with pytest.raises(VolumeError, match="'furlong' is not a known length"):
        resolved(placed(values, 16, unit="furlong"), volume)


def test_an_unlabelled_volume_starts_at_0_with_voxels_of_1() -> None:
    values = some((4, 6))
    mask = resolved(placed(values, 2, -1, unit=""), np.zeros((6, 8)))
    np.testing.assert_array_equal(whole(mask, (6, 8)), values.repeat(2, 0).repeat(2, 1)[2:, 2:10])


def test_outputs_beyond_their_volume_take_the_nearest_voxel() -> None:
    # 5 voxels at stride 4 give 2, and the second is centred at 6: past the end, as far padding is.
    values = np.array([[0, 0, 0, 0, 1], [0, 0, 1, 0, 0]], bool).repeat([4, 1], 0)
    for mask in (values, placed(values, 1, unit="")):
        found = resolved(mask, np.zeros((5, 5)), stride=(4, 4), shape=(2, 2))
        assert whole(found, (2, 2)).tolist() == [[False, True], [True, False]]


def test_voxels_of_nanometres_under_a_mask_of_centimetres() -> None:
    # The second voxel of the mask begins at 7 mm, a third into voxel 2333333 of the volume.
    volume = placed(da.zeros((1, 20)), 3, (0, 2333333 - 9))
    mask = placed(np.array([[False, True]]), 0.7, unit="cm")
    assert whole(resolved(mask, volume), (1, 20)).tolist() == [[False] * 9 + [True] * 11]


def test_blocks_put_together_are_the_whole() -> None:
    mask = resolved(placed(some((9, 10, 13)), 8 / 3 * 4, -1), placed(da.zeros((20, 24, 30)), 4))
    grid = BlockGrid.regular((20, 24, 30), (7, 10, 16))
    expected = whole(mask, grid.shape)
    for index in grid.indices():
        box = grid.box(index)
        np.testing.assert_array_equal(mask(box), expected[box.slices])


# ---------------------------------------------------------------------------------------------------------------------
# Refused.


def run(line: str, **names: Any) -> Any:
    """A line to paste, as a user would run it."""
    return eval(line, {"numpy": np, "xarray": xr, "chunkinfer": ci, **names})


def line_of(error: VolumeError, way: int = 0) -> str:
    return error.ways[way].partition(": ")[2].removeprefix("mask=")


@pytest.mark.parametrize("dtype", ["bool", "u1", "f4"])
@pytest.mark.parametrize(("size", "origin"), [(16.0, 1), (8 / 3, 4), (64.0, 0.25), (12.0, 2)])
def test_a_mask_that_does_not_cover_the_output(size: float, origin: float, dtype: str) -> None:
    volume = placed(da.zeros((40, 40)), 4, 2)
    values = some((5, 5)).astype(dtype)
    mask = placed(values, size, origin)
    with pytest.raises(VolumeError, match=r"does not cover the output along y, x: .*the output over y \[8, 168\)") as e:
        resolved(mask, volume)
    # Both lines do what they say.
    wider = run(line_of(e.value), mask=mask)
    found = whole(resolved(wider, volume), (40, 40))
    inner = run(line_of(e.value, 1), volume=volume)
    np.testing.assert_array_equal(
        whole(resolved(mask, inner), inner.shape), found[np.ix_(*(volume[d].isin(inner[d]) for d in "yx"))]
    )
    low, high = origin * size, (origin + 5) * size
    inside = [low <= 8 + (i + 0.5) * 4 < high for i in range(40)]
    assert not found[~np.array(inside)].any()
    assert found.any()


def test_a_mask_covers_more_than_the_output_or_its_last_voxel_reaches_beyond() -> None:
    volume = placed(da.zeros((10, 10)), 4)
    assert whole(resolved(placed(np.ones((2, 2)), 24), volume), (10, 10)).all()
    with pytest.raises(VolumeError, match="along x: the mask reaches over y \\[0, 48\\) x \\[0, 36\\) nm"):
        resolved(placed(np.ones((2, 3)), (24, 12)), volume)
    # Valid-padded networks need less than the volume.
    assert whole(resolved(placed(np.ones((2, 1)), 12, 1), volume, (3, 3), shape=(4, 2)), (4, 2)).all()


def test_a_mask_somewhere_else() -> None:
    volume = placed(da.zeros((10, 10)), 4)
    with pytest.raises(VolumeError, match="does not cover") as caught:
        resolved(placed(np.ones((10, 10)), 4, 100), volume)
    assert "open_volume" in caught.value.ways[0]
    with pytest.raises(VolumeError, match="does not cover"):  # a unit mistaken, ten million times finer
        resolved(placed(np.ones((10, 10)), 4), placed(da.zeros((10, 10)), 4, unit="cm"))
    with pytest.raises(VolumeError, match="states no voxel size"):
        resolved(placed(np.ones((10, 10)), 1, unit=""), volume)


@pytest.mark.parametrize("factor", [2, 3, 4, 5])
def test_centres_for_coordinates(factor: int) -> None:
    shape = (4 * factor, 4 * factor)
    volume = placed(some(shape), 4, 2 * factor)
    coarsened = volume.astype("u1").coarsen(y=factor, x=factor).max()
    with pytest.raises(VolumeError, match="centres of voxels, as xarray's coarsen") as caught:
        resolved(coarsened, volume)
    corners = volume.astype("u1").coarsen(y=factor, x=factor, coord_func="min").max()
    moved = run(line_of(caught.value), mask=coarsened)
    expected = corners.values.repeat(factor, 0).repeat(factor, 1) > 0
    for mask in (corners, moved):
        np.testing.assert_array_equal(whole(resolved(mask, volume), shape), expected)


@pytest.mark.parametrize(
    ("shape", "of"),
    [
        ((12, 25), (100, 100)),  # 9 with a partial voxel kept, 8 with it dropped
        ((14, 25), (100, 100)),  # 7 with it dropped; none with it kept
        ((101, 100), (100, 100)),  # finer
        ((200, 200), (100, 100)),  # finer by a whole factor: not said which way
    ],
)
@pytest.mark.parametrize("origin", [0, 3])
def test_shapes_that_do_not_tell_a_factor(shape: tuple[int, int], of: tuple[int, int], origin: int) -> None:
    volume = placed(da.zeros(of), 4, origin)
    with pytest.raises(
        VolumeError, match=f"no one whole factor reduces the volume's 100 voxels along y to {shape[0]}"
    ) as e:
        resolved(np.ones(shape), volume)
    stated = run(line_of(e.value), mask=np.ones(shape))
    assert stated.dims == ("y", "x")
    assert float(stated.y[0]) == origin * 4
    assert as_volume(stated).frame.voxel_size["x"] > 0


def test_nan_is_no_answer() -> None:
    values = np.ones((8, 8), "f4")
    values[6, 6] = np.nan
    mask = resolved(values, np.zeros((8, 8)))
    assert mask(Box((0, 0), (6, 8))).all()
    with pytest.raises(VolumeError, match=r"NaN somewhere in its voxels \[4:8, 4:8\]"):
        mask(Box((4, 4), (8, 8)))


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (np.ones((3, 8, 8, 8)), "3 entries along c"),
        (xr.DataArray(np.ones((8, 8)), dims=("y", "x")), "spatial axes are .'y', 'x'"),
        (np.ones((8, 8)), "mask= cannot be used. An array of 2 axes"),
        (np.ones((8, 8, 8), complex), "mask= cannot be used. A volume of dtype complex128"),
        (xr.DataArray(np.ones((8, 8, 8)), dims=("a", "y", "x")), "'a' is not one of"),
        ([[[1]]], "mask= cannot be used. A list is no volume"),
    ],
)
def test_what_is_no_mask(mask: Any, words: str) -> None:
    with pytest.raises(VolumeError, match=words) as caught:
        resolved(mask, placed(da.zeros((8, 8, 8)), 4))
    assert len(caught.value.ways) >= 2


def test_a_mask_with_an_axis_more() -> None:
    with pytest.raises(VolumeError, match=r"mask\.isel\(z=0\)"):
        resolved(placed(np.ones((1, 8, 8)), 4), placed(da.zeros((8, 8)), 4))


def test_a_networks_output_is_stored_first() -> None:
    import torch

    volume = placed(da.zeros((8, 8, 8), dtype="f4", chunks=8), 4)
    scores = ci.infer(volume, torch.nn.Conv3d(1, 1, 1))
    with pytest.raises(VolumeError, match="a network's output that is not stored"):
        resolved(scores > 0, volume)
    assert resolved((scores > 0).compute(), volume).about()
