"""What the kernel's own work costs beside the network: gathering, blending, converting, and whole blocks without one.

    python benchmarks/pieces.py                         # prints a table in markdown; about a minute
    pytest benchmarks/pieces.py --benchmark-autosave    # pytest-benchmark's own table, kept ...
    pytest benchmarks/pieces.py --benchmark-compare     # ... and compared with the last one, after a change

One thread. The table shows the best of many runs: others use the machine too. "Plain" is numpy or torch, operator by
operator, with memory made beforehand; for whole blocks it is the canvas that GPUs use, on the CPU.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from chunkinfer.geometry.boxes import Box
from chunkinfer.geometry.contract import AxisContract
from chunkinfer.geometry.lattice import PatchLattice, blended_axis, exact_axis
from chunkinfer.tiling.kernel import fused
from chunkinfer.tiling.kernel.blend_weights import axis_weights
from chunkinfer.tiling.kernel.block import run_block, start_block
from chunkinfer.tiling.kernel.block_task import BlockTask
from chunkinfer.tiling.kernel.job import Job
from chunkinfer.tiling.kernel.normalize import Affine
from chunkinfer.tiling.kernel.outputs import Output

BLOCK, PATCH, OVERLAP, CHANNELS = (36, 224, 224), (20, 128, 128), (4, 32, 32), 3
SECONDS, ROUNDS = 3.0, 20
"""Each piece is timed for so long, and at least so many times."""

ORIGIN, WHOLE = (0, 0, 0), Box.of_shape(BLOCK)
FLOAT, BYTE = np.dtype(np.float32), np.dtype(np.uint8)


@dataclass(frozen=True)
class Piece:
    """A piece of the kernel's work, done by plain operators and by the kernel."""

    name: str
    plain: Callable[[], Any]
    kernel: Callable[[], Any]


