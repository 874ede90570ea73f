"""Boxes, lattices, halos and alignment: integers only, standard library only."""

from chunkinfer.geometry.boxes import BlockGrid, Box
from chunkinfer.geometry.contract import AxisContract
from chunkinfer.geometry.lattice import AxisLattice, PatchLattice, blended_axis, exact_axis, least_half, round_up

__all__ = [
    "AxisContract",
    "AxisLattice",
    "BlockGrid",
    "Box",
    "PatchLattice",
    "blended_axis",
    "exact_axis",
    "least_half",
    "round_up",
]
