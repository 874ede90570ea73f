"""What test-time augmentation gains on real electron microscopy, and what it costs.

    python benchmarks/augmentation.py        # prints a table in markdown; about four minutes

An affinity network and FIB-25 from ../shared. The labels that are there are those that the network was trained on, so
the table shows a gain on tissue that it knows. For tissue that it has never seen, sample 1, there are no labels: only
how many decisions augmentation changes there is compared.

Everything is computed on a cube and scored inside, away from its faces by more than the network's context, so that
padding plays no part. Voxels are isotropic, so all 48 variants are legitimate. The segmentation is that of
`chunkinfer.tools.demo.scores`, at its own settings and at the best of several seeds: a mean is softer than what it is a
mean of, and a threshold that suits the one need not suit the other.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from chunkinfer.networks.augment import Augmentation
from chunkinfer.tools.demo.scores import adapted_rand_error, affinities_of, segment

SHARED = Path(__file__).parents[2] / "shared"
IMAGE = SHARED / "data" / "fib25" / "sample2_image.npy"
UNSEEN = SHARED / "data" / "fib25" / "sample1_image.npy"
LABELS = SHARED / "data" / "fib25" / "sample2_labels_z000_180.npz"
MODEL = SHARED / "models" / "fib25_affinity.pt"

OFFSETS = ((-1, 0, 0), (0, -1, 0), (0, 0, -1))
WAYS: dict[str, Augmentation | None] = {
    "none": None,
    "8: flips zyx": Augmentation("zyx", "", OFFSETS),
    "16: and yx transposed": Augmentation("zyx", "yx", OFFSETS),
    "48: and zyx transposed": Augmentation("zyx", "zyx", OFFSETS),
    "8: flips zyx, only flipped back": Augmentation("zyx", ""),
}
MARGIN = 28
"""Voxels around the box that is scored: more than the context of the augmented network, 26."""
SEEDS = (0.8, 0.9, 0.95, 0.97, 0.98, 0.99, 0.995)

Run = Callable[[torch.Tensor], torch.Tensor]


def network(side: int) -> tuple[Run, str]:
    """The network for one cube, by OpenVINO in single precision where it is installed, and what runs it."""
    script = torch.jit.load(MODEL)
    try:
        import openvino
    except ImportError:
        return script, f"torch {torch.__version__}"
    found = openvino.convert_model(script, example_input=torch.zeros(1, 1, 16, 16, 16))
    found.reshape([1, 1, side, side, side])
    threads = torch.get_num_threads()
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads}
    request = openvino.Core().compile_model(found, "CPU", settings).create_infer_request()

    def run(x: torch.Tensor) -> torch.Tensor:
        request.infer([x.numpy()])
        return torch.from_numpy(request.get_output_tensor().data)  # the request's own memory

    return run, f"OpenVINO {openvino.__version__.split('-')[0]} f32"


def cube(volume: NDArray[Any], side: int) -> NDArray[Any]:
    """The middle of a volume; along z, of the sections with labels."""
    starts = [(size - side) // 2 for size in (180, *volume.shape[1:])]
    return volume[tuple(slice(start, start + side) for start in starts)]


def affinities(run: Run, image: NDArray[Any]) -> NDArray[np.float32]:
    """Inside the margin."""
    inside = (0, slice(None), *(slice(MARGIN, -MARGIN),) * 3)
    with torch.inference_mode():
        return run(torch.from_numpy(image[None, None] / np.float32(255)))[inside].numpy().copy()


def known_edges(labels: NDArray[Any]) -> NDArray[np.bool_]:
    """Edges both of whose voxels are labelled, (3, z, y, x)."""
    known = np.repeat((labels > 0)[None], 3, 0)
    for d in range(3):
        rows = np.moveaxis(known[d], d, 0)
        rows[1:] &= np.moveaxis(labels > 0, d, 0)[:-1]
        rows[:1] = False
    return known


def scores(values: NDArray[np.float32], labels: NDArray[Any]) -> dict[str, float]:
    """Binary cross-entropy and wrong decisions of known edges, adapted Rand error at fixed and at the best seed."""
    known, joined = known_edges(labels), affinities_of(labels) > 0
    p = np.clip(values, 1e-6, 1 - 1e-6)
    rand = {seed: adapted_rand_error(segment(values, seed=seed), labels) for seed in SEEDS}
    best = min(rand, key=lambda seed: rand[seed])
    return {
        "loss": float(-np.log(np.where(joined, p, 1 - p))[known].mean(dtype=np.float64)),
        "wrong": float(((values > 0.5) != joined)[known].mean()),
        "rand": rand[0.8],
        "best": rand[best],
        "seed": best,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=148, help="voxels along each axis of the cube, a multiple of 4")
    side = parser.parse_args().side
    if missing := [str(p.relative_to(SHARED.parent)) for p in (IMAGE, UNSEEN, LABELS, MODEL) if not p.exists()]:
        sys.exit(
            f"This benchmark reads {', '.join(missing)} beside the repository: real data, which is not part of it."
        )
    run, engine = network(side)
    image, labels = cube(np.load(IMAGE), side), cube(np.load(LABELS)["labels"], side)
    labels = labels[(slice(MARGIN, -MARGIN),) * 3]
    affinities(run, image)  # warms up
    rows, plain = {}, affinities(run, image)
    for way, augmentation in WAYS.items():
        start = time.process_time()  # of all its threads; the machine may have other work
        values = affinities(augmentation.wrap(run) if augmentation else run, image)
        seconds = time.process_time() - start
        changed = float(((values > 0.5) != (plain > 0.5)).mean())
        rows[way] = scores(values, labels) | {"seconds": seconds, "changed": changed}
    box = side - 2 * MARGIN
    print(f"{engine}, {torch.get_num_threads()} thread(s); {box}^3 voxels of FIB-25 sample 2, seen in training\n")
    print(
        "| variants | CPU time | decisions changed | affinity loss | wrong decisions | "
        f"adapted Rand error, seed 0.8 | at the best seed of {', '.join(map(str, SEEDS))} |"
    )
    print("|---|---|---|---|---|---|---|")
    for way, row in rows.items():
        print(
            f"| {way} | {row['seconds'] / rows['none']['seconds']:.1f} | {100 * row['changed']:.2f} % | "
            f"{row['loss']:.4f} | {100 * row['wrong']:.2f} % | {row['rand']:.3f} | {row['best']:.3f} ({row['seed']}) |"
        )
    unseen = cube(np.load(UNSEEN), side)
    before, after = (affinities(r, unseen) for r in (run, WAYS["8: flips zyx"].wrap(run)))  # type: ignore[union-attr]
    conclude(rows, float(((before > 0.5) != (after > 0.5)).mean()))


def conclude(rows: dict[str, dict[str, float]], unseen: float) -> None:
    """What it gains, from these figures."""
    none, eight, most = (rows[way] for way in ("none", "8: flips zyx", "48: and zyx transposed"))
    print(
        f"\nEight variants change the loss by {100 * (eight['loss'] / none['loss'] - 1):+.1f} % and the wrong "
        f"decisions by {100 * (eight['wrong'] / none['wrong'] - 1):+.1f} %, forty-eight by "
        f"{100 * (most['loss'] / none['loss'] - 1):+.1f} % and {100 * (most['wrong'] / none['wrong'] - 1):+.1f} %. "
        f"The adapted Rand error at the best seed goes from {none['best']:.3f} to {eight['best']:.3f} and "
        f"{most['best']:.3f}."
    )
    print(
        f"\nOn sample 1, which the network has never seen, eight variants change {100 * unseen:.2f} % of the "
        f"decisions; on what it was trained on, {100 * eight['changed']:.2f} %. Whether for the better, labels would "
        "have to say."
    )


if __name__ == "__main__":
    main()
