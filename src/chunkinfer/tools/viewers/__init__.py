"""Volumes looked at: Neuroglancer, slices, plots."""
