"""What is said of stores that cannot be read works: zarr, OME-Zarr, N5 and precomputed volumes."""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

import chunkinfer as ci
from tests.lib.ways.rows import VOLUME, Row, each, refusals
from tests.lib.ways.stored import ARRAY, after, array, change, opens

numcodecs = pytest.importorskip("numcodecs")
zarr = pytest.importorskip("zarr")

pytestmark = [
    pytest.mark.filterwarnings("ignore:Numcodecs codecs"),
    pytest.mark.filterwarnings("ignore:Consolidated metadata"),
    pytest.mark.filterwarnings("ignore:Failed to open Zarr store with consolidated"),
]


def write(path: str, content: bytes | str) -> Callable[[], Any]:
    """A file."""

    def made() -> None:
        place = Path(path)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content.encode() if isinstance(content, str) else content)

    return made


def without(pattern: str) -> Callable[[], None]:
    """Take away the first file that fits."""
    return lambda: min(Path().glob(pattern)).unlink()


def cut(pattern: str) -> Callable[[], None]:
    """Cut the first file that fits short."""

    def made() -> None:
        path = min(Path().glob(pattern))
        path.write_bytes(path.read_bytes()[:9])

    return made


def packed(pattern: str) -> Callable[[], None]:
    """Every file that fits, by gzip, as somebody packs a store."""

    def made() -> None:
        for path in Path().glob(pattern):
            if path.is_file():
                path.write_bytes(gzip.compress(path.read_bytes()))

    return made


def longer(pattern: str) -> Callable[[], None]:
    """Bytes behind the end of each chunk, as z5py wrote them."""

    def made() -> None:
        for path in Path().glob(pattern):
            path.write_bytes(path.read_bytes() + bytes(16))

    return made


def group(*names: str, version: int = 3, **attributes: Any) -> Callable[[], None]:
    """A group of arrays; "name.8.5.6" has that shape."""

    def made() -> None:
        root = zarr.open_group("v", mode="w", zarr_format=version)
        for name in names:
            shape = tuple(map(int, name.split(".")[1:])) or ARRAY.shape
            root.create_array(name.partition(".")[0], shape=shape, dtype="u1", chunks=shape)[...] = 1
        root.attrs.update(attributes)

    return made


def both() -> None:
    """What is at w is at v too."""
    shutil.copytree("w", "v", dirs_exist_ok=True)


def delta() -> None:
    """Of version 3, with a codec of numcodecs."""
    array(filters=[zarr.codecs.numcodecs.Delta(dtype="u1")])()


RECTILINEAR = {"name": "rectilinear", "configuration": {"chunk_shape": [3, 4, 5]}}

ZARR = [
    opens("is an array of rank 6", 1, array(values=ARRAY[None, None, None])),
    opens("is an array of rank 1", 0, array(values=ARRAY[0, 0])),
    opens("are named ['a', 'b', 'c']", 1, array(dimension_names=["a", "b", "c"])),
    opens("are named ['a', 'b', 'c']", 1, array(2, attributes={"_ARRAY_DIMENSIONS": ["a", "b", "c"]})),
    opens("encoded by lz4", 1, array(2, compressors=numcodecs.LZ4())),
    opens("encoded by delta", 1, array(2, filters=[numcodecs.Delta(dtype="u1")])),
    opens("numcodecs.delta", 1, delta),
    opens("chunk grid of kind 'rectilinear'", 0, array(meta={"chunk_grid": RECTILINEAR})),
    opens("fill_value = -1", 0, array(meta={"fill_value": -1})),
    opens("fill_value = 300", 0, array(2, meta={"fill_value": 300})),
    opens("is not read", 0, array(meta={"attributes": {}, "surplus": {"must_understand": True}})),
    opens("holds voxels of type 'complex64'", 0, array(values=ARRAY.astype("c8"))),
    opens("names '.' as separator", 0, array(2, chunk_key_encoding={"name": "v2", "separator": "/"},
                                             meta={"dimension_separator": "."})),
    opens("has the shape (3, 3, 35184372088832)", 0, array(2, meta={"chunks": [3, 3, 2**45]})),
    opens("is missing", 1, after(array(), without("v/c/**/1"))),
    opens("cannot be read in the box", 0, after(array(compressors=zarr.codecs.GzipCodec()), cut("v/c/**/1"))),
    opens("bytes behind its end", 1, after(array(2, compressors=numcodecs.Blosc("lz4")), longer("v/[0-9]*"))),
    opens("is compressed by gzip", 1, after(array(), packed("v/**/*"))),
    opens("is not a JSON object", 0, after(array(), write("v/zarr.json", '{"zarr_'))),
    opens("cannot be understood", 0, array(meta={"shape": None})),
    opens("is an array of rank 6", 1, array(2, values=ARRAY[None, None, None])),
    opens("is missing", 1, after(array(place="em 2"), without("em 2/c/**/1")), "em 2"),
    opens("is compressed by gzip", 1, after(array(place="em 2"), packed("em 2/**/*")), "em 2"),
    opens("has the voxel size", 0, array(attributes={"voxel_size": [4, -4, 4]})),
    opens("metadata of several formats", 2, after(array(3, "w"), array(2), both)),
    opens("says zarr_format = 4", 0, write("v/.zgroup", '{"zarr_format": 4}')),
    opens("The attribute offset is 'here'", 0, array(attributes={"voxel_size": [4, 4, 4], "offset": "here"})),
    opens("cannot be compared with the others", 0,
          array(attributes={"voxel_size": [4, 4, 4], "units": ["nm", "nm", "steps"]})),
]  # fmt: skip


