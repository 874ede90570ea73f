"""Engines that compile: the same promises for each, against torch on the network itself."""

from __future__ import annotations

import importlib.util
import threading
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from chunkinfer.errors import EngineError
from chunkinfer.networks.engines import exporting, fitting, inductor, onnx_engine, openvino_engine
from chunkinfer.networks.engines.artefacts import found as undamaged
from chunkinfer.networks.engines.artefacts import kept
from chunkinfer.networks.engines.compiled import Compiled
from chunkinfer.networks.engines.contract import Engine, Run, Setup
from chunkinfer.networks.engines.exported import Exported
from chunkinfer.networks.engines.onnx_engine import OnnxRuntime
from chunkinfer.networks.engines.openvino_engine import OpenVINO
from chunkinfer.networks.engines.torchscript import TorchScript
from chunkinfer.networks.model import Model, open_model
from tests.lib.nets import EXACT, REFUSED, Entry, ValidUNet

SLOW = pytest.mark.slow
QUICK: list[Engine] = [OpenVINO(), OnnxRuntime(), TorchScript()]
INDUCTOR: list[Engine] = [Compiled(), Exported()]


def engines(*some: Engine) -> pytest.MarkDecorator:
    """A test for each engine; those with Inductor take half a minute each."""
    each = [pytest.param(e, id=e.name, marks=[SLOW] if e in INDUCTOR else []) for e in some or (*QUICK, *INDUCTOR)]
    return pytest.mark.parametrize("engine", each)


NETS: dict[str, tuple[Entry, tuple[int, ...]]] = {
    "3D U-Net with batch normalisation": (EXACT["U-Net, transposed"], (1, 1, 8, 16, 12)),
    "valid, 3D": (Entry(lambda: ValidUNet(3, 1)), (1, 1, 22, 22, 26)),
    "valid, 2D": (EXACT["U-Net, valid"], (1, 1, 52, 52)),
    "anisotropic, linear": (EXACT["residual U-Net"], (1, 1, 5, 16, 12)),
    "several outputs": (EXACT["dict of outputs"], (1, 1, 8, 8, 9)),
    "batch of 2": (EXACT["U-Net, transposed"], (2, 1, 4, 8, 8)),
}

COMPILED = ["3D U-Net with batch normalisation", "valid, 3D", "several outputs"]
"""Of these, what the slow compilers are given."""


def setup_of(patch: tuple[int, ...], **settings: object) -> Setup:
    return replace(Setup(patch, "cpu", threads=1, kernels=2), **settings)  # type: ignore[arg-type]


def noise(patch: tuple[int, ...], seed: int = 7) -> torch.Tensor:
    return torch.rand(patch, generator=torch.Generator().manual_seed(seed))


