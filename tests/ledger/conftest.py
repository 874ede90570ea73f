"""Stores of every kind for small objects, and finished outputs to look at."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from chunkinfer.storage import Files


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A bucket of a real S3 API on loopback."""
    moto, boto3 = pytest.importorskip("moto.server"), pytest.importorskip("boto3")
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
        boto3.client("s3", endpoint_url=f"http://{host}:{port}").create_bucket(Bucket="ledgers")
        yield "s3://ledgers"
    server.stop()


@pytest.fixture(params=["file", "memory", "s3"])
def files(request: pytest.FixtureRequest, tmp_path: Path) -> Files:
    """A folder of small objects, empty."""
    if request.param == "s3":
        return Files(f"{request.getfixturevalue('s3')}/{tmp_path.name}")
    found = Files(str(tmp_path / "out.zarr"))
    if request.param == "memory":
        object.__setattr__(found, "spec", {"driver": "memory", "path": f"{tmp_path}/"})
    return found
