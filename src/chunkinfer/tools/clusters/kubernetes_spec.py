"""A cluster on Kubernetes as plain data: what the operator and the API server are asked for.

::

    DaskCluster ── scheduler ── one pod, never on spot nodes, no GPU        Secret         certificates of the pods
                └─ worker ───── n pods of one worker and one GPU each       NetworkPolicy  who may reach the pods

All of them belong to the DaskCluster, so they go when it goes. No value of a secret is in any pod: pods name Secrets.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chunkinfer.errors import ClusterError
from chunkinfer.tools.clusters.settings import SECRET, Worker, scheduler_config, seconds, worker_of

if TYPE_CHECKING:
    from distributed import Security

Manifest = dict[str, Any]
"""A resource, or a part of one, as its YAML would read."""

CLUSTER = "dask.org/cluster-name"
"""The label by which the operator marks all that belongs to a cluster."""

COMM, DASHBOARD = 8786, 8787
"""Ports of the scheduler: dask's own protocol; status page, metrics and the operator's questions, over HTTP."""

SCRATCH = "/tmp"
"""The one folder that can be written: what workers spill, what engines compile."""

TLS_FOLDER = "/etc/chunkinfer/tls"
TLS_FILES = {"ca-file": "ca.crt", "cert": "tls.crt", "key": "tls.key"}
"""dask's name of a PEM file -> its name in the Secret, as cert-manager writes them too."""

SPOT = {
    "cloud.google.com/gke-spot": "true",
    "cloud.google.com/gke-preemptible": "true",
    "eks.amazonaws.com/capacityType": "SPOT",
    "karpenter.sh/capacity-type": "spot",
    "kubernetes.azure.com/scalesetpriority": "spot",
}
"""How clouds label nodes that they may take back; some also taint them so."""

STAYS = {"cluster-autoscaler.kubernetes.io/safe-to-evict": "false", "karpenter.sh/do-not-disrupt": "true"}
"""Annotations that keep a node's autoscaler from moving the scheduler, and with it the run."""

GRACE = 25
"""Seconds between the notice and the end; clouds give 25 to 120."""

ROUTES = ("scheduler.prometheus", "scheduler.info", "scheduler.json", "scheduler.api", "health", "proxy", "statics")
"""dask's HTTP pages. By ``scheduler.api`` the operator learns which workers to retire and how long all have been idle;
over dask's own protocol it could not, because it speaks no TLS."""

CREDENTIAL = re.compile(
    r"\b(AKIA|ASIA)[0-9A-Z]{16}\b"  # an AWS access key
    r"|-----BEGIN [A-Z ]*PRIVATE KEY"
    r'|"private_key"'  # a Google service account
    r"|://[^/\s:@]+:[^/\s@]+@"  # a user and a password in a URL
    r"|[?&](sig|X-Amz-Signature|X-Goog-Signature)="  # a signed URL
    r"|\beyJ[\w-]{10,}\.[\w-]{10,}\."  # a JSON web token
)
"""Values that are credentials, whatever the variable is called."""


def manifests(name: str, pods: int, values: Mapping[str, Any], security: Security) -> list[Manifest]:
    """The DaskCluster, and after it what is to belong to it.

    Parameters
    ----------
    name
        Of the cluster.
    pods
        Workers.
    values
        The settings of a cluster on Kubernetes.
    security
        Of the transport. Where it demands encryption, the pods get its certificates as a Secret, unless they are
        given another.

    Raises
    ------
    ClusterError
        A pod should have several GPUs or workers, a setting is none, or a variable looks like a credential.
    """
    if not values["image"]:
        raise ClusterError(
            "No image is given for the pods.",
            "It must hold chunkinfer, and the versions of Python and dask that you have here: deploy/Dockerfile.",
            ['ci.clusters.kubernetes(8, image="registry/chunkinfer:0.1")', "image: in the section kubernetes"],
        )
    companions = []
    secret = values["tls_secret"] if security.require_encryption else None
    if security.require_encryption and not secret:
        secret = f"{name}-tls"
        companions.append(tls_secret(secret, name, security))
    if values["network_policy"]:
        companions.append(network_policy(name, values))
    return [cluster(name, pods, pod_worker(values), values, secret), *companions]


