"""The tracer against the spread of NaN, on the networks of the tests: what is read, and what is said to be read.

    python benchmarks/tracing.py              # prints a table in markdown; a quarter of an hour
    python benchmarks/tracing.py "UNet 2D"    # the networks whose name holds this

Per axis: the context that the tracer states, and how far NaN was seen to spread at several cuts and alignments. Sound:
nowhere beyond the context. Tight: as far as the context, at both ends.
"""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from chunkinfer.errors import ModelError
from chunkinfer.networks.model import open_model
from chunkinfer.networks.receptive_field import check_trace, receptive_field
from tests.lib import monai_nets, nets

HEAD = "| library | network | verdict | context | period | NaN spread | sound | tight | trace, s | verify, s |"


def per_axis(values: list[str]) -> str:
    """One value where all axes have the same."""
    return values[0] if len(set(values)) == 1 else ", ".join(values)


def networks() -> Iterator[tuple[str, str, nets.Entry]]:
    for library, module in (("own", nets), ("MONAI", monai_nets)):
        for name, entry in {**module.EXACT, **module.REFUSED}.items():
            yield library, name, entry
    for name, entry in monai_nets.CLASSIFIERS.items():
        yield "MONAI", name, entry


def row(library: str, name: str, entry: nets.Entry) -> list[str]:
    """The cells of one network."""
    net = entry.make()
    start = time.perf_counter()
    try:
        found = receptive_field(net, channels=entry.channels, ndim=entry.ndim)
    except ModelError as error:
        return [library, name, f"error: {error.what}", *["-"] * 5, f"{time.perf_counter() - start:.1f}", "-"]
    seconds = f"{time.perf_counter() - start:.1f}"
    period = per_axis([str(p) for p in found.period])
    if not found.exact:
        return [library, name, f"refused: {found.reasons[0]}", "-", period, "-", "-", "-", seconds, "-"]
    context = per_axis([f"{low} + {high}" for low, high in found.context])
    model = open_model(net)
    start = time.perf_counter()
    try:
        seen = check_trace(model, model.trace(entry.channels, entry.ndim))
    except ModelError as error:
        return [library, name, "exact", context, period, error.what, "NO", "-", seconds, "-"]
    tight = all(s.reaches(axis) for s, axis in zip(seen, found.axes, strict=True))
    spread = per_axis([f"{s.low} + {s.high}" for s in seen])
    verified = f"{time.perf_counter() - start:.1f}"
    return [library, name, "exact", context, period, spread, "yes", "yes" if tight else "no", seconds, verified]


def main() -> None:
    warnings.simplefilter("ignore")  # of the networks' own code
    torch.set_num_threads(1)
    rows = []
    print(f"{HEAD}\n|{'---|' * HEAD.count(' | ')}---|")
    for library, name, entry in networks():
        if all(part in name for part in sys.argv[1:]):
            rows.append(row(library, name, entry))
            print("| " + " | ".join(rows[-1]) + " |", flush=True)
    exact = [cells for cells in rows if cells[2] == "exact"]
    sound, tight = (sum(cells[k] == "yes" for cells in exact) for k in (6, 7))
    print(f"\n{len(rows)} networks: {len(exact)} exact, {sound} of them sound, {tight} tight; ", end="")
    print(f"{len(rows) - len(exact)} refused.")


if __name__ == "__main__":
    main()
