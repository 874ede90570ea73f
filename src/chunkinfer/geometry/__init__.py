"""Boxes, lattices, halos and alignment: integers only, standard library only."""

from chunkinfer.geometry.boxes import BlockGrid, Box
from chunkinfer.geometry.contract import AxisContract, Uncut
from chunkinfer.geometry.lattice import AxisLattice, PatchLattice, blended_axis, exact_axis, least_half, round_up, uncut

__all__ = [
    "AxisContract",
    "AxisLattice",
    "BlockGrid",
    "Box",
    "PatchLattice",
    "Uncut",
    "blended_axis",
    "exact_axis",
    "least_half",
    "round_up",
    "uncut",
]
