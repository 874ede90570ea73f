"""From raw sections to a volume that people can look at, by the commands that a user types."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import chunkinfer as ci
from chunkinfer.errors import MissingExtra
from chunkinfer.tools.viewers import browser

KEPT = Path(__file__).parents[2] / "build" / "artifacts"
"""Where the last screenshot stays, to be looked at."""


def colourful(picture: Path) -> int:
    """Pixels that are no grey."""
    image = pytest.importorskip("PIL.Image")
    pixels = np.asarray(image.open(picture).convert("RGB")).astype(int)
    return int((np.ptp(pixels, axis=2) > 60).sum())


@pytest.mark.slow
def test_sections_of_fib25_to_affinities_in_a_browser(fib25: Path, real_models: Path, tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    voxels = np.load(fib25 / "sample1_image.npy")[:, :128, :128]
    (tmp_path / "sections").mkdir()
    for z, section in enumerate(voxels):
        image.fromarray(section).save(tmp_path / "sections" / f"z{z:04d}.png")
    words = "open sections/*.png --voxel-size 8,8,8 normalize --range 0 255 infer MODEL quantize save aff.precomputed"
    model = str(real_models / "fib25_affinity.pt2")
    subprocess.run(
        [sys.executable, "-m", "chunkinfer.tools.cli", *words.replace("MODEL", model).split(), "--pyramid"],
        cwd=tmp_path, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    stored = ci.open_volume(tmp_path / "aff.precomputed")
    whole = ci.infer(voxels.astype("f4") / np.float32(255), model).compute()
    assert np.array_equal(stored.values, np.rint(np.clip(whole, 0, 1) * np.float32(255)).astype("u1"))
    coarser = ci.open_volume(tmp_path / "aff.precomputed", level=1)
    assert coarser.attrs["voxel_size"] == {"z": 16.0, "y": 16.0, "x": 16.0}
    sections = ci.open_volume(str(tmp_path / "sections" / "*.png"), voxel_size=(8, 8, 8))
    try:
        for name, layers in {"grey": {}, "coloured": {"affinities": tmp_path / "aff.precomputed"}}.items():
            with ci.view(image=sections, **layers) as shown:  # type: ignore[arg-type]
                shown.screenshot(tmp_path / f"{name}.png", size=(800, 600))
    except MissingExtra as absent:
        pytest.skip(str(absent))
    assert colourful(tmp_path / "coloured.png") > colourful(tmp_path / "grey.png") + 2000
    KEPT.mkdir(parents=True, exist_ok=True)
    shutil.copy(tmp_path / "coloured.png", KEPT / "workflow.png")


@pytest.mark.slow
def test_sections_of_fib25_to_meshes_in_a_browser(fib25: Path, real_models: Path, tmp_path: Path) -> None:
    """One command; the second one is the score."""
    image = pytest.importorskip("PIL.Image")
    pytest.importorskip("zmesh")
    try:
        browser.found(None)
    except MissingExtra as absent:
        pytest.skip(str(absent))
    box = (slice(0, 96), slice(0, 160), slice(0, 160))
    (tmp_path / "sections").mkdir()
    for z, section in enumerate(np.load(fib25 / "sample2_image.npy")[box]):
        image.fromarray(section).save(tmp_path / "sections" / f"z{z:04d}.png")
    truth = np.load(fib25 / "sample2_labels_z000_180.npz")["labels"][box]
    stated = ci.open_volume(str(tmp_path / "sections" / "*.png"), voxel_size=(10, 10, 10))
    ci.save(stated.copy(data=truth).astype("uint64"), tmp_path / "truth.precomputed", progress=False)
    words = (
        "open sections/*.png --voxel-size 10,10,10 --as image normalize --range 0 255 infer MODEL segment "
        "save objects.precomputed --pyramid mesh objects.precomputed "
        "open objects.precomputed view --other image --screenshot objects.png"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for command in (words.replace("MODEL", str(real_models / "fib25_affinity.pt2")),
                    "evaluate objects.precomputed truth.precomputed --json"):  # fmt: skip
        done = subprocess.run(
            [sys.executable, "-m", "chunkinfer.tools.cli", *command.split()],
            cwd=tmp_path, check=True, env=environment, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
    scores = json.loads(done.stdout)
    assert scores["rand_error"] < 0.25
    objects = ci.open_volume(tmp_path / "objects.precomputed")
    assert ci.open_volume(tmp_path / "objects.precomputed", level=1).shape == tuple(n // 2 for n in objects.shape)
    meshes = list((tmp_path / "objects.precomputed" / "mesh").glob("*:0"))
    assert len(meshes) == len(np.unique(objects.values)) - 1
    assert colourful(tmp_path / "objects.png") > 100_000  # sections and three dimensions
    KEPT.mkdir(parents=True, exist_ok=True)
    shutil.copy(tmp_path / "objects.png", KEPT / "objects.png")
