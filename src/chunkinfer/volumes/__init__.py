"""Volumes: arrays at URLs or in memory, with axes, voxel size and origin, read box by box."""
