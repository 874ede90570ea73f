"""Runs the commands that an error advises, in this process."""

from __future__ import annotations

import re
import shlex
from contextlib import suppress

from chunkinfer.errors import ChunkinferError
from chunkinfer.tools.cli import main


def commanded(error: ChunkinferError) -> list[str]:
    """The commands of this package among an error's ways, once each has been run to its end."""
    found = (re.search(r"(?:^|: )chunkinfer ([a-z].*)$", way) for way in error.ways if "..." not in way)
    lines = [line[1] for line in found if line]
    for line in lines:
        with suppress(SystemExit):  # with the answer; what fails raises
            main(shlex.split(line), standalone_mode=False)
    return lines
