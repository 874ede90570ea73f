"""`tiling_error`: error and cost against the halo."""
