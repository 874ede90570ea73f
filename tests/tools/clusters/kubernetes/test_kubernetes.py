"""Clusters on Kubernetes, with the unmodified operator: workers come, are lost, are replaced, and nothing stays."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import zarr

import chunkinfer as ci
from tests.lib.clusters import PATIENCE
from tests.lib.probes import Watched, events

PRELUDE = """
import json, os, sys, time
import chunkinfer as ci
from distributed import Client
from tests.lib.probes import Watched

SMALL = dict(image="tests", gpus=0, cores=1, memory="2 GiB", slots=1, scheduler_memory="1 GiB")

def until(condition):
    limit = time.monotonic() + 180
    while not condition():
        assert time.monotonic() < limit, "it never came to pass"
        time.sleep(0.1)

def names(client):
    return sorted(str(w["name"]) for w in client.scheduler_info(n_workers=-1)["workers"].values())

def save(client, volume, output, log):
    result = ci.infer(ci.open_volume(volume), Watched(log, seconds=0.1), patch=18, block=16)
    return ci.save(result, output, client=client, progress=False)
"""

LIFE = (
    PRELUDE
    + """
with ci.clusters.kubernetes(1, name="life", **SMALL) as cluster, Client(cluster) as client:
    client.wait_for_workers(1, timeout=180)
    cluster.scale(2)
    client.wait_for_workers(2, timeout=180)
    report = save(client, *sys.argv[1:])
    until(lambda: len(names(client)) == 2)
    cluster.scale(1)
    until(lambda: len(names(client)) == 1)
    facts = {"address": cluster.scheduler_address, "computed": report.computed, "failed": len(report.failed)}
print(json.dumps(facts))
"""
)


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    """24 blocks of a small random volume."""
    values = np.random.default_rng(0).integers(1, 200, (64, 48, 32)).astype(np.uint8)
    zarr.create_array(tmp_path / "volume.zarr", data=values, chunks=(16, 16, 16), dimension_names=["z", "y", "x"])
    return tmp_path / "volume.zarr"


@pytest.fixture
def clean(kubernetes: Any) -> Iterator[Any]:
    """The stand-in; afterwards no pod, service, secret or policy is left, and no process of a pod."""
    pids: set[int] = set()
    kubernetes.seen = pids
    yield kubernetes
    kubernetes.end_users()
    until(lambda: not kubernetes.left(), lambda: f"left: {kubernetes.left()}\n{kubernetes.logs()}")
    assert not alive(pids)


def until(condition: Callable[[], Any], otherwise: Callable[[], str] = lambda: "it never came to pass") -> None:
    limit = time.monotonic() + 3 * PATIENCE
    while not condition():
        assert time.monotonic() < limit, otherwise()
        time.sleep(0.05)


def alive(groups: set[int]) -> list[psutil.Process]:
    """The processes of process groups; those that nobody has reaped yet are dead."""
    found = []
    for process in psutil.process_iter():
        with suppress(ProcessLookupError, psutil.NoSuchProcess):
            if os.getpgid(process.pid) in groups and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def begun(kubernetes: Any, process: subprocess.Popen[str], log: Path, blocks: int) -> dict[str, int]:
    """Wait until so many blocks have run; the workers."""
    until(lambda: len(events(log)) >= blocks or process.poll() is not None, kubernetes.logs)
    assert process.poll() is None, kubernetes.end(process)
    workers = kubernetes.workers()
    kubernetes.seen |= set(workers.values())
    return workers


def assert_right(volume: Path, output: Path, tmp_path: Path) -> None:
    """The output is the direct result, bit for bit."""
    expected = ci.infer(ci.open_volume(volume), Watched(tmp_path / "log"), patch=18, block=16)
    assert np.array_equal(ci.open_volume(output).values, expected.compute(scheduler="threads").values)


@pytest.mark.slow
@pytest.mark.smoke
def test_life_of_a_cluster(clean: Any, volume: Path, tmp_path: Path) -> None:
    """Created, scaled, a worker killed in mid run and replaced, scaled down, closed; all of it encrypted."""
    output, log = tmp_path / "out.zarr", tmp_path / "log"
    process = clean.start(LIFE, volume, output, log)
    workers = begun(clean, process, log, blocks=4)
    assert len(workers) == 2, clean.logs()
    assert set(clean.there("secrets")) == {"life-tls"}
    assert set(clean.there("networkpolicies")) == {"life"}
    victim = sorted(workers)[0]
    os.killpg(workers[victim], signal.SIGKILL)
    facts = clean.end(process)
    assert facts["address"].startswith("tls://")
    assert (facts["computed"], facts["failed"]) == (24, 0)
    assert_right(volume, output, tmp_path)
    assert len({e.pid for e in events(log)}) >= 2


EVICTED = (
    PRELUDE
    + """
