"""Bad input: refused before work starts, in words that name the fact and a way out, with nothing half written."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
import textwrap
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pytest
import torch
import xarray as xr
from torch import Tensor, nn

import chunkinfer as ci
from chunkinfer.errors import (
    AmbiguousSource,
    ChunkinferError,
    DestinationError,
    DeviceError,
    MissingChunk,
    ModelError,
    NotExact,
    OutputError,
    PlanError,
    RunError,
    SettingsDiffer,
    SourceError,
    SourceNotFound,
    UntrustedModel,
    VolumeError,
)
from chunkinfer.volumes.arrays.create import ArraySpec, create
from tests.lib.nets import EXACT, Entry, UNet

Array = np.ndarray[Any, Any]

V: Array = np.random.default_rng(0).random((16, 20, 24), dtype="f4")
NET = Entry(lambda: UNet(3, ((1, 2, 2),), n=1)).make()
"""Period 1, 2, 2; context 4 and 8."""
FLAT = nn.Conv2d(1, 1, 3, padding=1)
POINT = nn.Conv3d(1, 1, 1)
nn.init.constant_(POINT.weight, 0.5)


def labelled(dims: str = "zyx", **coords: Any) -> xr.DataArray:
    return xr.DataArray(da.from_array(V, chunks=8), dims=list(dims), coords=coords)


def check(caught: pytest.ExceptionInfo[BaseException], fact: str, way: str) -> None:
    """The message says what is so and at least one way out."""
    error = caught.value
    assert isinstance(error, ChunkinferError)
    assert caught.match(fact)
    assert error.ways, f"no way out of: {error}"
    assert way in " ".join(error.ways), error.ways
    assert str(error).startswith(error.what)
    assert str(pickle.loads(pickle.dumps(error))) == str(error), "it survives the way from a worker"


Row = tuple[str, Callable[[], Any], type[ChunkinferError], str, str]

# ---- volumes ------------------------------------------------------------------------------------------------------

VOLUMES: list[Row] = [
    ("names of axes", lambda: ci.infer(labelled("abc"), NET), VolumeError, "'a', 'b' are not among", "rename"),
    ("one unknown name", lambda: ci.infer(labelled("yxc").rename(y="row"), NET), VolumeError, "'row'", "rename"),
    ("no x", lambda: ci.infer(labelled().isel(x=3), NET), VolumeError, "at least y and x", "slice(5, 6)"),
    ("Dataset", lambda: ci.infer(xr.Dataset({"em": labelled()}), NET), VolumeError, "several volumes: em", "['em']"),
    ("empty Dataset", lambda: ci.infer(xr.Dataset(), NET), VolumeError, "no variables", "open_volume"),
    ("one axis", lambda: ci.infer(V[0, 0], NET), VolumeError, "1 axes", "reshape"),
    ("five axes", lambda: ci.infer(V[None, None], NET), VolumeError, "5 axes", "volume[0]"),
    ("a number", lambda: ci.infer(3, NET), VolumeError, "int is no volume", "open_volume"),
    ("a list", lambda: ci.infer(V.tolist(), NET), VolumeError, "list is no volume", "asarray"),
    ("None", lambda: ci.infer(None, NET), VolumeError, "NoneType is no volume", "open_volume"),
    ("empty", lambda: ci.infer(V[:, :0], NET), VolumeError, "no voxels along y", "range"),
    ("empty labelled", lambda: ci.infer(labelled()[3:3], NET), VolumeError, "no voxels along z", "range"),
    ("time", lambda: ci.infer(labelled().expand_dims(t=2), NET), VolumeError, "time axis with 2", "isel(t=0)"),
    ("uint16", lambda: ci.infer(V.astype("u2"), NET), VolumeError, "uint16, and nothing says", "normalize=(0, 65535)"),
    ("complex", lambda: ci.infer(V.astype("c8"), NET), VolumeError, "complex64 is no image", "abs(volume)"),
    ("text", lambda: ci.infer(V.astype("U4"), NET), VolumeError, "no image", "numbers"),
    ("objects", lambda: ci.infer(V.astype(object), NET), VolumeError, "object is no image", "numbers"),
    (
        "complex, scaled",
        lambda: ci.infer(V.astype("c8"), NET, normalize=(0, 1)),
        VolumeError,
        "complex64",
        "abs(volume)",
    ),
    ("unequal steps", lambda: ci.infer(labelled(z=np.arange(16.0) ** 2), NET), VolumeError, "axis z", "interp"),
    ("saved", lambda: ci.save(V[0, 0], "nowhere"), VolumeError, "1 axes", "reshape"),
    ("saved text", lambda: ci.save(V.astype("U4"), "nowhere"), VolumeError, "no image", "numbers"),
    ("saved empty", lambda: ci.save(V[:, :0], "nowhere"), VolumeError, "no voxels along y", "range"),
]

# ---- arguments ----------------------------------------------------------------------------------------------------

ARGUMENTS: list[tuple[str, dict[str, Any], type[ChunkinferError], str, str]] = [
    ("patch of zero", {"patch": 0}, PlanError, "patch on axis z is 0", "patch="),
    ("negative patch", {"patch": (8, -8, 8)}, PlanError, "patch on axis y is -8", "leave patch= out"),
    ("half a voxel", {"patch": (8, 8.5, 8)}, PlanError, "axis y is 8.5", "patch="),
    ("a float for all", {"patch": 8.0}, PlanError, "patch=8.0", "patch=64"),
    ("a bool", {"patch": True}, PlanError, "True", "patch="),
    ("two of three axes", {"patch": (8, 8)}, PlanError, "3 spatial axes", "patch=64"),
    ("an unknown axis", {"patch": {"w": 8}}, PlanError, "names the axis 'w'; the volume has z, y, x", "'x': 64"),
    ("a word", {"patch": "large"}, PlanError, "'large'", "patch=64"),
    ("smaller than the context", {"patch": (None, 8, 8)}, PlanError, "no clean zone", "patch={'y': "),
    (
        "no size of the network",
        {"patch": (None, 15, 16)},
        PlanError,
        "does not fit a volume of 20 voxels",
        "patch={'y': 16}",
    ),
    ("overlap of a patch", {"patch": 16, "overlap": 16}, PlanError, "overlap of 16 voxels", "overlap={'z': "),
    ("overlap beyond a patch", {"patch": 16, "overlap": 99}, PlanError, "overlap of 99 voxels", "overlap={'z': "),
    ("negative overlap", {"overlap": -1}, PlanError, "overlap on axis z is -1", "overlap="),
    (
        "blended, no size",
        {"patch": 15, "overlap": 4},
        PlanError,
        "not a size that this network takes",
        "patch={'y': 16}",
    ),
    ("block", {"patch": 18, "block": (8, 5, 8)}, PlanError, "not a multiple of the patch's clean zone", "block={"),
    ("block of zero", {"block": 0}, PlanError, "block on axis z is 0", "block="),
    ("block on no grid", {"block": (8, 5, 8)}, PlanError, "block of 5 voxels on axis y", "block={"),
    ("batch of zero", {"batch": 0}, PlanError, "batch=0", "batch=1"),
    ("half a batch", {"batch": 1.5}, PlanError, "batch=1.5", "batch=1"),
    ("no threads", {"threads": 0}, PlanError, "threads=0", "threads=1"),
    ("window", {"overlap": 4, "window": "tukey"}, PlanError, "'tukey' is not known", "'hann'"),
    ("precision", {"precision": "int8"}, PlanError, "'int8' is not known", "'fp32'"),
    ("precision of no kind", {"precision": ["fp32"]}, PlanError, "is not known", "'fp32'"),
    ("device", {"device": "tpu"}, DeviceError, "'tpu' is not known", "cpu"),
    ("device with an index", {"device": "cuda:0"}, DeviceError, "each worker has one", "CUDA_VISIBLE_DEVICES"),
    ("integers out", {"dtype": "int32"}, PlanError, "int32", "uint8"),
    ("no dtype", {"dtype": "floatish"}, PlanError, "'floatish' is no dtype", "float16"),
    ("normalize of one", {"normalize": 255}, PlanError, "normalize=255", "normalize=(0, 4095)"),
    ("normalize of three", {"normalize": (0, 1, 2)}, PlanError, "neither a pair", "normalize=(0, 4095)"),
    ("normalize of text", {"normalize": "ab"}, PlanError, "neither a pair", "normalize=(0, 4095)"),
    ("scale of zero", {"normalize": (0, 0)}, PlanError, "finite values", "normalize="),
    ("scale of NaN", {"normalize": (0, np.nan)}, PlanError, "finite values", "normalize="),
    ("z-score of patches", {"normalize": lambda a: (a - a.mean()) / a.std()}, PlanError, "cut differently", "m, s ="),
    ("normalize that fails", {"normalize": lambda a: a.nope}, PlanError, "AttributeError", "array / 4095"),
    ("normalize to another shape", {"normalize": lambda a: a[0]}, PlanError, "another", "array / 4095"),
]

# ---- networks -----------------------------------------------------------------------------------------------------


class Shifting(nn.Module):
    """Gives another size for other values: no tracing can see it."""

    def forward(self, x: Tensor) -> Tensor:
        return x if x.is_meta or not x.any() else x[..., :-1]


class Failing(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        raise RuntimeError("sizes of tensors must match")


def _batch_norm() -> nn.Module:
    return nn.Sequential(nn.Conv3d(1, 2, 3, padding=1), nn.BatchNorm3d(2)).train()


NETWORKS: list[Row] = [
    ("channels", lambda: ci.infer(np.stack([V, V]), NET), ModelError, "expects 1 channels, and 2", "(c, z, y, x)"),
    ("two axes on three", lambda: ci.infer(labelled(), FLAT), ModelError, "works on 2 spatial axes", "isel(z=z)"),
    ("three axes on two", lambda: ci.infer(labelled()[0], NET), ModelError, "works on 3 spatial axes", "z, y, x"),
    ("train mode", lambda: ci.infer(V, _batch_norm()), NotExact, "train mode", "model.eval()"),
    ("train mode, blended", lambda: ci.infer(V, _batch_norm(), overlap=4), ModelError, "train mode", "model.eval()"),
    ("half weights", lambda: ci.infer(V, nn.Conv3d(1, 1, 1).half()), ModelError, "float16", "model.float()"),
    ("no context", lambda: ci.infer(V, UNet(norm=nn.InstanceNorm3d).eval()), NotExact, "InstanceNorm3d", "overlap="),
    ("weights alone", lambda: ci.infer(V, NET.state_dict()), ModelError, "OrderedDict is no net", "load_state_dict"),
    ("a class", lambda: ci.infer(V, nn.Conv3d), ModelError, "type is no network", "Module itself"),
    ("a number", lambda: ci.infer(V, 5), ModelError, "int is no network", "model.pt2"),
    ("a network that fails", lambda: ci.infer(V, Failing()), ModelError, "sizes of tensors must match", ""),
    ("no tensor out", lambda: ci.infer(V, Nothing()), ModelError, "returned no tensor but int", ""),
    ("double and reduced", lambda: ci.infer(V, nn.Conv3d(1, 1, 1).double(), precision="bf16"), PlanError, "double",
     "model.float()"),
    ("smaller than the network", lambda: ci.infer(V[:2], EXACT["valid conv"].make()), PlanError,
     "no output for 2 voxels along z", "pad(z=1"),
]  # fmt: skip


class Nothing(nn.Module):
    def forward(self, x: Tensor) -> int:
        return 3


@pytest.mark.parametrize(("call", "kind", "fact", "way"), [r[1:] for r in VOLUMES + NETWORKS],
                         ids=[r[0] for r in VOLUMES + NETWORKS])  # fmt: skip
def test_volumes_and_networks(
    call: Callable[[], Any], kind: type[ChunkinferError], fact: str, way: str, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    with pytest.raises(kind) as caught:
        call()
    check(caught, fact, way)
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "kind", "fact", "way"), [r[1:] for r in ARGUMENTS], ids=[r[0] for r in ARGUMENTS]
)
@pytest.mark.parametrize("verb", [ci.infer, ci.plan])
def test_arguments(verb: Any, arguments: dict[str, Any], kind: type[ChunkinferError], fact: str, way: str) -> None:
    with pytest.raises(kind) as caught:
        verb(V, NET, **arguments)
    check(caught, fact, way)


def test_overlap_below_what_a_valid_network_crops() -> None:
    with pytest.raises(PlanError) as caught:
        ci.infer(V, EXACT["valid conv"].make(), patch=12, overlap=2)
    check(caught, "overlap of 2 voxels", "overlap={'y': ")


@pytest.mark.parametrize("verb", [ci.infer, ci.plan])
def test_an_unknown_keyword_is_pythons_own_error(verb: Any) -> None:
    with pytest.raises(TypeError, match="'stride'"):
        verb(V, NET, stride=4)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_cuda_without_cuda() -> None:
    with pytest.raises(DeviceError) as caught:
        ci.infer(V, NET, device="cuda")
    check(caught, "no CUDA device here", 'device="cpu"')


# ---- model files --------------------------------------------------------------------------------------------------


class Hostile:
    """Leaves a mark when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return Path.touch, (self.mark,)


