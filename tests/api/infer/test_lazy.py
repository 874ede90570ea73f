"""A lazy result is a dask array like any other: computed, kept, sliced and calculated with, on every scheduler."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from distributed import Client

import chunkinfer as ci
from tests.lib.clusters import Cluster
from tests.lib.probes import Watched, convolution, events

Stored = Callable[..., str]
Values = np.ndarray[Any, Any]


@pytest.fixture
def volume(stored: Stored) -> Any:
    return ci.open_volume(stored(40, 48, 33))


def whole(volume: Any, model: torch.nn.Module) -> Values:
    """The network on the volume, in one piece."""
    data = np.asarray(volume)
    scaled = data / np.float32(255) if data.dtype == np.uint8 else data
    with torch.inference_mode():
        result: Values = model(torch.from_numpy(scaled)[None, None])[0].numpy()
    return result


def test_compute_persist_and_slices(client: Client, volume: Any) -> None:
    net = convolution(2)
    result = ci.infer(volume, net, patch=18, block=16)
    expected = result.compute(scheduler="synchronous")
    assert np.abs(expected.values - whole(volume, net)).max() < 1e-5
    assert np.array_equal(result.compute(scheduler="threads").values, expected.values)
    assert np.array_equal(result.compute().values, expected.values)
    assert np.array_equal(result[1, 7:21, ::3, 30].compute().values, expected.values[1, 7:21, ::3, 30])
    kept = result.persist()
    assert np.array_equal(kept[:, 5:].compute().values, expected.values[:, 5:])
    assert kept.equals(expected)
    assert kept.compute().identical(expected)


def test_operators(client: Client, volume: Any) -> None:
    result = ci.infer(volume, convolution(2), patch=18, block=16)
    expected = result.compute(scheduler="synchronous")

    def calculate(x: Any) -> Any:
        return ((x * 2 + volume / 255.0).where(x > 0.1, 0).sel(x=slice(3, None)).max("c") > 0.2).sum("z")

    assert calculate(result).compute().identical(calculate(expected).compute())


def test_a_volume_that_was_calculated(client: Client, volume: Any) -> None:
    net = convolution()
    changed = volume.astype("float32").clip(10, 150) / 150
    result = ci.infer(changed, net, patch=18, block=16)
    expected = ci.infer(changed.compute(scheduler="synchronous"), net, patch=18, block=16)
    assert np.array_equal(result.compute().values, expected.compute(scheduler="synchronous").values)


def test_a_persisted_volume_exchanges_halos(client: Client, volume: Any, tmp_path: Path) -> None:
    log = tmp_path / "log"
    expected = ci.infer(volume, convolution(), patch=18, block=16).compute(scheduler="synchronous")
    kept = volume.chunk({"z": 13, "y": 20, "x": 33}).persist()
    result = ci.infer(kept, Watched(log), patch=18, block=16)
    assert any("overlap" in name for name in result.data.dask.layers)
    assert np.array_equal(result.compute().values, expected.values)
    patches = len(events(log))
    ci.save(result, tmp_path / "out.zarr", progress=False)
    assert patches == len(events(log)) - patches == 27
    assert max(map(len, result.data.chunks)) == 3
    assert result.data.chunks[1] == (16, 24)  # the tail is thinner than the halo of the next block, and joins it
    assert np.array_equal(ci.open_volume(tmp_path / "out.zarr").values, expected.values)


@pytest.mark.slow
@pytest.mark.smoke
def test_a_network_on_a_network(client: Client, volume: Any, tmp_path: Path) -> None:
    log = tmp_path / "log"
    first = ci.infer(volume, Watched(log), patch=18, block=16)
    second = ci.infer(first.isel(c=0), convolution(), patch=14, block=12)
    middle = first.compute(scheduler="synchronous").isel(c=0)
    expected = ci.infer(middle, convolution(), patch=14, block=12).compute(scheduler="synchronous")
    ran = len(events(log))
    assert ran == 27
    assert np.array_equal(second.compute().values, expected.values)
    assert len(events(log)) == 2 * ran  # the first network ran once
    assert np.array_equal(second.compute(scheduler="threads").values, expected.values)
    ci.save(second, tmp_path / "out.zarr", progress=False)
    assert len(events(log)) == 4 * ran
    assert np.array_equal(ci.open_volume(tmp_path / "out.zarr").values, expected.values)


def test_one_result_on_one_cluster_after_another(plain_cluster: Cluster, volume: Any, tmp_path: Path) -> None:
    """On its own cluster a run leaves a volume in memory where it is; on another it travels."""
    values = np.asarray(volume)
    result = ci.infer(values, convolution(), patch=18, block=16)
    twin = ci.infer(values, convolution(), patch=18, block=16)
    expected = result.compute(scheduler="synchronous")
    del twin
    ci.save(result, tmp_path / "embedded.zarr", progress=False)
    with plain_cluster.client(2) as client:
        assert np.array_equal(result.compute(), expected)
        ci.save(result, tmp_path / "distributed.zarr", client=client, progress=False)
    ci.save(result, tmp_path / "embedded_again.zarr", progress=False)
    for name in ("embedded", "distributed", "embedded_again"):
        assert np.array_equal(ci.open_volume(tmp_path / f"{name}.zarr").values, expected)