options = dict(name="spot", security=False, network_policy=False, **SMALL)
with ci.clusters.kubernetes(2, **options) as cluster, Client(cluster) as client:
    client.wait_for_workers(2, timeout=180)
    report = save(client, *sys.argv[1:])
    until(lambda: len(names(client)) == 2)
    facts = {"address": cluster.scheduler_address, "computed": report.computed, "failed": len(report.failed)}
print(json.dumps(facts))
"""
)


@pytest.mark.slow
def test_evicted_pods_are_replaced(clean: Any, volume: Path, tmp_path: Path) -> None:
    """As when spot nodes are taken back: with notice, and other pods come in their place. Over plain TCP."""
    output, log = tmp_path / "out.zarr", tmp_path / "log"
    process = clean.start(EVICTED, volume, output, log)
    first = begun(clean, process, log, blocks=3)
    for pod in first:
        clean.evict(pod)
    until(lambda: len(clean.workers()) == 2 and not first.keys() & clean.workers().keys(), clean.logs)
    facts = clean.end(process)
    assert facts["address"].startswith("tcp://")
    assert (facts["computed"], facts["failed"]) == (24, 0)
    assert_right(volume, output, tmp_path)


LEFT = (
    PRELUDE
    + """
cluster = ci.clusters.kubernetes(1, name=sys.argv[1], idle_timeout=int(sys.argv[2]), **SMALL)
client = Client(cluster)
client.wait_for_workers(1, timeout=180)
print("up", flush=True)
if len(sys.argv) > 3:
    save(client, *sys.argv[3:])
time.sleep(300)
"""
)

RESUMED = (
    PRELUDE
    + """
with ci.clusters.kubernetes(2, name="second", **SMALL) as cluster, Client(cluster) as client:
    report = save(client, *sys.argv[1:])
print(json.dumps([report.computed, report.skipped]))
"""
)


@pytest.mark.slow
def test_a_run_goes_on_in_another_cluster(clean: Any, volume: Path, tmp_path: Path) -> None:
    """The client and its cluster are lost in mid run; another machine continues, with another number of workers."""
    output, log = tmp_path / "out.zarr", tmp_path / "log"
    process = clean.start(LEFT, "first", 0, volume, output, log)
    begun(clean, process, log, blocks=8)
    until(lambda: len(list(output.glob("c/*/*/*/*"))) >= 8)
    process.kill()
    process.communicate()
    clean.ask("apis/kubernetes.dask.org/v1/namespaces/default/daskclusters/first", "DELETE")
    computed, skipped = clean.run(RESUMED, volume, output, log)
    assert computed + skipped == 24
    assert skipped >= 1
    assert_right(volume, output, tmp_path)


REFUSALS = """
import json, sys
from distributed import Client, Security

def refused(place):
    refusals = []
    for scheme, security in (("tcp", None), ("tls", Security.temporary())):
        try:
            Client(f"{scheme}://{place}", security=security, timeout=3).close()
        except OSError:
            refusals.append(scheme)
    return refusals
"""

JOINED = (
    PRELUDE
    + REFUSALS
    + """
with ci.clusters.kubernetes(name="joined", **SMALL) as cluster, Client(cluster) as client:
    print(json.dumps([len(names(client)), refused(cluster.scheduler_address.removeprefix("tls://"))]))
