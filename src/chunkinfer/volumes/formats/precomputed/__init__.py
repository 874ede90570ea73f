"""Neuroglancer's precomputed volumes: info, chunks, shards, encodings."""
