"""Certificates: made once, for their owner's eyes only, or given."""

from __future__ import annotations

import os
import stat
from concurrent.futures import ThreadPoolExecutor
from datetime import date, timedelta
from pathlib import Path

import dask
import pytest
from distributed import Security

from chunkinfer.errors import ClusterError
from chunkinfer.tools.clusters.security import tls, transport


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def key_of(security: Security) -> Path:
    return Path(security.tls_client_key)


def test_made_once_and_for_nobody_else(home: Path) -> None:
    mask = os.umask(0)  # the worst that a user may have
    try:
        made = transport("slurm")
    finally:
        os.umask(mask)
    folder = key_of(made).parent
    assert (mode(home / "slurm"), mode(folder)) == (0o700, 0o700)
    assert {path.name: mode(path) for path in folder.iterdir()} == {"cert.pem": 0o600, "key.pem": 0o600}
    assert made.require_encryption
    for again in (transport("slurm"), transport("slurm", True), tls("slurm")):
        assert key_of(again) == key_of(made)
    other = transport("kubernetes/mine")
    assert key_of(other).read_text() != key_of(made).read_text(), "a key that is handed out opens another cluster"


def test_made_once_also_when_many_start_at_a_time(home: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: transport("slurm"), range(8)))
    assert len({key_of(security) for security in made}) == 1
    assert [path.name for path in (home / "slurm").iterdir()] == [date.today().isoformat()], "something was left behind"


def test_renewed_in_another_folder(home: Path) -> None:
    old = key_of(transport("slurm"))
    aged = old.parent.with_name((date.today() - timedelta(days=301)).isoformat())
    old.parent.rename(aged)
    assert key_of(tls("slurm")) == aged / "key.pem", "a client of a cluster that runs still needs the old one"
    new = key_of(transport("slurm"))
    assert new == old
    assert new.read_text() != (aged / "key.pem").read_text()


def test_joining_needs_certificates_that_are_there(home: Path) -> None:
    with pytest.raises(ClusterError, match="no certificates"):
        tls("slurm")
    assert not home.exists()


def test_given(home: Path, tmp_path: Path) -> None:
    made = transport("slurm")
    ca, key = made.tls_ca_file, made.tls_client_key
    assert key_of(tls(ca=ca, cert=ca, key=key)) == key_of(made)
    with dask.config.set({"chunkinfer.security": {"ca": ca, "cert": ca, "key": key, "folder": "/nowhere"}}):
        assert key_of(transport("slurm")) == key_of(made)
    with dask.config.set({"distributed.comm.tls.ca-file": ca, "distributed.comm.tls.client.key": key}):
        found = transport("slurm")
        assert (found.require_encryption, found.tls_client_key) == (True, key)
    assert transport("slurm", made) is made
    assert not transport("slurm", False).require_encryption
    with pytest.raises(ClusterError, match="key is missing"):
        tls(ca=ca, cert=ca)
    with pytest.raises(ClusterError, match="There is no file"):
        tls(ca=ca, cert=ca, key=str(tmp_path / "absent.pem"))


def test_a_key_that_others_may_read_is_refused(home: Path) -> None:
    key = key_of(transport("slurm"))
    key.chmod(0o640)
    with pytest.raises(ClusterError, match="chmod 600"):
        transport("slurm")
