"""From affinities to objects: tables of blocks, joined by maxima and integer sums, so that no cut changes a label."""
