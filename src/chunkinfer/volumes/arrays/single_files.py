"""Names of single files: volumes are read from them, and outputs, which many workers write at once, are folders."""

from __future__ import annotations

from chunkinfer.errors import DestinationError
from chunkinfer.stores.urls import Location
from chunkinfer.volumes.formats import readers
from chunkinfer.volumes.formats.sections import pictures

WRITTEN = {
    "tiff": "tifffile.imwrite({name!r}, numpy.asarray(array), photometric='minisblack')",
    "hdf5": "h5py.File({name!r}, 'w')['main'] = numpy.asarray(array)",
    "nifti": "nibabel.save(nibabel.Nifti1Image(numpy.asarray(array).T, None), {name!r})",
    "mrc": "mrcfile.write({name!r}, numpy.asarray(array))",
    "npy": "numpy.save({name!r}, numpy.asarray(array))",
    "picture": "chunkinfer.show(array, {name!r})",
}
"""Format -> a line that writes a small array as such a file."""

OTHERS = (
    ".npz",
    ".nc",
    ".zip",
    ".tar",
    ".gz",
    ".raw",
    ".nrrd",
    ".czi",
    ".lif",
    ".jp2",
    ".bmp",
    ".gif",
    ".csv",
    ".json",
)
"""Suffixes of files that are not even read."""

_FORMATS = {**dict.fromkeys(OTHERS, ""), **dict.fromkeys(pictures.SUFFIXES, "picture"), **readers.SUFFIXES}


def refuse_file_name(location: Location, format: str | None) -> None:
    """Refuse an output that is named as a file is, unless its format is stated.

    Raises
    ------
    DestinationError
        A folder of that name would be taken for a file by people and programs.
    """
    name = location.url.rpartition("/")[2]
    endings = [suffix for suffix in _FORMATS if name.lower().endswith(suffix)]
    if format or location.format or not endings:
        return
    suffix = max(endings, key=len)
    line = WRITTEN.get(_FORMATS[suffix]) if location.path else None
    stem = location.url[: -len(suffix)]
    raise DestinationError(
        f"{location.url} is the name of a single file, and an output is a folder.",
        "Many workers write its chunks at once: as zarr, OME-Zarr, N5 or precomputed.",
        [
            f"save(array, {f'{stem}.zarr'!r})  # or .ome.zarr, .n5, .precomputed",
            *([f"a small one, as a file: {line.format(name=location.url)}"] if line else []),
            f"a zarr folder of that name: save(array, {location.url!r}, format='zarr3')",
        ],
    )
