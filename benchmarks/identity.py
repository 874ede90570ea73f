"""What a network is: digests of networks and functions that differ in one thing, in processes of their own.

    python benchmarks/identity.py                 # prints tables in markdown; some minutes
    python benchmarks/identity.py --count 6       # of each kind so many networks

Every two of a kind differ in one value, and compute something else. Each process has another PYTHONHASHSEED.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from itertools import combinations
from pathlib import Path
from statistics import median

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1]))

from chunkinfer.networks.identity.copying import full_copy
from chunkinfer.networks.identity.identity import identity_of
from chunkinfer.networks.model import open_model
from tests.lib import differing

SEEDS = (1, 4242)


def in_a_process(seed: int, count: int) -> dict[str, list[str]]:
    """The digests of all kinds, as another process sees them."""
    environment = {**os.environ, "PYTHONHASHSEED": str(seed), "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-W", "ignore", differing.__file__, str(count)]
    found: dict[str, list[str]] = json.loads(
        subprocess.run(command, env=environment, check=True, capture_output=True).stdout
    )
    return found


def large() -> nn.Module:
    """200 MB of weights."""
    return nn.Sequential(nn.Conv3d(1, 512, 3, padding=1), nn.Conv3d(512, 3600, 3, padding=1), nn.Conv3d(3600, 1, 1))


def seconds(work: object) -> float:
    """The median of five runs."""
    taken = []
    for _ in range(5):
        start = time.perf_counter()
        work()  # type: ignore[operator]
        taken.append(time.perf_counter() - start)
    return median(taken)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=30)
    count = parser.parse_args().count
    first, second = (in_a_process(seed, count) for seed in SEEDS)
    print("| differ in | networks | pairs | equal digests | other digests in another process |")
    print("|---|---|---|---|---|")
    total = [0, 0, 0, 0]
    for name, digests in first.items():
        pairs = list(combinations(digests, 2))
        equal = sum(a == b for a, b in pairs)
        other = sum(a != b for a, b in zip(digests, second[name], strict=True))
        row = [len(digests), len(pairs), equal, other]
        total = [a + b for a, b in zip(total, row, strict=True)]
        print(f"| {name} | {' | '.join(map(str, row))} |")
    print(f"| **{len(first)} kinds** | {' | '.join(map(str, total))} |")
    net = large()
    model = open_model(net)
    assert model.module is not None
    print("\n| a network of 200 MB, 2 threads | seconds |\n|---|---|")
    print(f"| copied by infer | {seconds(lambda: full_copy(net)):.2f} |")
    print(f"| its digest | {seconds(lambda: identity_of(net)):.2f} |")
    print(f"| looked at again before it runs, in the same process | {seconds(model.module.identity):.3f} |")
    net = differing.Base()
    print(f"| the digest of two small convolutions | {seconds(lambda: identity_of(net)):.3f} |")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