def dataset(version: int = 2, encoding: Any = None, **coords: Any) -> Callable[[], Any]:
    """As xarray stores it."""
    at = {"z": np.arange(6) * 40.0, "y": np.arange(7) * 4.0, "x": np.arange(8) * 4.0, **coords}
    made = xr.Dataset({"em": (("z", "y", "x"), ARRAY / 7)}, coords=at)
    return lambda: made.to_zarr("v", zarr_format=version, encoding={"em": encoding} if encoding else None, mode="w")


def capitals() -> None:
    """Axes that xarray knows as Z, Y and X."""
    at = {"Z": np.array([0.0, 1, 2, 3, 4, 9]), "Y": np.arange(7), "X": np.arange(8)}
    xr.Dataset({"em": (tuple(at), ARRAY)}, coords=at).to_zarr("v", zarr_format=2, mode="w")


def ungrouped() -> None:
    """The same without the group."""
    dataset(z=[0, 1, 2, 3, 4, 9])()
    for path in Path("v").glob(".z*"):
        path.unlink()


SCALED = {"dtype": "i2", "scale_factor": 0.01, "_FillValue": -32768}
ALONE = {"scale_factor": 0.5, "add_offset": 3, "_FillValue": 7}
CF = [
    opens("are not its values", 2, dataset(encoding=SCALED)),
    opens("are not its values", 2, dataset(3, encoding=SCALED)),
    opens("are not its values", 2, array(attributes=ALONE)),
    opens("not evenly upwards", 1, dataset(z=[0, 1, 2, 3, 4, 9])),
    opens("not evenly upwards", 2, dataset(3, z=np.arange(6)[::-1] * 40.0)),
    opens("of axis Z", 1, capitals),
    opens("not evenly upwards", 1, ungrouped, "v/em"),
]


AXES = [{"name": dim, "type": "space", "unit": "micrometer"} for dim in "zyx"]
SCALE = {"type": "scale", "scale": [4, 3, 2]}
TURN = {"type": "rotation", "rotation": [[0, 1, 0]] * 3}
SYSTEM = {"name": "physical", "axes": AXES}


def image(*steps: Any, names: str = "sr", axes: Any = AXES, version: str = "0.5", **more: Any) -> Callable[[], None]:
    """An image with levels at s, r, ... and a transformation for each; None for none."""
    datasets = [
        {"path": name, **({} if step is None else {"coordinateTransformations": [step]})}
        for name, step in zip(names, steps, strict=False)
    ]
    block = {"version": version, "multiscales": [{"datasets": datasets, **({"axes": axes} if axes else {}), **more}]}
    return group(*names[: len(steps)], ome=block)


def odd_level() -> None:
    image(SCALE, None)()
    group("s.8.10.12", "r.8.7.9", ome=json.loads(Path("v/zarr.json").read_text())["attributes"]["ome"])()


