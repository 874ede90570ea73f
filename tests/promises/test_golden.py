"""A run that an older version began goes on, and is refused with other settings, as it was then."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest

from chunkinfer.errors import SettingsDiffer
from tests.promises.golden import FOLDER, RUNS, blocks_of

QUICK = ("exact", "copy", "pyramid", "segment")
NAMES = [pytest.param(n, marks=() if n in QUICK else (pytest.mark.slow, pytest.mark.smoke)) for n in RUNS]


@pytest.fixture
def begun(name: str, tmp_path: Path) -> Path:
    """A folder with the run as it was left."""
    with zipfile.ZipFile(FOLDER / f"{name}.zip") as kept:
        kept.extractall(tmp_path / "begun")
    return tmp_path / "begun"


@pytest.mark.parametrize("name", NAMES)
def test_what_an_older_version_began_is_finished(name: str, begun: Path, tmp_path: Path) -> None:
    expected, blocks = blocks_of(RUNS[name].call, tmp_path / "anew")
    found, computed = blocks_of(RUNS[name].call, begun)
    assert 0 < computed < blocks or blocks == 1
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert blocks_of(RUNS[name].call, begun)[1] == 0


@pytest.mark.parametrize("name", NAMES)
def test_other_settings_are_refused_on_what_an_older_version_began(name: str, begun: Path) -> None:
    with pytest.raises(SettingsDiffer, match="stored"):
        RUNS[name].other(begun, progress=False)
