"""A bucket of a real S3 API on loopback."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session")
def bucket(s3_server: str) -> str:
    boto3 = pytest.importorskip("boto3")
    client = boto3.client("s3", endpoint_url=s3_server)
    client.create_bucket(Bucket="volumes")
    # Versions count how often an object was written.
    client.put_bucket_versioning(Bucket="volumes", VersioningConfiguration={"Status": "Enabled"})
    return "volumes"
