"""Single files that other libraries wrote: TIFF, HDF5, NIfTI, MRC, npy."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import dask
import dask.array
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import chunkinfer as ci
from chunkinfer.errors import AmbiguousSource, MissingExtra, SourceError, SourceNotFound
from chunkinfer.volumes.arrays.open import open_source
from chunkinfer.volumes.formats import flat, tiff
from tests.lib.storage.comparing import assert_same, keys
from tests.lib.storage.written import COLOUR, FILES, GREY, OME, RNG, h5, mrc

h5py = pytest.importorskip("h5py")
mrcfile = pytest.importorskip("mrcfile")
nibabel = pytest.importorskip("nibabel")
tifffile = pytest.importorskip("tifffile")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    for name, (write, _) in FILES.items():
        write(folder / name)
    return folder


opened = cache(open_source)


@pytest.mark.parametrize("name", FILES)
@given(data=st.data())
def test_boxes(folder: Path, name: str, data: st.DataObject) -> None:
    array, source = FILES[name][1], opened(folder / name)
    key = data.draw(keys(array.shape))
    np.testing.assert_array_equal(source[key], array[key])


@pytest.mark.parametrize("name", FILES)
def test_a_source_travels(folder: Path, name: str) -> None:
    source, array = open_source(folder / name), FILES[name][1]
    assert_same(source, array)
    assert all(1 <= chunk <= n for chunk, n in zip(source.chunks, array.shape, strict=True))
    assert source[0].dtype.isnative
    if name.startswith("times"):
        assert source.dims[0] == "t"
    elif array.ndim == 4:
        assert source.dims == ("c", "z", "y", "x")


@pytest.mark.parametrize("name", FILES)
def test_damaged_files(folder: Path, tmp_path: Path, name: str) -> None:
    whole = (folder / name).read_bytes()
    damaged = tmp_path / name
    for content in (whole[: len(whole) // 2], whole[:100], b"", b"nonsense" * 999):
        damaged.write_bytes(content)
        with pytest.raises(SourceError, match=name):
            open_source(damaged)[...]


def test_many_threads(folder: Path) -> None:
    def read(name: str) -> bool:
        return np.array_equal(open_source(folder / name)[1:, 3:], FILES[name][1][1:, 3:])

    names = ["zlib.tif", "tiles.tif", "chunks.h5", "zipped.nii.gz", "one.nii", "int16.mrc"] * 8
    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(read, names))


# Where voxels are


def test_placement_of_imagej(tmp_path: Path) -> None:
    about = {"axes": "ZYX", "spacing": 0.05, "unit": "micron"}
    tifffile.imwrite(tmp_path / "a.tif", GREY, imagej=True, resolution=(1 / 0.004, 1 / 0.008), metadata=about)
    source = open_source(tmp_path / "a.tif")
    assert (source.unit, source.voxel_size) == ("um", {"z": 0.05, "y": 0.008, "x": 0.004})


RESOLUTIONS: list[tuple[Any, Any, Any, str]] = [
    ((2, 1), -3.0, {"z": 3.0, "y": 0.5, "x": 0.5}, "Fiji's sign"),
    ((0, 1), 3.0, {"z": 3.0, "y": 1.0, "x": 1.0}, "none"),
    ((0, 0), 3.0, {"z": 3.0, "y": 1.0, "x": 1.0}, "none"),
    ((1, 0), "nan", {"z": 1.0, "y": 1.0, "x": 1.0}, "no numbers"),
    ((4, 1), "thick", {"z": 1.0, "y": 0.25, "x": 0.25}, "text"),
]


@pytest.mark.parametrize(("resolution", "spacing", "expected"), [row[:3] for row in RESOLUTIONS])
def test_odd_sizes_of_imagej(tmp_path: Path, resolution: Any, spacing: Any, expected: Any) -> None:
    about = {"axes": "ZYX", "spacing": spacing, "unit": "um"}
    tifffile.imwrite(tmp_path / "a.tif", GREY, imagej=True, metadata=about, resolution=(2.0, 2.0))
    with tifffile.TiffFile(tmp_path / "a.tif", mode="r+") as file:
        for tag in ("XResolution", "YResolution"):
            file.pages[0].tags[tag].overwrite(resolution)
    source = open_source(tmp_path / "a.tif")
    assert_same(source, GREY)
    unit = "um" if set(expected.values()) != {1.0} else ""
    assert (source.unit, source.voxel_size) == (unit, expected)


def test_units_of_single_axes_of_imagej(tmp_path: Path) -> None:
    about = {"axes": "ZYX", "spacing": 2.0, "unit": "um", "yunit": "nm", "zunit": "mm"}
    tifffile.imwrite(tmp_path / "a.tif", GREY, imagej=True, metadata=about, resolution=(2.0, 0.01))
    source = open_source(tmp_path / "a.tif")
    assert (source.unit, source.voxel_size) == ("nm", {"z": 2e6, "y": 100.0, "x": 500.0})


@pytest.mark.parametrize("size", ["0", "-4", "nan", "inf", "wide"])
def test_odd_sizes_of_ome(tmp_path: Path, size: str) -> None:
    about = {**OME, "PhysicalSizeX": 4.0, "PhysicalSizeY": 4.0, "PhysicalSizeZ": 40.5}
    tifffile.imwrite(tmp_path / "a.ome.tif", GREY, metadata=about, photometric="minisblack")
    content = (tmp_path / "a.ome.tif").read_bytes()
    (tmp_path / "a.ome.tif").write_bytes(content.replace(b'Z="40.5"', f'Z="{size}"'.ljust(8).encode()))
    source = open_source(tmp_path / "a.ome.tif")
    assert_same(source, GREY)
    assert source.voxel_size == {"z": 1.0, "y": 4.0, "x": 4.0}


def test_placement_of_ome(tmp_path: Path) -> None:
    sizes = {f"PhysicalSize{dim}": size for dim, size in (("X", 4.0), ("Y", 4.0), ("Z", 40.0))}
    units = {f"PhysicalSize{dim}Unit": "nm" for dim in "XYZ"}
    about = {"axes": "CZYX", **sizes, **units, "Channel": {"Name": ["actin", "dapi", "er"]}}
    tifffile.imwrite(tmp_path / "a.ome.tif", COLOUR, metadata=about, photometric="minisblack")
    source = open_source(tmp_path / "a.ome.tif")
    assert (source.unit, source.voxel_size) == ("nm", {"z": 40.0, "y": 4.0, "x": 4.0})
    assert source.names == {"channel_names": ["actin", "dapi", "er"]}


def test_dots_per_inch_are_no_voxel_size(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", GREY, resolution=(72, 72), resolutionunit="INCH", photometric="minisblack")
    source = open_source(tmp_path / "a.tif")
    assert (source.unit, source.voxel_size["x"]) == ("", 1.0)


HDF5 = [
    ({"resolution": [40.0, 4.0, 4.0], "offset": [400.0, -8.0, 0.0]}, ("", 40.0, 10), "CREMI"),
    ({"element_size_um": [0.04, 0.004, 0.004]}, ("um", 0.04, 0), "ImageJ, ilastik"),
    ({"voxel_size": (40, 4, 4), "units": ["nm"] * 3, "offset": (80, 0, 0)}, ("nm", 40.0, 2), "funlib"),
    ({"resolution": b"high"}, ("", 1.0, 0), "no numbers"),
]


@pytest.mark.parametrize(("attributes", "expected", "why"), HDF5)
def test_placement_of_hdf5(tmp_path: Path, attributes: dict[str, Any], expected: Any, why: str) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["raw"] = GREY
        file["raw"].attrs.update({**attributes, "comment": "shot at dawn"})
    source = open_source(tmp_path / "a.h5")
    assert (source.unit, source.voxel_size["z"], source.offset["z"]) == expected
    assert source.names == {"comment": "shot at dawn"}


def axistags(keys: str, **resolution: float) -> str:
    tags = [{"key": k, "typeFlags": 2, "resolution": resolution.get(k, 0), "description": ""} for k in keys]
    return json.dumps({"axes": tags})


@pytest.mark.parametrize("keys", ["zyxc", "czyx", "xyzc", "cxyz", "yxzc"])
def test_axes_of_ilastik(tmp_path: Path, keys: str) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        data = COLOUR.transpose(["czyx".index(key) for key in keys])
        file.create_dataset("exported_data", data=data, chunks=(3, 3, 3, 3))
        file["exported_data"].attrs["axistags"] = axistags(keys, z=0.04, y=0.004, x=0.004)
        file["exported_data"].attrs["axis_units"] = json.dumps(dict.fromkeys("zyx", "um"))
    source = open_source(tmp_path / "a.h5")
    assert_same(source, COLOUR)
    assert (source.unit, source.voxel_size, source.names) == ("um", {"z": 0.04, "y": 0.004, "x": 0.004}, {})


@pytest.mark.parametrize("text", ["{", '{"axes": 3}', '{"axes": [{"name": "z"}]}', axistags("zy"), axistags("zyq")])
def test_axistags_that_do_not_fit(tmp_path: Path, text: str) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["raw"] = GREY
        file["raw"].attrs["axistags"] = text
    with pytest.raises(SourceError, match=r"axistags|axes"):
        open_source(tmp_path / "a.h5")


def scaled(path: Path, dims: str, **positions: Any) -> None:
    """An array as netCDF stores it: each axis has a scale, with or without positions."""
    with h5py.File(path, "w") as file:
        file["raw"] = GREY.transpose(["zyx".index(dim) for dim in dims])
        for axis, dim in enumerate(dims):
            values = positions.get(dim)
            file[dim] = np.zeros(file["raw"].shape[axis], "f4") if values is None else values
            named = dim if values is not None else "This is a netCDF dimension but not a netCDF variable.         5"
            file[dim].make_scale(named)
            file[dim].attrs["units"] = "nm"
            file["raw"].dims[axis].attach_scale(file[dim])


@pytest.mark.parametrize("dims", ["zyx", "xyz", "yxz"])
def test_scales_of_netcdf(tmp_path: Path, dims: str) -> None:
    scaled(tmp_path / "a.h5", dims, z=400 + 40.0 * np.arange(5), y=np.arange(40, dtype="f4") * np.float32(0.1))
    source = open_source(tmp_path / "a.h5")
    assert_same(source, GREY)
    assert (source.unit, source.voxel_size) == ("nm", {"z": 40.0, "y": 0.1, "x": 1.0})
    assert (source.offset, source.names) == ({"z": 10, "y": 0, "x": 0}, {})


def test_what_netcdf_says_of_values_and_positions(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    scaled(path, "zyx", z=np.array([0, 40, 80, 200, 240.0]))
    with pytest.raises(SourceError, match="even steps") as caught:
        open_source(path)
    line = caught.value.ways[1].split(": ", 1)[1]
    assert np.array_equal(eval(line, {"dask": dask, "h5py": h5py}).compute(), GREY)
    h5(GREY, "raw")(path)
    with h5py.File(path, "r+") as file:
        file["raw"].attrs.update({"scale_factor": np.array([0.5]), "add_offset": 0.0})
    with pytest.raises(SourceError, match="not its values"):
        open_source(path)


CONVENTIONS = [
    ({"element_size_um": [0.3, 0.1, 0.1], "voxel_size": [40, 4, 4]}, ("um", 0.3)),
    ({"element_size_um": [0, 0, 0], "voxel_size": [40, 4, 4], "units": "nm"}, ("nm", 40.0)),
    ({"resolution": "high", "axistags": ("zyx", {"z": 2.0, "y": 1.0, "x": 1.0})}, ("", 2.0)),
    ({"resolution": [np.nan, 4, 4]}, ("", 1.0)),
    ({"resolution": [40.0, 4, 4], "offset": [np.nan, 4, 4]}, ("", 40.0)),
    ({"resolution": [np.inf, 4, 4]}, ("", 1.0)),
]


@pytest.mark.parametrize(("attributes", "expected"), CONVENTIONS)
def test_the_first_convention_that_gives_a_size(tmp_path: Path, attributes: dict[str, Any], expected: Any) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["raw"] = GREY
        for name, value in attributes.items():
            file["raw"].attrs[name] = axistags(value[0], **value[1]) if name == "axistags" else value
    source = open_source(tmp_path / "a.h5")
    assert (source.unit, source.voxel_size["z"]) == expected


def test_a_filter_that_is_not_here(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        made = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        made.set_chunk(GREY.shape)
        made.set_filter(32001, h5py.h5z.FLAG_OPTIONAL, (2, 2, 2, 2, 5, 1, 1))
        space = h5py.h5s.create_simple(GREY.shape)
        h5py.h5d.create(file.id, b"raw", h5py.h5t.NATIVE_UINT16, space, dcpl=made)
    if h5py.h5z.filter_avail(32001):
        pytest.skip("hdf5plugin is installed")
    with pytest.raises(MissingExtra, match=r"blosc \(32001\)") as caught:
        open_source(tmp_path / "a.h5")
    assert caught.value.ways[0] == "pip install hdf5plugin"


def test_decimals_of_32_bits(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["raw"] = GREY
        file["raw"].attrs["element_size_um"] = np.array([0.3, 0.1, 0.1], "f4")
        file["raw"].attrs["dose"] = np.float32(0.7)
    source = open_source(tmp_path / "a.h5")
    assert source.voxel_size == {"z": 0.3, "y": 0.1, "x": 0.1}
    assert source.names == {"dose": 0.7}
    nibabel.save(nibabel.Nifti1Image(GREY.T, np.diag([0.1, 0.7, 0.3, 1])), tmp_path / "a.nii")
    assert open_source(tmp_path / "a.nii").voxel_size == {"z": 0.3, "y": 0.7, "x": 0.1}
    with mrcfile.new(tmp_path / "a.mrc") as file:
        file.set_data(GREY)
        file.voxel_size = (0.1, 0.7, 13.73)
    assert open_source(tmp_path / "a.mrc").voxel_size == {"z": 13.73, "y": 0.7, "x": 0.1}


def test_named_axes_of_hdf5(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["raw"] = COLOUR.transpose(3, 2, 1, 0)
        for dim, label in zip(file["raw"].dims, "xyzc", strict=True):
            dim.label = label
    assert_same(open_source(tmp_path / "a.h5"), COLOUR)


def test_placement_of_nifti(tmp_path: Path) -> None:
    affine = np.diag([0.004, 0.004, 0.04, 1.0])
    affine[:3, 3] = [-0.008, 0.012, 0.4]
    image = nibabel.Nifti1Image(GREY.T, affine)
    image.header.set_xyzt_units("micron")
    nibabel.save(image, tmp_path / "a.nii")
    source = open_source(tmp_path / "a.nii")
    assert (source.unit, source.voxel_size) == ("um", {"z": 0.04, "y": 0.004, "x": 0.004})
    assert (source.offset, source.names) == ({"z": 10, "y": 3, "x": -2}, {})
    # Axes that point elsewhere are told, and voxels stay where they are.
    nibabel.save(nibabel.Nifti1Image(GREY.T, np.diag([-1.0, 1, 1, 1])), tmp_path / "b.nii")
    source = open_source(tmp_path / "b.nii")
    assert source.names["affine"][0][0] == -1
    assert_same(source, GREY)


def test_scaled_intensities_of_nifti(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(np.linspace(-1, 1, 60).reshape(3, 4, 5), np.eye(4))
    image.set_data_dtype("i2")
    nibabel.save(image, tmp_path / "a.nii")
    source = open_source(tmp_path / "a.nii")
    assert source.dtype == np.float32
    np.testing.assert_array_equal(source[...], nibabel.load(tmp_path / "a.nii").get_fdata().T.astype("f4"))


def test_placement_of_mrc(tmp_path: Path) -> None:
    for name, origin, start, expected in (
        ("a.mrc", (21.6, 0, -43.2), 7, {"z": -4, "y": 0, "x": 2}),
        ("b.mrc", (0, 0, 0), 7, {"z": 0, "y": 0, "x": 7}),
    ):
        with mrcfile.new(tmp_path / name) as file:
            file.set_data(GREY)
            file.voxel_size = 10.8
            file.header.origin = origin
            file.header.nxstart = start
        source = open_source(tmp_path / name)
        assert (source.unit, source.voxel_size["z"], source.offset) == ("angstrom", 10.8, expected)


def patched(path: Path, *patches: tuple[int, bytes]) -> Path:
    """Write bytes over those of a file."""
    content = bytearray(path.read_bytes())
    for at, new in patches:
        content[at : at + len(new)] = new
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("stamp", [b"\x44\x20\x20\x20", b"\0\0\0\0", b"\x44\x41\0\0"])
def test_machine_stamps_of_mrc(tmp_path: Path, order: str, stamp: bytes) -> None:
    """Where the header makes sense in one byte order only, the file has that one."""
    voxels = GREY.astype(f"{order}i2")
    mrc(voxels)(tmp_path / "a.mrc")
    assert_same(open_source(patched(tmp_path / "a.mrc", (212, stamp))), GREY.astype("i2"))


@pytest.mark.parametrize("order", ["<", ">"])
def test_bytes_of_mrc_are_signed_as_imod_says(tmp_path: Path, order: str) -> None:
    """The first of its flags, which are valid with its stamp, says so; without a stamp, they are signed."""
    raw = np.arange(2 * 3 * 4, dtype="u1").reshape(2, 3, 4) + np.uint8(120)
    stamp = int.from_bytes(b"IMOD", "little")
    for stamped, flags, expected in ((stamp, 0, "u1"), (stamp, 1, "i1"), (stamp, 6, "u1"), (0, 0, "i1"), (7, 0, "i1")):
        mrc(raw.view("i1"))(tmp_path / "a.mrc")
        content = bytearray((tmp_path / "a.mrc").read_bytes())
        if order == ">":
            content[:1024] = np.frombuffer(content, mrcfile.dtypes.HEADER_DTYPE, 1).byteswap().tobytes()
            content[208:216] = b"MAP \x11\x11\0\0"
        content[152:160] = np.array([stamped, flags], f"{order}i4").tobytes()
        (tmp_path / "a.mrc").write_bytes(content)
        assert_same(open_source(tmp_path / "a.mrc"), raw.view(expected))
        (tmp_path / "a.mrc").unlink()


def test_mrc_without_its_marks(tmp_path: Path) -> None:
    mrc(GREY)(tmp_path / "a.st")
    assert_same(open_source(patched(tmp_path / "a.st", (208, bytes(4)))), GREY)
    # Neither mark: what is at the place of the origin may be something else.
    path = patched(tmp_path / "a.st", (208, bytes(12)))
    assert_same(open_source(path), GREY)
    with pytest.raises(SourceError, match=r"208 to 212 are b'\\x00(.|\n)*0x00000000") as caught:
        open_source(patched(path, (200, np.float32(7).tobytes())))
    with pytest.warns(RuntimeWarning):
        seen = eval(caught.value.ways[0].split(": ", 1)[1], {"mrcfile": mrcfile})
    np.testing.assert_array_equal(seen, GREY)


def test_odd_sizes_of_mrc(tmp_path: Path) -> None:
    mrc(GREY)(tmp_path / "a.mrc")
    none = np.array([np.nan, 0, 0], "f4").tobytes()
    for patch in ((28, bytes(12)), (40, bytes(12)), (40, none), (196, none)):
        source = open_source(patched(tmp_path / "a.mrc", patch))
        assert_same(source, GREY)
        assert (set(source.voxel_size.values()), set(source.offset.values())) == ({1.0}, {0})
    with pytest.raises(SourceError, match="count the axes"):
        open_source(patched(tmp_path / "a.mrc", (64, np.array([1, 1, 3], "i4").tobytes())))


@pytest.mark.parametrize(("name", "line"), [("a.map.gz", "gunzip"), ("a.mrc.bz2", "bunzip2"), ("a.tif.xz", "unxz")])
def test_packed_files(tmp_path: Path, name: str, line: str) -> None:
    (tmp_path / name).write_bytes(b"packed")
    with pytest.raises(SourceError, match="packed") as caught:
        open_source(tmp_path / name)
    assert caught.value.ways[0].startswith(line)
    assert f"{tmp_path}/{name.rpartition('.')[0]}'" in caught.value.ways[1]


def test_files_that_other_libraries_open(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", GREY)
    nibabel.save(nibabel.Nifti1Pair(GREY.T, np.eye(4)), tmp_path / "a.hdr")
    with contextlib.chdir(tmp_path):
        for name in ("a.npz", "a.hdr", "a.img"):
            with pytest.raises(SourceError, match="single file") as caught:
                open_source(name)
            made = eval(caught.value.ways[0].removeprefix("its first array: "), {"numpy": np, "nibabel": nibabel})
            np.testing.assert_array_equal(GREY if made is None else made, GREY)
        assert_same(open_source("volume.nii"), GREY)


# Several arrays in a file


def test_arrays_of_hdf5(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["volumes/raw"], file["volumes/labels"], file["list"] = GREY, GREY + 1, np.arange(5)
        file["same"] = h5py.SoftLink("/volumes/raw")
    with pytest.raises(AmbiguousSource, match=r"array='volumes/labels'"):
        open_source(path)
    for source in (open_source(path / "volumes" / "labels"), open_source(path, array="volumes/labels")):
        assert_same(source, GREY + 1)
        assert source.url == f"{path}/volumes/labels"
    assert_same(open_source(path, array="same"), GREY)
    with pytest.raises(AmbiguousSource, match="array='volumes/labels'"):
        open_source(path / "volumes")
    with pytest.raises(SourceNotFound, match="volumes/raw"):
        open_source(path / "nothing")
    with pytest.raises(SourceError, match="no level 1"):
        open_source(path / "same", level=1)
    with pytest.raises(SourceError, match=r"\.\."):
        open_source(path, array="../../etc/passwd")


def test_files_that_lead_elsewhere(tmp_path: Path) -> None:
    """Someone else's file must not make us read ours."""
    secret, path = tmp_path / "secret", tmp_path / "a.h5"
    secret.write_bytes(b"not so secret key")
    h5(GREY, "x")(tmp_path / "b.h5")
    with h5py.File(path, "w") as file:
        file.create_dataset("external", (4, 4), dtype="u1", external=[(str(secret), 0, 16)])
        layout = h5py.VirtualLayout(GREY.shape, "u2")
        layout[:] = h5py.VirtualSource(tmp_path / "b.h5", "x", GREY.shape)
        file.create_virtual_dataset("virtual", layout)
        file["linked"] = h5py.ExternalLink(tmp_path / "b.h5", "/x")
        file["twice"] = h5py.SoftLink("/linked")
    for name in ("external", "virtual", "linked", "twice"):
        with pytest.raises(SourceError, match=r"other files|another file"):
            open_source(path, array=name)


