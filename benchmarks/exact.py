"""Exact tiling against blending with the usual overlap, a quarter of the patch: cost and error, for three networks.

    python benchmarks/exact.py        # prints a table in markdown; about ten minutes

Each network runs over the same 160^3 voxels, by torch, store to store: blended in patches of 96, exact in the same
patches where their context leaves anything, and exact in the patches that the plan chooses for 1500 MiB, or for 3000
where those hold none. The cost is the process's CPU time per output voxel; the error is against the network on the
whole volume at once. Two networks have random weights: their errors are of arithmetic that nobody trained.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

import chunkinfer as ci
from chunkinfer.errors import PlanError
from memory import network
from overlap import IMAGE, MODEL
from residual import residual_unet

SIDE, PATCH = 160, 96
MEMORY = {"residual U-Net": "3000 MiB"}
"""Of the plan, where 1500 MiB hold no patch of a network."""


def networks() -> dict[str, Any]:
    """Name -> network, in eval mode."""
    found: dict[str, Any] = {"U-Net, 8 to 32 channels": network("unet8"), "residual U-Net": residual_unet().eval()}
    if MODEL.exists():
        found = {"FIB-25 affinities, trained": torch.export.load(MODEL).module(), **found}
    return found


def whole(net: Any, values: np.ndarray) -> np.ndarray:
    """The network on all of it at once, (c, z, y, x)."""
    with torch.inference_mode():
        x = torch.from_numpy(values)[None, None].float() / 255
        return np.asarray(net(x)[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="of the networks, by the start of its name")
    only = parser.parse_args().only or ""
    torch.set_num_threads(2)
    rng = np.random.default_rng(0)
    values = np.load(IMAGE)[:SIDE, :SIDE, :SIDE] if IMAGE.exists() else rng.integers(0, 255, (SIDE,) * 3, np.uint8)
    ways: dict[str, dict[str, Any]] = {
        "blended": {"patch": PATCH, "overlap": PATCH // 4},
        "exact, same patch": {"patch": PATCH},
        "exact, planned": {},
    }
    print(f"{SIDE}^3 voxels of {'FIB-25' if IMAGE.exists() else 'noise'}; torch {torch.__version__}\n")
    print("| network | way | patch | patch voxels per voxel | CPU us per voxel | of blended | max error | flipped |")
    print("|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        ci.save(values, Path(folder) / "in.zarr", progress=False)
        volume = ci.open_volume(Path(folder) / "in.zarr")
        for name, net in networks().items():
            if not name.startswith(only):
                continue
            reference, blended = whole(net, values), 0.0
            for way, settings in ways.items():
                if way == "exact, planned":
                    settings = {"memory": MEMORY.get(name, "1500 MiB")}
                try:
                    plan = ci.plan(volume, net, **settings)
                except PlanError as error:
                    print(f"| {name} | {way} | {PATCH} | {error.what} | | | | |", flush=True)
                    continue
                output = Path(folder) / "out.zarr"
                lazy, start = ci.infer(volume, net, **settings), time.process_time()
                ci.save(lazy, output, overwrite=True, progress=False)
                cost = (time.process_time() - start) / SIDE**3 * 1e6
                result = ci.open_volume(output).values
                blended = blended or cost
                flipped = np.mean((result > 0.5) != (reference > 0.5))
                patch = " x ".join(map(str, plan.lattice.patch))
                print(
                    f"| {name} | {way} | {patch} | {plan.recompute:.2f} | {cost:.2f} "
                    f"| {cost / blended:.2f} | {np.abs(result - reference).max():.1g} | {flipped:.3%} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
