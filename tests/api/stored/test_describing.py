"""`info` tells of every array at a URL, and of what is wrong with one without hiding the others."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import chunkinfer as ci
from chunkinfer.errors import SourceError, SourceNotFound
from chunkinfer.runs.record.ledger import Ledger
from chunkinfer.stores.files import Files
from chunkinfer.volumes.arrays.open import open_source
from tests.api.stored.conftest import IMAGE, PLACE, do

pytestmark = pytest.mark.usefixtures("em")

Copy = Callable[..., Any]

IMAGES: list[tuple[str, dict[str, Any], str, list[str], str]] = [
    ("p.precomputed", {"chunks": (16, 16, 16)}, "precomputed image", ["4_4_40", "8_8_40", "16_16_40"], "raw"),
    ("s.precomputed", {"chunks": (16, 16, 16), "shards": (32, 32, 32)}, "precomputed image", ["4_4_40", "8_8_40",
     "16_16_40"], "raw, gzip"),
    ("o.ome.zarr", {"chunks": (16, 16, 16)}, "zarr3 image", ["0", "1", "2"], "blosc (zstd)"),
    ("four", {"format": "ome-zarr-0.4", "compression": "gzip"}, "zarr2 image", ["0", "1", "2"], "gzip"),
]  # fmt: skip


@pytest.mark.parametrize(("url", "given", "kind", "paths", "codec"), IMAGES, ids=[row[0] for row in IMAGES])
def test_all_levels(copy: Copy, url: str, given: dict[str, Any], kind: str, paths: list[str], codec: str) -> None:
    copy("em.npy", url, pyramid=2, **given, **PLACE)
    found = json.loads(do(f"info {url} --json"))
    assert [level["name"] for level in found["levels"]] == paths
    assert {level["compression"] for level in found["levels"]} == {codec}
    assert found["run"]["done"] == found["run"]["blocks"] >= 1
    for number, level in enumerate(found["levels"]):
        source = open_source(url, level=number)
        assert tuple(level["shape"]) == source.shape
        assert level["voxel_size"] == source.voxel_size
        assert level["offset"] == source.offset
        assert tuple(level["chunks"]) == source.chunks
        assert level["shards"] == (list(source.shards) if source.shards != source.chunks else None)
        assert (level["dtype"], level["unit"], level["bytes"]) == ("uint16", "nm", 2 * np.prod(source.shape))
    text = do(f"info {url}")
    assert f"{kind}, 3 levels" in text
    assert all(f"{number}: {path} " in text for number, path in enumerate(paths))
    assert "z 40, y 50, x 60  uint16  40 x 4 x 4 nm" in text


@pytest.mark.parametrize(
    ("given", "codec"),
    [({}, "blosc (zstd)"), ({"format": "zarr2", "compression": "none"}, "none"), ({"format": "n5"}, "gzip"),
     ({"shards": False, "compression": "zstd"}, "zstd")],
)  # fmt: skip
def test_one_array(copy: Copy, given: dict[str, Any], codec: str) -> None:
    copy("em.npy", "out", **given)
    (array,) = ci.info("out").as_dict()["arrays"]
    assert (array["compression"], array["shape"], array["name"]) == (codec, [40, 50, 60], "")
    assert f"{given.get('format', 'zarr3')} array" in str(ci.info("out"))


def test_groups_list_what_they_hold(copy: Copy) -> None:
    import zarr

    group = zarr.open_group("g.zarr", mode="w")
    group.create_array("raw", shape=(6, 7, 8), dtype="u1")
    group.create_array("names", shape=(3,), dtype="u1")
    group.create_group("more").create_array("complex", shape=(6, 7, 8), dtype="c8")
    copy("em.npy", "g.zarr/image", format="ome-zarr", pyramid=1)
    found = {item["name"]: item for item in ci.info("g.zarr").as_dict()["arrays"]}
    assert list(found) == ["image/0", "image/1", "more/complex", "names", "raw"]
    assert found["raw"]["shape"] == [6, 7, 8]
    assert "complex64" in found["more/complex"]["problem"]
    assert "rank 1" in str(ci.info("g.zarr"))
    assert len(ci.info("g.zarr", array="image").as_dict()["levels"]) == 2
    assert json.loads(do("info g.zarr --array raw --json"))["arrays"][0]["dtype"] == "uint8"
    for name in ("s0", "s1"):
        copy("em.npy", f"em.n5/{name}", format="n5", chunks=(10, 10, 10))
    Path("em.n5/attributes.json").write_text('{"n5": "2.0.0", "downsamplingFactors": [[1, 1, 1], [2, 2, 2]]}')
    assert [level["name"] for level in ci.info("em.n5").as_dict()["levels"]] == ["s0", "s1"]


def test_files_list_what_they_hold() -> None:
    h5py, tifffile = pytest.importorskip("h5py"), pytest.importorskip("tifffile")
    with h5py.File("v.h5", "w") as file:
        file["volumes/raw"] = IMAGE
        file["volumes/labels/ids"] = IMAGE.astype("u8")
        file["volumes/labels/ids"].attrs["resolution"] = (40, 4, 4)
        file["names"] = [1, 2, 3]
        file["elsewhere"] = h5py.ExternalLink("other.h5", "x")
    found = {item["name"]: item for item in ci.info("v.h5").as_dict()["arrays"]}
    assert set(found) == {"volumes/raw", "volumes/labels/ids"}
    assert found["volumes/labels/ids"]["voxel_size"] == {"z": 40, "y": 4, "x": 4}
    assert found["volumes/labels/ids"]["dtype"] == "uint64"
    assert [item["name"] for item in ci.info("v.h5/volumes/labels").as_dict()["arrays"]] == ["volumes/labels/ids"]
    (one,) = ci.info("v.h5/volumes/raw").as_dict()["arrays"]
    assert one["shape"] == [40, 50, 60]
    with pytest.raises(SourceError, match="nothing of the name"):
        ci.info("v.h5/absent")
    with pytest.raises(SourceError, match=r"another file|nothing of the name"):
        ci.info("v.h5/elsewhere")
    with tifffile.TiffWriter("several.tif") as tif:
        tif.write(IMAGE[:4], photometric="minisblack")
        tif.write(IMAGE[:5, :20], photometric="minisblack")
    assert [item["shape"] for item in ci.info("several.tif").as_dict()["arrays"]] == [[4, 50, 60], [5, 20, 60]]
    with tifffile.TiffWriter("levels.tif") as tif:
        tif.write(IMAGE[:4], photometric="minisblack", subifds=1, tile=(16, 16))
        tif.write(IMAGE[:4, ::2, ::2], photometric="minisblack", subfiletype=1, tile=(16, 16))
    shapes = [item["shape"] for item in ci.info("levels.tif").as_dict()["levels"]]
    assert shapes == [[4, 50, 60], [4, 25, 30]]
    Path("damaged.h5").write_bytes(b"no HDF5")
    with pytest.raises(SourceError, match="cannot be opened as HDF5"):
        ci.info("damaged.h5")


def test_sections_that_are_missing() -> None:
    Image = pytest.importorskip("PIL.Image")
    Path("sections").mkdir()
    for number in (3, 4, 6, 9):
        Image.fromarray(IMAGE[number].astype("u1")).save(f"sections/z{number:03d}.png")
    for url in ("sections", "sections/*.png", "sections/z{z}.png"):
        text = do(f"info {url}")
        said = {line.partition(":")[0]: line.partition(":")[2].strip() for line in text.splitlines() if ":" in line}
        assert (said["files"], said["sections"], said["missing_sections"]) == ("4", "3 to 9", "5, 7-8")
        assert "z 7, y 50, x 60" in text


def test_a_run_that_is_not_finished(copy: Copy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chunkinfer.volumes.arrays.layout.COPY_BYTES", 1 << 12)
    copy("em.npy", "out.zarr", chunks=(20, 25, 30))
    ledger = Ledger(Files("out.zarr"))
    blocks = ci.info("out.zarr").run["blocks"]  # type: ignore[index]
    ledger.forget([0])
    assert f"{blocks - 1} of {blocks} blocks stored; chunkinfer status" in do("info out.zarr")
    (segment,) = Path("out.zarr/.chunkinfer").glob("done-*")
    segment.write_bytes(b"torn")
    assert "is damaged" in do("info out.zarr")
    np.testing.assert_array_equal(ci.open_volume("out.zarr").values, IMAGE)


def test_a_level_that_is_broken_does_not_hide_the_others(copy: Copy) -> None:
    copy("em.npy", "em.ome.zarr", pyramid=2)
    Path("em.ome.zarr/1/zarr.json").unlink()
    levels = ci.info("em.ome.zarr").as_dict()["levels"]
    assert ["problem" in level for level in levels] == [False, True, False]
    assert "1: /" in str(ci.info("em.ome.zarr"))
    for number in (0, 2):
        Path(f"em.ome.zarr/{number}/zarr.json").unlink()
    with pytest.raises(SourceError):
        ci.info("em.ome.zarr")


def test_nothing_there() -> None:
    for url in ("absent", "absent/*.png", "absent.zarr"):
        with pytest.raises(SourceNotFound):
            ci.info(url)
    Path("empty").mkdir()
    with pytest.raises(SourceError, match="neither an array nor a group"):
        ci.info("empty")
    with pytest.raises(SourceError, match=r"neither|None of|holds"):
        ci.info("zarr3://empty")
    Path("text.txt").write_text("x")
    with pytest.raises(SourceError, match="single file"):
        ci.info("text.txt")
    Path("mesh").mkdir()
    Path("mesh/info").write_text('{"@type": "neuroglancer_legacy_mesh"}')
    with pytest.raises(SourceError, match="without scales"):
        ci.info("mesh")


def test_in_a_bucket(copy: Copy, s3_server: str) -> None:
    boto3 = pytest.importorskip("boto3")
    boto3.client("s3", endpoint_url=s3_server).create_bucket(Bucket="looking")
    copy("em.npy", "s3://looking/em.precomputed", chunks=(32, 32, 32), pyramid=1)
    found = ci.info("s3://looking/em.precomputed")
    assert [level["shape"] for level in found.as_dict()["levels"]] == [[40, 50, 60], [20, 25, 30]]
    assert "1 of 1 blocks stored" in str(found)
