"""Real electron microscopy, a network trained on it, and readers that are not ours."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import chunkinfer as ci
from chunkinfer.networks.model import open_model
from tests.lib.whole import whole


def compare(
    fib25: Path, real_models: Path, place: Path, shape: tuple[int, int, int], patches: list[dict[str, object]]
) -> float:
    """Largest difference to the whole volume, after checking every cut and every reader against each other."""
    volume = ci.open_volume(fib25 / "sample1_image.npy", voxel_size=(10, 10, 10))[: shape[0], : shape[1], : shape[2]]
    model = real_models / "fib25_affinity.pt2"
    reference = open_model(real_models / "fib25_affinity.pt")
    torch.set_num_threads(2)
    expected = whole(
        reference.module_on("cpu"), reference.trace(1, 3), volume.values[np.newaxis].astype("f4") / np.float32(255)
    )
    results = []
    for i, settings in enumerate(patches):
        url = place / f"affinities-{i}.zarr"
        ci.save(ci.infer(volume, model, **settings), url)  # type: ignore[arg-type]
        zarr = pytest.importorskip("zarr")
        results.append(zarr.open_array(url, mode="r")[:])
    for other in results[1:]:
        assert np.array_equal(other, results[0])
    precomputed = place / "affinities.precomputed"
    ci.save(ci.open_volume(place / "affinities-0.zarr"), precomputed)
    cloudvolume = pytest.importorskip("cloudvolume")
    read = cloudvolume.CloudVolume(f"file://{precomputed}", progress=False)
    assert tuple(read.resolution) == (10, 10, 10)
    assert np.array_equal(np.asarray(read[:]).T, results[0])
    return float(np.abs(results[0] - expected).max())


@pytest.mark.slow
def test_a_crop_is_the_whole_network(fib25: Path, real_models: Path, tmp_path: Path) -> None:
    patches: list[dict[str, object]] = [
        {"patch": {"z": 68}},
        {"patch": {"z": 68}, "block": {"z": 40}},
    ]
    assert compare(fib25, real_models, tmp_path, (90, 46, 42), patches) < 5e-5


@pytest.mark.slow
def test_sample_1_is_the_whole_network(fib25: Path, real_models: Path, tmp_path: Path) -> None:
    """250^3: whole, far-padded to 252, it takes 4.3 GB of activations."""
    patches: list[dict[str, object]] = [{"block": (128, 128, 128)}, {"patch": 176, "block": (128, 256, 256)}]
    difference = compare(fib25, real_models, tmp_path, (250, 250, 250), patches)
    print(f"max |tiled - whole| on 250^3: {difference:.2e}")
    assert difference < 5e-5
