"""Passes over blocks whose tables stay in a folder, or are gone when they are joined."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from chunkinfer.geometry.boxes import BlockGrid
from chunkinfer.runs.passes import Step, Tables
from chunkinfer.runs.run import Where
from chunkinfer.runs.session import session
from chunkinfer.stores.files import FOLDER, Files


@contextmanager
def tables_of(
    step: Step,
    name: str,
    grid: BlockGrid,
    about: Mapping[str, Any],
    url: str | os.PathLike[str] | None,
    overwrite: bool,
    where: Where,
) -> Iterator[Tables]:
    """The tables that a step leaves of the blocks of a grid, for as long as they are looked at.

    Parameters
    ----------
    url
        The folder that keeps them, so that the same call resumes; None: a temporary one, on this machine.

    Raises
    ------
    PlanError
        Workers on other machines would write into a temporary folder of theirs.
    """
    with session(url, where) as here:

        def clear() -> None:
            for folder in (name, f"{name}-tables"):
                files = Files(here.url, f"{FOLDER}/{folder}")
                files.delete_many(files.list())

        if overwrite:
            here.overwrite(name, {"sizes": grid.sizes, **about}, clear)
        yield here.tables(name, grid, step, about)
