"""What several test folders share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import dask
import pytest
import torch
from hypothesis import HealthCheck, settings

SHARED = Path(__file__).parents[2] / "shared"

# One profile for all: no deadline, because two cores are shared; the number of examples can be raised from outside.
settings.register_profile(
    "chunkinfer",
    deadline=None,
    max_examples=int(os.environ.get("EXAMPLES", "30")),
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.function_scoped_fixture],
)
settings.load_profile("chunkinfer")

# Networks here are small: a second thread costs more than it computes.
torch.set_num_threads(1)

# Networks built while a test module is imported have the same weights in every run.
torch.manual_seed(0)


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What is measured and compiled here is neither taken from the user's cache nor left there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def _clean() -> None:
    """Lazy arrays compute on threads unless a test says otherwise; no test sees another's dask settings or weights."""
    dask.config.refresh()
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def fib25() -> Path:
    """Real electron microscopy; a user's machine has none."""
    path = SHARED / "data" / "fib25"
    if not path.exists():
        pytest.skip("the FIB-25 volumes are not on this machine (../shared/data/fib25)")
    return path


@pytest.fixture(scope="session")
def real_models() -> Path:
    """A network trained on real data; a user's machine has none."""
    path = SHARED / "models"
    if not path.exists():
        pytest.skip("the trained network is not on this machine (../shared/models)")
    return path
