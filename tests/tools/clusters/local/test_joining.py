"""Joining a cluster by its scheduler's address, and addresses at which none is."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

import pytest
from click.testing import CliRunner
from distributed import Client

from chunkinfer.errors import ClusterError
from chunkinfer.tools.cli import main
from chunkinfer.tools.clusters import joining


@pytest.fixture
def served() -> Iterator[str]:
    """Host and port of a scheduler."""
    with Client(n_workers=1, processes=False, dashboard_address="127.0.0.1:0", protocol="tcp", host="127.0.0.1",
                set_as_default=False) as client:  # fmt: skip
        yield client.scheduler.address.removeprefix("tcp://")


@pytest.mark.parametrize("protocol", ["", "tcp://"])
def test_an_address_with_and_without_its_protocol(served: str, protocol: str) -> None:
    with joining.client_at(protocol + served) as client:
        assert client.scheduler.address == f"tcp://{served}"
        assert client.submit(sum, (1, 2)).result() == 3


@pytest.mark.parametrize("address", ["login1", "http://login1:8787/status", "login1:port", "", "tcp://", "a b:1"])
def test_what_is_no_address(address: str) -> None:
    with pytest.raises(ClusterError, match="is not the address of a scheduler"):
        joining.client_at(address)


@pytest.mark.parametrize("answers", ["closed", "mute"])
def test_nobody_there(answers: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joining, "CONNECT", 1.0)
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{listening.getsockname()[1]}"
        if answers == "mute":
            listening.listen(8)
        else:
            listening.close()
        start = time.monotonic()
        with pytest.raises(ClusterError, match=f"No scheduler answers at tcp://{address}, tried for 1 s") as caught:
            joining.client_at(address)
    assert time.monotonic() - start < 8
    assert caught.value.__cause__ is not None


def test_the_command_says_so() -> None:
    result = CliRunner().invoke(main, ["pyramid", "volume.ome.zarr", "--scheduler", "login1"])
    assert isinstance(result.exception, ClusterError)
    assert "--scheduler tcp://login1:8786" in str(result.exception)
