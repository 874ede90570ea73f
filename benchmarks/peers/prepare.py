"""Volumes of every size, the network in the form that the peers read, and what results are compared with.

    python benchmarks/peers/prepare.py --image em.npy --model unet.pt --sides 248 496 --folder work

The image is cut to a cube and, for larger sides, mirrored, so that it stays continuous. Up to --whole voxels a side,
the reference is the network on the whole volume at once, in torch and float32. Beyond, where that takes too much
memory, it is the network on boxes with --margin more voxels around them, ended by the volume's faces: more than the
network's context, and from multiples of its period on, so that they equal the whole. They are spread at random, but for
one at the volume's first corner, one at its last and one at its centre, where the mirrors meet.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np

PERIOD = 4
"""Of the network, in voxels: boxes start at multiples."""

Span = tuple[int, int]


def cube(image: np.ndarray, side: int, largest: int) -> np.ndarray:
    """A cube out of the image, of any side: mirrored where it is larger than ``largest``."""
    part = image[(slice(min(side, largest)),) * 3]
    return np.pad(part, (0, side - part.shape[0]), mode="symmetric")


def places(side: int, box: int, count: int) -> list[list[Span]]:
    """Boxes to compare in, as spans of each axis."""
    box = min(box, side)
    steps = (side - box) // PERIOD
    rng = np.random.default_rng(0)
    fixed = [[0] * 3, [steps] * 3, [steps // 2] * 3]
    drawn = rng.integers(0, steps + 1, (max(count - len(fixed), 0), 3)).tolist()
    return [[(PERIOD * i, PERIOD * i + box) for i in corner] for corner in [*fixed, *drawn][:count]]


def on_box(network: Any, volume: np.ndarray, spans: list[Span], margin: int) -> np.ndarray:
    """The network on a box of the volume, seen with a margin around it."""
    import torch

    seen = [(max(0, a - margin), min(n, b + margin)) for (a, b), n in zip(spans, volume.shape, strict=True)]
    values = volume[tuple(slice(*s) for s in seen)].astype(np.float32) / np.float32(255)
    with torch.inference_mode():
        found = network(torch.from_numpy(values)[None, None])[0].numpy()
    inner = (slice(a - s[0], b - s[0]) for (a, b), s in zip(spans, seen, strict=True))
    return found[(slice(None), *inner)]


def scaled(network: Any) -> Any:
    """The network with the division by 255 in front: the peers feed voxels as they are."""
    import torch

    class Scaled(torch.nn.Module):
        def __init__(self, inner: torch.nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.inner(x / 255)

    return torch.jit.script(Scaled(network))


def prepare(asked: argparse.Namespace) -> dict[str, Any]:
    """Write everything; seconds of the network on the whole, by side."""
    import torch

    import chunkinfer as ci

    torch.set_num_threads(asked.threads or torch.get_num_threads())
    network = torch.jit.load(str(asked.model), map_location="cpu").eval()
    scaled(network).save(str(asked.folder / "scaled.pt"))
    image, seconds = np.load(asked.image, mmap_mode="r"), {}
    for side in asked.sides:
        path = asked.folder / f"volume-{side}.npy"
        np.save(path, cube(image, side, asked.largest))
        ci.save(ci.open_volume(path), path.with_suffix(".zarr"), progress=False)
        volume, folder = np.load(path, mmap_mode="r"), asked.folder / f"reference-{side}"
        folder.mkdir()
        boxes = [[(0, side)] * 3] if side <= asked.whole else places(side, asked.box, asked.boxes)
        start = time.perf_counter()
        for number, spans in enumerate(boxes):
            np.save(folder / f"{number}.npy", on_box(network, volume, spans, asked.margin))
        if side <= asked.whole:
            seconds[side] = time.perf_counter() - start
        (folder / "boxes.json").write_text(json.dumps(boxes))
    return {"seconds": seconds, "torch": torch.__version__}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image", type=Path, required=True, help="a .npy of uint8, (z, y, x)")
    parser.add_argument("--model", type=Path, required=True, help="TorchScript")
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--sides", type=int, nargs="+", required=True)
    parser.add_argument("--largest", type=int, default=248, help="side of the cube that is cut from the image")
    parser.add_argument("--whole", type=int, default=248, help="side up to which the network runs on the whole at once")
    parser.add_argument("--box", type=int, default=96, help="side of the boxes to compare in beyond that")
    parser.add_argument("--boxes", type=int, default=8)
    parser.add_argument("--margin", type=int, default=32)
    parser.add_argument("--threads", type=int, default=0)
    print(json.dumps(prepare(parser.parse_args())), flush=True)


if __name__ == "__main__":
    main()