def test_images_of_tiff(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        writer.write(GREY, photometric="minisblack")
        writer.write(GREY[:, ::2, ::2], photometric="minisblack")
    with pytest.raises(AmbiguousSource, match="array='0'"):
        open_source(tmp_path / "a.tif")
    assert_same(open_source(tmp_path / "a.tif", array="1"), GREY[:, ::2, ::2])
    for wrong in ("2", "raw"):
        with pytest.raises(SourceError, match="array='0'"):
            open_source(tmp_path / "a.tif" / wrong)
    np.save(tmp_path / "a.npy", GREY)
    with pytest.raises(SourceError, match="one array"):
        open_source(tmp_path / "a.npy", array="x")


def test_pages_that_follow_the_first(tmp_path: Path) -> None:
    """ImageJ reads a stack from its first page on, whatever the others' directories say."""
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, GREY, imagej=True, metadata={"axes": "ZYX"})
    with tifffile.TiffFile(path) as file:
        at = file.pages[2].aspage().tags["StripOffsets"].offset + 8
    patched(path, (at, bytes(4)))
    np.testing.assert_array_equal(tifffile.imread(path), GREY)
    assert_same(open_source(path), GREY)


def test_pages_that_strips_do_not_fill(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, GREY[0], tile=(16, 16), photometric="minisblack")
    with tifffile.TiffFile(path) as file:
        at = file.pages[0].tags["SamplesPerPixel"].offset + 8
    with pytest.raises(SourceError, match=r"a\.tif"):
        open_source(patched(path, (at, bytes(2))))[...]