def start_timeout(values: Mapping[str, Any]) -> float:
    """Seconds that the scheduler may take to answer."""
    return seconds("start_timeout", values["start_timeout"])


def pod_worker(values: Mapping[str, Any]) -> Worker:
    """The worker of a pod.

    Raises
    ------
    ClusterError
        A pod should have several GPUs or workers, a setting is none, or a variable looks like a credential.
    """
    for name in ("gpus", "workers"):
        if values[name] not in (None, 0, 1):
            raise ClusterError(
                f"{name}={values[name]!r} does not fit a pod.",
                "A pod holds one worker and at most one GPU; nodes with several GPUs hold several pods.",
                ["ci.clusters.kubernetes(8)  # eight pods", f"{name}=1"],
            )
    environment = {name: str(value) for name, value in values["environment"].items()}
    for name, value in environment.items():
        by_name = SECRET.search(name) and not value.startswith("/")  # where a file is mounted is no secret
        if by_name or CREDENTIAL.search(value):
            raise ClusterError(
                f"environment holds {name}, which looks like a credential.",
                "Whoever may look at pods would read it; Kubernetes keeps such values in Secrets, which pods name.",
                [
                    f"kubectl create secret generic store --from-literal={name}=...; then secrets=['store']",
                    "a file: kubectl create secret generic key --from-file=key.json; secret_files={'key': '/secrets'}",
                    "better: a service account of the cloud that is bound to the pods (docs/kubernetes.md)",
                ],
            )
    worker = worker_of({**values, "environment": {}})
    folder = worker.local_directory or SCRATCH
    return replace(worker, environment={**worker.environment, **environment}, local_directory=folder)


def cluster(name: str, pods: int, worker: Worker, values: Mapping[str, Any], tls: str | None) -> Manifest:
    """The DaskCluster.

    Parameters
    ----------
    name
        Of the cluster.
    pods
        Workers.
    worker
        What each of them is.
    values
        The settings of the section ``kubernetes``.
    tls
        Name of the Secret with the pods' certificates; None for plain TCP.
    """
    return {
        "apiVersion": "kubernetes.dask.org/v1",
        "kind": "DaskCluster",
        "metadata": {"name": name},
        "spec": {
            "idleTimeout": round(seconds("idle_timeout", values["idle_timeout"])),
            "scheduler": _scheduler(name, values, tls),
            "worker": {"replicas": pods, "spec": _worker(name, worker, values, tls)},
        },
    }


def network_policy(name: str, values: Mapping[str, Any]) -> Manifest:
    """Who may open connections to the pods of a cluster: each other, and the operator for its questions.

    What a client forwards through the API server is not subject to it: there Kubernetes' own permissions count.
    """
    own = {"matchLabels": {CLUSTER: name}}
    operator = {"matchLabels": {"kubernetes.io/metadata.name": values["operator_namespace"]}}
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": name, "labels": {CLUSTER: name}},
        "spec": {
            "podSelector": own,
            "policyTypes": ["Ingress"],
            "ingress": [
                {"from": [{"podSelector": own}]},
                {"from": [{"namespaceSelector": operator}], "ports": [{"protocol": "TCP", "port": DASHBOARD}]},
            ],
        },
    }


def tls_secret(name: str, cluster_name: str, security: Security) -> Manifest:
    """The Secret with the pods' certificates."""
    texts = [getattr(security, f"tls_{part}") for part in ("ca_file", "worker_cert", "worker_key")]
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "labels": {CLUSTER: cluster_name}},
        "type": "Opaque",
        "stringData": {file: _pem(text) for file, text in zip(TLS_FILES.values(), texts, strict=True)},
    }


