"""What is said of files and pictures that cannot be read works: TIFF, HDF5, MRC, NumPy's, stacks of sections."""

from __future__ import annotations

import gzip
import os
import sys
import tarfile
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import xarray as xr

import chunkinfer as ci
from chunkinfer.errors import MissingExtra
from tests.lib.ways.advice import followed
from tests.lib.ways.rows import Row, computed, each, refusals, row
from tests.lib.ways.stored import ARRAY, array, h5py, mrcfile, nibabel, opens, tifffile

Image = pytest.importorskip("PIL.Image")

pytestmark = [pytest.mark.filterwarnings("ignore:.*(machine stamp|Map ID)")]

HDF5 = Callable[[Any], None]
TIF = {"photometric": "minisblack"}


def h5(write: HDF5, name: str = "v.h5") -> Callable[[], None]:
    """A file of HDF5."""

    def made() -> None:
        with h5py.File(name, "w") as file:
            write(file)

    return made


def dataset(**attributes: Any) -> Callable[[], None]:
    def write(file: Any) -> None:
        file["raw"] = ARRAY
        file["raw"].attrs.update(attributes)

    return h5(write)


def several(file: Any) -> None:
    file["volumes/raw"], file["volumes/labels"], file["list"] = ARRAY, ARRAY, ARRAY[0, 0]


def scaled(file: Any) -> None:
    """Positions along z that are not evenly spaced."""
    file["raw"] = ARRAY
    for axis, (dim, values) in enumerate({"z": [0, 1, 2, 3, 4, 9], "y": range(7), "x": range(8)}.items()):
        file[dim] = np.array(values, "f8")
        file[dim].make_scale(dim)
        file["raw"].dims[axis].attach_scale(file[dim])


def linked() -> None:
    h5(lambda file: file.create_dataset("x", data=ARRAY), "other.h5")()
    h5(lambda file: file.update({"raw": h5py.ExternalLink("other.h5", "/x")}))()


def linked_group() -> None:
    h5(lambda file: file.create_dataset("x/y", data=ARRAY), "other.h5")()
    h5(lambda file: file.update({"raw": h5py.ExternalLink("other.h5", "/x")}))()


def virtual() -> None:
    h5(lambda file: file.create_dataset("x", data=ARRAY), "other.h5")()
    layout = h5py.VirtualLayout(ARRAY.shape, "u1")
    layout[:] = h5py.VirtualSource("other.h5", "x", ARRAY.shape)
    h5(lambda file: file.create_virtual_dataset("raw", layout))()


def filtered(file: Any) -> None:
    """Chunks compressed by blosc, as h5py alone cannot read them."""
    made = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    made.set_chunk(ARRAY.shape)
    made.set_filter(32001, h5py.h5z.FLAG_OPTIONAL, (2, 2, 2, 2, 5, 1, 1))
    space = h5py.h5s.create_simple(ARRAY.shape)
    h5py.h5d.create(file.id, b"raw", h5py.h5t.NATIVE_UINT8, space, dcpl=made)


HDF = [
    opens("holds 2 arrays", 2, h5(several), "v.h5"),
    opens("is a group that holds", 2, h5(several), "v.h5", array="volumes"),
    opens("is a group that holds no arrays", 1, h5(lambda file: file.create_group("empty")), "v.h5", array="empty"),
    opens("holds nothing of the name", 2, h5(several), "v.h5", array="vol"),
    opens("holds nothing of the name", 1, h5(lambda file: file.create_group("empty")), "v.h5", array="raw"),
    opens("holds no arrays of two or more axes", 1, h5(lambda file: file.update({"list": ARRAY[0, 0]})), "v.h5"),
    opens("is a link into another file", 1, linked, "v.h5", array="raw"),
    opens("is a link into another file", 0, linked_group, "v.h5", array="raw"),
    opens("values lie in other files", 1, virtual, "v.h5"),
    opens("compressed by blosc (32001)", 0, h5(filtered), "v.h5"),
    opens("are not its values", 2, dataset(scale_factor=np.array([0.5]), add_offset=3), "v.h5"),
    opens("do not ascend in even steps", 2, h5(scaled), "v.h5"),
    opens("are named ['a', 'b', 'c']", 1, dataset(axis_names=["a", "b", "c"]), "v.h5"),
    opens("has no level 1", 1, dataset(), "v.h5", level=1),
    opens("cannot be opened as HDF5 files", 0, lambda: Path("v.h5").write_bytes(b"nothing"), "v.h5"),
]


def tif(*images: Any, **options: Any) -> Callable[[], None]:
    """A TIFF file of several images."""

    def made() -> None:
        with tifffile.TiffWriter("v.tif") as writer:
            for image in images:
                writer.write(image, **{**TIF, **options})

    return made


def levels() -> None:
    with tifffile.TiffWriter("v.ome.tif") as writer:
        writer.write(np.tile(ARRAY, (1, 5, 5)), subifds=1, metadata={"axes": "ZYX"}, tile=(16, 16), **TIF)
        writer.write(np.tile(ARRAY, (1, 5, 5))[:, ::2, ::2], subfiletype=1, tile=(16, 16), **TIF)


