"""Places in the source that raise an error with ways out, and which of these ways were run by a test.

    python benchmarks/ways.py                         # prints a table in markdown; about a minute
    python benchmarks/ways.py --only storage models    # of these, also which places are missing

A place is a call of an error's class with ways. It is covered where a test handed such an error to
`tests.lib.ways.advice.followed`, which pastes and runs each line; a line that fails ends this.
"""

from __future__ import annotations

import argparse
import ast
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "chunkinfer"


class Place(NamedTuple):
    """Lines of a call that makes an error with ways out."""

    file: str
    first: int
    last: int

    @property
    def room(self) -> str:
        """The package, or the file of those that lie in none."""
        return self.file.split("/")[0].removesuffix(".py")


def places() -> Iterator[Place]:
    """Of the whole source, in its order."""
    parsed = {path: ast.parse(path.read_text()) for path in sorted(SOURCE.rglob("*.py"))}
    errors = {node.name for node in ast.walk(parsed[SOURCE / "errors.py"]) if isinstance(node, ast.ClassDef)}
    for path, tree in parsed.items():
        for node in ast.walk(tree):
            makes = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in errors
            if makes and (len(node.args) > 2 or any(k.arg == "ways" for k in node.keywords)):
                yield Place(str(path.relative_to(SOURCE)), node.lineno, node.end_lineno or node.lineno)


def followed(tests: list[str]) -> set[tuple[str, int]]:
    """File and line of every error that the tests followed."""
    with tempfile.NamedTemporaryFile("r") as log:
        command = [sys.executable, "-m", "pytest", "-q", "-m", "", "-n", "logical", *tests]
        subprocess.run(command, cwd=ROOT, env={**os.environ, "WAYS_FOLLOWED": log.name}, stdout=sys.stderr, check=True)
        lines = [line.rsplit(" ", 1) for line in log.read().splitlines()]
    return {(file, int(number)) for file, number in lines}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--only", nargs="+", default=[], help="packages, of which places that no test runs are listed")
    given = parser.parse_args()
    users = [str(p) for p in sorted((ROOT / "tests").rglob("test_*.py")) if "from tests.lib.ways." in p.read_text()]
    found = followed(users)
    every, run = Counter[str](), Counter[str]()
    missing = []
    for place in places():
        if given.only and place.room not in given.only:
            continue
        every[place.room] += 1
        if any(file == place.file and place.first <= line <= place.last for file, line in found):
            run[place.room] += 1
        else:
            missing.append(place)
    print(__doc__.splitlines()[0] + "\n")  # type: ignore[union-attr]
    print("| | places | run by a test |\n|---|---|---|")
    for room, count in sorted(every.items()):
        print(f"| {room} | {count} | {run[room]} |")
    print(f"| **all** | {every.total()} | {run.total()} |")
    if given.only and missing:
        print("\nNot run:\n")
        print("\n".join(f"- {place.file}:{place.first}" for place in missing))


if __name__ == "__main__":
    main()
