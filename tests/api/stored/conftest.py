"""Small volumes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from distributed import Client

import chunkinfer as ci
from chunkinfer.tools.cli import main

IMAGE = np.random.default_rng(0).integers(0, 2**16, (40, 50, 60), np.uint16)
LABELS = (np.indices((40, 50, 60)) // 8).sum(0).astype(np.uint64)
PLACE: dict[str, Any] = {"voxel_size": (40, 4, 4), "offset": (3, 0, 5)}


@pytest.fixture
def copy(threads: Client) -> Callable[..., Any]:
    """`ci.copy` on the session's cluster."""
    return lambda *args, **given: ci.copy(*args, client=threads, progress=False, **given)


@pytest.fixture
def em(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The image as a file in the working directory."""
    monkeypatch.chdir(tmp_path)
    np.save("em.npy", IMAGE)
    np.save("labels.npy", LABELS)
    return "em.npy"


def do(words: str, code: int = 0) -> str:
    """Run ``chunkinfer`` in this process, which has no terminal."""
    result = CliRunner().invoke(main, words.split(), catch_exceptions=False)
    assert result.exit_code == code, result.output
    return result.output if code else result.stdout
