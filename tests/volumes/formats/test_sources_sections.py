"""Stacks of sections: any names, missing ones, tiles, pictures that do not fit."""

from __future__ import annotations

import struct
import sys
import threading
import time
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import chunkinfer as ci
from chunkinfer.errors import AmbiguousSource, MissingChunk, MissingExtra, SourceError, SourceNotFound
from chunkinfer.volumes.arrays.open import open_source
from chunkinfer.volumes.formats.decoded import DECODED, Decoded
from chunkinfer.volumes.formats.sections import pictures
from tests.lib.storage.comparing import assert_same, keys
from tests.lib.storage.written import VOXELS, picture_file, stack

Image = pytest.importorskip("PIL.Image")
tifffile = pytest.importorskip("tifffile")

NAMED = [
    ("", ["em_0008.png", "em_0009.png", "em_0010.png"], 8, "padded"),
    ("", ["em8.png", "em9.png", "em10.png"], 8, "natural order"),
    ("", ["2024_s07_t1.tif", "2024_s08_t1.tif", "2024_s09_t1.tif"], 7, "one number of several varies"),
    ("", ["000.png", "001.png", "002.png"], 0, "numbers alone"),
    ("*.png", ["a1.png", "a2.png", "a3.png", "b7.tif"], 1, "a glob chooses"),
    ("z{z:03d}.png", ["z010.png", "z011.png", "z012.png", "z9.png"], 10, "at least so many digits"),
    ("{z}_*.tif", ["5_11:02.tif", "6_11:09.tif", "7_11:30.tif"], 5, "times in the names"),
    ("{z}/raw.tif", ["5/raw.tif", "6/raw.tif", "7/raw.tif"], 5, "a folder each"),
    ("em_{08..10}.png", ["em_08.png", "em_09.png", "em_10.png"], 8, "a range, nothing listed"),
]


@pytest.mark.parametrize(("pattern", "names", "first", "why"), NAMED)
def test_names(tmp_path: Path, pattern: str, names: list[str], first: int, why: str) -> None:
    stack(tmp_path / "em", names)
    source = open_source(tmp_path / "em" / pattern if pattern else tmp_path / "em")
    assert_same(source, VOXELS[:3])
    assert (source.format, source.dims, source.offset["z"]) == ("sections", ("z", "y", "x"), first)
    assert source.chunks == (1, 20, 30)
    assert source.names["sections"] == f"{first} to {first + 2}"


UNCLEAR: list[tuple[str, list[str], type[Exception], str]] = [
    ("", ["a1_1.png", "a2_2.png"], AmbiguousSource, "{z}"),
    ("", ["left1.png", "right2.png"], AmbiguousSource, "{z}"),
    ("", ["a1.png", "a01.png"], AmbiguousSource, "do not tell"),
    ("", ["a1.png", "a01.png", "a2.png"], AmbiguousSource, "same number"),
    ("", ["a1.png", "a2.tif"], AmbiguousSource, r"\*\.tif"),
    ("{z}.png", ["1.png", "01.png"], AmbiguousSource, "same number"),
    ("b*.png", ["a1.png"], SourceNotFound, "fits"),
    ("*.txt", ["a1.png"], SourceError, "end in"),
    ("", ["em_20240101.png", "em_1.png"], SourceError, "follow each other"),
    ("z{z}_y{y}.png", ["z0_y0.png", "z0_y7.png"], SourceError, "follow each other"),
]


@pytest.mark.parametrize(("pattern", "names", "error", "says"), UNCLEAR)
def test_names_that_do_not_tell(
    tmp_path: Path, pattern: str, names: list[str], error: type[Exception], says: str
) -> None:
    stack(tmp_path / "em", names)
    with pytest.raises(error, match=says):
        open_source(tmp_path / "em" / pattern)


def test_a_file_that_is_called_like_a_pattern(tmp_path: Path) -> None:
    stack(tmp_path, ["em*[1].png", "em*[2].png", "em_3.png"])
    assert_same(open_source(tmp_path / "em*[1].png"), VOXELS[:1])
    assert_same(open_source(f"{tmp_path}/em*[{{z}}].png"), VOXELS[:2])


# Missing sections and tiles


