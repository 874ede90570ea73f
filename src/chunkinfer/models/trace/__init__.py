"""Trace a network: the context, period, crop and sizes of each axis, found by running it without data.

``trace`` runs the network under a dispatch mode that sees every ATen operator and knows what each reads, so it needs no
cooperation from the network, follows any control flow, and names the layer that keeps a network from being tiled
exactly. ``check_patch`` confirms a patch at its own size. ``nan_probe`` measures the same, independently.
"""

from chunkinfer.models.trace.dependence import Reason
from chunkinfer.models.trace.patches import check_patch
from chunkinfer.models.trace.probe import nan_probe
from chunkinfer.models.trace.tracing import Trace, trace

__all__ = ["Reason", "Trace", "check_patch", "nan_probe", "trace"]
