"""HDF5: one dataset of a file. What it says of other files is not followed."""

from __future__ import annotations

import json
import math
import shlex
import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chunkinfer.errors import AmbiguousSource, MissingExtra, SourceError, SourceNotFound
from chunkinfer.stores import ranges
from chunkinfer.stores.ranges import Stored
from chunkinfer.volumes.arrays.axes import SPATIAL, recognise
from chunkinfer.volumes.arrays.meta import Contents
from chunkinfer.volumes.arrays.numbers import is_size, shortest
from chunkinfer.volumes.arrays.placement import Placement, from_attributes
from chunkinfer.volumes.formats import flat, hdf5_scales

SUFFIXES = (".h5", ".hdf5", ".hdf", ".he5", ".nx", ".nxs")
WHAT = "HDF5 files"
NEEDS = "h5py"

READ = ("voxel_size", "resolution", "offset", "units", "element_size_um", "axis_names", "_ARRAY_DIMENSIONS",
        "axistags", "axis_units")  # fmt: skip
"""Attributes that say where voxels are; all others that JSON can hold are kept as names."""
FILTERS = {
    307: "bzip2", 32000: "lzf", 32001: "blosc", 32004: "lz4", 32008: "bitshuffle", 32013: "zfp", 32015: "zstd",
    32017: "sz", 32018: "fcidecomp", 32024: "sz3", 32026: "blosc2",
}  # fmt: skip
"""Registered filters by number."""
OWN = ("DIMENSION_LIST", "DIMENSION_LABELS", "CLASS", "REFERENCE_LIST")
"""HDF5's own."""


def describe(file: Stored, inside: str, level: int) -> Contents:
    """What the attributes of a dataset say: ``inside``, or the only one of the file."""
    with _open(file.spec) as found:
        name = inside or _only(found, file.url)
        dataset = _dataset(found, name, file.url)
        attributes = {key: _plain(value) for key, value in dataset.attrs.items() if key not in OWN}
        labels = [label.label or None for label in dataset.dims] if any(d.label for d in dataset.dims) else None
        tags = _axistags(attributes)
        named = labels or [tag["key"] for tag in tags] or _first(attributes, "axis_names", "_ARRAY_DIMENSIONS")
        kept = "as labels of its dimensions, or under axistags, axis_names or _ARRAY_DIMENSIONS"
        array = hdf5_scales.by_h5py((file.url, name))
        stored = recognise(named or hdf5_scales.names(dataset), dataset.ndim, f"{file.url}/{name}", kept, array)
        hdf5_scales.refuse_packed(attributes, (file.url, name))
        placement = _placement(attributes, tags, stored)
        if not placement.voxel_size:
            placement = hdf5_scales.placement(dataset, stored, (file.url, name))
        return Contents(
            stored,
            dataset.shape,
            dataset.dtype,
            dataset.chunks or flat.chunks(stored, dataset.shape),
            {**file.spec, "name": name},
            placement,
            {key: value for key, value in attributes.items() if key not in READ and value is not None},
        )


def _placement(attributes: Mapping[str, Any], tags: list[dict[str, Any]], stored: tuple[str, ...]) -> Placement:
    """What the first convention that gives a size of voxels says: ImageJ's, CREMI's and funlib's, vigra's."""
    if not _is_finite(attributes.get("offset")):
        attributes = {name: value for name, value in attributes.items() if name != "offset"}
    others = {name: value for name, value in attributes.items() if name not in ("voxel_size", "resolution")}
    said = [attributes]
    if "element_size_um" in attributes:
        said.insert(0, {**others, "resolution": attributes["element_size_um"], "units": "um"})
    if tags:
        said.append({**others, **_sizes_of(tags, attributes, stored)})
    for found in said:
        placement = from_attributes(found, stored)
        if placement.voxel_size and all(map(is_size, placement.voxel_size.values())):
            return placement
    return Placement()


def _is_finite(values: Any) -> bool:
    """Whether numbers are all finite, as those of a position are."""
    return all(math.isfinite(v) for v in (values if isinstance(values, list) else [values]) if isinstance(v, float))


