"""A log of a run's events, one JSON object a line: for `jq`, pandas, or whatever collects a cluster's logs.

::

    {"at": 1795278579.4, "run": "5f0c...", "kind": "block done", "block": 17, "voxels": 2097152, ...}
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from chunkinfer.errors import DestinationError, SourceError
from chunkinfer.runs.events import RUN_STARTED, Event
from chunkinfer.support.redacting import redacted

OWN = ("at", "run", "kind")
"""Names of a line that are not facts of the event."""


class JsonLines:
    """A subscriber that appends a line for each event, and flushes it.

    Lines of several runs, of several processes even, may share a file: each names its run. What events tell is written
    without credentials.

    Parameters
    ----------
    target
        A local path, to which lines are appended; or an open text file.

    Raises
    ------
    DestinationError
        The file cannot be written. Where that happens to a line, it ends the run, which can be resumed.
    """

    def __init__(self, target: str | os.PathLike[str] | IO[str]) -> None:
        self.run = uuid.uuid4().hex
        self._target = Path(target).expanduser().absolute() if isinstance(target, str | os.PathLike) else target
        self._write("")  # a path that cannot be written is known before the run

    def __call__(self, event: Event) -> None:
        """Append a line."""
        if event.kind == RUN_STARTED:
            self.run = str(event.facts.get("run") or uuid.uuid4().hex)
        facts = {name: value for name, value in redacted(event.facts).items() if name not in OWN}
        self._write(json.dumps({"at": event.at, "run": self.run, "kind": event.kind, **facts}) + "\n")

    def _write(self, text: str) -> None:
        try:
            if isinstance(self._target, Path):
                with self._target.open("a", encoding="utf-8") as file:  # nothing to close when a run is killed
                    file.write(text)
            else:
                self._target.write(text)
                self._target.flush()
        except OSError as error:
            raise DestinationError(
                f"The log {self._target} cannot be written: {error.strerror or error}.",
                "The folder does not exist or is not yours, or the disk is full.",
                [f"mkdir -p {os.path.dirname(str(self._target))}", 'choose another file: JsonLines("run.jsonl")'],
            ) from error


def read_events(path: str | os.PathLike[str], run: str | None = None) -> Iterator[Event]:
    """The events of a log, in the order in which they were written.

    Parameters
    ----------
    path
        Of a file that `JsonLines` wrote, or is writing: a last line without its end is left out.
    run
        Only the events of this run.

    Yields
    ------
    Event
        As it was told, with ``run`` among its facts.

    Raises
    ------
    SourceError
        There is no such file, or a line is no event.
    """
    name = os.fspath(path)
    try:
        with open(path, encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if not line.endswith("\n"):
                    return
                event = _parsed(line, f"{name}, line {number}")
                if run is None or event.facts["run"] == run:
                    yield event
    except OSError as error:
        if isinstance(error, SourceError):
            raise
        raise SourceError(
            f"The log {name} cannot be read: {error.strerror or error}.",
            "It is elsewhere, or no run has written it yet.",
            [
                f"look for it: ls {Path(path).absolute().parent}",
                'write one: save(array, url, events=[JsonLines("log")])',
            ],
        ) from error


def _parsed(line: str, where: str) -> Event:
    try:
        record: dict[str, Any] = json.loads(line)
        kind, at = record.pop("kind"), record.pop("at")
        return Event(kind, {"run": record.pop("run"), **record}, at)
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise SourceError(
            f"{where} is no event: {line[:80].strip()!r}.",
            "Something else wrote into the file, or it was edited.",
            ["delete that line", "read another file"],
        ) from error
