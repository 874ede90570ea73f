"""A plan's numbers: against plain counting, against memory, and against what a run does."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import product
from math import ceil, lcm, prod
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorstore as ts
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import chunkinfer as ci
from chunkinfer.errors import PlanError
from chunkinfer.networks.forward_cost import forward_pass
from chunkinfer.stores import store
from chunkinfer.tiling.plan.costs import estimate
from chunkinfer.tiling.plan.speed import Speed, time_kernels
from chunkinfer.volumes.arrays.create import ArraySpec, create
from tests.lib.nets import Entry, UNet

V = np.random.default_rng(0).integers(0, 255, (60, 52, 72), dtype="u1")
NET = Entry(lambda: UNet(3, ((2, 2, 2),), n=1)).make()
"""Period 2, context 5 and 5."""


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def stored(path: Path, chunk: int, shard: int | None) -> str:
    array = create(
        path,
        ArraySpec(
            format="zarr3",
            shape=V.shape,
            dtype="u1",
            dims="zyx",
            chunks=(chunk,) * 3,
            shards=(shard,) * 3 if shard else None,
        ),
    )
    unit = shard or chunk
    for corner in product(*(range(0, n, unit) for n in V.shape)):
        box = tuple(slice(a, min(a + unit, n)) for a, n in zip(corner, V.shape, strict=True))
        array.write(box, V[box])
    return str(path)


# ---- what is read and written ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("chunk", "shard"), [(8, None), (16, None), (8, 32)])
@pytest.mark.parametrize("settings", [{"patch": 24, "block": 24}, {"patch": 24, "overlap": 8, "block": 20}])
def test_traffic_is_what_the_boxes_touch(tmp_path: Path, chunk: int, shard: int | None, settings: Any) -> None:
    plan = ci.plan(stored(tmp_path / "v.zarr", chunk, shard), NET, **settings)
    chunks, indices, voxels = 0, 0, 0
    for index in plan.grid.indices():
        seen = plan.lattice.seen(plan.grid.box(index))
        touched = [range(a // chunk, ceil(b / chunk)) for a, b in zip(seen.start, seen.stop, strict=True)]
        chunks += prod(map(len, touched))
        voxels += prod(min(r.stop * chunk, n) - r.start * chunk for r, n in zip(touched, V.shape, strict=True))
        if shard:
            indices += prod(ceil(b / shard) - a // shard for a, b in zip(seen.start, seen.stop, strict=True))
    assert plan.traffic.read_requests == chunks + indices
    assert plan.traffic.read_bytes == pytest.approx(voxels, abs=1)
    assert plan.traffic.written_bytes == 3 * V.size * 4


def test_objects_written_are_those_on_disk(tmp_path: Path) -> None:
    settings = {"patch": 24, "block": 24}
    plan = ci.plan(V, NET, **settings)
    ci.save(ci.infer(V, NET, **settings), tmp_path / "o.zarr", progress=False)
    objects = [p for p in (tmp_path / "o.zarr" / "c").rglob("*") if p.is_file()]
    assert plan.traffic.write_requests == len(objects) == len(plan.grid)


@pytest.fixture
def uncached(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The read cache is small beside a volume, and large beside a test's."""
    monkeypatch.setattr(store, "CACHE_BYTES", 0)
    store.context.cache_clear()
    yield
    store.context.cache_clear()


@pytest.mark.usefixtures("uncached")
def test_requests_are_those_that_tensorstore_makes(tmp_path: Path) -> None:
    url = stored(tmp_path / "v.zarr", 16, None)
    plan = ci.plan(url, NET, patch=24, block=24, slots=1)

    def reads() -> int:
        found = ts.experimental_collect_matching_metrics("/tensorstore/kvstore/file/batch_read")
        return sum(v["value"] for metric in found for v in metric["values"])

    before = reads()
    ci.save(ci.infer(url, NET, patch=24, block=24, slots=1, check=0), tmp_path / "o.zarr", progress=False)
    made = reads() - before
    # Metadata is read too. Two blocks that read one chunk at the same time would ask for it once: hence one slot.
    assert made == pytest.approx(plan.traffic.read_requests, rel=0.05)


