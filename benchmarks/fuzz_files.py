"""Files with changed metadata: how many are read as their own libraries do, and how many are refused.

    python benchmarks/fuzz_files.py                      # prints a table in markdown; a minute
    python benchmarks/fuzz_files.py --draws 50 --seed 7 --only HDF5 --show

What is changed and who reads it is in tests/lib/storage/fuzz_files.py; fuzzing.py beside it says what equal means.
"""

from __future__ import annotations

import argparse
import logging
import random
import sys
import tempfile
import warnings
from pathlib import Path

TESTS = Path(__file__).parents[1] / "tests"
sys.path.insert(0, str(TESTS.parent))

from tests.lib.storage.fuzz_files import FILES  # noqa: E402
from tests.lib.storage.fuzzing import Format, Tried, tried  # noqa: E402


def run(format: Format, draws: int, seed: int, show: bool) -> Tried:
    """Change a file so many times."""
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
    parser.add_argument("--show", action="store_true", help="also why files were refused")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable()
    print("# Files with changed metadata\n")
    print(
        "One or two fields of a header, tags or attributes are given another value, or files other names. What is then"
    )
    print("read here is compared with what the format's own library reads: shape, axes, voxel size, unit, position and")
    print("values. `python benchmarks/fuzz_files.py` draws them anew.\n")
    print("| format | mutations | equal | refused | different | beside |")
    print("|---|---|---|---|---|---|")
    for format in FILES:
        if options.only in (None, format.name):
            total = run(format, options.draws, options.seed, options.show)
            beside = ", ".join(reader.__name__.removeprefix("by_") for reader in format.readers)
            numbers = " | ".join(str(total.counts[name]) for name in ("equal", "refused", "different"))
            print(f"| {format.name} | {options.draws} | {numbers} | {beside} |", flush=True)


if __name__ == "__main__":
    main()
