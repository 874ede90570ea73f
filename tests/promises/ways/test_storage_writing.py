"""What is said of outputs that cannot be made, or changed, works."""

from __future__ import annotations

import errno
import zipfile
from collections.abc import Callable
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import chunkinfer as ci
from chunkinfer.errors import DestinationError
from chunkinfer.runs.record.ledger import Ledger, _Name
from chunkinfer.stores.files import Files
from chunkinfer.volumes.arrays import create
from chunkinfer.volumes.formats import ome
from tests.lib.ways.advice import followed
from tests.lib.ways.rows import AFFINITIES, COUNT, NET, QUIET, VOLUME, Row, each, refusals, row
from tests.lib.ways.stored import LIBRARIES, change
from tests.lib.ways.stored import array as stored

tifffile = pytest.importorskip("tifffile")

BYTES = (VOLUME * 200).astype("u1")
TIMES = VOLUME.expand_dims("t")


def saved(array: Any, url: Any, **given: Any) -> Any:
    """At a place of which a file was made by another way out."""
    if (made := Path(url)).is_file():
        made.unlink()
    return ci.save(array, url, **{**QUIET, "overwrite": made.exists(), **given})


def anew(array: Any, suffix: str, **given: Any) -> Any:
    """Each time at another place."""
    return ci.save(array, f"out-{next(COUNT)}{suffix}", **{**QUIET, **given})


def saves(what: str, lines: int, array: Any = VOLUME, suffix: str = "", **given: Any) -> Row:
    """An output that is refused, whatever lies there."""
    names = {**LIBRARIES, "array": array, "save": saved, "url": f"lines{suffix}"}
    return row(what, lines, partial(anew, suffix=suffix), names, array=array, **given)


VALUES = [
    saves("The format of an output", 2, format="hdf5"),
    saves("The compression of a zarr array", 2, compression="lzma"),
    saves("The encoding of a zarr array", 1, encoding="jpeg"),
    saves("zarr2 has no shards", 2, format="zarr2", chunks=(4, 4, 4), shards=(8, 8, 8)),
    saves("zarr2 has no shards", 2, suffix=".ome.zarr", format="ome-zarr-0.4", chunks=(4, 4, 4), shards=(8, 8, 8)),
    saves("The data type of an N5 dataset", 2, VOLUME > 0.5, ".n5"),
    saves("The shards of an N5 dataset", 2, suffix=".n5", chunks=(4, 4, 4), shards=(8, 8, 8)),
    saves("The encoding of an N5 dataset", 1, suffix=".n5", encoding="jpeg"),
    saves("The compression of an N5 dataset", 2, suffix=".n5", compression="lzma"),
    saves("The axes of a precomputed volume", 2, TIMES, ".precomputed"),
    saves("The data type of a precomputed volume", 2, VOLUME.astype("f8"), ".precomputed"),
    saves("The data type of a precomputed volume", 2, BYTES.astype("i8"), ".precomputed"),
    saves("The data type of a precomputed volume", 2, VOLUME > 0.5, ".precomputed"),
    saves("The compression of a precomputed volume", 1, suffix=".precomputed", compression="zstd"),
    saves("The channels in a chunk", 2, AFFINITIES, ".precomputed", chunks=(1, 8, 8, 8)),
    saves("The encoding of a precomputed volume", 2, suffix=".precomputed", encoding="compresso"),
    saves("The encoding of 1 channel(s) of float32", 2, suffix=".precomputed", encoding="jpeg"),
    saves("A segmentation cannot be", 2, VOLUME.assign_attrs(type="segmentation"), ".precomputed"),
    saves("is not an integer", 1, VOLUME.assign_coords(z=np.arange(8) + 0.5), ".precomputed"),
    saves("no length known here", 2, VOLUME.assign_coords(z=np.arange(8)).assign_attrs(unit="steps"), ".precomputed"),
]  # fmt: skip

NAMES = [
    saves("is the name of a single file", lines, BYTES, suffix)
    for suffix, lines in {".tif": 3, ".h5": 3, ".nii": 3, ".mrc": 3, ".npy": 3, ".zip": 2}.items()
]


