"""Chunked stores for `fuzzing`: zarr, OME-Zarr, N5 and precomputed, and what their libraries read of them."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tests.lib.storage.fuzzing import EDGE, METRES, Array, Asked, Format, Seen, corner, json_changes

VALUES = np.random.default_rng(0).integers(1, 200, (6, 7, 8), dtype="u2")
"""(z, y, x)"""
CHUNKS = (3, 4, 5)
SPACE = ("z", "y", "x")
ORDER = ("t", "c", "z", "y", "x")
BY_RANK = {2: "yx", 3: "zyx", 4: "czyx", 5: "tczyx"}

LENGTHS = tuple(METRES)
AXES = ("t", "c", "z", "y", "x", "Z", "channel", "time", "space", "depth", None)
DTYPES = ("uint8", "uint16", "int16", "float32", "float64", "bool", "complex64", "string")
PLACED = {"voxel_size": [40, 4.5, 4], "offset": [-120, 9, 8], "units": ["nm", "nm", "nm"]}
WORDS = (*LENGTHS, "furlong", "second", "pixel", *AXES, "voxel_size", "resolution", "offset", "units", "unit",
         "scale_factor", "add_offset", "_FillValue", "dimension_units", "C", "F", ".", "/", "gzip", "blosc", "zstd",
         "lz4", 0.5, 3, [40, 4.5, 4], ["um", "nm", "nm"], ["x", "y", "z"])  # fmt: skip


def axes_of(names: Sequence[Any] | None, rank: int) -> tuple[str, ...]:
    """Axes as they are stored."""
    if names is None or not any(names):
        return tuple(BY_RANK[rank])
    synonyms = {"channel": "c", "time": "t"}
    axes = tuple(synonyms.get(str(name).lower(), str(name).lower()) for name in names)
    assert len(axes) == rank == len(set(axes))
    assert set(axes) <= set(ORDER)
    return axes


def seen(values: Any, axes: Sequence[str], sizes: Any, units: Any, offset: Any) -> Seen:
    """What a reader says, in numpy order; sizes, units and offsets are by axis."""
    dims = tuple(dim for dim in ORDER if dim in axes)
    turn = [list(axes).index(dim) for dim in dims]
    space = [dim for dim in dims if dim in SPACE]
    assert all(math.isfinite(sizes.get(dim, 1)) and sizes.get(dim, 1) > 0 for dim in space)
    part = np.asarray(values[corner(values.shape)])
    return Seen(
        dims,
        tuple(int(values.shape[axis]) for axis in turn),
        {dim: float(sizes.get(dim, 1)) for dim in space},
        {dim: units.get(dim) or "" for dim in space},
        {dim: float(offset.get(dim, 0)) for dim in space},
        part.transpose(turn),
    )


def spatial(values: Any, axes: Sequence[str]) -> dict[str, Any]:
    """A value for each spatial axis, of as many as spatial axes or as axes."""
    space = [dim for dim in axes if dim in SPACE]
    if isinstance(values, Mapping):
        return {dim: values[dim] for dim in space if dim in values}
    if isinstance(values, str) or not isinstance(values, Sequence) or len(values) not in (len(space), len(axes)):
        raise ValueError(values)
    by = space if len(values) == len(space) else axes
    return {dim: value for dim, value in zip(by, values, strict=True) if dim in SPACE}


def stated(about: Mapping[str, Any], axes: Sequence[str]) -> tuple[dict[str, float], dict[str, str], dict[str, float]]:
    """Sizes, units and offsets, of funlib's attributes: read plainly, as docs/formats.md says."""
    try:
        given = about.get("voxel_size", about.get("resolution"))
        sizes = spatial(given, axes)
        assert sizes
        assert all(isinstance(size, int | float) and size and size is not True for size in sizes.values())
    except (ValueError, AssertionError):
        return {}, {}, {}
    units = about.get("unit", about.get("units")) if isinstance(given, Mapping) else about.get("units")
    units = [units] * len(axes) if isinstance(units, str) else [""] * len(axes) if units is None else units
    world = spatial(about["offset"], axes) if about.get("offset") is not None else {}
    offset = {dim: world[dim] / sizes[dim] for dim in world if dim in sizes}
    return sizes, {dim: short(unit) for dim, unit in spatial(units, axes).items()}, offset


