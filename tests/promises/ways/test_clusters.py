"""Ways out of errors about clusters: their settings, certificates, SLURM and Kubernetes; nothing is started."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dask
import pytest

import chunkinfer as ci
from chunkinfer.errors import ChunkinferError
from chunkinfer.tools.clusters import joining, settings
from tests.lib.ways.advice import followed
from tests.lib.ways.rows import NAMES

pytestmark = pytest.mark.slow

# their names in the package are those of functions
local, slurm, kubernetes = (
    import_module(f"chunkinfer.tools.clusters.{name}") for name in ("local", "slurm", "kubernetes")
)


def worker(kind: str = "slurm", walltime: float | None = None, **given: Any) -> Any:
    """What a worker would be."""
    values = settings.settings_of(kind, **given)
    return settings.worker_of(values, walltime), settings.workers_of(values)


def ways(says: str, lines: int, call: Callable[..., Any], names: dict[str, Any] | None = None, **given: Any) -> None:
    """The call is refused, and what its error advises works."""
    with pytest.raises(ChunkinferError) as refused:
        call(**given)
    assert says in str(refused.value).replace("\n", " ")
    done = [way for way, _ in followed(refused.value, call, given, {**NAMES, **(names or {})})]
    assert len(done) == lines, (done, refused.value.ways)


def test_lines_about_settings() -> None:
    ways("is no setting of a slurm cluster", 0, worker, memry="16 GiB")
    ways("is not a whole number", 1, worker, workers=-1)
    ways("is not an amount of memory", 1, worker, memory="plenty")
    ways("is not a time", 2, worker, lifetime="soon")
    ways("does not fit into a walltime", 1, worker, walltime=600, lifetime="2h")
    ways("looks like a secret", 0, worker, environment={"AWS_SECRET_ACCESS_KEY": "x"})
    with dask.config.set({"chunkinfer.slurm.memry": "16 GiB"}):
        ways("which chunkinfer does not know", 0, worker)


def test_a_line_about_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(local.VARIABLE, "0")

    def gpus(gpus: int | None = None) -> list[str]:
        return local._gpus(gpus)

    ways("gpus=3, and this process sees 1", 1, gpus, gpus=3)


def test_lines_about_certificates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ways("There is no file", 0, ci.clusters.tls, ca="ca.pem", cert="cert.pem", key="key.pem")
    for name in ("ca", "cert", "key"):
        Path(f"{name}.pem").touch()
    os.chmod("key.pem", 0o644)
    ways("Others than you may use", 0, ci.clusters.tls, ca="ca.pem", cert="cert.pem", key="key.pem")
    os.chmod("key.pem", 0o600)
    ways("cert, key is missing", 1, ci.clusters.tls, ca="ca.pem")
    with dask.config.set({"chunkinfer.security.folder": str(tmp_path)}):
        ways("There are no certificates in", 1, ci.clusters.tls, name="elsewhere")


def test_lines_about_an_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joining, "CONNECT", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        ways("is not the address of a scheduler", 0, joining.client_at, address="http://login1:8787/status")
        ways("No scheduler answers at", 0, joining.client_at, address=f"tcp://127.0.0.1:{port}")


class Jobs:
    """A cluster that only takes jobs, or refuses them."""

    def __init__(self, refusal: str = "") -> None:
        self.refusal, self.worker_spec, self.workers = refusal, dict[str, Any](), dict[str, Any]()

    def new_worker_spec(self) -> dict[str, Any]:
        return {}

    def sync(self, _: Any) -> None:
        if self.refusal:
            raise RuntimeError(self.refusal)

    def adapt(self, **_: Any) -> None:
        pass


def test_lines_about_slurm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ChunkinferError, match="no sbatch") as refused:
        ci.clusters.slurm(2)
    started = [cluster for _, cluster in followed(refused.value, ci.clusters.slurm, {}, NAMES)]
    assert len(started) == 1
    for cluster in started:
        cluster.close()
    ways("is not a number of jobs", 2, slurm.keep, cluster=Jobs(), jobs=0)
    ways("is not a walltime", 1, slurm.seconds, walltime=3600)
    ways("SLURM refuses the job", 0, slurm._submit, cluster=Jobs("sbatch: error: invalid partition"))
    ways("holds characters that a shell reads", 0, slurm._plain, what="the log", path="a folder/log")


def test_lines_about_kubernetes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from distributed import Security

    from chunkinfer.tools.clusters import kubernetes_operator, kubernetes_spec

    def named(name: str | None = None) -> str:
        return kubernetes._name(name)

    def manifests(pods: int = 8, **given: Any) -> Any:
        values = settings.settings_of("kubernetes", **{"image": "registry/chunkinfer:0.1", **given})
        return kubernetes_spec.manifests("name", pods, values, Security())

    names = {"ci": SimpleNamespace(clusters=SimpleNamespace(kubernetes=manifests))}
    ways("cannot be the name", 2, named, name="FIB 25")
    ways("No image is given", 1, manifests, names, image="")
    ways("does not fit a pod", 2, manifests, names, gpus=2)
    ways("looks like a credential", 0, manifests, names, environment={"AWS_SECRET_ACCESS_KEY": "x"})

    def created(kind: str = "Secret", **given: Any) -> None:
        """Of what somebody may not create, unless told otherwise."""
        if not given:
            error = kubernetes_operator.kr8s.ServerError("forbidden", response=SimpleNamespace(status_code=403))
            raise kubernetes_operator._refused(kind, error)

    ways("did not create the Secret", 2, created)
    ways("did not create the NetworkPolicy", 2, partial(created, "NetworkPolicy"))

    async def never() -> None:
        await asyncio.sleep(9)

    async def no_pods() -> str:
        return "There are no pods."

    silent = SimpleNamespace(
        name="name", namespace="default", _resource_timeout=0.01, _scheduler=never, _pods=no_pods,
    )  # fmt: skip

    def connected(start_timeout: str = "") -> None:
        if not start_timeout:
            asyncio.run(kubernetes_operator.SecureKubeCluster._connect(silent))  # type: ignore[arg-type]

    ways("did not answer within", 1, connected)
