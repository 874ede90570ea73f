"""Networks drawn at random, on volumes of any length, against the network on the whole volume.

    python benchmarks/lengths.py [--draws 10000] [--first 0]

Each network (tests/lib/drawn_nets.py) sees four volumes, most of them with a patch that cuts them. What is not equal to
the network on the volume, to 1e-9 of its values in double precision, has to be refused before it runs; where the
network refuses the volume, the plan has to say which longer one is meant, and that one is compared.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections import Counter
from pathlib import Path
from random import Random

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch

from tests.lib.drawn_nets import compare, draw, volume_for

VOLUMES = 4
"""Volumes a network is given."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--draws", type=int, default=10_000)
    parser.add_argument("--first", type=int, default=0, help="Seed of the first network.")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="Stop after so long.")
    given = parser.parse_args()
    torch.set_num_threads(1)
    outcomes: Counter[tuple[int, str]] = Counter()
    reasons: Counter[str] = Counter()
    wrong: list[str] = []
    started, networks = time.monotonic(), 0
    for seed in range(given.first, given.first + given.draws // VOLUMES):
        rng = Random(seed)
        ndim = rng.choice([2, 2, 3])
        net = draw(rng, ndim)
        networks += 1
        for k in range(VOLUMES):
            volume, patch = volume_for(rng, ndim)
            asked = patch and list(patch)
            outcome = compare(net, volume, patch)
            kind = f"{outcome.kind}, cut" if outcome.patches > 1 else outcome.kind
            outcomes[ndim, kind] += 1
            if outcome.kind == "refused":
                reasons[
                    re.sub(r"\d+", "N", outcome.detail.split(": ", 1)[1].splitlines()[-1].split(": ", 1)[-1])[:90]
                ] += 1
            elif outcome.kind in ("different", "crash"):
                wrong.append(
                    f"- seed {seed}, volume {k} of {volume.shape}, patch {asked}: {outcome.kind}: {outcome.detail}"
                )
        if time.monotonic() - started > 60 * given.minutes:
            break
    print(__doc__.split("\n\n")[0])  # type: ignore[union-attr]
    print(f"\n{sum(outcomes.values())} draws of {networks} networks, seeds from {given.first} on.\n")
    print("| | 2D | 3D |\n|---|---|---|")
    said = {
        "equal, cut": "equal to the network on the volume, cut into patches",
        "equal": "equal, in one patch",
        "padded, cut": "equal on the longer volume that the plan names, cut into patches",
        "padded": "the same, in one patch",
        "refused": "refused before anything ran",
        "different": "**different in silence**", "different, cut": "**different in silence**, cut",
        "crash": "**an error of somebody else's**",
    }  # fmt: skip
    for kind, text in said.items():
        print(f"| {text} | {outcomes[2, kind]} | {outcomes[3, kind]} |")
    print("\nRefused, the most frequent reasons:\n")
    for reason, count in reasons.most_common(12):
        print(f"- {count}: {reason}")
    if wrong:
        print("\nWhat must not be:\n")
        print("\n".join(wrong))


if __name__ == "__main__":
    main()