def short(unit: str | None) -> str:
    """A unit as the table has it, or none."""
    name = (unit or "").strip()
    singular = name.lower().removesuffix("s")
    return (
        "" if singular in ("pixel", "voxel") else name if name in METRES else singular if singular in METRES else name
    )


# zarr


def write_zarr(folder: Path, version: int, **options: Any) -> None:
    import zarr

    names = {"dimension_names": SPACE} if version == 3 else {}
    about = PLACED if version == 3 else {**PLACED, "_ARRAY_DIMENSIONS": list(SPACE)}
    zarr.create_array(
        str(folder), shape=VALUES.shape, chunks=CHUNKS, dtype="u2", zarr_format=version, attributes=about,
        **names, **options,
    )[...] = VALUES  # fmt: skip


def zarr_python(place: Path, asked: Asked) -> Seen:
    """zarr-python's values; the place is in attributes, which it leaves to others."""
    import zarr

    array = zarr.open_array(str(place), mode="r")
    about = dict(array.attrs)
    names = array.metadata.dimension_names if array.metadata.zarr_format == 3 else None
    axes = axes_of(names or about.get("_ARRAY_DIMENSIONS") or about.get("axis_names"), array.ndim)
    return seen(array, axes, *stated(about, axes))


class Read:
    """A tensorstore, by boxes."""

    def __init__(self, store: Any) -> None:
        self.store, self.shape = store, tuple(store.shape)

    def __getitem__(self, box: Any) -> Array:
        return np.asarray(self.store[box].read().result())


def tensorstore_zarr(place: Path, asked: Asked) -> Seen:
    """The same by tensorstore, which takes 3.0 for 3."""
    store, names, about = _opened_zarr(place)
    axes = axes_of(names or about.get("axis_names"), store.rank)
    return seen(Read(store), axes, *stated(about, axes))


def _names_of(place: Path) -> Any:
    second = (place / ".zarray").exists()
    about = json.loads((place / (".zattrs" if second else "zarr.json")).read_text())
    return about.get("_ARRAY_DIMENSIONS") if second else about.get("dimension_names")


def _opened_zarr(place: Path) -> tuple[Any, Any, dict[str, Any]]:
    """The array, names of its axes and attributes."""
    import tensorstore as ts

    second, names = (place / ".zarray").exists(), _names_of(place)
    path = place / (".zattrs" if second else "zarr.json")
    about = json.loads(path.read_text()) if path.exists() else {}
    spec = {"driver": "zarr" if second else "zarr3", "kvstore": {"driver": "file", "path": f"{place}/"}}
    store = ts.open({**spec, "fill_missing_data_reads": True}, open=True).result()
    return store, names, about if second else about.get("attributes") or {}


