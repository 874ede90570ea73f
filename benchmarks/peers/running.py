"""A command in a fresh process: its JSON line, its seconds, and the most memory that it and its children had."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

EVERY = 0.1
"""Seconds between two looks at a process's memory."""


@dataclass(frozen=True)
class Outcome:
    """What a command did."""

    found: dict[str, Any] | None
    """The last JSON line that it printed; None if it failed or was stopped."""
    seconds: float
    """From its start to its end, imports included."""
    peak: int
    """The most resident bytes of its processes together."""
    why: str = ""
    """Why there is no JSON line."""


def run(
    command: Sequence[str | Path], log: Path, *, timeout: float, memory: int, cores: int, extra: Mapping[str, str]
) -> Outcome:
    """Run a command to its end, its timeout or more than its memory.

    Parameters
    ----------
    command
        Program and arguments.
    log
        Where its stderr goes.
    timeout
        Seconds after which it is killed.
    memory
        Resident bytes of its processes together from which on it is killed: a stop before the machine's own.
    cores
        Cores that it may use.
    extra
        Environment variables to add.
    """
    allowed = sorted(os.sched_getaffinity(0))[:cores]
    printed, start, peak, why = log.with_suffix(".out"), time.perf_counter(), 0, ""
    with printed.open("w") as out, log.open("w") as err:
        process = subprocess.Popen(
            [str(part) for part in command],
            stdout=out,
            stderr=err,
            env={**os.environ, "OMP_NUM_THREADS": str(cores), **extra},
            start_new_session=True,
        )
        os.sched_setaffinity(process.pid, allowed)
        try:
            while process.poll() is None:
                peak = max(peak, resident(process.pid))
                if time.perf_counter() - start > timeout:
                    why = f"stopped after {timeout:.0f} s"
                elif peak > memory:
                    why = f"stopped at {peak / 1e6:,.0f} MB"
                if why:
                    break
                time.sleep(EVERY)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    seconds = time.perf_counter() - start
    if not why and process.returncode:
        why = f"ended with code {process.returncode}: {last_line(log)}"
    found = None if why else last_json(printed.read_text())
    if found is None and not why:
        why = f"printed no JSON line: {last_line(log)}"
    return Outcome(found, seconds, peak, why)


def resident(pid: int) -> int:
    """Resident bytes of a process and its descendants; of the process itself, the most it ever had if that is more."""
    try:
        process = psutil.Process(pid)
        family = [process, *process.children(recursive=True)]
    except psutil.Error:
        return 0
    total = 0
    for member in family:
        try:
            total += member.memory_info().rss
        except psutil.Error:  # ended in between
            continue
    return max(total, high_water(pid))


def high_water(pid: int) -> int:
    """The most resident bytes that a process ever had, as the system counts; 0 where it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")), 0)


def last_json(text: str) -> dict[str, Any] | None:
    """The last line that is a JSON object."""
    for line in reversed(text.splitlines()):
        if line.startswith("{"):
            return dict(json.loads(line))
    return None


def last_line(log: Path) -> str:
    """The last line that a program wrote before it ended."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1][:200] if lines else "nothing was written"
