"""Credentials of the environment and of URLs: they are in nothing that a run writes, ships or says."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import nn

import chunkinfer as ci
from chunkinfer.errors import SourceError
from tests.lib.clusters import PATIENCE, TESTS, Cluster

SECRETS = {
    "AWS_ACCESS_KEY_ID": "AKIACANARYCANARY0001",
    "AWS_SECRET_ACCESS_KEY": "canary-secret/with+slash/0002",
    "AWS_SESSION_TOKEN": "canary-session-token-0003",
    "GOOGLE_AUTH_TOKEN_FOR_TESTING": "canary-google-token-0004",
    "SOME_SERVICE_PASSWORD": "canary-password-0005",
}
KEY = "canary-private-key-0006"
"""Of the account that GOOGLE_APPLICATION_CREDENTIALS names."""

RUN = """
import logging, sys, traceback
from pathlib import Path
import cloudpickle
import chunkinfer as ci
from chunkinfer.runs.exporters.jsonlines import JsonLines
from distributed import Client
from tests.lib.probes import Sensitive, convolution

def speak():
    logging.getLogger("distributed.worker").error("the workers' logs are searched")

def attempt(what):
    try:
        print(what())
    except Exception as error:
        print("refused", repr(error))
        traceback.print_exc()

if __name__ == "__main__":
    bucket, folder, scheduler = sys.argv[1:]
    folder = Path(folder)
    with Client(scheduler) as client:
        volume = ci.open_volume(f"{bucket}/em.zarr")
        result = ci.infer(volume, convolution(), patch=18, block=16)
        (folder / "graph").write_bytes(cloudpickle.dumps(result.data.dask))
        print(volume, result, repr(result.data.dask), ci.plan(volume, convolution()), client, sep="\\n")
        log = JsonLines(folder / "run.jsonl")
        print(ci.save(result, f"{bucket}/out.zarr", events=[log], progress=False))
        (folder / "fails").mkdir()
        (folder / "fails" / "always").touch()
        value = float(volume.values[0, 0, 0]) / 255
        failing = ci.infer(volume, Sensitive(folder / "fails", value), patch=18, block=16, version="sensitive")
        attempt(lambda: ci.save(failing, f"{bucket}/failed.zarr", events=[log], progress=False))
        attempt(lambda: ci.save(result, "s3://no-such-bucket/out.zarr", events=[log], progress=False))
        attempt(lambda: ci.open_volume("s3://no-such-bucket/em.zarr"))
        attempt(lambda: ci.infer(volume, f"{bucket}/absent.pt2"))
        client.run(speak)
"""


def holding(secret: bytes, folder: Path) -> list[str]:
    """Files below a folder that hold a secret."""
    return [str(p) for p in folder.rglob("*") if p.is_file() and secret in p.read_bytes()]


@pytest.fixture
def planted(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Secrets in the environment of this process, and of all that it starts."""
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    file = tmp_path_factory.mktemp("account") / "account.json"
    file.write_text(json.dumps({"type": "service_account", "private_key": KEY}))
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(file))
    assert holding(KEY.encode(), file.parent)
    return [*SECRETS.values(), KEY]


@pytest.fixture
def s3(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """boto3's client of a server with a bucket, which the environment names."""
    moto, boto3 = pytest.importorskip("moto.server"), pytest.importorskip("boto3")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    empty = tmp_path_factory.mktemp("aws") / "empty"
    empty.touch()
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(empty))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    client = boto3.client("s3", endpoint_url=f"http://{host}:{port}")
    client.create_bucket(Bucket="volumes")
    yield client
    server.stop()


@pytest.mark.slow
def test_no_secret_is_in_anything_that_a_run_leaves(
    planted: list[str], s3: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scheduler, workers and client are processes, and say all that dask can say."""
    monkeypatch.setenv("DASK_LOGGING__DISTRIBUTED", "debug")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    url = "s3://volumes/secrets"
    image = np.random.default_rng(0).integers(1, 200, (32, 32, 32), dtype=np.uint8)
    ci.save(image, f"{url}/em.zarr", chunks=(16, 16, 16), progress=False)
    cluster = Cluster(tmp_path)
    try:
        cluster.worker()
        cluster.worker()
        command = [sys.executable, "-c", RUN, url, str(tmp_path), cluster.address]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(TESTS.parent)}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=2 * PATIENCE)
    finally:
        cluster.close()
    (tmp_path / "said").write_text(done.stdout + done.stderr)
    assert done.returncode == 0, done.stderr
    assert "8 computed" in done.stdout
    assert "refused RunError" in done.stdout, done.stdout
    assert done.stdout.count("refused ") == 4
    for number, thing in enumerate(s3.list_objects_v2(Bucket="volumes")["Contents"]):
        content = s3.get_object(Bucket="volumes", Key=thing["Key"])["Body"].read()
        (tmp_path / f"object-{number}").write_bytes(thing["Key"].encode() + content)
    for witness in (b"run.json", b"the workers' logs are searched", b"run ended", b"infer-"):
        assert holding(witness, tmp_path), witness  # what is searched is what it should be
    for secret in planted:
        assert holding(secret.encode(), tmp_path) == []


WITH_SECRETS = [
    "s3://AKIA:sesame@bucket/em.zarr",
    "s3://AKIA:ses/ame+sesame@bucket/em.zarr",
    "s3://AKIA:sesame/@bucket/em.zarr",
    "gs://someone:sesame@bucket/em.zarr",
    "https://someone:sesame@host/em.zarr",
    "https://host/em.zarr?X-Amz-Signature=sesame",
    "precomputed://s3://AKIA:sesame@bucket/em",
    "sftp://someone:sesame@host/em.zarr",
    "sftp://someone:ses/ame+sesame@host/em.zarr",
    "sftp://host/em.zarr?signature=sesame",
]

VERBS: dict[str, Callable[[str], Any]] = {
    "open_volume": ci.open_volume,
    "save": lambda url: ci.save(np.zeros((8, 8, 8), "u1"), url, progress=False),
    "infer": lambda url: ci.infer(np.zeros((8, 8, 8), "f4"), url.removesuffix(".zarr") + ".pt2"),
    "volume": lambda url: ci.infer(url, nn.Conv3d(1, 1, 1).eval()),
}


@pytest.mark.parametrize("url", WITH_SECRETS)
@pytest.mark.parametrize("verb", VERBS)
def test_a_url_with_a_secret_is_refused_and_not_repeated(verb: str, url: str) -> None:
    with pytest.raises(SourceError) as caught:
        VERBS[verb](url)
    error: BaseException | None = caught.value
    while error is not None:
        assert "sesame" not in f"{error} {error!r} {error.args}"
        assert "ame+" not in str(error)
        error = error.__cause__ or error.__context__
