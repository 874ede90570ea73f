"""Every way out that an error shows works: each is pasted and run."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn

import chunkinfer as ci
from chunkinfer import operators as op
from chunkinfer.volumes.volume import as_volume
from tests.lib.ways.rows import (
    AFFINITIES,
    COUNT,
    LABELS,
    NAMES,
    NET,
    NORM,
    PICTURE,
    POOLED,
    QUIET,
    SHAPE,
    STRIDED,
    VALID,
    VOLUME,
    VOXELS,
    Row,
    each,
    network,
    refusals,
    row,
    save,
    settings,
)  # fmt: skip

PLANS = [
    settings("does not fit the volume's 3 spatial axes", 2, patch=(64, 64)),
    settings("names the axis 'w'", 2, patch={"w": 12}),
    settings("It counts voxels", 2, patch=0),
    settings("is no amount of memory", 2, memory="plenty"),
    settings("is no amount of memory", 2, memory=True),
    settings("takes more memory", 1, memory="100 MB"),
    settings("halo= and overlap= contradict", 2, halo=1, overlap=2),
    settings("A patch of 7 voxels on axis z does not fit a volume of 8", 2, model=POOLED, patch=7),
    settings("leaves no clean zone", 2, model=network(), patch=2),
    settings("is not a size that this network takes", 2, model=POOLED, patch=7, overlap=2),
    settings("An overlap of 9 voxels does not fit", 2, patch=8, overlap=9),
    settings("is not a whole number of output voxels", 1, model=STRIDED, patch=8, overlap=3),
    settings("is not a multiple of the patch's clean zone", 3, patch=6, block=6),
    settings("The network gives no output", 1, model=VALID, volume=VOLUME[:3]),
    settings("cannot be tiled exactly", 1, model=NORM),
    # engine="auto", which is advised where an engine is not known, measures for minutes: see test_engines.py
    settings("is not known", 2, window="box"),
    settings("is not known", 2, precision="int8"),
    settings("is no count", 2, batch=0),
    settings("is no share", 2, precision_tolerance=-1),
    settings("max_block_minutes", 2, max_block_minutes=3),
    settings("is no dtype", 2, dtype="pixel"),
    settings("cannot be stored as", 2, dtype="complex64"),
    settings("in double precision", 2, model=network().double(), precision="bf16"),
    settings("is not known here", 1, device="tpu"),
]

OUTPUTS = [
    settings("is not known", 2, activation="gelu"),
    settings("activation= gives", 2, activation=lambda v: v.mean()),
    settings("activation= fails", 2, activation=lambda v: v + torch.zeros(99)),
    settings("another value when the tensor around it is cut", 2, activation=lambda v: v / v.max()),
    settings('activation="softmax" is 1 everywhere', 2, model=network(1), activation="softmax"),
    settings("is no channel", 2, channels="red"),
    settings("asks for what is not there", 2, channels=7),
    settings("names a channel twice", 2, channels=(0, 0)),
    settings("is no number", 2, threshold="half"),
    settings("contradict each other", 2, argmax=True, threshold=0.5),
    settings("argmax=True of 1 channel", 1, model=network(1), argmax=True),
    settings("contradict each other", 2, argmax=True, dtype="float32"),
    settings("is neither a number nor", 2, empty="dark"),
    settings("cannot be stored as", 2, dtype="uint8", fill=-1),
    settings("dtype='uint8' stores [0, 1]", 2, model=nn.Conv3d(1, 1, 1).eval(), volume=VOLUME * 100, dtype="uint8"),
    settings("The volume holds NaN", 2, volume=VOLUME.where(VOLUME > 0.001)),
    settings("nothing says how to scale it", 2, volume=(VOLUME * 1000).astype("uint16")),
    settings("is neither a pair of numbers", 2, normalize="minmax"),
    settings("does not give finite values", 2, normalize=(0, 0)),
    settings("another value when the array around it is cut", 2, normalize=lambda v: v / v.max()),
    settings("normalize= fails", 2, normalize=lambda v: v @ np.ones((3, 3, 3, 3, 3))),
]  # fmt: skip


def opened(volume: Any, **given: Any) -> Any:
    """What any verb makes of a volume, at its door."""
    return as_volume(volume, **given)


def labelled(coords: Any, *, dims: tuple[str, ...] = ("z", "y", "x")) -> xr.DataArray:
    return xr.DataArray(VOXELS, dims=dims, coords={"z": coords})


def meshed(labels: Any, url: Any = None, **given: Any) -> Any:
    """Each time at another place."""
    return ci.mesh(labels, f"meshes-{next(COUNT)}", **QUIET, **given)


NAMES["mesh"] = meshed


def labelled_as(volume: xr.DataArray, size: float) -> xr.DataArray:
    """At positions from 0 on."""
    return volume.assign_coords({d: np.arange(n) * size for d, n in volume.sizes.items()})


def pyramid(**given: Any) -> Any:
    """Of an image of its own."""
    url = f"image-{next(COUNT)}.ome.zarr"
    ci.save(VOLUME, url, **QUIET)
    return ci.pyramid(url, **QUIET, **given)


def stored() -> tuple[Any, str]:
    url = f"output-{next(COUNT)}.zarr"
    result = ci.infer(VOLUME, NET)
    ci.save(result, url, **QUIET)
    return result, url


def audit(**given: Any) -> Any:
    return ci.audit(stored()[1], VOLUME, NET, **given)


def verify(**given: Any) -> Any:
    return ci.verify(stored()[1], **given)


def tiling(**given: Any) -> Any:
    return ci.tiling_error(NET, VOLUME, **{"timed": False, **given})


NAMES |= {"tiling_error": partial(ci.tiling_error, timed=False), "sample": VOLUME}
TILED = tiling(halos=[0])


def open_stored(url: str = "em.zarr", **given: Any) -> Any:
    return ci.open_volume(url, **given)


VOLUMES = [
    row("A voxel size of", 2, open_stored, voxel_size=(0, 1, 1)),
    row("does not give one number for each", 2, open_stored, voxel_size=(8, 8)),
    row("does not give a whole number", 2, open_stored, chunks=(64,)),
    row("A Dataset holds several volumes", 2, opened, {"dataset": xr.Dataset({"a": VOLUME, "b": VOLUME})},
        volume=xr.Dataset({"a": VOLUME, "b": VOLUME})),
    row("are not numbers", 1, opened, volume=labelled(list("abcdefgh"))),
    row("The axis is reversed", 2, opened, volume=labelled(np.arange(8)[::-1])),
    row("are not evenly spaced", 1, opened, volume=labelled([0, 1, 2, 3, 4, 5, 6, 9])),
]  # fmt: skip

STORED = [
    row("has no place for coarser levels", 2, save, array=VOLUME, url="a.zarr", pyramid=True),
    row("not one regular grid", 1, save, {"volume": VOLUME}, array=ci.infer(VOLUME, NET, block=2, patch=4)[:, 1:],
        url="b.zarr"),
    row("are not what", 2, save, array=VOLUME, url="c.zarr", chunks=(4, 4, 4), shards=(6, 6, 6)),
    row("does not give a whole number", 2, save, array=VOLUME, url="d.zarr", chunks=(4, 0, 4)),
]  # fmt: skip

OPERATORS = [
    row("is not a number", 2, op.threshold, volume=VOLUME, value="high"),
    row("does not give a whole number", 2, op.downsample, volume=VOLUME, factors=(2, 2)),
    row("does not give a length", 2, op.gaussian, volume=VOLUME, sigma=-1),
    row("is not known", 2, op.gaussian, volume=VOLUME, sigma=1, unit="nm"),
    row("is no value of", 2, op.pad, volume=op.cast(VOLUME, "uint8"), width=1, fill=0.5),
    row("do not have the same voxels", 1, op.add, volume=VOLUME, other=VOLUME[1:]),
    row("combine knows no function", 2, op.combine, {"a": VOLUME, "b": VOLUME}, volume=VOLUME, other=VOLUME,
        function="median"),
    row("Labels are integers", 2, op.maskout, {"labels": VOLUME}, volume=VOLUME, labels=VOLUME, remove=[1]),
    row("are not labels", 2, op.maskout, volume=VOLUME, labels=LABELS, remove="all"),
    row("is not odd", 2, op.median, volume=VOLUME, size=2),
    row("clahe does not take", 2, op.clahe, volume=(VOLUME * 9).astype("int32")),
    row("is no share", 2, op.clahe, volume=op.cast(VOLUME, "uint8"), clip=-1),
    row("is no function", 2, op.apply, volume=VOLUME, function=3),
    row("normalize got range=", 2, op.normalize, volume=VOLUME, range=(0, 1), percentile=(1, 99)),
    row("is not a lower and an upper limit", 2, op.normalize, volume=VOLUME, percentile=(99, 1)),
    row("is no type that fits", 2, op.quantize, volume=VOLUME, dtype="float32"),
    row("are not among the volume's", 1, op.channels, volume=AFFINITIES, which=7),
    row("and no channels", 1, op.argmax, volume=VOLUME),
    row("does not give slices", 2, op.crop, volume=VOLUME, box=3),
    row("does not say what to add", 2, op.pad, volume=VOLUME, width="wide"),
    row("does not name each of", 1, op.transpose, volume=VOLUME, axes="zz"),
    row("is not known", 2, op.downsample, volume=VOLUME, factors=2, method="average"),
    row("The box takes [0:99]", 1, op.crop, volume=VOLUME, box={"z": slice(0, 99)}),
    row("no finite voxel", 2, op.normalize, volume=VOLUME * np.nan, percentile=(1, 99)),
    row("has a time axis", 2, op.invert, {"operator": op.invert}, volume=VOLUME.expand_dims("t")),
]  # fmt: skip

SHOWN = [
    row("is not a way to show", 2, ci.show, volume=VOLUME, kind="grey"),
    row("is no segmentation", 2, ci.show, volume=VOLUME, kind="segmentation"),
    row("is not a place in the volume", 2, ci.show, volume=VOLUME, position=(99, 0, 0)),
]  # fmt: skip

SEGMENT, COMPONENTS = NAMES["segment"], NAMES["connected_components"]
FOUR, WIDE, HOLED = AFFINITIES[[0, 1, 2, 0]], AFFINITIES * 5, AFFINITIES.where(AFFINITIES > 0.1)
THREE, BYTES = {"model": network(3)}, op.quantize(VOLUME)
LAST = np.moveaxis(AFFINITIES[:, :, :, :10].values, 0, -1)
SEGMENTED = [
    row("are no affinities", 2, SEGMENT, {**THREE, "affinities": 9 * AFFINITIES},
        affinities=(9 * AFFINITIES).astype("int32")),
    row("low < high", 1, SEGMENT, affinities=AFFINITIES, low=1, high=0),
    row("sizes are numbers of voxels", 2, SEGMENT, affinities=AFFINITIES, merge_size=-1),
    row("is no mean affinity", 2, SEGMENT, affinities=AFFINITIES, agglomerate=7.0),
    row("The seed 0", 2, SEGMENT, affinities=AFFINITIES, seeds={0: [(1, 1, 1)]}),
    row("channels.", 2, SEGMENT, {"affinities": FOUR}, affinities=FOUR),
    row("seem to be the last axis", 2, SEGMENT, {"affinities": LAST}, affinities=LAST),
    row("that are known here", 2, SEGMENT, affinities=AFFINITIES, order="yxz"),
    row("reach from", 2, SEGMENT, {**THREE, "affinities": WIDE}, affinities=WIDE),
    row("are NaN", 1, SEGMENT, {"affinities": HOLED}, affinities=HOLED),
    row("may be a picture", 2, SEGMENT, {**THREE, "volume": BYTES}, affinities=BYTES),
    row("is not one volume", 2, COMPONENTS, volume=AFFINITIES > 0.5),
    row("is not 6, 18 or 26", 2, COMPONENTS, volume=VOLUME > 0.5, connectivity=4),
    row("holds 0 and 1", 2, COMPONENTS, volume=VOLUME),
]  # fmt: skip

EVALUATION = ci.evaluate(LABELS, LABELS, progress=False)
EVALUATED = [
    row("There is nothing to compare", 2, NAMES["evaluate"], {"segmentation": LABELS, "truth": LABELS},
        segmentation=LABELS),
    row("labels are integers", 1, NAMES["evaluate"], {"segmentation": VOLUME}, segmentation=VOLUME, truth=LABELS),
    row("are not labels", 2, NAMES["evaluate"], segmentation=LABELS, truth=LABELS, ignore="none"),
    row("has 3 channels", 2, NAMES["evaluate"], {"segmentation": (9 * AFFINITIES).astype("u4")},
        segmentation=(9 * AFFINITIES).astype("u4"), truth=LABELS),
    row("have a label of ignore=", 2, NAMES["evaluate"], {"truth": LABELS * 0}, segmentation=LABELS, truth=LABELS * 0),
    row("looks like a picture", 2, NAMES["evaluate"], {**THREE, "segmentation": PICTURE},
        segmentation=PICTURE, truth=PICTURE),
    row("are to become", 2, EVALUATION.renamed, {"evaluation": EVALUATION, "pairs": np.array([[7, 3], [8, 3]])},
        old=[1, 1], new=[2]),
]  # fmt: skip

SIGNED = LABELS[None].astype("i4")
MESHED = [
    row("Meshes are made of labels", 1, meshed, {"labels": SIGNED}, labels=SIGNED),
    row("There is no format", 2, meshed, labels=LABELS, format="obj"),
    row("cannot be sharded", 1, meshed, labels=LABELS, sharded=True),
    row("do not say how far", 2, meshed, labels=LABELS, simplify=0),
]  # fmt: skip

COARSE = xr.DataArray(np.ones((4, 6, 6), "u1"), dims=("z", "y", "x"))
COARSE_AT, VOLUME_AT = labelled_as(COARSE, 2.0), labelled_as(VOLUME, 1.0)
MASKS = [
    settings("without coordinates, and no one whole factor", 1, mask=np.ones((3, 5, 5), "u1")),
    settings(
        "does not cover the output",
        2,
        mask=COARSE_AT[:2],
        volume=VOLUME_AT,
    ),
    settings("entries along c", 2, mask=np.ones((2, *SHAPE), "u1")),
    settings("is made from a network's output", 2, mask=ci.infer(VOLUME, network(1)) > 0.5),
    settings("entries along c", 2, mask=labelled_as(AFFINITIES, 1.0)),
]

LEVELS = [
    row("is not a way to downsample", 2, pyramid, method="average"),
    row("is no number of levels", 2, pyramid, levels=-1),
    row("does not give whole numbers", 2, pyramid, factors=(0, 2, 2)),
]

CHECKED = [
    row("is no count", 2, audit, samples=-1),
    row("is neither a number of blocks", 2, verify, sample=-1),
    row("is not a sequence", 2, tiling, halos=3),
    row("fits in one patch", 2, tiling, patch=64),
    row("is not a number", 2, tiling, threshold="half"),
    row("is not a column", 2, lambda error="rmse": TILED.plot("t.png", error=error), {"errors": TILED}, error="mean"),
]

QUICK = ("volumes", "operators", "levels")
EVERY = {"plans": PLANS, "outputs": OUTPUTS, "volumes": VOLUMES, "stored": STORED, "operators": OPERATORS,
         "shown": SHOWN, "segmented": SEGMENTED, "evaluated": EVALUATED, "meshed": MESHED,
         "masks": MASKS, "levels": LEVELS, "checked": CHECKED}  # fmt: skip


@pytest.mark.parametrize("row", each(EVERY, QUICK))
def test_every_line_that_is_advised_works(row: Row, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refusals(row, tmp_path, monkeypatch)
