"""pyramid: levels equal those of the whole array, are complete, announced last, and read by other tools."""

from __future__ import annotations

import json
import subprocess
import sys
from math import ceil, prod
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pytest
import tensorstore as ts
import zarr
from distributed import Client
from hypothesis import given
from hypothesis import strategies as st

import chunkinfer as ci
from chunkinfer.errors import DestinationError, MissingChunk, OutputInUse, PlanError, SettingsDiffer, SourceError
from chunkinfer.runs.events import BLOCK_DONE, Event
from chunkinfer.runs.pyramids import planning
from chunkinfer.runs.pyramids.building import pyramid
from chunkinfer.runs.record.ledger import Ledger
from chunkinfer.runs.report import RunReport
from chunkinfer.runs.run import Run
from chunkinfer.stores.files import Files
from chunkinfer.volumes.arrays.create import ArraySpec, create, write_unit
from chunkinfer.volumes.arrays.open import open_source
from tests.lib.headers import header_of
from tests.lib.pyramids.oracle import coarser
from tests.lib.storage.filling import fill
from tests.lib.storage.holding import Holder

RNG = np.random.default_rng(0)
KINDS = ["ome-zarr", "ome-zarr-0.4", "precomputed"]


@pytest.fixture
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks so small that a small image has many, and passes too."""
    monkeypatch.setattr(planning, "BLOCK_BYTES", 32**3)
    monkeypatch.setattr(planning, "WORTH_A_TASK", 0)
    monkeypatch.setattr(planning, "SMALLEST", 4)


def stored(path: Path, array: np.ndarray, kind: str, **change: Any) -> str:
    told: dict[str, Any] = {
        "format": kind, "shape": array.shape, "dtype": array.dtype, "dims": ("c", "z", "y", "x")[-array.ndim :],
        "chunks": (8,) * array.ndim, "voxel_size": {"z": 16, "y": 4, "x": 4}, "unit": "nm",
    }  # fmt: skip
    fill(create(path, ArraySpec(**{**told, **change})), array)
    return str(path)


def checked(url: str, array: np.ndarray, method: str, times: list[tuple[int, ...]], phases: Any = None) -> None:
    """Every level holds what the one below gives, and no chunk of it is missing."""
    below = array
    for number, factors in enumerate(times, 1):
        below = coarser(below, factors, method, phases and phases[number - 1])
        np.testing.assert_array_equal(open_source(url, level=number)[:], below, strict=True)
    with pytest.raises(SourceError, match=f"no level {len(times) + 1}"):
        open_source(url, level=len(times) + 1)


@pytest.mark.usefixtures("_small")
@pytest.mark.parametrize("kind", KINDS)
def test_levels_equal_those_of_the_whole_array(tmp_path: Path, threads: Client, kind: str) -> None:
    array = RNG.integers(0, 65536, (20, 45, 50), dtype="u2")
    url = stored(tmp_path / "v", array, kind)
    report = pyramid(url, client=threads, progress=False)
    assert report.computed == report.blocks > 10
    times = [(1, 2, 2), (1, 2, 2), (2, 2, 2), (2, 2, 2)]
    checked(url, array, "mean", times)
    assert not Files(url).read("lease.json")

    volume = ci.open_volume(url, level=2)
    assert volume.attrs["voxel_size"] == {"z": 16, "y": 16, "x": 16}
    assert [float(volume.coords[d][0]) for d in "zyx"] == [0, 0, 0]

    again = pyramid(url, client=threads, progress=False)
    assert (again.computed, again.skipped) == (0, report.blocks)


@pytest.fixture
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks one after the other, without a cluster."""

    def run(self: Run, *_: Any) -> RunReport:
        dask.compute(*self.tasks("").to_delayed().ravel(), scheduler="synchronous")
        return RunReport(self.url, blocks=len(self.grid))

    monkeypatch.setattr(Run, "__call__", run)


