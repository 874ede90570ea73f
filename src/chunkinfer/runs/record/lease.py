"""The lease on an output: one run writes it at a time, and says so by a heartbeat.

Two runs with equal settings would store equal voxels, and two with different ones are refused by the ledger's header;
but both would compute everything, and each would overwrite what the other recorded.

No clock of another machine is believed: a lease is stale when its heartbeat has not changed while somebody watched.
"""

from __future__ import annotations

import getpass
import json
import os
import socket
import threading
import time
import uuid
from pathlib import Path
from types import TracebackType
from typing import Any

from chunkinfer.errors import ChunkinferError, OutputInUse
from chunkinfer.stores.files import LEASE, Files

EVERY = 5.0
"""Seconds between heartbeats."""

STALE = 6
"""Heartbeats missed after which a lease is taken over."""

TRIED = "lease.tried"
"""Object that is written and deleted where a lease could not be written, and nobody holds it."""


class Lease:
    """A context: the output is this run's inside.

    Parameters
    ----------
    files
        The folder of the output's ledger.
    every
        Seconds between heartbeats.

    Raises
    ------
    OutputInUse
        On entry: another run holds it, and its heart beats.
    """

    def __init__(self, files: Files, every: float = EVERY) -> None:
        self.files = files
        self.about = {"run": uuid.uuid4().hex[:12], **_here(), "every": every, "since": time.time()}
        self._beats, self._version = 0, b""
        self._last = 0.0
        self._lost: str | None = None
        self._stop = threading.Event()
        self._beating = threading.Thread(target=self._beat, name="lease", daemon=True)

    @property
    def run(self) -> str:
        """Names this run."""
        return str(self.about["run"])

    @property
    def held(self) -> bool:
        """Whether it is still this run's, as far as is known."""
        return self._lost is None

    def check(self) -> None:
        """Raise `OutputInUse` where the lease was lost: another run took it over because no heartbeat arrived."""
        if self._lost is not None:
            raise OutputInUse(
                f"This run lost its lease on {self.files.url}: {self._lost}.",
                "The store could not be reached, or this process was stopped, for so long that another run began.",
                ["look at who runs: chunkinfer status " + str(self.files.url),
                 "make the same call again when that run has ended"],
            )  # fmt: skip

    def __enter__(self) -> Lease:
        content, version = self.files.read_versioned(LEASE)
        if content is not None and not _gone(theirs := _parsed(content)):
            version = self._watched(theirs, version)
        self._write(version)
        if self._lost is not None:
            found = self.files.read(LEASE)
            if found is None:  # no other run's: the store takes nothing, which it says where nothing is compared
                self.files.write(TRIED, b"")
                self.files.delete(TRIED)
            raise self._held(_parsed(found or b"{}"))
        self._beating.start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._stop.set()
        self._beating.join()
        if self._lost is None:
            # S3 deletes without a condition: tensorstore looks first. Who took over in between writes its lease again.
            self.files.write_if(LEASE, None, self._version)
            self.files.tidy()  # of a run that was refused before it wrote anything

    def _watched(self, theirs: dict[str, Any], version: bytes) -> bytes:
        """The version of a lease that did not beat for as long as it may; raises where it does."""
        every = float(theirs.get("every", EVERY))
        until = time.monotonic() + STALE * every
        while time.monotonic() < until:
            time.sleep(min(1.0, every / 2))
            content, now = self.files.read_versioned(LEASE)
            if content is None:
                return now
            if now != version:
                raise self._held(_parsed(content))
        return version

    def _held(self, theirs: dict[str, Any]) -> OutputInUse:
        who = f"process {theirs.get('pid', '?')} of {theirs.get('user', '?')} on {theirs.get('host', '?')}"
        return OutputInUse(
            f"{self.files.url} is being written by another run ({who}).",
            "Its heartbeat is there. Two runs would compute the same blocks twice and overwrite each other's records.",
            [f"see how far it is: chunkinfer status {self.files.url}",
             "stop that run first (Ctrl-C there): this call then goes on where it ended"],
        )  # fmt: skip

    def _beat(self) -> None:
        every = float(self.about["every"])
        while not self._stop.wait(every) and self._lost is None:
            try:
                self._write(self._version)
            except ChunkinferError as error:  # the store may come back before anybody takes over
                if time.monotonic() - self._last > (STALE - 2) * every:
                    self._lost = f"no heartbeat could be written ({error.what})"

    def _write(self, version: bytes) -> None:
        """Write the lease if nobody else did, or if it was deleted together with an output that is made anew."""
        self._beats += 1
        content = json.dumps({**self.about, "beat": self._beats, "at": time.time()}).encode()
        written = self.files.write_if(LEASE, content, version)
        if written is None:
            found, now = self.files.read_versioned(LEASE)
            if found is None or _parsed(found).get("run") == self.run:
                written = self.files.write_if(LEASE, content, now)
        if written is None:
            self._lost = "another run took it over"
        else:
            self._version, self._last = written, time.monotonic()


def _parsed(content: bytes) -> dict[str, Any]:
    try:
        found = json.loads(content)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _here() -> dict[str, Any]:
    """Names this process: for people, and for other processes that can look whether it lives."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        user = str(os.getuid())
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "user": user,
        "machine": _machine(),
        "born": _born("self"),
    }


def _machine() -> str:
    """The boot of this machine and its namespace of processes, in which a pid means something; empty if unknown."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip() + os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def _born(pid: int | str) -> str:
    """When a process started, in ticks since boot; empty where there is none, or no way to know."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return ""


def _gone(theirs: dict[str, Any]) -> bool:
    """Whether the holder was a process of this machine that no longer lives."""
    here = _machine()
    return bool(here) and theirs.get("machine") == here and _born(int(theirs.get("pid", 0))) != theirs.get("born")