def parts() -> None:
    """Two files of one image, of three sections each."""
    files = {f"{i}.ome.tif": f"urn:uuid:{i}" for i in range(2)}
    data = "".join(
        f'<TiffData FirstZ="{3 * i}" IFD="0" PlaneCount="3"><UUID FileName="{name}">{uuid}</UUID></TiffData>'
        for i, (name, uuid) in enumerate(files.items())
    )
    for i, (name, uuid) in enumerate(files.items()):
        about = f"""<?xml version="1.0" encoding="UTF-8"?>
        <OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" UUID="{uuid}"><Image ID="Image:0">
        <Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="uint8" SizeX="8" SizeY="7" SizeZ="6" SizeC="1" SizeT="1">
        <Channel ID="Channel:0:0"/>{data}</Pixels></Image></OME>"""
        tifffile.imwrite(name, ARRAY[3 * i : 3 * i + 3], description=about, metadata=None, **TIF)


def unfinished() -> None:
    """A file that says of more pages than it has."""
    tifffile.imwrite("v.ome.tif", ARRAY, metadata={"axes": "ZYX"}, **TIF)
    content = Path("v.ome.tif").read_bytes()
    Path("v.ome.tif").write_bytes(content.replace(b'SizeZ="6"', b'SizeZ="9"'))


def cut_short() -> None:
    """A file whose last strips are not there."""
    tif(np.tile(ARRAY, (1, 5, 5)), compression="zlib", metadata=None)()
    with tifffile.TiffFile("v.tif") as file:
        at = file.pages[5].aspage().dataoffsets[0]
    with open("v.tif", "r+b") as file:
        file.seek(at)
        file.write(bytes(50))


TIFF = [
    opens("holds 2 images", 1, tif(ARRAY, ARRAY[:, :4]), "v.tif"),
    opens("holds 2 images", 1, tif(ARRAY, ARRAY[:, :4]), "v.tif", array="7"),
    opens("'raw' names nothing in it", 1, tif(ARRAY), "v.tif", array="raw"),
    opens("has no level 2", 2, levels, "v.ome.tif", level=2),
    opens("holds a part of an image", 2, parts, "0.ome.tif"),
    opens("lacks 3 of the 9 pages", 1, unfinished, "v.ome.tif"),
    opens("cannot be read in the box", 0, cut_short, "v.tif"),
    opens("cannot be opened as TIFF files", 0, lambda: Path("v.tif").write_bytes(b"nothing"), "v.tif"),
]


def mrc(*patches: tuple[int, bytes]) -> Callable[[], None]:
    """A file of MRC of which some bytes are others."""

    def made() -> None:
        with mrcfile.new("v.mrc", overwrite=True) as file:
            file.set_data(ARRAY.astype("i2"))
        content = bytearray(Path("v.mrc").read_bytes())
        for at, new in patches:
            content[at : at + len(new)] = new
        Path("v.mrc").write_bytes(content)

    return made


def npy(values: Any, name: str = "v.npy") -> Callable[[], None]:
    return lambda: np.save(name, values)


def packed(name: str = "v.npy", suffix: str = ".gz", **options: Any) -> Callable[[], None]:
    """A file that is packed as a whole, and gone otherwise."""

    def made() -> None:
        np.save(name, ARRAY)
        if suffix == ".gz":
            Path(name + suffix).write_bytes(gzip.compress(Path(name).read_bytes()))
        else:
            with tarfile.open(f"v{suffix}", "w:gz") as file:
                array(place="v")()
                file.add("v")
        Path(name).unlink()

    return made


def analyze(kind: Any) -> Callable[[], None]:
    return lambda: nibabel.save(kind(ARRAY.T, np.eye(4)), "v.hdr")


def netcdf() -> None:
    xr.Dataset({"em": (("z", "y", "x"), ARRAY.astype("f4"))}).to_netcdf("v.nc", engine="scipy")


FILES = [
    opens("is not marked as MRC", 2, mrc((208, bytes(12)), (200, np.float32(7).tobytes())), "v.mrc"),
    opens("holds one array; 'x' names", 1, npy(ARRAY), "v.npy", array="x"),
    opens("has no voxels", 0, npy(ARRAY[:0]), "v.npy"),
    opens("is an array of rank 7", 1, npy(ARRAY[None, None, None, None]), "v.npy"),
    opens("is packed as a whole", 2, packed(), "v.npy.gz"),
    opens("is packed as a whole", 2, packed("v  2.npy"), "v  2.npy.gz"),
    opens("is packed as a whole", 2, packed(suffix=".tar.gz"), "v.tar.gz"),
    opens("is packed as a whole", 2, packed(suffix=".tgz"), "v.tgz"),
    opens("is a single file", 2, lambda: np.savez("v.npz", em=ARRAY), "v.npz"),
    opens("is a single file", 2, analyze(nibabel.Nifti1Pair), "v.hdr"),
    opens("is a single file", 2, analyze(nibabel.Nifti1Pair), "v.img"),
    opens("is a single file", 2, netcdf, "v.nc"),
    opens("is a single file", 2, array(), "v/zarr.json"),
    opens("is a single file", 1, lambda: Path("v.dm3").write_bytes(b"1234"), "v.dm3"),
]


