"""audit finds faults planted for real in what save stored, places and names them, and raises no false alarm."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import chunkinfer as ci
import chunkinfer.tiling.plan.resolve
from chunkinfer.api.audit.audit import audit
from chunkinfer.api.audit.boxes import block_boxes
from chunkinfer.api.audit.reference import box_within, margins
from chunkinfer.api.audit.report import AuditReport
from chunkinfer.errors import ChunkinferError, DestinationError, PlanError, VolumeError
from chunkinfer.geometry.boxes import BlockGrid, Box
from chunkinfer.networks.model import Model, open_model
from chunkinfer.volumes.arrays.create import open_destination
from chunkinfer.volumes.arrays.destination import Destination
from tests.lib.nets import EXACT, Entry, UNet

Array = np.ndarray[Any, Any]


def quick(url: Any, *args: Any, **kwargs: Any) -> AuditReport:
    return audit(url, *args, progress=False, **kwargs)


def _norm() -> nn.Module:
    """Instance normalisation over the patch: any other lattice or window shows."""
    before, after = nn.Conv2d(1, 2, 3, padding=1), nn.Conv2d(2, 2, 3, padding=1)
    return nn.Sequential(before, nn.InstanceNorm2d(2), nn.LeakyReLU(0.1), after)


OWN = {
    "instance norm": Entry(_norm, ndim=2),
    "flat": Entry(lambda: UNet(2, ((2, 2),), n=1), ndim=2),
    "two levels": Entry(lambda: UNet(2, ((2, 2), (2, 2)), up="linear", n=1), ndim=2),
}


@cache
def net_of(name: str, sigmoid: bool = False) -> nn.Module:
    net = {**OWN, **EXACT}[name].make()
    return nn.Sequential(net, nn.Sigmoid()).eval() if sigmoid else net


@dataclass(frozen=True)
class Case:
    """One kind of run."""

    name: str
    shape: tuple[int, ...]
    settings: dict[str, Any]
    format: str
    chunks: tuple[int, ...]
    shards: tuple[int, ...] | None = None
    dtype: str = "float32"

    @property
    def net(self) -> nn.Module:
        return net_of(self.name, self.dtype == "uint8")

    def volume(self, seed: int = 0) -> Any:
        """Labelled, off the origin, and the same in every test."""
        import xarray as xr

        data = np.random.default_rng(seed).random(self.shape, dtype="f4")
        dims = "zyx"[-data.ndim :]
        coords = {d: (7 + i + np.arange(n)) * 4.0 for i, (d, n) in enumerate(zip(dims, data.shape, strict=True))}
        return xr.DataArray(data, dims=tuple(dims), coords=coords, attrs={"unit": "nm"})

    def infer(self, volume: Any = None, net: Any = None) -> Any:
        given = self.volume() if volume is None else volume
        return ci.infer(given, net or self.net, dtype=self.dtype, **self.settings)

    def save(self, url: Path, array: Any = None) -> None:
        result = self.infer() if array is None else array
        layout = {"format": self.format, "chunks": self.chunks, "shards": self.shards or False}
        ci.save(result, url, progress=False, overwrite=True, **layout)


CASES = {
    "zarr3 sharded, 3D": Case(
        "plain conv", (24, 28, 30), {"patch": (18, 20, 20), "block": 12}, "zarr3", (2, 6, 6, 6), (2, 12, 12, 12)
    ),
    "zarr2, 3D, uint8": Case(
        "plain conv", (24, 28, 30), {"patch": (18, 20, 20), "block": 12}, "zarr2", (2, 6, 12, 12), dtype="uint8"
    ),
    "precomputed sharded, 3D": Case(
        "plain conv",
        (32, 32, 32),
        {"patch": (22, 24, 24), "block": 16},
        "precomputed",
        (2, 8, 8, 8),
        (2, 16, 16, 16),
    ),
    "precomputed, uint8, 2D, blended": Case(
        "instance norm", (70, 75), {"patch": 24, "overlap": 8, "block": 32}, "precomputed", (2, 16, 16), dtype="uint8"
    ),
    "zarr3 sharded, 2D, blended": Case(
        "instance norm", (70, 75), {"patch": 24, "overlap": 8, "block": 32}, "zarr3", (2, 16, 16), (2, 32, 32)
    ),
    "zarr2, 2D U-Net": Case("flat", (64, 72), {"block": 16}, "zarr2", (3, 16, 16)),
    "zarr3, valid": Case("valid conv", (26, 28, 30), {"block": 12}, "zarr3", (2, 6, 6, 6), (2, 12, 12, 12)),
    "zarr3, half as fine": Case("downsampling", (24, 44, 44), {"block": (12, 8, 8)}, "zarr3", (2, 6, 4, 4)),
    "zarr3, twice as fine": Case("super-resolution", (40, 42), {"block": 20}, "zarr3", (1, 10, 10), (1, 20, 20)),
}


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The clean output of a case, made once."""
    folder = tmp_path_factory.mktemp("clean")

    @cache
    def made(name: str) -> Path:
        path = folder / str(abs(hash(name)))
        CASES[name].save(path)
        return path

    return made


