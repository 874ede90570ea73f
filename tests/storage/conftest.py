"""Buckets of an S3 and a Google Cloud Storage API on loopback."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from clusters import Cluster


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
    from storage.gcs import serving

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
