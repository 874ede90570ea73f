"""save(pyramid=True): levels are made while a block is in memory, and the rest afterwards."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import dask.array as da
import numpy as np
import pytest
import xarray as xr
from distributed import Client

import chunkinfer as ci
from chunkinfer.errors import DestinationError, SettingsDiffer, SourceError
from chunkinfer.runs.pyramids.building import pyramid
from chunkinfer.runs.record.ledger import Ledger
from chunkinfer.stores.files import Files
from chunkinfer.volumes.arrays import layout
from chunkinfer.volumes.arrays.open import open_source
from tests.lib.probes import convolution
from tests.lib.pyramids.oracle import coarser

RNG = np.random.default_rng(0)
SHAPE = (40, 96, 100)


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks so small that a small image has many."""
    monkeypatch.setattr(layout, "COPY_BYTES", 32**3)


FACTORS = [(1, 2, 2), (1, 2, 2), (2, 2, 2)]


def image(array: np.ndarray, block: int = 32) -> xr.DataArray:
    """A lazy volume of 16 x 4 x 4 nm in blocks of so many voxels per axis."""
    coords = {d: np.arange(n) * size for d, n, size in zip("zyx", array.shape, (16.0, 4.0, 4.0), strict=True)}
    return xr.DataArray(
        da.from_array(array, chunks=block), dims=("z", "y", "x"), coords=coords, attrs={"unit": "nm"}, name="em"
    )


def checked(url: str | Path, array: np.ndarray, method: str = "mean") -> None:
    for number, factors in enumerate([None, *FACTORS]):
        array = array if factors is None else coarser(array, factors, method)
        np.testing.assert_array_equal(open_source(url, level=number)[:], array, strict=True)


FORMATS = [("v.ome.zarr", None, "zarr3"), ("v", "ome-zarr-0.4", "zarr2"), ("v.precomputed", None, "precomputed")]


@pytest.mark.parametrize(
    ("name", "format", "found"), [FORMATS[0], *(pytest.param(*row, marks=pytest.mark.slow) for row in FORMATS[1:])]
)
def test_levels_are_made_with_the_blocks_and_after_them(
    tmp_path: Path, threads: Client, name: str, format: str | None, found: str
) -> None:
    array = RNG.integers(0, 255, SHAPE, dtype="u1")
    url = tmp_path / name
    report = ci.save(image(array), url, format=format, chunks=(8,) * 3, pyramid=3, client=threads, progress=False)
    assert report.computed == report.blocks
    assert open_source(url).format == found
    checked(url, array)
    plan = json.loads((url / ".chunkinfer" / "pyramid.json").read_text())
    assert plan["with_finest"] >= 2
    assert ci.status(url).complete
    assert ci.verify(url, client=threads, progress=False).ok

    again = ci.save(image(array), url, format=format, client=threads, progress=False)
    assert (again.computed, again.skipped) == (0, report.blocks)
    assert pyramid(url, client=threads, progress=False).computed == 0
    checked(url, array)
    with pytest.raises(SettingsDiffer, match="pyramid"):
        ci.save(image(array), url, format=format, pyramid=2, client=threads, progress=False)
    ci.save(image(array[:16]), url, format=format, overwrite=True, client=threads, progress=False)
    with pytest.raises(SourceError, match="no level 1"):
        open_source(url, level=1)


@pytest.mark.slow
def test_a_torn_block_is_repaired_with_its_levels(tmp_path: Path, threads: Client) -> None:
    array = RNG.integers(0, 255, SHAPE, dtype="u1")
    url = tmp_path / "v.ome.zarr"
    ci.save(array, url, chunks=(8,) * 3, shards=False, pyramid=2, client=threads, progress=False)
    chunk = url / "0" / "c" / "0" / "0" / "0"
    chunk.write_bytes((url / "0" / "c" / "1" / "1" / "1").read_bytes())
    before = [open_source(url, level=k)[:] for k in (1, 2)]
    found = ci.verify(url, repair=True, volume=array, client=threads, progress=False)
    assert found.torn
    assert found.ok
    np.testing.assert_array_equal(open_source(url)[:], array)
    for number, level in enumerate(before, 1):
        np.testing.assert_array_equal(open_source(url, level=number)[:], level)


