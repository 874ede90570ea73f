"""Skeletons: nodes with positions, edges between them, and which skeleton each node is of."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chunkinfer.errors import SourceError, SourceNotFound, VolumeError
from chunkinfer.volumes.frame import Frame
from chunkinfer.volumes.operators.arguments import check_unit

EXAMPLE = 'skeletons={"nodes": positions, "edges": pairs_of_rows, "skeletons": ids}'


@dataclass(frozen=True, eq=False)
class Skeletons:
    """Traced neurites.

    >>> Skeletons.of({"nodes": [(0, 0, 0), (0, 0, 40)], "edges": [(0, 1)], "skeletons": [7, 7]}).nodes.shape
    (2, 3)
    """

    nodes: NDArray[np.float64]
    """(n, 3): z, y, x."""
    edges: NDArray[np.int64]
    """(m, 2): rows of ``nodes``."""
    skeletons: NDArray[np.int64]
    """(n): of which skeleton each node is."""
    unit: str = "physical"
    """"physical": positions are in the unit of the volume's voxel size; "voxels": in voxels, of the volume's own
    coordinate system, as Neuroglancer shows them."""

    @classmethod
    def of(cls, given: Any, unit: str = "physical") -> Skeletons:
        """Skeletons in any form.

        Parameters
        ----------
        given
            A mapping or an .npz file with ``nodes``, ``edges`` and ``skeletons``, as the fields here; or an SWC file,
            or a folder of them, each of which is one skeleton. SWC has x, y, z.
        unit
            Of the positions: "physical" or "voxels".

        Raises
        ------
        SourceError
            There is no such file, or it holds something else.
        VolumeError
            The arrays do not fit each other.
        """
        if isinstance(given, Skeletons):
            return given
        check_unit(unit)
        if isinstance(given, str | os.PathLike):
            given = _read(Path(given))
        if not isinstance(given, Mapping) or not {"nodes", "edges", "skeletons"} <= set(given):
            held = sorted(map(str, given)) if isinstance(given, Mapping) else type(given).__name__
            raise VolumeError(
                f"Skeletons have nodes, edges and skeletons, and here is {held}.",
                "They are arrays: (n, 3) positions z, y, x; (m, 2) rows of nodes; (n) ids.",
                [EXAMPLE, 'skeletons="skeletons"  # a folder of .swc files'],
            )
        nodes = _array("nodes", given["nodes"], np.float64, 3)
        edges = _array("edges", given["edges"], np.int64, 2)
        ids = _array("skeletons", given["skeletons"], np.int64, None)
        if len(ids) != len(nodes) or not len(nodes) or not np.isfinite(nodes).all():
            raise VolumeError(
                f"There are {len(nodes)} nodes and {len(ids)} skeleton ids, or a position is not finite.",
                "Each node has a position, and the id of its skeleton.",
                [EXAMPLE],
            )
        if len(edges) and not (edges.min() >= 0 and edges.max() < len(nodes)):
            raise VolumeError(
                f"Edges name rows {edges.min()} to {edges.max()}, and there are {len(nodes)} nodes.",
                "They are rows of nodes from 0 on, not ids of nodes.",
                ["if they are ids, and those of the nodes are sorted: numpy.searchsorted(node_ids, edges)", EXAMPLE],
            )
        if (ids[edges[:, 0]] != ids[edges[:, 1]]).any():
            raise VolumeError(
                "An edge joins nodes of two skeletons.",
                "What is joined is one skeleton.",
                ["drop them: edges[skeletons[edges[:, 0]] == skeletons[edges[:, 1]]]", EXAMPLE],
            )
        return cls(nodes, edges, ids, unit)

    def voxels(self, frame: Frame) -> NDArray[np.int64]:
        """(n, 3): the voxel that holds each node, from the corner of the frame; a frame of y and x holds all z."""
        sizes, corner = self._of(frame)
        positions = self.nodes / sizes if self.unit == "physical" else self.nodes
        voxels = np.floor(positions - corner).astype(np.int64)
        voxels[:, : 3 - len(frame.space)] = 0
        return voxels

    def edge_lengths(self, frame: Frame) -> NDArray[np.float64]:
        """(m): of the edges, in the unit of the voxel size."""
        sizes, _ = self._of(frame)
        positions = self.nodes if self.unit == "physical" else self.nodes * sizes
        steps = positions[self.edges[:, 0]] - positions[self.edges[:, 1]]
        lengths: NDArray[np.float64] = np.sqrt((steps * steps).sum(axis=1))
        return lengths

    def _of(self, frame: Frame) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        sizes = [frame.voxel_size.get(d, 1.0) for d in "zyx"]
        return np.array(sizes), np.array([frame.origin.get(d, 0.0) for d in "zyx"])


def _array(name: str, value: Any, dtype: Any, columns: int | None) -> NDArray[Any]:
    try:
        array = np.asarray(value, dtype)
    except (TypeError, ValueError, OverflowError):
        array = np.zeros((0, 0, 0), dtype)
    if array.size == 0 and columns:
        array = array.reshape(0, columns) if array.ndim < 3 else array
    if array.ndim != (1 if columns is None else 2) or (columns and array.shape[1] != columns):
        shape = "(n)" if columns is None else f"(n, {columns})"
        raise VolumeError(
            f"{name} of skeletons is no array {shape} of {np.dtype(dtype).name}.",
            "Positions are z, y, x; edges are pairs of rows of nodes.",
            [EXAMPLE, 'skeletons="skeletons"  # a folder of .swc files'],
        )
    return array


def _read(path: Path) -> Mapping[str, Any]:
    if path.is_dir():
        files = sorted(path.glob("*.swc"))
        if not files:
            raise SourceNotFound(
                f"{path} holds no .swc file.",
                "A folder of skeletons has one file for each of them.",
                ["name another folder", 'name one file: skeletons="traced.npz"'],
            )
        return _joined([_swc(file) for file in files])
    if not path.exists():
        raise SourceNotFound(
            f"There is no {path}.",
            "Skeletons are read from local files.",
            [EXAMPLE, 'skeletons="skeletons"  # a folder of .swc files'],
        )
    if path.suffix == ".swc":
        return _joined([_swc(path)])
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return dict(arrays)
    except (ValueError, OSError, TypeError, AttributeError) as error:
        raise SourceError(
            f"{path} is no .npz file of arrays: {error}",
            "Files with pickled objects are not read.",
            [
                "numpy.savez(path, nodes=..., edges=..., skeletons=...)",
                'skeletons="skeletons"  # a folder of .swc files',
            ],
        ) from error


def _joined(skeletons: list[tuple[NDArray[np.float64], NDArray[np.int64]]]) -> dict[str, Any]:
    """Skeletons one after the other, numbered from 0."""
    counts = [len(nodes) for nodes, _ in skeletons]
    before = np.cumsum([0, *counts])
    return {
        "nodes": np.concatenate([nodes for nodes, _ in skeletons]),
        "edges": np.concatenate([edges + n for (_, edges), n in zip(skeletons, before, strict=False)]),
        "skeletons": np.repeat(np.arange(len(counts)), counts),
    }


def _swc(path: Path) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Positions z, y, x and edges of an SWC file: lines of id, type, x, y, z, radius, parent (-1 for a root)."""
    try:
        lines = [line.split("#")[0].split() for line in path.read_text().splitlines()]
        rows = np.array([line[:7] for line in lines if line], np.float64).reshape(-1, 7)
        number = {int(row[0]): i for i, row in enumerate(rows)}
        edges = [(i, number[int(row[6])]) for i, row in enumerate(rows) if row[6] >= 0]
    except (ValueError, KeyError, OSError) as error:
        raise SourceError(
            f"{path} is no SWC file: {error!r}",
            "Its lines are id, type, x, y, z, radius and the id of the parent, -1 for a root.",
            ["look at it in a text editor", EXAMPLE],
        ) from error
    return rows[:, [4, 3, 2]], np.array(edges, np.int64).reshape(-1, 2)
