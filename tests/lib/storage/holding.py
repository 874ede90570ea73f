"""A process that holds the lease of an output."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

EVERY = 0.2
"""Seconds between its heartbeats."""

HOLD = """
import sys, time
from chunkinfer.runs.record.lease import Lease
from chunkinfer.errors import OutputInUse
from chunkinfer.stores.files import Files
with Lease(Files(sys.argv[1]), every=float(sys.argv[2])) as lease:
    print("held", flush=True)
    while True:
        time.sleep(0.05)
        try:
            lease.check()
        except OutputInUse as error:
            print(error.what, flush=True)
            break
"""


class Holder:
    """It tells when it lost the lease, and ends.

    Parameters
    ----------
    url
        Of the output.
    """

    def __init__(self, url: str | Path) -> None:
        command = [sys.executable, "-c", HOLD, str(url), str(EVERY)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        if self.process.stdout.readline() != "held\n":
            self.__exit__()
            raise RuntimeError("the process got no lease")

    def __enter__(self) -> Holder:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()
