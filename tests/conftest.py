"""What several test folders share."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import dask
import numpy as np
import pytest
import torch
import zarr
from distributed import Client, LocalCluster
from hypothesis import HealthCheck, settings

from chunkinfer.stores.files import Files
from tests.lib.clusters import Cluster

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


Start = Callable[..., Cluster]


@pytest.fixture(scope="session")
def start_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """Starts clusters: ``start_cluster("GPU=1", "")`` has one worker that declares a GPU and one that does not."""
    clusters: list[Cluster] = []

    def start(*resources: str, threads: int = 2, nannies: int = 0, config: Mapping[str, str] | None = None) -> Cluster:
        cluster = Cluster(tmp_path_factory.mktemp("cluster"), config)
        clusters.append(cluster)
        for _ in range(nannies):
            cluster.worker(threads, nanny=True)
        for text in resources:
            cluster.worker(threads, text)
        return cluster

    try:
        yield start
    finally:
        for cluster in clusters:
            cluster.close()


@pytest.fixture(scope="session")
def plain_cluster(start_cluster: Start) -> Cluster:
    """Two workers of two threads each."""
    return start_cluster("", "")


@pytest.fixture(scope="session")
def gpu_cluster(start_cluster: Start) -> Cluster:
    """Two workers of four threads each, one of which declares a GPU."""
    return start_cluster("GPU=1", "", threads=4)


@pytest.fixture
def client(plain_cluster: Cluster) -> Iterator[Client]:
    """Of the plain cluster, and the default one while the test runs."""
    with plain_cluster.client(2) as found:
        yield found


@pytest.fixture
def gpu_client(gpu_cluster: Cluster) -> Iterator[Client]:
    """Of the cluster with a GPU, and the default one while the test runs."""
    with gpu_cluster.client(2) as found:
        yield found


@pytest.fixture
def stored(tmp_path: Path) -> Callable[..., str]:
    """Stores a small random uint8 volume, as zarr in chunks of 16 voxels, and gives its path."""

    def store(*shape: int, name: str = "volume.zarr") -> str:
        values = np.random.default_rng(0).integers(1, 200, shape).astype(np.uint8)
        zarr.create_array(tmp_path / name, data=values, chunks=(16,) * len(shape), dimension_names=["z", "y", "x"])
        return str(tmp_path / name)

    return store


@pytest.fixture(scope="session")
def bucket(s3_server: str) -> str:
    boto3 = pytest.importorskip("boto3")
    client = boto3.client("s3", endpoint_url=s3_server)
    client.create_bucket(Bucket="volumes")
    # Versions count how often an object was written.
    client.put_bucket_versioning(Bucket="volumes", VersioningConfiguration={"Status": "Enabled"})
    return "volumes"


@pytest.fixture(scope="session")
def gcs() -> Iterator[str]:
    """URL of a server that this process, and those that it starts, take for Google's; it has the bucket "volumes"."""
    pytest.importorskip("gcp_storage_emulator")
    from tests.lib.storage.gcs import serving

    with serving() as url, pytest.MonkeyPatch.context() as patch:
        patch.setenv("TENSORSTORE_GCS_HTTP_URL", url)
        patch.setenv("GOOGLE_AUTH_TOKEN_FOR_TESTING", "not-so-secret-token")
        yield url


@pytest.fixture(scope="session")
def cluster(bucket: str, gcs: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Two workers of two threads each, that know both servers by their environment."""
    cluster = Cluster(tmp_path_factory.mktemp("cluster"))
    try:
        cluster.worker()
        cluster.worker()
        yield cluster
    finally:
        cluster.close()


@pytest.fixture(scope="session")
def s3(s3_server: str) -> str:
    """A bucket of a real S3 API on loopback."""
    pytest.importorskip("boto3").client("s3", endpoint_url=s3_server).create_bucket(Bucket="ledgers")
    return "s3://ledgers"


@pytest.fixture(params=["file", "memory", "s3"])
def files(request: pytest.FixtureRequest, tmp_path: Path) -> Files:
    """A folder of small objects, empty."""
    if request.param == "s3":
        return Files(f"{request.getfixturevalue('s3')}/{tmp_path.name}")
    found = Files(str(tmp_path / "out.zarr"))
    if request.param == "memory":
        object.__setattr__(found, "spec", {"driver": "memory", "path": f"{tmp_path}/"})
    return found
