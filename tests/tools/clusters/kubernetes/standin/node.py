"""The controller of deployments, and a kubelet whose containers are processes of this machine.

A pod has an address of its own out of 127.77.0.0/16. A container has the environment that its pod says and nothing else
but the paths that stand for its image; its volumes are folders, and their paths are put in place of where they would be
mounted. What stays unlike Kubernetes: no namespaces, no limits, no network policy.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import re
import signal
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import aiohttp
from store import Key, Object, Store

FINALIZER = "standin/kubelet"
"""A pod stays until its processes are gone."""

BACKOFF = 0.5
"""Seconds before a container that ended is started again; kubelets wait longer each time."""


class Node:
    """Runs the pods of all deployments.

    Parameters
    ----------
    store
        Whose deployments.
    folder
        For volumes and logs.
    image
        Environment that stands for what is in an image: where programs and modules are.
    labels, gpus
        Of the node.
    """

    def __init__(
        self, store: Store, folder: Path, image: Mapping[str, str], labels: Mapping[str, str], gpus: int
    ) -> None:
        self.store, self.folder, self.image, self.labels, self.gpus = store, folder, image, labels, gpus
        self.hosts = folder / "hosts"
        self.hosts.touch()
        self._tasks: dict[Key, asyncio.Task[None]] = {}
        self._addresses = (f"127.77.{high}.{low}" for high in range(256) for low in range(1, 255))
        store.listeners.append(self._heard)

    async def close(self) -> None:
        """Stop all containers."""
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    def _heard(self, change: str, key: Key, found: Object) -> None:
        plural, namespace, _ = key
        if plural == "deployments" and change == "ADDED":
            self._start_pod(key, found)
        if plural == "pods":
            if change == "ADDED":
                self._tasks[key] = asyncio.ensure_future(self._kubelet(key))
            owner = next(iter(found["metadata"].get("ownerReferences", [])), None)
            deployment = owner and ("deployments", namespace, owner["name"])
            if change == "DELETED" and deployment in self.store.objects:
                self._start_pod(deployment, self.store.objects[deployment])
        if plural in ("pods", "services"):
            self._write_hosts()

    def _start_pod(self, key: Key, deployment: Object) -> None:
        template, name = deployment["spec"]["template"], key[2]
        owner = {"apiVersion": "apps/v1", "kind": "Deployment", "name": name, "uid": deployment["metadata"]["uid"]}
        metadata = {
            "name": f"{name}-{uuid.uuid4().hex[:5]}", "labels": template["metadata"]["labels"],
            "finalizers": [FINALIZER], "ownerReferences": [owner],
        }  # fmt: skip
        self.store.create("v1", "pods", key[1], {"metadata": metadata, "spec": template["spec"]})

    def _write_hosts(self) -> None:
        """What cluster DNS and services do: a service's names stand for the pod that it selects."""
        lines = []
        for (_, namespace, name), service in self.store.select("services", None, {}):
            selector = ",".join(f"{k}={v}" for k, v in service["spec"]["selector"].items())
            for _, pod in self.store.select("pods", namespace, {"labelSelector": selector}):
                if address := pod.get("status", {}).get("podIP"):
                    names = (name, f"{name}.{namespace}", f"{name}.{namespace}.svc.cluster.local")
                    lines += [f"{address} {n}\n" for n in names]
        new = self.hosts.with_suffix(".new")
        new.write_text("".join(lines))
        new.replace(self.hosts)

    async def _kubelet(self, key: Key) -> None:
        """A pod's life."""
        pod = self.store.get(key)
        while reason := self._unschedulable(pod):
            condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": reason}
            self._status(key, {"phase": "Pending", "conditions": [condition]})
            if await self._deleted(key, 0.2):
                return self._finalized(key)
        self.store.patch(key, {"spec": {"nodeName": "node"}})
        container, address = pod["spec"]["containers"][0], next(self._addresses)
        mounts = self._mounts(pod)
        starts = 0
        while True:
            while missing := self._missing(pod):
                waiting = {"reason": "CreateContainerConfigError", "message": f'secret "{missing}" not found'}
                self._status(key, {"phase": "Pending", "containerStatuses": _statuses(container, waiting=waiting)})
                if await self._deleted(key, 0.2):
                    return self._finalized(key)
            self._fill(pod, mounts)
            process = await self._run(key, pod, container, mounts, address)
            ready = asyncio.create_task(self._ready(key, container, address, process.pid, starts))
            ended = asyncio.create_task(process.wait())
            try:
                while not ended.done() and not await self._deleted(key, 0.1):
                    pass
                if not ended.done():
                    process.send_signal(signal.SIGTERM)
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(
                            asyncio.shield(ended), pod["spec"].get("terminationGracePeriodSeconds", 30)
                        )
            finally:  # nothing of a container outlives its first process
                ready.cancel()
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                await ended
            if await self._deleted(key, BACKOFF):
                return self._finalized(key)
            starts += 1
            waiting = {"reason": "CrashLoopBackOff", "message": f"ended with {process.returncode}"}
            self._status(
                key, {"conditions": _conditions(False), "containerStatuses": _statuses(container, waiting=waiting)}
            )

    async def _run(
        self, key: Key, pod: Object, container: Object, mounts: Mapping[str, Path], address: str
    ) -> asyncio.subprocess.Process:
        environment = {
            **self._from_secrets(pod, container),
            **{e["name"]: e["value"] for e in container.get("env", [])},
        }
        environment = {name: _mounted(value, mounts) for name, value in environment.items()}
        arguments = [re.sub(r"\$\((\w+)\)", lambda m: environment[m[1]], a) for a in container["args"]]
        # A pod's 0.0.0.0 is its own.
        arguments = [_mounted(a, mounts).replace("0.0.0.0", address) for a in arguments]
        with open(self.folder / f"{key[2]}.log", "ab") as log:
            return await asyncio.create_subprocess_exec(
                *arguments, env={**self.image, "STANDIN_HOSTS": str(self.hosts), **environment}, stdout=log,
                stderr=log, start_new_session=True, cwd=self.folder,
            )  # fmt: skip

    async def _ready(self, key: Key, container: Object, address: str, pid: int, starts: int) -> None:
        """Tell that it runs, and when its probe is answered that it is ready."""
        identity = {"containerID": f"process://{pid}", "restartCount": starts}
        running = {"running": {"startedAt": "1970-01-01T00:00:00Z"}}

        def status(ready: bool) -> Object:
            statuses = _statuses(container, ready=ready, state=running, **identity)
            return {
                "phase": "Running", "podIP": address, "conditions": _conditions(ready), "containerStatuses": statuses,
            }  # fmt: skip

        probe = container.get("readinessProbe", {}).get("httpGet")
        self._status(key, status(not probe))
        if probe:
            port = next(p["containerPort"] for p in container["ports"] if p["name"] == probe["port"])
            async with aiohttp.ClientSession() as session:
                while True:
                    with contextlib.suppress(aiohttp.ClientError, OSError):
                        async with session.get(f"http://{address}:{port}{probe['path']}") as response:
                            if response.ok:
                                break
                    await asyncio.sleep(0.1)
            self._status(key, status(True))

    def _unschedulable(self, pod: Object) -> str | None:
        """Why the node does not take a pod."""
        if not pod["spec"].get("nodeSelector", {}).items() <= self.labels.items():
            return "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector."
        placed = [p for _, p in self.store.select("pods", None, {}) if p["spec"].get("nodeName")]
        if _gpus(pod) + sum(map(_gpus, placed)) > self.gpus:
            return "0/1 nodes are available: 1 Insufficient nvidia.com/gpu."
        return None

    def _missing(self, pod: Object) -> str | None:
        namespace = pod["metadata"]["namespace"]
        return next((s for s in _secrets(pod) if ("secrets", namespace, s) not in self.store.objects), None)

    def _mounts(self, pod: Object) -> dict[str, Path]:
        """Where it would be mounted -> where it is, the longest first."""
        root = self.folder / pod["metadata"]["name"]
        paths = {m["mountPath"]: root / m["name"] for m in pod["spec"]["containers"][0].get("volumeMounts", [])}
        for path in paths.values():
            path.mkdir(parents=True, exist_ok=True)
        return dict(sorted(paths.items(), key=lambda item: -len(item[0])))

    def _fill(self, pod: Object, mounts: Mapping[str, Path]) -> None:
        names = {v["name"]: v["secret"]["secretName"] for v in pod["spec"].get("volumes", []) if "secret" in v}
        for path in mounts.values():
            if path.name in names:
                for file, value in self._secret(pod, names[path.name]).items():
                    (path / file).write_bytes(value)
                    (path / file).chmod(0o600)

    def _from_secrets(self, pod: Object, container: Object) -> dict[str, str]:
        names = [source["secretRef"]["name"] for source in container.get("envFrom", [])]
        return {k: v.decode() for name in names for k, v in self._secret(pod, name).items()}

    def _secret(self, pod: Object, name: str) -> dict[str, bytes]:
        found = self.store.get(("secrets", pod["metadata"]["namespace"], name))
        return {k: base64.b64decode(v) for k, v in found["data"].items()}

    async def _deleted(self, key: Key, seconds: float) -> bool:
        """Whether the pod should go; asked for so long."""
        await asyncio.sleep(seconds)
        return "deletionTimestamp" in self.store.get(key)["metadata"]

    def _finalized(self, key: Key) -> None:
        del self._tasks[key]
        self.store.patch(key, {"metadata": {"finalizers": None}})

    def _status(self, key: Key, status: Object) -> None:
        self.store.patch(key, {"status": status})


def _secrets(pod: Object) -> Iterator[str]:
    yield from (v["secret"]["secretName"] for v in pod["spec"].get("volumes", []) if "secret" in v)
    for container in pod["spec"]["containers"]:
        yield from (source["secretRef"]["name"] for source in container.get("envFrom", []))


def _gpus(pod: Object) -> int:
    limits = pod["spec"]["containers"][0].get("resources", {}).get("limits", {})
    return int(limits.get("nvidia.com/gpu", 0))


def _mounted(text: str, mounts: Mapping[str, Path]) -> str:
    paths = "|".join(map(re.escape, mounts))
    return re.sub(rf"(?<![\w./-])({paths})(?=/|$)", lambda found: str(mounts[found[0]]), text)


def _conditions(ready: bool) -> list[Any]:
    return [{"type": kind, "status": str(ready)} for kind in ("Ready", "ContainersReady")]


def _statuses(container: Object, waiting: Object | None = None, **more: Any) -> list[Any]:
    state = {"state": {"waiting": waiting}} if waiting else {}
    return [{"name": container["name"], "ready": False, **state, **more}]
