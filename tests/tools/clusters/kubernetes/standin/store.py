"""What an API server keeps: resources with versions, owners, finalizers and watchers."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import copy
import datetime
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

import jsonpatch
import jsonschema
import kubernetes_validate
import yaml

Object = dict[str, Any]
Key = tuple[str, str | None, str]
"""Plural, namespace, name."""

KINDS = {
    "v1": {
        "events": "Event", "namespaces": "Namespace", "nodes": "Node", "pods": "Pod", "secrets": "Secret",
        "services": "Service",
    },
    "apps/v1": {"deployments": "Deployment"},
    "networking.k8s.io/v1": {"networkpolicies": "NetworkPolicy"},
    "apiextensions.k8s.io/v1": {"customresourcedefinitions": "CustomResourceDefinition"},
    "kubernetes.dask.org/v1": {
        "daskautoscalers": "DaskAutoscaler", "daskclusters": "DaskCluster", "daskjobs": "DaskJob",
        "daskworkergroups": "DaskWorkerGroup",
    },
}  # fmt: skip
"""Version -> plural -> kind."""

CLUSTER_WIDE = {"namespaces", "nodes", "customresourcedefinitions"}
LENIENT = {"Event", "Node", "Namespace"}
"""Kinds that are not validated: the operator's and this program's own."""

STATUS: Mapping[str, Object] = {"pods": {"phase": "Pending"}, "services": {"loadBalancer": {}}}
"""That a new resource has."""

SCHEMAS = "1.32"
"""The Kubernetes whose schemas hold."""


class Refusal(Exception):
    """The answer to a request that is not carried out."""

    def __init__(self, code: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.code, self.reason = code, reason


class Store:
    """All resources.

    Parameters
    ----------
    definitions
        Folder with the CustomResourceDefinitions of the operator.
    """

    def __init__(self, definitions: Path) -> None:
        self.objects: dict[Key, Object] = {}
        self.listeners: list[Callable[[str, Key, Object], None]] = []
        """Called with ADDED, MODIFIED or DELETED."""
        self._version = 0
        self._history: list[tuple[int, str, Key, Object]] = []
        self._changed = asyncio.Event()
        self._schemas: dict[str, Any] = {}
        for file in sorted(definitions.glob("*.yaml")):
            for definition in yaml.load_all(file.read_text(), yaml.CSafeLoader):
                spec = definition["spec"]
                self._schemas[spec["names"]["kind"]] = spec["versions"][0]["schema"]["openAPIV3Schema"]

    def create(self, version: str, plural: str, namespace: str | None, body: Object) -> Object:
        """Validate and keep a resource; fill in what an API server fills in."""
        metadata = body.setdefault("metadata", {})
        metadata.setdefault("name", metadata.get("generateName", "") + uuid.uuid4().hex[:6])
        if plural not in CLUSTER_WIDE:
            metadata["namespace"] = namespace
        key = (plural, metadata.get("namespace"), metadata["name"])
        if key in self.objects:
            raise Refusal(409, "AlreadyExists", f"{plural} {metadata['name']} already exists")
        body.setdefault("apiVersion", version)
        body.setdefault("kind", KINDS[version][plural])
        body = self._valid(body)
        if plural == "secrets":
            encoded = {k: base64.b64encode(v.encode()).decode() for k, v in body.pop("stringData", {}).items()}
            body["data"] = {**body.get("data", {}), **encoded}
        if plural in STATUS:
            body["status"] = copy.deepcopy(STATUS[plural])
        body["metadata"] |= {
            "uid": str(uuid.uuid4()),
            "generation": 1,
            "creationTimestamp": now(),
        }
        self.objects[key] = body
        self._tell("ADDED", key)
        return body

    def get(self, key: Key) -> Object:
        """The resource, or 404."""
        if key not in self.objects:
            raise Refusal(404, "NotFound", f"{key[0]} {key[2]} not found")
        return self.objects[key]

    def select(self, plural: str, namespace: str | None, query: Mapping[str, str]) -> list[tuple[Key, Object]]:
        """Those of a kind that the selectors of a query admit."""
        return [(key, x) for key, x in self.objects.items() if _admits(key, x, plural, namespace, query)]

    def patch(self, key: Key, body: Any, kind: str = "merge-patch") -> Object:
        """Change a resource by a merge patch or a JSON patch."""
        found = self.get(key)
        before = copy.deepcopy(found)
        if "json-patch" in kind:
            changed = jsonpatch.apply_patch(found, body)
        else:
            changed = _merged(copy.deepcopy(found), body)
        if changed["kind"] in self._schemas:
            changed = self._valid(changed)
        if changed == before:
            return found
        if changed.get("spec") != before.get("spec"):
            changed["metadata"]["generation"] += 1
        self.objects[key] = changed
        self._tell("MODIFIED", key)
        if changed["metadata"].get("deletionTimestamp") and not changed["metadata"].get("finalizers"):
            self._remove(key)
        return changed

    def delete(self, key: Key) -> Object:
        """Remove a resource and all that it owns; while it has finalizers it is only marked."""
        found = self.get(key)
        if not found["metadata"].get("finalizers"):
            self._remove(key)
        elif "deletionTimestamp" not in found["metadata"]:
            found["metadata"]["deletionTimestamp"] = now()
            self._tell("MODIFIED", key)
        return found

    async def watch(
        self, plural: str, namespace: str | None, query: Mapping[str, str]
    ) -> AsyncIterator[tuple[str, Object]]:
        """Changes since a version; without one, first everything that is there."""
        since = int(query.get("resourceVersion") or 0)
        position = 0 if since else len(self._history)
        for _, found in [] if since else self.select(plural, namespace, query):
            yield "ADDED", found
        while True:
            changed = self._changed
            while position < len(self._history):
                version, change, key, found = self._history[position]
                position += 1
                if version > since and _admits(key, found, plural, namespace, query):
                    yield change, found
            await changed.wait()

    @property
    def version(self) -> str:
        return str(self._version)

    def _remove(self, key: Key) -> None:
        removed = self.objects.pop(key)
        self._tell("DELETED", key, removed)
        for child, found in list(self.objects.items()):
            owners = found["metadata"].get("ownerReferences", [])
            if child in self.objects and any(o["uid"] == removed["metadata"]["uid"] for o in owners):
                self.delete(child)

    def _tell(self, change: str, key: Key, found: Object | None = None) -> None:
        found = found or self.objects[key]
        self._version += 1
        found["metadata"]["resourceVersion"] = str(self._version)
        self._history.append((self._version, change, key, copy.deepcopy(found)))
        for listener in self.listeners:
            listener(change, key, found)
        self._changed.set()
        self._changed = asyncio.Event()

    def _valid(self, body: Object) -> Object:
        """As an API server takes it: without nulls, and for custom resources without what their definition lacks."""
        body = _without_nulls(body)
        try:
            if schema := self._schemas.get(body["kind"]):
                jsonschema.validate(body, schema)
                return {
                    k: pruned(v, schema["properties"][k]) if k in schema["properties"] else v for k, v in body.items()
                }
            if body["kind"] not in LENIENT and "status" not in body:
                kubernetes_validate.validate(body, SCHEMAS, strict=True)
        except jsonschema.ValidationError as error:
            raise Refusal(422, "Invalid", f"{body['kind']}: {error.message[:300]}") from error
        return body


def now() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def pruned(value: Any, schema: Mapping[str, Any]) -> Any:
    """A value without the fields that a structural schema does not name."""
    if schema.get("x-kubernetes-preserve-unknown-fields"):
        return value
    if isinstance(value, list):
        return [pruned(item, schema.get("items", {})) for item in value]
    if not isinstance(value, dict):
        return value
    known, rest = schema.get("properties", {}), schema.get("additionalProperties")
    if isinstance(rest, dict):
        return {k: pruned(v, rest) for k, v in value.items()}
    return {k: pruned(v, known[k]) for k, v in value.items() if k in known}


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_nulls(v) for k, v in value.items() if v is not None}
    return [_without_nulls(v) for v in value] if isinstance(value, list) else value


def _merged(old: Any, new: Any) -> Any:
    """JSON merge patch, RFC 7396."""
    if not isinstance(new, dict):
        return new
    old = old if isinstance(old, dict) else {}
    for key, value in new.items():
        if value is None:
            old.pop(key, None)
        else:
            old[key] = _merged(old.get(key), value)
    return old


def _admits(key: Key, found: Object, plural: str, namespace: str | None, query: Mapping[str, str]) -> bool:
    if key[0] != plural or namespace not in (None, key[1]):
        return False
    labels = found["metadata"].get("labels", {})
    fields = _terms(query.get("fieldSelector", ""))
    return all(labels.get(k) == v for k, v in _terms(query.get("labelSelector", "")).items()) and all(
        _field(found, path) == v for path, v in fields.items()
    )


def _terms(selector: str) -> dict[str, str]:
    """Of the form a=b,c==d, which is all that the operator uses."""
    pairs = (term.partition("=") for term in selector.split(",") if term)
    return {name: value.lstrip("=") for name, _, value in pairs}


def _field(found: Object, path: str) -> Any:
    value: Any = found
    for part in path.split("."):
        with contextlib.suppress(AttributeError):
            value = value.get(part)
    return value