def write_dataset(folder: Path, version: int) -> None:
    import xarray as xr

    coords = {
        dim: (dim, (np.arange(n) + start) * size, {"units": "nm"})
        for dim, n, start, size in zip(SPACE, VALUES.shape, (10, -2, 0), (40.0, 4.5, 4.0), strict=True)
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        xr.Dataset({"em": (SPACE, VALUES)}, coords=coords).to_zarr(folder, zarr_format=version, consolidated=False)


def xarray(place: Path, asked: Asked) -> Seen:
    """xarray's values and coordinates."""
    import xarray as xr

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        root = xr.open_zarr(place, consolidated=False, use_zarr_fill_value_as_mask=False)
        (name,) = (name for name in root.data_vars if root[name].ndim > 1)
        volume = root[name]
        axes = axes_of(volume.dims, volume.ndim)
        sizes, units, offset = stated(volume.attrs, axes)
        for dim, own in zip(axes, volume.dims, strict=True):
            if dim in SPACE and own in volume.coords:
                at = np.asarray(volume[own].values, "f8")
                sizes[dim] = (at[-1] - at[0]) / (len(at) - 1) if len(at) > 1 else sizes.get(dim, 1.0)
                assert np.allclose(np.diff(at), sizes[dim])
                units[dim] = short(volume[own].attrs.get("units", units.get(dim)))
                offset[dim] = at[0] / sizes[dim]
        values = volume.isel({dim: slice(0, EDGE) for dim in volume.dims}).values
    return seen(values, axes, sizes, units, offset)


def array_alone(place: Path, asked: Asked) -> Seen:
    """What zarr-python says of the array, where nothing names its axes: then there are no coordinates of them."""
    import zarr

    array = zarr.open_array(str(place / "em"), mode="r")
    assert not getattr(array.metadata, "dimension_names", None)
    assert array.attrs.get("_ARRAY_DIMENSIONS") is None
    return zarr_python(place / "em", asked)


def plain_dataset(place: Path, asked: Asked) -> Seen:
    """The same by tensorstore: coordinates are arrays of one axis that has their name."""
    store, names, about = _opened_zarr(place / "em")
    axes = axes_of(names, store.rank)
    sizes, units, offset = stated(about, axes)
    for dim, name, length in zip(axes, names, store.shape, strict=True):
        if dim in SPACE and (place / name).exists():
            if _names_of(place / name) != [name]:
                continue
            coordinate, _, more = _opened_zarr(place / name)
            assert coordinate.shape == (length,)
            at = np.asarray(coordinate.read().result(), "f8")
            sizes[dim] = (at[-1] - at[0]) / (len(at) - 1)
            assert np.allclose(np.diff(at), sizes[dim])
            units[dim] = short(more.get("units", units.get(dim)))
            offset[dim] = at[0] / sizes[dim]
    return seen(Read(store), axes, sizes, units, offset)


# OME-Zarr


def write_ome(folder: Path, version: str) -> None:
    import zarr

    axes = [{"name": dim, "type": "space", "unit": "nanometer"} for dim in SPACE]
    steps = [
        [{"type": "scale", "scale": [40, 4.5, 4]}, {"type": "translation", "translation": [400, -9, 0]}],
        [{"type": "scale", "scale": [40, 9, 8]}, {"type": "translation", "translation": [400, -6.75, 2]}],
    ]
    image: dict[str, Any] = {"name": "em"}
    if version == "0.6":
        ends = [{"input": str(level), "output": "physical"} for level in range(2)]
        steps = [[{"type": "sequence", **end, "transformations": step}] for end, step in zip(ends, steps, strict=True)]
        image["coordinateSystems"] = [{"name": "world", "axes": axes}, {"name": "physical", "axes": axes}]
    else:
        image["axes"] = axes
    image["datasets"] = [{"path": str(level), "coordinateTransformations": step} for level, step in enumerate(steps)]
    format = 2 if version == "0.4" else 3
    group = zarr.open_group(str(folder), mode="w", zarr_format=format)
    for level, values in enumerate((VALUES, VALUES[:, ::2, ::2])):
        group.create_array(str(level), shape=values.shape, chunks=CHUNKS, dtype="u2")[...] = values
    versioned = {"multiscales": [{"version": version, **image}]}
    group.attrs.update(versioned if format == 2 else {"ome": {"version": version, "multiscales": [image]}})


def attributes(place: Path) -> dict[str, Any]:
    if (path := place / ".zattrs").exists():
        assert json.loads((place / ".zgroup").read_text())["zarr_format"] == 2
        return dict(json.loads(path.read_text()))
    meta = json.loads((place / "zarr.json").read_text())
    assert (meta["zarr_format"], meta["node_type"]) == (3, "group")
    return dict(meta["attributes"])


def of_image(place: Path, asked: Asked, names: Sequence[str], units: Sequence[Any], levels: Any) -> Seen:
    """An image whose levels are paths, scales and translations, of which those of a pyramid share their corner."""
    import zarr

    path, scale, centre = levels[asked.level]
    _, finest, first = levels[0]
    try:
        array = zarr.open_array(str(place / path.strip("/")), mode="r")
    except TypeError:  # 3.0 for 3
        array = Read(_opened_zarr(place / path.strip("/"))[0])
    axes = axes_of(names, len(array.shape))
    cells = all(abs(b - a - (s - f) / 2) <= 1e-6 * s for s, f, b, a in zip(scale, finest, centre, first, strict=True))
    sizes = dict(zip(axes, scale, strict=True))
    offset = {dim: start / sizes[dim] for dim, start in zip(axes, first if cells else centre, strict=True)}
    return seen(array, axes, sizes, {dim: short(unit) for dim, unit in zip(axes, units, strict=True)}, offset)


def yaozarrs(place: Path, asked: Asked) -> Seen:
    """What the models of OME-Zarr 0.4 and 0.5 say."""
    from yaozarrs import v04, v05

    about = attributes(place)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        image = v05.Image(**about["ome"]) if "ome" in about else v04.Image(**about)
    multiscale = image.multiscales[0]
    whole = multiscale.coordinateTransformations or []
    rank = len(multiscale.axes)

    def placed(steps: Any) -> tuple[Array, Array]:
        scale, shift = np.ones(rank), np.zeros(rank)
        for step in steps:
            if step.type == "scale":
                scale, shift = scale * step.scale, shift * step.scale
            else:
                shift = shift + step.translation
        return scale, shift

    levels = [(level.path, *placed([*level.coordinateTransformations, *whole])) for level in multiscale.datasets]
    units = [getattr(axis, "unit", None) for axis in multiscale.axes]
    return of_image(place, asked, [axis.name for axis in multiscale.axes], units, levels)


def named(end: Any) -> Any:
    """The name of a coordinate system, or the path of a level."""
    return end.get("name", end.get("path")) if isinstance(end, Mapping) else end


def neuroglancer(place: Path, asked: Asked) -> Seen:
    """What Neuroglancer's rules make of any version: homogeneous matrices, one after the other.

    The intrinsic coordinate system is the one that the levels lead to, as the specification has it; what leads on from
    there is not followed.
    """
    about = attributes(place)
    block = about.get("ome", about)
    image = block["multiscales"][0]
    version = block.get("version") if "ome" in about else image.get("version")
    assert version is None or str(version) in ("0.1", "0.2", "0.3", "0.4", "0.5", "0.5-dev", "0.6", "0.6.dev1"), version
    systems = image.get("coordinateSystems")
    if systems is not None:
        first = named(image["datasets"][0]["coordinateTransformations"][0].get("output"))
        (intrinsic,) = [one for one in systems if one["name"] == first] if first else systems[-1:]
    axes = image.get("axes") if systems is None else intrinsic["axes"]
    if axes is None:
        assert str(version) in ("None", "0.1", "0.2", "0.3")
        axes = list(SPACE)
    rank = len(axes)

    def matrix(step: Mapping[str, Any]) -> Array:
        made = np.eye(rank + 1)
        if step["type"] == "scale":
            made[range(rank), range(rank)] = step["scale"]
        elif step["type"] == "translation":
            made[:rank, rank] = step["translation"]
        elif step["type"] == "sequence":
            assert all(inner["type"] != "sequence" for inner in step["transformations"])
            return product(step["transformations"])
        else:
            assert step["type"] == "identity"
        return made

    def product(steps: Any) -> Array:
        made = np.eye(rank + 1)
        for step in steps or []:
            made = matrix(step) @ made
        return made

    whole = image.get("coordinateTransformations") if systems is None else None

    def level(dataset: Mapping[str, Any]) -> tuple[str, Array, Array]:
        steps = dataset.get("coordinateTransformations")
        assert steps or whole or dataset is not image["datasets"][asked.level]
        if systems is not None:
            (only,) = steps
            ends = (("input", dataset["path"]), ("output", intrinsic["name"]))
            assert all(named(only.get(end)) in (None, "", right) for end, right in ends)
        made = product(whole) @ product(steps)
        return dataset["path"], np.diag(made)[:rank], made[:rank, rank]

    names = [axis["name"] if isinstance(axis, Mapping) else axis for axis in axes]
    units = [axis.get("unit") if isinstance(axis, Mapping) else None for axis in axes]
    placed = {number: level(image["datasets"][number]) for number in {0, asked.level}}
    return of_image(place, asked, names, units, placed)


def without_place(place: Path, asked: Asked) -> Seen:
    """A level that does not say where it is: its size is not known, but for how many voxels make one."""
    import zarr

    about = attributes(place)
    image = about.get("ome", about)["multiscales"][0]
    steps = [dataset.get("coordinateTransformations") for dataset in image["datasets"][:2]]
    assert not steps[asked.level]
    array = zarr.open_array(str(place / image["datasets"][asked.level]["path"]), mode="r")
    axes = axes_of([axis["name"] for axis in image["axes"]] if image.get("axes") else None, array.ndim)
    times = [1, 2, 2] if asked.level else [1, 1, 1]
    if not steps[0]:
        return seen(array, axes, dict(zip(axes, times, strict=True)), {}, {})
    finest = neuroglancer(place, Asked(0))
    sizes = {dim: finest.voxel_size[dim] * n for dim, n in zip(axes, times, strict=True)}
    offset = {dim: finest.offset[dim] / n for dim, n in zip(axes, times, strict=True)}
    return seen(array, axes, sizes, finest.units, offset)


# N5


def write_n5(folder: Path, about: Sequence[Mapping[str, Any]]) -> None:
    """A dataset, or where there are several attributes a group of levels."""
    import tensorstore as ts

    for level, more in enumerate(about):
        values = VALUES if level == 0 else VALUES[:, ::2, ::2]
        place = folder / f"s{level}" if len(about) > 1 else folder
        meta = {
            "dimensions": values.shape[::-1],
            "blockSize": CHUNKS[::-1],
            "dataType": "uint16",
            "compression": {"type": "gzip", "level": 5},
        }
        spec = {"driver": "n5", "kvstore": {"driver": "file", "path": f"{place}/"}, "metadata": {**meta, **more}}
        ts.open(spec, create=True).result()[...].write(values.T).result()
    if len(about) > 1:
        (folder / "attributes.json").write_text(json.dumps({"n5": "4.0.0"}))


NEUROGLANCER_N5 = {"axes": ["x", "y", "z"], "resolution": [4, 4.5, 40], "units": ["nm", "nm", "nm"], "n5": "4.0.0"}
COSEM = [
    {"transform": {"axes": list(SPACE), "scale": scale, "translate": start, "units": ["nm"] * 3}}
    for scale, start in (([40, 4.5, 4], [400, -9, 0]), ([40, 9, 8], [400, -6.75, 2]))
]


def _n5_values(place: Path) -> Any:
    import tensorstore as ts

    meta = json.loads((place / "attributes.json").read_text())
    version = meta.get("n5")
    major = str("4.0.0" if version is None else version).partition(".")[0]
    assert int(major) <= 4, "N5's own library refuses later versions"
    own = {name: meta[name] for name in ("dimensions", "blockSize", "dataType", "compression")}
    spec = {"driver": "n5", "kvstore": {"driver": "file", "path": f"{place}/"}, "fill_missing_data_reads": True}
    about = {name: meta[name] for name in ("axes", "units", "resolution") if name in meta}
    return ts.open({**spec, "metadata": {**own, **about}, "assume_metadata": True}).result(), meta


def tensorstore_n5(place: Path, asked: Asked) -> Seen:
    """What tensorstore says of axes, sizes and units; it knows no offset."""
    store, meta = _n5_values(place)
    assert "units" in meta, "without which it does not take the resolution"
    labels = store.domain.labels
    axes = axes_of(labels, store.rank) if any(labels) else tuple(BY_RANK[store.rank])[::-1]
    assert not {"transform", "pixelResolution", "downsamplingFactors", "voxel_size"} & set(meta), "not known to it"
    known = {dim: unit for dim, unit in zip(axes, store.dimension_units, strict=True) if unit is not None}
    sizes = {dim: unit.multiplier for dim, unit in known.items()}
    units = {dim: short(unit.base_unit) for dim, unit in known.items()}
    world = spatial(meta.get("offset") or [0] * len(axes), axes)
    return seen(Read(store), axes, sizes, units, {dim: world[dim] / sizes.get(dim, 1) for dim in world})


def plain_n5(place: Path, asked: Asked) -> Seen:
    """The same as docs/formats.md has it: funlib's words, in N5's order."""
    store, meta = _n5_values(place)
    axes = axes_of(meta["axes"], store.rank) if meta.get("axes") else tuple(BY_RANK[store.rank])[::-1]
    if isinstance(named := meta.get("pixelResolution"), Mapping):
        meta = {**meta, "resolution": named.get("dimensions"), "units": named.get("unit")}
    elif named is not None:
        meta = {**meta, "resolution": named}
    sizes, units, offset = stated(meta, axes)
    factors = meta.get("downsamplingFactors")
    if factors is not None and not isinstance(factors[0], list):
        times = dict(zip(axes, factors, strict=True))
        sizes, offset = ({d: v * times[d] for d, v in sizes.items()}, {d: v / times[d] for d, v in offset.items()})
    assert meta.get("transform") is None
    return seen(Read(store), axes, sizes, units, offset)


def cosem(place: Path, asked: Asked) -> Seen:
    """Levels by COSEM's transforms, whose translations are of centres."""
    store, meta = _n5_values(place / f"s{asked.level}")
    if meta.get("transform") is None:
        return plain_n5(place / f"s{asked.level}", asked)
    base = json.loads((place / "s0" / "attributes.json").read_text())
    axes = axes_of(meta["axes"], store.rank) if meta.get("axes") else tuple(BY_RANK[store.rank])[::-1]
    mine = meta["transform"]
    first = base["transform"] if isinstance(base.get("transform"), Mapping) else mine
    assert set(mine["axes"]) == set(first["axes"]) == set(axes)
    size, finest = (dict(zip(t["axes"], map(float, t["scale"]), strict=True)) for t in (mine, first))
    centre, start = (
        dict(zip(t["axes"], map(float, t.get("translate") or [0] * len(t["axes"])), strict=True)) for t in (mine, first)
    )
    cells = all(abs(centre[d] - start[d] - (size[d] - finest[d]) / 2) <= 1e-6 * size[d] for d in axes)
    units = dict(zip(mine["axes"], mine.get("units") or [None] * len(axes), strict=True))
    offset = {d: (start if cells else centre)[d] / size[d] for d in axes}
    return seen(Read(store), axes, size, {dim: short(unit) for dim, unit in units.items()}, offset)


# Precomputed


def write_precomputed(folder: Path, **more: Any) -> None:
    """Two levels; ``more`` is how each is encoded."""
    import tensorstore as ts

    for level, values in enumerate((VALUES, VALUES[:, ::2, ::2])):
        scale = {
            "size": values.shape[::-1], "resolution": [4 * 2**level, 4.5 * 2**level, 40], "encoding": "raw",
            "voxel_offset": [[7, -3, 2], [3, -2, 2]][level], "chunk_size": CHUNKS[::-1], **more,
        }  # fmt: skip
        labels = more.get("encoding") == "compressed_segmentation"
        values = values.astype("u4") if labels else values
        kind = "segmentation" if labels else "image"
        about = {"type": kind, "data_type": values.dtype.name, "num_channels": 1}
        spec = {
            "driver": "neuroglancer_precomputed", "kvstore": {"driver": "file", "path": f"{folder}/"},
            "multiscale_metadata": about, "scale_metadata": scale, "create": True,
        }  # fmt: skip
        store = ts.open(spec).result()
        store[ts.d[:].translate_to[0]][...].write(values.T[..., None]).result()


def cloud_volume(place: Path, asked: Asked) -> Seen:
    """What cloud-volume reads."""
    import cloudvolume

    volume = cloudvolume.CloudVolume(f"file://{place}", mip=asked.level, progress=False, fill_missing=True)
    shape, start = [int(n) for n in volume.shape], [int(n) for n in volume.voxel_offset]
    box = tuple(slice(a, a + min(n, EDGE)) for a, n in zip(start, shape[:3], strict=True))
    return _precomputed(np.asarray(volume[box]), shape, volume.resolution, start)


def tensorstore_precomputed(place: Path, asked: Asked) -> Seen:
    """The same by tensorstore."""
    import tensorstore as ts

    spec = {
        "driver": "neuroglancer_precomputed", "kvstore": {"driver": "file", "path": f"{place}/"},
        "scale_index": asked.level, "fill_missing_data_reads": True,
    }  # fmt: skip
    store = ts.open(spec, open=True).result()
    start = store.domain.inclusive_min[:3]
    sizes = [unit.multiplier for unit in store.dimension_units[:3]]
    moved = store[ts.d[:].translate_to[0]]
    return _precomputed(Read(moved)[corner(moved.shape)], moved.shape, sizes, start)


def _precomputed(part: Array, shape: Sequence[int], resolution: Any, start: Any) -> Seen:
    """Values in x, y, z and channels; one channel is no axis."""
    axes = ("x", "y", "z", "c")
    if shape[3] == 1:
        axes, part, shape = axes[:3], part[..., 0], shape[:3]
    turned = part.transpose()
    dims = axes[::-1]
    sizes = dict(zip("xyz", map(float, resolution), strict=True))
    assert all(size > 0 and math.isfinite(size) for size in sizes.values())
    offset = dict(zip("xyz", map(float, start), strict=True))
    by = {dim: sizes[dim] for dim in SPACE}
    return Seen(
        dims, tuple(int(n) for n in shape[::-1]), by, dict.fromkeys(SPACE, "nm"), {d: offset[d] for d in SPACE}, turned
    )  # fmt: skip


TRANSFORMS = (*LENGTHS, "furlong", *AXES, "second", "0.1", "0.3", "0.4", "0.5", "0.5-dev", "0.6", "0.7", "1.0", "scale",
              "translation", "identity", "sequence", "affine", "rotation", "displacements", "mapAxis", "byDimension",
              "0", "1", "physical", "world", "..", "coordinateTransformations", "unit", "axes", "coordinateSystems",
              [1, 0.5, 0.5], [0, 0, 0], {"type": "scale", "scale": [2, 2, 2]}, {"type": "identity"},
              {"type": "translation", "translation": [1, 2, 3]}, {"type": "affine", "affine": [[1, 0, 0, 0]] * 3},
              {"type": "rotation", "rotation": [[0, 1, 0], [1, 0, 0], [0, 0, 1]]})  # fmt: skip
N5_WORDS = (*WORDS, *DTYPES, "pixelResolution", "transform", "downsamplingFactors", "5.0.0", "2.0.0", "4.1.0", "xz",
            "bzip2", "raw", [4, 4.5, 40], [2, 2, 1], {"dimensions": [4, 4, 40], "unit": "um"})  # fmt: skip
PRECOMPUTED_WORDS = (*DTYPES, "uint64", "raw", "jpeg", "png", "compressed_segmentation", "compresso", "jxl",
                     "segmentation", "image", "neuroglancer_multiscale_volume", "neuroglancer_skeletons",
                     "sharding", "hidden", [4, 4, 40], [0, 0, 0], [64, 64, 64], [[5, 4, 3]])  # fmt: skip

LABELS = {
    "encoding": "compressed_segmentation", "compressed_segmentation_block_size": [4, 4, 4],
    "sharding": {
        "@type": "neuroglancer_uint64_sharded_v1", "preshift_bits": 1, "hash": "identity", "minishard_bits": 1,
        "shard_bits": 1, "minishard_index_encoding": "gzip", "data_encoding": "gzip",
    },
}  # fmt: skip

STORES = (
    Format(
        "zarr v2", lambda folder: write_zarr(folder, 2),
        json_changes(".zarray", ".zattrs", words=(*WORDS, "<u2", ">u2", "|u1", "<f4", "<i2", "|b1")),
        [zarr_python, tensorstore_zarr],
    ),
    Format(
        "zarr v3", lambda folder: write_zarr(folder, 3),
        json_changes("zarr.json", words=(*WORDS, *DTYPES, "transpose", "bytes", "little", "big", "v2", "default",
                                         "must_understand", {"must_understand": False})),
        [zarr_python, tensorstore_zarr],
    ),
    Format(
        "zarr v3, sharded", lambda folder: write_zarr(folder, 3, shards=(6, 4, 10)),
        json_changes("zarr.json", words=(*DTYPES, "transpose", "bytes", "little", "big", "start", "end", "crc32c",
                                         "gzip", "sharding_indexed", [2, 1, 0], [6, 8, 10], [3, 2, 5])),
        [zarr_python, tensorstore_zarr],
    ),
    Format(
        "xarray in zarr v2", lambda folder: write_dataset(folder, 2),
        json_changes("em/.zarray", "em/.zattrs", "z/.zarray", "z/.zattrs", words=(*WORDS, "<u2", "<f4", "<f8")),
        [xarray, array_alone, plain_dataset],
    ),
    Format(
        "xarray in zarr v3", lambda folder: write_dataset(folder, 3),
        json_changes("em/zarr.json", "z/zarr.json", words=(*WORDS, *DTYPES)), [xarray, array_alone, plain_dataset],
    ),
    Format(
        "OME-Zarr 0.4", lambda folder: write_ome(folder, "0.4"),
        json_changes(".zattrs", ".zattrs", ".zattrs", ".zgroup", "0/.zarray", words=TRANSFORMS),
        [yaozarrs, neuroglancer, without_place],
        levels=2,
    ),
    Format(
        "OME-Zarr 0.5", lambda folder: write_ome(folder, "0.5"),
        json_changes("zarr.json", "zarr.json", "zarr.json", "0/zarr.json", words=TRANSFORMS),
        [yaozarrs, neuroglancer, without_place],
        levels=2,
    ),
    Format(
        "OME-Zarr 0.6", lambda folder: write_ome(folder, "0.6"),
        json_changes("zarr.json", words=TRANSFORMS), [neuroglancer], levels=2,
    ),
    Format(
        "N5", lambda folder: write_n5(folder, [NEUROGLANCER_N5]),
        json_changes("attributes.json", words=N5_WORDS), [tensorstore_n5, plain_n5],
    ),
    Format(
        "N5, levels of COSEM", lambda folder: write_n5(folder, COSEM),
        json_changes("s0/attributes.json", "s1/attributes.json", words=N5_WORDS), [cosem], levels=2,
    ),
    Format(
        "precomputed", write_precomputed,
        json_changes("info", words=PRECOMPUTED_WORDS), [cloud_volume, tensorstore_precomputed], levels=2,
    ),
    Format(
        "precomputed, sharded labels", lambda folder: write_precomputed(folder, **LABELS),
        json_changes("info", words=(*PRECOMPUTED_WORDS, "identity", "murmurhash3_x86_128", "gzip")),
        [cloud_volume, tensorstore_precomputed], levels=2,
    ),
)  # fmt: skip
"""Every chunked store, and who else reads it."""