@pytest.fixture
def case_at(stores: Callable[[str], Path], tmp_path: Path) -> Callable[[str], tuple[Case, Path]]:
    """A case and a copy of its output, to plant a fault in."""

    def copied(name: str) -> tuple[Case, Path]:
        shutil.copytree(stores(name), tmp_path / "out")
        return CASES[name], tmp_path / "out"

    return copied


# Ways to break a store.


def opened(url: Path) -> Destination:
    fmt = next(
        f for f, m in {"zarr3": "zarr.json", "zarr2": ".zarray", "precomputed": "info"}.items() if (url / m).exists()
    )
    return open_destination(f"{fmt}://{url}")


def blocks_of(store: Destination, case: Case) -> BlockGrid:
    ledger = json.loads((Path(store.url) / ".chunkinfer" / "ledger.json").read_text())
    return BlockGrid.regular(store.shape, ledger["destination"]["block"])


def overwrite(store: Destination, box: Box, values: Array) -> None:
    """Write a box whatever units it cuts: by whole units."""
    old = store[...].copy()
    old[box.slices] = values
    for corner in product(*(range(0, n, u) for n, u in zip(store.shape, store.shards, strict=True))):
        unit = Box(corner, tuple(min(c + u, n) for c, u, n in zip(corner, store.shards, store.shape, strict=True)))
        if (unit & box).size:
            store.write(unit.slices, old[unit.slices])


def chunk_files(url: Path) -> list[Path]:
    meta = {"zarr.json", ".zarray", ".zattrs", "info", "provenance"}
    return sorted(p for p in url.rglob("*") if p.is_file() and p.name not in meta and ".chunkinfer" not in p.parts)


def found(report: AuditReport, kind: str) -> list[Any]:
    return [f for f in report.findings if f.kind == kind]


def inside(finding: Any, block: Box) -> bool:
    """Whether a finding's box (over the spatial axes) meets a block (over all axes)."""
    spatial = Box(block.start[1:], block.stop[1:])
    return finding.box is not None and (finding.box & spatial).size > 0


# No false alarms.


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_a_clean_run_has_no_findings(stores: Callable[[str], Path], name: str) -> None:
    case = CASES[name]
    report = quick(stores(name), case.volume(), case.net, samples=16)
    assert report.ok, report
    assert {k.name for k in report.kinds} >= {"boxes", "seams", "faces"}
    assert report.largest <= report.tolerance
    if case.dtype == "float32":
        assert report.largest > 0 or "conv" not in name, "compared with itself"


@pytest.mark.parametrize(
    ("settings", "double"),
    [
        pytest.param({"precision": "bf16"}, False, marks=pytest.mark.slow),
        pytest.param({"dtype": "float16"}, False, marks=[pytest.mark.slow, pytest.mark.smoke]),
        ({}, True),
    ],
)
def test_round_off_follows_precision_and_dtype(tmp_path: Path, settings: dict[str, Any], double: bool) -> None:
    """Clean in each, and a difference of ten times the tolerance is found in each."""
    net = copy.deepcopy(net_of("flat"))
    net = net.double() if double else net
    volume = np.random.default_rng(0).random((60, 60))
    volume = volume if double else volume.astype("f4")
    ci.save(ci.infer(volume, net, patch=32, **settings), tmp_path / "out", shards=False, progress=False)
    report = quick(tmp_path / "out", volume, net)
    assert report.ok, report
    assert 0 < report.tolerance < {"bf16": 0.1}.get(settings.get("precision", ""), 1e-3)
    box = Box((0, 22, 22), (1, 30, 30))
    store = opened(tmp_path / "out")
    overwrite(store, box, store[box.slices] + np.asarray(10 * report.tolerance, store.dtype))
    assert [f.kind for f in quick(tmp_path / "out", volume, net).findings] == ["values"]


