"""Jobs of a real SLURM as workers: what they are, what they compute, what becomes of those that are lost."""

from __future__ import annotations

import os
import re
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dask
import numpy as np
import psutil
import pytest
import torch
from distributed import Client, Security

import chunkinfer as ci
from chunkinfer.errors import ClusterError
from chunkinfer.support.allocator import ENVIRONMENT
from tests.lib.clusters import PATIENCE, TESTS
from tests.lib.probes import Watched, convolution, events, most_at_once

Submit = Callable[..., Any]

SHAPE, BLOCK, PATCH = (64, 48, 64), 16, 18
BLOCKS = 48

CODE = ("yaml", "python", "bash")


def jobs(state: str = "PENDING,RUNNING,COMPLETING") -> set[str]:
    """Numbers of the jobs in a state: those that wait or run."""
    return set(subprocess.check_output(["squeue", "-h", "-t", state, "-o", "%A"], text=True).split())


def states(job: str) -> str:
    return subprocess.check_output(["scontrol", "show", "job", job], text=True)


def facts(dask_worker: Any) -> dict[str, Any]:
    """Of a worker, told by its process."""
    import os
    from pathlib import Path

    lines = Path("/proc/self/environ").read_text().split("\0")
    return {
        "job": os.environ["SLURM_JOB_ID"],
        "pid": os.getpid(),
        "threads": dask_worker.state.nthreads,
        "memory": dask_worker.memory_manager.memory_limit,
        "resources": dict(dask_worker.state.total_resources),
        "gpu": os.environ["CUDA_VISIBLE_DEVICES"],
        "address": dask_worker.address,
        "started": dict(line.split("=", 1) for line in lines if "=" in line),
        "lifetime": dask_worker.lifetime,
        "nanny": dask_worker.nanny,
    }


def wait_until(condition: Callable[[], bool], seconds: float = PATIENCE) -> None:
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, "it never came to pass"
        time.sleep(0.1)


def workers(client: Client) -> list[dict[str, Any]]:
    return list(client.run(facts, on_error="ignore").values())


@pytest.fixture
def volume() -> np.ndarray:
    return np.random.default_rng(0).integers(1, 200, SHAPE).astype(np.uint8)


@contextmanager
def running(client: Client, volume: np.ndarray, folder: Path, seconds: float) -> Iterator[Any]:
    """A run in a thread, so that jobs can be lost meanwhile; gives the future of its report."""
    result = ci.infer(volume, Watched(folder / "log", seconds), patch=PATCH, block=BLOCK, device="cpu")
    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(ci.save, result, folder / "out.zarr", client=client, progress=False)


def assert_right(volume: np.ndarray, folder: Path) -> None:
    """The output is what an undisturbed run in this process gives, bit for bit."""
    expected = ci.infer(volume, convolution(), patch=PATCH, block=BLOCK, device="cpu")
    assert np.array_equal(ci.open_volume(folder / "out.zarr").values, np.asarray(expected))


@pytest.mark.slow
@pytest.mark.smoke
def test_jobs_compute_what_this_process_does(submit: Submit, volume: np.ndarray, tmp_path: Path) -> None:
    """Also: only where a GPU is declared, encrypted, and with no key where others could read it."""
    with submit(2) as cluster, Client(cluster) as client:
        client.wait_for_workers(2, timeout=PATIENCE)
        found = workers(client)
        assert {f["job"] for f in found} == jobs()
        for f in found:
            assert (f["threads"], f["memory"], f["resources"]) == (2, 1 << 30, {"GPU": 1})
            assert f["address"].startswith("tls://127.0.0.1")
            assert f["started"].items() >= {**ENVIRONMENT, "OMP_NUM_THREADS": "1"}.items()
            assert 420 <= f["lifetime"] <= 550
            assert f["nanny"]
        with plain_worker(cluster, tmp_path):
            client.wait_for_workers(3, timeout=PATIENCE)
            with running(client, volume, tmp_path, seconds=0.02) as future:
                report = future.result(PATIENCE)
        assert report.computed == BLOCKS
        ran = events(tmp_path / "log")
        assert {event.pid for event in ran} == {f["pid"] for f in found}, "a kernel ran where no GPU is declared"
        assert most_at_once([e for e in ran if e.pid == ran[0].pid]) == 1
        assert_right(volume, tmp_path)
        assert_secret(cluster, tmp_path)
    wait_until(lambda: not jobs())


