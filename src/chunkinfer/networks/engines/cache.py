"""Where compiled networks are kept between processes: a folder of the user's cache, one per network and setup."""

from __future__ import annotations

import hashlib
import json
import platform
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from chunkinfer.networks.engines.fitting import package_version
from chunkinfer.networks.files import user_cache, writable

if TYPE_CHECKING:
    from chunkinfer.networks.engines.contract import Engine, Setup
    from chunkinfer.networks.model import Model


def compiled_folder(engine: Engine, model: Model, setup: Setup, program: str | None) -> Path:
    """Where an engine keeps what it compiled: equal only for equal code, weights, setup, versions and processor.

    Parameters
    ----------
    engine, model, setup
        What is compiled, by what, and for what.
    program
        Digest of what a module calls at the setup's patch; None for a file, whose content says all.

    The folders above it are the user's own, closed to others: what lies there is executed.
    """
    what = [
        engine.name, engine.version(), package_version("torch"), model.plain.digest, program, asdict(setup),
        _instructions(setup.device),
    ]  # fmt: skip
    name = hashlib.blake2b(json.dumps(what, sort_keys=True).encode(), digest_size=16).hexdigest()
    return writable(user_cache() / "compiled") / engine.name / name


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
