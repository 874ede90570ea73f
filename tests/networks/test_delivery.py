"""How a model's file reaches the processes that run it: by path, URL or bytes, checked, and never in the graph."""

from __future__ import annotations

import hashlib
import os
import pickle
import stat
import subprocess
import sys
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import chunkinfer as ci
from chunkinfer.errors import ModelError, SourceError, UntrustedModel
from chunkinfer.networks import model as opened
from chunkinfer.networks.model import Model, deliver, open_model
from tests.lib.clusters import Cluster
from tests.lib.proxies import Proxy

V = np.random.default_rng(0).random((24, 20, 20), dtype="f4")


def network(seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Conv3d(1, 16, 3, padding=1), nn.Conv3d(16, 1, 1)).eval()


NET, OTHER = network(0), network(1)


def weights(net: nn.Module) -> bytes:
    """A piece of its file that occurs nowhere else."""
    piece: bytes = next(net.parameters()).detach().numpy().tobytes()[:64]
    return piece


def script(path: Path, net: nn.Module = NET) -> Path:
    torch.jit.save(torch.jit.trace(net, torch.zeros(1, 1, 8, 8, 8)), path)
    return path


def whole(net: nn.Module = NET) -> np.ndarray:
    with torch.no_grad():
        result: np.ndarray = net(torch.from_numpy(V)[None, None])[0].numpy()
    return result


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's cache of this test's own, and no network left open by another."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(opened, "_open", type(opened._open)())
    return tmp_path / "cache" / "chunkinfer" / "models"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What the web server below serves."""
    (tmp_path / "served").mkdir()
    return tmp_path / "served"


@pytest.fixture
def server(folder: Path) -> Iterator[Proxy]:
    """Serves a folder by HTTP, and counts what is asked for."""
    command = [sys.executable, "-u", "-m", "http.server", "0", "--bind", "127.0.0.1", "--directory", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        port = process.stdout.readline().split(" port ")[1].split()[0]
        try:
            with Proxy(f"http://127.0.0.1:{port}").running() as proxy:
                yield proxy
        finally:
            process.kill()


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def pinned(server: Proxy, path: Path) -> str:
    return f"{server.url}/{path.name}#sha256={sha256(path)}"


def elsewhere(model: Model) -> Model:
    """The model as another machine gets it."""
    opened._open.clear()
    return pickle.loads(pickle.dumps(model))


# ---- URLs ---------------------------------------------------------------------------------------------------------


def test_a_model_from_a_url_computes_and_is_the_file_by_digest(server: Proxy, folder: Path) -> None:
    path = script(folder / "net.pt")
    result = ci.infer(V, pinned(server, path), patch=12)
    assert np.abs(result.compute() - whole()).max() < 1e-5
    assert open_model(pinned(server, path)) == open_model(path)


def test_a_process_fetches_a_url_once_and_checks_it(server: Proxy, folder: Path, cache: Path) -> None:
    path = script(folder / "net.pt")
    model = open_model(pinned(server, path))
    assert server.seen["GET /net.pt"] == 1
    (kept,) = cache.rglob("net.pt")
    assert kept.parent.name == model.network_digest
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert stat.S_IMODE(cache.stat().st_mode) == 0o700
    path.unlink()  # the next machine has no need of it while its cache holds the file
    there = elsewhere(model)
    there.module_on("cpu")
    assert Path(there.file()) == kept
    assert server.seen["GET /net.pt"] == 1


def test_another_machine_fetches_a_url_itself(server: Proxy, folder: Path, cache: Path) -> None:
    model = open_model(pinned(server, script(folder / "net.pt")))
    for kept in cache.rglob("net.pt"):
        kept.unlink()
    there = elsewhere(model)
    assert len(pickle.dumps(model)) < 1500
    there.module_on("cpu")
    assert server.seen["GET /net.pt"] == 2
    assert [p.name for p in cache.rglob("*") if p.is_file()] == ["net.pt"]


def test_a_damaged_file_in_the_cache_is_fetched_anew(server: Proxy, folder: Path, cache: Path) -> None:
    model = open_model(pinned(server, script(folder / "net.pt")))
    (kept,) = cache.rglob("net.pt")
    kept.write_bytes(kept.read_bytes()[:-100])
    assert sha256(Path(elsewhere(model).file())) == sha256(folder / "net.pt")


def test_a_file_that_changed_since_planning_is_refused(server: Proxy, folder: Path, cache: Path) -> None:
    path = script(folder / "net.pt")
    model = open_model(pinned(server, path))
    for kept in cache.rglob("net.pt"):
        kept.unlink()
    script(path, nn.Conv3d(1, 1, 3, padding=1).eval())
    with pytest.raises(ModelError, match=r"not the one that this run was planned with[^$]*restore the file"):
        elsewhere(model).module_on("cpu")
    assert not [p for p in cache.rglob("*") if p.is_file()]


def test_a_stated_digest_that_does_not_fit_is_refused(server: Proxy, folder: Path, cache: Path) -> None:
    script(folder / "net.pt")
    with pytest.raises(ModelError, match="0000 was stated"):
        open_model(f"{server.url}/net.pt#sha256={'0' * 64}")
    with pytest.raises(ModelError, match="0000 was stated"):
        open_model(f"file://{folder}/net.pt#sha256={'0' * 64}")
    assert not cache.exists()
    with pytest.raises(ModelError, match=r"no digest[^$]*sha256sum"):
        open_model(f"{server.url}/net.pt#md5=0000")


def test_http_without_a_digest_is_refused(server: Proxy, folder: Path) -> None:
    script(folder / "net.pt")
    with pytest.raises(UntrustedModel, match=r"without TLS[^$]*#sha256="):
        ci.infer(V, f"{server.url}/net.pt")
    assert not server.seen


def test_a_file_url_is_a_path(folder: Path) -> None:
    path = script(folder / "net.pt")
    assert open_model(f"file://{path}#sha256={sha256(path)}").path == str(path)


def test_nothing_at_a_url(server: Proxy) -> None:
    with pytest.raises(ModelError, match="no model file at"):
        open_model(f"{server.url}/absent.pt#sha256={'0' * 64}")


def test_credentials_in_a_url_are_refused_and_not_repeated() -> None:
    for url in ("s3://AKIA:sesame@bucket/net.pt", "https://bucket.host/net.pt?X-Amz-Signature=sesame"):
        with pytest.raises(SourceError, match="credentials") as caught:
            ci.infer(V, url)
        assert "sesame" not in str(caught.value)


def test_openvino_needs_both_files(server: Proxy, folder: Path, cache: Path) -> None:
    openvino = pytest.importorskip("openvino")
    openvino.save_model(
        openvino.convert_model(NET, example_input=torch.zeros(1, 1, 8, 8, 8)), folder / "net.xml", False
    )
    both = (folder / "net.xml").read_bytes() + (folder / "net.bin").read_bytes()
    model = open_model(f"{server.url}/net.xml#sha256={hashlib.sha256(both).hexdigest()}")
    assert model == open_model(folder / "net.xml")
    assert sorted(p.name for p in cache.rglob("net.*")) == ["net.bin", "net.xml"]
    sent = deliver(folder / "net.xml")
    for path in (folder / "net.xml", folder / "net.bin", *cache.rglob("net.*")):
        path.unlink()
    result = elsewhere(sent).function()(V[None, None])
    assert np.abs(result[0] - whole()).max() < 1e-4


# ---- bytes --------------------------------------------------------------------------------------------------------


def test_bytes_that_can_be_code_need_trust(tmp_path: Path) -> None:
    data = script(tmp_path / "net.pt").read_bytes()
    with pytest.raises(UntrustedModel, match=r"can be code \(torchscript\)[^$]*trust=True"):
        ci.infer(V, data)
    result = ci.infer(V, deliver(data, trust=True), patch=12)
    assert np.abs(result.compute() - whole()).max() < 1e-5


def test_bytes_of_onnx_are_no_code(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    axes = {"x": {2: "z", 3: "y", 4: "x"}, "y": {2: "z", 3: "y", 4: "x"}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            NET, (torch.zeros(1, 1, 8, 8, 8),), tmp_path / "net.onnx", input_names=["x"], output_names=["y"],
            dynamic_axes=axes, dynamo=False,
        )  # fmt: skip
    data = (tmp_path / "net.onnx").read_bytes()
    assert open_model(data).digest == open_model(tmp_path / "net.onnx").digest
    result = ci.infer(V, data, patch=12, overlap=4)
    assert result.shape == (1, *V.shape)
    assert ci.receptive_field(data).axes[0].low == ci.receptive_field(tmp_path / "net.onnx").axes[0].low == 1


def test_a_delivered_path_is_not_needed_again(tmp_path: Path) -> None:
    path = script(tmp_path / "net.pt")
    model = deliver(path)
    assert model == open_model(path)
    path.unlink()
    run = elsewhere(model).network("cpu")
    with torch.no_grad():
        assert torch.equal(run(torch.from_numpy(V)[None, None]), torch.from_numpy(whole())[None])


def test_a_path_that_a_process_does_not_see_says_how_to_deliver(tmp_path: Path) -> None:
    path = script(tmp_path / "net.pt")
    model = open_model(path)
    path.unlink()
    with pytest.raises(ModelError, match=r"not there for this process[^$]*deliver\([^$]*s3://"):
        elsewhere(model).module_on("cpu")


def test_modules_are_delivered_as_they_are() -> None:
    assert deliver(NET) == open_model(NET)


def test_no_repr_shows_weights(tmp_path: Path) -> None:
    assert len(repr(deliver(script(tmp_path / "net.pt")))) < 600


def test_many_processes_keep_one_file(tmp_path: Path, cache: Path) -> None:
    """Each writes the file whole, or finds it."""
    model = deliver(script(tmp_path / "net.pt"))
    (tmp_path / "net.pt").unlink()
    (tmp_path / "model").write_bytes(pickle.dumps(model))
    code = "import pickle, sys; print(pickle.load(open(sys.argv[1], 'rb')).file())"
    command = [sys.executable, "-c", code, str(tmp_path / "model")]

    def run(_: int) -> str:
        return subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ.copy()).stdout.strip()

    with ThreadPoolExecutor(4) as pool:
        paths = set(pool.map(run, range(4)))
    assert [str(p) for p in cache.rglob("*") if p.is_file()] == [*paths]


# ---- a cluster ----------------------------------------------------------------------------------------------------


def watch_graphs(client: Any, pieces: list[bytes]) -> None:
    """Make the scheduler note every task that comes with one of these in it, and the size of the largest other."""

    def install(dask_scheduler: Any) -> None:
        import pickle

        from distributed.diagnostics.plugin import SchedulerPlugin

        class Watching(SchedulerPlugin):
            def __init__(self) -> None:
                self.holding: set[str] = set()
                self.largest = 0

            def update_graph(self, scheduler: Any, *, tasks: Any, **more: Any) -> None:
                for key in tasks:
                    data = pickle.dumps(scheduler.tasks[key].run_spec)
                    if any(piece in data for piece in pieces):
                        self.holding.add(str(key))
                    else:
                        self.largest = max(self.largest, len(data))

        dask_scheduler.add_plugin(Watching(), name="watching")

    client.run_on_scheduler(install)


def watched(client: Any) -> tuple[set[str], int]:
    def ask(dask_scheduler: Any) -> tuple[set[str], int]:
        plugin = dask_scheduler.plugins["watching"]
        return set(plugin.holding), plugin.largest

    holding, largest = client.run_on_scheduler(ask)
    return holding, largest


@pytest.mark.slow
def test_weights_are_in_no_graph(tmp_path: Path, server: Proxy, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By path and URL they never meet the scheduler; as bytes they are in one held task, and in no window."""
    path = script(folder / "net.pt")
    assert weights(NET) in path.read_bytes()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "workers"))
    cluster = Cluster(tmp_path)
    try:
        cluster.worker()
        cluster.worker()
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        with cluster.client(2) as client:
            watch_graphs(client, [weights(NET), weights(OTHER)])
            for number, model in enumerate((open_model(pinned(server, path)), path)):
                ci.save(ci.infer(V, model, patch=12, block=10), tmp_path / f"{number}.zarr", progress=False)
            holding, largest = watched(client)
            assert not holding
            assert 0 < largest < 200_000  # the volume is in memory, and travels
            assert 2 <= server.seen["GET /net.pt"] <= 3  # this process, and workers that do not find it in their cache
            sent = deliver(script(folder / "other.pt", OTHER))
            (folder / "other.pt").unlink()
            ci.save(ci.infer(V, sent, patch=12, block=10), tmp_path / "2.zarr", progress=False)
            holding, _ = watched(client)
            assert len(holding) == 1
            assert all("network-" in key for key in holding)
        for number, net in enumerate((NET, NET, OTHER)):
            assert np.abs(ci.open_volume(tmp_path / f"{number}.zarr").values - whole(net)).max() < 1e-5
    finally:
        cluster.close()