@contextmanager
def plain_worker(cluster: Any, folder: Path) -> Iterator[None]:
    """A worker process without a GPU beside the jobs."""
    security = cluster.security
    command = [
        sys.executable, "-m", "dask", "worker", cluster.scheduler_address, "--no-nanny", "--nthreads", "4",
        "--interface", "lo", "--dashboard-address", "127.0.0.1:0", "--local-directory", folder,
        "--tls-ca-file", security.tls_ca_file, "--tls-cert", security.tls_worker_cert,
        "--tls-key", security.tls_worker_key,
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(TESTS.parent)}
    with open(folder / "plain.log", "wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
    try:
        yield
    finally:
        process.kill()
        process.wait(PATIENCE)


def assert_secret(cluster: Any, folder: Path) -> None:
    """The private key is in one file that only its owner can read: not in scripts, commands, logs or SLURM's memory."""
    key = Path(cluster.security.tls_worker_key)
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert all(stat.S_IMODE(place.stat().st_mode) == 0o700 for place in (key.parent, key.parent.parent))
    heart = key.read_text().splitlines()[5]
    kept = [cluster.job_script()]
    for job in jobs():
        kept.append(subprocess.check_output(["scontrol", "write", "batch_script", job, "-"], text=True))
        kept.append(states(job))
    kept += [" ".join(process.info["cmdline"] or []) for process in psutil.process_iter(["cmdline"])]
    kept += [path.read_text(errors="replace") for path in (folder / "logs").iterdir()]
    assert any("--tls-key" in text for text in kept), "nothing was looked at"
    assert not any("PRIVATE KEY" in text or heart in text for text in kept)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # dask warns of connections that are given up
def test_strangers_are_refused(submit: Submit) -> None:
    with submit() as cluster:
        address = cluster.scheduler_address
        with (
            pytest.raises(OSError, match=r"Timed out|SSL|reset|closed"),
            Client(address.replace("tls", "tcp"), timeout="3s"),
        ):
            pass
        with pytest.raises(OSError, match=r"Timed out|SSL|certificate"):
            Client(address, security=Security.temporary(), timeout="3s").close()
        with Client(address, security=ci.clusters.tls(), timeout="20s") as second:
            assert second.scheduler_info()["address"] == address


@pytest.mark.slow
def test_a_job_that_is_cancelled_in_mid_run_is_replaced(submit: Submit, volume: np.ndarray, tmp_path: Path) -> None:
    with submit(2) as cluster, Client(cluster) as client:
        client.wait_for_workers(2, timeout=PATIENCE)
        first = jobs()
        with running(client, volume, tmp_path, seconds=1.0) as future:
            wait_until(lambda: len(events(tmp_path / "log")) >= 6)
            (victim, _) = sorted(first)
            subprocess.run(["scancel", victim], check=True)
            start = time.monotonic()
            wait_until(lambda: len(jobs() - {victim}) == 2 and len({f["job"] for f in workers(client)} - {victim}) == 2)
            print(f"replaced after {time.monotonic() - start:.1f} s")
            report = future.result(2 * PATIENCE)
        assert (report.computed, report.failed) == (BLOCKS, [])
        used = {f["job"] for f in workers(client)}
        assert len(used - first) == 1
        # What was lost: at most the two blocks that the job had in flight, and none was lost for good.
        assert BLOCKS <= len(events(tmp_path / "log")) <= BLOCKS + 2
        assert_right(volume, tmp_path)


@pytest.mark.slow
def test_workers_that_reach_their_lifetime_retire_and_come_back(
    submit: Submit, volume: np.ndarray, tmp_path: Path
) -> None:
    with (
        submit(2, walltime="00:02:00", lifetime="20s", lifetime_stagger="4s") as cluster,
        Client(cluster) as client,
    ):
        seen: set[str] = set()
        with running(client, volume, tmp_path, seconds=1.0) as future:
            while not future.done():
                seen |= {f["job"] for f in workers(client)}
                time.sleep(0.5)
            report = future.result()
        assert (report.computed, report.failed) == (BLOCKS, [])
        assert len(seen) > 2, "no job took over from one that had retired"
        assert_right(volume, tmp_path)
        assert not seen & jobs("TIMEOUT"), "SLURM had to kill a job"


@pytest.mark.slow
def test_jobs_that_slurm_kills_at_their_walltime_are_replaced(
    submit: Submit, volume: np.ndarray, tmp_path: Path
) -> None:
    """SLURM's shortest walltime is a minute, and it looks every half minute. The workers here know nothing of it."""
    worker = ci.clusters.settings.Worker(gpu=True, cores=2, memory=1 << 30, slots=2)
    with (
        submit(2, walltime="00:01:00", options={"worker_extra_args": worker.arguments()}) as cluster,
        Client(cluster) as client,
    ):
        client.wait_for_workers(2, timeout=PATIENCE)
        first = jobs()
        assert [f["lifetime"] for f in workers(client)] == [None, None]
        with running(client, volume, tmp_path, seconds=5.0) as future:
            report = future.result(6 * PATIENCE)
        assert (report.computed, report.failed) == (BLOCKS, [])
        killed = jobs("TIMEOUT")
        assert first <= killed, "SLURM did not kill them"
        for job in first:
            assert "DUE TO TIME LIMIT" in (tmp_path / "logs" / f"chunkinfer-{job}.err").read_text()
        assert BLOCKS <= len(events(tmp_path / "log")) <= BLOCKS + 2 * len(killed)
        assert_right(volume, tmp_path)


@pytest.mark.slow
def test_a_job_with_several_gpus_has_a_worker_for_each_and_is_replaced(submit: Submit) -> None:
    """dask-jobqueue itself loses such jobs for good: its issues 611 and 691."""
    soon = dask.config.set({"distributed.deploy.lost-worker-timeout": "2s"})
    with soon, submit(1, gpus=2) as cluster, Client(cluster) as client:
        client.wait_for_workers(2, timeout=PATIENCE)
        found = workers(client)
        assert sorted(f["gpu"] for f in found) == ["0", "1"]
        assert [f["memory"] for f in found] == [1 << 30] * 2
        (job,) = {f["job"] for f in found}
        assert "TRES=cpu=4,mem=2G" in states(job)
        subprocess.run(["scancel", job], check=True)
        wait_until(lambda: sorted(f["gpu"] for f in workers(client) if f["job"] != job) == ["0", "1"])


@pytest.mark.slow
def test_a_job_that_ends_before_its_worker_came_is_replaced(submit: Submit, tmp_path: Path) -> None:
    ready, tried = tmp_path / "ready", tmp_path / "tried"
    soon = dask.config.set({"distributed.deploy.lost-worker-timeout": "2s"})
    prologue = [f"test -e {ready} || {{ touch {tried}; exit 1; }}"]
    with soon, submit(1, prologue=prologue) as cluster, Client(cluster) as client:
        wait_until(lambda: tried.exists() and not jobs())
        ready.touch()
        client.wait_for_workers(1, timeout=PATIENCE)


@pytest.mark.slow
def test_as_many_jobs_as_there_is_work_for(submit: Submit, volume: np.ndarray, tmp_path: Path) -> None:
    with submit((1, 2)) as cluster, Client(cluster) as client:
        client.wait_for_workers(1, timeout=PATIENCE)
        assert len(jobs()) == 1
        with running(client, volume, tmp_path, seconds=0.5) as future:
            wait_until(lambda: len(workers(client)) == 2)
            assert future.result(2 * PATIENCE).computed == BLOCKS
        assert_right(volume, tmp_path)


@pytest.mark.slow
def test_a_client_that_is_killed_leaves_no_jobs(slurm: Path, submit: Submit, tmp_path: Path) -> None:
    code = """
import sys, time, dask, chunkinfer as ci
if __name__ == "__main__":
    with dask.config.set({"chunkinfer.security.folder": sys.argv[1]}):
        cluster = ci.clusters.slurm(2, queue="gpu", interface="lo", cores=2, memory="1 GiB", log_directory=sys.argv[1])
        while len(cluster.scheduler_info["workers"]) < 2:
            time.sleep(0.1)
        print("two", flush=True)
        time.sleep(600)
"""
    with subprocess.Popen([sys.executable, "-c", code, tmp_path], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "two\n"
        assert len(jobs()) == 2
        process.send_signal(signal.SIGKILL)
    start = time.monotonic()
    wait_until(lambda: not jobs())
    print(f"gone after {time.monotonic() - start:.1f} s")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"queue": "gqu"}, "partition"),
        ({"gres": "gpu:h100"}, "SLURM refuses"),
        ({"memory": "1 TiB"}, "SLURM refuses"),
        ({"python": "/my envs/bin/python"}, "characters that a shell reads"),
        ({"lifetime": "10 minutes"}, "does not fit into a walltime"),
        ({"jobs": (0, 2)}, "not a number of jobs"),
    ],
)
def test_what_slurm_would_refuse_is_said_at_once(submit: Submit, wrong: dict[str, Any], why: str) -> None:
    with pytest.raises(ClusterError, match=why):
        submit(**{"jobs": 1, **wrong})
    assert not jobs()


