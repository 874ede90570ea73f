"""Passes over blocks whose tables stay in a folder, or are gone when they are joined."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from chunkinfer.blockwise import Lease, Overwriting
from chunkinfer.events import Subscriber
from chunkinfer.geometry import BlockGrid
from chunkinfer.passes import Step, Tables, run_pass, temporary_folder
from chunkinfer.storage import Files
from chunkinfer.storage.files import FOLDER


@contextmanager
def tables_of(
    step: Step,
    name: str,
    grid: BlockGrid,
    about: Mapping[str, Any],
    *,
    url: str | os.PathLike[str] | None,
    overwrite: bool,
    client: Any,
    progress: bool | None,
    events: Sequence[Subscriber],
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
    with ExitStack() as stack:
        if url is None:
            place = stack.enter_context(temporary_folder(client))
        else:
            place = os.fspath(url)
        lease = stack.enter_context(Lease(Files(place)))
        overwriting = Overwriting(Files(place), name, {"sizes": grid.sizes, **about})
        if overwrite and not overwriting.goes_on():
            for folder in (name, f"{name}-tables"):
                files = Files(place, f"{FOLDER}/{folder}")
                files.delete_many(files.list())
            overwriting.began()
        tables, _ = run_pass(
            place, name, grid, step, about, lease=lease, client=client, progress=progress, events=events
        )
        overwriting.ended()
        yield tables
