"""Calls with ``overwrite=True`` that were cut short: the same call goes on, any other one starts anew."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

from dask.base import tokenize

from chunkinfer.stores.files import Files

logger = logging.getLogger("chunkinfer")

MARK = "-overwriting"
"""How the names of marks end."""


@dataclass(frozen=True)
class Overwriting:
    """A mark beside an output that says which call began it, by overwriting what was there, and did not end yet."""

    files: Files
    """Beside the output."""
    name: str
    """Of the kind of run."""
    call: Any
    """What tells this call from others, as JSON takes it."""

    @property
    def mark(self) -> str:
        """Name of the file."""
        return f"{self.name}{MARK}"

    def goes_on(self) -> bool:
        """Whether this same call began what is there; then it says so."""
        if self.files.read(self.mark) != tokenize(self.call).encode():
            return False
        logger.warning(
            "chunkinfer: the %s of %s was begun by this same call, which goes on there. To start from nothing, make "
            "this call with other settings, or delete what it stored.", self.name, self.files.url,
        )  # fmt: skip
        return True

    def began(self) -> None:
        """All that was there is deleted, and nothing is made yet."""
        self.files.write(self.mark, tokenize(self.call).encode())

    def ended(self) -> None:
        """All is made: the next call with ``overwrite=True`` starts anew."""
        self.files.delete(self.mark)
