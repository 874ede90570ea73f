"""Blocks as tasks of dask: windows, retries, placement, writing."""