def test_missing_sections(tmp_path: Path) -> None:
    stack(tmp_path, [f"{n}.png" for n in (1, 2, 4, 7, 8, 12)])
    with pytest.raises(MissingChunk, match=r"sections 3, 5-6, 9-11;.*\n.*\n.*missing='fill'"):
        open_source(tmp_path)
    source = open_source(tmp_path, missing="fill")
    expected = np.zeros((12, 20, 30), "u1")
    expected[[0, 1, 3, 6, 7, 11]] = VOXELS
    assert_same(source, expected, (slice(1, 5), 3))
    volume = ci.open_volume(tmp_path, missing="fill")
    assert volume.attrs["missing_sections"] == "3, 5-6, 9-11"
    assert volume.z[0] == 1


def test_a_section_that_goes_away(tmp_path: Path) -> None:
    stack(tmp_path, ["1.png", "2.png"])
    for missing in ("error", "fill"):
        source = open_source(tmp_path, missing=missing)
        (tmp_path / "2.png").rename(tmp_path / "away")
        np.testing.assert_array_equal(source[0], VOXELS[0])
        with pytest.raises(MissingChunk, match=r"2\.png"):
            source[:]
        (tmp_path / "away").rename(tmp_path / "2.png")


def test_a_changed_section_is_another_source(tmp_path: Path) -> None:
    stack(tmp_path, ["1.png", "2.png"])
    before = open_source(tmp_path)
    assert (before[1] == VOXELS[1]).all()
    picture_file(tmp_path / "2.png", VOXELS[5])
    after = open_source(tmp_path)
    assert before != after
    assert (after[1] == VOXELS[5]).all()