@pytest.mark.slow
def test_levels_asked_for_when_the_image_was_begun_without(tmp_path: Path, threads: Client) -> None:
    array = RNG.integers(0, 2**40, SHAPE, dtype="u8") // 2**38
    url = tmp_path / "labels.precomputed"
    ci.save(image(array), url, chunks=(8,) * 3, client=threads, progress=False)
    assert json.loads((url / "info").read_text())["type"] == "segmentation"
    report = ci.save(image(array), url, pyramid=3, client=threads, progress=False)
    assert report.computed == 0
    checked(url, array, "mode")


@pytest.mark.slow
def test_a_network_writes_its_output_with_levels(tmp_path: Path, threads: Client) -> None:
    array = RNG.random(SHAPE, dtype="f4")
    result = ci.infer(image(array), convolution(), patch=34, block=32, dtype="uint8", activation="sigmoid")
    url = tmp_path / "v.precomputed"
    ci.save(result, url, chunks=(1, 8, 8, 8), pyramid=3, client=threads, progress=False)
    whole = open_source(url)[:]
    checked_from = whole
    for number, factors in enumerate(FACTORS, 1):
        checked_from = coarser(checked_from, (1, *factors)[-checked_from.ndim :], "mean")
        np.testing.assert_array_equal(open_source(url, level=number)[:], checked_from)
    told = json.loads((url / "provenance").read_text())
    assert told["processing"][0]["method"]["task"] == "chunkinfer"
    cloudvolume = pytest.importorskip("cloudvolume")
    assert cloudvolume.CloudVolume(f"file://{url}", progress=False).provenance.processing


KILLED = """
import os, signal, sys
import dask.array as da, numpy as np, xarray as xr
import chunkinfer as ci
import chunkinfer.runs.run
from chunkinfer.runs.events import BLOCK_DONE
from chunkinfer.volumes.arrays import layout
layout.COPY_BYTES = 32**3
chunkinfer.runs.run.LEDGER_SECONDS = 0  # recorded before the next one is told of
left = 3
def stop(event):
    global left
    left -= event.kind == BLOCK_DONE
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
array = np.load(sys.argv[1])
coords = {d: np.arange(n) * size for d, n, size in zip("zyx", array.shape, (16.0, 4.0, 4.0))}
lazy = da.from_array(array, chunks=16, name="em")
volume = xr.DataArray(lazy, dims=tuple("zyx"), coords=coords, attrs={"unit": "nm"})
ci.save(volume, sys.argv[2], chunks=(8, 8, 8), pyramid=3, progress=False, events=[stop])
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["v.ome.zarr", "v.precomputed"])
def test_killed_and_resumed(tmp_path: Path, threads: Client, name: str) -> None:
    array = RNG.integers(0, 255, SHAPE, dtype="u1")
    url = tmp_path / name
    np.save(tmp_path / "em.npy", array)
    call = [sys.executable, "-c", KILLED, str(tmp_path / "em.npy"), str(url)]
    ended = subprocess.run(call, capture_output=True, timeout=120)
    assert ended.returncode == -9, ended.stderr.decode()[-2000:]
    with pytest.raises(SourceError, match="no level 1"):
        open_source(url, level=1)
    with pytest.raises(DestinationError, match="blocks of"):
        pyramid(url, client=threads, progress=False)
    volume = image(array, 16)
    volume.data = da.from_array(array, chunks=16, name="em")
    report = ci.save(volume, url, client=threads, progress=False)
    assert 0 < report.skipped < report.blocks
    assert report.computed == report.blocks - report.skipped
    checked(url, array)
    assert Ledger(Files(url)).done(report.blocks).count == report.blocks


def test_the_type_of_a_precomputed_volume_can_be_asked_for(tmp_path: Path, threads: Client) -> None:
    labels = image(RNG.integers(0, 3, (8, 16, 16), dtype="u1"), 16)
    labels.attrs["type"] = "segmentation"
    url = tmp_path / "v.precomputed"
    ci.save(labels, url, pyramid=1, client=threads, progress=False)
    assert json.loads((url / "info").read_text())["type"] == "segmentation"
    np.testing.assert_array_equal(open_source(url, level=1)[:], coarser(labels.values, (1, 2, 2), "mode"))
    with pytest.raises(DestinationError, match="one channel of integers"):
        ci.save(labels.astype("f4"), tmp_path / "w.precomputed", client=threads, progress=False)
