"""Pyramids: the coarser levels of a stored image.

=========  =======================================================
module     purpose
=========  =======================================================
planning   which levels, their chunks, and which come from one pass
building   `pyramid`: passes run, recorded, announced
=========  =======================================================
"""

from chunkinfer.pyramids.building import build, coarser, pyramid, read_plan, settle, write_plan
from chunkinfer.pyramids.planning import Finest, Pyramid, method_of, plan_pyramid

__all__ = [
    "Finest",
    "Pyramid",
    "build",
    "coarser",
    "method_of",
    "plan_pyramid",
    "pyramid",
    "read_plan",
    "settle",
    "write_plan",
]
