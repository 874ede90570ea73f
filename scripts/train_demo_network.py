"""Train the demo's network on synthetic volumes, and write its weights.

    python scripts/train_demo_network.py            # 8 to 12 minutes on one core

The volumes have seeds of their own: the demo's, 0, is never among them. Same arguments, same machine, same weights.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch

from chunkinfer.tools.demo.network import WEIGHTS, build
from chunkinfer.tools.demo.scores import affinities_of
from chunkinfer.tools.demo.synthetic import SyntheticEM, synthetic_em

DEMO_SEED = 0


def sample(rng: np.random.Generator, volumes: list[SyntheticEM], patch: tuple[int, int, int]) -> list[torch.Tensor]:
    """A random patch, randomly flipped, transposed and relit: image (1, 1, z, y, x) and affinities (1, 3, z, y, x)."""
    volume = volumes[rng.integers(len(volumes))]
    start = [int(rng.integers(n - p + 1)) for n, p in zip(volume.image.shape, patch, strict=True)]
    box = tuple(slice(a, a + p) for a, p in zip(start, patch, strict=True))
    flips = tuple(int(axis) for axis in range(3) if rng.random() < 0.5)
    turn = (0, 2, 1) if rng.random() < 0.5 else (0, 1, 2)
    image, labels = (np.flip(array[box], flips).transpose(turn) for array in (volume.image, volume.labels))
    image = np.clip(image.astype(np.float32) / 255 * rng.uniform(0.85, 1.15) + rng.uniform(-0.06, 0.06), 0, 1)
    # Affinities are made after the flips: a channel looks back along its axis, whichever way the image was turned.
    return [torch.from_numpy(np.ascontiguousarray(a))[None] for a in (image[None], affinities_of(labels))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=WEIGHTS, help="file to write (default: the bundled one)")
    parser.add_argument("--steps", type=int, default=900, help="training steps (default: %(default)s)")
    parser.add_argument("--volumes", type=int, default=5, help="synthetic volumes to train on (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=100, help="seed; volumes take it and those after it")
    parser.add_argument("--rate", type=float, default=6e-3, help="highest learning rate (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch (default: %(default)s)")
    options = parser.parse_args()
    seeds = range(options.seed, options.seed + options.volumes)
    if DEMO_SEED in seeds:
        parser.error(f"seed {DEMO_SEED} is the demo's own volume: choose --seed above it")

    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    rng = np.random.default_rng(options.seed)
    volumes = [synthetic_em((64, 320, 320), seed=seed) for seed in seeds]

    network = build().train()
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, options.rate, total_steps=options.steps)
    # A membrane voxel that is missed merges two neurites; one too many costs a voxel.
    weight = torch.tensor([4.0, 1.0])
    began, recent = time.perf_counter(), []
    for step in range(1, options.steps + 1):
        image, target = sample(rng, volumes, (18, 96, 96))
        loss = torch.nn.functional.binary_cross_entropy_with_logits(
            network.logits(image), target, weight=weight[target.long()]
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        recent.append(loss.item())
        if step % 25 == 0 or step == options.steps:
            print(f"step {step:5d}  loss {np.mean(recent):.4f}  {time.perf_counter() - began:6.0f} s", flush=True)
            recent.clear()
    torch.save(network.eval().state_dict(), options.out)
    print(f"{options.out}: {options.out.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
