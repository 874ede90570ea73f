"""dask-kubernetes' KubeCluster, where its scheduler speaks TLS and something else than the DaskCluster is created too.

KubeCluster creates a DaskCluster, waits, and connects to the scheduler over plain TCP; the last two have no time limit,
so a scheduler that speaks TLS, or that no node can take, would be waited for without a word. Creating and connecting
are therefore done here. Everything else, from scaling to closing, is KubeCluster's.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from typing import Any

import kr8s
from dask_kubernetes.operator import KubeCluster
from dask_kubernetes.operator._objects import DaskCluster
from dask_kubernetes.operator.networking import get_scheduler_address, wait_for_scheduler
from distributed import Security
from distributed.core import rpc
from kr8s.asyncio.objects import NetworkPolicy, Pod, Secret

from chunkinfer.errors import ClusterError
from chunkinfer.tools.clusters.kubernetes_spec import CLUSTER, Manifest, owned

INSTALL = "have dask's operator installed: https://kubernetes.dask.org/en/latest/installing.html"

KINDS = {"Secret": Secret, "NetworkPolicy": NetworkPolicy}


class SecureKubeCluster(KubeCluster):  # type: ignore[misc]  # no type information is published for it
    """A KubeCluster of a given DaskCluster and of what belongs to it.

    Parameters
    ----------
    manifests
        The DaskCluster, and Secrets and network policies that are to go when it goes. Where a DaskCluster of its name
        exists, that is joined, and not removed when this object is closed.
    security
        With which clients connect.
    namespace
        None: the one of the context of the user's configuration of kubectl.
    timeout
        Seconds until the scheduler must answer.
    options
        Of KubeCluster, over what is set here.
    """

    def __init__(
        self,
        manifests: Sequence[Manifest],
        security: Security,
        namespace: str | None,
        timeout: float,
        options: Mapping[str, Any],
    ) -> None:
        self.security = security
        cluster, *self._companions = manifests
        made = {
            "custom_cluster_spec": cluster,
            "namespace": namespace,
            "resource_timeout": timeout,
            "shutdown_on_close": True,
            # Outside of Kubernetes the scheduler's name is not known; asking for it takes 20 seconds.
            "port_forward_cluster_ip": "KUBERNETES_SERVICE_HOST" not in os.environ,
            "quiet": True,
        }
        super().__init__(**{**made, **options})

    async def _create_cluster(self) -> None:
        cluster = await DaskCluster(self._custom_cluster_spec, namespace=self.namespace)
        try:
            await cluster.create()
        except kr8s.ServerError as error:
            raise _refused("DaskCluster", error) from error
        try:
            for manifest in self._companions:
                companion = owned(manifest, cluster.metadata.uid, cluster.name)
                try:
                    await (await KINDS[manifest["kind"]](companion, namespace=self.namespace)).create()
                except kr8s.ServerError as error:
                    raise _refused(manifest["kind"], error) from error
            await self._connect()
        except BaseException:
            await cluster.delete()
            raise

    async def _connect_cluster(self) -> None:
        self.shutdown_on_close = False
        await self._connect()

    async def _connect(self) -> None:
        try:
            await asyncio.wait_for(self._scheduler(), self._resource_timeout)
        except TimeoutError as error:
            found = await self._pods()
            raise ClusterError(
                f"The scheduler of {self.name} did not answer within {self._resource_timeout:.0f} s.\n{found}",
                "The operator does not run, no node can take the scheduler's pod, its image cannot be pulled, or its "
                "certificates are not of the same authority as yours.",
                [
                    f"kubectl -n {self.namespace} describe pods -l {CLUSTER}={self.name}  # while you try again",
                    f"if there are no pods at all, {INSTALL}",
                    'start_timeout="30 minutes"  # if a node has to be started first',
                ],
            ) from error

    async def _scheduler(self) -> None:
        """Wait until the scheduler answers, and keep the connection."""
        # Not for the phase of the DaskCluster: the operator may set it to Pending after it set it to Running.
        await wait_for_scheduler(self.name, self.namespace, timeout=self._resource_timeout)
        service = f"{self.name}-scheduler"
        forward = self.port_forward_cluster_ip
        address = await get_scheduler_address(service, self.namespace, port_forward_cluster_ip=forward)
        arguments: dict[str, Any] = {}
        if self.security.require_encryption:
            address = address.replace("tcp://", "tls://")
            arguments = self.security.get_connection_args("client")
        self.scheduler_comm = rpc(address, connection_args=arguments)
        while True:
            try:
                await self.scheduler_comm.versions()
                break
            except OSError:
                await asyncio.sleep(0.2)
        dashboard = await get_scheduler_address(
            service, self.namespace, port_name="http-dashboard", port_forward_cluster_ip=forward
        )
        self.forwarded_dashboard_port = dashboard.rpartition(":")[2]

    async def _pods(self) -> str:
        """What Kubernetes says about the cluster's pods, a line each."""
        lines = []
        found: Any = Pod.list(namespace=self.namespace, label_selector=f"{CLUSTER}={self.name}", raw=True)
        async for pod in found:
            lines.append(f"  {pod['metadata']['name']}: {_state(pod)}")
        return "\n".join(lines) or "  It has no pods."


def _state(pod: Manifest) -> str:
    """Phase of a pod, and why it is not further."""
    status = pod.get("status", {})
    waiting = [c.get("state", {}).get("waiting") for c in status.get("containerStatuses", [])]
    unmet = [c for c in status.get("conditions", []) if c.get("status") == "False"]
    reasons = [f"{r.get('reason', '')} {r.get('message', '')}".strip() for r in [*waiting, *unmet] if r]
    return ", ".join([status.get("phase", "Unknown"), *filter(None, reasons)])


def _refused(kind: str, error: kr8s.ServerError) -> ClusterError:
    """Why the API server did not create something."""
    code = error.response.status_code if error.response is not None else None
    switch = {"Secret": 'tls_secret="name"  # one that you are given', "NetworkPolicy": "network_policy=False"}
    ways = {
        404: [f"{INSTALL}  # it brings the resource"],
        403: [f"kubectl auth can-i create {kind.lower()}; ask for a role that may", *filter(None, [switch.get(kind)])],
    }
    return ClusterError(
        f"Kubernetes did not create the {kind}: {error}",
        "The operator is not installed, or you may not create it in this namespace.",
        [*ways.get(code or 0, []), 'namespace="another"  # one where you may'],
    )
