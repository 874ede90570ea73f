"""A cluster on this machine: a worker process for each GPU, or one for all cores."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from chunkinfer.errors import ClusterError
from chunkinfer.support.device import cores as cores_here
from chunkinfer.tools.clusters.one_gpu import VARIABLE
from chunkinfer.tools.clusters.security import transport
from chunkinfer.tools.clusters.settings import LOOPBACK, PRELOAD, scheduler_config, settings_of, worker_of, workers_of

if TYPE_CHECKING:
    from distributed import LocalCluster, Security


def local(
    workers: int | None = None,
    *,
    security: Security | bool | None = None,
    options: Mapping[str, Any] | None = None,
    **settings: Any,
) -> LocalCluster:
    """Worker processes on this machine, each with the right threads, memory, malloc and GPU.

    Without arguments: one process per GPU that this process may use (``CUDA_VISIBLE_DEVICES``), or one for all cores,
    which shares one copy of the network. Scheduler, workers and dashboard listen on 127.0.0.1 only. Workers that die
    come back, however often they do, which those of dask's own `LocalCluster` do not.

    Parameters
    ----------
    workers
        Processes; several may share a GPU.
    security
        Of a cluster whose ``host`` other machines reach: see `chunkinfer.clusters.tls`. None makes certificates there,
        and is plain TCP on loopback. False is plain TCP anywhere.
    options
        Passed on to `distributed.LocalCluster`.
    **settings
        Any setting of the sections ``worker``, ``scheduler`` and ``local`` of ``chunkinfer.yaml``, with ``_`` for
        ``-``: ``gpus=``, ``cores=``, ``memory=``, ``slots=``, ``lifetime=``, ``environment=``, ``host=``, ...

    Returns
    -------
    distributed.LocalCluster
        To be used with ``with`` and ``distributed.Client(cluster)``. In a script it needs the main guard, as every
        process that starts others does.

    Raises
    ------
    ClusterError
        A setting that there is none of, or more GPUs than there are.
    """
    import dask
    from distributed.system import MEMORY_LIMIT

    from chunkinfer.tools.clusters.nannies import Nanny
    from chunkinfer.tools.clusters.returning import Returning

    values = settings_of("local", workers=workers, **settings)
    gpus = _gpus(values["gpus"])
    values["gpus"] = len(gpus)
    processes = workers_of(values)
    values["cores"] = values["cores"] or max(1, cores_here() // processes)
    values["memory"] = values["memory"] or MEMORY_LIMIT // processes
    worker = worker_of(values)
    if security is not None or not _loopback(values["host"]):
        security = transport("local", security)
    made: dict[str, Any] = {
        "n_workers": processes,
        "threads_per_worker": worker.slots,
        "memory_limit": worker.memory,
        "resources": worker.resources,
        "local_directory": worker.local_directory,
        "worker_class": Nanny,
        "variables": dict(worker.environment),
        "host": values["host"],
        "scheduler_port": values["port"],
        "dashboard_address": values["dashboard"],
        "worker_dashboard_address": LOOPBACK,
        "security": security,
    }
    if worker.gpu:
        made |= {"env": {VARIABLE: ",".join(gpus)}, "preload": [PRELOAD]}
    if worker.lifetime is not None:  # no job ends here, so what retires comes back
        made |= {"lifetime": worker.lifetime, "lifetime_stagger": worker.stagger, "lifetime_restart": True}
    with dask.config.set(scheduler_config(values)):
        return Returning(**{**made, **(options or {})})


def _gpus(wanted: int | None) -> list[str]:
    """The names of this machine's GPUs, of those that this process may use: all, or so many."""
    if wanted == 0:
        return []
    visible = os.environ.get(VARIABLE)
    if visible is None:
        import torch

        found = [str(index) for index in range(torch.cuda.device_count())]
    else:
        found = [gpu.strip() for gpu in visible.split(",") if gpu.strip()]
    if wanted is not None and wanted > len(found):
        raise ClusterError(
            f"gpus={wanted}, and this process sees {len(found)}.",
            f"{VARIABLE} hides GPUs, the driver is missing, or there are fewer.",
            ["nvidia-smi -L lists those of the machine", "leave gpus= out: those that are there are taken"],
        )
    return found if wanted is None else found[:wanted]


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
