"""Dask clusters with the right workers: on this machine, on SLURM, on Kubernetes.

Each call returns the ordinary cluster object, so everything that dask says about it holds; a scheduler that was started
by other means, or any existing client, works as well.
"""

from chunkinfer.clusters.kubernetes import kubernetes
from chunkinfer.clusters.local import local
from chunkinfer.clusters.security import tls
from chunkinfer.clusters.slurm import slurm

__all__ = ["kubernetes", "local", "slurm", "tls"]
