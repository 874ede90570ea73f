"""A copy holds the same voxels in the same places, whatever it is stored as; and what it is stays what it is."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import chunkinfer as ci
from chunkinfer.errors import DestinationError
from chunkinfer.runs.record.ledger import Ledger
from chunkinfer.stores.files import Files
from chunkinfer.volumes.arrays.open import open_source
from chunkinfer.volumes.arrays.source import Source
from tests.api.stored.conftest import IMAGE, LABELS, PLACE, do

pytestmark = pytest.mark.usefixtures("em")

Copy = Callable[..., Any]


def same(url: str, voxels: Any = IMAGE, level: int = 0) -> Source:
    """What is stored has these voxels, of this type, where the first copy put them."""
    stored = ci.open_volume(url, level=level)
    assert stored.dtype == voxels.dtype
    np.testing.assert_array_equal(stored.values, voxels)
    found = open_source(url)
    assert tuple(found.voxel_size.values()) == PLACE["voxel_size"]
    assert found.unit == "nm"
    assert tuple(found.offset.values()) == PLACE["offset"]
    return found


def test_through_all_formats_in_other_chunks(copy: Copy) -> None:
    copy("em.npy", "a.zarr", chunks=(8, 16, 32), **PLACE)
    assert same("a.zarr").chunks == (8, 16, 32)
    copy("a.zarr", "b.precomputed", chunks=(16, 16, 16), shards=(32, 32, 32))
    assert same("b.precomputed").shards == (32, 32, 32)
    copy("b.precomputed", "c.ome.zarr", chunks=(20, 20, 20), shards=False, pyramid=2)
    assert same("c.ome.zarr").shards == (20, 20, 20)
    copy("c.ome.zarr", "d", format="n5", compression="blosc")
    assert same("d").format == "n5"
    copy("n5://d", "e.zarr", format="zarr2", chunks=(40, 7, 60))
    assert same("e.zarr").chunks == (40, 7, 60)
    coarse = ci.open_volume("c.ome.zarr", level=2)
    copy("c.ome.zarr", "f.zarr", level=2)
    np.testing.assert_array_equal(ci.open_volume("f.zarr").values, coarse.values)
    np.testing.assert_array_equal(ci.open_volume("f.zarr").x, coarse.x)


def test_a_box_of_an_array_of_a_group(copy: Copy) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File("v.h5", "w") as file:
        file["raw"], file["other"] = IMAGE, IMAGE
    do("copy v.h5 part.precomputed --array raw --box z=10:30,x=7: --voxel-size 40,4,4 --chunks 16,16,16")
    part = ci.open_volume("part.precomputed")
    np.testing.assert_array_equal(part.values, IMAGE[10:30, :, 7:])
    assert open_source("part.precomputed").offset == {"z": 10, "y": 0, "x": 7}
    assert "0 computed, 1 stored before" in do(
        "copy v.h5 part.precomputed --array raw --box 10:30,:,7: --voxel-size 40,4,4 --chunks 16,16,16"
    )
    assert "is no box" in do("copy v.h5 x.zarr --box z=1:2,3:4", 2)


def test_labels_stay_labels(copy: Copy) -> None:
    """Also of a type, or by a tool, that does not say so by itself."""
    copy("labels.npy", "seg.precomputed", **PLACE)
    info = json.loads(Path("seg.precomputed/info").read_text())
    assert info["type"] == "segmentation"
    assert info["scales"][0]["encoding"] == "compressed_segmentation"
    same("seg.precomputed", LABELS)

    small = LABELS.astype("u2")
    np.save("small.npy", small)
    copy("small.npy", "foreign.precomputed", **PLACE)
    info = json.loads(Path("foreign.precomputed/info").read_text()) | {"type": "segmentation"}
    del info["chunkinfer"]
    Path("foreign.precomputed/info").write_text(json.dumps(info))
    copy("foreign.precomputed", "levels.ome.zarr", pyramid=1)
    same("levels.ome.zarr", small)
    blocks = small.reshape(40, 25, 2, 30, 2).transpose(0, 1, 3, 2, 4).reshape(40, 25, 30, 4)
    modes = np.apply_along_axis(lambda v: np.bincount(v).argmax(), -1, blocks)
    np.testing.assert_array_equal(ci.open_volume("levels.ome.zarr", level=1).values, modes)
    copy("levels.ome.zarr", "back.precomputed")
    assert json.loads(Path("back.precomputed/info").read_text())["type"] == "segmentation"
    copy("seg.precomputed", "raw.precomputed", encoding="raw")
    assert json.loads(Path("raw.precomputed/info").read_text())["scales"][0]["encoding"] == "raw"


def test_source_chunks_are_read_about_once(copy: Copy, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sections into cubes, of some blocks: each block is wide, so that few of them meet a section."""
    wide = np.random.default_rng(1).integers(0, 255, (70, 260, 260), np.uint8)
    np.save("wide.npy", wide)
    copy("wide.npy", "sections.zarr", chunks=(1, 260, 260), shards=False)
    read: Counter[int] = Counter()
    plain = Source._read

    def counted(self: Source, bounds: Any) -> Any:
        if self.url.endswith("sections.zarr"):
            read.update(range(*bounds[0]))
        return plain(self, bounds)

    with monkeypatch.context() as patch:
        patch.setattr("chunkinfer.volumes.arrays.layout.COPY_BYTES", 1 << 20)
        patch.setattr(Source, "_read", counted)
        copy("sections.zarr", "cubes.zarr", format="zarr2", chunks=(32, 32, 32))
    blocks = Ledger(Files("cubes.zarr")).header()["destination"]["counts"]  # type: ignore[index]
    assert np.prod(blocks) > 1
    assert max(read.values()) <= blocks[1] * blocks[2] <= 4
    np.testing.assert_array_equal(ci.open_volume("cubes.zarr").values, wide)


