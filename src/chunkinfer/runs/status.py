"""status: what a ledger says of a run, while it goes or afterwards; no voxel is read."""

from __future__ import annotations

import json
import os
import time
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from chunkinfer.errors import DestinationError
from chunkinfer.geometry.boxes import BlockGrid
from chunkinfer.runs.block_map import BlockMap
from chunkinfer.runs.record.headers import RunHeader
from chunkinfer.runs.record.ledger import Ledger
from chunkinfer.runs.record.segments import Finished
from chunkinfer.stores.files import Files
from chunkinfer.stores.urls import locate
from chunkinfer.support import html

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RECENT = 600.0
"""Seconds of work that the speed is taken from, the latest ones."""

MISSED = 6
"""Heartbeats without which a run counts as ended."""

SHOWN = 5
"""Failed blocks whose lines are shown."""


def status(url: str | os.PathLike[str]) -> Status:
    """How far a run is: what is done, failed and missing, since when and how fast.

    Only the ledger beside the output is read, so it takes no longer for a large volume, and may be called from
    anywhere while the run goes on.

    Parameters
    ----------
    url
        Of the output, as given to `save`.

    Raises
    ------
    DestinationError
        There is no ledger, or an object of it is damaged.
    """
    ledger, header = ledger_at(url)
    grid = header.destination.grid
    done = ledger.done(len(grid))
    failures = {i: line for i, line in ledger.failures().items() if i < len(grid) and not done.flags[i]}
    return Status(
        url=locate(url).url,
        dims=header.destination.dims,
        grid=grid,
        finished=done,
        failures=failures,
        lease=_lease(ledger.files),
        at=time.time(),
    )


