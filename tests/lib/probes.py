"""Networks that tell what happens to them, and that fail when told to: for workers in other processes."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn


def convolution(channels: int = 1) -> nn.Conv3d:
    """A convolution over 3 voxels per axis, always with the same weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Conv3d(1, channels, 3, padding=1).eval()


def without_voxels(x: Tensor) -> bool:
    """Whether a forward pass computes nothing: of the tracer, or to find out what a network is."""
    return x.is_meta or type(x) is not Tensor


class Watched(nn.Module):
    """A convolution that appends a line to a file for each forward pass on real voxels, and for each unpickling.

    Parameters
    ----------
    log
        The file; a line is short enough to be appended whole by many processes at once.
    seconds
        That each forward pass takes longer.
    """

    def __init__(self, log: Path, seconds: float = 0.0) -> None:
        super().__init__()
        self.log, self.seconds = str(log), seconds
        self.conv = convolution()

    def forward(self, x: Tensor) -> Tensor:
        if without_voxels(x):
            return self.conv(x)
        start = time.monotonic()
        time.sleep(self.seconds)
        result = self.conv(x)
        self._write("ran", start, time.monotonic())
        return result

    def __setstate__(self, state: dict[str, Any]) -> None:
        start = time.monotonic()
        time.sleep(0.05)  # a second thread that opens it too would show
        super().__setstate__(state)
        self._write("opened", start, time.monotonic())

    def _write(self, what: str, start: float, end: float) -> None:
        with open(self.log, "a") as file:
            file.write(f"{what} {os.getpid()} {threading.get_ident()} {start:.6f} {end:.6f}\n")


@dataclass(frozen=True)
class Event:
    """A line of a `Watched` network's log."""

    what: str
    pid: int
    thread: int
    start: float
    """Of the system's monotonic clock, which all processes share."""
    end: float


def events(log: Path, what: str = "ran") -> list[Event]:
    """What the log tells, in order of starts."""
    lines = [line.split() for line in log.read_text().splitlines()] if log.exists() else []
    found = [Event(kind, int(pid), int(thread), float(a), float(b)) for kind, pid, thread, a, b in lines]
    return sorted((e for e in found if e.what == what), key=lambda e: e.start)


def most_at_once(found: list[Event]) -> int:
    """The largest number of events that overlap in time."""
    edges = sorted([(e.start, 1) for e in found] + [(e.end, -1) for e in found])
    running = most = 0
    for _, step in edges:
        running += step
        most = max(most, running)
    return most


class Sensitive(nn.Module):
    """A convolution that fails on patches that hold a certain value, as often as there are files to be used up.

    Parameters
    ----------
    folder
        Each failure takes one file out of it; a file called "always" stays.
    value
        That patches must hold for a failure, after normalisation.
    """

    def __init__(self, folder: Path, value: float) -> None:
        super().__init__()
        self.folder, self.value = str(folder), value
        self.conv = convolution()

    def forward(self, x: Tensor) -> Tensor:
        if not without_voxels(x) and bool((x == self.value).any()):
            for path in sorted(Path(self.folder).iterdir()):
                if path.name != "always":
                    path.unlink()
                raise RuntimeError(f"the device fell over ({path.name})")
        return self.conv(x)


class Deadly(nn.Module):
    """A convolution that ends the process of its worker on patches that hold a certain value, after normalisation."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value, self.client = value, os.getpid()
        self.conv = convolution()

    def forward(self, x: Tensor) -> Tensor:
        if not without_voxels(x) and os.getpid() != self.client and bool((x == self.value).any()):
            os._exit(9)
        return self.conv(x)


def break_the_driver() -> None:
    """In the worker whose environment says so, every kernel finds that its device is missing."""
    if os.environ.get("BROKEN_DRIVER"):
        from chunkinfer.errors import DeviceError
        from chunkinfer.tiling.kernel import task

        def missing(name: str) -> None:
            raise DeviceError("The run asks for a device, and this process sees none.")

        task.require_device = missing


@contextmanager
def failing(folder: Path, *files: str) -> Iterator[Path]:
    """A folder for a `Sensitive` network with these files in it; emptied at the end."""
    folder.mkdir(exist_ok=True)
    for name in files:
        (folder / name).touch()
    try:
        yield folder
    finally:
        for path in folder.iterdir():
            path.unlink()