def sections(*names: str, **odd: Any) -> Callable[[], None]:
    """Pictures of these names."""

    def made() -> None:
        for name in names:
            path = Path("v") / name
            path.parent.mkdir(exist_ok=True)
            picture = odd.get(path.stem, ARRAY[0])
            tifffile.imwrite(path, picture) if path.suffix == ".tif" else Image.fromarray(picture).save(path)

    return made


def palette() -> None:
    Path("v").mkdir(exist_ok=True)
    Image.fromarray(ARRAY[0]).convert("P").save("v/1.png")


def cut_picture() -> None:
    sections("1.png", "2.png")()
    Path("v/1.png").write_bytes(Path("v/1.png").read_bytes()[:20])


GRID = [f"r{y}_c{x}.png" for y in range(2) for x in range(2)]
SECTIONS = [
    opens("pictures of several kinds", 2, sections("a1.png", "a2.png", "b1.tif")),
    opens("do not tell which number", 1, sections("em_1_5.png", "em_2_6.png", "em_3_9.png", "xy_1_1.png")),
    opens("do not tell which number", 2, sections("left1.png", "left2.png", "right2.png", "right3.png")),
    opens("do not tell which number", 1, sections("s1_11:02.png", "s2_11:09.png", "s3_11:30.png")),
    opens("do not tell which number", 0, sections(*GRID)),
    opens("have the same number", 0, sections("a1.png", "a01.png", "a2.png")),
    opens("does not say that it names pictures", 0, sections("a1.png"), "v/*.txt"),
    opens("fits 'b*.png'", 0, sections("a1.png"), "v/b*.png"),
    opens("do not follow each other", 0, sections("em_20240101.png", "em_1.png")),
    opens("lacks the sections 2-3", 1, sections("1.png", "4.png")),
    opens("lacks the sections 2-3", 1, sections("1.png", "4.png"), "v/{z}.png"),
    opens("is a picture whose values", 0, palette),
    opens("cannot be decoded", 0, cut_picture),
    opens("and here the stack has", 0, sections("1.png", "2.png", "3.png", **{"2": ARRAY[0, :3]})),
]  # fmt: skip


def group() -> None:
    """A group of an array, whose metadata is not consolidated."""
    array(place="v/raw")()
    Path("v/zarr.json").write_text('{"zarr_format": 3, "node_type": "group", "attributes": {}}')


class Quiet(SimpleHTTPRequestHandler):
    """Serves the files of a folder; a folder is nothing, as in a bucket."""

    def do_GET(self) -> None:
        if os.path.isdir(self.translate_path(self.path)):
            self.send_error(404)
        else:
            super().do_GET()

    def log_message(self, *about: object) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """A server of files that gives no listing and no ranges."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path))) as served:
        Thread(target=served.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{served.server_address[1]}"
        served.shutdown()


EVERY = {"hdf5": HDF, "tiff": TIFF, "files": FILES, "sections": SECTIONS}


@pytest.mark.parametrize("row", each(EVERY, EVERY))
def test_every_line_that_is_advised_works(row: Row, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refusals(row, tmp_path, monkeypatch, stored=False)


@pytest.mark.parametrize(("lines", "what", "name", "made"), [
    (0, "cannot be listed", "v/*.png", sections("1.png", "2.png")),
    (0, "None of zarr.json", "nothing", lambda: None),
    (0, "its store cannot list what is in it", "v", group),
    (1, "There is no object of this name", "v.tif", array(place="v.tif")),
])  # fmt: skip
def test_lines_on_what_a_server_has(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: int, what: str, name: str, made: Any
) -> None:
    refusals(opens(what, lines, made, f"{server}/{name}"), tmp_path, monkeypatch, stored=False)


def test_a_filter_that_a_plugin_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "hdf5plugin", ModuleType("hdf5plugin"))
    refusals(opens("does not bring it either", 0, h5(filtered), "v.h5"), tmp_path, monkeypatch, stored=False)


def test_a_section_that_goes_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone() -> Any:
        sections("1.png", "2.png", "3.png")()
        volume = ci.open_volume("v")
        os.remove("v/2.png")
        return computed(volume)

    refusals(row("is gone", 0, gone), tmp_path, monkeypatch, stored=False)
    assert not computed(ci.open_volume("v", missing="fill"))[1].any()  # as advised


@pytest.mark.parametrize(
    ("module", "made", "url"),
    [("tifffile", tif(ARRAY), "v.tif"), ("h5py", dataset(), "v.h5"), ("PIL", sections("1.png"), "v")],
)
def test_without_a_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, made: Callable[[], None], url: str
) -> None:
    monkeypatch.chdir(tmp_path)
    made()
    for loaded in [m for m in sys.modules if m.partition(".")[0] == module]:
        monkeypatch.setitem(sys.modules, loaded, None)
    with pytest.raises(MissingExtra, match=r"pip install \"chunkinfer\[formats\]\"") as missing:
        ci.open_volume(url)
    assert not list(followed(missing.value, ci.open_volume, {"url": url}, {}))
