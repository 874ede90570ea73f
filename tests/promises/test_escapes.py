"""Names in metadata, ledgers and URLs that lead elsewhere: what is read, written and deleted stays where it belongs."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

import chunkinfer as ci
from chunkinfer.errors import ChunkinferError, DestinationError, ModelError, SourceError
from chunkinfer.networks.files import Remote, kept
from chunkinfer.stores.files import Files
from chunkinfer.stores.urls import locate

V = np.random.default_rng(0).integers(1, 200, (32, 32, 32), dtype=np.uint8)

LEADING_OUT = ("../escape", "../../escape", "a/../../escape", "..", ".", "a/./b", "a//b", "a\\..\\b", "/escape")
"""Names that an attacker would try."""


def changed(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Edit a JSON file."""
    meta = json.loads(path.read_text())
    change(meta)
    path.write_text(json.dumps(meta))


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, and every link."""
    files = [p for p in sorted(folder.rglob("*")) if p.is_file() or p.is_symlink()]
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else os.readlink(p).encode() for p in files}


@pytest.mark.parametrize("key", LEADING_OUT)
def test_a_scale_of_precomputed_stays_below_its_info(key: str, tmp_path: Path) -> None:
    """When a run goes on to write it: an output's metadata is read again then. (Only reading, the format allows it.)"""
    out, outside = tmp_path / "home" / "out", tmp_path / "escape"
    ci.save(V, out, format="precomputed", chunks=(16, 16, 16), progress=False)
    (inside,) = (p for p in out.iterdir() if p.is_dir() and not p.name.startswith("."))
    for place in (outside, tmp_path / "home" / "escape"):  # what such a key would find
        place.mkdir()
        for chunk in inside.iterdir():
            (place / chunk.name).write_bytes(chunk.read_bytes())
    changed(out / "info", lambda info: info["scales"][0].update(key=key))
    for ledger in (out / ".chunkinfer").glob("done-*"):
        ledger.unlink()
    before = {p: tree(p) for p in (outside, tmp_path / "home" / "escape")}
    with pytest.raises(ChunkinferError):
        ci.save(V, out, format="precomputed", chunks=(16, 16, 16), progress=False)
    with contextlib.suppress(ChunkinferError):
        ci.save(V + 1, out, format="precomputed", chunks=(16, 16, 16), overwrite=True, progress=False)
    assert {p: tree(p) for p in before} == before
    assert not Path("/escape").exists()


@pytest.mark.parametrize("name", [n for n in LEADING_OUT if n != "/escape"])
def test_a_level_or_array_of_a_group_stays_in_it(name: str, tmp_path: Path) -> None:
    group = tmp_path / "home" / "group"
    zarr.create_group(group)
    for outside in (tmp_path / "escape", tmp_path / "home" / "escape"):
        zarr.create_array(outside, data=V, dimension_names=["z", "y", "x"])
    multiscales = [{"version": "0.4", "datasets": [{"path": name}], "axes": ["z", "y", "x"]}]
    consolidated = {"kind": "inline", "must_understand": False, "metadata": {name: {"node_type": "array"}}}
    for change in (
        {"attributes": {"multiscales": multiscales}},
        {"attributes": {"ome": {"multiscales": multiscales}}},
        {"consolidated_metadata": consolidated},
    ):
        changed(group / "zarr.json", lambda meta, change=change: meta.update(change))
        with pytest.raises(SourceError):
            ci.open_volume(group)
        changed(group / "zarr.json", lambda meta, change=change: [meta.pop(k) for k in change])
    with pytest.raises(SourceError):
        ci.open_volume(group, array=name)


@pytest.mark.parametrize("format", ["zarr3", "zarr2", "precomputed"])
def test_overwriting_deletes_nothing_that_links_lead_to(format: str, tmp_path: Path) -> None:
    out, outside = tmp_path / "out", tmp_path / "outside"
    ci.save(V, out, format=format, chunks=(16, 16, 16), progress=False)
    folder = next(p for p in out.iterdir() if p.is_dir() and not p.name.startswith("."))
    folder.rename(outside)  # the chunks lie elsewhere, and a link in their place
    folder.symlink_to(outside)
    (outside / "mine").write_text("mine")
    before = tree(outside).keys()
    with contextlib.suppress(DestinationError):
        ci.save(V + 1, out, format=format, chunks=(16, 16, 16), overwrite=True, progress=False)
        assert np.array_equal(ci.open_volume(out).values, V + 1)
    assert (outside / "mine").read_text() == "mine"
    assert tree(outside).keys() == before  # its own chunks may be written anew


@pytest.mark.parametrize("name", LEADING_OUT)
def test_objects_of_a_ledger_stay_beside_it(name: str, tmp_path: Path) -> None:
    (tmp_path / "escape").write_bytes(b"mine")
    files = Files(tmp_path / "home" / "out")
    attempts: list[Callable[[], object]] = [
        lambda: files.read(name), lambda: files.write(name, b"theirs"), lambda: files.delete(name),
    ]  # fmt: skip
    for attempt in attempts:
        if name == "/escape":  # taken as a name below
            attempt()
        else:
            with pytest.raises(SourceError):
                attempt()
    assert (tmp_path / "escape").read_bytes() == b"mine"
    assert not Path("/escape").exists()


@pytest.mark.parametrize(
    "url", ["https://host/a/..%2F..%2F.bashrc", "s3://bucket/..%2f..%2f.bashrc", "gs://b/a/../c.pt"]
)
def test_a_model_from_a_url_is_kept_under_its_last_name(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    name = Remote.at(locate(url)).name
    assert name in (".bashrc", "c.pt")


@pytest.mark.parametrize("url", ["https://host/a/..", "https://host/%2e%2e", "s3://bucket/a/.", "s3://bucket"])
def test_a_model_has_a_name(url: str) -> None:
    with pytest.raises((SourceError, ModelError)):
        Remote.at(locate(url))


def test_the_cache_replaces_links_and_never_what_they_lead_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from chunkinfer.networks.files import Carried, digest_of

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    digest = digest_of([b"network"])
    folder = tmp_path / "cache" / "chunkinfer" / "models" / digest
    folder.mkdir(parents=True)
    (tmp_path / "mine").write_bytes(b"mine")
    (folder / "net.pt").symlink_to(tmp_path / "mine")
    assert Path(kept(digest, "net.pt", Carried({"net.pt": b"network"}))).read_bytes() == b"network"
    assert (tmp_path / "mine").read_bytes() == b"mine"
