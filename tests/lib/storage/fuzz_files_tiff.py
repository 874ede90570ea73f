"""TIFF for `fuzzing`: ImageJ's, OME's and plain ones, and what tifffile reads of them."""

from __future__ import annotations

import random
import re
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from tests.lib.storage.fuzz_files_seen import LARGE, SPACE, VALUES, is_size, read, several
from tests.lib.storage.fuzzing import Asked, Format, Seen

tifffile = pytest.importorskip("tifffile")


LETTERS = {"Z": "z", "C": "c", "T": "t", "Y": "y", "X": "x", "S": "c"}
UNITS = {"um": "um", "micron": "um", "\\u00B5m": "um", "nm": "nm", "mm": "mm", "pixel": "", "": "", "furlong": ""}
"""What is drawn for ImageJ's unit -> what it means; sizes in what is no length are not known."""


def tiff(name: str, **options: Any) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        folder.mkdir()
        voxels = VALUES[:, :, :, :] if "C" in options["metadata"]["axes"] else VALUES[0]
        turned = voxels.swapaxes(0, 1) if options.get("imagej") and voxels.ndim == 4 else voxels
        tifffile.imwrite(folder / name, turned, photometric="minisblack", **options)

    return write


def description(*rules: tuple[str, Sequence[Any]]) -> Callable[[Path, random.Random], str]:
    """Change what a rule finds in the description of the first page: all of its first group."""

    def change(place: Path, chance: random.Random) -> str:
        with tifffile.TiffFile(place, mode="r+") as file:
            tag = file.pages[0].tags["ImageDescription"]
            old = tag.value
            pattern, values = chance.choice(rules)
            found = list(re.finditer(pattern, old))
            if not found:
                return f"{pattern} is not there"
            match, value = chance.choice(found), chance.choice(values)
            new = f"{old[: match.start(1)]}{value}{old[match.end(1) :]}"
            tag.overwrite(new.encode())
        return f"{match[0]!r} with {value!r}"

    return change


def tags(place: Path, chance: random.Random) -> str:
    """Change type, count or value of a tag of a page, where it lies."""
    with tifffile.TiffFile(place) as file:
        page = chance.choice(list(file.pages)).aspage()
        tag = chance.choice(list(page.tags.values()))
        at, name = tag.offset, tag.name
    content = bytearray(place.read_bytes())
    part, form, start = chance.choice([("type", "<H", 2), ("count", "<I", 4), *[("value", "<I", 8)] * 4])
    old = struct.unpack_from(form, content, at + start)[0]
    value = chance.choice([0, 1, 2, 3, 4, 5, 8, 12, 16, 32, 65535, old + 1, max(0, old - 1), old * 2, 2**31])
    struct.pack_into(form, content, at + start, value & (0xFFFF if form == "<H" else 0xFFFFFFFF))
    place.write_bytes(content)
    return f"{part} of {name} {old} -> {value}"


def resolution(place: Path, chance: random.Random) -> str:
    with tifffile.TiffFile(place, mode="r+") as file:
        name = chance.choice(["XResolution", "YResolution"])
        value = chance.choice(
            [(0, 1), (1, 0), (0, 0), (1, 4), (4, 1), (2**32 - 1, 1), (1, 2**32 - 1), (10**6, 4 * 10**4)]
        )
        if name in file.pages[0].tags:
            file.pages[0].tags[name].overwrite(value)
    return f"{name} {value}"


def by_tifffile(place: Path, asked: Asked) -> Seen:
    """Axes without a name are z, then c, then t, from the last one on, as docs/formats.md says of pages."""
    with tifffile.TiffFile(place) as file:
        series = file.series[0]
        assert series.size < LARGE
        values, axes = series.asarray(), series.axes
        ome = ome_sizes(file.ome_metadata) if file.is_ome else None
        sizes, units = ome or imagej_sizes(file, series.keyframe)
    keep = [i for i, (a, n) in enumerate(zip(axes, values.shape, strict=True)) if a in "YXS" or n > 1]
    keep = [i for i in keep if axes[i] != "S" or values.shape[i] > 1]
    values = values.reshape([values.shape[i] for i in keep])
    letters = [axes[i] for i in keep]
    names = [LETTERS.get(letter) for letter in letters]
    free = [dim for dim in "zct" if dim not in names]
    for i in reversed(range(len(names))):
        if names[i] is None:
            names[i] = free.pop(0)
    return read(values, [name for name in names if name], sizes, units)


def imagej_sizes(file: Any, page: Any) -> tuple[dict[str, Any], Any]:
    about = file.imagej_metadata or {}
    sizes: dict[str, Any] = {}
    if isinstance(spacing := about.get("spacing"), int | float):
        sizes["z"] = abs(spacing)
    for dim, name in (("y", "YResolution"), ("x", "XResolution")):
        if name in page.tags and isinstance(page.tags[name].value, tuple) and len(page.tags[name].value) == 2:
            pixels, length = page.tags[name].value
            sizes[dim] = length / pixels if pixels else None
    unit = UNITS.get(str(about.get("unit", "")), "")
    return (sizes, unit) if unit else ({}, "")