def reference(net: nn.Module, x: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        found = net(x)
    return next(iter(found.values())) if isinstance(found, dict) else found


def error(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest difference, as a share of the largest value."""
    assert found.shape == expected.shape
    return float((found - expected).abs().max() / expected.abs().max())


def unet() -> tuple[nn.Module, Setup]:
    entry, patch = NETS["3D U-Net with batch normalisation"]
    return entry.make(), setup_of(patch)


def small() -> tuple[nn.Module, Setup]:
    """For what is the same for every network: it is converted in a third of the time."""
    return nn.Sequential(nn.Conv3d(1, 2, 3), nn.Sigmoid()).eval(), setup_of((1, 1, 6, 7, 8))


def as_file(net: nn.Module, kind: str, x: torch.Tensor, folder: Path) -> Model:
    """The network as a file of a kind, for any size where the format has that."""
    path = folder / ("model.pt" if kind == "torchscript" else "model.pt2")
    if kind == "torchscript":
        torch.jit.save(torch.jit.trace(net, x), str(path))
    else:
        z, y, w = (torch.export.Dim(name, min=2, max=64) for name in "zyw")
        sizes = {"x": {2: 2 * z, 3: 4 * y, 4: 4 * w}}
        torch.export.save(torch.export.export(net, (x.repeat(1, 1, 2, 2, 2),), dynamic_shapes=sizes), path)
    model = open_model(path)
    assert model.kind == kind
    return model


@pytest.mark.slow
@pytest.mark.parametrize(
    ("engine", "name"),
    [
        *(pytest.param(e, name, id=f"{e.name}-{name}") for e in QUICK for name in NETS),
        *(pytest.param(e, name, id=f"{e.name}-{name}", marks=SLOW) for e in INDUCTOR for name in COMPILED),
    ],
)
def test_it_is_the_network(engine: Engine, name: str, tmp_path: Path) -> None:
    entry, patch = NETS[name]
    net = entry.make()
    weights = {k: v.clone() for k, v in net.state_dict().items()}
    model, setup = open_model(net), setup_of(patch)
    assert engine.refuses(model, setup) is None
    run = engine.open(model, setup, tmp_path / "new" / "folder")
    for seed in (1, 2):
        x = noise(patch, seed)
        kept_x = x.clone()
        found = run(x)
        assert found.dtype == torch.float32
        assert found.is_contiguous()
        assert error(found, reference(net, x)) <= 1e-5
        assert torch.equal(x, kept_x)
    assert all(torch.equal(v, weights[k]) for k, v in net.state_dict().items())


@pytest.mark.parametrize(
    ("engine", "kind"),
    [
        pytest.param(
            e, kind, id=f"{e.name}-{kind}", marks=[] if (e.name, kind) == ("openvino", "torchscript") else SLOW
        )
        for e in (*QUICK, Exported())
        for kind in ("torchscript", "export")
    ],
)
def test_files_that_have_run(engine: Engine, kind: str, tmp_path: Path) -> None:
    net, setup = unet()
    x = noise(setup.patch)
    model = as_file(net, kind, x, tmp_path)
    with torch.inference_mode():  # opened and run as a caller may, and as a check against the reference does
        for _ in range(3):
            model.network("cpu")(x)
    assert error(engine.open(model, setup, tmp_path)(x), reference(net, x)) <= 1e-5


@SLOW
def test_compile_takes_an_export_file(tmp_path: Path) -> None:
    net, setup = unet()
    x = noise(setup.patch)
    assert error(Compiled().open(as_file(net, "export", x, tmp_path), setup, tmp_path)(x), reference(net, x)) <= 1e-5


@pytest.mark.slow
def test_export_is_compiled_and_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net = nn.Sequential(nn.Conv3d(1, 2, 3), nn.ReLU()).eval()
    model, setup = open_model(net), setup_of((1, 1, 4, 4, 5))
    first = Exported().open(model, setup, tmp_path)
    monkeypatch.setattr("chunkinfer.networks.engines.exported._compile", refuse_to_work)
    second = Exported().open(model, setup, tmp_path)
    x = noise(setup.patch)
    assert error(first(x), reference(net, x)) <= 1e-6
    assert torch.equal(first(x), second(x))
    (package,) = tmp_path.iterdir()
    with zipfile.ZipFile(package) as archive:
        code = b"".join(archive.read(name) for name in archive.namelist() if name.endswith(".cpp"))
    assert b"mkldnn__convolution_pointwise" in code  # weights are constants, laid out ahead and fused with what follows


_opened: dict[str, tuple[Run, Setup]] = {}


def opened(engine: Engine, place: pytest.TempPathFactory) -> tuple[Run, Setup]:
    """The small U-Net, opened once for all tests that only call it."""
    if engine.name not in _opened:
        net, setup = unet()
        _opened[engine.name] = engine.open(open_model(net), setup, place.mktemp(engine.name)), setup
    return _opened[engine.name]


@pytest.mark.slow
@engines()
def test_threads_do_not_meet(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> None:
    run, setup = opened(engine, tmp_path_factory)
    inputs = [noise(setup.patch, seed) for seed in (1, 2)]
    alone = [run(x).clone() for x in inputs]
    found: dict[int, list[bool]] = {0: [], 1: []}
    start = threading.Barrier(2)

    def work(i: int) -> None:
        torch.set_num_threads(setup.threads)
        start.wait()
        for _ in range(20):
            found[i].append(torch.equal(run(inputs[i]), alone[i]))

    threads = [threading.Thread(target=work, args=(i,)) for i in found]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {0: [True] * 20, 1: [True] * 20}


@engines()
def test_a_result_is_the_callers_until_its_next_call(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> None:
    run, setup = opened(engine, tmp_path_factory)
    mine = run(noise(setup.patch, 1))
    before = mine.clone()
    thread = threading.Thread(target=lambda: run(noise(setup.patch, 2)))
    thread.start()
    thread.join()
    assert torch.equal(mine, before)


CONVERTERS = {
    "openvino": (openvino_engine, "_converted"),
    "onnxruntime": (onnx_engine, "_export"),
    "torchscript": (exporting, "traced"),
    "export": (exporting, "exported"),
}


def refuse_to_work(*args: object, **kwargs: object) -> None:
    raise RuntimeError("a second start converts nothing")


@engines(*QUICK, Exported())
def test_a_second_start_converts_nothing(engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net, setup = small()
    model, x = open_model(net), noise(setup.patch)
    first = engine.open(model, setup, tmp_path)(x).clone()
    monkeypatch.setattr(*CONVERTERS[engine.name], refuse_to_work)
    assert torch.equal(engine.open(model, setup, tmp_path)(x), first)
    with pytest.raises(EngineError, match="a second start converts nothing"):
        engine.open(model, setup, tmp_path / "elsewhere")


@SLOW
def test_a_second_start_of_compile_finds_its_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net, setup = unet()
    model, x = open_model(net), noise(setup.patch)
    first = Compiled().open(model, setup, tmp_path)(x).clone()
    monkeypatch.setattr("torch._inductor.cpp_builder.run_compile_cmd", refuse_to_work)
    assert torch.equal(Compiled().open(model, setup, tmp_path)(x), first)


@pytest.mark.parametrize(
    ("engine", "damage"),
    [
        *(
            pytest.param(e, damage, id=f"{e.name}-{damage}", marks=marks)
            for e in QUICK
            for damage, marks in (("cut", []), ("flipped", [SLOW] if e.name == "openvino" else []), ("foreign", []))
        ),
        *(pytest.param(e, "foreign", id=f"{e.name}-foreign", marks=SLOW) for e in INDUCTOR),
    ],
)
def test_what_is_damaged_is_made_anew(engine: Engine, damage: str, tmp_path: Path) -> None:
    net, setup = small()
    model, x = open_model(net), noise(setup.patch)
    first = engine.open(model, setup, tmp_path)(x).clone()
    (path,) = tmp_path.iterdir()
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 255
    if damage == "foreign":  # an undamaged file that is none of this engine's
        kept(tmp_path, f"{path.name.partition('.')[0]}{path.suffix}", lambda p: none(p.write_bytes(b"x" * 99)), none)
        path.unlink()
    else:
        path.write_bytes(data[:-100] if damage == "cut" else data)
    assert torch.equal(engine.open(model, setup, tmp_path)(x), first)
    (made,) = tmp_path.iterdir()
    assert undamaged(tmp_path, f"{path.name.partition('.')[0]}{path.suffix}") == [made]


def none(_: object) -> None:
    return None


@engines(OpenVINO(), TorchScript(), Compiled(), Exported())
def test_bf16_rounds(engine: Engine, tmp_path: Path) -> None:
    net, setup = unet()
    model, setup, x = open_model(net), replace(setup, precision="bf16"), noise(setup.patch)
    if reason := engine.refuses(model, setup):
        pytest.skip(reason)
    found = engine.open(model, setup, tmp_path)(x)
    assert found.dtype == torch.float32
    assert found.is_contiguous()
    assert 1e-6 < error(found, reference(net, x)) < 0.03


def test_openvino_refuses_what_it_would_compute_otherwise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net, setup = small()
    model, setup = open_model(net), replace(setup, precision="fp16")
    if OpenVINO().refuses(model, setup) is None:
        pytest.skip("this processor computes in fp16")
    assert OpenVINO().refuses(model, setup) == "this processor does not compute in fp16"
    monkeypatch.setattr(openvino_engine, "_capabilities", lambda: ["FP32", "FP16"])
    assert OpenVINO().refuses(model, setup) is None
    with pytest.raises(EngineError, match="was told to compute in fp16, and computes in"):
        OpenVINO().open(model, setup, tmp_path)


@engines(OpenVINO(), OnnxRuntime())
def test_onnx_files(engine: Engine, tmp_path: Path) -> None:
    net, setup = small()
    path, x = tmp_path / "model.onnx", noise(setup.patch)
    OnnxRuntime().open(open_model(net), setup, tmp_path / "made")(x)
    next((tmp_path / "made").iterdir()).rename(path)
    model = open_model(path)
    assert engine.refuses(model, setup) is None
    assert error(engine.open(model, setup, tmp_path / "again")(x), reference(net, x)) <= 1e-5


def test_openvino_files(tmp_path: Path) -> None:
    openvino = pytest.importorskip("openvino")
    net, setup = small()
    x = noise(setup.patch)
    with exporting.quiet():
        openvino.save_model(
            openvino.convert_model(net, example_input=x), tmp_path / "model.xml", compress_to_fp16=False
        )
    model = open_model(tmp_path / "model.xml")
    assert OpenVINO().refuses(model, setup) is None
    assert error(OpenVINO().open(model, setup, tmp_path / "blob")(x), reference(net, x)) <= 1e-5
    assert OnnxRuntime().refuses(model, setup) == (
        "onnxruntime takes a torch module or a TorchScript file or a torch.export file or an ONNX file, "
        "and model.xml is an OpenVINO file"
    )


@pytest.mark.parametrize(
    ("engine", "change", "why"),
    [
        (OnnxRuntime(), {"precision": "bf16"}, "onnxruntime computes in fp32 on cpu, not in bf16"),
        (OnnxRuntime(), {"compute": "float64"}, "onnxruntime computes in float32, and UNet is in double precision"),
        (OpenVINO(), {"compute": "float64"}, "openvino computes in float32, and UNet is in double precision"),
        (OpenVINO(), {"device": "cuda"}, "openvino runs on cpu here, and the run is on cuda"),
        (TorchScript(), {"precision": "fp16"}, "torchscript computes in fp32 and bf16 on cpu, not in fp16"),
        (Exported(), {"precision": "fp16"}, "export computes in fp32 and bf16 on cpu, not in fp16"),
        (Compiled(), {"precision": "fp16"}, "compile computes in fp32 and bf16 on cpu, not in fp16"),
    ],
)
def test_refusals_say_why(engine: Engine, change: dict[str, object], why: str) -> None:
    net, setup = unet()
    assert engine.refuses(open_model(net), replace(setup, **change)) == why  # type: ignore[arg-type]


@pytest.mark.parametrize(("engine", "extra"), [(OpenVINO(), "openvino"), (OnnxRuntime(), "onnx")])
def test_a_missing_package_is_named(engine: Engine, extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    net, setup = unet()
    find = importlib.util.find_spec
    monkeypatch.setattr(fitting, "find_spec", lambda name: None if name == engine.name else find(name))
    expected = f'{engine.name} is not installed: pip install "chunkinfer[{extra}]"'
    assert engine.refuses(open_model(net), setup) == expected


@pytest.mark.parametrize("engine", INDUCTOR, ids=lambda e: e.name)
def test_a_missing_compiler_is_named(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    net, setup = unet()
    monkeypatch.setattr(inductor.shutil, "which", none)
    assert engine.refuses(open_model(net), setup) == ("it needs a C++ compiler, and there is none: apt-get install g++")


@pytest.mark.parametrize("name", ["BatchNorm in train mode", "Dropout in train mode", "channel dropout in train mode"])
@pytest.mark.parametrize("engine", [*QUICK, *INDUCTOR], ids=lambda e: e.name)
def test_train_mode_is_refused(engine: Engine, name: str) -> None:
    reason = engine.refuses(open_model(REFUSED[name].make()), setup_of((1, 1, 8, 8)))
    assert reason is not None
    assert REFUSED[name].layer in reason
    assert "model.eval()" in reason


class Decides(nn.Module):
    """Does another thing for dark patches."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.conv(x)
        return -y if x[..., 0, 0].sum().item() > EDGE else y


EDGE = float(np.mean([float(exporting.noise(setup_of((1, 1, 6, 6)), seed)[..., 0, 0]) for seed in (0, 1)]))
"""Between the two inputs that a trace is checked with."""


@engines(*QUICK, Exported())
def test_a_network_that_decides_by_voxels_is_not_frozen_into_one_decision(engine: Engine, tmp_path: Path) -> None:
    model, setup = open_model(Decides()), setup_of((1, 1, 6, 6))
    with pytest.raises(EngineError, match=r"cannot compile Decides|does other things for other voxels"):
        engine.open(model, setup, tmp_path)
    assert not list(tmp_path.iterdir())


@SLOW
def test_compile_takes_networks_that_are_part_python(tmp_path: Path) -> None:
    model, setup = open_model(net := Decides()), setup_of((1, 1, 6, 6))
    run = Compiled().open(model, setup, tmp_path)
    for fill in (0.0, 1.0):
        x = torch.full(setup.patch, fill)
        assert error(run(x), reference(net, x)) <= 1e-5


@SLOW
def test_compile_compiles_once(tmp_path: Path) -> None:
    net, setup = unet()
    run = Compiled().open(open_model(net), setup, tmp_path)
    other = Compiled().open(open_model(nn.Conv3d(1, 2, 3)), setup, tmp_path / "other")
    expected = run(noise(setup.patch)).clone()
    with torch.compiler.set_stance("fail_on_recompile"):
        assert torch.equal(run(noise(setup.patch)), expected)
        other(noise(setup.patch))
        with torch.inference_mode():
            assert torch.equal(run(noise(setup.patch)), expected)
        found: list[torch.Tensor] = []
        thread = threading.Thread(target=lambda: found.append(run(noise(setup.patch))))
        thread.start()
        thread.join()
        assert torch.equal(found[0], expected)


@pytest.mark.slow
@engines(*QUICK, Exported())
@pytest.mark.parametrize("kind", ["pt", "pt2"])
def test_the_trained_network(engine: Engine, kind: str, real_models: Path, tmp_path: Path) -> None:
    model, setup = open_model(real_models / f"fib25_affinity.{kind}"), setup_of((1, 1, 24, 32, 28))
    assert engine.refuses(model, setup) is None
    run = engine.open(model, setup, tmp_path)
    x = noise(setup.patch)
    assert error(run(x), reference(model.module_on("cpu"), x)) <= 1e-5


@engines(*QUICK)
def test_the_first_call_and_the_thirtieth_have_the_same_bits(engine: Engine, tmp_path: Path) -> None:
    net = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Conv2d(3, 2, 3), nn.Sigmoid()).eval()
    setup = setup_of((1, 1, 9, 11))
    run = engine.open(open_model(net), setup, tmp_path)
    x = noise(setup.patch)
    first = run(x).clone()
    assert all(torch.equal(run(x), first) for _ in range(30))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
@pytest.mark.parametrize("engine", [TorchScript(), *INDUCTOR], ids=lambda e: e.name)
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_on_a_gpu(engine: Engine, precision: str, tmp_path: Path) -> None:
    net, setup = unet()
    setup = replace(setup, device="cuda", precision=precision)
    run = engine.open(open_model(net), setup, tmp_path)
    for seed in (1, 2):
        x = noise(setup.patch, seed)
        found = run(x.cuda()).cpu()
        assert error(found, reference(net, x)) <= (1e-3 if precision == "fp32" else 0.03)


def make_and_count(count: list[int]) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        count.append(1)
        path.write_bytes(b"made")

    return make


def test_artefacts_are_made_once_and_never_half(tmp_path: Path) -> None:
    count: list[int] = []
    folder = tmp_path / "a" / "b"
    for _ in range(2):
        assert kept(folder, "x.bin", make_and_count(count), Path.read_bytes) == b"made"
    assert len(count) == 1

    def breaks(path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        kept(folder, "y.bin", breaks, Path.read_bytes)
    assert [p.suffix for p in folder.iterdir()] == [".bin"]
