"""PNG sections for `fuzzing`: names, kinds and chunks, and what libpng reads of them."""

from __future__ import annotations

import random
import re
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.lib.storage.fuzz_files_seen import VALUES, read
from tests.lib.storage.fuzzing import Array, Asked, Format, Seen

imagecodecs = pytest.importorskip("imagecodecs")


SIGNATURE = b"\x89PNG\r\n\x1a\n"


def png(picture: Array, kind: int, depth: int, extra: Sequence[tuple[bytes, bytes]] = (), height: int = 0) -> bytes:
    """A file of 8 or 16 bits, as the standard says, or as it doesn't."""
    samples = picture.astype(">u2" if depth == 16 else "u1")
    rows = b"".join(b"\0" + row.tobytes() for row in samples)
    high, wide = picture.shape[:2]
    head = struct.pack(">IIBBBBB", wide, height or high, depth, kind, 0, 0, 0)
    parts = [(b"IHDR", head), *extra, (b"IDAT", zlib.compress(rows, 1)), (b"IEND", b"")]
    return SIGNATURE + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in parts
    )


EXTRA = {
    "gAMA": struct.pack(">I", 100000), "pHYs": struct.pack(">IIB", 2834, 2834, 1), "sBIT": b"\x05",
    "tRNS": b"\0\x05", "tIME": struct.pack(">HBBBBB", 2020, 1, 1, 0, 0, 0), "bKGD": b"\0\0", "zTXt": b"a\0\0",
    "acTL": struct.pack(">II", 2, 0), "oFFs": struct.pack(">iiB", 5, 7, 0), "IDAT": b"",
}  # fmt: skip


def write_sections(folder: Path) -> None:
    folder.mkdir()
    for z in range(3):
        (folder / f"s{z + 4}.png").write_bytes(png(VALUES[0, z], 0, 8))


def sections(place: Path, chance: random.Random) -> str:
    """Other names, kinds, sizes and chunks, of one section or of all."""
    for path in place.iterdir():
        path.unlink()
    numbers = chance.choice([[0, 1, 2], [4, 5, 6], [8, 9, 10], [1, 2, 4], [7, 9, 11], [98, 99, 100]])
    form = chance.choice(["s{}.png", "s{:03d}.png", "em_2024_s{}_t1.png", "{}.PNG", "s{}_{}.png", "s{}b.png"])
    alike = chance.random() < 0.8
    said = []

    def one() -> tuple[int, int, tuple[int, int], dict[str, Any]]:
        kind, depth = chance.choice(
            [(0, 8)] * 4 + [(0, 16), (2, 8), (2, 16), (4, 8), (6, 8), (3, 8), (0, 4), (9, 8), (0, 3)]
        )
        extra = chance.sample(list(EXTRA), chance.choice([0, 1, 2]))
        high, wide = chance.choice([(6, 7), (6, 7), (1, 7), (6, 1), (7, 6)])
        return kind, depth, (high, wide), {"extra": extra, "height": chance.choice([0] * 18 + [5, 9])}

    drawn = one()
    for z in numbers:
        kind, depth, (high, wide), options = drawn if alike else one()
        count = {2: 3, 4: 2, 6: 4}.get(kind, 1)
        picture = VALUES.reshape(-1)[: high * wide * count].reshape(high, wide, count) + (z % 5)
        parts = [(name.encode(), EXTRA[name]) for name in options["extra"]]
        content = png(picture * np.uint16(257 if depth == 16 else 1), kind, depth, parts, options["height"])
        if chance.random() < 0.05:
            content = chance.choice([content[:40], content[:-20], content[:60] + b"\xff" + content[61:], b""])
            said.append(f"{z} damaged")
        (place / form.format(z, z)).write_bytes(content)
    return f"{form} {numbers} {drawn if alike else 'unlike'} {' '.join(said)}"


def by_libpng(place: Path, asked: Asked) -> Seen:
    found = {}
    for path in place.iterdir():
        numbers = re.findall(r"\d+", path.stem)
        found[int(numbers[1] if "2024" in path.stem else numbers[0])] = path.read_bytes()
    assert asked.missing == "fill" or len(found) == max(found) - min(found) + 1
    pictures = {z: imagecodecs.png_decode(content) for z, content in found.items()}
    for z, content in found.items():
        if b"tRNS" in content and content[25] in (0, 2):  # a channel of the colour that counts as transparent
            pictures[z] = pictures[z][..., 0] if content[25] == 0 else pictures[z][..., :3]
    shape = next(iter(pictures.values())).shape
    empty = np.zeros(shape, next(iter(pictures.values())).dtype)
    values = np.stack([pictures.get(z, empty) for z in range(min(found), max(found) + 1)])
    return read(values, "zyxc"[: values.ndim], {}, "", {"z": min(found)})


PNG = (Format("PNG sections", write_sections, sections, [by_libpng]),)
