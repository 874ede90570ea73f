"""Stores to look at."""

from tests.lib.viewers import pyramid, stored

__all__ = ["pyramid", "stored"]
