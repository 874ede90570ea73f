"""Chunked stores with changed metadata: read as their own libraries do, or refused.

`EXAMPLES=1500 pytest` draws 500 of each; benchmarks/fuzz_stores.py, which `make evidence` runs, counts what becomes of
them.
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.lib.storage.fuzz_stores import STORES
from tests.lib.storage.fuzzing import Format, tried

pytest.importorskip("zarr")
pytest.importorskip("yaozarrs")
pytest.importorskip("cloudvolume")


@pytest.mark.parametrize("format", STORES, ids=lambda format: format.name)
def test_is_read_as_it_is_meant_or_refused(format: Format, tmp_path: Path) -> None:
    @settings(max_examples=settings().max_examples // 3)
    @given(seed=st.integers(0, 2**32))
    def one(seed: int) -> None:
        outcome = tried(format, tmp_path, random.Random(seed))
        assert outcome.verdict != "different", f"{outcome.change}\n{outcome.detail}"

    one()


@pytest.mark.parametrize("format", STORES, ids=lambda format: format.name)
def test_is_read_unchanged(format: Format, tmp_path: Path) -> None:
    same = Format(format.name, format.write, lambda place, chance: "", format.readers, format.inside, format.levels)
    for seed in range(4):
        outcome = tried(same, tmp_path, random.Random(seed))
        assert outcome.verdict == "equal", outcome.detail