def there(made: Callable[[], Any], array: Any = VOLUME, url: str = "v", **given: Any) -> Any:
    """Save where something is."""
    if not given.get("overwrite"):
        made()
    return ci.save(array, url, **QUIET, **given)


def occupied(what: str, lines: int, made: Callable[[], Any], url: str = "v", **given: Any) -> Row:
    names = {"array": VOLUME, "url": url, "save": saved}
    return row(what, lines, partial(there, made), names, url=url, **given)


def group() -> None:
    stored(place="v/raw")()
    (Path("v") / "zarr.json").write_text('{"zarr_format": 3, "node_type": "group", "attributes": {}}')


def text(path: str, content: str = "") -> Callable[[], None]:
    def made() -> None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(content)

    return made


def output(name: str = "", content: str = "") -> Callable[[], None]:
    """An output of a network, of which an object is another."""

    def made() -> None:
        saved(ci.infer(VOLUME, NET), "v", overwrite=Path("v").exists())
        if name:
            Path("v/.chunkinfer", name).write_text(content)

    return made


def archive(name: str) -> Callable[[], None]:
    """An image in a zip archive."""

    def made() -> None:
        if not Path(name).exists():
            saved(VOLUME, "image.ome.zarr")
            with zipfile.ZipFile(name, "w") as file:
                for path in Path("image.ome.zarr").rglob("*"):
                    file.write(path, path.relative_to("image.ome.zarr"))

    return made


PLACES = [
    occupied("holds an array already", 1, stored()),
    occupied("is not empty, and holds no array", 0, text("v/notes.txt")),
    occupied("is a group", 0, group),
    occupied("is not that of an array, or damaged", 0, text("v/zarr.json", "{}")),
    occupied("is a file", 0, text("v")),
    occupied("erasing.json is not what a deletion writes", 0, text("v/.chunkinfer/erasing.json", "{}")),
    occupied("can only be read", 1, archive("a.ozx"), "a.ozx"),
    occupied("can only be read", 1, lambda: None, "https://localhost/em.ome.zarr"),
    occupied("A part of its path is a file", 0, text("f"), "f/v"),
]


def levels(made: Callable[[], Any], url: str = "v", **given: Any) -> Any:
    made()
    return ci.pyramid(url, **QUIET, **given)


def pyramids(what: str, lines: int, made: Callable[[], Any], url: str = "v") -> Row:
    return row(what, lines, partial(levels, made), {"save": saved, "url": url}, url=url)


AXES = [{"name": dim, "type": "space"} for dim in "zyx"]
SCALE = {"type": "scale", "scale": [4, 3, 2], "input": "raw", "output": "physical"}


def systems() -> None:
    """An image with coordinate systems."""
    group()
    datasets = [{"path": "raw", "coordinateTransformations": [SCALE]}]
    image = {"coordinateSystems": [{"name": "physical", "axes": AXES}], "datasets": datasets}
    change("v/zarr.json", attributes={"ome": {"version": "0.6", "multiscales": [image]}})


def turned() -> None:
    """An image whose axes are x, y and z."""
    group()
    datasets = [{"path": "raw", "coordinateTransformations": [{"type": "scale", "scale": [4, 3, 2]}]}]
    image = {"axes": AXES[::-1], "datasets": datasets}
    change("v/zarr.json", attributes={"ome": {"version": "0.5", "multiscales": [image]}})


def two() -> None:
    group()
    stored(place="v/labels")()


def n5() -> None:
    saved(VOLUME, "v/s0", format="n5", overwrite=Path("v/s0").exists())
    Path("v/attributes.json").write_text('{"n5": "2.5.0"}')


LEVELS = [
    pyramids("has no place for levels", 2, stored()),
    pyramids("has no place for levels", 2, two),
    pyramids("has no place for levels", 2, n5),
    pyramids("with coordinate systems", 1, systems),
    pyramids("are stored in the order", 1, turned),
    pyramids("can only be read", 1, archive("a.ozx"), "a.ozx"),
]


