"""Blocks computed, recorded and reported, on any cluster and after any crash."""
