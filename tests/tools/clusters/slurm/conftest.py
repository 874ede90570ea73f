"""A SLURM of two nodes with two stand-ins for GPUs each, as long as its tests run."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dask
import pytest
from dask_jobqueue import SLURMCluster

import chunkinfer as ci
from tests.lib.clusters import TESTS

SCRIPTS = TESTS.parent / "ci" / "slurm"

Submit = Callable[..., SLURMCluster]


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Its folder; the commands of this process speak to it."""
    if shutil.which("slurmctld") is None:
        pytest.skip("there is no SLURM on this machine (ci/slurm/install.sh)")
    folder = tmp_path_factory.mktemp("slurm")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
        try:
            subprocess.run([SCRIPTS / "up.sh", folder], check=True, timeout=60, stdout=subprocess.DEVNULL)
            yield folder
        finally:
            subprocess.run([SCRIPTS / "down.sh", folder], timeout=60)


@pytest.fixture
def submit(slurm: Path, tmp_path: Path, _clean: None) -> Iterator[Submit]:
    """Clusters as a site's configuration has them; what they write is in the test's folder."""
    site = {
        "chunkinfer.security.folder": str(tmp_path / "tls"),
        "chunkinfer.slurm": {
            **ci.clusters.settings.section("slurm"),
            "queue": "gpu",
            "interface": "lo",
            "cores": 2,
            "memory": "1 GiB",
            "walltime": "00:10:00",
            "log_directory": str(tmp_path / "logs"),
            "local_directory": str(tmp_path / "scratch"),
            "environment": {"PYTHONPATH": str(TESTS.parent)},
        },
    }

    def start(jobs: Any = None, **given: Any) -> SLURMCluster:
        return ci.clusters.slurm(jobs, **given)

    with dask.config.set(site):
        yield start