# What is stored in one place.


@pytest.mark.parametrize(
    "name",
    [n if i % 3 == 0 else pytest.param(n, marks=pytest.mark.slow) for i, n in enumerate(CASES) if "twice" not in n],
)
def test_a_stale_block(case_at: Callable[[str], tuple[Case, Path]], name: str) -> None:
    """One block of an older volume's run."""
    case, url = case_at(name)
    older = case.infer(case.volume(seed=9)).values
    store = opened(url)
    grid = blocks_of(store, case)
    number = len(grid) // 2
    box = grid.box(grid.unravel(number))
    overwrite(store, box, older[box.slices])
    report = quick(url, case.volume(), case.net, samples=max(64, len(grid)))
    values = found(report, "values")
    assert values, report
    assert len(values) == 1, report
    assert values[0].looks_like == "stale or foreign block", report
    assert f"block {number} " in values[0].text
    assert inside(values[0], box)
    assert all(low <= v < high for v, low, high in zip(report.where or (), box.start, box.stop, strict=True))


@pytest.mark.parametrize("name", ["zarr3 sharded, 3D", "zarr2, 3D, uint8", "precomputed sharded, 3D"])
def test_a_block_of_another_networks_run(case_at: Callable[[str], tuple[Case, Path]], name: str) -> None:
    case, url = case_at(name)
    other = copy.deepcopy(case.net)
    with torch.no_grad():
        next(other.parameters()).mul_(1.2)
    foreign = case.infer(net=other).values
    store = opened(url)
    grid = blocks_of(store, case)
    box = grid.box(grid.unravel(1))
    overwrite(store, box, foreign[box.slices])
    report = quick(url, case.volume(), case.net)
    assert [f.looks_like for f in report.findings] == ["stale or foreign block"], report
    assert inside(report.findings[0], box)


@pytest.mark.parametrize("name", ["zarr3 sharded, 3D", "precomputed sharded, 3D", "zarr2, 3D, uint8"])
def test_a_chunk_of_zeros(case_at: Callable[[str], tuple[Case, Path]], name: str) -> None:
    case, url = case_at(name)
    store = opened(url)
    grid = blocks_of(store, case)
    start = grid.box(grid.unravel(2)).start
    box = Box(start, tuple(a + c for a, c in zip(start, store.chunks, strict=True))) & Box.of_shape(store.shape)
    overwrite(store, box, np.zeros(box.shape, store.dtype))
    report = quick(url, case.volume(), case.net, samples=1)  # the scan points to it, whatever is drawn
    assert [f.looks_like for f in report.findings] == ["torn chunk"], report
    assert "nothing but 0" in report.findings[0].text
    assert inside(report.findings[0], box)


