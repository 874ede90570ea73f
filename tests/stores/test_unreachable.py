"""Stores that don't answer: said within the half minute, with what was tried."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import chunkinfer as ci
from chunkinfer.errors import ChunkinferError
from chunkinfer.stores import store


@pytest.fixture(params=["closed", "mute"])
def endpoint(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Where nobody listens, and where somebody does and never answers; a second is as good as half a minute."""
    monkeypatch.setattr(store, "ANSWER", 1.0)
    monkeypatch.setattr(store, "TRIES", {"max_retries": 2, "initial_delay": "50ms", "max_delay": "100ms"})
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port = listening.getsockname()[1]
        if request.param == "mute":
            listening.listen(64)
        else:
            listening.close()
        url = f"http://127.0.0.1:{port}"
        for name, value in {
            "AWS_ENDPOINT_URL": url, "AWS_DEFAULT_REGION": "us-east-1", "AWS_ACCESS_KEY_ID": "id",
            "AWS_SECRET_ACCESS_KEY": "not-so-secret", "AWS_EC2_METADATA_DISABLED": "true",
        }.items():  # fmt: skip
            monkeypatch.setenv(name, value)
        yield url


CALLS: dict[str, Callable[[str], Any]] = {
    "open": lambda url: ci.open_volume("s3://bucket/volume.zarr"),
    "open a file": lambda url: ci.open_volume("s3://bucket/volume.h5"),
    "open by http": lambda url: ci.open_volume(f"{url}/volume.zarr"),
    "save": lambda url: ci.save(np.zeros((8, 8, 8), np.uint8), "s3://bucket/out.zarr", progress=False),
    "status": lambda url: ci.status("s3://bucket/out.zarr"),
}


@pytest.mark.parametrize("call", CALLS)
def test_an_endpoint_that_does_not_answer(endpoint: str, call: str) -> None:
    start = time.monotonic()
    with pytest.raises(ChunkinferError) as caught:
        CALLS[call](endpoint)
    assert time.monotonic() - start < 15
    told = str(caught.value)
    assert endpoint in told
    assert "did not answer within 1 s" in told or "cannot be reached: Could not connect to server" in told
    assert "not-so-secret" not in told


def test_one_that_answers_is_asked_once(s3_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bucket that is not there is an answer, and what answered is not asked again."""
    store._reached.cache_clear()
    for name in ("one", "two"):
        with pytest.raises(ChunkinferError):
            ci.open_volume(f"s3://no-such-bucket/{name}.zarr")
    assert store._reached.cache_info().currsize == 1
