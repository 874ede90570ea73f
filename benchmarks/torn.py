"""A writer that is killed a hundred times: is any recorded block torn, and does the output end right?

    python benchmarks/torn.py                 # 100 kills; about fifteen minutes
    python benchmarks/torn.py --trials 20 --seed 3

A process copies a volume into sharded zarr and is killed with -9 at a random moment; then every block that the ledger
lists is read back and its checksum compared; then another process goes on. When all is copied, it begins anew. Every
tenth time a second writer is started beside the first, and must be refused.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

WRITER = """
import sys
import chunkinfer as ci
from chunkinfer.errors import OutputInUse
if __name__ == "__main__":
    volume = ci.open_volume(sys.argv[1])
    print("ready", flush=True)
    try:
        new = "new" in sys.argv
        report = ci.save(volume, sys.argv[2], chunks=(16,) * 3, shards=(48,) * 3, progress=False, overwrite=new)
        print(f"computed {report.computed}.", flush=True)
    except OutputInUse:
        print("refused", flush=True)
"""


def writer(volume: Path, output: Path, *more: str) -> subprocess.Popen[str]:
    """A process that copies; it has imported everything when this returns."""
    command = [sys.executable, "-c", WRITER, str(volume), str(output), *more]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    if (line := process.stdout.readline()) != "ready\n":
        raise SystemExit(line + process.stdout.read())
    return process


def run(trials: int, seed: int, folder: Path) -> dict[str, Any]:
    """Kill and look, so many times."""
    import zarr

    import chunkinfer as ci

    chance, volume, output = random.Random(seed), folder / "in.zarr", folder / "out.zarr"
    values = np.random.default_rng(seed).integers(0, 255, (384, 768, 768), np.uint8)
    zarr.create_array(volume, data=values, chunks=(64,) * 3, dimension_names=["z", "y", "x"])
    names = ("kills", "blocks looked at", "torn", "completed", "wrong", "second writers", "refused")
    found = dict.fromkeys(names, 0)
    new = True
    while found["kills"] < trials:
        process = writer(volume, output, *(["new"] if new else []))
        if found["kills"] % 10 == 5:
            found["second writers"] += 1
            second = writer(volume, output)
            told, _ = second.communicate(timeout=120)
            # Or it found that the first had stored everything.
            found["refused"] += "refused" in told or "computed 0." in told
        time.sleep(chance.uniform(0.5, 4.0))
        process.kill()
        process.communicate()
        found["kills"] += 1
        new = process.returncode == 0
        found["completed"] += new
        if (output / ".chunkinfer" / "ledger.json").exists():
            report = ci.verify(output, progress=False)
            found["blocks looked at"] += report.checked
            found["torn"] += len(report.torn)
            if ci.status(output).missing == 0:
                found["wrong"] += not np.array_equal(ci.open_volume(output).values, values)
                new = True
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = run(asked.trials, asked.seed, Path(folder))
    if asked.json:
        print(json.dumps(found))
        return
    print("| | |\n|---|---|")
    for name, value in found.items():
        print(f"| {name} | {value:,} |")


if __name__ == "__main__":
    main()
