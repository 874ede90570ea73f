"""Checks of a network and of a result: what tiling errs and costs."""