@pytest.mark.parametrize("name", ["zarr3 sharded, 3D", "zarr3 sharded, 2D, blended"])
def test_a_shard_with_half_of_its_chunks_zeroed(case_at: Callable[[str], tuple[Case, Path]], name: str) -> None:
    case, url = case_at(name)
    store = opened(url)
    grid = blocks_of(store, case)
    box = grid.box(grid.unravel(0))
    half = Box(box.start, (*box.stop[:-1], box.start[-1] + (box.stop[-1] - box.start[-1]) // 2))
    overwrite(store, half, np.zeros(half.shape, store.dtype))
    report = quick(url, case.volume(), case.net, samples=64)
    assert [f.looks_like for f in report.findings] == ["torn chunk"], report
    assert "block 0 " in report.findings[0].text
    assert inside(report.findings[0], half)


def test_a_torn_chunk_that_is_not_empty(case_at: Callable[[str], tuple[Case, Path]]) -> None:
    """Half of a chunk's rows are those of an older write: no chunk has one value only."""
    case, url = case_at("zarr3 sharded, 3D")
    older = case.infer(case.volume(seed=9)).values
    box = Box((0, 0, 0, 0), (2, 6, 6, 3))
    overwrite(opened(url), box, older[box.slices])
    report = quick(url, case.volume(), case.net, samples=200)
    assert [f.looks_like for f in report.findings] == ["torn chunk"], report
    assert inside(report.findings[0], box)


@pytest.mark.parametrize(
    "name", ["zarr3 sharded, 3D", "zarr2, 3D, uint8", "precomputed sharded, 3D", "zarr2, 2D U-Net"]
)
@pytest.mark.parametrize("fault", ["truncated", "deleted"])
def test_a_chunk_that_cannot_be_read(case_at: Callable[[str], tuple[Case, Path]], name: str, fault: str) -> None:
    case, url = case_at(name)
    victim = chunk_files(url)[-1]
    if fault == "deleted":
        victim.unlink()
    else:
        victim.write_bytes(victim.read_bytes()[: victim.stat().st_size // 2])
    report = quick(url, case.volume(), case.net, samples=4)
    kind = {"truncated": "unreadable", "deleted": "missing"}[fault]
    assert [f.kind for f in report.findings] == [kind], report
    assert report.kinds, "the rest is looked at all the same"


def test_one_missing_chunk_is_named_in_an_unscanned_output(case_at: Callable[[str], tuple[Case, Path]]) -> None:
    case, url = case_at("zarr2, 2D U-Net")
    (url / "0" / "1" / "2").unlink()
    report = quick(url, case.volume(), case.net, samples=200, scan=False)
    assert [f.kind for f in report.findings] == ["missing"], report
    assert "[16:32, 32:48]" in report.findings[0].text
    assert quick(url, case.volume(), case.net, samples=1, scan=True, seed=5).findings == report.findings


def test_nan(case_at: Callable[[str], tuple[Case, Path]]) -> None:
    case, url = case_at("zarr2, 2D U-Net")
    box = Box((0, 20, 20), (1, 21, 21))
    overwrite(opened(url), box, np.full((1, 1, 1), np.nan, "f4"))
    [finding] = found(quick(url, case.volume(), case.net, samples=1), "NaN")
    assert "1 values of block" in finding.text
    assert inside(finding, box)


# What is wrong all over.


@pytest.mark.parametrize(
    "name", ["zarr3 sharded, 3D", "zarr2, 3D, uint8", "zarr3 sharded, 2D, blended", "zarr3, valid"]
)
@pytest.mark.parametrize("step", [1, -1])
def test_data_off_by_one_voxel(case_at: Callable[[str], tuple[Case, Path]], name: str, step: int) -> None:
    case, url = case_at(name)
    store = opened(url)
    overwrite(store, Box.of_shape(store.shape), np.roll(store[...], step, axis=-1))
    report = quick(url, case.volume(), case.net, samples=32)
    assert [f.looks_like for f in report.findings] == ["offset by one along x"], report


@pytest.mark.parametrize(
    "name", ["zarr3 sharded, 3D", "zarr2, 2D U-Net", "precomputed sharded, 3D", "zarr3, half as fine"]
)
def test_metadata_off_by_one_voxel(case_at: Callable[[str], tuple[Case, Path]], name: str) -> None:
    case, url = case_at(name)
    meta = next(url / m for m in ("zarr.json", ".zattrs", "info") if (url / m).exists())
    table = json.loads(meta.read_text())
    if meta.name == "info":
        table["scales"][0]["voxel_offset"][1] += 1
    else:
        table.get("attributes", table)["chunkinfer"]["offset"]["y"] += 1
    meta.write_text(json.dumps(table))
    report = quick(url, case.volume(), case.net, samples=4)
    assert [f.looks_like for f in report.findings] == ["offset by 1 along y"], report
    assert report.largest <= report.tolerance, "the values are right"


def test_a_voxel_size_that_the_network_does_not_give(case_at: Callable[[str], tuple[Case, Path]]) -> None:
    """The sampling is halved, and the metadata has the volume's own voxel size."""
    case, url = case_at("zarr3, half as fine")
    table = json.loads((url / "zarr.json").read_text())
    table["attributes"]["chunkinfer"]["voxel_size"]["x"] = 4.0
    (url / "zarr.json").write_text(json.dumps(table))
    assert {f.kind for f in quick(url, case.volume(), case.net, samples=4).findings} == {"voxel size"}


@pytest.mark.parametrize("name", ["zarr3 sharded, 3D", "zarr2, 3D, uint8", "zarr3 sharded, 2D, blended"])
def test_another_network_is_given(stores: Callable[[str], Path], name: str) -> None:
    case = CASES[name]
    other = copy.deepcopy(case.net)
    with torch.no_grad():
        for p in other.parameters():
            p.mul_(1.3)
    report = quick(stores(name), case.volume(), other, samples=16)
    assert [f.kind for f in report.findings] == ["model", "values"], report
    assert report.findings[1].looks_like == "another network, volume or normalize"


def test_a_network_that_does_not_fit_is_a_finding(stores: Callable[[str], Path]) -> None:
    case = CASES["zarr2, 2D U-Net"]
    report = quick(stores("zarr2, 2D U-Net"), case.volume(), net_of("plain conv"))
    assert [f.kind for f in report.findings] == ["model", "model"], report
    assert report.where is None


def test_another_volume_is_given(stores: Callable[[str], Path]) -> None:
    case = CASES["zarr2, 2D U-Net"]
    report = quick(stores("zarr2, 2D U-Net"), case.volume(seed=5), case.net, samples=8)
    assert [f.kind for f in report.findings] == ["source", "values"], report


def test_a_volume_that_was_written_again_since(tmp_path: Path) -> None:
    older, newer = (np.random.default_rng(i).random((40, 40), dtype="f4") for i in range(2))
    ci.save(older, tmp_path / "in", progress=False)
    ci.save(ci.infer(tmp_path / "in", net_of("flat")), tmp_path / "out", progress=False)
    assert quick(tmp_path / "out", tmp_path / "in", net_of("flat")).ok
    ci.save(newer, tmp_path / "in", overwrite=True, progress=False)
    report = quick(tmp_path / "out", tmp_path / "in", net_of("flat"))
    assert [f.kind for f in report.findings] == ["source", "values"], report
    assert "written again" in report.findings[0].text


def test_settings_given_beside_a_ledger_are_compared(stores: Callable[[str], Path]) -> None:
    case = CASES["zarr3 sharded, 2D, blended"]
    url = stores("zarr3 sharded, 2D, blended")
    assert quick(url, case.volume(), case.net, samples=4, **case.settings).ok
    report = quick(url, case.volume(), case.net, samples=4, window="bump")
    assert [f.kind for f in report.findings] == ["settings", "values"], report
    assert "window was hann" in report.findings[0].text


# A halo that is too small.


def less_context(monkeypatch: pytest.MonkeyPatch, lost: Callable[[int, int], int]) -> None:
    """Let every network be traced with less context, and nobody notice."""
    real = Model.trace

    def trace(self: Model, *args: Any, **kwargs: Any) -> Any:
        found = real(self, *args, **kwargs)
        axes = tuple(
            replace(c, low=max(0, c.low - lost(c.low, c.period)), high=max(0, c.high - lost(c.high, c.period)))
            for c in found.axes
        )
        return replace(found, axes=axes)

    monkeypatch.setattr(Model, "trace", trace)
    monkeypatch.setattr(chunkinfer.tiling.plan.resolve, "confirm", lambda *_: None)


LOST = {"one period": lambda n, period: period, "half": lambda n, _: n // 2, "all": lambda n, _: n}
"""Less than a period may be lost for nothing: the clean zone is rounded down to whole periods."""

RIGHT, WRONG = True, False
"""How the network is traced when the output is audited."""

HALOS = [
    ("plain conv", (40, 60, 60), "zarr3", "float32", "one period", RIGHT),
    ("plain conv", (40, 60, 60), "zarr3", "float32", "one period", WRONG),
    ("plain conv", (40, 60, 60), "zarr3", "float32", "half", RIGHT),
    ("plain conv", (40, 60, 60), "zarr2", "uint8", "half", WRONG),
    ("plain conv", (40, 60, 60), "zarr2", "uint8", "all", RIGHT),
    ("ASPP", (150, 160), "precomputed", "float32", "one period", RIGHT),
    ("ASPP", (150, 160), "precomputed", "float32", "all", RIGHT),
    ("ASPP", (150, 160), "precomputed", "float32", "all", WRONG),
    ("two levels", (150, 160), "zarr3", "float32", "one period", WRONG),
    ("two levels", (150, 160), "zarr3", "float32", "half", RIGHT),
]


@pytest.mark.parametrize(
    ("name", "shape", "fmt", "dtype", "lost", "right"),
    [case if i % 2 == 0 else pytest.param(*case, marks=pytest.mark.slow) for i, case in enumerate(HALOS)],
)
def test_a_halo_too_small(
    tmp_path: Path, name: str, shape: tuple[int, ...], fmt: str, dtype: str, lost: str, right: bool
) -> None:
    net = net_of(name, dtype == "uint8")
    volume = np.random.default_rng(1).random(shape, dtype="f4")
    with pytest.MonkeyPatch.context() as patch:
        less_context(patch, LOST[lost])
        axes = open_model(net).trace(1, len(shape)).axes
        sizes = [c.accepted_at_least(-(-c.low // c.period) * c.period + 5 * c.period + c.high) for c in axes]
        zones = [
            (p - -(-c.low // c.period) * c.period - c.high) // c.period * c.period
            for c, p in zip(axes, sizes, strict=True)
        ]
        zones = [z * max(1, 16 // z) for z in zones]
        sizes = [
            c.accepted_at_least(-(-c.low // c.period) * c.period + z + c.high) for c, z in zip(axes, zones, strict=True)
        ]
        result = ci.infer(volume, net, patch=tuple(sizes), block=tuple(2 * z for z in zones), dtype=dtype, check=0)
        ci.save(result, tmp_path / "out", format=fmt, progress=False)
        if not right:
            report = quick(tmp_path / "out", volume, net, samples=16)
    if right:
        report = quick(tmp_path / "out", volume, net, samples=16)
    assert not report.ok, report
    assert {f.looks_like for f in report.findings} == {"halo too small"}, report


def test_a_halo_reduced_on_purpose_is_expected_and_judged_where_asked(tmp_path: Path) -> None:
    net = net_of("plain conv")
    volume = np.random.default_rng(1).random((30, 40, 40), dtype="f4")
    ci.save(ci.infer(volume, net, patch=20, halo=1), tmp_path / "out", progress=False)
    report = quick(tmp_path / "out", volume, net)
    assert report.ok, report
    assert "reduced on purpose" in report.notes[-1]
    assert report.largest > report.tolerance
    assert not quick(tmp_path / "out", volume, net, tolerance=report.largest / 2).ok
    assert quick(tmp_path / "out", volume, net, tolerance=report.largest * 2).ok


# What is known and what is said.


def test_an_array_with_settings_needs_no_ledger() -> None:
    case = CASES["zarr3 sharded, 2D, blended"]
    volume, array = case.volume().values, case.infer().values
    assert quick(array, volume, case.net, samples=8, **case.settings).ok
    array[1, 30:40, 30:40] += 0.5
    report = quick(array, volume, case.net, samples=64, **case.settings)
    assert found(report, "values"), report
    labelled = case.infer().shift(x=0)
    assert quick(labelled, case.volume(), case.net, samples=8, **case.settings).ok
    moved = labelled.assign_coords(x=labelled.x + 4.0)
    assert [f.kind for f in quick(moved, case.volume(), case.net, samples=8, **case.settings).findings] == ["offset"]


def test_an_output_without_a_ledger_needs_settings(case_at: Callable[[str], tuple[Case, Path]]) -> None:
    case, url = case_at("zarr2, 2D U-Net")
    shutil.rmtree(url / ".chunkinfer")
    with pytest.raises(DestinationError, match="state its settings"):
        quick(url, case.volume(), case.net)
    assert quick(url, case.volume(), case.net, samples=4, **case.settings).ok


def test_what_no_network_made_is_refused(tmp_path: Path) -> None:
    volume = np.random.default_rng(0).random((40, 40), dtype="f4")
    ci.save(volume, tmp_path / "copy", progress=False)
    with pytest.raises(VolumeError, match="No network"):
        quick(tmp_path / "copy", volume, net_of("flat"))
    ci.save(ci.infer(volume, net_of("flat")) * 2, tmp_path / "twice", progress=False)
    with pytest.raises(VolumeError, match="own output"):
        quick(tmp_path / "twice", volume, net_of("flat"))
    with pytest.raises(PlanError, match="samples"):
        quick(tmp_path / "copy", volume, net_of("flat"), samples=0)


def test_unfinished_blocks_are_skipped_and_counted(case_at: Callable[[str], tuple[Case, Path]]) -> None:
    case, url = case_at("zarr2, 2D U-Net")
    from chunkinfer.runs.record.ledger import Ledger
    from chunkinfer.runs.record.segments import Entry
    from chunkinfer.stores.files import Files

    ledger = Ledger(Files(url))
    ledger.begin(ledger.header() or {})
    ledger.add(Entry(i, checksum=0) for i in range(5))
    for file in chunk_files(url)[5:]:
        file.unlink()
    report = quick(url, case.volume(), case.net, samples=64)
    assert report.ok, report
    assert report.unfinished == 15
    assert report.blocks == (5, 5)
    assert "15 blocks, skipped" in str(report)


def test_blocks_whose_last_one_was_joined(tmp_path: Path) -> None:
    """Where halos are exchanged, the ledger counts fewer blocks than a regular grid has."""
    volume = np.random.default_rng(0).random((50, 50), dtype="f4")
    net = net_of("dilated")
    ci.save(ci.infer(volume, net, patch=46, block=16, exchange=True), tmp_path / "out", shards=False, progress=False)
    report = quick(tmp_path / "out", volume, net, samples=16)
    assert report.ok, report
    assert report.unfinished == 0


@pytest.mark.parametrize("normalize", [(0.1234567, 3.0), (-5, 0.5), lambda a: a * 2.0 - 1.0])
def test_the_runs_own_scaling(tmp_path: Path, normalize: Any) -> None:
    net = net_of("flat")
    volume = np.random.default_rng(0).integers(0, 255, (40, 40), np.uint8)
    ci.save(ci.infer(volume, net, patch=32, normalize=normalize), tmp_path / "out", progress=False)
    if callable(normalize):
        with pytest.raises(PlanError, match="normalize="):
            quick(tmp_path / "out", volume, net)
    else:
        assert quick(tmp_path / "out", volume, net).ok
    assert quick(tmp_path / "out", volume, net, normalize=normalize).ok
    report = quick(tmp_path / "out", volume, net, normalize=(0, 255))
    assert [f.kind for f in report.findings] == ["settings", "values"], report


def test_every_block_then_every_chunk_has_its_turn() -> None:
    grid = BlockGrid.regular((20, 30), (8, 12))
    boxes = list(block_boxes(grid, range(len(grid)), (4, 4), (3, 4), np.random.default_rng(0)))
    assert sum(b.size for b in boxes) == 600
    seen = np.zeros((20, 30), int)
    for b in boxes:
        seen[b.slices] += 1
    assert (seen == 1).all(), "all voxels, none twice"
    block = [(b.start[0] // 8, b.start[1] // 12) for b in boxes]
    assert len(set(block[:9])) == len(grid) == 9
    for place in set(block):
        chunks = [(b.start[0] // 4, b.start[1] // 4) for b, at in zip(boxes, block, strict=True) if at == place]
        assert len(set(chunks[: len(set(chunks))])) == len(set(chunks)), "a chunk twice before another once"


def test_boxes_shrink_until_their_crops_fit() -> None:
    axes = open_model(net_of("plain conv")).trace(1, 3).axes
    margin = margins(axes)
    assert all(m >= c.period and m % c.period == 0 for m, c in zip(margin, axes, strict=True))
    shapes = [box_within(axes, margin, 100.0, budget).shape for budget in (10**9, 10**6, 1)]
    assert shapes[0] == (32, 32, 32)
    assert shapes[2] == (1, 1, 1)
    crop = [n + c.low + c.high + 2 * (m + c.period) for n, c, m in zip(shapes[1], axes, margin, strict=True)]
    assert 10**5 < 100 * np.prod(crop) <= 10**6


def test_the_report_can_be_looked_at(stores: Callable[[str], Path], capsys: pytest.CaptureFixture[str]) -> None:
    case = CASES["zarr2, 2D U-Net"]
    report = audit(stores("zarr2, 2D U-Net"), case.volume(), case.net, samples=4, progress=True)
    assert "blocks" in capsys.readouterr().err
    assert (
        report.detectable == pytest.approx(1 - 0.05 ** (1 / report.blocks[0])) or report.blocks[0] == report.blocks[1]
    )
    text = str(report)
    assert "nothing found" in text
    assert f"{report.blocks[0]} of {report.blocks[1]} blocks" in text
    assert "<table>" in report._repr_html_()
    assert json.loads(json.dumps(report.as_dict(), default=str))["ok"] is True
    again = audit(stores("zarr2, 2D U-Net"), case.volume(), case.net, samples=4, progress=False)
    assert replace(again, seconds=0.0) == replace(report, seconds=0.0), "the seed decides where it looks"


# Fifty clean runs.


def clean_runs(count: int, seed: int, folder: Path) -> Iterator[AuditReport]:
    """Audits of runs of networks, shapes, patches, blocks, formats and dtypes at random."""
    rng = np.random.default_rng(seed)
    made = 0
    while made < count:
        name = str(rng.choice(sorted(EXACT)))
        entry = EXACT[name]
        dtype = "float32" if name == "dict of outputs" else str(rng.choice(["float32", "uint8", "float16"]))
        fmt = str(rng.choice(["zarr3", "zarr2", "precomputed"])) if dtype != "float16" else "zarr3"
        net = net_of(name, dtype == "uint8")
        axes = open_model(net).trace(entry.channels, entry.ndim).axes
        top = 130 if entry.ndim == 2 else 44
        shape = [int(rng.integers(c.smallest, max(c.smallest + 1, top))) for c in axes]
        data = rng.integers(0, 255, (entry.channels, *shape), np.uint8)
        volume = data if entry.channels > 1 else data[0]
        settings: dict[str, Any] = {"dtype": dtype, "batch": int(rng.integers(1, 3))}
        if rng.random() < 0.4:  # blended
            grain = [c.stride.numerator for c in axes]
            patch = [c.accepted_at_least(int(rng.integers(8, 30)) + int(sum(c.crop))) for c in axes]
            step = [
                max(g, int(rng.integers(1, max(2, p - int(sum(c.crop))))) // g * g)
                for p, g, c in zip(patch, grain, axes, strict=True)
            ]
            settings |= {"patch": tuple(patch), "overlap": tuple(p - s for p, s in zip(patch, step, strict=True))}
            settings |= {"window": str(rng.choice(["hann", "linear", "gaussian", "bump"]))}
        elif rng.random() < 0.7:
            zone = [c.period * int(rng.integers(1, 20)) for c in axes]
            low = [-(-c.low // c.period) * c.period for c in axes]
            settings["patch"] = tuple(
                c.accepted_at_least(a + z + c.high) for c, a, z in zip(axes, low, zone, strict=True)
            )
        try:
            if ci.plan(volume, net, **settings).patches > 250:
                continue
            result = ci.infer(volume, net, exchange=bool(rng.integers(2)), **settings)
        except PlanError:  # cuts that do not fit each other
            continue
        url = folder / f"{made}"
        ci.save(result, url, format=fmt, shards=None if rng.random() < 0.5 else False, progress=False)
        yield quick(url, volume, net, samples=12, seed=made)
        shutil.rmtree(url)
        made += 1


@pytest.mark.slow
@pytest.mark.smoke
def test_clean_runs_have_no_findings(tmp_path: Path) -> None:
    reports = list(clean_runs(5, 1, tmp_path))
    assert len(reports) == 5
    assert [r for r in reports if not r.ok or not r.kinds or not np.isfinite(r.largest)] == []


@pytest.mark.slow
def test_fifty_clean_runs_have_no_findings(tmp_path: Path) -> None:
    reports = list(clean_runs(50, 2, tmp_path))
    assert len(reports) == 50
    assert sum(k.boxes for r in reports for k in r.kinds) > 50 * 10
    assert [r for r in reports if not r.ok or not r.kinds] == []


def test_errors_are_of_this_library(tmp_path: Path) -> None:
    with pytest.raises(ChunkinferError):
        quick(tmp_path / "nothing", np.zeros((20, 20), "f4"), net_of("flat"))


def test_steps_that_keep_values_are_recomputed_and_others_refused(tmp_path: Path) -> None:
    volume, net = np.random.default_rng(0).random((20, 24, 28), dtype="f4"), net_of("plain conv")
    ci.save(ci.infer(volume, net, activation="sigmoid", channels=0), tmp_path / "a.zarr", progress=False)
    assert ci.audit(tmp_path / "a.zarr", volume, net).ok
    ci.save(ci.infer(volume, net, threshold=0.5), tmp_path / "b.zarr", progress=False)
    with pytest.raises(PlanError, match="cannot be audited"):
        ci.audit(tmp_path / "b.zarr", volume, net)
    ci.save(ci.infer(volume, net, empty=0), tmp_path / "c.zarr", progress=False)
    with pytest.raises(PlanError, match="left out"):
        ci.audit(tmp_path / "c.zarr", volume, net)
