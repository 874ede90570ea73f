"""Dask clusters with the right workers: on this machine, on SLURM, on Kubernetes.

Each call returns the ordinary cluster object, so everything that dask says about it holds; a scheduler that was started
by other means, or any existing client, works as well.
"""

from chunkinfer.tools.clusters.kubernetes import kubernetes
from chunkinfer.tools.clusters.local import local
from chunkinfer.tools.clusters.security import tls
from chunkinfer.tools.clusters.slurm import slurm

__all__ = ["kubernetes", "local", "slurm", "tls"]
