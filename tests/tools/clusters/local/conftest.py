"""Nothing of these tests is written into the user's home."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import dask
import pytest


@pytest.fixture(autouse=True)
def home(tmp_path: Path, _clean: None) -> Iterator[Path]:
    """Where certificates are made."""
    with dask.config.set({"chunkinfer.security.folder": str(tmp_path / "config" / "tls")}):
        yield tmp_path / "config" / "tls"
