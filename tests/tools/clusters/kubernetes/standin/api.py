"""The REST interface of the store, as far as kopf, kr8s and KubeCluster use it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import WSMsgType, web
from store import CLUSTER_WIDE, KINDS, Key, Refusal, Store

VERBS = ["create", "delete", "get", "list", "patch", "update", "watch"]
FRAME = 1 << 15
"""Bytes of a forwarded message, as kubelets send them."""


class Api:
    """Answers requests.

    Parameters
    ----------
    store
        What it serves.
    token
        Without which nobody is answered: pods are processes of this machine.
    """

    def __init__(self, store: Store, token: str) -> None:
        self.store, self.token = store, token

    def application(self) -> web.Application:
        app = web.Application(middlewares=[self._guard])
        route = app.router.add_route
        end = "{_:/?}"  # as API servers, it takes a path with or without a slash in the end
        route("GET", f"/version{end}", self._version)
        route("GET", f"/api{end}", self._core)
        route("GET", f"/apis{end}", self._groups)
        route("GET", f"/apis/{{group}}{end}", self._group)
        for base in ("/api/{version}", "/apis/{group}/{version}"):
            route("GET", f"{base}{end}", self._resources)
            for place in ("/namespaces/{namespace}", ""):
                route("GET", f"{base}{place}/pods/{{name}}/portforward{end}", self._forward)
                route("*", f"{base}{place}/{{plural}}{end}", self._all)
                route("*", f"{base}{place}/{{plural}}/{{name}}{end}", self._one)
                route("*", f"{base}{place}/{{plural}}/{{name}}/{{part:status|scale}}{end}", self._one)
        return app

    @web.middleware
    async def _guard(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        try:
            if request.headers.get("Authorization") != f"Bearer {self.token}":
                raise Refusal(401, "Unauthorized", "no token")
            return await handler(request)
        except Refusal as error:
            status = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": error.code}
            return web.json_response({**status, "reason": error.reason, "message": str(error)}, status=error.code)

    async def _version(self, _: web.Request) -> web.Response:
        return web.json_response({"major": "1", "minor": "32", "gitVersion": "v1.32.0"})

    async def _core(self, _: web.Request) -> web.Response:
        return web.json_response({"kind": "APIVersions", "versions": ["v1"]})

    async def _groups(self, _: web.Request) -> web.Response:
        return web.json_response({"kind": "APIGroupList", "groups": [_named(v) for v in KINDS if "/" in v]})

    async def _group(self, request: web.Request) -> web.Response:
        group = request.match_info["group"]
        return web.json_response(next(_named(v) for v in KINDS if v.startswith(f"{group}/")))

    async def _resources(self, request: web.Request) -> web.Response:
        version = _version(request)
        resources = [
            {"name": plural, "singularName": kind.lower(), "kind": kind, "namespaced": plural not in CLUSTER_WIDE,
             "verbs": VERBS, "shortNames": []}
            for plural, kind in _kinds(version).items()
        ]  # fmt: skip
        return web.json_response({"kind": "APIResourceList", "groupVersion": version, "resources": resources})

    async def _one(self, request: web.Request) -> web.Response:
        info = request.match_info
        _kinds(_version(request), info["plural"])
        key: Key = (info["plural"], info.get("namespace"), info["name"])
        if request.method == "GET":
            return web.json_response(self.store.get(key))
        if request.method == "DELETE":
            return web.json_response(self.store.delete(key))
        return web.json_response(self.store.patch(key, await request.json(), request.content_type))

    async def _all(self, request: web.Request) -> web.StreamResponse:
        version, plural = _version(request), request.match_info["plural"]
        kind, namespace = _kinds(version, plural)[plural], request.match_info.get("namespace")
        if request.method == "POST":
            made = self.store.create(version, plural, namespace, await request.json())
            return web.json_response(made, status=201)
        if request.query.get("watch", "").lower() in ("true", "1"):
            return await self._watch(request, plural, namespace)
        items = [found for _, found in self.store.select(plural, namespace, request.query)]
        metadata = {"resourceVersion": self.store.version}
        return web.json_response({"kind": f"{kind}List", "apiVersion": version, "metadata": metadata, "items": items})

    async def _watch(self, request: web.Request, plural: str, namespace: str | None) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        try:
            async for change, found in self.store.watch(plural, namespace, request.query):
                await response.write(json.dumps({"type": change, "object": found}).encode() + b"\n")
        except ConnectionError:  # whoever watched is gone
            pass
        return response

    async def _forward(self, request: web.Request) -> web.WebSocketResponse:
        """A connection to a port of a pod: messages begin with the channel, 0 for data and 1 for errors."""
        pod = self.store.get(("pods", request.match_info["namespace"], request.match_info["name"]))
        port = int(request.query["ports"])
        socket = web.WebSocketResponse(max_msg_size=0)
        await socket.prepare(request)
        for channel in (b"\0", b"\1"):
            await socket.send_bytes(channel + port.to_bytes(2, "little"))
        try:
            reader, writer = await asyncio.open_connection(pod["status"]["podIP"], port)
        except OSError as error:
            await socket.send_bytes(b"\1" + str(error).encode())
            await socket.close()
            return socket

        async def forth() -> None:
            async for message in socket:
                if message.type == WSMsgType.BINARY:
                    writer.write(message.data[1:])
                    await writer.drain()

        async def back() -> None:
            while data := await reader.read(FRAME):
                await socket.send_bytes(b"\0" + data)

        # Whichever side closes, the other one must hear of it.
        ways = [asyncio.create_task(forth()), asyncio.create_task(back())]
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)
        writer.close()
        await socket.close()
        return socket


def _version(request: web.Request) -> str:
    info = request.match_info
    return "/".join(filter(None, (info.get("group"), info["version"])))


def _kinds(version: str, plural: str | None = None) -> dict[str, str]:
    if version not in KINDS or (plural and plural not in KINDS[version]):
        raise Refusal(404, "NotFound", f"the server has no {plural or version}")
    return KINDS[version]


def _named(version: str) -> dict[str, Any]:
    group, _, number = version.partition("/")
    named = {"groupVersion": version, "version": number}
    return {"kind": "APIGroup", "name": group, "versions": [named], "preferredVersion": named}
