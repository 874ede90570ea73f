"""Neuroglancer's mesh formats, as bytes: a legacy fragment, a multi-resolution manifest, a shard.

Source: the Neuroglancer specification, "precomputed mesh format" and "sharded format".
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chunkinfer.errors import MissingExtra
from chunkinfer.objects.meshes.octree import BITS, Octree
from chunkinfer.objects.meshes.welding import Faces, Vertices

FORMATS = ("legacy", "multires")
MARKS = {"legacy": "neuroglancer_legacy_mesh", "multires": "neuroglancer_multilod_draco"}
"""The ``@type`` of each."""


def info(format: str, sharding: dict[str, Any] | None) -> dict[str, Any]:
    """The ``info`` of a folder of meshes, whose vertices are in nanometres."""
    if format == "legacy":
        return {"@type": MARKS[format]}
    return {
        "@type": MARKS[format],
        "vertex_quantization_bits": BITS,
        "transform": [1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0],
        "lod_scale_multiplier": 1,
        **({} if sharding is None else {"sharding": sharding}),
    }


def legacy(label: int, vertices: Vertices, faces: Faces) -> dict[str, bytes]:
    """The objects of a mesh in the legacy format: one fragment, and the manifest that names it."""
    name = f"{label}.mesh"
    positions = np.ascontiguousarray(vertices[:, ::-1], "<f4")
    fragment = np.array([len(vertices)], "<u4").tobytes() + positions.tobytes() + faces.astype("<u4").tobytes()
    return {name: fragment, f"{label}:0": json.dumps({"fragments": [name]}).encode()}


def multires(tree: Octree) -> tuple[bytes, bytes]:
    """Fragments, one behind the other, and the manifest that tells where they begin."""
    pieces = [[_draco(*piece) if len(piece[1]) else b"" for piece in level.pieces] for level in tree.levels]
    counts = [len(level.cubes) for level in tree.levels]
    parts: list[Any] = [
        np.full(3, tree.edge, "<f4"), tree.origin.astype("<f4"), np.array([len(counts)], "<u4"),
        np.array([level.scale for level in tree.levels], "<f4"), np.zeros((len(counts), 3), "<f4"),
        np.array(counts, "<u4"),
    ]  # fmt: skip
    for level, encoded in zip(tree.levels, pieces, strict=True):
        parts += [np.array(level.cubes, "<u4").T, np.array([len(piece) for piece in encoded], "<u4")]
    return b"".join(piece for encoded in pieces for piece in encoded), b"".join(
        np.ascontiguousarray(part).tobytes() for part in parts
    )


def require_draco() -> Any:
    """The encoder, or `MissingExtra`; it is under the Apache licence, and Neuroglancer reads nothing else."""
    try:
        import DracoPy
    except ImportError as problem:
        raise MissingExtra.of("Multi-resolution meshes", "DracoPy", "mesh") from problem
    return DracoPy


def _draco(vertices: NDArray[np.int64], faces: Faces) -> bytes:
    """A piece with integer positions, as the format wants it: Draco's own quantisation is not."""
    return bytes(require_draco().encode(vertices.astype(np.int32), faces, compression_level=7))


def sharding(shard_bits: int, minishard_bits: int) -> dict[str, Any]:
    """The ``sharding`` of an ``info``: labels are spread by their lowest bits."""
    return {
        "@type": "neuroglancer_uint64_sharded_v1",
        "hash": "identity",
        "preshift_bits": 0,
        "minishard_bits": minishard_bits,
        "shard_bits": shard_bits,
        "minishard_index_encoding": "raw",
        "data_encoding": "raw",
    }


def shard_name(number: int, shard_bits: int) -> str:
    """The object that holds a shard."""
    return f"{number:0{-(-shard_bits // 4)}x}.shard"


def shard(objects: Sequence[tuple[int, bytes, bytes]], minishard_bits: int) -> bytes:
    """A shard: of each label the fragments and behind them the manifest, then the indices of its minishards.

    tensorstore writes shards whose values lie anywhere; here fragments have to lie right before their manifest, where
    no entry of the index names them.
    """
    body = bytearray()
    entries: list[list[tuple[int, int, int]]] = [[] for _ in range(2**minishard_bits)]
    for label, fragments, manifest in sorted(objects):
        body += fragments
        entries[label % 2**minishard_bits].append((label, len(body), len(manifest)))
        body += manifest
    index = np.zeros((2**minishard_bits, 2), "<u8")
    for number, found in enumerate(entries):
        rows = np.array(found, "<u8").reshape(-1, 3).T.copy()
        ends = rows[1] + rows[2]
        rows[0, 1:], rows[1, 1:] = np.diff(rows[0]), rows[1, 1:] - ends[:-1]
        index[number] = len(body), len(body) + rows.nbytes
        body += rows.astype("<u8").tobytes()
    return index.tobytes() + bytes(body)
