"""What Kubernetes is asked for: valid to the last field, least rights, and no secret in it."""

from __future__ import annotations

import copy
import importlib.util
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from distributed import Security

import chunkinfer as ci
from chunkinfer.errors import ClusterError
from chunkinfer.support.allocator import ENVIRONMENT
from chunkinfer.tools.clusters.kubernetes import _name
from chunkinfer.tools.clusters.kubernetes_spec import SPOT, manifests, owned
from chunkinfer.tools.clusters.settings import settings_of

jsonschema = pytest.importorskip("jsonschema")
kubernetes_validate = pytest.importorskip("kubernetes_validate")
dask_kubernetes = pytest.importorskip("dask_kubernetes")

DEPLOY = Path(__file__).parents[4] / "deploy"
PLAIN = Security(require_encryption=False)
VERSIONS = ("1.30", "1.37")
"""The oldest Kubernetes that matters, and the newest whose schemas are here."""

EXAMPLE = {
    "image": "registry.example.org/chunkinfer:0.1-cuda",
    "tls_secret": "chunkinfer-tls",
    "secrets": ["store"],
    "node_selector": {"cloud.google.com/gke-spot": "true"},
}
"""Of deploy/cluster.yaml."""

CASES = {
    "GPU": {},
    "CPU": {"gpus": 0, "cores": 16, "spot": False},
    "example": EXAMPLE,
    "everything": {
        "secrets": ["a", "b"], "secret_files": {"c": "/secrets/c"},
        "environment": {"LEVEL": 3, "KEY_FILE": "/secrets/c/k"},
        "lifetime": "50 minutes", "lifetime_stagger": "5 minutes", "slots": 3, "node_selector": {"pool": "gpu"},
        "tolerations": [{"key": "team", "operator": "Exists"}], "priority_class": "low", "service_account": "reader",
        "image_pull_secrets": ["registry"], "idle_timeout": 0, "local_directory": "/tmp/spill", "network_policy": False,
    },
}  # fmt: skip


@pytest.fixture(scope="session")
def security() -> Security:
    return Security.temporary()


@pytest.fixture(params=CASES)
def made(request: pytest.FixtureRequest, security: Security) -> list[dict[str, Any]]:
    """The manifests of a case."""
    return make(security, **CASES[request.param])


def make(security: Security = PLAIN, **settings: Any) -> list[dict[str, Any]]:
    return manifests("demo", 2, settings_of("kubernetes", **{"image": "registry/chunkinfer", **settings}), security)


def pod(manifest: dict[str, Any], part: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": manifest["spec"][part]["spec"]}


def strict(manifest: dict[str, Any]) -> None:
    for version in VERSIONS:
        kubernetes_validate.validate(manifest, version, strict=True)


@pytest.fixture(scope="session")
def definition() -> Any:
    """The operator's schema of a DaskCluster."""
    folder = Path(dask_kubernetes.__file__).parent / "operator/deployment/helm/dask-kubernetes-operator/crds"
    with open(folder / "daskcluster.yaml") as file:
        return yaml.load(file, yaml.CSafeLoader)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]


@pytest.fixture(scope="session")
def pruned() -> Callable[[Any, Any], Any]:
    """What an API server leaves of a custom resource."""
    found = importlib.util.spec_from_file_location("store", Path(__file__).parent / "standin" / "store.py")
    assert found is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module.pruned


def test_every_field_is_known(made: list[dict[str, Any]], definition: Any, pruned: Callable[[Any, Any], Any]) -> None:
    """To Kubernetes, strictly, and to the operator's definition: what that lacks would be dropped without a word."""
    cluster, *companions = made
    jsonschema.validate(cluster, definition)
    assert pruned(cluster["spec"], definition["properties"]["spec"]) == cluster["spec"]
    strict(pod(cluster, "scheduler"))
    strict(pod(cluster, "worker"))
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "x"}}
    strict({**service, "spec": cluster["spec"]["scheduler"]["service"]})
    for companion in companions:
        strict(owned(companion, uid="0", owner="demo"))


def test_a_misspelt_field_is_noticed(definition: Any) -> None:
    cluster = copy.deepcopy(make()[0])
    cluster["spec"]["worker"]["spec"]["containers"][0]["resource"] = {}
    jsonschema.validate(cluster, definition)  # the definition alone does not
    with pytest.raises(jsonschema.ValidationError, match="resource"):
        strict(pod(cluster, "worker"))


def test_pods_have_the_least_rights(made: list[dict[str, Any]]) -> None:
    """What Kubernetes calls the restricted pod security standard, and a read-only root besides."""
    for part in ("scheduler", "worker"):
        spec = pod(made[0], part)["spec"]
        assert spec["automountServiceAccountToken"] is False
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["runAsUser"] > 0
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        (container,) = spec["containers"]
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert all({"emptyDir", "secret"} & volume.keys() for volume in spec["volumes"])
        writable = {m["mountPath"] for m in container["volumeMounts"] if not m.get("readOnly")}
        assert writable <= {"/tmp", "/dev/shm"}


