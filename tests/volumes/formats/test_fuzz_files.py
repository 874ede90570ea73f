"""Files with changed metadata: read as their own libraries do, or refused; `make evidence` draws many."""

from __future__ import annotations

import random
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.lib.storage.fuzz_files import FILES
from tests.lib.storage.fuzzing import Format, tried


@pytest.mark.parametrize("format", FILES, ids=lambda format: format.name)
def test_is_read_as_it_is_meant_or_refused(format: Format, tmp_path: Path) -> None:
    @settings(max_examples=settings().max_examples // 3)
    @given(seed=st.integers(0, 2**32))
    def one(seed: int) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the libraries, about what was changed
            outcome = tried(format, tmp_path, random.Random(seed))
        assert outcome.verdict != "different", f"{outcome.change}\n{outcome.detail}"

    one()


@pytest.mark.parametrize("format", FILES, ids=lambda format: format.name)
def test_is_read_unchanged(format: Format, tmp_path: Path) -> None:
    outcome = tried(replace(format, change=lambda place, chance: ""), tmp_path, random.Random(0))
    assert outcome.verdict == "equal", outcome.detail
