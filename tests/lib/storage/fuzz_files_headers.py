"""NIfTI, MRC and npy for `fuzzing`: fields of their headers, and what nibabel, mrcfile and numpy read."""

from __future__ import annotations

import ast
import gzip
import math
import random
import struct
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.lib.storage.fuzz_files_seen import BY_RANK, FLOATS, LARGE, NUMBERS, VALUES, is_size, read, several
from tests.lib.storage.fuzzing import Asked, Format, Seen

mrcfile = pytest.importorskip("mrcfile")
nibabel = pytest.importorskip("nibabel")


def write_nii(name: str, kind: Any, order: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        folder.mkdir()
        affine = np.diag([4.0, 4.0, 40.0, 1.0])
        affine[:3, 3] = [8, -4, 400]
        voxels = VALUES[0].T.astype(f"{order}i2")
        header = kind.header_class(endianness=order)
        image = kind(voxels, affine, header)
        image.header.set_xyzt_units("micron")
        nibabel.save(image, folder / name)

    return write


def header_fields(dtype: Any, packed: bool, names: Sequence[str]) -> Callable[[Path, random.Random], str]:
    """Change a field of a header, or an element of it."""

    def change(place: Path, chance: random.Random) -> str:
        content = bytearray(gzip.decompress(place.read_bytes()) if packed else place.read_bytes())
        header = np.frombuffer(content, dtype, 1)
        name = chance.choice(names)
        field = header[name].reshape(-1)
        at = chance.randrange(field.size)
        old, base = field[at], field.dtype
        if base.kind in "iu":
            value: Any = chance.choice([*NUMBERS, int(old) + 1, int(old) - 1, int(old) * 2])
            info = np.iinfo(base)
            field[at] = min(max(value, info.min), info.max)
        elif base.kind == "f":
            field[at] = value = chance.choice([*FLOATS, float(old) * 2, -float(old)])
        else:
            field[at] = value = chance.choice([b"", b"n+1", b"ni1", b"\xff\xff\xff\xff", b"MAP"])
        place.write_bytes(gzip.compress(bytes(content), 1) if packed else bytes(content))
        return f"{name}[{at}] {old!r} -> {field[at]!r}"

    return change


def by_nibabel(place: Path, asked: Asked) -> Seen:
    image = nibabel.load(place)
    header = image.header
    assert math.prod(image.shape) < LARGE
    assert all(n > 0 for n in image.shape)
    values = np.asanyarray(image.dataobj)
    if (image.dataobj.slope, image.dataobj.inter) != (1, 0) and header.get_data_dtype().kind in "iuf":
        values = values.astype(np.result_type(header.get_data_dtype(), np.float32))
    axes = "xyztc"[: values.ndim]
    sizes = {d: float(str(size)) for d, size in zip("xyz", header.get_zooms(), strict=False) if is_size(size)}
    unit = {1: "m", 2: "mm", 3: "um"}.get(int(header["xyzt_units"]) & 7, "")
    placed = header["sform_code"] > 0 or header["qform_code"] > 0
    affine = header.get_best_affine() if placed else np.eye(4)
    straight = np.diag([sizes.get(d, 1.0) for d in "xyz"])
    offset: dict[str, float] = {}
    if placed and np.allclose(affine[:3, :3], straight, rtol=1e-5, atol=1e-6):
        offset = {d: affine[i, 3] / sizes[d] for i, d in enumerate("xyz") if d in sizes and np.isfinite(affine[i, 3])}
    return read(values, axes, sizes, unit, offset)


NIFTI1, NIFTI2 = nibabel.nifti1.header_dtype, nibabel.nifti2.header_dtype
NIFTI_FIELDS = [
    "dim",
    "dim",
    "pixdim",
    "pixdim",
    "datatype",
    "bitpix",
    "vox_offset",
    "scl_slope",
    "scl_inter",
    "xyzt_units",
    "qform_code",
    "sform_code",
    "quatern_b",
    "quatern_c",
    "qoffset_x",
    "qoffset_z",
    "srow_x",
    "srow_y",
    "srow_z",
    "magic",
    "sizeof_hdr",
    "intent_code",
    "cal_max",
    "slice_start",
]


def write_mrc(folder: Path) -> None:
    folder.mkdir()
    with mrcfile.new(folder / "a.mrc") as file:
        file.set_data(VALUES[0].astype("i2"))
        file.voxel_size = (4, 5, 40)
        file.header.nxstart = 7


MRC_FIELDS = [
    "nx",
    "ny",
    "nz",
    "mode",
    "nxstart",
    "nystart",
    "nzstart",
    "mx",
    "my",
    "mz",
    "cella_x",
    "cella_y",
    "cella_z",
    "mapc",
    "mapr",
    "maps",
    "ispg",
    "nsymbt",
    "origin_x",
    "origin_y",
    "origin_z",
    "map",
    "machst",
]


def mrc_fields(place: Path, chance: random.Random) -> str:
    content = bytearray(place.read_bytes())
    if chance.random() < 0.1:
        swapped = np.frombuffer(content, mrcfile.dtypes.HEADER_DTYPE, 1).byteswap()
        voxels = np.frombuffer(content[1024:], "i2").byteswap()
        content = bytearray(swapped.tobytes() + voxels.tobytes())
        content[208:216] = b"MAP " + bytes(chance.choice([b"\x11\x11\0\0", bytes(4), b"DD\0\0"]))
        place.write_bytes(content)
        return "turned to big-endian"
    header = np.frombuffer(content, mrcfile.dtypes.HEADER_DTYPE, 1)
    name = chance.choice(MRC_FIELDS)
    if name in ("map", "machst"):
        at = 208 if name == "map" else 212
        value: Any = chance.choice([bytes(4), b"\x44\x20\x20\x20", b"DA\0\0", b"\x11\x11\0\0", b"MAP ", b"MAP\0"])
        content[at : at + 4] = value
    elif "_" in name:
        part, dim = name.split("_")
        header[part][dim] = value = chance.choice([*FLOATS, 21.6, -8.0])
    elif name.startswith("map"):
        value = chance.choice([[3, 2, 1], [2, 1, 3], [1, 3, 2], [0, 0, 0], [1, 1, 3], [1, 2, 4]])
        for which, axis in zip(("mapc", "mapr", "maps"), value, strict=True):
            header[which] = axis
    else:
        header[name] = value = chance.choice([*NUMBERS, 401, 6, 4])
    place.write_bytes(content)
    return f"{name} -> {value!r}"


def by_mrcfile(place: Path, asked: Asked) -> Seen:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        head = mrcfile.open(place, permissive=True, header_only=True).header
        assert math.prod(int(head[n]) for n in ("nx", "ny", "nz")) < LARGE
        with mrcfile.open(place, permissive=True) as file:
            values, header = np.array(file.data), file.header.copy()
    assert values.size
    assert values.dtype.kind in "iuf"
    order = [int(header[name]) for name in ("maps", "mapr", "mapc")]
    stored = ["xyz"[axis - 1] for axis in (order if any(order) else [3, 2, 1])]
    axes = (["t"] if values.ndim == 4 else []) + stored[-min(values.ndim, 3) :]
    sizes = {d: float(header.cella[d]) / int(header[f"m{d}"]) for d in "xyz" if int(header[f"m{d}"]) > 0}
    known = {d: s for d, s in sizes.items() if is_size(s)}
    origin = {d: float(header.origin[d]) for d in "xyz" if np.isfinite(header.origin[d])}
    if any(origin.values()):
        offset = {d: origin.get(d, 0) / known[d] for d in known}
    else:
        counted = dict(zip("xyz", reversed(stored), strict=True))
        offset = {counted[d]: int(header[f"n{d}start"]) for d in "xyz"}
    return read(values, axes, sizes, "angstrom" if known else "", offset)


def write_npy(folder: Path) -> None:
    folder.mkdir()
    np.save(folder / "a.npy", VALUES[0].astype("i2"))


TYPES = (
    *[">i2", "<u2", "<f2", "|i1", "<i4", "<c8", "|O", "<M8[ns]", "|S2", "|b1", "i2", "q9", "|V2", "<U1", "=i2", "|i2"],
    3, None,
    [("a", "<i2")], [("a", "|u1"), ("b", "|u1")],
)  # fmt: skip
SHAPES = (
    (5, 6, 7), (7, 6, 5), (30, 7), (210,), (), (5, 6, 7, 1), (1, 5, 6, 7), (-5, -6, 7), (0, 6, 7), [5, 6, 7],
    (5.0, 6, 7), (True, 6, 7), (2, 2), (5, 6, 8), (1, 1, 5, 6, 7), (1,) * 6, None, "567",
    (2**40, 2**40, 7), (2**62, 4, 2),
)  # fmt: skip


def npy_header(place: Path, chance: random.Random) -> str:
    content = place.read_bytes()
    length = int.from_bytes(content[8:10], "little")
    about = ast.literal_eval(content[10 : 10 + length].decode())
    kind = chance.choice(["descr", "shape", "shape", "fortran_order", "text", "version", "length", "magic"])
    version, magic = (1, 0), b"\x93NUMPY"
    if kind == "descr":
        about["descr"] = chance.choice(TYPES)
    elif kind == "shape":
        about["shape"] = chance.choice(SHAPES)
    elif kind == "fortran_order":
        about["fortran_order"] = chance.choice([True, 1, None, "F", 0])
    elif kind == "version":
        version = chance.choice([(2, 0), (3, 0), (4, 0), (0, 0), (1, 1)])
    elif kind == "magic":
        magic = chance.choice([b"\x93NUMPZ", b"PK\x03\x04  ", b"\x80\x04NUMP"])
    if kind == "text":
        about = {**about, **chance.choice([{"more": 3}, {"shape ": (5, 6, 7)}])}
        if chance.random() < 0.5:
            del about[chance.choice(list(about))]
    text = (
        f"{about!r}"
        if chance.random() < 0.9
        else chance.choice(["", "{", "__import__('os')", "[1]", f"{about!r}" + " \n" * 99])
    )
    head = text.encode().ljust(118) + b"\n"
    size = struct.pack(
        "<H" if version[0] < 2 else "<I", len(head) + (chance.choice([-3, 4, 2000]) if kind == "length" else 0)
    )
    place.write_bytes(magic + bytes(version) + size + head + content[10 + length :])
    return f"{kind}: {version} {text[:100]}"


def by_numpy(place: Path, asked: Asked) -> Seen:
    values = np.load(place, allow_pickle=False)
    assert values.dtype.kind in "biuf"
    assert values.size
    return read(values, BY_RANK[values.ndim], {}, "")


def nifti(name: str, file: str, kind: Any, order: str) -> Format:
    dtype = (NIFTI2 if kind is nibabel.Nifti2Image else NIFTI1).newbyteorder(order)
    change = several(header_fields(dtype, file.endswith(".gz"), NIFTI_FIELDS))
    return Format(name, write_nii(file, kind, order), change, [by_nibabel], file)


HEADERS = (
    nifti("NIfTI-1", "a.nii", nibabel.Nifti1Image, "<"),
    nifti("NIfTI-1, gzip, big-endian", "a.nii.gz", nibabel.Nifti1Image, ">"),
    nifti("NIfTI-2", "a.nii", nibabel.Nifti2Image, "<"),
    Format("MRC", write_mrc, several(mrc_fields), [by_mrcfile], "a.mrc"),
    Format("npy", write_npy, npy_header, [by_numpy], "a.npy"),
)