# ---- arithmetic --------------------------------------------------------------------------------------------------


def test_flops_are_those_of_the_layers() -> None:
    net = nn.Sequential(nn.Conv3d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv3d(4, 2, 1))
    found = forward_pass(net, 1, (16, 16, 16), "float32")
    assert found.flops == 2 * 16**3 * (27 * 4 + 4 * 2)
    plan = ci.plan(V, net, patch=18, block=16)
    assert plan.flops_per_voxel == pytest.approx(2 * (27 * 4 + 4 * 2) * plan.recompute)


def test_live_tensors_and_their_workspace() -> None:
    """The caller holds x; at the pointwise layer its input and its output live beside it."""
    net = nn.Sequential(nn.Conv3d(1, 32, 3, padding=1), nn.ReLU(), nn.Conv3d(32, 16, 3, padding=1))
    found = forward_pass(net, 1, (32, 32, 32), "float32")
    voxels = 4 * 32**3
    assert found.tensors == voxels * (1 + 32 + 32)
    assert found.peak >= found.tensors


@given(
    batch=st.floats(0.01, 10), read=st.floats(0, 5), write=st.floats(0, 5), workers=st.integers(1, 50),
    hour=st.floats(0, 10), egress=st.floats(0, 1),
)  # fmt: skip
def test_time_and_cost(batch: float, read: float, write: float, workers: int, hour: float, egress: float) -> None:
    from dataclasses import replace

    prices = ci.Prices(worker_hour=hour, read_request=1e-6, write_request=2e-6, egress_gib=egress)
    base = ci.plan(V, NET, patch=24, block=24, prices=prices, workers=workers)
    plan = replace(base, speed=Speed(batch, read, write, "here", watts=100.0))
    found = estimate(plan)
    assert found is not None
    work = plan.patches * batch + len(plan.grid) * (read + write)  # of one kernel
    assert found.seconds >= work / (workers * plan.kernels) * (1 - 1e-9)
    assert found.seconds <= work / (workers * plan.kernels) + 2 * found.block_seconds
    assert found.voxels_per_second == pytest.approx(prod(plan.lattice.output) * plan.kernels / work)
    moved = plan.traffic
    expected = found.seconds / 3600 * workers * hour + moved.read_requests * 1e-6 + moved.write_requests * 2e-6
    assert found.cost == pytest.approx(expected + moved.read_bytes / 2**30 * egress)
    assert found.energy_kwh == pytest.approx(100 * workers * found.seconds / 3.6e6)
    assert "cost" in str(plan)
    assert "energy" in plan._repr_html_()


# ---- memory ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "memory", ["0.8 GiB", *(pytest.param(n, marks=pytest.mark.slow) for n in ("1 GiB", "1.5 GiB")), "3 GiB"]
)
def test_a_plan_for_a_memory_fits_it(memory: str) -> None:
    big = np.broadcast_to(np.uint8(0), (400, 400, 400))
    net = Entry(lambda: UNet(3, ((2, 2, 2),), channels=16, n=1)).make()
    plan = ci.plan(big, net, memory=memory)
    assert plan.fits
    assert sum(size for _, size in plan.memory()) <= plan.limit
    assert "fits" in str(plan)


def test_a_plan_that_does_not_fit_can_be_looked_at_and_not_run(tmp_path: Path) -> None:
    plan = ci.plan(V, NET, patch=24, memory="100 MiB")
    assert not plan.fits
    assert "does not fit" in str(plan)
    lazy = ci.infer(V, NET, patch=24, memory="100 MiB")
    with pytest.raises(PlanError, match="takes more memory than the 100") as caught:
        ci.save(lazy, tmp_path / "o.zarr", progress=False)
    assert "libraries" in str(caught.value)
    assert "activations" in str(caught.value)
    assert not (tmp_path / "o.zarr").exists()
    with pytest.raises(PlanError, match="takes more memory"):
        lazy.compute(scheduler="synchronous")


