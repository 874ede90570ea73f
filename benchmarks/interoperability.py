"""Every format, written here and read by other tools, and the reverse; compared voxel by voxel.

    python -m venv tools
    tools/bin/pip install cloud-volume blosc zarr tensorstore ome-zarr ome-zarr-models yaozarrs "ngff-zarr[validate]" \
        z5py zarr-n5
    python benchmarks/interoperability.py --python tools/bin/python    # prints tables in markdown; about a minute

The other tools have an environment of their own: some pin versions that this package does not have, and nothing of this
package shall help them. Neuroglancer is the page of its Python package, which opens each store by its URL in a
Chromium without a window. What each tool does is in tests/lib/exchange/foreign.py and page.py, a few lines each,
and the volumes are in cases.py; CI runs the part that needs no other environment.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from distributed import Client

from chunkinfer.errors import ChunkinferError

TESTS = Path(__file__).parents[1] / "tests"
sys.path.insert(0, str(TESTS.parent))

from tests.lib.exchange import foreign  # noqa: E402
from tests.lib.exchange.cases import ROWS, Row, about, array_of, differences, expected, read_here, write  # noqa: E402
from tests.lib.exchange.page import page  # noqa: E402

OME, ZARR = ("ome-zarr-0.4", "ome-zarr"), ("zarr2", "zarr3", "ome-zarr-0.4", "ome-zarr")
ALL = (*ZARR, "n5", "precomputed")
READERS: dict[str, dict[str, tuple[str, ...]]] = {
    "tensorstore": {"tensorstore": ALL},
    "zarr-python": {"zarr": ZARR},
    "cloud-volume": {"cloud-volume": ALL},
    "ome-zarr-py, ngff-zarr": {"ome-zarr": OME, "ngff-zarr": OME},
    "z5py, zarr-n5": {"z5py": ("n5",), "zarr-n5": ("n5",)},
    "OME-Zarr validation": {"yaozarrs": OME, "ome-zarr-models": OME, "schemas": OME},
    "Neuroglancer": {"Neuroglancer": ALL},
}
"""Column -> its tools, and the formats that each knows."""

WRITERS: dict[str, dict[str, tuple[str, ...]]] = {
    "tensorstore": {"tensorstore": ("zarr2", "zarr3", "n5", "precomputed")},
    "zarr-python": {"zarr": ("zarr2", "zarr3")},
    "cloud-volume": {"cloud-volume": ("precomputed",)},
    "ome-zarr-py, ngff-zarr": {"ome-zarr": OME, "ngff-zarr": OME},
    "z5py": {"z5py": ("n5",)},
}
FILES = {
    "OME-TIFF": ("tifffile", "v.ome.tif", (1, 2)),
    "HDF5": ("h5py", "v.h5", (1, 2)),
    "NIfTI": ("nibabel", "v.nii", (1, 2)),
    "NIfTI, gzip": ("nibabel", "v.nii.gz", (1, 2)),
    "MRC": ("mrcfile", "v.mrc", (1,)),
    "npy": ("numpy", "v.npy", (1, 2)),
    "PNG sections": ("pillow", "sections", (1,)),
}
"""Only read: format -> library, name, channels."""

LETTERS = {
    "values": "v", "voxel_size": "s", "offset": "o", "centre": "o", "channels": "n", "kind": "k",
}  # fmt: skip
PACKAGES = (
    "tensorstore",
    "zarr",
    "cloud-volume",
    "ome-zarr",
    "ngff-zarr",
    "z5py",
    "zarr-n5",
    "yaozarrs",
    "ome-zarr-models",
)


@dataclass(frozen=True)
class Outcome:
    """What came of one level of one volume."""

    volume: str
    equal: tuple[str, ...] = ()
    """What was compared, and is equal."""
    wrong: str = ""
    """What differs, or why nothing was compared."""


def run(python: str, jobs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Have jobs done by a tool in an environment of its own."""
    if not jobs:
        return []
    # Nothing of the project's environment, nor a user's settings, reaches the tool.
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    done = subprocess.run(
        [python, str(TESTS / "lib" / "exchange" / "foreign.py")], input=json.dumps(jobs), text=True,
        capture_output=True, env=clean, timeout=600,
    )  # fmt: skip
    if done.returncode:
        return [{"error": f"the process ended with code {done.returncode}"} for _ in jobs]
    answers: list[dict[str, Any]] = json.loads(done.stdout)
    for answer in answers:
        if "values" in answer:
            answer["values"] = np.load(answer["values"])
    return answers


def judged(volume: str, told: Mapping[str, Any], wanted: Mapping[str, Any], tolerance: int) -> Outcome:
    """What a reader told beside what it should."""
    if "error" in told:
        return Outcome(volume, (), f"not read: {_short(told['error'])}")
    found = differences(told, wanted, tolerance)
    equal = tuple(name for name in told if name not in found and name in LETTERS)
    return Outcome(volume, equal, "; ".join(f"{name.replace('_', ' ')} {how}" for name, how in found.items()))


