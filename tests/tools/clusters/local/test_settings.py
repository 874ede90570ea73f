"""One form of a worker out of configuration and arguments; what is misspelt or does not fit is refused in words."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import dask
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

import chunkinfer as ci
from chunkinfer.errors import ClusterError
from chunkinfer.support.allocator import ENVIRONMENT
from chunkinfer.support.device import SLOTS_PER_GPU
from chunkinfer.tools.clusters import settings
from chunkinfer.tools.clusters.one_gpu import own
from chunkinfer.tools.clusters.settings import scheduler_config, settings_of, worker_of, workers_of
from chunkinfer.tools.clusters.slurm import seconds
from tests.lib.clusters import TESTS


def worker(kind: str = "slurm", walltime: float | None = None, **given: Any) -> settings.Worker:
    return worker_of(settings_of(kind, **given), walltime)


def test_arguments_win_over_a_section_over_what_all_have() -> None:
    with dask.config.set({"chunkinfer.worker.memory": "2 GiB", "chunkinfer.worker.slots": 7}):
        assert worker().memory == 16 << 30
        with dask.config.set({"chunkinfer.slurm.memory": None}):
            assert (worker().memory, worker().slots) == (2 << 30, 7)
        with dask.config.set({"chunkinfer.slurm.slots": 3, "chunkinfer.slurm.local_directory": "/scratch"}):
            assert (worker().slots, worker(slots=4).slots) == (3, 4)
            assert worker().local_directory == "/scratch"  # with _ or -, as everywhere in dask's configuration


def test_a_file_of_the_site_is_enough(tmp_path: Path) -> None:
    (tmp_path / "site.yaml").write_text("chunkinfer:\n  slurm:\n    queue: gpu\n    walltime: '08:00:00'\n")
    code = "from chunkinfer.tools.clusters.settings import settings_of; v = settings_of('slurm'); "
    code += "print(v['queue'], v['walltime'], v['cores'], v['account'])"
    environment = {**os.environ, "DASK_CONFIG": str(tmp_path), "DASK_CHUNKINFER__SLURM__ACCOUNT": "mine"}
    told = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert told.stdout.split() == ["gpu", "08:00:00", "4", "mine"]
    lines = (tmp_path / "chunkinfer.yaml").read_text().splitlines()  # for the user to fill in
    assert all(line.startswith("#") for line in lines if line.strip())


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("slurm.qeue", "queue"),
        ("worker.memroy", "memory"),
        ("slrum", "slurm"),
        ("kubernetes.lifetime-staggers", "lifetime-stagger"),
        ("scheduler.worker_tll", "worker-ttl"),
    ],
)
def test_a_misspelt_key_is_refused(key: str, meant: str) -> None:
    with dask.config.set({f"chunkinfer.{key}": 1}), pytest.raises(ClusterError, match=f"Did you mean {meant}"):
        settings_of("local")


def test_a_misspelt_argument_is_refused() -> None:
    with pytest.raises(ClusterError, match="Did you mean walltime="):
        settings_of("slurm", waltime="1:00:00")


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"memory": "much"}, "amount of memory"),
        ({"memory": 16}, "amount of memory"),  # GiB were meant
        ({"cores": 0}, "whole number from 1"),
        ({"cores": 2.5}, "whole number"),
        ({"gpus": True}, "whole number"),
        ({"lifetime": "soon"}, "is not a time"),
        ({"environment": {"AWS_SECRET_ACCESS_KEY": "x"}}, "looks like a secret"),
        ({"environment": {"HUB_TOKEN": "x"}}, "looks like a secret"),
    ],
)
def test_what_makes_no_sense_is_refused(wrong: dict[str, Any], why: str) -> None:
    with pytest.raises(ClusterError, match=why):
        worker(**wrong)


def test_slots_fit_the_device() -> None:
    gpu, cpu = worker(gpus=2, cores=6), worker(gpus=0, cores=6)
    assert (gpu.slots, gpu.resources, cpu.slots, cpu.resources) == (SLOTS_PER_GPU, {"GPU": 1}, 7, {})
    assert [workers_of(settings_of("slurm", gpus=n)) for n in (0, 1, 4)] == [1, 1, 4]
    assert workers_of(settings_of("slurm", gpus=2, workers=6)) == 6


def test_memory_is_kept_between_patches() -> None:
    assert worker(environment={"A": 1}).environment == {**ENVIRONMENT, "OMP_NUM_THREADS": "1", "A": "1"}
    assert worker(environment={"OMP_NUM_THREADS": 3}).environment["OMP_NUM_THREADS"] == "3"


def test_dask_takes_what_the_scheduler_needs() -> None:
    with dask.config.set(scheduler_config(settings_of("local", worker_ttl="90s"))):
        assert dask.config.get("distributed.scheduler.worker-ttl") == "90s"
        assert dask.config.get("distributed.scheduler.allowed-failures") == 5


@given(days=st.integers(0, 9), clock=st.tuples(st.integers(0, 23), st.integers(0, 59), st.integers(0, 59)))
def test_walltimes_are_read_as_slurm_reads_them(days: int, clock: tuple[int, int, int]) -> None:
    hours, minutes, rest = clock
    total = 86400 * days + 3600 * hours + 60 * minutes + rest
    assert seconds(f"{days}-{hours}:{minutes:02}:{rest:02}") == total
    assert seconds(f"{days}-{hours}:{minutes:02}") == total - rest
    assert seconds(f"{days}-{hours}") == total - rest - 60 * minutes
    assert seconds(f"{24 * days + hours}:{minutes:02}:{rest:02}") == total
    assert seconds(f"{minutes:02}:{rest:02}") == 60 * minutes + rest
    assert seconds(f"{minutes}") == 60 * minutes


@pytest.mark.parametrize("walltime", [3600, "", "1h", "1:2:3:4", "1-", "-1", None, 1.5])
def test_other_walltimes_are_refused(walltime: Any) -> None:
    with pytest.raises(ClusterError, match="as SLURM writes it"):
        seconds(walltime)


@given(walltime=st.floats(30, 30 * 86400))
def test_workers_retire_before_the_walltime(walltime: float) -> None:
    found = worker(walltime=walltime)
    assert found.lifetime is not None
    assert found.lifetime > found.stagger
    assert found.lifetime + found.stagger <= walltime - min(600, walltime / 12) + 1e-6
    assert found.lifetime > 0.8 * walltime


@given(walltime=st.floats(60, 86400), share=st.floats(0.01, 2))
def test_a_lifetime_that_is_given_fits_or_is_refused(walltime: float, share: float) -> None:
    try:
        found = worker(walltime=walltime, lifetime=share * walltime)
    except ClusterError:
        assert share > 0.9
    else:
        assert found.lifetime is not None
        assert found.lifetime + found.stagger < walltime


@pytest.mark.parametrize(
    ("visible", "name", "gpu"),
    [
        ("0,1,2,3", "2", "2"),  # LocalCluster numbers its workers
        ("0,1", "5", "1"),  # several share a GPU
        ("4,6", "SLURMCluster-7-1", "6"),  # dask worker --nworkers appends a number
        ("3", "SLURMCluster-7", "3"),
        ("GPU-a, GPU-b", "1", "GPU-b"),
        ("", "1", ""),
        ("0,1", "mine", "0,1"),
    ],
)
def test_workers_of_a_node_take_different_gpus(visible: str, name: str, gpu: str) -> None:
    assert own(visible, name) == gpu


@pytest.mark.parametrize("page", ["slurm.md", "security.md"])
def test_the_configuration_of_the_documents_is_one(page: str) -> None:
    blocks = re.findall(r"```yaml\n(.*?)```", (TESTS.parent / "docs" / page).read_text(), re.DOTALL)
    assert blocks
    for block in blocks:
        with dask.config.set({f"chunkinfer.{k}": v for k, v in yaml.safe_load(block)["chunkinfer"].items()}):
            assert worker().cores == 4


def test_names() -> None:
    assert callable(ci.clusters.local)
    assert callable(ci.clusters.slurm)
