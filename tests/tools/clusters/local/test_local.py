"""Clusters on this machine, with real processes."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import psutil
import pytest
from distributed import Client, LocalCluster, Security

import chunkinfer as ci
from chunkinfer.errors import ClusterError
from tests.lib.clusters import modules
from tests.lib.probes import Watched, events

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers do not see this file

REFUSED = r"Timed out|SSL|certificate|reset|closed"


def facts(dask_worker: Any) -> dict[str, Any]:
    """Of a worker, told by its process."""
    import os
    from pathlib import Path

    lines = Path("/proc/self/environ").read_text().split("\0")
    started = dict(line.split("=", 1) for line in lines if "=" in line)
    return {
        "threads": dask_worker.state.nthreads,
        "resources": dict(dask_worker.state.total_resources),
        "gpu": os.environ.get("CUDA_VISIBLE_DEVICES"),
        "pid": os.getpid(),
        "started": started,
        "nanny": dask_worker.nanny,
        "memory": dask_worker.memory_manager.memory_limit,
        "lifetime": (dask_worker.lifetime, dask_worker.lifetime_restart),
    }


def listening(*pids: int) -> set[str]:
    """Addresses on which processes listen."""
    found = (c for pid in pids for c in psutil.Process(pid).net_connections("inet"))
    return {c.laddr.ip for c in found if c.status == psutil.CONN_LISTEN}


@pytest.fixture(scope="module")
def two_gpus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    """A cluster with TLS, as if this machine had two GPUs."""
    with pytest.MonkeyPatch.context() as patch:
        import dask

        patch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
        patch.setenv("PYTHONPATH", modules())
        with (
            dask.config.set({"chunkinfer.security.folder": str(tmp_path_factory.mktemp("tls"))}),
            ci.clusters.local(security=True, memory="1 GiB", lifetime="1h", lifetime_stagger="5m") as cluster,
        ):
            yield cluster


def test_a_worker_per_gpu(two_gpus: LocalCluster) -> None:
    assert isinstance(two_gpus, LocalCluster)
    assert two_gpus.scheduler_address.startswith("tls://127.0.0.1:")
    assert two_gpus.scheduler.allowed_failures == 5
    with Client(two_gpus) as client:
        found = list(client.run(facts).values())
    assert sorted(f["gpu"] for f in found) == ["3", "5"]
    for f in found:
        assert (f["threads"], f["resources"], f["memory"]) == (2, {"GPU": 1}, 1 << 30)
        assert f["nanny"].startswith("tls://127.0.0.1:")
        assert f["started"]["OMP_NUM_THREADS"] == "1"
        assert f["started"]["MALLOC_MMAP_MAX_"] == "0", "glibc reads it only when a process starts"
        assert 55 * 60 <= f["lifetime"][0] <= 65 * 60
        assert f["lifetime"][1]
    assert listening(os.getpid(), *(f["pid"] for f in found)) == {"127.0.0.1"}


@pytest.mark.slow
def test_it_runs(two_gpus: LocalCluster, tmp_path: Path) -> None:
    log = tmp_path / "log"
    volume = np.random.default_rng(0).integers(0, 255, (32, 32, 32), np.uint8)
    result = ci.infer(volume, Watched(log), patch=18, block=16, device="cpu")
    with Client(two_gpus) as client:
        report = ci.save(result, tmp_path / "out.zarr", client=client, progress=False)
        workers = {f["pid"] for f in client.run(facts).values()}
    assert report.computed == report.blocks == 8
    assert {event.pid for event in events(log)} <= workers
    assert np.array_equal(ci.open_volume(tmp_path / "out.zarr").values, np.asarray(result))


@pytest.mark.filterwarnings("ignore")  # dask warns of connections that are given up
def test_strangers_are_refused(two_gpus: LocalCluster) -> None:
    address = two_gpus.scheduler_address
    strangers: list[tuple[str, Security | None]] = [
        (address.replace("tls://", "tcp://"), None),
        (address, Security.temporary()),  # of another authority
    ]
    for place, security in strangers:
        with pytest.raises(OSError, match=REFUSED), Client(place, security=security, timeout="2s"):
            pass
    with pytest.raises((TypeError, RuntimeError, OSError)), Client(address, timeout="2s"):
        pass
    with Client(two_gpus) as client:
        assert client.submit(lambda: 42).result(20) == 42, "the cluster took harm"


def test_a_second_client_joins(two_gpus: LocalCluster) -> None:
    with Client(two_gpus.scheduler_address, security=two_gpus.security, set_as_default=False) as client:
        assert client.submit(sum, (40, 2)).result(20) == 42


@pytest.mark.slow
def test_without_a_gpu_one_process_has_all_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    with ci.clusters.local(gpus=0, environment={"MARK": "7"}) as cluster, Client(cluster) as client:
        (found,) = client.run(facts).values()
        assert (found["threads"], found["resources"]) == (len(os.sched_getaffinity(0)) + 1, {})
        assert found["started"]["MARK"] == "7"
        assert cluster.scheduler_address.startswith("tcp://127.0.0.1:")
        cluster.scale(2)
        client.wait_for_workers(2, timeout=60)
        assert {f["started"]["MARK"] for f in client.run(facts).values()} == {"7"}, "the second came without settings"
        assert listening(os.getpid(), *(f["pid"] for f in client.run(facts).values())) == {"127.0.0.1"}


@pytest.mark.slow
def test_a_worker_that_retires_comes_back() -> None:
    with ci.clusters.local(gpus=0, lifetime="3s", lifetime_stagger=0) as cluster, Client(cluster) as client:
        (first,) = client.run(facts).values()
        until = time.monotonic() + 60
        while time.monotonic() < until:
            with contextlib.suppress(Exception):
                pids = {f["pid"] for f in client.run(facts, on_error="ignore").values()}
                if pids and first["pid"] not in pids:
                    return
            client.submit(time.sleep, 0.1, pure=False).result(60)
    pytest.fail("no other worker came")


@pytest.mark.slow
def test_off_loopback_it_is_encrypted() -> None:
    with ci.clusters.local(gpus=0, host="0.0.0.0", memory="1 GiB") as cluster:
        assert cluster.scheduler_address.startswith("tls://")
        port = int(cluster.scheduler_address.rpartition(":")[2])
        with Client(f"tls://127.0.0.1:{port}", security=ci.clusters.tls("local")) as client:
            assert client.submit(sum, (40, 2)).result(20) == 42
        with socket.create_connection(("127.0.0.1", port)) as plain:
            plain.settimeout(10)
            plain.sendall(b"hello, I am no client of yours\n")
            try:
                answer = plain.recv(1 << 16)
            except ConnectionResetError:
                answer = b""
            assert answer[:1] in (b"", b"\x15"), "neither nothing nor an alert of TLS"


def test_more_gpus_than_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    with pytest.raises(ClusterError, match="sees 1"):
        ci.clusters.local(gpus=2)