def test_files_without_voxels(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((0, 3, 4)))
    with pytest.raises(SourceError, match="no voxels"):
        open_source(tmp_path / "a.npy")
    mrc(GREY)(tmp_path / "a.mrc")
    with pytest.raises(SourceError, match="extended header"):
        open_source(patched(tmp_path / "a.mrc", (92, np.int32(-4).tobytes())))


def test_levels_of_tiff(tmp_path: Path) -> None:
    about = {"axes": "ZYX", "PhysicalSizeX": 4.0, "PhysicalSizeXUnit": "nm", "PhysicalSizeY": 4.0}
    with tifffile.TiffWriter(tmp_path / "a.ome.tif") as writer:
        writer.write(GREY, subifds=1, metadata=about, tile=(16, 16), photometric="minisblack")
        writer.write(GREY[:, ::2, ::2], subfiletype=1, tile=(16, 16), photometric="minisblack")
    fine, coarse = open_source(tmp_path / "a.ome.tif"), open_source(tmp_path / "a.ome.tif", level=1)
    assert_same(fine, GREY)
    assert_same(coarse, GREY[:, ::2, ::2])
    assert (fine.voxel_size["x"], coarse.voxel_size["x"]) == (4.0, 8.0)
    with pytest.raises(SourceError, match="no level 2"):
        open_source(tmp_path / "a.ome.tif", level=2)


