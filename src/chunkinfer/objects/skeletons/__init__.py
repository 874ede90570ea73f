"""Centrelines of objects."""
