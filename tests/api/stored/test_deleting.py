"""A deletion deletes a volume and nothing else, is finished after a crash, and asks before it begins."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import chunkinfer as ci
from chunkinfer.errors import DestinationError, OutputInUse, SourceError, SourceNotFound
from chunkinfer.runs.record.ledger import Ledger
from chunkinfer.stores.files import Files
from chunkinfer.volumes.arrays.create import ArraySpec, create
from tests.api.stored.conftest import IMAGE, PLACE, do
from tests.lib.storage.crashing import a_crash_after
from tests.lib.storage.holding import Holder

pytestmark = pytest.mark.usefixtures("em")

Copy = Callable[..., Any]

STORED: dict[str, dict[str, Any]] = {
    "zarr3": {"shards": (16, 32, 32), "chunks": (8, 16, 16)},
    "zarr2": {"format": "zarr2", "chunks": (16, 16, 16)},
    "n5": {"format": "n5", "chunks": (16, 16, 16)},
    "precomputed": {"format": "precomputed", "chunks": (16, 16, 16), "pyramid": 2},
    "precomputed, shards": {"format": "precomputed", "shards": (32, 32, 32), "chunks": (16, 16, 16), "pyramid": 1},
    "ome-zarr": {"format": "ome-zarr", "chunks": (16, 16, 16), "shards": False, "pyramid": 2},
    "ome-zarr-0.4": {"format": "ome-zarr-0.4", "chunks": (16, 16, 16), "pyramid": 2},
}


def files_in(folder: str | Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in Path(folder).rglob("*") if path.is_file())


@pytest.mark.parametrize("name", STORED)
def test_all_that_belongs_to_a_volume_goes_and_nothing_else(copy: Copy, name: str) -> None:
    copy("em.npy", "out", **STORED[name], **PLACE)
    before = files_in("out")
    found = ci.delete("out", dry_run=True)
    assert files_in("out") == before
    assert (found.objects, found.stays, found.done) == (len(before), (), False)
    assert found.bytes == sum((Path("out") / file).stat().st_size for file in before)
    assert "z 40, y 50, x 60, uint16" in found.what[0]
    assert "levels" in found.what[0] or not STORED[name].get("pyramid")
    for mine in ("notes.txt", "mesh/1:0", "4_4_40/notes.txt", "0/readme.md"):
        Path("out", mine).parent.mkdir(exist_ok=True, parents=True)
        Path("out", mine).write_text("mine")
    Path("beside").write_text("mine too")
    assert set(ci.delete("out", dry_run=True).stays) == {"notes.txt", "mesh/1:0", "4_4_40/notes.txt", "0/readme.md"}
    assert ci.delete("out").done
    assert files_in("out") == ["0/readme.md", "4_4_40/notes.txt", "mesh/1:0", "notes.txt"]
    assert sorted(os.listdir()) == ["beside", "em.npy", "labels.npy", "out"]
    with pytest.raises(SourceNotFound, match="No volume is at"):
        ci.delete("out")


@pytest.mark.parametrize("name", ["zarr3", "precomputed, shards", "ome-zarr-0.4"])
def test_nothing_is_left_of_a_volume_alone_in_its_folder(copy: Copy, name: str) -> None:
    copy("em.npy", "out", **STORED[name], **PLACE)
    Path("out", ".chunkinfer", "pipeline.yaml").write_text("steps: []")
    ci.delete("out")
    assert not Path("out").exists()


def test_what_is_no_volume_is_refused(copy: Copy) -> None:
    import zarr

    zarr.open_group("group.zarr", mode="w").create_array("a", shape=(4, 4), dtype="u1")
    copy("em.npy", "several.ome.zarr")
    zarr.open_group("several.ome.zarr/other", mode="w").create_array("a", shape=(4, 4), dtype="u1")
    copy("em.npy", "levels.n5/s0", format="n5")
    Path("folder").mkdir()
    Path("folder/thesis.tex").write_text("years")
    Path("mesh").mkdir()
    Path("mesh/info").write_text('{"@type": "neuroglancer_legacy_mesh"}')
    before = files_in(".")
    for url, kind, message in (
        ("group.zarr", DestinationError, "is a group"), ("several.ome.zarr", DestinationError, "more than one image"),
        ("levels.n5", DestinationError, "is a group"), ("folder", SourceNotFound, "No volume"),
        (".", SourceNotFound, "No volume"), ("absent", SourceNotFound, "No volume"),
        ("em.npy", DestinationError, "is a file"), ("mesh", DestinationError, "not that of an array"),
        ("http://127.0.0.1:1/em.zarr", DestinationError, "only be read"),
    ):  # fmt: skip
        with pytest.raises(kind, match=message):
            ci.delete(url)
    assert files_in(".") == before
    assert not Path("absent").exists()


def test_a_volume_that_a_run_writes_is_refused(copy: Copy) -> None:
    copy("em.npy", "out.zarr")
    with Holder("out.zarr") as holder:
        assert f"process {holder.process.pid} of" in ci.delete("out.zarr", dry_run=True).holder
        for leftovers in (False, True):
            with pytest.raises(OutputInUse, match="being written"):
                ci.delete("out.zarr", leftovers=leftovers)
        np.testing.assert_array_equal(ci.open_volume("out.zarr").values, IMAGE)
    # Killed, it holds it no longer.
    assert "or died" in str(ci.delete("out.zarr", leftovers=True, dry_run=True))
    ci.delete("out.zarr", leftovers=True)
    assert Files("out.zarr").read("lease.json") is None
    np.testing.assert_array_equal(ci.open_volume("out.zarr").values, IMAGE)
    ci.delete("out.zarr")
    assert not Path("out.zarr").exists()


@pytest.mark.parametrize("name", ["zarr2", "precomputed", "ome-zarr", "ome-zarr-0.4"])
@pytest.mark.parametrize("after", [1, 2, 30])
def test_a_deletion_that_was_cut_short_is_finished(copy: Copy, name: str, after: int) -> None:
    copy("em.npy", "out", **STORED[name], **PLACE)
    with a_crash_after(after):
        ci.delete("out")
    found = ci.delete("out", leftovers=after in (2, 30))
    assert "cut short" in found.what[0]
    assert not Path("out").exists()


HOSTILE = [
    {"metadata": ["../mine/info"], "folders": []},
    {"metadata": ["notes.txt"], "folders": []},
    {"metadata": [".zattrs", "/etc/hostname"], "folders": []},
    {"metadata": [], "folders": ["../mine/"]},
    {"metadata": [], "folders": [""]},
    {"metadata": [], "folders": ["/"]},
    {"metadata": [], "folders": ["photos"]},
    {"metadata": [], "folders": ["a/../../mine/"]},
    {"metadata": [], "folders": [{"a": 1}]},
    {"metadata": "info", "folders": []},
    {"metadata": [["info"]], "folders": []},
    ["info"],
    None,
]


@pytest.mark.parametrize("said", HOSTILE, ids=json.dumps)
def test_a_note_of_a_deletion_that_nobody_wrote_deletes_nothing(said: Any) -> None:
    Path("mine/photos").mkdir(parents=True)
    Path("mine/info").write_text("mine")
    Path("out/photos").mkdir(parents=True)
    Path("out/notes.txt").write_text("mine")
    Path("out/photos/cat.png").write_text("mine")
    Files("out").write("erasing.json", b"{" if said is None else json.dumps(said).encode())
    before = files_in(".")
    for attempt in (
        lambda: ci.delete("out"),
        lambda: ci.delete("out", leftovers=True),
        lambda: create("out", ArraySpec(shape=(4, 4), dtype="u1", dims="yx")),
        lambda: create("out", ArraySpec(shape=(4, 4), dtype="u1", dims="yx"), overwrite=True),
    ):
        with pytest.raises(DestinationError, match="not what a deletion writes down"):
            attempt()
        assert files_in(".") == before


def test_a_note_that_looks_right_deletes_only_what_looks_like_a_volume() -> None:
    Path("out/photos/c").mkdir(parents=True)
    for name in ("photos/cat.png", "photos/c/cat.png", "thesis.tex", "photos/c/0"):
        Path("out", name).write_text("mine")
    Files("out").write("erasing.json", json.dumps({"metadata": ["info"], "folders": ["photos/"]}).encode())
    assert set(ci.delete("out").stays) == {"photos/cat.png", "photos/c/cat.png", "thesis.tex"}
    assert files_in("out") == ["photos/c/cat.png", "photos/cat.png", "thesis.tex"]


def test_keys_of_scales_do_not_lead_elsewhere(copy: Copy) -> None:
    copy("em.npy", "v.precomputed")
    info = json.loads(Path("v.precomputed/info").read_text())
    info["scales"][0]["key"] = "../other"
    Path("v.precomputed/info").write_text(json.dumps(info))
    Path("other").mkdir()
    Path("other/0-40_0-50_0-60").write_text("mine")
    with pytest.raises(SourceError, match=r"\.\./other"):
        ci.delete("v.precomputed")
    assert Path("other/0-40_0-50_0-60").exists()


# ---- what dead runs leave ------------------------------------------------------------------------------------------

KILLED = """
import os, signal, sys
import chunkinfer as ci
def kill(event):
    if event.kind == "block done":
        os.kill(os.getpid(), signal.SIGKILL)
