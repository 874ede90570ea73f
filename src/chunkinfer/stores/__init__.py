"""Bytes at a place: URLs, byte ranges, small files, whole files on a disk, and what a failure means."""