def ome_sizes(xml: str) -> tuple[dict[str, Any], Any]:
    found = [element for element in ElementTree.fromstring(xml).iter() if element.tag.endswith("Pixels")]
    assert len(found) < 2
    sizes, units = {}, {}
    found = found or [ElementTree.Element("Pixels")]
    for dim in SPACE:
        size = found[0].get(f"PhysicalSize{dim.upper()}")
        unit = found[0].get(f"PhysicalSize{dim.upper()}Unit", "µm")
        if size is not None and re.fullmatch(r"[-+]?(\d+\.?\d*([eE][-+]?\d+)?|nan|inf)", size):
            sizes[dim] = float(size)
        units[dim] = {"µm": "um", "reference frame": "", "pixel": ""}.get(unit, unit)
    if any(units[dim] for dim in sizes if is_size(sizes[dim])):
        sizes = {dim: size for dim, size in sizes.items() if units[dim]}
    return sizes, units


COUNTS = (0, 1, 2, 3, 5, 7, 15, -1, "", "x", 2.5, 10**6)
SIZES = (0, -2.5, "nan", "inf", "", "wide", 0.1, 40, 1e-30, "1e400", "True")
IMAGEJ = (
    (r"\nimages=(.*)", COUNTS), (r"\nslices=(.*)", COUNTS), (r"\nchannels=(.*)", COUNTS), (r"\nspacing=(.*)", SIZES),
    (r"\nunit=(.*)", tuple(UNITS)), (r"\nhyperstack=(.*)", ("true", "false", 3)), (r"(ImageJ=)", ("", "ImageK=")),
    (r"\n(images=)", ("frames=", "slices=", "")), (r"\n(slices=)", ("frames=", "channels=")),
    (r"(\nunit=)", ("\nloop=true\nunit=", "\nframes=3\nunit=", "\nmin=3\nmax=nan\nunit=", "\n\n")),
)  # fmt: skip
OME = (
    *((rf'Size{axis}="([^"]*)"', COUNTS) for axis in "XYZCT"),
    *((rf'PhysicalSize{axis}="([^"]*)"', SIZES) for axis in "XYZ"),
    *((rf'PhysicalSize{axis}Unit="([^"]*)"', ("µm", "nm", "mm", "reference frame", "pixel")) for axis in "XYZ"),
    (r'DimensionOrder="([^"]*)"', ("XYZCT", "XYCZT", "XYTZC", "YXZCT", "XYZ", "XYZZT", "")),
    (r'Type="([^"]*)"', ("uint16", "float", "bit", "q")), (r'BigEndian="([^"]*)"', ("true", "false", 3)),
    (r'IFD="([^"]*)"', COUNTS), (r'PlaneCount="([^"]*)"', COUNTS), (r"(<TiffData[^>]*/>)", ("",)),
    (r'SamplesPerPixel="([^"]*)"', COUNTS), (r"(<Image .*</Image>)", ("",)), (r"(</OME>)", ("", "<x></OME>")),
    (r"(<TiffData )", ('<TiffData FirstZ="1" ', '<TiffData FirstC="2" ',
                       '<TiffData IFD="3" PlaneCount="1"/><TiffData ')),
    (r"<TiffData[^>]*(/>)", ('><UUID FileName="b.tif">urn:uuid:1</UUID></TiffData>',
                             '><UUID FileName="a.ome.tif">urn:uuid:1</UUID></TiffData>')),
    (r"(<Channel )", ('<Channel ID="c" SamplesPerPixel="1"/><Channel ', '<Plane TheZ="0"/><Channel ')),
    (r"(xmlns=)", ("xmlns:ome=", "xnlms=")), (r"(<Image )", ("<Instrument/><Image ", '<Image ID="0"/><Image ')),
    (r"(<Pixels )", ("<Pixels ", "<Pixel ", "<BinaryOnly/><Pixels ")),
)  # fmt: skip
SHAPED = (
    (r'"shape": (\[[^\]]*\])', ("[5, 6, 7]", "[7, 6, 5]", "[5, 42]", "[30, 7]", "[1, 5, 6, 7]", "[5, 1, 6, 7]", "[]",
                               "[5, 6]", "[5, 7, 6]", "[10, 6, 7]", "[-5, 6, 7]", "3", "null", "[210]")),
    (r'"axes": "([^"]*)"', ("ZYX", "XYZ", "TYX", "CYX", "QYX", "YXS", "ZYXS", "ZY", "AAA", "", "ZZX", "YXZ")),
    (r"(\{)", ("", "[", '{"truncated": true, ', '{"spacing": 3, ')),
)  # fmt: skip


RES = {"resolution": (0.25, 0.5)}
METADATA: dict[str, Any] = {"axes": "ZCYX", "spacing": 2.5, "unit": "um"}
PHYSICAL: dict[str, Any] = {
    "axes": "CZYX", "PhysicalSizeX": 4.5, "PhysicalSizeY": 4.5, "PhysicalSizeZ": 40.5,
    **{f"PhysicalSize{axis}Unit": "nm" for axis in "XYZ"},
}  # fmt: skip


TIFF = (
    Format("ImageJ TIFF", tiff("a.tif", imagej=True, metadata=METADATA, resolution=(0.25, 0.5)),
           several(description(*IMAGEJ), description(*IMAGEJ), resolution, tags), [by_tifffile], "a.tif"),
    Format("OME-TIFF", tiff("a.ome.tif", metadata=PHYSICAL, ome=True),
           several(description(*OME), description(*OME), description(*OME), tags), [by_tifffile], "a.ome.tif"),
    Format("TIFF", tiff("a.tif", metadata={"axes": "ZYX"}, compression="zlib"),
           several(description(*SHAPED), tags), [by_tifffile], "a.tif"),
    Format("TIFF, tiles", tiff("a.tif", metadata={"axes": "CZYX"}, tile=(16, 16)),
           several(tags), [by_tifffile], "a.tif"),
)  # fmt: skip