def test_rows_of_a_flat_file_are_copied_whole(copy: Copy, monkeypatch: pytest.MonkeyPatch) -> None:
    wide = np.arange(64 * 128 * 512, dtype="u4").reshape(64, 128, 512)
    np.save("wide.npy", wide)
    monkeypatch.setattr("chunkinfer.volumes.arrays.layout.COPY_BYTES", 7 << 20)
    copy("wide.npy", "wide.precomputed", chunks=(64, 64, 64))
    header = Ledger(Files("wide.precomputed")).header()
    assert header is not None
    assert header["destination"]["counts"] == [1, 2, 1]
    np.testing.assert_array_equal(ci.open_volume("wide.precomputed").values, wide)


KILLED = """
import os, signal, sys, time
import chunkinfer as ci
import chunkinfer.api.save  # which takes the constant as it is
from chunkinfer.volumes.arrays import layout
layout.COPY_BYTES = 1 << 12
done = 0
def kill(event):
    global done
    if event.kind == "block done":
        time.sleep(0.6 if done == 0 else 0)  # the ledger is written every half second
        done += 1
        if done == 5:
            os.kill(os.getpid(), signal.SIGKILL)
if __name__ == "__main__":
    ci.copy("em.npy", "out.precomputed", chunks=(16, 16, 16), progress=False, events=[kill])
"""


@pytest.mark.slow
@pytest.mark.smoke
def test_a_copy_that_was_killed_goes_on(copy: Copy, monkeypatch: pytest.MonkeyPatch) -> None:
    killed = subprocess.run([sys.executable, "-c", KILLED], timeout=100)
    assert killed.returncode == -signal.SIGKILL
    monkeypatch.setattr("chunkinfer.volumes.arrays.layout.COPY_BYTES", 1 << 12)
    report = copy("em.npy", "out.precomputed", chunks=(16, 16, 16))
    assert report.skipped >= 1
    assert report.computed + report.skipped == 48
    np.testing.assert_array_equal(ci.open_volume("out.precomputed").values, IMAGE)
    assert "48 of 48 blocks" in str(ci.info("out.precomputed"))


@pytest.mark.parametrize(("url", "given"), [("x.precomputed", {"compression": "zstd"}), ("em.npy", {})])
def test_what_cannot_be_written_is_refused_before(copy: Copy, url: str, given: dict[str, Any]) -> None:
    with pytest.raises(DestinationError):
        copy("em.npy", url, **given)
    np.testing.assert_array_equal(np.load("em.npy"), IMAGE)


def test_every_chunk_of_an_odd_shape(copy: Copy) -> None:
    """Cuts that divide nothing."""
    for number, chunks in enumerate(product((7,), (50, 13), (11,))):
        copy("em.npy", f"odd{number}.zarr", chunks=chunks, shards=False, **PLACE)
        copy(f"odd{number}.zarr", f"odd{number}.precomputed", chunks=(9, 10, 11))
        same(f"odd{number}.precomputed")


def test_the_document_runs(copy: Copy) -> None:
    """Every command and every line of docs/stored.md, on volumes of the test."""
    h5py = pytest.importorskip("h5py")
    text = (Path(__file__).parents[3] / "docs" / "stored.md").read_text()
    with h5py.File("v.h5", "w") as file:
        file["raw"], file["other"] = IMAGE, IMAGE
    with h5py.File("labels.h5", "w") as file:
        file["volumes/labels"], file["raw"] = LABELS, LABELS
    small = (IMAGE >> 8).astype("u1")
    np.save("small.npy", small)
    copy("small.npy", "em.zarr", **PLACE)
    copy("small.npy", "bucket.precomputed", **PLACE)
    copy("em.zarr", "em.precomputed")
    commands = re.findall(r"^    chunkinfer (.*)$", text, re.MULTILINE)
    commands = [c.partition("#")[0].replace("s3://bucket/em", "bucket") for c in commands]
    for large, fits in (("1024:2048", "10:30"), ("0:100", "0:20"), ("512,512,512", "64,64,64")):
        commands = [c.replace(large, fits) for c in commands]
    looks, copies, deletions = ([c for c in commands if c.startswith(verb)] for verb in ("info", "copy", "delete"))
    assert (len(looks), len(copies), len(deletions)) == (2, 3, 3)
    for command in looks:
        do(command)
    ci.delete("em.precomputed")
    for command in copies:
        do(command)
    assert "segmentation" in str(ci.info("labels.precomputed"))
    asks, certain, leftovers = deletions
    with pytest.raises(DestinationError, match="no terminal"):
        do(asks)
    do(f"{leftovers} --yes")
    do(certain)
    assert not Path("em.precomputed").exists()
    (block,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    exec(block)
    assert not Path("em.precomputed").exists()
