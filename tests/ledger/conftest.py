"""Stores of every kind for small objects, and finished outputs to look at."""

from __future__ import annotations

from pathlib import Path

import pytest

from chunkinfer.stores.files import Files


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
