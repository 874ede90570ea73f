"""Kubernetes for the unmodified operator: a stand-in of its API server and of a node, on loopback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.lib.clusters import PATIENCE, TESTS

HERE = Path(__file__).parent
PATHS = {
    "daskautoscalers": "apis/kubernetes.dask.org/v1", "daskclusters": "apis/kubernetes.dask.org/v1",
    "daskworkergroups": "apis/kubernetes.dask.org/v1", "deployments": "apis/apps/v1", "pods": "api/v1",
    "secrets": "api/v1", "services": "api/v1", "networkpolicies": "apis/networking.k8s.io/v1",
}  # fmt: skip
"""Kinds that a cluster is made of -> where they are."""


class Kubernetes:
    """The stand-in and the operator, each a process.

    Parameters
    ----------
    folder
        For kubeconfig, volumes and logs.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.users: list[subprocess.Popen[str]] = []
        self.environment = {
            **os.environ, "KUBECONFIG": str(folder / "kubeconfig"), "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(TESTS.parent),
            "DASK_CONFIG": str(folder), "DASK_CHUNKINFER__SECURITY__FOLDER": str(folder / "tls"),
        }  # fmt: skip
        self.processes: list[subprocess.Popen[str]] = []
        ready = self._start("standin", HERE / "standin", folder).stdout.readline()
        assert ready == "ready\n", self.logs()
        config = yaml.safe_load((folder / "kubeconfig").read_text())
        self.server, self.token = config["clusters"][0]["cluster"]["server"], config["users"][0]["user"]["token"]
        self._start(
            "operator", "-m", "kopf", "run", "--standalone", "--all-namespaces", "--quiet",
            "--module", "dask_kubernetes.operator.controller",
            PYTHONPATH=str(HERE / "standin" / "dns"), STANDIN_HOSTS=str(folder / "hosts"),
        )  # fmt: skip

    def _start(self, name: str, *arguments: Any, **environment: str) -> subprocess.Popen[str]:
        with open(self.folder / f"{name}.log", "w") as log:
            process = subprocess.Popen(
                [sys.executable, *map(str, arguments)], env={**self.environment, **environment},
                stdout=subprocess.PIPE if name == "standin" else log, stderr=log, text=True,
            )  # fmt: skip
        self.processes.append(process)
        return process

    def ask(self, path: str, method: str = "GET", body: Any = None) -> Any:
        """A request to the API server."""
        request = urllib.request.Request(f"{self.server}/{path}", method=method)
        request.add_header("Authorization", f"Bearer {self.token}")
        with urllib.request.urlopen(request, json.dumps(body).encode() if body else None, PATIENCE) as answer:
            return json.load(answer)

    def there(self, plural: str, labels: str = "") -> dict[str, Any]:
        """Name -> resource, of a kind."""
        items = self.ask(f"{PATHS[plural]}/{plural}?labelSelector={labels}")["items"]
        return {item["metadata"]["name"]: item for item in items}

    def workers(self) -> dict[str, int]:
        """Name of a worker's pod that runs -> its process."""
        pods = self.there("pods", "dask.org/component=worker")
        running = {
            n: p["status"]["containerStatuses"][0] for n, p in pods.items() if "containerStatuses" in p["status"]
        }
        return {n: int(s["containerID"].removeprefix("process://")) for n, s in running.items() if "containerID" in s}

    def left(self) -> list[str]:
        """What belongs to clusters."""
        return [f"{plural}/{name}" for plural in PATHS for name in self.there(plural)]

    def evict(self, pod: str) -> None:
        """Take a pod away, with notice, as a node does that must go."""
        self.ask(f"api/v1/namespaces/default/pods/{pod}", "DELETE")

    def start(self, code: str, *arguments: Any) -> subprocess.Popen[str]:
        """A user's process."""
        command = [sys.executable, "-c", code, *map(str, arguments)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        self.users.append(subprocess.Popen(command, env=self.environment, text=True, **pipes))
        return self.users[-1]

    def run(self, code: str, *arguments: Any) -> Any:
        """What a user's process printed last, as JSON."""
        return self.end(self.start(code, *arguments))

    def end(self, process: subprocess.Popen[str]) -> Any:
        """Wait for a user's process."""
        out, errors = process.communicate(timeout=4 * PATIENCE)
        assert process.returncode == 0, f"{errors}\n{self.logs()}"
        return json.loads(out.splitlines()[-1])

    def logs(self) -> str:
        """The last lines of every log."""
        logs = sorted(self.folder.glob("*.log"))
        return "\n".join(f"== {log.name}\n" + "\n".join(log.read_text().splitlines()[-30:]) for log in logs)

    def end_users(self) -> None:
        """Of a test that failed, and their clusters, which would stay for an hour and be in the next test's way."""
        for process in self.users:
            if process.poll() is None:
                process.kill()
                for name in self.there("daskclusters"):
                    self.ask(f"{PATHS['daskclusters']}/namespaces/default/daskclusters/{name}", "DELETE")
            process.communicate()
        self.users.clear()

    def close(self) -> None:
        for process in reversed(self.processes):
            process.terminate()
            process.communicate(timeout=PATIENCE)


@pytest.fixture(scope="module")
def kubernetes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kubernetes]:
    """Without any cluster yet; its node has two GPUs and the label pool=gpu."""
    pytest.importorskip("dask_kubernetes", reason="dask-kubernetes is not installed")
    started = Kubernetes(tmp_path_factory.mktemp("kubernetes"))
    try:
        yield started
    finally:
        started.close()
