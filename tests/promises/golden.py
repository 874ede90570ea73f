"""Runs of every kind that were cut short, kept as files: a later version goes on with them.

    python tests/promises/golden.py NAME ...    # makes those of these names, or all, anew

They are made once, and again only where a change says that older runs are refused on purpose.
"""

from __future__ import annotations

import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import xarray as xr
from torch import nn

import chunkinfer as ci
from chunkinfer import operators as op
from chunkinfer.runs.events import BLOCK_DONE, Event

FOLDER = Path(__file__).parent / "golden"

RNG = np.random.default_rng(0)
EM = xr.DataArray(RNG.integers(0, 255, (16, 16, 24), np.uint8), dims=("z", "y", "x"), attrs={"voxel_size": (8, 4, 4)})
PLANE = RNG.integers(0, 255, (96, 96), np.uint8)
SCORES = np.kron(RNG.integers(0, 255, (3, 6, 6, 6), np.uint8), np.ones((1, 4, 4, 4), np.uint8))
LABELS = np.kron(np.arange(1, 28, dtype="u4").reshape(3, 3, 3), np.ones((8, 8, 8), "u4"))
CUT = {"chunks": (8, 8, 8), "shards": False}


def network(channels: int = 2, flat: bool = False) -> nn.Module:
    """Convolutions whose weights no random number decides."""
    conv: Any = nn.Conv2d if flat else nn.Conv3d
    net = nn.Sequential(conv(1, 3, 3, padding=1), nn.ReLU(), conv(3, channels, 3, padding=1), nn.Sigmoid())
    for number, weights in enumerate(net.parameters()):
        weights.data = torch.linspace(-1, 1 + number / 8, weights.numel()).reshape(weights.shape)
    return net.eval()


class Golden(NamedTuple):
    """A call that writes into a folder, and the same with another setting, which does not go on with it."""

    call: Callable[..., Any]
    other: Callable[..., Any]


def saved(make: Callable[[], Any], name: str = "out.zarr", **how: Any) -> Callable[..., Any]:
    """Store a lazy array below a folder, and read it again."""

    def call(place: Path, **given: Any) -> Any:
        ci.save(make(), place / name, **{"chunks": (1, 8, 8, 8), "shards": False, **how, **given})
        return ci.open_volume(place / name).values

    return call


def inferred(volume: Any = EM, model: Any = None, **settings: Any) -> Callable[[], Any]:
    given = {"patch": 12, "block": 8, "check": 0, **settings}
    return lambda: ci.infer(volume, model or network(), **given)


def levels(place: Path, method: str = "mean", **how: Any) -> Any:
    """Levels of an image that is whole."""
    if not (place / "em.ome.zarr").exists():
        ci.save(EM, place / "em.ome.zarr", progress=False, **CUT)
    ci.pyramid(place / "em.ome.zarr", levels=2, method=method, **how)
    return ci.open_volume(place / "em.ome.zarr", level=1).values


def segmented(place: Path, low: float = 0.05, **how: Any) -> Any:
    return ci.segment(SCORES, place / "work", low=low, merge_size=9, block=(8, 24, 24), **how).labels.values


def components(place: Path, connectivity: int = 6, **how: Any) -> Any:
    labels = EM.values > 128
    found = ci.connected_components(labels, place / "work", connectivity=connectivity, block=(8, 24, 24), **how)
    return found.labels.values


def contacts(place: Path, order: str = "zyx", **how: Any) -> Any:
    return ci.region_graph(LABELS, SCORES, place / "work", order=order, **how).frame().values


def scores(place: Path, truth: Any = LABELS, **how: Any) -> Any:
    return ci.evaluate(LABELS, truth, url=place / "work", block=8, **how).table["voxels"]


def surfaces(place: Path, ids: Any = None, **how: Any) -> Any:
    return ci.mesh(LABELS, place / "meshes", block=8, ids=ids, **how).objects["label"]


