"""The package as a user meets it: names, import time, documents that run, files that agree."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch import nn

import chunkinfer as ci
from chunkinfer.errors import MissingExtra
from chunkinfer.volumes.formats.readers import ADAPTERS

ROOT = Path(__file__).parents[2]


def fresh(code: str) -> str:
    """What a fresh interpreter prints."""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def test_public_names() -> None:
    nouns = [
        "AuditReport", "Evaluation", "JsonLines", "MeshReport", "Metrics", "Pipeline", "Plan", "Prices",
        "ReceptiveField", "RunReport", "Segmentation", "Skeletons", "Status", "TilingErrors", "VerifyReport",
    ]  # fmt: skip
    verbs = [
        "__version__", "agglomerate", "audit", "augment", "clusters", "connected_components", "consecutive",
        "contact_sites", "copy", "delete", "deliver", "error_map", "errors", "evaluate", "evaluation", "infer", "info",
        "majority", "mesh", "open_volume", "operators", "plan", "pyramid", "read_events", "receptive_field",
        "region_graph", "relabel", "remove_dust",
        "save", "segment", "show", "skeletonize", "statistics", "status", "thumbnails", "tiling_error",
        "verify", "view", "watershed",
    ]  # fmt: skip
    assert ci.__all__ == nouns + verbs
    assert all(hasattr(ci, name) for name in ci.__all__)
    with pytest.raises(AttributeError, match="open_volume"):
        ci.opne_volume  # noqa: B018 - reading the name is the test


def test_operators_can_be_imported_by_their_public_name() -> None:
    given = "import chunkinfer.operators as op; from chunkinfer.operators import median; import chunkinfer as ci"
    assert fresh(f"{given}; print(op.median is median is ci.operators.median, op is ci.operators)") == "True True"


@pytest.mark.slow
@pytest.mark.parametrize("first", ["infer", "save", "audit"])
def test_verbs_are_verbs_whatever_is_used_first(first: str) -> None:
    assert fresh(f"import chunkinfer as ci; ci.{first}; print(callable(ci.infer), callable(ci.save))") == "True True"


def test_import_loads_nothing_heavy() -> None:
    heavy = ("torch", "xarray", "distributed", "dask", "tensorstore", "numpy")
    assert fresh(f"import sys, chunkinfer; print([m for m in {heavy} if m in sys.modules])") == "[]"


def test_import_costs_little_more_than_numpy() -> None:
    timed = "import time; t = time.perf_counter(); import {}; print(time.perf_counter() - t)"

    def best(name: str) -> float:
        return min(float(fresh(timed.format(name))) for _ in range(3))

    assert best("chunkinfer") <= best("numpy") + 0.3


def test_conda_environment_equals_the_project_file() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    (pip,) = (d["pip"] for d in environment["dependencies"] if isinstance(d, dict))
    assert pip == project["dependencies"] + project["optional-dependencies"]["demo"]
    assert f"python{project['requires-python']}" in environment["dependencies"]


@pytest.fixture
def at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the files that the documents speak of."""
    net = nn.Sequential(nn.Conv3d(1, 3, 3, padding=1), nn.Sigmoid()).eval()
    image = np.random.default_rng(0).integers(0, 255, (24, 70, 70), np.uint8)
    np.save(tmp_path / "em.npy", image)
    ci.save(ci.open_volume(tmp_path / "em.npy", voxel_size=(40, 4, 4)), tmp_path / "em.zarr", progress=False)
    ci.save(ci.open_volume(tmp_path / "em.zarr") > 20, tmp_path / "tissue.zarr", progress=False)
    truth = (ci.open_volume(tmp_path / "em.zarr") // 64).astype("uint64")
    ci.save(truth, tmp_path / "truth.precomputed", progress=False)
    x = torch.zeros(1, 1, 24, 24, 24)
    dims = {2: torch.export.Dim("z"), 3: torch.export.Dim("y"), 4: torch.export.Dim("x")}
    torch.export.save(torch.export.export(net, (x,), dynamic_shapes=(dims,)), tmp_path / "unet.pt2")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("chunkinfer.tiling.plan.engine.SECONDS", 0)  # "auto" compiles for a minute
    return tmp_path


@pytest.mark.slow
@pytest.mark.smoke
def test_readme_runs(at_home: Path) -> None:
    text = (ROOT / "README.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) == 7
    names: dict[str, object] = {"model": "unet.pt2"}
    for block in blocks:
        if (
            "tcp://scheduler" in block
        ):  # a cluster with GPUs and a bucket, which tests/distributed and storage stand for
            continue
        for large, small in (
            ("(20, 256, 256)", "(20, 64, 64)"), ("(4, 64, 64)", "(4, 16, 16)"), ("volume[:128, :256, :256]", "volume"),
        ):  # fmt: skip
            block = block.replace(large, small)
        if "BF16" not in import_module("openvino").Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            block = block.replace(', precision="bf16"', "")  # not every processor computes in it
        exec(block, names)
    assert ci.open_volume("affinities.zarr").sizes == {"c": 3, "z": 24, "y": 70, "x": 70}


@pytest.mark.slow
@pytest.mark.smoke
def test_readme_commands_run(at_home: Path) -> None:
    from click.testing import CliRunner

    from chunkinfer.tools.cli import main

    text = (ROOT / "README.md").read_text()
    commands = re.findall(r"^    chunkinfer (.*)$", text, re.MULTILINE)
    assert len(commands) == 20
    for command in commands:
        command = command.partition("#")[0]
        words = command.replace("bf16", "bf16 --precision-tolerance 1")  # of a network that was not trained
        words = words.replace("s3://bucket/em.precomputed", "em.zarr").replace("20,256,256", "20,64,64")
        result = CliRunner().invoke(main, words.replace("4,64,64", "4,16,16"), catch_exceptions=False)
        assert result.exit_code == 0, result.output
    assert "4" in result.output
    assert ci.open_volume("affinities.precomputed").dtype == np.uint8


@pytest.mark.slow
@pytest.mark.smoke
def test_command_line_errors_are_short(at_home: Path) -> None:
    command = [sys.executable, "-m", "chunkinfer.tools.cli", "plan", "em.zarr", "--model", "absent.pt2"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert "ModelError" in result.stderr
    assert "Traceback" not in result.stderr


def run_notebook(name: str) -> None:
    pytest.importorskip("matplotlib")
    book = json.loads((ROOT / "notebooks" / name).read_text())
    names: dict[str, object] = {"display": print}
    for cell in book["cells"]:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), names)


@pytest.mark.slow
def test_notebook_runs(at_home: Path) -> None:
    run_notebook("first_steps.ipynb")
    assert Path("affinities.zarr").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("at_home")
def test_notebook_of_exact_and_blended_runs() -> None:
    run_notebook("exact_and_blended.ipynb")


def test_plan_and_report_can_be_looked_at(at_home: Path) -> None:
    plan = ci.plan("em.zarr", "unet.pt2", patch={"y": 32})
    assert "clean zone" in str(plan)
    assert "<table>" in plan._repr_html_()
    report = ci.save(ci.infer("em.zarr", "unet.pt2", patch={"y": 32}), "out.zarr")
    assert "blocks" in str(report)
    assert "<table>" in report._repr_html_()
    stored = json.loads(Path("out.zarr/.chunkinfer/run.json").read_text())
    assert stored["header"]["networks"][0]["model"]["digest"] == plan.digest
    assert {"torch", "tensorstore"} <= set(stored["header"]["versions"])
    assert {"read", "compute", "write"} <= set(stored["stages"])


def test_what_is_missing_is_named_as_it_is_installed() -> None:
    """`skimage` comes with scikit-image: what an error tells to install is what the extra that it names holds."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    held = {extra: {re.split(r"[<>=\[ ]", line)[0].lower() for line in lines} for extra, lines in extras.items()}
    found = [(adapter.NEEDS, "formats") for name, adapter in ADAPTERS.items() if name != "npy"]
    for path in (ROOT / "src").rglob("*.py"):
        for call in ast.walk(ast.parse(path.read_text())):
            if isinstance(call, ast.Call) and ast.unparse(call.func) == "MissingExtra.of":
                _, needed, extra = call.args
                named = [part.value for part in ast.walk(needed) if isinstance(part, ast.Constant)]
                found += [(name, extra.value) for name in named if isinstance(extra, ast.Constant)]
    assert len(found) > 12
    for name, extra in found:
        assert name.lower() in held[extra], (name, extra)


@pytest.mark.parametrize(
    ("absent", "needed"), [("skimage.metrics", "scikit-image"), ("matplotlib.figure", "matplotlib")]
)
def test_the_demo_says_at_once_what_it_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, absent: str, needed: str
) -> None:
    from chunkinfer.tools.demo.run import run

    monkeypatch.setitem(sys.modules, absent, None)
    with pytest.raises(MissingExtra, match=rf'{needed}(.|\n)*pip install "chunkinfer\[demo\]"'):
        run(tmp_path / "demo")
    assert not (tmp_path / "demo").exists()