def merged(outcomes: list[Outcome]) -> str:
    """A cell."""
    letters = [letter for name, letter in LETTERS.items() if any(name in outcome.equal for outcome in outcomes)]
    equal = f"equal: {' '.join(dict.fromkeys(letters))}" if letters else "valid"
    if not any(outcome.wrong for outcome in outcomes):
        return equal if outcomes else "-"
    groups: dict[str, list[str]] = {}
    for outcome in outcomes:
        own = " ".join(dict.fromkeys(LETTERS[name] for name in LETTERS if name in outcome.equal))
        cell = "; ".join(filter(None, (own and f"equal: {own}", outcome.wrong and f"**{outcome.wrong}**")))
        groups.setdefault(cell, []).append(outcome.volume)
    if len(groups) == 1:
        return next(iter(groups))
    return "<br>".join(f"{' and '.join(names)}: {cell}" for cell, names in groups.items())


def together(cells: Mapping[str, str]) -> str:
    """One cell of those of several tools."""
    same = set(cells.values())
    return "<br>".join(same if len(same) == 1 else [f"{tool}: {cell}" for tool, cell in cells.items()]) or "-"


def _short(text: str) -> str:
    """An error's first line, without folders."""
    line = re.sub(r"/\S*/interoperability\w*/", "", text.splitlines()[0]).strip()
    return (line[:100] + " ..." if len(line) > 100 else line).replace("|", r"\|").replace("*", r"\*")


def named(channels: int, level: int) -> str:
    """A level of a volume."""
    return f"{channels} channel{'s' * (channels > 1)}{', level 1' * level}"


def reading(folder: Path, python: str) -> list[list[str]]:
    """Rows of the first table: written here, read there."""
    stores: dict[tuple[str, int], Path] = {}
    for number, (name, row) in enumerate(ROWS.items()):
        for channels in row.channels:
            path = stores[name, channels] = folder / f"{number}" / f"{channels}"
            path.parent.mkdir(exist_ok=True)
            if row.format == "n5":  # a container, which z5py demands
                (path.parent / "attributes.json").write_text('{"n5": "2.0.0"}')
            write(row, channels, path)

    cells: dict[tuple[str, str], list[Outcome]] = {}
    with page() as shown:
        for tool, formats in chain.from_iterable(tools.items() for tools in READERS.values()):
            todo = [
                (name, channels, level)
                for name, row in ROWS.items()
                for channels in row.channels
                for level in range(row.levels)
                if row.format in formats
            ]
            jobs = [
                {"tool": tool, "path": str(stores[name, channels]), "format": ROWS[name].format, "level": level,
                 "voxels": str(folder / f"{tool}{k}.npy")}
                for k, (name, channels, level) in enumerate(todo)
            ]  # fmt: skip
            if tool == "Neuroglancer":
                answers = [shown.read(ROWS[name], stores[name, channels], level) for name, channels, level in todo]
            else:
                answers = run(python, jobs)
            for (name, channels, level), told in zip(todo, answers, strict=True):
                row, path = ROWS[name], stores[name, channels]
                # The coarser levels' voxels are compared with an oracle in tests/runs/pyramids.
                values = read_here(path, level)["values"] if level or row.tolerance else array_of(row, channels)
                judgement = judged(named(channels, level), told, expected(row, channels, level, values), row.tolerance)
                cells.setdefault((name, tool), []).append(judgement)
    table = []
    for name in ROWS:
        line = [name]
        for tools in READERS.values():
            known = {tool: merged(cells[name, tool]) for tool in tools if (name, tool) in cells}
            line.append(together(known))
        table.append(line)
    return table


def writing(folder: Path, python: str) -> list[list[str]]:
    """Rows of the second table: written there, read here."""
    table = []
    for name, row in ROWS.items():
        line = [name]
        for tools in WRITERS.values():
            known = [tool for tool, formats in tools.items() if row.format in formats]
            line.append(together({tool: merged(_backwards(folder, python, tool, row, name)) for tool in known}))
        table.append(line)
    return table