if __name__ == "__main__":
    ci.pyramid(sys.argv[1], levels=2, factors=(1, 2, 2), progress=False, events=[kill])
"""


@pytest.mark.parametrize("name", ["em.precomputed", pytest.param("em.ome.zarr", marks=pytest.mark.slow)])
def test_levels_that_were_begun(copy: Copy, threads: Any, name: str) -> None:
    copy("em.npy", name, chunks=(8, 16, 16), **PLACE)
    before = {file: Path(name, file).read_bytes() for file in files_in(name)}
    assert ci.delete(name, leftovers=True).what == ()
    killed = subprocess.run([sys.executable, "-c", KILLED, name], timeout=100)
    assert killed.returncode == -signal.SIGKILL
    begun = [file for file in files_in(name) if file not in before]
    assert any(file.startswith(".chunkinfer/pyramid-1/") for file in begun)
    found = ci.delete(name, leftovers=True, dry_run=True)
    assert "begun and never announced" in found.what[-1]
    assert "objects" in do(f"delete {name} --leftovers --yes")
    assert len(begun) >= found.objects > 1
    assert {file: Path(name, file).read_bytes() for file in files_in(name)} == before
    np.testing.assert_array_equal(ci.open_volume(name).values, IMAGE)
    ci.pyramid(name, levels=1, client=threads, progress=False)
    assert ci.delete(name, leftovers=True).what == ()
    assert len(ci.info(name).as_dict()["levels"]) == 2


@pytest.mark.parametrize("name", ["em.precomputed", "em.ome.zarr"])
@pytest.mark.parametrize("apart", [True, False])
def test_levels_of_a_run_that_was_killed_before_it_announced_them(
    copy: Copy, monkeypatch: pytest.MonkeyPatch, name: str, apart: bool
) -> None:
    """Those that were written with the image are as complete as it is; others are made anew by the same call."""
    if apart:
        monkeypatch.setattr("chunkinfer.volumes.arrays.layout.COPY_BYTES", 1)
    given: dict[str, Any] = {"chunks": (8, 16, 16), "shards": False, "pyramid": 2}
    copy("em.npy", name, **given)
    levels = [ci.open_volume(name, level=level).values for level in range(3)]
    before = files_in(name)
    file = Path(name, "info" if name == "em.precomputed" else "zarr.json")
    document = json.loads(file.read_text())
    image = document if "scales" in document else document["attributes"]["ome"]["multiscales"][0]
    del image["scales" if "scales" in image else "datasets"][1:]
    file.write_text(json.dumps(document))
    found = ci.delete(name, leftovers=True)
    assert bool(found.what) == apart
    assert Path(name, ".chunkinfer/pyramid.json").exists()
    assert any(key.startswith(".chunkinfer/pyramid-1/") for key in found.keys) == apart
    assert copy("em.npy", name, **given).computed == 0
    for level, voxels in enumerate(levels):
        np.testing.assert_array_equal(ci.open_volume(name, level=level).values, voxels)
    assert len(files_in(name)) == len(before)


def test_levels_of_an_unfinished_run_are_none_of_them(copy: Copy, monkeypatch: pytest.MonkeyPatch) -> None:
    """It goes on with them."""
    monkeypatch.setattr("chunkinfer.volumes.arrays.layout.COPY_BYTES", 1 << 12)
    copy("em.npy", "em.ome.zarr", chunks=(8, 16, 16), shards=False, pyramid=2)
    levels = [ci.open_volume("em.ome.zarr", level=level).values for level in range(3)]
    Ledger(Files("em.ome.zarr")).forget([3, 4])
    document = json.loads(Path("em.ome.zarr/zarr.json").read_text())
    del document["attributes"]["ome"]["multiscales"][0]["datasets"][1:]
    Path("em.ome.zarr/zarr.json").write_text(json.dumps(document))
    assert ci.delete("em.ome.zarr", leftovers=True).what == ()
    report = copy("em.npy", "em.ome.zarr", chunks=(8, 16, 16), shards=False, pyramid=2)
    assert report.computed == 2
    for level, voxels in enumerate(levels):
        np.testing.assert_array_equal(ci.open_volume("em.ome.zarr", level=level).values, voxels)


def test_the_ledger_of_a_volume_that_is_gone_and_files_of_killed_writers(copy: Copy) -> None:
    copy("em.npy", "out.zarr", chunks=(16, 16, 16), shards=False)
    Path("out.zarr/c/0/0/0.__lock").write_text("half")
    Path("out.zarr/notes.__lock").write_text("mine")
    found = ci.delete("out.zarr", leftovers=True)
    assert (found.keys, found.what) == (("c/0/0/0.__lock",), ("files whose writer was killed",))
    np.testing.assert_array_equal(ci.open_volume("out.zarr").values, IMAGE)
    Path("out.zarr/c/0/0/0.__lock").write_text("half")
    Path("out.zarr/zarr.json").unlink()
    assert "the ledger of a volume that is gone" in str(ci.delete("out.zarr", leftovers=True))
    assert not Path("out.zarr/.chunkinfer").exists()
    assert len(files_in("out.zarr/c")) == 49  # without its metadata, nobody knows what they are


def test_the_note_of_a_deletion_that_is_over(copy: Copy) -> None:
    """Of a volume that is there: it was overwritten by another tool, or the crash came before anything was deleted."""
    copy("em.npy", "out.precomputed")
    Files("out.precomputed").write("erasing.json", b'{"metadata": ["info"], "folders": ["../out/"]}')
    assert ci.delete("out.precomputed", leftovers=True).keys == (".chunkinfer/erasing.json",)
    assert Files("out.precomputed").read("erasing.json") is None
    np.testing.assert_array_equal(ci.open_volume("out.precomputed").values, IMAGE)


def test_a_killed_writers_file_does_not_stop_what_comes_next(copy: Copy) -> None:
    copy("em.npy", "out.zarr", chunks=(16, 16, 16), shards=False)
    Path("out.zarr/c/0/0/0.__lock").write_text("half")
    ci.delete("out.zarr")
    copy("em.npy", "out.zarr")
    np.testing.assert_array_equal(ci.open_volume("out.zarr").values, IMAGE)


# ---- the command line ----------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.smoke
def test_without_a_terminal_nobody_is_asked(copy: Copy) -> None:
    copy("em.npy", "my out.zarr")
    run = [sys.executable, "-m", "chunkinfer.tools.cli", "delete", "my out.zarr"]
    refused = subprocess.run(run, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=100)
    assert refused.returncode == 1
    assert "chunkinfer delete 'my out.zarr' --yes" in refused.stderr
    assert "z 40, y 50, x 60, uint16" in refused.stdout
    assert "Traceback" not in refused.stderr
    assert Path("my out.zarr").exists()
    os.rename("my out.zarr", "out.zarr")
    assert "objects deleted" in do("delete out.zarr --yes")
    assert not Path("out.zarr").exists()


@pytest.mark.parametrize(("answer", "there"), [("\n", True), pytest.param("y\n", False, marks=pytest.mark.slow)])
def test_at_a_terminal_somebody_is_asked(copy: Copy, answer: str, there: bool) -> None:
    copy("em.npy", "out.zarr")
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "chunkinfer.tools.cli", "delete", "out.zarr"]
    with subprocess.Popen(command, stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        os.close(theirs)
        os.write(ours, answer.encode())
        said, _ = process.communicate(timeout=100)
    os.close(ours)
    assert b"Delete it? [y/N]" in said
    assert process.returncode == (1 if there else 0)
    assert Path("out.zarr").exists() == there


@pytest.mark.slow
@pytest.mark.smoke
def test_in_a_bucket(copy: Copy, s3_server: str) -> None:
    boto3 = pytest.importorskip("boto3")
    client = boto3.client("s3", endpoint_url=s3_server)
    client.create_bucket(Bucket="deleting")

    def listed() -> list[str]:
        return sorted(o["Key"] for o in client.list_objects_v2(Bucket="deleting").get("Contents", []))

    copy("em.npy", "s3://deleting/out.precomputed", chunks=(32, 32, 32), pyramid=1)
    for key in ("out.precomputed/notes.txt", "out.precomputed2/info", "other"):
        client.put_object(Bucket="deleting", Key=key, Body=b"mine")
    found = ci.delete("s3://deleting/out.precomputed", dry_run=True)
    assert found.objects == len(listed()) - 3
    assert (found.bytes, found.stays) == (None, ("notes.txt",))
    ci.delete("s3://deleting/out.precomputed")
    assert listed() == ["other", "out.precomputed/notes.txt", "out.precomputed2/info"]
