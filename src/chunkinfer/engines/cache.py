"""Where compiled networks are kept between processes: a folder of the user's cache, one per network and setup."""

from __future__ import annotations

import atexit
import hashlib
import json
import os
import platform
import shutil
import tempfile
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from chunkinfer.engines.contract import Engine, Setup
    from chunkinfer.models import Model


def user_cache() -> Path:
    """The folder of this library in the user's cache: ``$XDG_CACHE_HOME/chunkinfer``, by default in ``~/.cache``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "chunkinfer"


def compiled_folder(engine: Engine, model: Model, setup: Setup) -> Path:
    """Where an engine keeps what it compiled: equal only for equal code, weights, setup and processor.

    The folders above it are the user's own, closed to others: what lies there is executed.
    """
    what = [engine.name, engine.version(), model.network_digest, asdict(setup), _instructions(setup.device)]
    name = hashlib.blake2b(json.dumps(what, sort_keys=True).encode(), digest_size=16).hexdigest()
    return _writable(user_cache() / "compiled") / engine.name / name


@cache
def _writable(folder: Path) -> Path:
    """The folder; where it cannot be written, such as a home that is read-only, one that ends with this process."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if os.access(folder, os.W_OK):
            return folder
    except OSError:
        pass
    place = tempfile.mkdtemp(prefix="chunkinfer-")
    atexit.register(shutil.rmtree, place, ignore_errors=True)
    return Path(place)


@cache
def _instructions(device: str) -> str:
    """What compiled code depends on: the processor's instructions, or the GPU's kind."""
    if device == "cuda":
        import torch

        return f"{torch.cuda.get_device_name()} {torch.version.cuda}"
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or platform.machine()
    lines = [x for x in text.splitlines() if x.startswith(("model name", "flags", "Features"))]
    return hashlib.blake2b("\n".join(sorted(set(lines))).encode(), digest_size=8).hexdigest()