@pytest.mark.slow
def test_nodes_that_are_down_are_waited_for(submit: Submit) -> None:
    def change(state: str) -> None:
        command = ["scontrol", "update", "NodeName=n[1-2]", f"State={state}", "Reason=test"]
        subprocess.run(command, check=True)

    change("drain")
    try:
        with submit(1) as cluster, Client(cluster) as client:
            wait_until(lambda: len(jobs()) == 1)
            change("resume")
            client.wait_for_workers(1, timeout=PATIENCE)
    finally:
        subprocess.run(["scontrol", "update", "NodeName=n[1-2]", "State=resume"], stderr=subprocess.DEVNULL)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit.*is deprecated:DeprecationWarning")
def test_the_page_can_be_followed(slurm: Path, volume: np.ndarray, tmp_path: Path) -> None:
    """What docs/slurm.md says, word for word but for what this SLURM has: as a script, and from a batch script."""
    page = (TESTS.parent / "docs" / "slurm.md").read_text()
    config, script, batch = (re.search(rf"```{kind}\n(.*?)```", page, re.DOTALL)[1] for kind in CODE)  # type: ignore[index]
    here = {
        '["module load cuda"]': "[]\n    interface: lo", '["--qos=preempt"]': "[]", "32 GiB": "1 GiB",
        "$TMPDIR": str(tmp_path), "~/chunkinfer-logs": str(tmp_path / "logs"), "cores: 4": "cores: 2",
        'device="cuda"': 'device="cpu", patch=18, block=16', "slurm(20)": "slurm(2)", "--mem=8G": "--mem=1G",
        "exec python": f"exec {sys.executable}",
    }  # fmt: skip
    for a, b in here.items():
        assert a in config + script + batch
        config, script, batch = config.replace(a, b), script.replace(a, b), batch.replace(a, b)
    config += f"  security:\n    folder: {tmp_path / 'tls'}\n"
    (tmp_path / "config").mkdir()
    for name, text in {"config/chunkinfer.yaml": config, "affinities.py": script, "affinities.sh": batch}.items():
        (tmp_path / name).write_text(text)
    ci.save(ci.open_volume(_npy(volume, tmp_path)), tmp_path / "em.zarr", progress=False)
    torch.jit.save(torch.jit.script(torch.nn.Sequential(convolution(), torch.nn.Sigmoid())), tmp_path / "unet.pt2")
    environment = {**os.environ, "DASK_CONFIG": str(tmp_path / "config")}
    run = {"cwd": tmp_path, "env": environment, "timeout": 2 * PATIENCE, "check": True}
    subprocess.run([sys.executable, "affinities.py"], **run)
    first = ci.open_volume(tmp_path / "affinities.zarr").values
    (tmp_path / "affinities.zarr").rename(tmp_path / "first.zarr")
    subprocess.run(["sbatch", "--wait", "affinities.sh"], **run)
    second = ci.open_volume(tmp_path / "affinities.zarr").values
    assert first.dtype == np.uint8
    assert first.shape == (1, *SHAPE)
    assert np.array_equal(first, second)


def _npy(values: np.ndarray, folder: Path) -> Path:
    np.save(folder / "em.npy", values)
    return folder / "em.npy"


def test_without_slurm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ClusterError, match="no sbatch"):
        ci.clusters.slurm(1)