"""
)

STRANGER = REFUSALS + "print(json.dumps(refused(sys.argv[1])))"


@pytest.mark.slow
def test_a_cluster_is_joined_and_removed_when_idle(clean: Any) -> None:
    """A second process joins by the name and leaves it running; strangers are refused, through the API server as well;
    the operator, which speaks no TLS, still sees that nothing happens any more."""
    with clean.start(LEFT, "joined", 0) as process:
        assert process.stdout.readline() == "up\n", clean.logs()
        assert clean.run(JOINED) == [1, ["tcp", "tls"]]
        (scheduler,) = clean.there("pods", "dask.org/component=scheduler").values()
        assert clean.run(STRANGER, f"{scheduler['status']['podIP']}:8786") == ["tcp", "tls"]
        assert "joined" in clean.there("daskclusters")
        process.kill()
        process.communicate()
    assert "joined" in clean.there("daskclusters")
    path = "apis/kubernetes.dask.org/v1/namespaces/default/daskclusters/joined"
    clean.ask(path, "PATCH", {"spec": {"idleTimeout": 1}})
    until(lambda: "joined" not in clean.there("daskclusters"), clean.logs)


PENDING = (
    PRELUDE
    + """
ways = dict(SMALL, gpus=1, node_selector={"pool": "gpu"}, start_timeout=30)
with ci.clusters.kubernetes(3, name="gpus", **ways) as cluster, Client(cluster) as client:
    client.wait_for_workers(2, timeout=180)
    until(lambda: os.path.exists(sys.argv[1]))
    resources = [w["resources"] for w in client.scheduler_info(n_workers=-1)["workers"].values()]
print(json.dumps(resources))
"""
)


@pytest.mark.slow
def test_one_pod_per_gpu(clean: Any, tmp_path: Path) -> None:
    """The node has two GPUs: two workers declare one each, the third waits, and the scheduler takes none."""

    def waiting() -> set[str]:
        pods = clean.there("pods", "dask.org/component=worker").items()
        return {name for name, pod in pods if "Insufficient nvidia.com/gpu" in json.dumps(pod["status"])}

    seen = tmp_path / "seen"
    process = clean.start(PENDING, seen)
    until(lambda: (len(waiting()) == 1 and len(clean.workers()) == 2) or process.poll() is not None, clean.logs)
    seen.touch()
    assert clean.end(process) == [{"GPU": 1.0}, {"GPU": 1.0}]


REFUSED = (
    PRELUDE
    + """
try:
    ci.clusters.kubernetes(1, name="refused", tls_secret="absent", start_timeout=15, **SMALL)
except ci.errors.ClusterError as error:
    print(json.dumps(str(error)))
"""
)


@pytest.mark.slow
def test_a_scheduler_that_does_not_start_says_why(clean: Any) -> None:
    message = clean.run(REFUSED)
    assert 'CreateContainerConfigError secret "absent" not found' in message
    assert "kubectl -n default describe pods" in message


SECRET = (
    PRELUDE
    + """
ways = dict(SMALL, secrets=["store"], secret_files={"key": "/secrets/key"})
with ci.clusters.kubernetes(1, name="secret", **ways) as cluster, Client(cluster) as client:
    client.wait_for_workers(1, timeout=180)
    found = list(client.run(lambda: os.environ["AWS_ACCESS_KEY_ID"]).values())
    found += [client.run_on_scheduler(lambda: os.environ.get("AWS_ACCESS_KEY_ID"))]
print(json.dumps(found))
"""
)


@pytest.mark.slow
def test_secrets_reach_workers_only_by_their_names(clean: Any) -> None:
    values = {"store": {"AWS_ACCESS_KEY_ID": "planted-0815"}, "key": {"key.json": "planted-4711"}}
    for name, data in values.items():
        clean.ask(
            "api/v1/namespaces/default/secrets", "POST",
            {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": data},
        )  # fmt: skip
    process = clean.start(SECRET)
    until(lambda: clean.workers() or process.poll() is not None, clean.logs)
    shown = json.dumps([clean.there(kind) for kind in ("daskclusters", "daskworkergroups", "deployments", "pods")])
    assert clean.end(process) == ["planted-0815", None]
    assert "planted" not in shown
    assert "secret-tls" in shown
    for name in values:
        clean.ask(f"api/v1/namespaces/default/secrets/{name}", "DELETE")