def lattice(exact: bool) -> PatchLattice:
    """Eight blended patches, or exact ones with half the overlap as context at either side."""
    axes = []
    for n, p, o in zip(BLOCK, PATCH, OVERLAP, strict=True):
        contract = AxisContract(1, Fraction(1), o // 2, o // 2, (0, 0), (0,), 1)
        axes.append(exact_axis(contract, n, p) if exact else blended_axis(contract, n, p, o))
    return PatchLattice(tuple(axes))


def patch_pieces() -> Iterator[Piece]:
    """One patch in, one patch out."""
    rng = np.random.default_rng(0)
    data = rng.integers(0, 256, (1, *BLOCK), np.uint8)
    patch, values = np.empty((1, *PATCH), FLOAT), rng.random((CHANNELS, *PATCH), FLOAT)
    inner = tuple(slice(4, 4 + n) for n in PATCH)
    offset, scale = np.float32(0), np.float32(255)

    def gather_plain() -> None:
        np.subtract(data[(slice(None), *inner)], offset, out=patch)
        np.divide(patch, scale, out=patch)

    yield Piece(
        "gather: uint8 to normalised float32", gather_plain, lambda: fused.gather(data, (4, 4, 4), patch, offset, scale)
    )
    total, scratch = torch.zeros((CHANNELS, *BLOCK)), torch.empty((CHANNELS, *PATCH))
    by_z, by_y, by_x = (axis_weights("hann", a, 0).astype(FLOAT) for a in lattice(exact=False).axes)
    weights = [
        torch.from_numpy(w).reshape([-1 if i == d else 1 for i in range(4)])
        for d, w in ((1, by_z), (2, by_y), (3, by_x))
    ]
    source, target = torch.from_numpy(values), total[(slice(None), *inner)]

    def blend_plain() -> None:
        torch.mul(source, weights[0], out=scratch)
        target.add_(scratch.mul_(weights[1]).mul_(weights[2]))

    sums = total.numpy()
    yield Piece(
        "blend: weigh, add, look for NaN",
        lambda: (blend_plain(), bool(torch.isfinite(source.sum()))),
        lambda: fused.add(sums, (4, 4, 4), values, ORIGIN, PATCH, by_z, by_y, by_x, PATCH),
    )
    result = np.empty((CHANNELS, *BLOCK), BYTE)
    stored = torch.from_numpy(result)[(slice(None), *inner)]

    def keep_plain() -> None:
        torch.aminmax(source)
        stored.copy_(torch.mul(source, 255, out=scratch).round_().clamp_(0, 255))

    yield Piece(
        "keep: an exact patch to uint8, range looked at",
        keep_plain,
        lambda: fused.quantise(values, ORIGIN, result, (4, 4, 4), PATCH),
    )


def block_pieces() -> Iterator[Piece]:
    """The end of a block, and whole blocks with a network that returns the same memory each time."""
    rng = np.random.default_rng(0)
    sums = rng.random((CHANNELS, *BLOCK), FLOAT)
    tensor, scratch = torch.from_numpy(sums), torch.empty((CHANNELS, *BLOCK))

    def quantise_plain() -> torch.Tensor:
        torch.aminmax(tensor)
        return torch.mul(tensor, 255, out=scratch).round_().clamp_(0, 255).to(torch.uint8)

    yield Piece(
        "quantise: a block of sums to uint8",
        quantise_plain,
        lambda: fused.quantise(sums, ORIGIN, np.empty(sums.shape, BYTE), ORIGIN, BLOCK),
    )
    for exact in (False, True):
        for dtype, output, stored in (
            (FLOAT, Output(), "float32"),
            (BYTE, Output(), "uint8"),
            (BYTE, Output(argmax=True), "classes"),
        ):
            yield null_block(exact, dtype, output, stored, rng)


def null_block(exact: bool, dtype: np.dtype[Any], output: Output, stored: str, rng: np.random.Generator) -> Piece:
    """A whole block; the network costs nothing."""
    patches = lattice(exact)
    job = Job(patches, "hann", Affine(0, 255), 1, CHANNELS, FLOAT, dtype, 1, "cpu", 1, output)
    data = rng.integers(0, 256, (1, *BLOCK), np.uint8)
    values = torch.from_numpy(rng.random((1, CHANNELS, *PATCH), FLOAT))

    def network(x: torch.Tensor) -> torch.Tensor:
        return values

    def plain() -> object:
        task = BlockTask.of(job, data, WHOLE, WHOLE)
        started = start_block(network, task, torch.from_numpy(data))
        return started.arrived(started.tensor.numpy())

    kind = "exact" if exact else "blended"
    return Piece(
        f"whole block, {kind}, {stored}, {len(patches)} patches",
        plain,
        lambda: run_block(network, BlockTask.of(job, data, WHOLE, WHOLE)),
    )


PIECES = [*patch_pieces(), *block_pieces()]


@pytest.mark.parametrize("way", ["plain", "kernel"])
@pytest.mark.parametrize("piece", PIECES, ids=lambda piece: piece.name)
def test_piece(benchmark: Any, piece: Piece, way: str) -> None:
    """Times a piece, as long as pytest-benchmark's options say."""
    torch.set_num_threads(1)
    benchmark.group = piece.name
    with torch.inference_mode():
        benchmark(getattr(piece, way))


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "pieces.json"
        options = [f"--benchmark-json={file}", f"--benchmark-max-time={SECONDS}", f"--benchmark-min-rounds={ROUNDS}"]
        code = subprocess.run([sys.executable, "-m", "pytest", "-q", __file__, *options], stdout=subprocess.DEVNULL)
        code.check_returncode()
        found = json.loads(file.read_text())["benchmarks"]
    timed = {(b["group"], b["params"]["way"]): 1000 * b["stats"]["min"] for b in found}
    size = " x ".join(map(str, PATCH))
    print(f"Patch {size}, block {' x '.join(map(str, BLOCK))}, {CHANNELS} channels, uint8 in.\n")
    print("| piece | plain, ms | kernel, ms | times as fast |\n|---|---|---|---|")
    for piece in PIECES:
        plain, kernel = timed[piece.name, "plain"], timed[piece.name, "kernel"]
        print(f"| {piece.name} | {plain:.2f} | {kernel:.2f} | {plain / kernel:.1f} |")


if __name__ == "__main__":
    main()