ANOTHER = network()
ANOTHER[0].bias.data += 1

RUNS: dict[str, Golden] = {
    "exact": Golden(saved(inferred()), saved(inferred(model=ANOTHER))),
    "blended": Golden(
        saved(inferred(overlap=4, dtype="uint8")), saved(inferred(overlap=4, window="bump", dtype="uint8"))
    ),
    "classes": Golden(
        saved(inferred(model=network(3), activation="softmax", argmax=True)),
        saved(inferred(model=network(3), activation="softmax", threshold=0.5)),
    ),
    "augmented": Golden(
        saved(inferred(model=ci.augment(network(), flips="x"))), saved(inferred(model=ci.augment(network(), flips="y")))
    ),
    "masked": Golden(
        saved(inferred(mask=EM.values > 99, fill=1)), saved(inferred(mask=EM.values > 100, fill=1))
    ),
    "plane": Golden(
        saved(inferred(PLANE, network(flat=True), patch=36, block=32), chunks=(1, 32, 32)),
        saved(inferred(PLANE, network(flat=True), patch=20, block=32), chunks=(1, 32, 32)),
    ),
    "chain": Golden(
        saved(lambda: op.quantize(inferred(op.gaussian(EM, 1.0))())),
        saved(lambda: op.quantize(inferred(op.gaussian(EM, 1.5))())),
    ),
    "copy": Golden(saved(lambda: EM, **CUT), saved(lambda: EM + 1, **CUT)),
    "copy with levels": Golden(
        saved(lambda: EM, "out.ome.zarr", pyramid=1, **CUT), saved(lambda: EM[:8], "out.ome.zarr", pyramid=1, **CUT)
    ),
    "precomputed": Golden(
        saved(inferred(dtype="uint8"), "out.precomputed", chunks=(2, 8, 8, 8)),
        saved(inferred(dtype="float32"), "out.precomputed", chunks=(2, 8, 8, 8)),
    ),
    "n5": Golden(saved(inferred(), "out.n5"), saved(inferred(dtype="uint8"), "out.n5")),
    "pyramid": Golden(levels, lambda place, **how: levels(place, "min", **how)),
    "segment": Golden(segmented, lambda place, **how: segmented(place, 0.2, **how)),
    "components": Golden(components, lambda place, **how: components(place, 26, **how)),
    "region graph": Golden(contacts, lambda place, **how: contacts(place, "xyz", **how)),
    "evaluate": Golden(scores, lambda place, **how: scores(place, LABELS + 1, **how)),
    "mesh": Golden(surfaces, lambda place, **how: surfaces(place, [1, 2], **how)),
}  # fmt: skip


def blocks_of(call: Callable[..., Any], place: Path, most: float = float("inf")) -> tuple[Any, int]:
    """What a call gives, and how many blocks it computed; it is killed after ``most``."""
    done: list[Event] = []

    def count(event: Event) -> None:
        done.extend([event] * (event.kind == BLOCK_DONE))
        if len(done) >= most:
            raise KeyboardInterrupt

    return call(place, progress=False, events=[count]), len(done)


def make(name: str) -> None:
    """Run one kind, kill it in the middle, and keep the folder."""
    call = RUNS[name].call
    with tempfile.TemporaryDirectory() as whole, tempfile.TemporaryDirectory() as folder:
        _, blocks = blocks_of(call, Path(whole))
        try:
            blocks_of(call, Path(folder), blocks // 2 + 1)
        except KeyboardInterrupt:
            FOLDER.mkdir(exist_ok=True)
            with zipfile.ZipFile(FOLDER / f"{name}.zip", "w", zipfile.ZIP_DEFLATED) as kept:
                for path in sorted(Path(folder).rglob("*")):
                    if path.is_file() and path.name not in ("run.json", "lease.json", "events.jsonl"):
                        kept.write(path, path.relative_to(folder))


if __name__ == "__main__":
    for each in sys.argv[1:] or RUNS:
        make(each)
