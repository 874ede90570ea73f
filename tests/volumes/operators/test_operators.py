"""Operators as people use them: what is read, where the voxels are, what is refused, what comes before and after."""

from __future__ import annotations

import inspect
import pickle
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr
from distributed import Client, LocalCluster
from distributed.diagnostics.plugin import SchedulerPlugin
from scipy import ndimage

import chunkinfer as ci
from chunkinfer import operators as op
from chunkinfer.errors import DestinationError, OutputError, PlanError, VolumeError
from chunkinfer.runs.schedule import runner
from chunkinfer.volumes.arrays.source import Bounds, Source
from chunkinfer.volumes.derived import Derived
from chunkinfer.volumes.lazy import must_exchange, origin_of
from tests.lib.operators.oracles import Array, same, voxels
from tests.lib.probes import convolution

SHAPE = (24, 40, 36)


@pytest.fixture(scope="module")
def em(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Array]:
    """URL of a stored volume with a place of its own, and its voxels."""
    values = voxels("u1", SHAPE, 0)
    sizes = {"z": 40.0, "y": 4.0, "x": 4.0}
    coords = {d: (np.arange(n) + 10) * sizes[d] for d, n in zip("zyx", SHAPE, strict=True)}
    volume = xr.DataArray(values, dims=tuple("zyx"), coords=coords, attrs={"unit": "nm"})
    url = str(tmp_path_factory.mktemp("em") / "em.zarr")
    ci.save(volume, url, chunks=(8, 8, 8), shards=False, progress=False)
    return url, values


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Bounds]]:
    """The boxes that are read of stored arrays in this process."""
    seen: list[Bounds] = []
    read = Source._read

    def spy(self: Source, bounds: Bounds) -> Array:
        if all(b > a for a, b in bounds):
            seen.append(bounds)
        return read(self, bounds)

    monkeypatch.setattr(Source, "_read", spy)
    return seen


# ---- what is read, and by how many tasks ----------------------------------------------------------------------------


def test_a_chain_reads_each_haloed_box_once(em: tuple[str, Array], reads: list[Bounds], tmp_path: Path) -> None:
    url, values = em
    chain = op.normalize(op.median(op.gaussian(ci.open_volume(url), (0, 1, 0.5)), (3, 1, 3)), range=(20, 200))
    ci.save(chain, tmp_path / "out.zarr", chunks=(12, 20, 18), shards=(12, 20, 18), progress=False)
    halo = (1, 4, 3)  # of median and Gaussian together
    report = {tuple(zip(*bounds, strict=True)) for bounds in reads}
    grid = [(z, y, x) for z in range(0, 24, 12) for y in range(0, 40, 20) for x in range(0, 36, 18)]
    boxes = {
        (
            tuple(max(0, a - h) for a, h in zip(corner, halo, strict=True)),
            tuple(min(n, a + b + h) for a, b, h, n in zip(corner, (12, 20, 18), halo, SHAPE, strict=True)),
        )
        for corner in grid
    }
    assert report == boxes
    assert len(reads) == len(grid) == 8
    smooth = ndimage.gaussian_filter(values.astype("f4"), (0, 1, 0.5), mode="nearest")
    middle = ndimage.median_filter(smooth, (3, 1, 3), mode="nearest")
    expected = np.clip((middle - np.float32(20)) / np.float32(180), 0, 1)
    same(ci.open_volume(tmp_path / "out.zarr").values, expected)