@given(data=st.data())
def test_tiles(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    folder = tmp_path_factory.mktemp("tiles")
    shape = data.draw(st.tuples(st.integers(1, 3), st.integers(1, 20), st.integers(1, 20)), "shape")
    height, width = (data.draw(st.integers(1, n), "tile") for n in shape[1:])
    pixels, start = data.draw(st.booleans(), "numbered by pixels"), data.draw(st.integers(0, 2), "first number")
    voxels = np.random.default_rng(1).integers(0, 255, shape, dtype="u1")
    for z in range(shape[0]):
        for y in range(0, shape[1], height):
            for x in range(0, shape[2], width):
                at = (y, x) if pixels else (start + y // height, start + x // width)
                picture_file(folder / f"{z}" / "y{}-x{}.png".format(*at), voxels[z, y : y + height, x : x + width])
    source = open_source(f"{folder}/{{z}}/y{{y}}-x{{x}}.png")
    assert source.chunks == (1, height, width)
    assert_same(source, voxels, data.draw(keys(shape), "box"))


def test_missing_tiles(tmp_path: Path) -> None:
    for name in ("1_0_0", "1_0_1", "2_0_0"):
        picture_file(tmp_path / f"{name}.png", VOXELS[0])
    with pytest.raises(MissingChunk, match=r"2 \(y 0, x 1\)"):
        open_source(tmp_path / "{z}_{y}_{x}.png")
    source = open_source(tmp_path / "{z}_{y}_{x}.png", missing="fill")
    assert source.shape == (2, 20, 60)
    np.testing.assert_array_equal(source[1], np.hstack([VOXELS[0], np.zeros_like(VOXELS[0])]))


# Pictures

KINDS: list[tuple[str, np.ndarray[Any, Any], tuple[str, ...], Any]] = [
    (".png", VOXELS[0] > 99, ("z", "y", "x"), None),
    (".png", VOXELS[0].astype("u2") * 250, ("z", "y", "x"), None),
    (".png", np.dstack([VOXELS[0]] * 3) // [1, 2, 3], ("c", "z", "y", "x"), ["red", "green", "blue"]),
    (".png", np.dstack([VOXELS[0]] * 4) // [1, 2, 3, 4], ("c", "z", "y", "x"), ["red", "green", "blue", "alpha"]),
    (".png", np.dstack([VOXELS[0]] * 2) // [1, 2], ("c", "z", "y", "x"), ["grey", "alpha"]),
    (".tif", VOXELS[0].astype("f4") / 7, ("z", "y", "x"), None),
    (".tif", VOXELS[0].astype("i2") - 99, ("z", "y", "x"), None),
    (".tif", np.dstack([VOXELS[0]] * 3) // [1, 2, 3], ("c", "z", "y", "x"), ["red", "green", "blue"]),
]


@pytest.mark.parametrize(("suffix", "picture", "dims", "channels"), KINDS)
def test_kinds_of_pictures(
    tmp_path: Path, suffix: str, picture: np.ndarray[Any, Any], dims: tuple[str, ...], channels: Any
) -> None:
    picture = picture.astype("u1") if picture.dtype == int else picture
    picture_file(tmp_path / f"1{suffix}", picture)
    source = open_source(tmp_path)
    assert (source.dims, source.names.get("channel_names")) == (dims, channels)
    assert_same(source, np.moveaxis(picture, -1, 0)[:, None] if channels else picture[None])


def test_jpeg(tmp_path: Path) -> None:
    stack(tmp_path, [f"{n}.JPG" for n in range(6)])
    decoded = [np.asarray(Image.open(tmp_path / f"{n}.JPG")) for n in range(6)]
    assert_same(open_source(tmp_path), np.stack(decoded))


@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_colour_tiff(tmp_path: Path, planar: str) -> None:
    picture = np.random.default_rng(2).integers(0, 65535, (20, 30, 3), dtype="u2")
    stored = picture if planar == "contig" else np.moveaxis(picture, -1, 0)
    tifffile.imwrite(tmp_path / "1.tif", stored, photometric="rgb", planarconfig=planar, tile=(16, 16))
    assert_same(open_source(tmp_path / "*.tif"), np.moveaxis(picture, -1, 0)[:, None])


def sixteen_bit_colour(path: Path) -> None:
    """Pillow reads such a file as 8 bits, and cannot write it."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    head = struct.pack(">IIBBBBB", 2, 2, 16, 2, 0, 0, 0)
    rows = zlib.compress((b"\0" + bytes(12)) * 2)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b""))


def test_pictures_that_are_no_numbers(tmp_path: Path) -> None:
    sixteen_bit_colour(tmp_path / "1.png")
    Image.fromarray(VOXELS[0]).convert("P").save(tmp_path / "2.png")
    Image.fromarray(VOXELS[0]).convert("CMYK").save(tmp_path / "3.jpg")
    tifffile.imwrite(tmp_path / "4.tif", VOXELS)
    for name in ("1.png", "2.png", "3.jpg"):
        with pytest.raises(SourceError, match=rf"{name} is a picture"):
            open_source(tmp_path / name)
    with pytest.raises(SourceError, match=r"4\.tif is a picture"):
        open_source(tmp_path / "{z}.tif")


@pytest.mark.parametrize(
    ("odd", "says"),
    [
        (VOXELS[0, :19], "19 x 30 uint8"),
        (VOXELS[0].astype("u2"), "20 x 30 uint16"),
        (np.dstack([VOXELS[0]] * 3), "x 3"),
    ],
)
def test_unequal_sections(tmp_path: Path, odd: np.ndarray[Any, Any], says: str) -> None:
    stack(tmp_path, ["1.png", "2.png", "3.png"])
    picture_file(tmp_path / "2.png", odd)
    source = open_source(tmp_path)
    assert (source[2] == VOXELS[2]).all()
    with pytest.raises(SourceError, match=rf"2\.png is .*{says}"):
        source[:]


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif"])
def test_damaged_sections(tmp_path: Path, suffix: str) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (3, 200, 200), dtype="u1")
    stack(tmp_path, [f"{n}{suffix}" for n in (1, 2, 3)], noise)
    damaged = tmp_path / f"2{suffix}"
    whole = damaged.read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"nonsense" * 99):
        damaged.write_bytes(content)
        with pytest.raises(SourceError, match=rf"2{suffix} cannot be decoded"):
            open_source(tmp_path)[:]
        with pytest.raises(SourceError, match=rf"2{suffix} cannot be decoded"):
            open_source(damaged if suffix != ".tif" else tmp_path / "2*.tif")[:]


@pytest.mark.parametrize(
    ("suffix", "module", "package"),
    [(".png", "PIL.PngImagePlugin", "pillow"), (".tif", "tifffile", "tifffile")],
)
def test_without_the_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, module: str, package: str
) -> None:
    stack(tmp_path, [f"1{suffix}"])
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtra, match=rf"{package}(.|\n)*chunkinfer\[formats\]"):
        open_source(tmp_path)


# Each section is decoded once


@pytest.fixture
def decodes(monkeypatch: pytest.MonkeyPatch) -> Counter[bytes]:
    """How often each file was decoded, by its content."""
    counts: Counter[bytes] = Counter()
    kind = pictures._KINDS[".png"]

    def counting(file: Any) -> Any:
        found = kind(file)
        assert found is not None

        def decode() -> Any:
            counts[file.getvalue()] += 1
            return found.decode()

        return pictures.Picture(found.shape, found.dtype, found.channels, decode)

    monkeypatch.setitem(pictures._KINDS, ".png", counting)
    return counts


def test_saving_decodes_each_section_once(tmp_path: Path, decodes: Counter[bytes]) -> None:
    voxels = np.random.default_rng(3).integers(0, 255, (40, 96, 96), dtype="u1")
    stack(tmp_path / "em", [f"{n:03d}.png" for n in range(40)], voxels)
    volume = ci.open_volume(tmp_path / "em", voxel_size=(40, 4, 4))
    assert not decodes
    ci.save(volume, tmp_path / "out.zarr", chunks=(16, 16, 16), shards=False, progress=False)
    assert len(decodes) == 40
    assert set(decodes.values()) == {1}
    np.testing.assert_array_equal(ci.open_volume(tmp_path / "out.zarr").values, voxels)


def test_what_is_kept() -> None:
    kept = Decoded(limit=300)
    made: Counter[int] = Counter()

    def get(key: int, size: int = 100) -> None:
        def make() -> np.ndarray[Any, Any]:
            made[key] += 1
            return np.full(size, key, "u1")

        found = kept.get(key, make)
        assert (found == key).all()
        assert not found.flags.writeable

    for key in (1, 2, 3, 1, 4, 1, 2):
        get(key)
    assert made == {1: 1, 2: 2, 3: 1, 4: 1}
    get(9, 400)
    get(9, 400)
    assert made[9] == 2
    assert kept.size == 300


def test_one_thread_decodes_and_the_others_wait() -> None:
    kept, made, together = Decoded(), [], threading.Barrier(8)

    def make() -> np.ndarray[Any, Any]:
        made.append(threading.get_ident())
        time.sleep(0.05)
        return np.zeros(1000)

    def get() -> None:
        together.wait()
        kept.get("section", make)

    threads = [threading.Thread(target=get) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1


def test_a_failure_is_not_kept() -> None:
    with pytest.raises(ZeroDivisionError):
        DECODED.get("never", lambda: np.array(1 // 0))
    assert DECODED.get("never", lambda: np.ones(1)) == 1


def test_a_picture_with_fewer_rows_than_it_says(tmp_path: Path) -> None:
    """Pillow fills them with zeros."""
    stack(tmp_path / "em", ["em_1.png", "em_2.png"])
    content = (tmp_path / "em" / "em_2.png").read_bytes()
    rows = zlib.compress(b"".join(b"\0" + bytes(30) for _ in range(11)))
    parts = [(b"IHDR", content[16:29]), (b"IDAT", rows), (b"IEND", b"")]
    chunks = (struct.pack(">I", len(b)) + name + b + struct.pack(">I", zlib.crc32(name + b)) for name, b in parts)
    (tmp_path / "em" / "em_2.png").write_bytes(content[:8] + b"".join(chunks))
    source = open_source(tmp_path / "em")
    assert np.array_equal(source[0], VOXELS[0])
    with pytest.raises(SourceError, match=r"em_2\.png cannot be decoded"):
        source[1]


def test_a_part_of_a_stack_tells_its_own_sections(tmp_path: Path) -> None:
    stack(tmp_path / "em", [f"em_{z}.png" for z in range(5, 11)])
    volume = ci.open_volume(tmp_path / "em")
    for part in (volume[2:4], ci.open_volume(tmp_path / "em", box={"z": slice(2, 4)})):
        assert part.z.values.tolist() == [7, 8]
        assert "sections" not in part.attrs
