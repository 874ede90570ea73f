"""What OME's XML and ImageJ's description say of a TIFF file: sizes of voxels, names of channels, missing pages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from chunkinfer.errors import SourceError
from chunkinfer.volumes.arrays.numbers import is_size
from chunkinfer.volumes.arrays.placement import METRES, Placement, common_unit, short_unit
from chunkinfer.volumes.formats.sections.sections import ranges_of

if TYPE_CHECKING:
    from tifffile import TiffFile


def placement(tiff: TiffFile, number: int, level: int) -> tuple[Placement, dict[str, Any]]:
    """Voxel size, unit and names of channels, from OME's XML or ImageJ's description."""
    series = tiff.series[number]
    found, units, names = (_ome if tiff.is_ome else _imagej)(tiff, number)
    sizes = {dim: size for dim, size in found.items() if size is not None}
    if any(units[dim] for dim in sizes):  # a number of pixels says nothing beside lengths
        sizes = {dim: size for dim, size in sizes.items() if units[dim]}
    fine, coarse = (dict(zip(s.axes, s.shape, strict=True)) for s in (series, series.levels[level]))
    for dim in sizes:
        sizes[dim] *= fine.get(dim.upper(), 1) / coarse.get(dim.upper(), 1)
    return Placement(*common_unit(sizes, units)) if sizes else Placement(), names


Said = tuple[dict[str, float | None], dict[str, str], dict[str, Any]]
"""Voxel size and unit by axis, and names."""


def _ome(tiff: TiffFile, number: int) -> Said:
    pixels = _pixels(tiff, number)
    sizes = {dim: _size(pixels.get(f"PhysicalSize{dim.upper()}")) for dim in "zyx"}
    named = {dim: str(pixels.get(f"PhysicalSize{dim.upper()}Unit", "µm")) for dim in sizes}
    units = {dim: "" if unit == "reference frame" else short_unit(unit) for dim, unit in named.items()}
    channels = pixels.get("Channel", [])
    labels = [channel.get("Name") for channel in (channels if isinstance(channels, list) else [channels])]
    return sizes, units, {"channel_names": list(map(str, labels))} if labels and all(labels) else {}


def _pixels(tiff: TiffFile, number: int) -> dict[str, Any]:
    """What OME's XML says of the pixels of a series; nothing where it is not sure which image that is."""
    from tifffile import xml2dict

    images = xml2dict(tiff.ome_metadata or "").get("OME", {}).get("Image", [])
    images = [image for image in (images if isinstance(images, list) else [images]) if "Pixels" in image]
    if len(images) != len(tiff.series):  # images without pages in this file are no series
        images = [image for image in images if image.get("Name") == tiff.series[number].name]
        number = 0 if len(images) == 1 else len(images)
    found = images[number].get("Pixels", {}) if number < len(images) else {}
    return found if isinstance(found, dict) else {}


def _imagej(tiff: TiffFile, number: int) -> Said:
    about = tiff.imagej_metadata or {}
    named = {dim: about.get(f"{dim}unit", about.get("unit", "")) for dim in "zyx"}
    units = {dim: short_unit(str(unit).replace("\\u00B5", "µ")) for dim, unit in named.items()}
    sizes = {"z": _size(about.get("spacing"), signed=True)}  # Fiji writes it below 0, and reads it without the sign
    for dim, tag in (("y", "YResolution"), ("x", "XResolution")):
        found = tiff.series[number].keyframe.tags.get(tag)
        sizes[dim] = None if found is None else _quotient(found.value)
    return {dim: size if units[dim] in METRES else None for dim, size in sizes.items()}, units, {}


def _quotient(resolution: Any) -> float | None:
    """Length of a pixel, of pixels per length as a fraction of 32 bits."""
    try:
        pixels, length = resolution
        return _size(f"{length / pixels:.7g}")
    except (TypeError, ValueError, ZeroDivisionError):
        return None


def _size(value: Any, signed: bool = False) -> float | None:
    """A number that can be a voxel's size; None where it is none."""
    try:
        size = abs(float(value)) if signed else float(value)
    except (TypeError, ValueError):
        return None
    return size if is_size(size) and not isinstance(value, bool) else None


# Images of which a part is in other files


def check_complete(url: str, tiff: TiffFile) -> None:
    """Refuse a part of an image for the whole.

    Raises
    ------
    SourceError
        OME's XML says that pages are in other files, or are in none.
    """
    parts = _parts_elsewhere(tiff)
    if parts is not None:
        elsewhere = "; ".join(f"{part} in {name}" for name, part in list(parts.items())[:8])
        raise SourceError(
            f"{url} holds a part of an image: of the others, {elsewhere}.",
            "Only the file that was named is read, because what it says of others could lead anywhere.",
            [
                f"put them into one file: {_joining(url, tiff)}",
                f"the pages of this file alone: open_volume({url!r}, array='0')",
            ],
        )
    for number, series in enumerate(tiff.series):
        if tiff.is_ome and (absent := sum(page is None for page in series.pages)):
            raise SourceError(
                f"{url} lacks {absent} of the {len(series.pages)} pages of its image {number}.",
                "OME's XML tells of more pages than the file holds: it was not written to the end, or cropped.",
                ["copy or export it anew", f"with zeros in their place: {_joining(url, tiff)}"],
            )


def _joining(url: str, tiff: TiffFile) -> str:
    """The line that writes one file of all pages, as tifffile finds them."""
    pixels = _pixels(tiff, 0)
    order = reversed(str(pixels.get("DimensionOrder", "XYZCT")))
    axes = "".join(a for a in order if a in "YX" or pixels.get(f"Size{a}", 1) != 1)
    return (
        f"tifffile.imwrite('whole.ome.tif', tifffile.imread({url!r}), photometric='minisblack', "
        f"metadata={{'axes': {axes!r}}})"
    )


def _parts_elsewhere(tiff: TiffFile) -> dict[str, str] | None:
    """File -> which sections it holds, in words, of files that OME's XML names beside this one; None without any."""
    from xml.etree import ElementTree

    if not tiff.is_ome:
        return None
    root = ElementTree.fromstring(tiff.ome_metadata or "")
    if (only := root.find("{*}BinaryOnly")) is not None:
        return {str(only.get("MetadataFile")): "and which, is said"}
    here, found = root.get("UUID"), dict[str, list[int]]()
    for part in root.iterfind("{*}Image/{*}Pixels/{*}TiffData"):
        uuid = part.find("{*}UUID")
        if uuid is None:
            continue
        if here is None and str(uuid.get("FileName")).lower() == tiff.filename.lower():
            here = uuid.text
        if uuid.text != here:
            count = int(part.get("PlaneCount", part.get("NumPlanes", 1)))
            first = int(part.get("FirstZ", 0))
            found.setdefault(str(uuid.get("FileName")), []).extend(range(first, first + count))
    return {name: f"z {ranges_of(sections)}" for name, sections in found.items()} or None
