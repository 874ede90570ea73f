"""Boxes, lattices, halos and alignment: integers only, standard library only."""
