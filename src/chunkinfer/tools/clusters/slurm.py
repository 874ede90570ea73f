"""A cluster of SLURM jobs, on dask-jobqueue."""

from __future__ import annotations

import re
import shlex
import shutil
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chunkinfer.errors import ClusterError, MissingExtra
from chunkinfer.tools.clusters.security import transport
from chunkinfer.tools.clusters.settings import Worker, scheduler_config, settings_of, worker_of, workers_of

if TYPE_CHECKING:
    from dask_jobqueue.slurm import SLURMCluster
    from distributed import Security

WALLTIME = re.compile(r"(?:(?P<d>\d+)-(?P<dh>\d+)(?::(?P<dm>\d+)(?::(?P<ds>\d+))?)?)|(?P<clock>\d+(?::\d+){0,2})")

IDLE = 60
"""Seconds without work after which a job above the minimum is given back."""


def slurm(
    jobs: int | tuple[int, int] | None = None,
    *,
    security: Security | bool | None = None,
    options: Mapping[str, Any] | None = None,
    **settings: Any,
) -> SLURMCluster:
    """Workers that are SLURM jobs, and a scheduler in this process.

    A job holds one worker process for each of its GPUs. Workers retire before the walltime, and a job that ends, for
    whatever reason, is replaced.

    Parameters
    ----------
    jobs
        So many jobs, kept up; or at least (1 or more) and at most so many, as there is work. None submits none: call
        ``scale`` or ``adapt`` yourself (``scale`` never replaces a lost job).
    security
        Who may join: see `chunkinfer.clusters.tls`. None takes the configured certificates, or makes some in a folder
        that only you can read and that the nodes must see. False is plain TCP: whoever reaches the port can run code
        as you.
    options
        Passed on to `dask_jobqueue.SLURMCluster`; its own configuration (``jobqueue.slurm``) holds as well where
        chunkinfer's says nothing.
    **settings
        Any setting of the sections ``worker``, ``scheduler`` and ``slurm`` of ``chunkinfer.yaml``, with ``_`` for
        ``-``: ``queue=``, ``account=``, ``walltime=``, ``gpus=``, ``workers=``, ``cores=``, ``memory=``,
        ``directives=``, ``prologue=``, ``lifetime=``, ...

    Returns
    -------
    dask_jobqueue.SLURMCluster
        To be used with ``with`` and ``distributed.Client(cluster)``.

    Raises
    ------
    ClusterError
        There is no SLURM here, it refuses the job, or a setting is wrong.
    MissingExtra
        dask-jobqueue is absent.

    Examples
    --------
    >>> with ci.clusters.slurm(20, queue="gpu") as cluster, Client(cluster):  # doctest: +SKIP
    ...     ci.save(ci.infer(volume, "unet.pt2", device="cuda"), "affinities.zarr")
    """
    import dask

    before = signal.getsignal(signal.SIGINT)
    try:
        from dask_jobqueue.slurm import SLURMCluster
    except ImportError as error:
        raise MissingExtra.of("Clusters of SLURM jobs", "dask-jobqueue", "slurm") from error
    signal.signal(signal.SIGINT, before)  # its import lets Ctrl-C end Python at once

    if shutil.which("sbatch") is None:
        raise ClusterError(
            "There is no sbatch on this machine.",
            "Jobs are submitted from a login node, or from another job.",
            ["ssh to a login node, or run this script in a job of its own", "ci.clusters.local() needs no SLURM"],
        )
    values = settings_of("slurm", **settings)
    worker = worker_of(values, seconds(values["walltime"]))
    processes = workers_of(values)
    made = _options(values, worker, processes, transport("slurm", security))
    with dask.config.set(scheduler_config(values)):
        cluster = SLURMCluster(**{**made, **(options or {})})
    try:
        if jobs is not None:
            keep(cluster, jobs)
    except BaseException:
        cluster.close()
        raise
    return cluster


def keep(cluster: SLURMCluster, jobs: int | tuple[int, int]) -> None:
    """Keep so many jobs, or at least and at most so many; those that end are replaced.

    Raises
    ------
    ClusterError
        SLURM refuses the first one.
    """
    from chunkinfer.tools.clusters.replacing import Replacing

    least, most = (jobs, jobs) if isinstance(jobs, int) else jobs
    if not 1 <= least <= most:
        raise ClusterError(
            f"jobs={jobs!r} is not a number of jobs.",
            "There must be one at least: a run waits for the first worker before it has work for others.",
            ["jobs=20", "jobs=(1, 50), as there is work"],
        )
    _submit(cluster)
    cluster.adapt(
        Adaptive=Replacing,
        minimum_jobs=least,
        maximum_jobs=most,
        interval="1s",
        wait_count=IDLE,
        # The runner keeps few blocks with the scheduler, so their sum says little: any work asks for all jobs.
        target_duration="1s",
    )