def _axistags(attributes: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The axes as vigra and ilastik describe them, in the order of the dataset; none where they do not.

    Raises
    ------
    ValueError
        The attribute is something else.
    """
    text = attributes.get("axistags")
    if text is None:
        return []
    try:
        tags = json.loads(text)["axes"]
        return [{"key": str(tag["key"]), "resolution": tag.get("resolution", 0)} for tag in tags]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"its attribute axistags is not as vigra writes it: {str(text)[:80]}") from error


def _sizes_of(tags: list[dict[str, Any]], attributes: Mapping[str, Any], stored: tuple[str, ...]) -> dict[str, Any]:
    """Voxel size and units as ilastik writes them, along the spatial axes; a resolution of 0 is an unknown one."""
    sizes = {tag["key"].lower(): tag["resolution"] for tag in tags}
    units: Any = None
    with suppress(TypeError, ValueError):
        units = json.loads(attributes["axis_units"]) if "axis_units" in attributes else None
    named = units if isinstance(units, Mapping) else {}
    space = [dim for dim in stored if dim in SPATIAL]
    return {"resolution": [sizes.get(dim, 0) for dim in space], "units": [str(named.get(dim) or "") for dim in space]}


def _first(attributes: Mapping[str, Any], *names: str) -> Any:
    """The first attribute that is there and says anything."""
    return next((attributes[name] for name in names if attributes.get(name)), None)


def parts(file: Stored, inside: str) -> list[tuple[str, int]]:
    """The datasets of a file, or of a group in it, by name; each has one level."""
    import h5py

    with _open(file.spec) as found:
        group = found.get(inside) if inside else found
        if not isinstance(group, h5py.Group) or group.file != found:
            return [(inside, 0)]
        return [(f"{inside}/{name}".strip("/"), 0) for name in _names(group)]


class Dataset:
    """A dataset, by boxes. h5py lets one thread at a time into the library."""

    def __init__(self, spec: Mapping[str, Any], version: str) -> None:
        self.file = _open(spec)
        self.dataset = _dataset(self.file, spec["name"], spec["kvstore"]["path"])

    def __getitem__(self, index: tuple[slice, ...]) -> NDArray[Any]:
        return np.asarray(self.dataset[index])


def opened(spec: Mapping[str, Any], version: str) -> Dataset:
    """The dataset, by boxes."""
    return Dataset(spec, version)


def _open(spec: Mapping[str, Any]) -> Any:
    import h5py

    with suppress(ImportError):
        import hdf5plugin  # noqa: F401  # registers more compressions, where it is installed
    place = spec["kvstore"]
    if place["driver"] == "file":
        # Read-only media and some network file systems have no locks.
        return h5py.File(place["path"], "r", locking="best-effort")
    return h5py.File(ranges.opened(dict(spec)), "r")


def _dataset(file: Any, name: str, url: str) -> Any:
    """A dataset of this file, and of no other: a file from elsewhere could lead to any path of this machine."""
    import h5py

    dataset = file.get(name)
    if dataset is not None and dataset.file != file:
        raise _elsewhere((url, name), "a link into another file", isinstance(dataset, h5py.Dataset))
    if isinstance(dataset, h5py.Group):
        names = _names(dataset)
        raise AmbiguousSource(
            f"{url}/{name} is a group that holds {', '.join(names[:20]) or 'no arrays'}.",
            "A volume is one dataset.",
            [f"open_volume({url!r}, array={f'{name}/{other}'!r})" for other in names[:2]]
            or [f"look at what the file holds: h5py.File({url!r}).visititems(print)", "and name another part of it"],
        )
    if dataset is None:
        names = _names(file)
        raise SourceNotFound(
            f"{url} holds nothing of the name {name!r}.",
            f"It holds {', '.join(names[:20]) or 'no arrays'}.",
            [
                *(f"open_volume({url!r}, array={other!r})" for other in names[:1]),
                *(f"or with the name behind the file: open_volume({f'{url}/{other}'!r})" for other in names[:1]),
            ]
            or [f"look at what the file holds: h5py.File({url!r}).visititems(print)", "or give another file"],
        )
    if dataset.external or dataset.is_virtual:
        raise _elsewhere((url, name), "a dataset whose values lie in other files", True)
    _check_filters(dataset, (url, name))
    return dataset


def _check_filters(dataset: Any, place: tuple[str, str]) -> None:
    """Refuse chunks that went through a filter which is not here."""
    import h5py

    made = dataset.id.get_create_plist()
    filters = [made.get_filter(i) for i in range(made.get_nfilters())]
    absent = [(code, name.decode(errors="replace")) for code, _, _, name in filters if not h5py.h5z.filter_avail(code)]
    if not absent:
        return
    listed = ", ".join(f"{FILTERS.get(code, name or 'a filter')} ({code})" for code, name in absent)
    what = f"The chunks of {'/'.join(place)} are compressed by {listed}, which h5py does not bring."
    repack = f"write it anew where it can be read: h5repack -f GZIP=4 {shlex.quote(place[0])} repacked.h5"
    if "hdf5plugin" in sys.modules:
        raise SourceError(
            what,
            "hdf5plugin is installed, and does not bring it either.",
            [repack, "or set HDF5_PLUGIN_PATH to the filter's folder"],
        )
    raise MissingExtra(
        what,
        "hdf5plugin brings blosc, zstd, LZ4, bitshuffle, bzip2 and others; workers need it too.",
        ["pip install hdf5plugin", repack],
    )


def _elsewhere(place: tuple[str, str], what: str, has_values: bool) -> SourceError:
    url, name = place
    copied = f"h5py.File('copy.h5', 'w')['main'] = h5py.File({url!r})[{name!r}][()]"
    return SourceError(
        f"{url}/{name} is {what}.",
        "Only the file that was named is read, because what it says of others could lead anywhere.",
        [
            "open the other file itself",
            f"if you trust this one, copy the values: {copied}" if has_values else "or name a dataset of this one",
        ],
    )


def _names(group: Any) -> list[str]:
    """Names of the datasets that have an image's rank; links are not followed."""
    import h5py

    found: list[str] = []
    group.visititems(lambda n, node: found.append(n) if isinstance(node, h5py.Dataset) and node.ndim > 1 else None)
    return found


def _only(file: Any, url: str) -> str:
    names = _names(file)
    if len(names) == 1:
        return names[0]
    if not names:
        raise SourceError(
            f"{url} holds no arrays of two or more axes.",
            "They lie in other files, or were never written.",
            ["give another file", f"look at what this one holds: h5py.File({url!r}).visititems(print)"],
        )
    raise AmbiguousSource(
        f"{url} holds {len(names)} arrays: {', '.join(names[:20])}{', ...' if len(names) > 20 else ''}.",
        "Which of them is the volume cannot be guessed.",
        [f"open_volume({url!r}, array={name!r})" for name in names[:2]],
    )


def _plain(value: Any) -> Any:
    """An attribute as JSON has it, None if it cannot."""
    if isinstance(value, np.float16 | np.float32):
        return shortest(value)
    if isinstance(value, np.ndarray) and value.ndim and value.dtype in (np.float16, np.float32):
        return [_plain(part) for part in value]
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return value if isinstance(value, str | int | float | bool) else None