OME = [
    opens("does not say how large its voxels are", 1, odd_level, level=1),
    opens("placed by the transformation 'rotation'", 1, image(TURN)),
    opens("placed by the transformation 'rotation'", 1, image(SCALE, TURN), level=1),
    opens("has the voxel size", 1, image({"type": "scale", "scale": [0, 3, 2]})),
    opens("version '7.0'", 1, image(SCALE, version="7.0")),
    opens("its axes are not named", 1, image(SCALE, axes=None)),
    opens("has the type 'time'", 1, image(SCALE, axes=[{"name": "z", "type": "time"}, *AXES[1:]])),
    opens("A coordinate transformation of", 1,
          image({**SCALE, "output": "nowhere"}, version="0.6", coordinateSystems=[SYSTEM], axes=None)),
    opens("are named ['a', 'y', 'x']", 1, image(SCALE, axes=[{"name": "a", "type": "space"}, *AXES[1:]])),
    opens("has no level 2", 1, image(SCALE, SCALE), level=2),
    opens("is missing", 1, after(image(SCALE, SCALE), without("v/r/c/0/0/*")), level=1),
]  # fmt: skip

GROUPS = [
    opens("is a group of 2 arrays", 2, group("raw", "labels")),
    opens("is a group without arrays", 0, group()),
    opens("holds neither an array nor a group", 0, write("v/notes.txt", "")),
    opens("Nothing exists at this path", 0, lambda: None, "nothing"),
    opens("is not the name of something below", 0, array(), array="../other"),
    opens("has no level 1", 1, array(), level=1),
    opens("missing='zeros' is not an option", 2, array(), missing="zeros"),
    opens("level='fine' is not a number", 2, array(), level="fine"),
    opens("cannot be opened: [Errno 36]", 0, lambda: None, "v" * 300),
    opens("The scheme 'ftp' of a URL", 0, lambda: None, "ftp://somewhere/em.zarr"),
    opens("carries credentials or a query", 0, lambda: None, "s3://key:secret@volumes/em.zarr"),
]


def n5(place: str = "v", **attributes: Any) -> Callable[[], None]:
    def made() -> None:
        ci.save(VOLUME, place, format="n5", progress=False, overwrite=Path(place).exists())
        change(f"{place}/attributes.json", **attributes)

    return made


N5 = [
    opens("is of N5's version '5.0.0'", 0, n5(n5="5.0.0")),
    opens("are named ['a', 'b', 'c']", 0, n5(axes=["a", "b", "c"])),
    opens('compression.type = "lz4"', 0, n5(compression={"type": "lz4", "blockSize": 65536})),
    opens("has no level 1", 1, after(n5("v/s0"), write("v/attributes.json", "{}")), level=1),
    opens("holds voxels of type 'object'", 0, n5(dataType="object")),
]


def precomputed(**members: Any) -> Callable[[], None]:
    def made() -> None:
        ci.save(VOLUME, "v", format="precomputed", progress=False, overwrite=Path("v").exists())
        change("v/info", **members)

    return made


def by_cloud_volume(suffix: str) -> Callable[[], None]:
    """Chunks that are compressed, with a suffix that tells it."""

    def made() -> None:
        precomputed()()
        for path in Path("v/1_1_1").iterdir():
            path.with_name(path.name + suffix).write_bytes(gzip.compress(path.read_bytes()))
            path.unlink()

    return made


KEY = {"key": "1_1_1"}
PRECOMPUTED = [
    opens("without scales", 0, precomputed(scales=[])),
    opens("is encoded as 'compresso'", 0, precomputed(scales=[{"encoding": "compresso", **KEY}])),
    opens('data_type = "float64"', 0, precomputed(data_type="float64")),
    opens("has no level 3", 1, precomputed(), level=3),
    opens("are compressed files", 1, by_cloud_volume(".gz")),
    opens("are compressed files", 0, by_cloud_volume(".br")),
    opens("is missing", 1, after(precomputed(), without("v/1_1_1/*"))),
]

EVERY = {"zarr": ZARR, "cf": CF, "ome": OME, "groups": GROUPS, "n5": N5, "precomputed": PRECOMPUTED}


@pytest.mark.parametrize("row", each(EVERY, EVERY))
def test_every_line_that_is_advised_works(row: Row, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refusals(row, tmp_path, monkeypatch, stored=False)