def seconds(walltime: Any) -> float:
    """Seconds of a walltime as SLURM writes it: minutes, M:S, H:M:S, D-H, D-H:M or D-H:M:S.

    Raises
    ------
    ClusterError
        It is none of them, or a number: YAML takes 01:00:00 without quotes for 3600, and SLURM 3600 for minutes.
    """
    match = WALLTIME.fullmatch(walltime) if isinstance(walltime, str) else None
    if match is None:
        raise ClusterError(
            f"walltime={walltime!r} is not a walltime as SLURM writes it.",
            "In YAML it needs its quotes: 01:00:00 without them is the number 3600, which SLURM takes for minutes.",
            ['in chunkinfer.yaml, walltime: "04:00:00"', 'walltime="2-12:00:00" for two days and a half'],
        )
    if match["clock"]:
        parts = [int(part) for part in match["clock"].split(":")]
        hours, minutes, rest = {1: (0, *parts, 0), 2: (0, *parts), 3: tuple(parts)}[len(parts)]
        return 3600.0 * hours + 60 * minutes + rest
    days, hours, minutes, rest = (int(match[name] or 0) for name in ("d", "dh", "dm", "ds"))
    return 86400.0 * days + 3600 * hours + 60 * minutes + rest


def _options(values: Mapping[str, Any], worker: Worker, processes: int, security: Security) -> dict[str, Any]:
    """Arguments of SLURMCluster."""
    safe = bool(security.require_encryption)
    scheduler = {**_site("scheduler-options", {}), "dashboard_address": values["dashboard"]}
    scheduler |= {name: values[name] for name in ("host", "port") if values[name]}
    gres = [f"--gres={values['gres']}:{values['gpus']}"] if worker.gpu else []
    if safe:
        for path in security.get_tls_config_for_role("worker").values():
            _plain("a certificate", path)
    return {
        "queue": values["queue"],
        "account": values["account"],
        "walltime": values["walltime"],
        "job_name": values["name"],
        # To dask-jobqueue, cores are threads.
        "cores": worker.slots * processes,
        "processes": processes,
        "job_cpu": worker.cores * processes,
        "memory": worker.memory * processes,
        "local_directory": worker.local_directory,
        "log_directory": _expanded(values["log_directory"]),
        "python": _plain("python", _expanded(values["python"])),
        "interface": values["interface"],
        # Lost jobs are replaced by new ones: a job that SLURM requeued would come twice.
        "job_extra_directives": [*gres, "--no-requeue", *_site("job-extra-directives", []), *values["directives"]],
        "job_script_prologue": [
            *_site("job-script-prologue", []),
            *values["prologue"],
            "unset OMP_PROC_BIND OMP_PLACES",  # set by some sites, they bind all kernels to the same cores
            *(f"export {name}={shlex.quote(value)}" for name, value in worker.environment.items()),
        ],
        "worker_extra_args": [*_site("worker-extra-args", []), *worker.arguments()],
        "scheduler_options": scheduler,
        "protocol": "tls://" if safe else "tcp://",
        "security": security if safe else None,
    }


def _site(name: str, default: Any) -> Any:
    """What the site's configuration of dask-jobqueue has, to be added to."""
    import dask

    return dask.config.get(f"jobqueue.slurm.{name}", None) or default


def _submit(cluster: SLURMCluster) -> None:
    """Submit one job and wait for SLURM's answer: dask submits in the background, where a refusal is lost in a log.

    ``sbatch --test-only`` would refuse good jobs, too, while all nodes are down.
    """

    from distributed.core import Status

    async def submitted() -> None:
        await cluster

    cluster.worker_spec.update(cluster.new_worker_spec())
    try:
        cluster.sync(submitted)
    except RuntimeError as error:
        for job in cluster.workers.values():
            job.status = Status.failed  # or the cluster could not be closed
        said = [line for line in str(error).splitlines() if line.startswith("sbatch:")] or [str(error)]
    else:
        return
    raise ClusterError(
        f"SLURM refuses the job: {' '.join(said)}",
        "The partition, account, GPUs, memory or walltime is not what this site has.",
        ["sinfo -o '%P %G %c %m %l' lists partitions, GPUs, cores, memory and limits",
         "correct the section slurm of chunkinfer.yaml, or give queue=, account=, gres=, memory=, walltime="],
    )  # fmt: skip


def _expanded(path: str | None) -> str | None:
    return None if path is None else str(Path(path).expanduser())


def _plain(what: str, path: str | None) -> str | None:
    """A path that a shell takes as it is: dask-jobqueue does not quote."""
    if path is not None and shlex.quote(path) != path:
        raise ClusterError(
            f"The path of {what} holds characters that a shell reads in its own way: {path}",
            "It is part of a command in the job script.",
            ["a path of letters, digits and / . _ - only", "a symbolic link with such a name"],
        )
    return path
