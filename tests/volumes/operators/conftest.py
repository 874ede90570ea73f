"""Blocks of small volumes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from chunkinfer.volumes.arrays import layout


@pytest.fixture(autouse=True, scope="module")
def _small_blocks() -> Iterator[None]:
    """What is saved is cut into many blocks, as large volumes are, and not into one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layout, "COPY_BYTES", 1)
        yield
