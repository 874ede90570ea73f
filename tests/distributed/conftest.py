"""Clusters for the whole session, and small volumes on disk."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
import zarr
from distributed import Client

from clusters import Cluster

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
