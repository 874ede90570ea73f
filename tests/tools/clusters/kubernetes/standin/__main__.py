"""An API server and a node on loopback, for the unmodified dask operator: ``python standin FOLDER``.

Writes FOLDER/kubeconfig and prints "ready"; pods are processes of this machine, and stop with it on SIGTERM.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import sys
from pathlib import Path

import dask_kubernetes
import yaml
from aiohttp import web
from api import Api
from node import Node
from store import Store

DEFINITIONS = Path(dask_kubernetes.__file__).parent / "operator/deployment/helm/dask-kubernetes-operator/crds"
HERE = Path(__file__).parent


async def serve(folder: Path) -> None:
    token = secrets.token_urlsafe()
    store = Store(DEFINITIONS)
    image = {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), "/usr/bin", "/bin"]),
        "PYTHONPATH": os.pathsep.join([str(HERE / "dns"), str(HERE.parents[4])]),
    }
    node = Node(store, folder, image, labels={"pool": "gpu"}, gpus=2)
    store.create("v1", "namespaces", None, {"metadata": {"name": "default"}})
    store.create("v1", "nodes", None, {"metadata": {"name": "node", "labels": node.labels}})
    runner = web.AppRunner(Api(store, token).application(), shutdown_timeout=1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    (host, port), *_ = runner.addresses
    config = {
        "apiVersion": "v1", "kind": "Config", "current-context": "standin",
        "clusters": [{"name": "standin", "cluster": {"server": f"http://{host}:{port}"}}],
        "users": [{"name": "test", "user": {"token": token}}],
        "contexts": [{"name": "standin", "context": {"cluster": "standin", "user": "test", "namespace": "default"}}],
    }  # fmt: skip
    path = folder / "kubeconfig"
    path.touch(mode=0o600)
    path.write_text(yaml.safe_dump(config))
    print("ready", flush=True)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await stop.wait()
    await node.close()
    os._exit(0)  # watches never end


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1])))