@dataclass(frozen=True, repr=False, eq=False)
class Status:
    """How far a run is."""

    url: str
    """Where the output is."""
    dims: tuple[str, ...]
    """Axes of the output."""
    grid: BlockGrid
    """Its blocks."""
    finished: Finished
    """What the ledger says of each block."""
    failures: Mapping[int, str]
    """Blocks that failed in the last run, by number, with a line each."""
    lease: Mapping[str, Any] | None
    """Who writes: "host", "user", "pid" and "run", when its heart beat last ("at", seconds since 1970) and how often it
    does ("every", seconds). None where no run is registered."""
    at: float
    """When this was found out, seconds since 1970."""

    @property
    def blocks(self) -> int:
        """Blocks of the output."""
        return len(self.grid)

    @property
    def done(self) -> int:
        """Blocks that are finished."""
        return self.finished.count

    @property
    def failed(self) -> int:
        """Blocks that failed in the last run, after all retries."""
        return len(self.failures)

    @property
    def missing(self) -> int:
        """Blocks that are neither finished nor failed."""
        return self.blocks - self.done - self.failed

    @property
    def complete(self) -> bool:
        """Whether every block is finished."""
        return self.done == self.blocks

    @property
    def running(self) -> bool:
        """Whether a run is registered whose heart beats."""
        return self.lease is not None and self.heartbeat < MISSED * float(self.lease.get("every", 0))

    @property
    def heartbeat(self) -> float:
        """Seconds since the last heartbeat, by the clocks of two machines; infinite where no run is registered."""
        return max(0.0, self.at - float(self.lease.get("at", 0))) if self.lease is not None else float("inf")

    @property
    def engines(self) -> dict[str, int]:
        """Finished blocks by what computed them; "" stands for copies and for what is not known."""
        counts = np.bincount(self.finished.engine[self.finished.flags], minlength=len(self.finished.engines))
        return {name: int(n) for name, n in zip(self.finished.engines, counts, strict=True) if n}

    @property
    def since(self) -> float | None:
        """When the first run began, seconds since 1970; None where nothing is recorded."""
        return float(self.finished.history[0, 0]) if len(self.finished.history) else None

    @property
    def until(self) -> float | None:
        """When a block was recorded last."""
        return float(self.finished.history[:, 1].max()) if len(self.finished.history) else None

    @property
    def worked(self) -> float:
        """Seconds of all runs together, up to their last blocks."""
        return float(np.diff(self.finished.history[:, :2], axis=1).sum())

    @property
    def runs(self) -> int:
        """Runs that finished a block."""
        history = self.finished.history
        return int(np.count_nonzero(history[1:, 0] != history[:-1, 1]) + 1) if len(history) else 0

    @property
    def speed(self) -> float | None:
        """Blocks per second, of the last ten minutes of work; None where too little is recorded."""
        latest = self.finished.history[np.argsort(-self.finished.history[:, 1], kind="stable")]
        idle = max(0.0, self.at - latest[0, 1]) if len(latest) and self.running else 0.0
        spent = np.cumsum(latest[:, 1] - latest[:, 0]) + idle
        rows = int(np.searchsorted(spent, RECENT)) + 1
        taken = spent[:rows]
        return float(latest[:rows, 2].sum() / taken[-1]) if len(taken) and taken[-1] > 0 else None

    @property
    def left(self) -> float | None:
        """Seconds until the run that goes on will be complete, at this speed; None where none does."""
        if not self.running or self.complete or not self.speed:
            return None
        return (self.blocks - self.done) / self.speed

    @property
    def block_seconds(self) -> tuple[float, float] | None:
        """Seconds of a block's task: the median, and what 95 % stay below. None where they are not recorded."""
        seconds = self.finished.seconds[self.finished.flags & (self.finished.seconds > 0)]
        return (float(np.median(seconds)), float(np.percentile(seconds, 95))) if len(seconds) else None

    def box(self, position: int) -> str:
        """The box of a block, in voxels of the output."""
        return str(self.grid.box(self.grid.unravel(position)))

    def as_dict(self) -> dict[str, Any]:
        """As plain values."""
        names = ("url", "blocks", "done", "failed", "missing", "complete", "running", "since", "until", "worked",
                 "runs", "speed", "left", "block_seconds", "engines")  # fmt: skip
        lease = {k: v for k, v in (self.lease or {}).items() if k in ("host", "user", "pid", "run", "at", "every")}
        return {
            **{name: getattr(self, name) for name in names},
            "lease": lease or None,
            "failures": {self.box(i): line for i, line in self.failures.items()},
        }

    # ---- to look at ---------------------------------------------------------------------------------------------

    def picture(self) -> BlockMap:
        """Where blocks are done and failed."""
        return BlockMap.of(self.dims, self.grid.counts, self.finished.flags, self.failures)

    def plot(self, path: str | os.PathLike[str] | None = None) -> Figure:
        """Draw the grid of blocks, in slabs along z: done, missing and failed.

        Parameters
        ----------
        path
            The PNG to write, if any.

        Returns
        -------
        matplotlib.figure.Figure
            Shown by notebooks.

        Raises
        ------
        MissingExtra
            matplotlib is absent: ``pip install "chunkinfer[demo]"``.
        """
        return self.picture().draw(path, title=f"{self.url}: {self._counts()}")

    def _counts(self) -> str:
        share = self.done / self.blocks if self.blocks else 1.0
        percent = f"{int(1000 * share) / 10:g} %"  # rounded down: 100 % is all of them
        text = f"{self.done:,} of {self.blocks:,} blocks done ({percent})"
        return text + (f", {self.failed:,} failed" if self.failed else "") + f", {self.missing:,} missing"

    def _rows(self) -> list[tuple[str, str]]:
        dims, counts, block = (
            "(" + ", ".join(map(str, values)) + ")"
            for values in (self.dims, self.grid.counts, [axis[0] for axis in self.grid.sizes])
        )
        unknown = int(np.count_nonzero(self.finished.flags & ~self.finished.known))
        engines = ", ".join(f"{name or 'not recorded'} {n:,}" for name, n in self.engines.items())
        return [
            ("output", self.url),
            ("blocks", self._counts()),
            ("grid", f"{dims} = {counts} blocks of {block} voxels"),
            ("since", self._when()),
            ("speed", self._pace()),
            ("left", f"about {duration(self.left)}" if self.left is not None else ""),
            ("run", self._who()),
            ("engines", engines if set(self.engines) - {""} else ""),
            ("checksums", f"of {unknown:,} blocks none is recorded" if unknown else ""),
            *(("failed", f"{self.box(i)}: {line}") for i, line in list(self.failures.items())[:SHOWN]),
            ("failed", f"and {self.failed - SHOWN:,} more" if self.failed > SHOWN else ""),
        ]

    def _when(self) -> str:
        if self.since is None or self.until is None:
            return ""
        times = f"in {self.runs} run{'s' if self.runs > 1 else ''}"
        if self.running:
            return f"{moment(self.since)}, {duration(self.worked)} of work {times}"
        return f"{moment(self.since)} until {moment(self.until)}, {duration(self.worked)} of work {times}"

    def _pace(self) -> str:
        if self.speed is None:
            return ""
        pace = f"{self.speed:.3g} blocks/s" if self.speed >= 0.1 else f"{self.speed * 3600:.3g} blocks/h"
        if self.block_seconds is None:
            return pace
        return (
            f"{pace}; a block takes {duration(self.block_seconds[0])}, 95 % less than {duration(self.block_seconds[1])}"
        )

    def _who(self) -> str:
        if self.lease is None:
            return "complete" if self.complete else "none: the same save(...) goes on"
        since = f" since {moment(float(self.lease['since']))}" if "since" in self.lease else ""
        host, pid, user = (self.lease.get(name, "?") for name in ("host", "pid", "user"))
        who = f"on {host}{since}, process {pid} of {user}"
        beat = f"last heartbeat {duration(self.heartbeat)} ago"
        if self.running:
            return f"{who}, {beat}"
        return f"ended without a word {who}, {beat}: the same save(...) takes over"

    def __str__(self) -> str:
        rows = "\n".join(f"{name + ':':<11}{value}" for name, value in self._rows() if value)
        return f"{rows}\n\n{self.picture().text()}"

    __repr__ = __str__

    def _repr_html_(self) -> str:
        rows = html.facts((name, value) for name, value in self._rows() if value)
        image = b64encode(self.picture().png()).decode()
        names = "slabs along z; blue is done, grey is missing, orange failed"
        return f"{rows}<img alt='{names}' title='{names}' src='data:image/png;base64,{image}'>"


def ledger_at(url: str | os.PathLike[str]) -> tuple[Ledger, RunHeader]:
    """The ledger of an output and its header; `DestinationError` where there is none."""
    place = locate(url).url
    ledger = Ledger(Files(place))
    header = RunHeader.of(ledger)
    if header is None:
        raise DestinationError(
            f"{place} has no ledger (.chunkinfer/ledger.json) that says which run made it.",
            "It is not the output of save, or it was copied without its hidden files.",
            ["give the URL that save was given", "copy the folder .chunkinfer too: rsync -a keeps it"],
        )
    return ledger, header


def _lease(files: Files) -> dict[str, Any] | None:
    try:
        found = json.loads(files.read("lease.json") or b"null")
    except ValueError:  # whoever writes it will mend it
        return None
    return found if isinstance(found, dict) else None


def moment(at: float) -> str:
    """A time, on this machine's clock."""
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(at))


def duration(seconds: float) -> str:
    """Seconds in the unit that reads best."""
    for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.2g} s"
