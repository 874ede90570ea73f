"""Joining a cluster that runs elsewhere, by the address of its scheduler."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING

from chunkinfer.errors import ClusterError
from chunkinfer.tools.clusters.security import tls

if TYPE_CHECKING:
    from distributed import Client, Security

CONNECT = 10.0
"""Seconds in which a scheduler must answer."""

_ADDRESS = re.compile(r"(?:(tcp|tls|ucx|ws|wss)://)?((?:[\w.-]+|\[[\da-fA-F:.]+\]):\d{1,5})/?")


def client_at(address: str, certificates: str | None = None) -> Client:
    """The client of the scheduler at an address.

    Parameters
    ----------
    address
        Such as "tcp://login1:8786". Without a protocol it is tcp, or tls where certificates are named.
    certificates
        Name of those to join with, as for `chunkinfer.clusters.tls`.

    Raises
    ------
    ClusterError
        It is no address, or no scheduler answers there.
    """
    from distributed import Client, Security

    match = _ADDRESS.fullmatch(address)
    if match is None:
        raise ClusterError(
            f"{address!r} is not the address of a scheduler.",
            "It is a host and a port, as `dask scheduler` prints them when it starts; its status page is another one.",
            ["--scheduler tcp://login1:8786", "--scheduler tls://login1:8786 --tls slurm"],
        )
    full = f"{match[1] or ('tls' if certificates else 'tcp')}://{match[2]}"
    security = tls(certificates) if certificates else Security()
    try:
        asyncio.run(asyncio.wait_for(_greet(full, security), CONNECT))
        return Client(full, timeout=CONNECT, security=security)
    except (OSError, RuntimeError, TypeError, ValueError) as error:
        lines = str(error).splitlines() or [type(error).__name__]
        raise ClusterError(
            f"No scheduler answers at {full}, tried for {CONNECT:.0f} s: {lines[0]}",
            "It is not running, listens elsewhere, or a firewall is in between; or only one side uses TLS.",
            [f"start one there: dask scheduler --port {full.rpartition(':')[2]}",
             "with certificates: --scheduler tls://HOST:PORT --tls NAME",
             "leave --scheduler out: the run then takes this machine alone"],
        ) from error  # fmt: skip


async def _greet(address: str, security: Security) -> None:
    """Shake hands with a scheduler: dask's client would wait for ever for the other hand."""
    from distributed.comm.core import connect

    comm = await connect(address, timeout=CONNECT, **security.get_connection_args("client"))
    await comm.close()