def _backwards(folder: Path, python: str, tool: str, row: Row, name: str) -> list[Outcome]:
    outcomes: list[Outcome] = []
    half: Callable[[int], float] | None = {"ome-zarr": lambda n: n / 2, "cloud-volume": lambda n: n // 2}.get(tool)
    levels = row.levels if half else 1
    if tool == "ome-zarr" and row.shards:
        return []  # write_multiscale has none
    for channels in row.channels:
        array, path = array_of(row, channels), folder / tool / f"{list(ROWS).index(name)}" / f"{channels}"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(folder / "it.npy", array)
        job = {"tool": tool, "path": str(path), "format": row.format, "voxels": str(folder / "it.npy"),
               "about": {**about(row), "levels": levels}}  # fmt: skip
        (wrote,) = run(python, [job])
        outcomes += [read_back(named(channels, n), path, n, array, wrote, row, half) for n in range(levels)]
    return outcomes


def read_back(
    volume: str,
    path: Path,
    level: int,
    array: Any,
    wrote: dict[str, Any],
    row: Row,
    half: Callable[[int], float] | None,
) -> Outcome:
    """What `open_volume` finds, beside what another tool wrote; its coarser level has every second voxel."""
    if "error" in wrote:
        return Outcome(volume, (), f"not written: {_short(wrote['error'])}")
    wanted = {"values": array, **wrote}
    if level and half is not None:
        wanted["values"] = array[..., ::2, ::2, ::2]
        wanted["voxel_size"] = {d: 2 * n for d, n in wrote["voxel_size"].items()}
        wanted["offset"] = {d: half(n) for d, n in wrote["offset"].items()}
    try:
        told = read_here(path, level, missing="fill")
    except ChunkinferError as error:
        told = {"error": str(error)}
    return judged(volume, {n: told.get(n) for n in wanted} if "error" not in told else told, wanted, row.tolerance)


def files(folder: Path) -> list[list[str]]:
    """Rows of the third table, written by libraries of this package's own environment."""
    table, row = [], ROWS["zarr 3"]
    for name, (library, file, channels) in FILES.items():
        outcomes: list[Outcome] = []
        for n in channels:
            path = folder / f"{name}{n}" / file
            path.parent.mkdir()
            wrote = foreign.WRITERS[library](path, "", array_of(row, n), about(row))
            outcomes.append(read_back(named(n, 0), path, 0, array_of(row, n), wrote, row, None))
        table.append([name, library, merged(outcomes)])
    return table


def show(heads: list[str], table: list[list[str]]) -> None:
    """A table in markdown."""
    for line in (heads, ["---"] * len(heads), *table):
        print(f"| {' | '.join(line)} |")
    print()


def tools_of(python: str) -> str:
    """Names and versions."""
    code = f"from importlib.metadata import version as v; print(', '.join(f'{{n}} {{v(n)}}' for n in {PACKAGES!r}))"
    found = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    return f"{found}; neuroglancer {version('neuroglancer')}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", default=sys.executable, help="that of the environment with the other tools")
    python = parser.parse_args().python
    print(NOTES.format(tools=tools_of(python)))
    client = Client(processes=False, threads_per_worker=1, dashboard_address="127.0.0.1:0")
    with tempfile.TemporaryDirectory(prefix="interoperability") as folder, client:
        for name in ("read", "written", "files"):
            (Path(folder) / name).mkdir()
        print("## Written here, read there\n")
        show(["written here", *READERS], reading(Path(folder) / "read", python))
        print("## Written there, read here\n")
        show(["read here", *WRITERS], writing(Path(folder) / "written", python))
        print("Formats that are only read:\n")
        show(["read here", "written by", ""], files(Path(folder) / "files"))


NOTES = """# Formats, exchanged with other tools

{tools}.

Volumes of 13 x 22 x 35 voxels of 40 x 4.5 x 4 nm that begin at (z, y, x) = (-3, 5, 7), with one channel and with two:
uint16, or labels, in chunks of 8^3; both levels where there are two. Cells say what was compared and is equal: **v**
all voxels, their order, shape and data type; **s** voxel size; **o** offset, in OME-Zarr as the centre of the first
voxel; **n** names of channels; **k** image or segmentation. What is not there, the tool does not tell, or was not told.
What differs is in bold. `-`: the tool does not know the format.

- jpeg: within 8 grey values.
- *valid*: by yaozarrs (structure and metadata; warnings count), by ome-zarr-models, and by the official JSON schemas,
  the strict ones too, as ngff-zarr ships them.
- Neuroglancer opens each store by its URL. Voxels are those that the page hands out, chunk by chunk, of both levels of
  precomputed images; of segmentations, what it draws in every section, a colour a label. The coarser levels of OME-Zarr
  begin between voxels, which the page draws (tests/tools/viewers) and cannot tell.
- Writers: tensorstore, zarr-python and ngff-zarr leave out chunks of zeros, so what others wrote is opened with
  `missing="fill"`. cloud-volume writes with `compress=False`: by default it gzips local chunks into files that no other
  tool finds, and `open_volume` refuses these with the line that unpacks them. ome-zarr-py writes no shards here, and
  coarser levels are those of ome-zarr-py and cloud-volume.
- cloud-volume reads zarr without shards and with one channel; it stops in the same way at what ome-zarr-py writes with
  two. Of OME-Zarr 0.4 it takes no translation; in 0.5 it takes z for x and x for z, in float32, rounded down. Of plain
  zarr it knows no place. Of N5 it reads groups of levels (s0, s1, ...) only.
- z5py opens datasets in a container: a folder with an `attributes.json`, which was there before.
"""


if __name__ == "__main__":
    main()