def owned(manifest: Manifest, uid: str, owner: str) -> Manifest:
    """The same, removed by Kubernetes together with the DaskCluster."""
    reference = {"apiVersion": "kubernetes.dask.org/v1", "kind": "DaskCluster", "name": owner, "uid": uid}
    return {**manifest, "metadata": {**manifest["metadata"], "ownerReferences": [reference]}}


def _scheduler(name: str, values: Mapping[str, Any], tls: str | None) -> Manifest:
    config = {
        **scheduler_config(values),
        "distributed.scheduler.http.routes": [f"distributed.http.{r}" for r in ROUTES],
    }
    container = _container(
        "scheduler",
        ["dask", "scheduler", "--protocol", "tls" if tls else "tcp", "--host", "0.0.0.0", "--port", str(COMM),
         "--dashboard-address", f"0.0.0.0:{DASHBOARD}"],
        values,
        environment=_config(config) | _tls_config("scheduler", tls),
        resources=_resources(values["scheduler_cores"], values["scheduler_memory"], values["scratch"]),
        ports=[_port("tcp-comm", COMM), _port("http-dashboard", DASHBOARD)],
        # A scheduler that is busy answers late: it must not be killed for it.
        readinessProbe=_probe(period=2, timeout=5, failures=5),
        livenessProbe=_probe(period=30, timeout=15, failures=6),
    )  # fmt: skip
    services = (("tcp-comm", COMM), ("http-dashboard", DASHBOARD))
    return {
        "metadata": {"annotations": STAYS},
        "spec": {**_pod(container, values, _tls_volume(tls)), "affinity": _off_spot()},
        "service": {
            "type": "ClusterIP",
            "selector": {CLUSTER: name, "dask.org/component": "scheduler"},
            "ports": [{"name": n, "protocol": "TCP", "port": p, "targetPort": n} for n, p in services],
        },
    }


def _worker(name: str, worker: Worker, values: Mapping[str, Any], tls: str | None) -> Manifest:
    environment = {**worker.environment, **_tls_config("worker", tls)}
    if tls:  # the operator would say tcp://
        environment["DASK_SCHEDULER_ADDRESS"] = f"tls://{name}-scheduler:{COMM}"
    resources = _resources(worker.cores, worker.memory, values["scratch"])
    if worker.gpu:
        resources["limits"][values["gpu_resource"]] = "1"
    shared = {"name": "shared", "emptyDir": {"medium": "Memory", "sizeLimit": _quantity(values["shared_memory"])}}
    secrets = _tls_volume(tls) + [
        ({"name": f"secret-{i}", "secret": {"secretName": secret, "defaultMode": 0o440}}, folder)
        for i, (secret, folder) in enumerate(values["secret_files"].items())
    ]
    container = _container(
        "worker",
        ["dask", "worker", "--name", "$(DASK_WORKER_NAME)", "--nworkers", "1", "--nthreads", str(worker.slots),
         "--memory-limit", str(worker.memory), "--local-directory", str(worker.local_directory), *worker.arguments(),
         *(["--lifetime-restart"] if worker.lifetime else [])],
        values,
        environment=environment,
        resources=resources,
    )  # fmt: skip
    if values["secrets"]:
        container["envFrom"] = [{"secretRef": {"name": secret}} for secret in values["secrets"]]
    pod = _pod(container, values, [(shared, "/dev/shm"), *secrets])
    pod["terminationGracePeriodSeconds"] = GRACE
    tolerations = [*values["tolerations"]]
    if worker.gpu:
        tolerations.append({"key": values["gpu_resource"], "operator": "Exists"})
    if values["spot"]:
        tolerations += [{"key": key, "operator": "Equal", "value": value} for key, value in SPOT.items()]
    else:
        pod["affinity"] = _off_spot()
    optional = {
        "tolerations": tolerations,
        "nodeSelector": dict(values["node_selector"]),
        "priorityClassName": values["priority_class"],
        "serviceAccountName": values["service_account"],
    }
    return pod | {key: value for key, value in optional.items() if value}


