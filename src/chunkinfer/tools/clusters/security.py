"""Who may join a cluster: TLS, with certificates that are made once or given.

Whoever joins a dask cluster can run any code on it. So what leaves the machine is encrypted, and both sides must show a
certificate of the same authority. Nobody needs an authority of their own for it: the default is one certificate that is
its own, in a folder that only its user can read. A folder rather than memory, because the workers of a batch system
find it in the home directory that they share, so no key travels in a job script; because a second client of the same
user can join (`tls`); and because nothing is left behind where a process that would have cleaned up was killed. Each
kind of cluster has its own, so that a key that was handed to Kubernetes opens nothing else.
"""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dask.config

from chunkinfer.errors import ClusterError, MissingExtra
from chunkinfer.tools.clusters.settings import check, section

if TYPE_CHECKING:
    from distributed import Security

RENEWED = timedelta(days=300)
"""Certificates hold for a year. A new one is made before, in another folder: clusters that run keep theirs."""

CERTIFICATE, KEY = "cert.pem", "key.pem"


def transport(name: str, security: Security | bool | None = None) -> Security:
    """The security of a cluster that leaves this machine.

    Parameters
    ----------
    name
        Of the cluster or its kind: it has certificates of its own.
    security
        None: certificates that are given in the configuration (``chunkinfer.security``, or dask's
        ``distributed.comm.tls``), or else made. A Security: this one. False: none at all, said on purpose.

    Returns
    -------
    distributed.Security

    Raises
    ------
    ClusterError
        A file is absent, or others may read the private key.
    MissingExtra
        Certificates have to be made, and ``cryptography`` is absent.
    """
    from distributed import Security

    if isinstance(security, Security):
        return security
    if security is False:
        return Security(require_encryption=False)
    return _given() or _kept(name, make=True)


def tls(name: str = "slurm", *, ca: str | None = None, cert: str | None = None, key: str | None = None) -> Security:
    """The security to join a cluster with: ``Client("tls://login1:40123", security=ci.clusters.tls())``.

    Parameters
    ----------
    name
        Of the cluster or its kind: ``"slurm"``, ``"local"``, or what `kubernetes` says.
    ca, cert, key
        Paths of PEM files, instead of the configuration's or those that were made: the authority's certificate, and
        your certificate and private key.

    Returns
    -------
    distributed.Security

    Raises
    ------
    ClusterError
        A file is absent, others may read the private key, or no certificates were made for this name.
    """
    return _given(ca=ca, cert=cert, key=key) or _kept(name, make=False)


def _given(**paths: str | None) -> Security | None:
    """What the caller, chunkinfer's or dask's configuration names; None if nothing."""
    from distributed import Security

    check()
    if not any(paths.values()):
        paths = {k: section("security")[k] for k in ("ca", "cert", "key")}
    if not any(paths.values()):
        if dask.config.get("distributed.comm.tls.ca-file") is None:
            return None
        return Security(require_encryption=True)
    if absent := [k for k, path in paths.items() if not path]:
        raise ClusterError(
            f"{', '.join(absent)} is missing.",
            "Certificates that are given are three files: the authority's, your own, and its private key.",
            ['ca="ca.pem", cert="cert.pem", key="key.pem"', "leave all three out: certificates are made"],
        )
    ca, cert, key = (Path(str(paths[k])).expanduser().absolute() for k in ("ca", "cert", "key"))
    return _security(ca, cert, key)


def _security(ca: Path, cert: Path, key: Path) -> Security:
    """Of files, for all three roles: dask asks for the authority only."""
    from distributed import Security

    for path in (ca, cert, key):
        if not path.is_file():
            raise ClusterError(
                f"There is no file {path}.",
                "It is named as part of the certificates of a cluster.",
                ["ls -l the folder: is it mounted on this machine?", "leave ca, cert and key out: they are made"],
            )
    if key.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise ClusterError(
            f"Others than you may use the private key {key}.",
            "Whoever has it can run code on your cluster, as you.",
            [f"chmod 600 {key}", "have new certificates made: this one may have been read"],
        )
    roles: dict[str, Any] = {}
    for role in ("client", "scheduler", "worker"):
        roles |= {f"tls_{role}_cert": str(cert), f"tls_{role}_key": str(key)}
    return Security(require_encryption=True, tls_ca_file=str(ca), **roles)


def _kept(name: str, make: bool) -> Security:
    """The newest certificates in the folder of a name; made there if they are absent or old."""
    folder = Path(section("security")["folder"]).expanduser().absolute() / name
    made = sorted(folder.glob("????-??-??"))
    if not made and not make:
        raise ClusterError(
            f"There are no certificates in {folder}.",
            "They are made when a cluster starts; to join one that runs elsewhere you need its files.",
            ['ci.clusters.tls(ca="ca.pem", cert="cert.pem", key="key.pem")', f"copy the folder to {folder}"],
        )
    if make and (not made or date.fromisoformat(made[-1].name) < date.today() - RENEWED):
        made.append(_make(folder / date.today().isoformat()))
    return _security(made[-1] / CERTIFICATE, made[-1] / CERTIFICATE, made[-1] / KEY)


def _make(folder: Path) -> Path:
    """A certificate that is its own authority and its key, for their owner's eyes only; complete or not there."""
    from distributed import Security

    try:
        new = Security.temporary()
    except ImportError as error:
        raise MissingExtra.of("Certificates", "cryptography", "slurm") from error
    folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    begun = Path(tempfile.mkdtemp(prefix=".new-", dir=folder.parent))  # 0700
    for file, text in ((CERTIFICATE, new.tls_ca_file), (KEY, new.tls_client_key)):
        with open(os.open(begun / file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:
            out.write(text)
    try:
        begun.rename(folder)
    except OSError:  # somebody else was faster
        if not folder.is_dir():
            raise
        shutil.rmtree(begun)
    return folder