def ome_part(path: Path, pages: Any, files: dict[str, str], here: str | None) -> None:
    """A file of an OME-TIFF of several: ``files`` are names and UUIDs, each of two sections."""
    data = "".join(
        f'<TiffData FirstZ="{2 * i}" IFD="0" PlaneCount="2"><UUID FileName="{name}">{uuid}</UUID></TiffData>'
        for i, (name, uuid) in enumerate(files.items())
    )
    size_y, size_x = pages.shape[1:]
    xml = f"""<?xml version="1.0" encoding="UTF-8"?>
    <OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"{f' UUID="{here}"' if here else ""}>
    <Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="uint16" SizeX="{size_x}" SizeY="{size_y}"
    SizeZ="{2 * len(files)}" SizeC="1" SizeT="1" PhysicalSizeZ="2.5"><Channel ID="Channel:0:0"/>{data}</Pixels>
    </Image></OME>"""
    tifffile.imwrite(path, pages, description=xml, metadata=None, photometric="minisblack")


def test_a_part_of_an_ome_tiff_is_no_whole(tmp_path: Path) -> None:
    files = {f"f{i}.ome.tif": f"urn:uuid:{i}" for i in range(2)}
    for i, (name, uuid) in enumerate(files.items()):
        ome_part(tmp_path / name, GREY[2 * i : 2 * i + 2], files, uuid)
    with pytest.raises(SourceError, match=r"z 2-3 in f1\.ome\.tif") as caught:
        open_source(tmp_path / "f0.ome.tif")
    with pytest.raises(SourceError, match=r"z 0-1 in f0\.ome\.tif"):
        ci.info(tmp_path / "f1.ome.tif")
    with contextlib.chdir(tmp_path):
        exec(caught.value.ways[0].split(": ", 1)[1], {"tifffile": tifffile})
        assert_same(open_source("whole.ome.tif"), GREY[:4])
    part = eval(caught.value.ways[1].split(": ", 1)[1], {"open_volume": ci.open_volume})
    np.testing.assert_array_equal(part.values, GREY[:2])
    assert part.attrs["voxel_size"]["z"] == 2.5