def _container(
    role: str, args: list[str], values: Mapping[str, Any], environment: Mapping[str, str], **more: Any
) -> Manifest:
    return {
        "name": role,
        "image": values["image"],
        "args": args,
        "env": [{"name": key, "value": value} for key, value in {"HOME": SCRATCH, **environment}.items()],
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        **more,
    }


def _pod(container: Manifest, values: Mapping[str, Any], volumes: list[tuple[Manifest, str]]) -> Manifest:
    """A pod of one container, with volumes and where they are mounted."""
    scratch = {"name": "scratch", "emptyDir": {"sizeLimit": _quantity(values["scratch"])}}
    volumes = [(scratch, SCRATCH), *volumes]
    mounts = [
        {"name": v["name"], "mountPath": path, **({"readOnly": True} if "secret" in v else {})} for v, path in volumes
    ]
    user = int(values["user"])
    pod: Manifest = {
        "containers": [{**container, "volumeMounts": mounts}],
        "volumes": [volume for volume, _ in volumes],
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": user,
            "runAsGroup": user,
            "fsGroup": user,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    }
    if values["image_pull_secrets"]:
        pod["imagePullSecrets"] = [{"name": secret} for secret in values["image_pull_secrets"]]
    return pod


def _off_spot() -> Manifest:
    expressions = [{"key": key, "operator": "NotIn", "values": [value]} for key, value in SPOT.items()]
    terms = {"nodeSelectorTerms": [{"matchExpressions": expressions}]}
    return {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}}


def _resources(cores: int, memory: Any, scratch: Any) -> Manifest:
    """The same for requests and limits: such pods are the last to be evicted, and whole cores can be theirs alone."""
    amounts = {"cpu": str(cores), "memory": _quantity(memory), "ephemeral-storage": _quantity(scratch)}
    return {"requests": amounts, "limits": dict(amounts)}


def _quantity(size: Any) -> str:
    """Bytes, or a text such as "16 GiB", as Kubernetes writes them."""
    from dask.utils import parse_bytes

    amount = int(parse_bytes(size))
    for unit, bits in (("Gi", 30), ("Mi", 20)):
        if amount % (1 << bits) == 0:
            return f"{amount >> bits}{unit}"
    return str(amount)


def _port(name: str, number: int) -> Manifest:
    return {"name": name, "containerPort": number, "protocol": "TCP"}


def _probe(period: int, timeout: int, failures: int) -> Manifest:
    get = {"port": "http-dashboard", "path": "/health"}
    return {"httpGet": get, "periodSeconds": period, "timeoutSeconds": timeout, "failureThreshold": failures}


def _config(values: Mapping[str, Any]) -> dict[str, str]:
    """dask's configuration as environment variables."""
    return {f"DASK_{key.upper().replace('.', '__').replace('-', '_')}": str(value) for key, value in values.items()}


def _tls_config(role: str, secret: str | None) -> dict[str, str]:
    if not secret:
        return {}
    ca, cert, key = (f"{TLS_FOLDER}/{file}" for file in TLS_FILES.values())
    tls = "distributed.comm.tls"
    files = {f"{tls}.ca-file": ca, f"{tls}.{role}.cert": cert, f"{tls}.{role}.key": key}
    return _config({"distributed.comm.require-encryption": True, **files})


def _tls_volume(secret: str | None) -> list[tuple[Manifest, str]]:
    return [({"name": "tls", "secret": {"secretName": secret, "defaultMode": 0o440}}, TLS_FOLDER)] if secret else []


def _pem(text: str) -> str:
    """Of a Security's field: the text itself, or the path of a file with it."""
    return text if "-----BEGIN" in text else Path(text).read_text()
