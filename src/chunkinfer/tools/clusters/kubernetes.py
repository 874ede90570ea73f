"""A cluster of Kubernetes pods, by dask-kubernetes' operator."""

from __future__ import annotations

import getpass
import re
import uuid
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from chunkinfer.errors import ClusterError, MissingExtra
from chunkinfer.tools.clusters import kubernetes_spec as spec
from chunkinfer.tools.clusters.security import transport
from chunkinfer.tools.clusters.settings import settings_of

if TYPE_CHECKING:
    from dask_kubernetes.operator import KubeCluster
    from distributed import Security


def kubernetes(
    pods: int = 1,
    *,
    name: str | None = None,
    security: Security | bool | None = None,
    options: Mapping[str, Any] | None = None,
    **settings: Any,
) -> KubeCluster:
    """Workers that are Kubernetes pods, with a GPU each, and a scheduler in a pod of its own.

    dask-kubernetes' operator must run in the Kubernetes cluster. It keeps the number of pods: one that is lost is
    replaced. Workers may run on spot nodes, the scheduler never does.

    Parameters
    ----------
    pods
        Workers to start; ``cluster.scale(n)`` changes it.
    name
        Of the cluster, in lower case. If one runs under this name it is joined, and goes on when this object is closed.
        None makes a new one.
    security
        Who may join: see `chunkinfer.clusters.tls`. None takes the configured certificates, or makes some; the pods get
        them as a Secret that goes with the cluster. False is plain TCP: whoever reaches the pods can run code there.
    options
        Passed on to `dask_kubernetes.operator.KubeCluster`.
    **settings
        Any setting of the sections ``worker``, ``scheduler`` and ``kubernetes`` of ``chunkinfer.yaml``, with ``_`` for
        ``-``: ``image=``, ``namespace=``, ``gpus=``, ``cores=``, ``memory=``, ``spot=``, ``node_selector=``,
        ``secrets=``, ``secret_files=``, ``environment=``, ``lifetime=``, ``idle_timeout=``, ...

    Returns
    -------
    dask_kubernetes.operator.KubeCluster
        To be used with ``with``, which removes everything in the end, and ``distributed.Client(cluster)``.

    Raises
    ------
    ClusterError
        A setting is wrong or looks like a credential, Kubernetes refuses something, or the scheduler does not start:
        then with what Kubernetes says about the pods.
    MissingExtra
        dask-kubernetes is absent.

    Examples
    --------
    >>> with ci.clusters.kubernetes(20, image="registry/chunkinfer") as cluster, Client(cluster):  # doctest: +SKIP
    ...     ci.save(ci.infer("s3://bucket/em.zarr", "unet.pt2", device="cuda"), "s3://bucket/affinities.zarr")
    """
    try:
        from chunkinfer.tools.clusters.kubernetes_operator import SecureKubeCluster
    except ImportError as error:
        raise MissingExtra.of("Clusters on Kubernetes", "dask-kubernetes", "kubernetes") from error

    values = settings_of("kubernetes", **settings)
    name = _name(name)
    safe = transport("kubernetes", security)
    manifests = spec.manifests(name, pods, values, safe)
    return SecureKubeCluster(manifests, safe, values["namespace"], spec.start_timeout(values), options or {})


def _name(name: str | None) -> str:
    """A name that is also valid for a label, with room for what the operator appends."""
    if name is None:
        user = re.sub("[^a-z0-9]+", "-", getpass.getuser().lower())[:20].strip("-")
        return f"chunkinfer-{user or 'user'}-{uuid.uuid4().hex[:6]}"
    if not re.fullmatch("[a-z]([-a-z0-9]{0,38}[a-z0-9])?", name):
        raise ClusterError(
            f"name={name!r} cannot be the name of a cluster on Kubernetes.",
            "Names are of lower-case letters, digits and hyphens, begin with a letter, and have 40 at most.",
            ['name="fib25-affinities"', "leave name= out: one is made"],
        )
    return name
