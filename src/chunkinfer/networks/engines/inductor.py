"""What the two engines share that compile with Inductor, torch's compiler."""

from __future__ import annotations

import shutil
import threading
from importlib.util import find_spec
from typing import Any

from chunkinfer.networks.engines.contract import Setup

COMPILING = threading.RLock()
"""Inductor's settings and folders belong to the process: one network is compiled at a time."""


def options(setup: Setup) -> dict[str, Any]:
    """Inductor's settings.

    On CPUs weights become constants, in the layout of oneDNN's kernels: 1.5 to 1.8 times as fast. The number of threads
    is compiled in, so it is told instead of read from the thread that happens to compile.
    """
    if setup.device == "cpu":
        return {"freezing": True, "cpp.threads": setup.threads}
    return {}


def missing_compiler(setup: Setup) -> str | None:
    """Why nothing can be compiled on this machine, in words that follow "because"; None where it can."""
    from torch._inductor import config

    names = [config.cpp.cxx] if isinstance(config.cpp.cxx, str) else config.cpp.cxx
    if not any(name and shutil.which(name) for name in (*names, "g++", "clang++")):
        return "it needs a C++ compiler, and there is none: apt-get install g++"
    if setup.device == "cuda" and find_spec("triton") is None:
        return "it needs triton on a GPU, and it is not installed: pip install triton"
    return None
