"""Stacks of pictures, a file for each section."""
