"""A session: what belongs together at one place, while nobody else writes there; the same call goes on with it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, TypedDict

import dask.array as da
from dask.base import tokenize

from chunkinfer.errors import RunError, SettingsDiffer, VolumeError
from chunkinfer.geometry.boxes import BlockGrid
from chunkinfer.runs.events import Subscriber
from chunkinfer.runs.passes import Step, Tables, temporary_folder
from chunkinfer.runs.record.headers import PassHeader, differences
from chunkinfer.runs.record.lease import Lease
from chunkinfer.runs.record.ledger import Ledger
from chunkinfer.runs.record.overwriting import Overwriting
from chunkinfer.runs.report import RunReport, versions
from chunkinfer.runs.run import Run, Where
from chunkinfer.runs.schedule.storing import Writes, copy_blocks, store_blocks
from chunkinfer.stores.files import FOLDER, Files
from chunkinfer.support.device import cores
from chunkinfer.support.payload import Payload, networks_of


class Passing(TypedDict, total=False):
    """Keyword arguments that verbs share whose passes leave tables in a folder, for type checkers."""

    overwrite: bool
    client: Any
    progress: bool | None
    events: Sequence[Subscriber]


@dataclass
class Session:
    """What `session` gives: runs at one place, one after the other."""

    url: str
    """The folder that is written."""
    where: Where
    lease: Lease
    """Says that nobody else writes the folder."""
    reports: dict[str, RunReport] = field(default_factory=dict)
    """How each pass went, by its name."""
    marks: list[Overwriting] = field(default_factory=list)
    """Calls that overwrite what was there, until they end."""

    def overwrite(self, name: str, call: Any, clear: Callable[[], None]) -> bool:
        """Delete what is there, unless this same call began it.

        Parameters
        ----------
        name
            Kind of run.
        call
            What tells this call from others, as JSON.
        clear
            Deletes what is there.

        Returns
        -------
        bool
            Whether the call goes on with what it began.
        """
        mark = Overwriting(self.lease.files, name, call)
        self.marks.append(mark)
        if mark.goes_on():
            return True
        clear()
        mark.began()
        return False

    def run(self, run: Run) -> RunReport:
        """Compute and store the blocks of a run that are missing; errors as for `save`."""
        return run(self.where, self.lease)

    def tables(
        self,
        name: str,
        grid: BlockGrid,
        step: Step | da.Array,
        made_of: Mapping[str, Any],
        store: Writes | None = None,
    ) -> Tables:
        """Run a step once for each block, a pass; the same call after a crash runs what is missing.

        Parameters
        ----------
        name
            Name of the pass, unique in the folder; its ledger lies in ``.chunkinfer/NAME``.
        grid
            The blocks.
        step
            Gives the table of a block; its errors are retried as those of `save` are. Or a lazy array, whose chunks the
            ``store`` gets where they were computed.
        made_of
            What the tables depend on, as JSON: a call with something else is refused.
        store
            Keeps what the step gave; by default the tables.

        Returns
        -------
        Tables
            What the blocks left. How the pass went is in `reports`.

        Raises
        ------
        SettingsDiffer
            The pass was begun with other settings.
        VolumeError
            A step found that the volume is not of the kind that it takes.
        RunError, RunPaused
            As for `save`.
        """
        tables = Tables(self.url, name, grid)
        ledger = Ledger(Files(self.url, f"{FOLDER}/{name}"))
        asked = PassHeader({"pass": name, "sizes": [list(axis) for axis in grid.sizes], **made_of}, versions())
        begun = PassHeader.of(ledger)
        if begun is None:
            ledger.begin(asked.to_json())
        elif lines := differences(begun.fingerprint(), asked.fingerprint()):
            raise SettingsDiffer(
                f"{self.url} was begun with other settings:\n  " + "\n  ".join(lines),
                "Its blocks would not be made alike.",
                ["make the call with the settings of before", "start anew: overwrite=True, or another folder"],
            )
        token = tokenize(self.url, step, asked.made)
        kept = Payload("store", f"store-{token}", store or tables)
        if isinstance(step, da.Array):
            blocks, networks = step, networks_of(step.dask)
            slots = max((network.facts.slots for network in networks), default=cores() + 1)
            tasks = lambda suffix: store_blocks(blocks, kept, f"{name}-{token}{suffix}")  # noqa: E731
        else:
            made, slots = Payload("step", f"step-{token}", step), cores() + 1
            tasks = lambda suffix: copy_blocks(made, kept, f"{name}-{token}{suffix}")  # noqa: E731
        run = Run(self.url, ledger, asked.to_json(), kept.open().grid, tasks, slots, whole=isinstance(step, da.Array))
        try:
            self.reports[name] = self.run(run)
        except RunError as error:
            if isinstance(error.__cause__, VolumeError):  # what a step found wrong with the volume: no failed run
                raise error.__cause__ from error
            raise
        return tables


@contextmanager
def session(url: str | os.PathLike[str] | None, where: Where) -> Iterator[Session]:
    """A session in a folder.

    Parameters
    ----------
    url
        The folder; None: a temporary one, on this machine.
    where
        Where tasks run, and who hears of them.

    Raises
    ------
    OutputInUse
        Another run writes there at this moment.
    PlanError
        Workers on other machines would write into a temporary folder of theirs.
    """
    with ExitStack() as stack:
        place = stack.enter_context(temporary_folder(where.client)) if url is None else os.fspath(url)
        here = Session(place, where, stack.enter_context(Lease(Files(place))))
        yield here
        for mark in here.marks:
            mark.ended()