@pytest.mark.parametrize("fused", [False, True])
def test_a_saved_chain_is_one_task_per_block(
    em: tuple[str, Array], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fused: bool
) -> None:
    monkeypatch.setattr(runner, "TASK_SECONDS", 0.0)  # no block is so quick that it shares a task
    if fused:
        monkeypatch.setattr("chunkinfer.api.save.WORTH_A_TASK", 1)  # the lazy chunks are the blocks
    volume = ci.open_volume(em[0], chunks=(8, 8, 8))
    chain = op.quantize(op.normalize(op.gaussian(volume, 1), range=(0, 255)))
    received = Received()
    with (
        LocalCluster(processes=False, n_workers=1, dashboard_address="127.0.0.1:0") as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        cluster.scheduler.add_plugin(received)
        report = ci.save(chain, tmp_path / "o.zarr", chunks=(8, 8, 8), shards=False, progress=False, client=client)
    assert len([key for key in received.keys if "save-" in key]) == report.blocks == 3 * 5 * 5
    assert len(received.keys) <= report.blocks + 4


class Received(SchedulerPlugin):
    """The keys of all tasks that a scheduler receives."""

    name = "received"

    def __init__(self) -> None:
        self.keys: list[str] = []

    def transition(self, key: Any, start: str, finish: str, *args: Any, **kwargs: Any) -> None:
        if start == "released" and finish in ("waiting", "processing", "queued", "no-worker"):
            self.keys.append(str(key))


def test_channels_read_only_what_is_chosen(tmp_path: Path, reads: list[Bounds]) -> None:
    ci.save(voxels("u1", (6, 8, 8, 8), 0), tmp_path / "a.zarr", chunks=(1, 8, 8, 8), shards=False, progress=False)
    op.channels(ci.open_volume(tmp_path / "a.zarr"), [4, 2]).compute()
    assert reads == [((2, 5), (0, 8), (0, 8), (0, 8))]


def test_a_crop_reads_nothing_else(em: tuple[str, Array], reads: list[Bounds]) -> None:
    part = op.invert(op.crop(ci.open_volume(em[0]), {"z": slice(5, 9), "x": slice(30, 36)}))
    same(part.values, 255 - em[1][5:9, :, 30:])
    assert reads == [((5, 9), (0, 40), (30, 36))]


def test_what_would_read_everything_for_each_block_is_refused(em: tuple[str, Array]) -> None:
    volume = ci.open_volume(em[0], chunks=(4, 4, 4))
    with pytest.raises(PlanError, match="times the voxels"):
        op.gaussian(volume - volume.mean(), 1)


def test_nothing_is_read_before_it_is_asked_for(em: tuple[str, Array], reads: list[Bounds]) -> None:
    volume = ci.open_volume(em[0])
    op.downsample(op.mask(op.clahe(volume), volume), 2)
    assert not reads


# ---- tokens ---------------------------------------------------------------------------------------------------------

NAMES = """
import sys, numpy as np, chunkinfer as ci
from chunkinfer import operators as op
v = ci.open_volume(sys.argv[1])
chain = op.maskout(op.mask(op.median(op.gaussian(v, 1), 3), v), np.arange(34560).reshape(24, 40, 36), remove=[3])
name = op.combine(op.apply(chain, np.sqrt, dtype="f4"), v, np.hypot).data.name
"""


@pytest.mark.slow
@pytest.mark.smoke
def test_names_are_the_same_in_every_process(em: tuple[str, Array], monkeypatch: pytest.MonkeyPatch) -> None:
    run = [sys.executable, "-c", NAMES + "print(name)", em[0]]
    there = subprocess.run(run, capture_output=True, text=True, check=True).stdout.strip()
    here: dict[str, Any] = {}
    monkeypatch.setattr(sys, "argv", ["", em[0]])
    exec(NAMES, here)
    assert here["name"] == there
    assert there.startswith("volume-")


def test_a_chain_travels(em: tuple[str, Array]) -> None:
    volume = ci.open_volume(em[0])
    derived = origin_of(op.mask(op.median(op.gaussian(volume, 1), 3), volume).data)
    data = pickle.dumps(derived)
    assert len(data) < 10_000
    same(pickle.loads(data)[3:9, :5], derived[3:9, :5])


def test_names_differ_where_results_do() -> None:
    values = voxels("u1", (9, 9, 9), 0)
    made = [op.crop(values, (slice(0, n),)) for n in (6, 7, 8)]
    made += [op.pad(values, {"z": (0, n)}) for n in (1, 2)]
    made += [op.cast(values, "u2"), op.cast(values, "u4"), op.gaussian(values, 1), op.gaussian(values, 2)]
    made += [op.threshold(values, 3), op.threshold(values, 4), op.multiply(values, 2), op.multiply(values, 2.0)]
    blocks = op.rechunk(values, 4)
    made += [op.crop(blocks, (slice(0, n),)) for n in (6, 7, 8)]  # of equal chunks
    assert len({array.name for array in made}) == len(made)


def test_a_run_goes_on_where_it_ended(em: tuple[str, Array], tmp_path: Path) -> None:
    def run() -> Any:
        chain = op.gaussian(op.normalize(ci.open_volume(em[0]), range=(0, 255)), 1)
        return ci.save(chain, tmp_path / "out.zarr", chunks=(12, 20, 18), shards=False, progress=False)

    assert run().computed > 0
    assert run().computed == 0


@pytest.mark.parametrize("role", ["volume", "other", "mask", "mask of a network's output"])
def test_a_destination_that_is_read_is_refused(em: tuple[str, Array], role: str) -> None:
    url, values = em
    stored = ci.open_volume(url)
    chain = {
        "volume": lambda: op.threshold(op.gaussian(stored, 1), 3),
        "other": lambda: op.multiply(values, stored),
        "mask": lambda: op.mask(values, stored.data),
        "mask of a network's output": lambda: op.mask(ci.infer(values, convolution(), patch=16, block=14), stored.data),
    }[role]()
    with pytest.raises(DestinationError, match="is what this run reads"):
        ci.save(chain, url, progress=False, overwrite=True)


# ---- before and after a network -------------------------------------------------------------------------------------


def test_a_network_sees_what_operators_make(em: tuple[str, Array], tmp_path: Path) -> None:
    url, _ = em
    net, settings = convolution(2), {"patch": 14, "block": 12}
    clean = op.normalize(op.gaussian(ci.open_volume(url), 0.5), percentile=(2, 98))
    with dask.config.set(scheduler="synchronous"):
        eager = clean.values
        expected = ci.infer(eager, net, **settings).compute()
        found = ci.infer(clean, net, **settings)
        same(found.values, expected)
    stored = ci.save(op.quantize(found), tmp_path / "out.zarr", progress=False)
    same(ci.open_volume(tmp_path / "out.zarr").values, np.rint(np.clip(expected, 0, 1) * np.float32(255)).astype("u1"))
    assert stored.blocks == 2 * 4 * 3
    assert ci.open_volume(tmp_path / "out.zarr").coords["z"].values[0] == 400


def test_an_unlabelled_output_of_a_plane_network_has_channels() -> None:
    from torch import nn

    image = voxels("u1", (30, 28), 0)
    lazy = ci.infer(image, nn.Conv2d(1, 3, 3, padding=1).eval(), patch=16, block=14)
    with dask.config.set(scheduler="synchronous"):
        whole = lazy.compute()
        same(op.argmax(lazy).compute(), whole.argmax(0).astype("u1"))
        same(op.gaussian(lazy, 1).compute(), ndimage.gaussian_filter(whole, (0, 1, 1), mode="nearest"))


def test_percentiles_of_a_network_are_refused() -> None:
    lazy = ci.infer(voxels("u1", (20, 20, 20), 0), convolution(), patch=12, block=10)
    with pytest.raises(VolumeError, match="would run the network"):
        op.normalize(lazy)


# ---- percentiles ----------------------------------------------------------------------------------------------------


def test_percentiles_of_wide_types_are_a_bin_from_exact() -> None:
    values = np.random.default_rng(0).normal(5, 100, (20, 30, 30))
    values[0, 0, :3] = np.nan, np.inf, -np.inf
    finite = values[np.isfinite(values)]
    low, high = np.percentile(finite, (1, 99), method="inverted_cdf")
    found = op.normalize(values, percentile=(1, 99)).compute()
    inside = np.isfinite(values) & (values > low) & (values < high)
    bins = 3 * (finite.max() - finite.min()) / 2**16 / (high - low)
    np.testing.assert_allclose(found[inside], ((values - low) / (high - low))[inside], atol=bins)
    assert np.isnan(found[0, 0, 0])
    assert found[0, 0, 1:3].tolist() == [1, 0]


def test_a_constant_volume_has_no_contrast() -> None:
    assert not op.normalize(np.full((4, 4, 4), 7, "u1")).compute().any()
    assert not op.normalize(np.full((4, 4, 4), 7.5, "f4"), sections=True).compute().any()
    with pytest.raises(VolumeError, match="no finite voxel"):
        op.normalize(np.full((4, 4, 4), np.nan, "f4"))


# ---- where voxels are -----------------------------------------------------------------------------------------------


def labelled(values: Array, channel: list[str] | None = None) -> xr.DataArray:
    dims = ("c", "z", "y", "x")[-values.ndim :]
    sizes = {"z": 40.0, "y": 4.0, "x": 4.0}
    coords: dict[str, Any] = {d: (np.arange(values.shape[dims.index(d)]) + 3) * sizes[d] for d in "zyx"}
    if channel is not None:
        coords["c"] = channel
    return xr.DataArray(values, dims=dims, coords=coords, attrs={"unit": "nm"}, name="em")


def place(volume: xr.DataArray) -> dict[str, tuple[float, float]]:
    """Voxel size, and the position of the first voxel's lower corner."""
    return {d: (float(volume[d][1] - volume[d][0]), float(volume[d][0])) for d in "zyx"}


@pytest.mark.parametrize(
    ("operator", "expected"),
    [
        (lambda v: op.gaussian(v, 1), {"z": (40, 120), "y": (4, 12), "x": (4, 12)}),
        (lambda v: op.crop(v, {"z": slice(2, 6)}), {"z": (40, 200), "y": (4, 12), "x": (4, 12)}),
        (lambda v: op.crop(v, (slice(160, 280),), unit="physical"), {"z": (40, 160), "y": (4, 12), "x": (4, 12)}),
        (lambda v: op.pad(v, (1, 2, 0)), {"z": (40, 80), "y": (4, 4), "x": (4, 12)}),
        (lambda v: op.transpose(v, "xyz"), {"z": (4, 12), "y": (4, 12), "x": (40, 120)}),
        (lambda v: op.downsample(v, (1, 2, 4)), {"z": (40, 120), "y": (8, 12), "x": (16, 12)}),
        (lambda v: op.upsample(v, (2, 1, 1)), {"z": (20, 120), "y": (4, 12), "x": (4, 12)}),
        (lambda v: op.downsample(op.upsample(v, 3), 3), {"z": (40, 120), "y": (4, 12), "x": (4, 12)}),
    ],
)
def test_positions(operator: Callable[[Any], Any], expected: dict[str, tuple[float, float]]) -> None:
    volume = labelled(voxels("u1", (8, 9, 11), 0))
    result = operator(volume)
    assert place(result) == {d: pytest.approx(pair) for d, pair in expected.items()}
    assert result.attrs["unit"] == "nm"
    assert result.attrs["voxel_size"] == pytest.approx({d: size for d, (size, _) in expected.items()})
    assert result.name == "em"


def test_positions_that_stay_are_the_very_same() -> None:
    values = voxels("u1", (8, 9, 11), 0)
    odd = labelled(values).assign_coords(x=np.linspace(0.1, 3.3, 11))  # computed in another way than ours
    part = op.crop(odd, {"x": slice(2, 9)})
    xr.testing.assert_identical(odd.isel(x=slice(2, 9)).x, part.x)
    assert (part + odd).sizes == {"z": 8, "y": 9, "x": 7}  # aligned to the last voxel
    xr.testing.assert_identical(odd.x, op.pad(odd, {"z": 2}).x)


def test_names_of_channels_follow() -> None:
    volume = labelled(voxels("f4", (3, 5, 6, 7), 0), ["z", "y", "x"])
    assert op.channels(op.gaussian(volume, 1), [2, 0]).c.values.tolist() == ["x", "z"]
    assert op.crop(volume, (slice(1, 3),)).c.values.tolist() == ["z", "y", "x"]
    assert op.argmax(volume).dims == ("z", "y", "x")
    assert "c" not in op.mean_channel(volume).coords


def test_a_transposed_volume_is_turned_back() -> None:
    values = voxels("u1", (5, 6, 7), 0)
    result = op.median(labelled(values).transpose("x", "z", "y"), (1, 3, 1))
    assert result.dims == ("z", "y", "x")
    same(result.values, ndimage.median_filter(values, (1, 3, 1), mode="nearest"))


def test_a_combination_is_labelled_if_either_is() -> None:
    one, many = voxels("f4", (5, 6, 7), 0), voxels("f4", (2, 5, 6, 7), 1)
    for result in (
        op.multiply(labelled(one), many),
        op.multiply(many, labelled(one)),
        op.multiply(labelled(many), one),
    ):
        assert place(result)["z"] == (40, 120)
        same(result.values, many * one)
    assert isinstance(op.multiply(one, many), da.Array)
    subtracted = op.combine(labelled(one), many, "subtract")  # the first stays the first
    same(subtracted.values, one - many)


def test_an_image_of_two_axes() -> None:
    image = voxels("u1", (21, 18), 0)
    same(op.gaussian(image, 1).compute(), ndimage.gaussian_filter(image.astype("f4"), 1, mode="nearest"))
    same(op.pad(image, (1, 2)).compute(), np.pad(image, [(1, 1), (2, 2)]))
    assert op.normalize(image, sections=True).compute().max() == 1
    same(op.clahe(image, tile=8).compute(), op.clahe(image[None], tile=8).compute()[0])
    same(op.mask(image, image > 9).compute(), np.where(image > 9, image, 0).astype("u1"))
    stack = xr.DataArray(np.stack([image, image]), dims=("c", "y", "x"))
    same(op.multiply(stack, image).values, np.stack([image, image]) * image)


def test_what_a_volume_said_of_its_type_goes_with_its_type() -> None:
    volume = labelled(voxels("u4", (4, 4, 4), 0)).assign_attrs(type="segmentation")
    assert op.crop(volume, (slice(1, 3),)).attrs["type"] == "segmentation"
    assert "type" not in op.gaussian(volume, 1).attrs


def test_a_mask_of_another_resolution_lies_by_position() -> None:
    values = voxels("u1", (8, 8, 8), 0)
    volume = labelled(values)
    coarse = op.downsample(volume > 100, 2, method="max")
    expected = np.where(coarse.values.repeat(2, 0).repeat(2, 1).repeat(2, 2), values, 0).astype("u1")
    same(op.mask(volume, coarse).values, expected)
    part = {"z": slice(3, 8), "y": slice(1, 7)}
    same(op.mask(op.crop(volume, part), coarse).values, expected[3:8, 1:7])


# ---- your own -------------------------------------------------------------------------------------------------------


def test_a_function_by_its_name() -> None:
    values = voxels("f4", (5, 6, 7), 0)
    same(op.apply(values, "numpy:clip", min=0.25, max=0.5).compute(), np.clip(values, 0.25, 0.5))
    for wrong in ("numpy:nothing", "no_such_module:f", "numpy", ":", "numpy:pi"):
        with pytest.raises(VolumeError, match="module:function"):
            op.apply(values, wrong)


@pytest.mark.parametrize("kind", ["memory", "blocks"])
@pytest.mark.parametrize(
    ("function", "match"), [(lambda v: v[1:], "gave"), (lambda v: v.mean(), "gave"), (lambda v: v * 0.5, "declared")]
)
def test_a_function_that_breaks_its_word_is_told(kind: str, function: Any, match: str) -> None:
    values = voxels("u1", (6, 6, 6), 0)
    volume = da.from_array(values, 3).persist() if kind == "blocks" else values
    assert kind == "memory" or must_exchange(volume)
    with pytest.raises(OutputError, match=match):
        op.apply(volume, function).compute()


def test_a_function_of_all_channels_sees_them_all() -> None:
    values = voxels("f4", (4, 6, 6, 6), 0)
    for volume in (da.from_array(values, 3), da.from_array(values, 3).persist()):
        same(op.apply(volume, centred).compute(), centred(values))


def centred(voxels: Array) -> Array:
    return voxels - voxels.mean(0, keepdims=True)


# ---- what is refused ------------------------------------------------------------------------------------------------

BYTES = voxels("u1", (5, 6, 7), 0)
FLOATS = voxels("f4", (2, 5, 6, 7), 0)

REFUSED: list[tuple[str, Callable[[], Any]]] = [
    ("lower one", lambda: op.normalize(BYTES, range=(5, 5))),
    ("lower one", lambda: op.normalize(BYTES, range=5)),
    ("lower one", lambda: op.normalize(BYTES, range=(0, float("nan")))),
    ("0 to 100", lambda: op.normalize(BYTES, percentile=(1, 101))),
    ("either given or found", lambda: op.normalize(BYTES, range=(0, 1), sections=True)),
    ("no type that fits", lambda: op.cast(BYTES, "complex64")),
    ("no type that fits", lambda: op.cast(BYTES, "uint9")),
    ("takes floats", lambda: op.quantize(BYTES)),
    ("no type that fits", lambda: op.quantize(FLOATS, "int8")),
    ("unsigned integers", lambda: op.dequantize(FLOATS)),
    ("not a number", lambda: op.threshold(BYTES, "0.5")),
    ("not a number", lambda: op.vote(FLOATS, value=None)),
    ("same voxels", lambda: op.multiply(BYTES, BYTES[1:])),
    ("same voxels", lambda: op.multiply(FLOATS, np.concatenate([FLOATS, FLOATS]))),
    ("same voxels", lambda: op.add(labelled(BYTES), labelled(BYTES).assign_coords(z=np.arange(5) * 40.0))),
    ("same voxels", lambda: op.maskout(BYTES, np.stack([BYTES, BYTES]), remove=[1])),
    ("no function", lambda: op.combine(BYTES, BYTES, "divide")),
    ("no function", lambda: op.combine(BYTES, BYTES, None)),
    ("does not work on bool", lambda: op.combine(BYTES > 3, BYTES > 3, "subtract")),
    ("does not work on uint8", lambda: op.multiply(BYTES, 300)),
    ("no value of uint8", lambda: op.mask(BYTES, BYTES, fill=0.5)),
    ("no value of uint8", lambda: op.pad(BYTES, 1, fill=-1)),
    ("no value of uint8", lambda: op.maskout(BYTES, BYTES, remove=[1], fill=float("nan"))),
    ("Labels are integers", lambda: op.maskout(BYTES, FLOATS[0], remove=[1])),
    ("Labels are integers", lambda: op.maskout(BYTES, BYTES, remove=[0.5])),
    ("no channels", lambda: op.argmax(BYTES)),
    ("not among", lambda: op.channels(FLOATS, 2)),
    ("not among", lambda: op.channels(FLOATS, [])),
    ("not among", lambda: op.channels(FLOATS, 0.5)),
    ("slices of the axes", lambda: op.crop(BYTES, (slice(1),) * 4)),
    ("slices of the axes", lambda: op.crop(BYTES, {"q": slice(1)})),
    ("slices of the axes", lambda: op.crop(BYTES, (slice(0, 4, 2),))),
    ("slices of the axes", lambda: op.crop(BYTES, (3,))),
    ("outside of the volume", lambda: op.crop(BYTES, (slice(-2, None),))),
    ("outside of the volume", lambda: op.crop(BYTES, (slice(2, 2),))),
    ("whole numbers", lambda: op.crop(BYTES, (slice(0.5, 2),))),
    ("unit=", lambda: op.crop(BYTES, (slice(2),), unit="nm")),
    ("what to add", lambda: op.pad(BYTES, (1, 2))),
    ("what to add", lambda: op.pad(BYTES, -1)),
    ("what to add", lambda: op.pad(BYTES, 1.5)),
    ("what to add", lambda: op.pad(BYTES, {"t": 1})),
    ("what to add", lambda: op.pad(BYTES, 1, mode="reflect")),
    ("each of", lambda: op.transpose(BYTES, "xy")),
    ("each of", lambda: op.transpose(BYTES, 3)),
    ("factors=", lambda: op.downsample(BYTES, (2, 2))),
    ("factors=", lambda: op.upsample(BYTES, 0)),
    ("factors=", lambda: op.downsample(BYTES, 1.5)),
    ("method=", lambda: op.downsample(BYTES, 2, method="median")),
    ("chunks=", lambda: op.rechunk(BYTES, -1)),
    ("sigma=", lambda: op.gaussian(BYTES, -1)),
    ("sigma=", lambda: op.gaussian(BYTES, (1, 2))),
    ("unit=", lambda: op.gaussian(BYTES, 1, unit="nm")),
    ("not odd", lambda: op.median(BYTES, 4)),
    ("size=", lambda: op.median(BYTES, 2.5)),
    ("does not take uint32", lambda: op.clahe(BYTES.astype("u4"))),
    ("tile=", lambda: op.clahe(BYTES, tile=1)),
    ("no share", lambda: op.clahe(BYTES, clip=0)),
    ("halo=", lambda: op.apply(BYTES, np.sqrt, halo=-1)),
    ("no function", lambda: op.apply(BYTES, 3)),
    ("time axis", lambda: op.invert(xr.DataArray(FLOATS, dims=("t", "z", "y", "x")))),
]


@pytest.mark.parametrize(("match", "call"), REFUSED, ids=[f"{i}: {m}" for i, (m, _) in enumerate(REFUSED)])
def test_what_makes_no_sense_is_refused_at_once(match: str, call: Callable[[], Any]) -> None:
    with pytest.raises(VolumeError, match=match) as caught:
        call()
    assert caught.value.means
    assert len(caught.value.ways) == 2


def test_lengths_in_physical_units() -> None:
    volume = labelled(voxels("u1", (8, 9, 11), 0))
    found = op.gaussian(volume, 8.0, unit="physical")  # of 40 x 4 x 4 nm
    same(found.values, ndimage.gaussian_filter(volume.values.astype("f4"), (0.2, 2, 2), mode="nearest"))
    assert isinstance(origin_of(found.data), Derived)


# ---- the page -------------------------------------------------------------------------------------------------------

PAGE = Path(__file__).parents[3] / "docs" / "operators.md"


def test_the_page_lists_every_operator() -> None:
    rows = ["| operator | what it does |", "|---|---|"]
    for function in op.OPERATORS.values():
        summary = (inspect.getdoc(function) or "").partition("\n\n")[0].replace("\n", " ")
        assert "|" not in summary
        rows.append(f"| `{function.__name__}` | {summary} |")
    assert "\n".join(rows) in PAGE.read_text(), "docs/operators.md is to hold:\n" + "\n".join(rows)


def test_the_page_names_operators_that_there_are() -> None:
    table = PAGE.read_text().partition("| chunkflow | here |\n|---|---|\n")[2].partition("\n\n")[0].splitlines()
    assert len(table) == 57  # operators in chunkflow's README
    ours = [row.split("|")[2].strip() for row in table]
    assert all(re.search(r"`|^no meaning: |^not here|^nothing to|^not read|^not an", each) for each in ours)
    called = {word for each in ours for word in re.findall(r"`(?:save\(\.\.\., )?([a-z_]+)(?=[`(])", each)}
    assert called - set(op.__all__) <= {"components", "infer", "mesh", "open_volume", "plan", "save"}
    assert len(called & set(op.__all__)) > 10


def test_the_page_runs(em: tuple[str, Array], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.chdir(tmp_path)
    Path("em.zarr").symlink_to(em[0])
    dims = {2: torch.export.Dim("z"), 3: torch.export.Dim("y"), 4: torch.export.Dim("x")}
    program = torch.export.export(convolution(), (torch.zeros(1, 1, 24, 24, 24),), dynamic_shapes=(dims,))
    torch.export.save(program, "unet.pt2")
    names: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL):
        exec(block, names)
    assert ci.open_volume("quantized.zarr").dtype == np.uint8
    same(names["brighter"].values, np.sqrt(names["clean"].values))
