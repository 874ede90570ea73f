"""How other tools read and write volumes: each by its own library, with nothing of ours.

Imported by tests, and run as a program by benchmarks/interoperability.py, in an environment that has the tools and not
this package: ``python foreign.py < jobs.json`` answers with a JSON list. Besides a tool, numpy is all that is needed.

Voxel sizes are in nm, offsets in voxels, arrays (c, z, y, x) or (z, y, x). A tool tells what it knows, and no more.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
Told = dict[str, Any]
"""``values``; ``voxel_size``, ``offset`` and ``centre`` (of the first voxel, in nm) by axis; names of ``channels``."""
About = Mapping[str, Any]
"""What is to be written: ``voxel_size``, ``offset``, ``channels``, ``encoding``, ``shards``, ``levels``."""

NM = {"": 1.0, "nm": 1.0, "um": 1e3, "m": 1e9, "nanometer": 1.0, "micrometer": 1e3}


def _nm(number: float, unit: str | None) -> float:
    return float(f"{number * NM[unit or '']:.9g}")


def _ordered(values: Array, axes: Sequence[str]) -> Array:
    """Voxels in the order (c, z, y, x)."""
    names = [name.strip("^'")[0] for name in axes]
    return values.transpose([names.index(dim) for dim in "czyx" if dim in names])


def _one(values: Array) -> Array:
    """Without the channels that a format always has, if there is one."""
    return values[0] if values.ndim == 4 and values.shape[0] == 1 else values


def _names(array: Array) -> list[str]:
    return list("czyx")[-array.ndim :]


def _chunks(array: Array) -> tuple[int, ...]:
    return tuple(n if d == "c" else 8 for d, n in zip(_names(array), array.shape, strict=True))


def _place(about: About, *known: str) -> Told:
    return {name: about[name] for name in known}


def _corner(about: About) -> dict[str, float]:
    """World coordinates, in nm."""
    return {d: about["offset"][d] * size for d, size in about["voxel_size"].items()}


# tensorstore

DRIVERS = {
    "zarr2": "zarr", "zarr3": "zarr3", "ome-zarr-0.4": "zarr", "ome-zarr": "zarr3", "n5": "n5",
    "precomputed": "neuroglancer_precomputed",
}  # fmt: skip
SHARDS = {"@type": "neuroglancer_uint64_sharded_v1", "minishard_index_encoding": "gzip", "data_encoding": "gzip"}


def tensorstore_reads(path: Path, format: str, level: int) -> Told:
    import tensorstore as ts

    folder = path / str(level) if format.startswith("ome") else path
    spec: dict[str, Any] = {"driver": DRIVERS[format], "kvstore": {"driver": "file", "path": f"{folder}/"}}
    if format == "precomputed":
        spec["scale_index"] = level
    store = ts.open(spec).result()
    axes = [str(label) for label in store.domain.labels]
    if not any(axes):
        axes = list("czyx")[-store.rank :]
    values = _ordered(store.read().result(), axes)
    told: Told = {"values": _one(values) if format == "precomputed" else values}
    units = {axis: unit for axis, unit in zip(axes, store.dimension_units, strict=True) if axis in "zyx"}
    if all(unit is not None for unit in units.values()):
        told["voxel_size"] = {axis: _nm(unit.multiplier, unit.base_unit) for axis, unit in units.items()}
    if format == "precomputed":
        told["offset"] = {axis: store.domain.origin[axes.index(axis)] for axis in "zyx"}
    return told


def tensorstore_writes(path: Path, format: str, array: Array, about: About) -> Told:
    import tensorstore as ts

    size, names, chunks = about["voxel_size"], _names(array), _chunks(array)
    spec: dict[str, Any] = {"driver": DRIVERS[format], "kvstore": {"driver": "file", "path": f"{path}/"}}
    known: tuple[str, ...] = ("voxel_size",)
    if format == "zarr3":
        meta: dict[str, Any] = {"shape": array.shape, "data_type": array.dtype.name, "dimension_names": names}
        shape = chunks
        if about["shards"]:
            meta["codecs"] = [{"name": "sharding_indexed", "configuration": {"chunk_shape": chunks}}]
            shape = tuple(n if d == "c" else 2 * n for d, n in zip(names, chunks, strict=True))
        meta["chunk_grid"] = {"name": "regular", "configuration": {"chunk_shape": shape}}
        units = [[size[name], "nm"] if name in size else None for name in names]
        spec |= {"metadata": meta, "schema": {"dimension_units": units}}
    elif format == "zarr2":
        spec["metadata"] = {"shape": array.shape, "dtype": array.dtype.str, "chunks": chunks}
        known = ()
    elif format == "n5":
        spec["metadata"] = {
            "dimensions": array.shape[::-1], "blockSize": chunks[::-1], "dataType": array.dtype.name,
            "axes": names[::-1], "resolution": [size.get(name, 1) for name in names[::-1]],
            "compression": {"type": "gzip"},
            "units": ["nm" if name in size else "" for name in names[::-1]],
        }  # fmt: skip
        array = array.T
    else:
        labels = about["encoding"] == "compressed_segmentation"
        scale: dict[str, Any] = {
            "size": array.shape[: -4 if array.ndim == 4 else None : -1], "resolution": [size[d] for d in "xyz"],
            "voxel_offset": [about["offset"][d] for d in "xyz"], "chunk_size": [8, 8, 8], "encoding": about["encoding"],
        }  # fmt: skip
        if labels:
            scale["compressed_segmentation_block_size"] = [8, 8, 8]
        if about["encoding"] == "jpeg":
            scale["jpeg_quality"] = 90
        if about["shards"]:
            bits = {"preshift_bits": 1, "minishard_bits": 1, "shard_bits": 2, "hash": "murmurhash3_x86_128"}
            scale["sharding"] = {**SHARDS, **bits}
        array = array if array.ndim == 4 else array[None]
        spec |= {
            "multiscale_metadata": {
                "type": "segmentation" if labels else "image", "data_type": array.dtype.name,
                "num_channels": len(array),
            },
            "scale_metadata": scale,
        }  # fmt: skip
        array, known = array.T, ("voxel_size", "offset")
    ts.open(spec, create=True).result()[...].write(array).result()
    return _place(about, *known)


# zarr-python


def zarr_reads(path: Path, format: str, level: int) -> Told:
    import zarr

    found = zarr.open(str(path), mode="r")
    array = found[str(level)] if isinstance(found, zarr.Group) else found
    names = array.attrs["_ARRAY_DIMENSIONS"] if array.metadata.zarr_format == 2 else array.metadata.dimension_names
    return {"values": _ordered(array[...], names)}


def zarr_writes(path: Path, format: str, array: Array, about: About) -> Told:
    import zarr

    names, chunks = _names(array), _chunks(array)
    shards = tuple(n if d == "c" else 2 * n for d, n in zip(names, chunks, strict=True)) if about["shards"] else None
    # zarr itself has no words for a place; these are funlib.persistence's.
    attributes = {
        "voxel_size": [about["voxel_size"][d] for d in "zyx"], "offset": [_corner(about)[d] for d in "zyx"],
        "units": ["nm"] * 3, "axis_names": names,
    }  # fmt: skip
    made = zarr.create_array(
        str(path), shape=array.shape, dtype=array.dtype, chunks=chunks, shards=shards, attributes=attributes,
        zarr_format=2 if format == "zarr2" else 3, dimension_names=None if format == "zarr2" else names,
    )  # fmt: skip
    made[...] = array
    return _place(about, "voxel_size", "offset")


# cloud-volume

PREFIXES = {"zarr2": "zarr2", "zarr3": "zarr3", "ome-zarr-0.4": "zarr2", "ome-zarr": "zarr3", "n5": "n5"}


def cloud_volume_reads(path: Path, format: str, level: int) -> Told:
    import cloudvolume

    url = f"{PREFIXES.get(format, 'precomputed')}://file://{path}"
    volume = cloudvolume.CloudVolume(url, mip=level, progress=False, fill_missing=False)
    told: Told = {"values": _one(np.asarray(volume[:, :, :]).T)}
    if format not in ("zarr2", "zarr3"):  # of these it has no place, and says 1 micrometer or 1 nm
        told["voxel_size"] = dict(zip("xyz", map(float, volume.resolution), strict=True))
        told["offset"] = dict(zip("xyz", map(float, volume.voxel_offset), strict=True))
    if format == "precomputed":
        told |= {
            "kind": volume.layer_type,
            "made_by": [done["method"]["task"] for done in volume.provenance.processing],
        }
    return told


def cloud_volume_writes(path: Path, format: str, array: Array, about: About) -> Told:
    import cloudvolume

    four = array if array.ndim == 4 else array[None]
    info = cloudvolume.CloudVolume.create_new_info(
        num_channels=four.shape[0], data_type=array.dtype.name, encoding=about["encoding"],
        layer_type="segmentation" if about["encoding"] == "compressed_segmentation" else "image",
        resolution=[about["voxel_size"][d] for d in "xyz"], voxel_offset=[about["offset"][d] for d in "xyz"],
        volume_size=four.shape[:0:-1], chunk_size=(8, 8, 8),
    )  # fmt: skip
    volume = cloudvolume.CloudVolume(f"file://{path}", info=info, progress=False, compress=False)
    if about["shards"]:  # one for all: what it writes without igneous
        bits = {"preshift_bits": 6, "minishard_bits": 3, "shard_bits": 0, "hash": "identity"}
        volume.scale["sharding"] = {**SHARDS, **bits}
    volume.commit_info()
    volume.commit_provenance()
    volume[:, :, :] = four.T
    if about["levels"] == 2:
        volume.add_scale((2, 2, 2))
        volume.commit_info()
        coarse = cloudvolume.CloudVolume(f"file://{path}", mip=1, progress=False, compress=False)
        coarse[:, :, :] = four[:, ::2, ::2, ::2].T
    return _place(about, "voxel_size", "offset")


# OME-Zarr


def ome_zarr_reads(path: Path, format: str, level: int) -> Told:
    from ome_zarr.format import FormatV04, FormatV05
    from ome_zarr.io import parse_url
    from ome_zarr.reader import Reader

    (node,) = Reader(parse_url(str(path), fmt=FormatV04() if format.endswith("0.4") else FormatV05()))()
    axes = node.metadata["axes"]
    names = [axis["name"] for axis in axes]
    told: Told = {"values": _ordered(np.asarray(node.data[level]), names)}
    for step in node.metadata["coordinateTransformations"][level]:
        name = {"scale": "voxel_size", "translation": "centre"}[step["type"]]
        values = zip(axes, step[step["type"]], strict=True)
        told[name] = {axis["name"]: _nm(n, axis.get("unit")) for axis, n in values if axis["type"] == "space"}
    if "channel_names" in node.metadata:
        told["channels"] = node.metadata["channel_names"]
    return told


def ome_zarr_writes(path: Path, format: str, array: Array, about: About) -> Told:
    import zarr
    from ome_zarr.format import FormatV04, FormatV05
    from ome_zarr.writer import write_multiscale

    fmt = FormatV04() if format.endswith("0.4") else FormatV05()
    group = zarr.open_group(str(path), mode="w", zarr_format=fmt.zarr_format)
    names, corner, steps = _names(array), _corner(about), []
    axes = [
        {"name": d, "type": "space", "unit": "micrometer"} if d != "c" else {"name": d, "type": "channel"}
        for d in names
    ]
    for times in (1, 2):  # levels of averaged cells: the centre of the first lies half a voxel further
        size = {d: n * times / 1000 for d, n in about["voxel_size"].items()}
        start = {d: corner[d] / 1000 + n * (1 - 1 / times) / 2 for d, n in size.items()}
        steps.append([
            {"type": "scale", "scale": [size.get(d, 1.0) for d in names]},
            {"type": "translation", "translation": [start.get(d, 0.0) for d in names]},
        ])  # fmt: skip
    window = {"start": 0, "end": 255, "min": 0, "max": 65535}
    channels = [{"label": n, "color": "FFFFFF", "window": window, "active": True} for n in about["channels"]]
    omero = {"omero": {"channels": channels}} if array.ndim == 4 else {}
    levels = [array, array[..., ::2, ::2, ::2]]
    write_multiscale(levels, group, fmt=fmt, axes=axes, coordinate_transformations=steps, metadata=omero)
    return _place(about, "voxel_size", "offset", *(["channels"] if array.ndim == 4 else []))


def ngff_zarr_reads(path: Path, format: str, level: int) -> Told:
    import ngff_zarr

    image = ngff_zarr.from_ngff_zarr(str(path)).images[level]
    unit = image.axes_units or {}
    return {
        "values": _ordered(np.asarray(image.data), image.dims),
        "voxel_size": {d: _nm(n, unit.get(d)) for d, n in image.scale.items() if d in "zyx"},
        "centre": {d: _nm(n, unit.get(d)) for d, n in image.translation.items() if d in "zyx"},
    }


def ngff_zarr_writes(path: Path, format: str, array: Array, about: About) -> Told:
    import ngff_zarr

    names = _names(array)
    image = ngff_zarr.to_ngff_image(
        array, dims=names, axes_units=dict.fromkeys("zyx", "micrometer"),
        scale={d: about["voxel_size"].get(d, 1000) / 1000 for d in names},
        translation={d: _corner(about).get(d, 0) / 1000 for d in names},
    )  # fmt: skip
    chunks = dict(zip(names, _chunks(array), strict=True))
    made = ngff_zarr.to_multiscales(image, scale_factors=[], chunks=chunks)
    shards = {"chunks_per_shard": {d: 1 if d == "c" else 2 for d in names}} if about["shards"] else {}
    ngff_zarr.to_ngff_zarr(str(path), made, version="0.4" if format.endswith("0.4") else "0.5", **shards)
    return _place(about, "voxel_size", "offset")


def yaozarrs_validates(path: Path, format: str, level: int) -> Told:
    import yaozarrs

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yaozarrs.validate_zarr_store(str(path))
    return {}


def ome_zarr_models_validates(path: Path, format: str, level: int) -> Told:
    import zarr
    from ome_zarr_models import v04, v05

    (v04 if format.endswith("0.4") else v05).Image.from_zarr(zarr.open_group(str(path), mode="r"))
    return {}


def schemas_validate(path: Path, format: str, level: int) -> Told:
    """The official JSON schemas, as ngff-zarr ships them; the strict ones demand what the specification recommends."""
    import zarr
    from ngff_zarr.validate import validate

    attributes = dict(zarr.open_group(str(path), mode="r").attrs)
    for strict in (False, True):
        validate(attributes, version="0.4" if format.endswith("0.4") else "0.5", model="image", strict=strict)
    return {}


# N5


def z5py_reads(path: Path, format: str, level: int) -> Told:
    import z5py

    return {"values": z5py.N5File(str(path.parent), mode="r")[path.name][...]}


def z5py_writes(path: Path, format: str, array: Array, about: About) -> Told:
    import z5py

    made_before = (path.parent / "attributes.json").exists()
    file = z5py.N5File(str(path.parent), mode="a" if made_before else "w")
    made = file.create_dataset(path.name, data=array, chunks=_chunks(array), compression="gzip")
    made.attrs["pixelResolution"] = {"unit": "nm", "dimensions": [about["voxel_size"][d] for d in "xyz"]}  # n5-viewer's
    return _place(about, "voxel_size") if array.ndim == 3 else {}


def zarr_n5_reads(path: Path, format: str, level: int) -> Told:
    import zarr
    from zarr.storage import LocalStore
    from zarr_n5 import N5WrapperStore

    return {"values": zarr.open_array(N5WrapperStore(LocalStore(path, read_only=True)), mode="r")[...].T}


# Files


def tifffile_writes(path: Path, format: str, array: Array, about: About) -> Told:
    import tifffile

    place = {f"PhysicalSize{d.upper()}": n for d, n in about["voxel_size"].items()}
    units = {f"PhysicalSize{d.upper()}Unit": "nm" for d in "zyx"}
    names = {"Channel": {"Name": about["channels"]}} if array.ndim == 4 else {}
    tifffile.imwrite(
        path, array, ome=True, photometric="minisblack", tile=(16, 16), compression="zlib",
        metadata={"axes": "".join(_names(array)).upper(), **place, **units, **names},
    )  # fmt: skip
    return _place(about, "voxel_size", *(["channels"] if names else []))


def h5py_writes(path: Path, format: str, array: Array, about: About) -> Told:
    import h5py

    with h5py.File(path, "w") as file:  # the attributes of the CREMI challenge
        made = file.create_dataset("volumes/raw", data=array, chunks=_chunks(array), compression="gzip")
        made.attrs["resolution"] = [about["voxel_size"][d] for d in "zyx"]
        made.attrs["offset"] = [_corner(about)[d] for d in "zyx"]
        made.attrs["units"] = ["nm"] * 3
    return _place(about, "voxel_size", "offset")


def nibabel_writes(path: Path, format: str, array: Array, about: About) -> Told:
    import nibabel

    affine = np.diag([*(about["voxel_size"][d] / 1000 for d in "xyz"), 1.0])
    affine[:3, 3] = [_corner(about)[d] / 1000 for d in "xyz"]
    four = array.T if array.ndim == 3 else array.T[:, :, :, None]
    image = nibabel.Nifti1Image(four, affine)
    image.header.set_xyzt_units("micron")
    nibabel.save(image, path)
    return _place(about, "voxel_size", "offset")


def mrcfile_writes(path: Path, format: str, array: Array, about: About) -> Told:
    import mrcfile

    with mrcfile.new(path) as file:
        file.set_data(array)
        file.voxel_size = tuple(about["voxel_size"][d] * 10 for d in "xyz")  # in angstrom
        file.nstart = tuple(about["offset"][d] for d in "xyz")
    return _place(about, "voxel_size", "offset")


def numpy_writes(path: Path, format: str, array: Array, about: About) -> Told:
    np.save(path, array)
    return {}


def pillow_writes(path: Path, format: str, array: Array, about: About) -> Told:
    from PIL import Image

    path.mkdir()
    for z, section in enumerate(array, 100):
        Image.fromarray(section).save(path / f"z{z:04d}.png")
    return {"offset": {"z": 100, "y": 0, "x": 0}}


READERS: dict[str, Callable[[Path, str, int], Told]] = {
    "tensorstore": tensorstore_reads,
    "zarr": zarr_reads,
    "cloud-volume": cloud_volume_reads,
    "ome-zarr": ome_zarr_reads,
    "ngff-zarr": ngff_zarr_reads,
    "yaozarrs": yaozarrs_validates,
    "ome-zarr-models": ome_zarr_models_validates,
    "schemas": schemas_validate,
    "z5py": z5py_reads,
    "zarr-n5": zarr_n5_reads,
}
WRITERS: dict[str, Callable[[Path, str, Array, About], Told]] = {
    "tensorstore": tensorstore_writes,
    "zarr": zarr_writes,
    "cloud-volume": cloud_volume_writes,
    "ome-zarr": ome_zarr_writes,
    "ngff-zarr": ngff_zarr_writes,
    "z5py": z5py_writes,
    "tifffile": tifffile_writes,
    "h5py": h5py_writes,
    "nibabel": nibabel_writes,
    "mrcfile": mrcfile_writes,
    "numpy": numpy_writes,
    "pillow": pillow_writes,
}


def done(job: Mapping[str, Any]) -> Told:
    """A job carried out: what the tool told, or wrote, its voxels in a file beside; or the error."""
    try:
        path, tool = Path(job["path"]), job["tool"]
        if "about" in job:
            return WRITERS[tool](path, job["format"], np.load(job["voxels"]), job["about"])
        told = READERS[tool](path, job["format"], job["level"])
        if "values" in told:
            np.save(job["voxels"], told["values"])
            told["values"] = job["voxels"]
        return told
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}


if __name__ == "__main__":
    with contextlib.redirect_stdout(io.StringIO()):  # some tools print
        answers = [done(job) for job in json.load(sys.stdin)]
    print(json.dumps(answers, default=lambda number: number.item()))
