"""Chunked stores with changed metadata: how many are read as their own libraries do, and how many are refused.

    python benchmarks/fuzz_stores.py                      # prints a table in markdown; some minutes
    python benchmarks/fuzz_stores.py --draws 50 --seed 7 --only "zarr v2" --show

What is changed and who reads it is in tests/lib/storage/fuzz_stores.py; fuzzing.py beside it says what equal means.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import warnings
from pathlib import Path

TESTS = Path(__file__).parents[1] / "tests"
sys.path.insert(0, str(TESTS.parent))

from tests.lib.storage.fuzz_stores import STORES  # noqa: E402
from tests.lib.storage.fuzzing import Format, Tried, tried  # noqa: E402


def run(format: Format, draws: int, seed: int, show: bool) -> Tried:
    """Change a store so many times."""
    total = Tried()
    with tempfile.TemporaryDirectory() as folder:
        for draw in range(draws):
            outcome = tried(format, Path(folder), random.Random(f"{seed} {draw}"))
            total.add(outcome)
            if outcome.verdict == "different" or (show and outcome.verdict == "refused"):
                print(f"{draw} {outcome.verdict}: {outcome.change}\n    {outcome.detail}", file=sys.stderr)
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", help="one format")
    parser.add_argument("--show", action="store_true", help="also why stores were refused")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    print("# Chunked stores with changed metadata\n")
    print("One or two members of the metadata are deleted, added, or given another value. The store is then read here,")
    print("and by the format's own library; `python benchmarks/fuzz_stores.py` draws them anew.\n")
    print("| format | mutations | equal | refused | different | beside |")
    print("|---|---|---|---|---|---|")
    for format in STORES:
        if options.only in (None, format.name):
            total = run(format, options.draws, options.seed, options.show)
            beside = ", ".join(reader.__name__.replace("_", " ") for reader in format.readers)
            numbers = " | ".join(str(total.counts[name]) for name in ("equal", "refused", "different"))
            print(f"| {format.name} | {options.draws} | {numbers} | {beside} |", flush=True)


if __name__ == "__main__":
    main()