@pytest.mark.usefixtures("_small", "_at_once")
@given(data=st.data())
def test_any_shape_chunk_factor_offset_and_method(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    kind = data.draw(st.sampled_from(KINDS))
    method = data.draw(st.sampled_from(["mean", "mode", "max", "stride"]))
    shape = tuple(data.draw(st.integers(1, 40)) for _ in "zyx")
    chunks = tuple(data.draw(st.sampled_from([4, 6, 8])) for _ in "zyx")
    offset = tuple(data.draw(st.integers(-5, 9)) for _ in "zyx")
    row = st.tuples(*[st.integers(1, 3)] * 3).filter(
        lambda r: any(f > 1 and n > 1 for f, n in zip(r, shape, strict=True))
    )
    factors = [data.draw(row) for _ in range(data.draw(st.integers(1, 2)))]
    shards = data.draw(st.booleans()) and kind != "ome-zarr-0.4"
    array = np.random.default_rng(0).integers(0, 4, shape).astype(data.draw(st.sampled_from(["u1", "u4", "f4"])))
    if array.dtype.kind == "f":
        array += np.float32(0.1)
    more: dict[str, Any] = {"chunks": chunks, "offset": dict(zip("zyx", offset, strict=True))}
    if shards:
        more["shards"] = write_unit(
            "v", format=kind, shape=shape, dims=("z", "y", "x"), chunks=chunks, shards=[2 * c for c in chunks]
        )
    url = stored(tmp_path_factory.mktemp("any") / "v", array, kind, **more)
    try:
        pyramid(url, method=method, factors=factors, progress=False)
    except PlanError as error:  # nothing left to make smaller
        assert "as large as" in error.what  # noqa: PT017
        return
    phases, place = [], offset
    for row_ in factors:
        whole = kind == "precomputed"
        phases.append([o % f if whole else 0 for o, f in zip(place, row_, strict=True)])
        place = tuple(o // f for o, f in zip(place, row_, strict=True))
    checked(url, array, method, factors, phases)
    if kind == "precomputed":
        assert tuple(open_source(url, level=len(factors)).offset.values()) == place


# What others read


@pytest.mark.usefixtures("_small")
@pytest.mark.parametrize("kind", ["ome-zarr", "ome-zarr-0.4"])
@pytest.mark.parametrize("shards", [None, (2, 8, 16, 16)])
def test_zarr_python_reads_the_image(tmp_path: Path, threads: Client, kind: str, shards: Any) -> None:
    if shards and kind == "ome-zarr-0.4":
        pytest.skip("version 2 has no shards")
    array = RNG.integers(0, 255, (2, 10, 40, 36), dtype="u1")
    url = stored(
        tmp_path / "v", array, kind, shards=shards, chunks=(2, 8, 8, 8), voxel_size={"z": 8, "y": 4, "x": 4},
        unit="um", offset={"z": 3}, attributes={"channel_names": ["dna", "rna"], "stain": "x"},
    )  # fmt: skip
    pyramid(url, levels=2, client=threads, progress=False)
    group = zarr.open_group(url, mode="r")
    told = group.attrs["ome"] if kind == "ome-zarr" else group.attrs
    (image,) = told["multiscales"]
    assert (told if kind == "ome-zarr" else image)["version"] == {"ome-zarr": "0.5", "ome-zarr-0.4": "0.4"}[kind]
    assert image["axes"] == [
        {"name": "c", "type": "channel"}, *({"name": d, "type": "space", "unit": "micrometer"} for d in "zyx")
    ]  # fmt: skip
    assert image["name"] == "v"
    assert image["type"] == "mean"
    steps = [{s["type"]: s[s["type"]] for s in d["coordinateTransformations"]} for d in image["datasets"]]
    # Neuroglancer's and ome-zarr-py's convention: of the centre of the first voxel.
    assert steps == [
        {"scale": [1, 8, 4, 4], "translation": [0, 24, 0, 0]},
        {"scale": [1, 8, 8, 8], "translation": [0, 24, 2, 2]},
        {"scale": [1, 16, 16, 16], "translation": [0, 28, 6, 6]},
    ]
    assert [channel["label"] for channel in told["omero"]["channels"]] == ["dna", "rna"]
    below = array
    for dataset, factors in zip(image["datasets"][1:], [(1, 1, 2, 2), (1, 2, 2, 2)], strict=True):
        below = coarser(below, factors, "mean")
        level = group[dataset["path"]]
        np.testing.assert_array_equal(level[:], below)
        assert level.chunks == (2, 8, 8, 8)
        assert (level.shards is not None) == bool(shards)
        assert level.attrs["stain"] == "x"
    volume = ci.open_volume(url, level=2)
    assert list(volume.coords["c"].values) == ["dna", "rna"]
    assert float(volume.coords["z"][0]) == 24
    assert (volume.attrs["voxel_size"], volume.attrs["unit"]) == ({"z": 16, "y": 16, "x": 16}, "um")


@pytest.mark.usefixtures("_small")
@pytest.mark.parametrize("sharded", [False, True])
@pytest.mark.parametrize("dtype", ["u1", "u8"])
def test_cloud_volume_and_tensorstore_read_the_scales(
    tmp_path: Path, threads: Client, sharded: bool, dtype: str
) -> None:
    cloudvolume = pytest.importorskip("cloudvolume")
    array = RNG.integers(0, 3, (20, 40, 36)).astype(dtype) * (2**40 if dtype == "u8" else 1)
    url = stored(
        tmp_path / "v", array, "precomputed", shards=(8, 16, 16) if sharded else None, offset={"z": 4, "x": -7},
        voxel_size={"z": 8, "y": 8, "x": 8},
    )  # fmt: skip
    pyramid(url, levels=2, client=threads, progress=False)
    info = json.loads((tmp_path / "v" / "info").read_text())
    assert [scale["key"] for scale in info["scales"]] == ["8_8_8", "16_16_16", "32_32_32"]
    assert [scale["voxel_offset"] for scale in info["scales"]] == [[-7, 0, 4], [-4, 0, 2], [-2, 0, 1]]
    assert {bool(scale.get("sharding")) for scale in info["scales"]} == {sharded}
    below = array
    for mip, phase in ((1, (0, 0, 1)), (2, (0, 0, 0))):
        below = coarser(below, (2, 2, 2), "mode" if dtype == "u8" else "mean", phase)
        volume = cloudvolume.CloudVolume(f"file://{url}", mip=mip, progress=False)
        np.testing.assert_array_equal(volume[:][..., 0].T, below)
        spec = {"driver": "neuroglancer_precomputed", "kvstore": f"file://{url}", "scale_index": mip}
        np.testing.assert_array_equal(ts.open(spec).result()[..., 0].read().result().T, below)
        if not sharded:
            chunks = list((tmp_path / "v" / info["scales"][mip]["key"]).iterdir())
            assert len(chunks) == prod(ceil(n / 8) for n in below.shape)


def test_levels_of_a_lossy_encoding_are_made_of_what_is_stored(tmp_path: Path, threads: Client) -> None:
    ramp = np.add.outer(np.arange(16), np.add.outer(np.arange(32), np.arange(32))).astype("u1")
    url = stored(tmp_path / "v", ramp, "precomputed", encoding="jpeg", voxel_size={"z": 4, "y": 4, "x": 4})
    pyramid(url, levels=2, client=threads, progress=False)
    for number in (1, 2):
        below = open_source(url, level=number - 1)[:]
        assert np.abs(open_source(url, level=number)[:].astype(int) - coarser(below, (2, 2, 2), "mean")).max() <= 4


# Crashes and refusals

KILLED = """
import os, signal, sys
from chunkinfer.runs.events import BLOCK_DONE
from chunkinfer.runs.pyramids import planning; from chunkinfer.runs.pyramids.building import pyramid
planning.BLOCK_BYTES, planning.WORTH_A_TASK, planning.SMALLEST = 32**3, 0, 4
left = int(sys.argv[2])
def stop(event):
    global left
    left -= event.kind == BLOCK_DONE
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
pyramid(sys.argv[1], progress=False, events=[stop])
"""


@pytest.mark.usefixtures("_small")
@pytest.mark.parametrize("kind", ["ome-zarr", pytest.param("precomputed", marks=pytest.mark.slow)])
def test_killed_and_resumed(tmp_path: Path, threads: Client, kind: str) -> None:
    """Killed in the second pass: the levels of the first are announced, and no others."""
    array = RNG.integers(0, 255, (32, 64, 64), dtype="u1")
    url = stored(tmp_path / "v", array, kind, voxel_size={"z": 4, "y": 4, "x": 4})
    plan = planning.plan_pyramid(
        planning.Finest(url, kind, tuple("zyx"), array.shape, array.dtype, {}, {}, (8, 8, 8), False, False),
        "mean", None, None,
    )  # fmt: skip
    first, second = plan.passes[:2]
    blocks = prod(ceil(n / b) for n, b in zip(plan.levels[0].shape, first.block, strict=True))
    ended = subprocess.run([sys.executable, "-c", KILLED, url, str(blocks + 1)], capture_output=True, timeout=120)
    assert ended.returncode == -9, ended.stderr.decode()[-2000:]
    assert second.first == 1 + first.count
    open_source(url, level=first.count)
    with pytest.raises(SourceError, match="no level"):
        open_source(url, level=second.first)
    report = pyramid(url, client=threads, progress=False)
    assert report.skipped >= blocks
    assert report.computed == report.blocks - report.skipped
    checked(url, array, "mean", [(2, 2, 2)] * len(plan.levels))


@pytest.mark.usefixtures("_small")
@pytest.mark.parametrize("kind", KINDS)
def test_a_finished_pyramid_with_other_settings(tmp_path: Path, threads: Client, kind: str) -> None:
    array = RNG.integers(0, 9, (8, 32, 32), dtype="u1")
    url = stored(tmp_path / "v", array, kind, voxel_size={"z": 4, "y": 4, "x": 4})
    pyramid(url, levels=2, client=threads, progress=False)
    with pytest.raises(SettingsDiffer, match="method: stored mean, asked max"):
        pyramid(url, levels=2, method="max", client=threads, progress=False)
    with pytest.raises(SettingsDiffer, match="factors"):
        pyramid(url, levels=1, client=threads, progress=False)
    checked(url, array, "mean", [(2, 2, 2)] * 2)
    pyramid(url, factors=[(1, 2, 2)], method="max", overwrite=True, client=threads, progress=False)
    checked(url, array, "max", [(1, 2, 2)])
    folders = {p.name for p in (tmp_path / "v").iterdir() if p.is_dir()}
    assert len(folders) == 3  # two levels and the ledgers: nothing is left of the others
    create(url, ArraySpec(format=kind, shape=(4, 4, 4), dtype="u1", dims="zyx"), overwrite=True)
    assert {p.name for p in (tmp_path / "v").iterdir() if p.is_dir()} <= {"0", ".chunkinfer"}
    assert Files(url).list() == []


def test_what_has_no_levels_or_has_them_already(tmp_path: Path, threads: Client) -> None:
    array = np.zeros((8, 8, 8), "u1")
    plain = stored(tmp_path / "plain", array, "zarr3")
    with pytest.raises(DestinationError, match=r"save\(.*'image.ome.zarr', pyramid=True\)"):
        pyramid(plain, client=threads)
    with pytest.raises(DestinationError, match="no place for coarser levels"):
        ci.save(array, tmp_path / "o", pyramid=True, client=threads)
    theirs = stored(tmp_path / "theirs", array, "precomputed")
    info = json.loads((tmp_path / "theirs" / "info").read_text())
    info["scales"].append({**info["scales"][0], "key": "other", "size": [4, 4, 4]})
    (tmp_path / "theirs" / "info").write_text(json.dumps(info))
    with pytest.raises(DestinationError, match="1 coarser levels already: other"):
        pyramid(theirs, levels=1, client=threads, progress=False)
    half = stored(tmp_path / "half", array, "ome-zarr")
    Ledger(Files(half)).begin(header_of((1, 2, 2, 2), (1, 32, 32, 32), (1, 16, 16, 16)))
    with pytest.raises(DestinationError, match="0 of 8 blocks"):
        pyramid(half, client=threads, progress=False)
    with Holder(Path(half)), pytest.raises(OutputInUse):
        pyramid(half, client=threads, progress=False)


def test_chunks_that_are_missing(tmp_path: Path, threads: Client) -> None:
    array = np.ones((8, 32, 32), "u1")
    url = stored(tmp_path / "v", array, "ome-zarr", voxel_size={})
    (tmp_path / "v" / "0" / "c" / "0" / "1" / "1").unlink()
    with pytest.raises(ci.errors.RunError, match="MissingChunk"):
        pyramid(url, levels=1, client=threads, progress=False)
    with pytest.raises(SourceError, match="no level 1"):
        open_source(url, level=1)
    assert issubclass(MissingChunk, SourceError)
    pyramid(url, levels=1, missing="fill", client=threads, progress=False)
    array[:, 8:16, 8:16] = 0
    checked(url, array, "mean", [(2, 2, 2)])


def test_events_tell_of_every_pass(tmp_path: Path, threads: Client) -> None:
    url = stored(tmp_path / "v", np.ones((8, 32, 32), "u1"), "ome-zarr", voxel_size={})
    told: list[Event] = []
    report = pyramid(url, levels=2, client=threads, progress=False, events=[told.append])
    assert sum(event.kind == BLOCK_DONE for event in told) == report.computed
    assert report.stages.keys() == {"read", "downsample", "write"}


@pytest.mark.parametrize("kind", KINDS)
def test_a_volume_is_the_same_after_levels_were_added_to_it(tmp_path: Path, threads: Client, kind: str) -> None:
    """Or a run that reads it could not go on after its pyramid was made."""
    url = stored(tmp_path / "image", RNG.integers(0, 9, (40, 40, 40)).astype("u1"), kind)
    before = open_source(url)
    pyramid(url, levels=1, factors=2, client=threads, progress=False)
    assert open_source(url) == before
    assert open_source(url, level=1) != before
    pyramid(url, levels=2, factors=2, overwrite=True, client=threads, progress=False)
    assert open_source(url) == before
    if kind == "precomputed":
        (tmp_path / "image" / ".chunkinfer" / "kept.json").write_text("cut sho")
        assert open_source(url) != before, "nothing tells that it is the same"
    create(url, ArraySpec(format=kind, shape=before.shape, dtype="u1", dims="zyx", chunks=(8, 8, 8)), overwrite=True)
    assert open_source(url) != before


@pytest.mark.parametrize("kind", ["ome-zarr", "precomputed"])
def test_in_a_bucket(s3_server: str, threads: Client, kind: str) -> None:
    boto3 = pytest.importorskip("boto3")
    boto3.client("s3", endpoint_url=s3_server).create_bucket(Bucket="pyramids")
    array = RNG.integers(0, 255, (16, 32, 32), dtype="u1")
    url = f"s3://pyramids/{kind}"
    cut = {"chunks": (16, 16, 16), "voxel_size": {}}
    fill(create(url, ArraySpec(format=kind, shape=array.shape, dtype="u1", dims=("z", "y", "x"), **cut)), array)
    pyramid(url, levels=2, client=threads, progress=False)
    checked(url, array, "mean", [(2, 2, 2)] * 2)
    pyramid(url, levels=1, method="max", overwrite=True, client=threads, progress=False)
    checked(url, array, "max", [(2, 2, 2)])