def test_a_script_takes_what_its_module_takes() -> None:
    net = nn.Sequential(nn.Conv3d(1, 16, 3), nn.ReLU(), nn.Conv3d(16, 16, 3)).eval()
    script = torch.jit.trace(net, torch.zeros(1, 1, 32, 32, 32))
    found = forward_pass(script, 1, (32, 32, 32), "float32")
    assert found == forward_pass(net, 1, (32, 32, 32), "float32")
    assert found.peak > found.tensors, "convolutions take copies in the layout of their kernels"


def test_more_slots_take_more(tmp_path: Path) -> None:
    needs = [sum(size for _, size in ci.plan(V, NET, slots=n, patch=24, block=24).memory()) for n in (1, 2, 3, 6)]
    assert needs == sorted(needs)
    assert needs[0] < needs[-1]
    report = ci.save(ci.infer(V, NET, slots=5, patch=24), tmp_path / "o.zarr", progress=False)
    assert report.computed == report.blocks


@pytest.mark.slow
def test_the_projected_peak_is_the_measured_one() -> None:
    benchmark = Path(__file__).parents[3] / "benchmarks" / "memory.py"
    command = [sys.executable, str(benchmark), "--json", "--only", "0", "4", "8", "14", "16", "18", "20", "22", "25"]
    inside = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    lines = inside.stdout.splitlines()
    assert len(lines) >= 7  # the last one is in bf16, which not every processor has
    for line in lines:
        found = json.loads(line)
        assert 0.95 <= found["projected"] / found["peak"] <= 1.3, found  # the peak of one run twice differs by a tenth


# ---- choices ---------------------------------------------------------------------------------------------------


def test_a_patch_of_the_caller_is_kept_and_its_cost_told() -> None:
    big = np.broadcast_to(np.uint8(0), (200, 200, 200))
    plan = ci.plan(big, NET, patch=24)
    assert plan.lattice.patch == (24, 24, 24)
    best = ci.plan(big, NET)
    assert plan.best == pytest.approx(best.patches * prod(best.lattice.patch) / plan.patches / 24**3)
    assert f"the best patch found computes {plan.best:.0%}" in str(plan)
    assert best.best == 1


@pytest.mark.slow
@pytest.mark.smoke
def test_calibration(tmp_path: Path) -> None:
    plan = ci.plan(V, NET, calibrate=True, workers=2, max_block_minutes=1e-6)
    assert plan.speed is not None
    assert plan.speed.batch_seconds > 0
    assert "Mvoxel/s" in str(plan)
    assert "max_block_minutes" in str(plan)
    remembered = json.loads((tmp_path / "cache" / "chunkinfer" / "speed.json").read_text())
    assert any(plan.digest in key for key in remembered)
    again = ci.plan(V, NET, calibrate=True, workers=2, max_block_minutes=1e-6)
    assert again.speed is not None
    assert again.speed.batch_seconds == plan.speed.batch_seconds
    # The smallest block there is: whole zones that are whole chunks.
    units = zip(again.lattice.axes, again.layout.chunks[1:], strict=True)
    assert again.block == tuple(min(lcm(a.zone, chunk), a.output) for a, chunk in units)


@pytest.mark.slow
def test_calibration_keeps_what_is_given() -> None:
    plan = ci.plan(V, NET, calibrate=True, patch=28, batch=2)
    assert plan.lattice.patch == (28, 28, 28)
    assert plan.batch == 2
    blended = ci.plan(V, NET, calibrate=True, overlap=8)
    assert blended.overlap == (8, 8, 8)