def test_an_ome_tiff_whose_xml_is_elsewhere(tmp_path: Path) -> None:
    space = "http://www.openmicroscopy.org/Schemas/OME/2016-06"
    xml = f'<?xml version="1.0"?><OME xmlns="{space}"><BinaryOnly MetadataFile="set.companion.ome" UUID="u"/></OME>'
    tifffile.imwrite(tmp_path / "a.ome.tif", GREY, description=xml, metadata=None, photometric="minisblack")
    with pytest.raises(SourceError, match=r"set\.companion\.ome"):
        open_source(tmp_path / "a.ome.tif")
    assert_same(open_source(tmp_path / "a.ome.tif", array="0"), GREY)


@pytest.mark.parametrize("here", ["urn:uuid:0", None])
def test_an_ome_tiff_that_names_itself(tmp_path: Path, here: str | None) -> None:
    ome_part(tmp_path / "self.ome.tif", GREY[:2], {"self.ome.tif": "urn:uuid:0"}, here)
    source = open_source(tmp_path / "self.ome.tif")
    assert_same(source, GREY[:2])
    assert source.dims == ("z", "y", "x")


def test_pages_that_an_ome_tiff_lacks(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.ome.tif", GREY, metadata=OME, photometric="minisblack")
    content = (tmp_path / "a.ome.tif").read_bytes()
    for old, new in ((b'SizeZ="5"', b'SizeZ="9"'), (b'PlaneCount="5"', b'PlaneCount="2"')):
        assert old in content
        (tmp_path / "b.ome.tif").write_bytes(content.replace(old, new))
        with pytest.raises(SourceError, match="lacks"):
            open_source(tmp_path / "b.ome.tif")


# What is read


def test_a_box_of_a_tiff_reads_what_it_meets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    voxels = RNG.integers(0, 255, (4, 256, 256), dtype="u1")
    read: list[int] = []
    whole = tiff.Pages._read
    monkeypatch.setattr(tiff.Pages, "_read", lambda self, part: (read.append(part.size), whole(self, part))[1])
    for name, options, most in (("tiles", {"tile": (64, 64)}, 64 * 64), ("rows", {}, 20 * 256)):
        tifffile.imwrite(tmp_path / f"{name}.tif", voxels, photometric="minisblack", **options)
        source = open_source(tmp_path / f"{name}.tif")
        read.clear()
        np.testing.assert_array_equal(source[1:3, 70:90, 70:90], voxels[1:3, 70:90, 70:90])
        assert sum(read) == 2 * most
    tifffile.imwrite(tmp_path / "z.tif", voxels, photometric="minisblack", tile=(64, 64), compression="zlib")
    source = open_source(tmp_path / "z.tif")
    read.clear()
    for _ in range(3):
        source[1, 70:90, 70:90]
    assert len(read) == 1  # and decoded once


# Without the libraries


@pytest.mark.parametrize(
    ("name", "module"),
    [("plain.tif", "tifffile"), ("chunks.h5", "h5py"), ("one.nii", "nibabel"), ("int16.mrc", "mrcfile")],
)
def test_without_the_library(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, module: str) -> None:
    for loaded in [m for m in sys.modules if m.partition(".")[0] == module]:
        monkeypatch.setitem(sys.modules, loaded, None)
    with pytest.raises(MissingExtra, match=rf"{module}(.|\n)*pip install \"chunkinfer\[formats\]\""):
        open_source(folder / name)


def test_an_unknown_suffix(tmp_path: Path) -> None:
    (tmp_path / "a.dm3").write_bytes(b"1234")
    with pytest.raises(SourceError, match=r"ends in .*\.tif.*\.png"):
        open_source(tmp_path / "a.dm3")


@given(
    shape=st.tuples(*[st.integers(1, 12)] * 4),
    order=st.sampled_from("CF"),
    run=st.sampled_from([1, 64, 1 << 18]),
    data=st.data(),
)
def test_any_box_of_a_flat_file(
    tmp_path_factory: Any, shape: tuple[int, ...], order: str, run: int, data: st.DataObject
) -> None:
    """In long runs it is read, in short ones it is mapped."""
    path = tmp_path_factory.mktemp("flat") / "a.npy"
    array = np.asarray(np.arange(np.prod(shape), dtype="u2").reshape(shape), order=order)
    np.save(path, array)
    ends = [sorted(data.draw(st.tuples(*[st.integers(0, n)] * 2))) for n in shape]
    box = tuple(slice(a, b) for a, b in ends)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flat, "RUN", run)
        assert np.array_equal(open_source(path)[box], array[box])


def test_a_flat_file_that_was_cut_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flat, "RUN", 1)
    np.save(tmp_path / "a.npy", np.ones((8, 8, 8)))
    source = open_source(tmp_path / "a.npy")
    source[0:1]
    os.truncate(tmp_path / "a.npy", 1000)
    with pytest.raises(SourceError, match="ends before byte"):
        source[:]
