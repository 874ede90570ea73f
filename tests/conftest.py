"""What several test folders share."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import dask
import pytest
import torch
from distributed import Client, LocalCluster
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


@pytest.fixture(autouse=True, scope="session")
def _quiet_clusters() -> Iterator[None]:
    """Nine idle processes of clusters measure themselves with a quarter of a core; here nobody reads that."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DASK_DISTRIBUTED__ADMIN__TICK__INTERVAL", "1s")
        patch.setenv("DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED", "False")
        dask.config.refresh()
        yield


@pytest.fixture(autouse=True)
def _clean() -> None:
    """Lazy arrays compute on threads unless a test says otherwise; no test sees another's dask settings or weights."""
    dask.config.refresh()
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def threads() -> Iterator[Client]:
    """A cluster in this process, of two threads, that is not the default one."""
    with (
        LocalCluster(
            processes=False, n_workers=1, threads_per_worker=2, memory_limit=0,
            dashboard_address="127.0.0.1:0", worker_dashboard_address="127.0.0.1:0",
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):  # fmt: skip
        yield client


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


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a real S3 API on loopback, which the environment names."""
    moto = pytest.importorskip("moto.server")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    empty = tmp_path_factory.mktemp("aws") / "empty"
    empty.touch()
    with pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
            patch.setenv(name, str(empty))
        patch.setenv("AWS_ACCESS_KEY_ID", "not-so-secret-id")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "not-so-secret-key")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        yield f"http://{host}:{port}"
    server.stop()