def _script(path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(NET, torch.zeros(1, 1, 8, 8, 8)), path)


def _truncated(path: Path) -> None:
    _script(path)
    path.write_bytes(path.read_bytes()[:-2000])


def _hollow(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/code/__torch__.py", "class")
        file.writestr("archive/data.pkl", b"\x80\x02}.")


def _zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("readme.txt", "no network")


def _old_torch(path: Path) -> None:
    torch.save(Hostile(path.with_name("mark")), path, _use_new_zipfile_serialization=False)


FILES: list[tuple[str, Callable[[Path], Any], type[ChunkinferError], str, str]] = [
    ("absent", lambda p: None, ModelError, "cannot be read: No such file", "os.listdir"),
    ("a folder", lambda p: p.mkdir(), ModelError, "cannot be read: Is a directory", "os.listdir"),
    ("a hostile pickle", lambda p: p.write_bytes(pickle.dumps(Hostile(p.with_name("mark")))), UntrustedModel,
     "is a pickle", "weights_only=True"),
    ("hostile, of protocol 0", lambda p: p.write_bytes(pickle.dumps(Hostile(p.with_name("mark")), protocol=0)),
     ModelError, "neither a TorchScript nor", "torch.export.save"),
    ("hostile, saved by torch", lambda p: torch.save(Hostile(p.with_name("mark")), p), UntrustedModel, "torch.save",
     "weights_only=True"),
    ("hostile, saved by an old torch", _old_torch, UntrustedModel, "is a pickle", "weights_only=True"),
    ("a module", lambda p: torch.save(NET, p), UntrustedModel, "torch.save", "torch.export.save"),
    ("a state_dict", lambda p: torch.save(NET.state_dict(), p), UntrustedModel, "torch.save", "load_state_dict"),
    ("cut short", _truncated, ModelError, "neither a TorchScript nor", "torch.export.save"),
    ("hollow", _hollow, ModelError, "torch cannot open it", "write it again"),
    ("a zip file", _zip, ModelError, "zip file that holds no network", "torch.export.save"),
    ("garbage", lambda p: p.write_bytes(os.urandom(4000)), ModelError, "neither a TorchScript nor|pickle",
     "torch.export.save"),
    ("empty", lambda p: p.touch(), ModelError, "neither a TorchScript nor", "torch.export.save"),
    ("text", lambda p: p.write_text("weights"), ModelError, "neither a TorchScript nor", "torch.export.save"),
]  # fmt: skip


@pytest.mark.parametrize(("make", "kind", "fact", "way"), [r[1:] for r in FILES], ids=[r[0] for r in FILES])
def test_model_files(
    make: Callable[[Path], Any], kind: type[ChunkinferError], fact: str, way: str, tmp_path: Path
) -> None:
    path = tmp_path / "model.pt"
    make(path)
    with pytest.raises(kind) as caught:
        ci.infer(V, path)
    check(caught, fact, way)
    assert not (tmp_path / "mark").exists()


def test_a_model_file_is_known_by_its_content_not_by_its_name(tmp_path: Path) -> None:
    _script(tmp_path / "model.dat")
    result = ci.infer(V, tmp_path / "model.dat").compute()
    assert np.abs(result - ci.infer(V, NET).compute()).max() < 1e-5


# ---- sources ------------------------------------------------------------------------------------------------------


def stored(path: Path, **changes: Any) -> Path:
    given = {"shape": V.shape, "dtype": "f4", "dims": "zyx", "chunks": (16, 10, 12)} | changes
    target = create(path, ArraySpec(**given))
    for y in (0, 10):
        for x in (0, 12):
            target.write(np.s_[0:16, y : y + 10, x : x + 12], V[:, y : y + 10, x : x + 12].astype(given["dtype"]))
    return path


def _group(path: Path) -> Path:
    import zarr

    for name in ("raw", "labels"):
        zarr.open_group(path, mode="a").create_array(name, shape=(4, 4, 4), dtype="u1")
    return path


def _gz(path: Path) -> Path:
    stored(path, chunks=(16, 10, 12))
    (scale,) = [p for p in path.iterdir() if p.is_dir() and p.name[0] != "."]
    for chunk in list(scale.iterdir()):
        chunk.rename(f"{chunk}.gz")
    return path


SOURCES: list[tuple[str, Callable[[Path], Any], type[ChunkinferError], str, str]] = [
    ("nothing", lambda p: ci.open_volume(p / "absent"), SourceNotFound, "Nothing is at", "spelling"),
    ("nothing to infer", lambda p: ci.infer(p / "absent", NET), SourceNotFound, "Nothing is at", "spelling"),
    ("a group", lambda p: ci.open_volume(_group(p / "g")), AmbiguousSource, "labels, raw", "array='labels'"),
    ("compressed chunks", lambda p: ci.open_volume(_gz(p / "a.precomputed")), SourceError, "compressed", "gunzip"),
    ("a level", lambda p: ci.open_volume(stored(p / "a"), level=3), SourceError, "no level 3", "level=0"),
    ("a negative level", lambda p: ci.open_volume(stored(p / "a"), level=-1), SourceError, "no level -1", "level=0"),
    ("a level of no kind", lambda p: ci.open_volume(stored(p / "a.precomputed"), level="fine"), SourceError,
     "level='fine'", "level=0"),
    ("missing", lambda p: ci.open_volume(stored(p / "a"), missing="zeros"), SourceError, "missing='zeros'", "fill"),
    ("a scheme", lambda p: ci.open_volume("ftp://host/a"), SourceError, "'ftp'", "path"),
    ("an array outside", lambda p: ci.open_volume(_group(p / "g"), array="../raw"), SourceError, "'../raw'", "name"),
    ("a flat voxel", lambda p: ci.open_volume(stored(p / "a"), voxel_size=(0, 1, 1)), VolumeError, "not positive",
     "voxel_size="),
    ("two voxel sizes", lambda p: ci.open_volume(stored(p / "a"), voxel_size=(1, 1)), VolumeError,
     "one number for each", "leave voxel_size="),
    ("an offset of words", lambda p: ci.open_volume(stored(p / "a"), offset="abc"), VolumeError, "offset='abc'",
     "offset="),
    ("a box beyond", lambda p: ci.open_volume(stored(p / "a"), box={"z": slice(0, 99)}), VolumeError, "has 16 voxels",
     "box="),
    ("an empty box", lambda p: ci.open_volume(stored(p / "a"), box={"z": slice(3, 3)}), VolumeError, "3:3", "box="),
    ("a box with steps", lambda p: ci.open_volume(stored(p / "a"), box={"z": slice(0, 9, 2)}), VolumeError, "0:9:2",
     "box="),
    ("a box of numbers", lambda p: ci.open_volume(stored(p / "a"), box=(1, 2, 3)), VolumeError, "slices", "box="),
    ("a number for a box", lambda p: ci.open_volume(stored(p / "a"), box=5), VolumeError, "slices", "box="),
    ("a box of another axis", lambda p: ci.open_volume(stored(p / "a"), box={"t": slice(1)}), VolumeError, "slices",
     "box="),
    ("two chunks for three axes", lambda p: ci.open_volume(stored(p / "a"), chunks=(8, 8)), PlanError,
     "chunks=(8, 8) does not", "leave chunks="),
    ("chunks of zero", lambda p: ci.open_volume(stored(p / "a"), chunks=(8, 0, 8)), PlanError, "chunks=(8, 0, 8)",
     "leave chunks="),
]  # fmt: skip


@pytest.mark.parametrize(("call", "kind", "fact", "way"), [r[1:] for r in SOURCES], ids=[r[0] for r in SOURCES])
def test_sources(call: Callable[[Path], Any], kind: type[ChunkinferError], fact: str, way: str, tmp_path: Path) -> None:
    with pytest.raises(kind) as caught:
        call(tmp_path)
    check(caught, fact.replace("(", r"\(").replace(")", r"\)"), way)


def _chunk_file(path: Path) -> Path:
    return max(
        (p for p in path.rglob("*") if p.is_file() and p.name not in ("zarr.json", "info", "provenance")), key=str
    )


@pytest.mark.parametrize("name", ["a.zarr", "zarr2://a.zarr", "a.precomputed"])
def test_a_missing_chunk_is_named_and_can_be_filled(tmp_path: Path, name: str) -> None:
    url = f"zarr2://{tmp_path / 'a.zarr'}" if name.startswith("zarr2") else tmp_path / name
    stored(url)  # type: ignore[arg-type]
    missing = _chunk_file(tmp_path)
    missing.unlink()
    result = ci.infer(url, NET)
    with pytest.raises(MissingChunk) as caught:
        result.compute(scheduler="synchronous")
    check(caught, missing.name.replace(".", "."), "missing='fill'")
    with pytest.raises(RunError) as run:
        ci.save(result, tmp_path / "out.zarr", progress=False)
    check(run, "blocks failed", "same call again")
    assert isinstance(run.value.__cause__, MissingChunk)
    filled = ci.infer(ci.open_volume(url, missing="fill"), NET)
    assert np.isfinite(filled.values).all()


def test_a_damaged_chunk_is_named(tmp_path: Path) -> None:
    stored(tmp_path / "a.zarr")
    _chunk_file(tmp_path).write_bytes(b"damaged")
    with pytest.raises(SourceError) as caught:
        ci.infer(tmp_path / "a.zarr", NET).compute(scheduler="synchronous")
    check(caught, "c/0/1/1", "write the chunk named above anew")


# ---- what only running shows --------------------------------------------------------------------------------------


def _logarithm() -> nn.Module:
    class Logarithm(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.log(x - 0.5)

    return Logarithm()


def _holed() -> Array:
    values = V.copy()
    values[3, 4, 5] = np.nan
    return values


RUNNING: list[tuple[str, Callable[[], Any], type[ChunkinferError], str, str]] = [
    ("a network that gives NaN", lambda: ci.infer(V, _logarithm()), OutputError, "NaN or infinite", "normalize="),
    ("NaN in the volume", lambda: ci.infer(_holed(), NET), VolumeError, "holds NaN", "fillna"),
    (
        "infinity, blended",
        lambda: ci.infer(_holed() * np.inf, NET, overlap=4),
        VolumeError,
        "infinite voxels",
        "fillna",
    ),
    ("another shape", lambda: ci.infer(V, Shifting()), OutputError, "was traced", "plan"),
    ("logits as uint8", lambda: ci.infer(V * 9, POINT, dtype="uint8"), OutputError, "dtype='uint8' stores", "sigmoid"),
]


@pytest.mark.parametrize(("make", "kind", "fact", "way"), [r[1:] for r in RUNNING], ids=[r[0] for r in RUNNING])
def test_what_only_running_shows(
    make: Callable[[], Any], kind: type[ChunkinferError], fact: str, way: str, tmp_path: Path
) -> None:
    result = make()
    with pytest.raises(kind) as caught:
        result.compute(scheduler="synchronous")
    check(caught, fact, way)
    with pytest.raises(RunError) as run:
        ci.save(result, tmp_path / "out.zarr", progress=False)
    check(run, "blocks failed", "same call again")
    assert type(run.value.__cause__) is kind
    report = json.loads((tmp_path / "out.zarr" / ".chunkinfer" / "run.json").read_text())
    assert report["failed"]  # a run without a single success ends before it has tried all


# ---- destinations -------------------------------------------------------------------------------------------------


def tree(place: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in sorted(place.rglob("*")) if p.is_file()}


def _folder(path: Path) -> Path:
    path.mkdir()
    (path / "thesis.tex").write_text("years of work")
    return path


def _file(path: Path) -> Path:
    path.write_text("a file")
    return path


def half_voxel() -> xr.DataArray:
    return labelled(z=(np.arange(16) + 0.5) * 40.0, y=np.arange(20) * 4.0, x=np.arange(24) * 4.0)


def _sliced() -> Any:
    return ci.infer(labelled(), NET, block=(16, 20, 6), exchange=False)[..., 3:]


def inferred(**settings: Any) -> Any:
    return ci.infer(labelled(), NET, block=(16, 10, 12), **settings)


SAVES: list[tuple[str, Callable[[Path], Any], type[ChunkinferError], str, str]] = [
    ("a folder of other things", lambda p: ci.save(V, _folder(p / "o")), DestinationError, "not empty", "new folder"),
    ("the same, overwriting", lambda p: ci.save(V, _folder(p / "o"), overwrite=True), DestinationError,
     "holds no array", "another URL"),
    ("a file", lambda p: ci.save(V, _file(p / "o")), DestinationError, "is a file", "another URL"),
    ("a file, overwriting", lambda p: ci.save(V, _file(p / "o"), overwrite=True), DestinationError, "is a file",
     "delete"),
    ("below a file", lambda p: ci.save(V, _file(p / "f") / "o"), DestinationError, "cannot be", "another URL"),
    ("a group", lambda p: ci.save(V, _group(p / "o"), overwrite=True), DestinationError, "is a group", "/name"),
    ("an array", lambda p: ci.save(V, stored(p / "o")), DestinationError, "holds an array already", "overwrite=True"),
    ("nobody's bucket", lambda p: ci.save(V, "https://host/o"), DestinationError, "host/o", "to a path"),
    ("a scheme", lambda p: ci.save(V, "ftp://host/o"), SourceError, "'ftp'", "path"),
    ("no format", lambda p: ci.save(V, p / "o", format="tiff"), DestinationError, "'tiff'", "format='zarr3'"),
    ("no compression", lambda p: ci.save(V, p / "o", compression="lzma9"), DestinationError, "'lzma9'", "'zstd'"),
    ("no encoding", lambda p: ci.save(V, p / "o.precomputed", encoding="mp4"), DestinationError, "'mp4'", "'raw'"),
    ("an encoding of zarr", lambda p: ci.save(V, p / "o", encoding="jpeg"), DestinationError, "jpeg", ""),
    ("jpeg of floats", lambda p: ci.save(V, p / "o.precomputed", encoding="jpeg"), DestinationError, "jpeg", ""),
    ("two chunks", lambda p: ci.save(V, p / "o", chunks=(8, 8)), PlanError, "for each axis", "leave chunks= out"),
    ("chunks of zero", lambda p: ci.save(V, p / "o", chunks=(8, 0, 8)), PlanError, "chunks=", "leave chunks= out"),
    ("chunks of halves", lambda p: ci.save(V, p / "o", chunks=(8, 2.5, 8)), PlanError, "chunks=", "leave chunks= out"),
    ("a number for chunks", lambda p: ci.save(V, p / "o", chunks=64), PlanError, "chunks=64", "leave chunks= out"),
    ("two shards", lambda p: ci.save(V, p / "o", shards=(8, 8)), PlanError, "shards=", "leave shards= out"),
    ("chunks that cut blocks", lambda p: ci.save(inferred(), p / "o", chunks=(3, 16, 9, 12)), PlanError,
     "whole number of", "leave chunks= out|divides"),
    ("shards that cut blocks", lambda p: ci.save(inferred(), p / "o", chunks=(3, 16, 5, 6), shards=(3, 16, 15, 12)),
     PlanError, "block of 10 voxels on axis y is not a whole number of shards", "block="),
    ("a sliced result", lambda p: ci.save(_sliced(), p / "o"), PlanError, "not one regular grid",
     "slice the input"),
    ("half a voxel", lambda p: ci.save(half_voxel(), p / "o.precomputed"), DestinationError, "offset 0.5 voxels",
     "format='zarr3'"),
    ("double precision", lambda p: ci.save(V.astype("f8"), p / "o.precomputed"), DestinationError, "float64",
     "format='zarr3'"),
    ("itself", lambda p: ci.save(ci.open_volume(stored(p / "a")) * 2, p / "a", overwrite=True), DestinationError,
     "is what this run reads", "another URL"),
    ("itself through a network", lambda p: ci.save(ci.infer(stored(p / "a"), NET), p / "a", overwrite=True),
     DestinationError, "is what this run reads", "another URL"),
    ("itself through halos", lambda p: ci.save(ci.infer(ci.open_volume(stored(p / "a")) + 1, NET, exchange=True),
     f"zarr3://{p}/b/../a/", overwrite=True), DestinationError, "is what this run reads", "another URL"),
    ("itself by zarr-python", lambda p: ci.save(da.from_zarr(str(stored(p / "a"))), p / "a", overwrite=True),
     DestinationError, "is what this run reads", "another URL"),
    ("itself by a link", lambda p: (os.symlink(stored(p / "a"), p / "b"),
     ci.save(ci.open_volume(p / "b"), p / "a", overwrite=True)), DestinationError, "is what this run reads",
     "another URL"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "kind", "fact", "way"), [r[1:] for r in SAVES], ids=[r[0] for r in SAVES])
def test_destinations(
    call: Callable[[Path], Any], kind: type[ChunkinferError], fact: str, way: str, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    before: dict[str, bytes] = {}
    real = ci.save

    def save(*args: Any, **kwargs: Any) -> Any:
        before.update(tree(tmp_path))
        return real(*args, **kwargs)

    monkeypatch.setattr(ci, "save", save)
    with pytest.raises(kind) as caught:
        call(tmp_path)
    check(caught, fact, "")
    assert any(w in " ".join(caught.value.ways) for w in way.split("|")), caught.value.ways
    assert tree(tmp_path) == before, "nothing was written or deleted"
    assert not (tmp_path / "o").is_dir() or before


def test_itself_as_xarray_opens_it(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of zarr-python, about consolidated metadata
        labelled().to_dataset(name="em").to_zarr(tmp_path / "a.zarr")
        volume = xr.open_zarr(tmp_path / "a.zarr")["em"]
    with pytest.raises(DestinationError) as caught:
        ci.save(volume + 1, tmp_path / "a.zarr" / "em", overwrite=True)
    check(caught, "is what this run reads", "another URL")
    assert np.array_equal(volume.values, V)


def test_another_runs_output(tmp_path: Path) -> None:
    ci.save(inferred(), tmp_path / "o", progress=False)
    before = tree(tmp_path)
    with pytest.raises(SettingsDiffer) as caught:
        ci.save(inferred(dtype="float16"), tmp_path / "o", progress=False)
    check(caught, r"dtype: stored float32, asked float16", "overwrite=True")
    assert tree(tmp_path) == before


LEDGERS: list[tuple[str, str, Callable[[bytes], bytes], str, str]] = [
    ("cut short", "done-*", lambda b: b[:-5], "checksum", "/.chunkinfer/done-"),
    ("edited", "done-*", lambda b: b[:60] + bytes([b[60] ^ 1]) + b[61:], "checksum", "/.chunkinfer/done-"),
    ("empty", "done-*", lambda b: b"", "checksum", "/.chunkinfer/done-"),
    ("a header cut short", "ledger.json", lambda b: b[:40], "no JSON", "overwrite=True"),
    ("a header of nothing", "ledger.json", lambda b: b"", "no JSON", "overwrite=True"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "damage", "fact", "way"), [r[1:] for r in LEDGERS], ids=[r[0] for r in LEDGERS])
def test_a_damaged_ledger(tmp_path: Path, name: str, damage: Callable[[bytes], bytes], fact: str, way: str) -> None:
    ci.save(inferred(), tmp_path / "o", progress=False)
    (path,) = (tmp_path / "o" / ".chunkinfer").glob(name)  # compacted to one, whatever its number
    path.write_bytes(damage(path.read_bytes()))
    before = tree(tmp_path)
    with pytest.raises(DestinationError) as caught:
        ci.save(inferred(), tmp_path / "o", progress=False)
    check(caught, fact, way)
    assert tree(tmp_path) == before
    if name != "ledger.json":  # the way out
        path.unlink()
        report = ci.save(inferred(), tmp_path / "o", progress=False)
        assert report.computed == report.blocks
    ci.save(inferred(), tmp_path / "o", overwrite=True, progress=False)


@pytest.mark.slow
def test_a_full_disk(tmp_path: Path) -> None:
    """A limit on the size of files stands for the disk: what was stored before it stays, and a later call completes."""
    (tmp_path / "run.py").write_text(
        textwrap.dedent(
            """
            import resource, sys
            import numpy as np
            import torch
            import chunkinfer as ci
            from chunkinfer.errors import DestinationError, RunError

            volume = np.random.default_rng(0).random((64, 64, 64), dtype="f4")
            volume[:32] = 0  # small when compressed
            if sys.argv[2] == "full":
                resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
            try:
                copy = torch.nn.Conv3d(1, 1, 1, bias=False)
                torch.nn.init.ones_(copy.weight)
                report = ci.save(ci.infer(volume, copy, block=(32, 64, 64)), sys.argv[1], progress=False)
                print("stored", report.computed, report.skipped)
            except RunError as error:
                assert isinstance(error.__cause__, DestinationError), error
                print("failed", error)
            """
        )
    )
    said = []
    for disk in ("full", "roomy"):
        command = [sys.executable, tmp_path / "run.py", tmp_path / "o", disk]
        said.append(subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout)
    assert said[0].startswith("failed 1 of 2 blocks failed"), said
    assert "too large" in said[0]
    assert said[1] == "stored 1 1\n"


def test_a_place_that_vanishes_while_it_is_written(tmp_path: Path) -> None:
    """Blocks that cannot be stored are reported, and the same call completes the output."""
    mark = tmp_path / "mark"

    class Spoiling(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            if not x.is_meta and not mark.exists() and (tmp_path / "o").exists():
                mark.touch()
                shutil.rmtree(tmp_path / "o" / "c", ignore_errors=True)
                (tmp_path / "o" / "c").write_text("in the way")
            return x

    result = ci.infer(V, Spoiling(), block=(16, 20, 12))
    with pytest.raises(RunError) as caught:
        ci.save(result, tmp_path / "o", progress=False)
    check(caught, "blocks failed", "same call again")
    (tmp_path / "o" / "c").unlink()
    ci.save(result, tmp_path / "o", progress=False)
    assert np.array_equal(ci.open_volume(tmp_path / "o").values[0], V)