@pytest.mark.slow
@pytest.mark.smoke
def test_calibrated_results_are_the_same(tmp_path: Path) -> None:
    result = ci.infer(V, NET, calibrate=True)
    with torch.no_grad():
        whole = NET(torch.from_numpy(V / np.float32(255))[None, None])[0].numpy()
    assert np.abs(result.compute() - whole).max() < 1e-5


@pytest.mark.slow
def test_a_calibrated_run_is_resumed_with_its_own_patch(tmp_path: Path) -> None:
    first = ci.save(ci.infer(V, NET, patch=24, block=24), tmp_path / "o.zarr", progress=False)
    lazy = ci.infer(V, NET, calibrate=True, max_block_minutes=5)
    again = ci.save(lazy, tmp_path / "o.zarr", progress=False)
    assert (again.computed, again.skipped) == (0, first.blocks)


def test_kernels_are_timed_together() -> None:
    from threading import Barrier

    together = Barrier(3, timeout=20)  # breaks if fewer than three run at a time
    assert time_kernels(together.wait, 3, 2) > 0


def test_a_failing_kernel_is_not_timed() -> None:
    with pytest.raises(ZeroDivisionError):
        time_kernels(lambda: 1 / 0, 3, 1)


def test_a_call_that_takes_longer_than_there_is_time_counts_itself() -> None:
    calls: list[float] = []

    def call() -> None:
        calls.append(time.perf_counter())
        time.sleep(0.05)

    assert time_kernels(call, 1, 2, lambda: 0.0) >= 0.05
    assert len(calls) == 1


@pytest.mark.slow
def test_measuring_ends_in_time_and_says_what_it_left_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Engines and patches share one stretch of time: here it is over when the first engine was measured."""
    monkeypatch.setattr("chunkinfer.tiling.plan.measuring.QUIET", 0.0)
    net: Any = nn.Conv3d(1, 1, 3, padding=1).eval()
    volume = np.zeros((96, 96, 96), np.float32)
    started = time.perf_counter()
    whole = ci.plan(volume, net, engine="auto", calibrate=True)
    assert time.perf_counter() - started < 60
    assert "chunkinfer: measuring torch: patches" in capsys.readouterr().err
    assert "compile not (not tried: of 30 s" in whole.engine_why
    monkeypatch.setattr("chunkinfer.tiling.plan.speed.SECONDS", 0.0)
    net = nn.Conv3d(1, 1, 5, padding=2).eval()
    none = ci.plan(volume, net, engine="auto", calibrate=True)
    assert none.engine == "torch"
    assert "openvino not (not tried: of 0 s 0 were left)" in none.engine_why
    assert "there was no time to measure" in str(none)


@pytest.mark.parametrize(
    ("arguments", "fact"),
    [
        ({"memory": "plenty"}, "no amount of memory"),
        ({"memory": -1}, "no amount of memory"),
        ({"slots": 0}, "slots=0 is no count"),
        ({"workers": 0}, "workers=0 is no count"),
        ({"prices": {"hour": 1}}, "'hour': 1 is not known"),
        ({"prices": {"worker_hour": -1}}, "is not known"),
        ({"max_block_minutes": 0, "calibrate": True}, "max_block_minutes"),
        ({"max_block_minutes": 5}, "calibrate=True"),
    ],
    ids=str,
)
def test_bad_arguments(arguments: dict[str, Any], fact: str) -> None:
    with pytest.raises(PlanError, match=fact):
        ci.plan(V, NET, **arguments)


def test_decoded_sections_are_in_the_sum(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    pixels = np.random.default_rng(0).integers(0, 255, (24, 40, 40)).astype("u1")
    for z, section in enumerate(pixels):
        image.fromarray(section).save(tmp_path / f"{z:03d}.png")
    sections = ci.open_volume(str(tmp_path / "*.png"))
    whole = dict(ci.plan(pixels, NET, patch=20).memory())
    for volume in (sections, ci.operators.invert(sections)):
        assert dict(ci.plan(volume, NET, patch=20).memory())["read cache"] == whole["read cache"] + 2**28