def test_only_workers_have_a_gpu_and_may_be_on_spot_nodes() -> None:
    spec = make()[0]["spec"]
    scheduler, worker = spec["scheduler"]["spec"], spec["worker"]["spec"]
    assert worker["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert "nvidia.com/gpu" not in json.dumps(scheduler)
    assert "tolerations" not in scheduler
    assert {t["key"] for t in worker["tolerations"]} == {"nvidia.com/gpu", *SPOT}
    (term,) = scheduler["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"][
        "nodeSelectorTerms"
    ]
    assert {(e["key"], e["operator"], *e["values"]) for e in term["matchExpressions"]} == {
        (key, "NotIn", value) for key, value in SPOT.items()
    }
    assert make(spot=False)[0]["spec"]["worker"]["spec"]["affinity"] == scheduler["affinity"]


def test_workers_are_as_elsewhere() -> None:
    container = make(lifetime="50 minutes", memory="24 GiB")[0]["spec"]["worker"]["spec"]["containers"][0]
    words = " ".join(container["args"])
    assert f"--memory-limit {24 << 30} " in words
    assert container["resources"]["limits"]["memory"] == "24Gi"
    assert "--nthreads 2 " in words
    assert "--resources GPU=1" in words
    assert "--lifetime 3000s" in words
    variables = {variable["name"]: variable["value"] for variable in container["env"]}
    assert {**ENVIRONMENT, "OMP_NUM_THREADS": "1"}.items() <= variables.items()
    cpu = make(gpus=0, cores=8)[0]["spec"]["worker"]["spec"]["containers"][0]
    assert "GPU" not in " ".join(cpu["args"])
    assert "--nthreads 9 " in " ".join(cpu["args"])


def test_only_the_cluster_and_the_operator_reach_its_pods(security: Security) -> None:
    policy = make(security)[-1]["spec"]
    own = {"matchLabels": {"dask.org/cluster-name": "demo"}}
    assert policy["podSelector"] == own
    assert policy["policyTypes"] == ["Ingress"]
    peers = [peer for rule in policy["ingress"] for peer in rule["from"]]
    operator = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "dask-operator"}}}
    assert peers == [{"podSelector": own}, operator]
    assert policy["ingress"][1]["ports"] == [{"protocol": "TCP", "port": 8787}]


def test_keys_are_in_no_pod(security: Security) -> None:
    cluster, secret, _ = make(security)
    assert secret["stringData"]["tls.key"] == security.tls_worker_key
    assert "BEGIN" not in json.dumps(cluster)
    assert json.dumps(cluster).count("demo-tls") == 2
    given, _ = make(security, tls_secret="mine")
    assert json.dumps(given).count('"mine"') == 2


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("AWS_SECRET_ACCESS_KEY", "x"),
        ("DB_PASSWORD", "x"),
        ("HF_TOKEN", "x"),
        ("HARMLESS", "AKIAIOSFODNN7EXAMPLE"),
        ("KEY", "-----BEGIN RSA PRIVATE KEY-----"),
        ("GCS", '{"type": "service_account", "private_key": "x"}'),
        ("STORE", "https://user:word@store.example.org"),
        ("SOURCE", "https://store.example.org/em?X-Amz-Signature=0123"),
    ],
)
def test_credentials_are_refused(name: str, value: str) -> None:
    with pytest.raises(ClusterError, match="kubectl create secret") as caught:
        make(environment={name: value})
    assert value == "x" or value not in str(caught.value)


@pytest.mark.parametrize("name", ["GOOGLE_APPLICATION_CREDENTIALS", "AWS_SHARED_CREDENTIALS_FILE"])
def test_where_a_secret_is_mounted_is_none(name: str) -> None:
    assert "/secrets/key" in json.dumps(make(environment={name: "/secrets/key"}))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"gpus": 2}, "at most one GPU"),
        ({"workers": 2}, "at most one GPU"),
        ({"image": ""}, "No image"),
        ({"idle_timeout": "soon"}, "not a time"),
        ({"memroy": "1 GiB"}, "memory="),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ClusterError, match=re.escape(message)):
        make(**settings)


def test_names() -> None:
    assert re.fullmatch("[a-z][-a-z0-9]{1,40}", _name(None))
    assert _name("fib25") == "fib25"
    for wrong in ("FIB25", "a.b", "-a", "a-", "a" * 41, ""):
        with pytest.raises(ClusterError, match="lower-case"):
            _name(wrong)


def test_without_the_operators_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "chunkinfer.tools.clusters.kubernetes_operator", None)
    with pytest.raises(ci.errors.MissingExtra, match=re.escape('pip install "chunkinfer[kubernetes]"')):
        ci.clusters.kubernetes(image="x")


def test_deployed_examples_are_valid_and_current(security: Security) -> None:
    for file in sorted(DEPLOY.glob("*.yaml")):
        for manifest in yaml.safe_load_all(file.read_text()):
            if manifest["kind"] != "DaskCluster":
                strict(manifest)
    expected = manifests("chunkinfer", 8, settings_of("kubernetes", **EXAMPLE), security)
    assert list(yaml.safe_load_all((DEPLOY / "cluster.yaml").read_text())) == expected


def test_the_image_runs_as_its_pods_do() -> None:
    text = (DEPLOY / "Dockerfile").read_text().replace("\\\n", " ")
    lines = [line.split(maxsplit=1) for line in text.splitlines() if line and not line.startswith("#")]
    assert [rest for word, rest in lines if word == "USER"][-1] == f"{settings_of('kubernetes')['user']}"
    variables = dict(pair.split("=", 1) for word, rest in lines if word == "ENV" for pair in rest.split())
    assert ENVIRONMENT.items() <= variables.items()
    copied = {path for word, rest in lines if word == "COPY" and "--from" not in rest for path in rest.split()[:-1]}
    ignore = (DEPLOY / "Dockerfile.dockerignore").read_text().split()
    assert ignore[0] == "*"
    assert {f"!{path}" for path in copied} == set(ignore[1:])