def made(shape: tuple[int, ...] = (8, 8, 8), **given: Any) -> Any:
    """Below `save`, which lays out what it stores before."""
    return create.create(f"out-{next(COUNT)}", create.ArraySpec(shape=shape, **{"dims": "zyx", "dtype": "u1", **given}))


CREATED = [
    row("does not hold whole chunks", 1, made, chunks=(4, 4, 4), shards=(6, 8, 8)),
    row("are not possible with chunks", 2, made, shape=(16, 16, 16), format="precomputed", chunks=(2, 2, 2),
        shards=(2, 8, 8)),
    row("The axes of an output", 0, made, dims="xyz"),
    row("The shape of an output", 0, made, shape=(0, 8, 8)),
    row("The chunks of an output", 1, made, chunks=(0, 8, 8)),
    row("The voxel size of an output", 1, made, voxel_size={"z": 0}),
    row("The axes of an OME-Zarr image", 1, made, format="ome-zarr", dims="cz", shape=(8, 8)),
    row("The data type of a zarr array", 1, made, dtype="c8"),
    row("cuts units of 4 voxels", 0, lambda **given: made(chunks=(4, 4, 4), **given).write(
        (slice(0, 3), slice(0, 8), slice(0, 8)), np.zeros((3, 8, 8), "u1"))),
]  # fmt: skip

QUICK = {"values": VALUES, "names": NAMES, "places": PLACES, "levels": LEVELS, "created": CREATED}
MANY = np.arange(192**3, dtype="u8").reshape(192, 192, 192)


def labels(**given: Any) -> Any:
    """One chunk of labels that are all different."""
    out = made(MANY.shape, dtype="u8", format="precomputed", **{"chunks": MANY.shape, **given})
    return out.write((slice(0, 192),) * 3, MANY)


SLOW = {
    "labels": [row("too many different labels", 2, labels)],
    "outputs": [occupied("ledger.json of", 1, output("ledger.json", "{"))],
    "pictures": [saves("is the name of a single file", 3, BYTES, ".png")],
}


@pytest.mark.parametrize("row", [*each(QUICK, QUICK), *each(SLOW)])
def test_every_line_that_is_advised_works(row: Row, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refusals(row, tmp_path, monkeypatch, stored=False)


def said(error: DestinationError) -> None:
    """Its ways are words."""
    assert error.ways
    assert not list(followed(error, saved, {}, {}))


def test_two_runs_that_begin_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(create.erase, "make_room", lambda location, overwrite: stored()())
    with pytest.raises(DestinationError, match="by another process a moment ago") as refused:
        saved(VOLUME, "v")
    said(refused.value)


def test_a_disk_that_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(location: Any, objects: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(create, "_write", full)
    with pytest.raises(DestinationError, match="make room there") as refused:
        saved(VOLUME, tmp_path / "v")
    said(refused.value)


def test_a_ledger_that_lacks_what_a_run_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    saved(VOLUME, "v")
    Ledger(Files(str(tmp_path / "v"))).begin({"destination": {}})
    with pytest.raises(DestinationError, match="is not of this version") as refused:
        ci.status("v")
    names = {"save": saved, "array": VOLUME, "url": "v", "chunkinfer": ci}
    assert len(list(followed(refused.value, saved, {}, names))) == 2
    assert not Path("v").exists()


def test_a_ledger_that_changes_while_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = count(1, 40)
    monkeypatch.setattr(Ledger, "_stored", lambda self: [_Name(n := next(numbers), n + 33, 0)])
    with pytest.raises(DestinationError, match="changed ten times") as refused:
        Ledger(Files(tmp_path / "v")).done(1)
    said(refused.value)


@pytest.mark.slow
def test_an_image_that_two_programs_edit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved(VOLUME, url := tmp_path / "v.ome.zarr")
    with_levels = ome.with_levels

    def meanwhile(*args: Any) -> Any:
        change(f"{url}/zarr.json", consolidated_metadata=None)
        return with_levels(*args)

    monkeypatch.setattr(ome, "with_levels", meanwhile)
    with pytest.raises(DestinationError, match="changed by another process") as refused:
        ci.pyramid(url, levels=1, **QUIET)
    said(refused.value)
