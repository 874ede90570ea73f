"""The same numbers by plain loops over voxels, and volumes that are cut anyhow."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from chunkinfer.geometry.boxes import BlockGrid
from chunkinfer.objects.evaluation.laying import Part
from chunkinfer.objects.evaluation.tables import Columns
from chunkinfer.volumes.lazy import Reader

LABELS = np.array([0, 1, 2, 3, 2**32 + 1, 2**64 - 1], np.uint64)
"""Few, so that objects are large and tables tie; some need all 64 bits."""

shapes = st.tuples(*(st.integers(1, n) for n in (5, 6, 9)))


def labels(shape: tuple[int, ...]) -> st.SearchStrategy[NDArray[np.uint64]]:
    """Volumes of labels, which come in runs."""
    return hnp.arrays(np.uint64, shape, elements=st.sampled_from(LABELS.tolist()), fill=st.sampled_from([0, 1, 2]))


@st.composite
def grids(draw: Any, shape: tuple[int, ...]) -> BlockGrid:
    """Any cut of a volume into blocks."""
    sizes = []
    for n in shape:
        inner = sorted(draw(st.sets(st.integers(1, n - 1), max_size=3))) if n > 1 else []
        sizes.append(tuple(np.diff([0, *inner, n]).tolist()))
    return BlockGrid(tuple(sizes))


def part(array: NDArray[Any]) -> Part:
    """A whole array."""
    return Part(Reader(array, False), (0,) * array.ndim)


def joined(step: Any, columns: Columns, grid: BlockGrid, shuffled: Callable[[list[Any]], Any]) -> dict[str, list[Any]]:
    """The joined table of a step's blocks, in any order and in two stages, as lists."""
    tables = [step.read(grid.box(index)) for index in grid.indices()]
    shuffled(tables)
    half = len(tables) // 2
    halves = [columns.joined(some) for some in (tables[:half], tables[half:]) if some]
    return {name: column.tolist() for name, column in columns.joined(halves).items()}


def contingency(a: NDArray[Any], b: NDArray[Any]) -> dict[str, list[int]]:
    counts = sorted(Counter(zip(a.ravel().tolist(), b.ravel().tolist(), strict=True)).items())
    return {
        "truth": [pair[0] for pair, _ in counts],
        "segment": [pair[1] for pair, _ in counts],
        "voxels": [n for _, n in counts],
    }


def touching(labels: NDArray[Any]) -> dict[tuple[int, int], tuple[list[int], list[int], list[int]]]:
    """Faces along each axis and the box, by pair of labels."""
    faces: dict[tuple[int, int], list[int]] = defaultdict(lambda: [0, 0, 0])
    beside: dict[tuple[int, int], list[tuple[int, ...]]] = defaultdict(list)
    for v in np.ndindex(labels.shape):
        for d in range(3):
            u = tuple(i - (axis == d) for axis, i in enumerate(v))
            if min(u) < 0:
                continue
            a, b = sorted((int(labels[u]), int(labels[v])))
            if a != b and a:
                faces[a, b][d] += 1
                beside[a, b] += [u, v]
    return {
        pair: (count, np.min(beside[pair], axis=0).tolist(), (np.max(beside[pair], axis=0) + 1).tolist())
        for pair, count in sorted(faces.items())
    }


def expected_run_length(
    nodes: NDArray[Any], edges: NDArray[Any], skeletons: Sequence[int], segments: Sequence[int], merge_nodes: int
) -> float:
    """By the definition: edge by edge; a merging segment's edges have no length."""
    held: dict[int, Counter[int]] = defaultdict(Counter)
    for skeleton, segment in zip(skeletons, segments, strict=True):
        held[segment][skeleton] += 1
    merging = {s for s, of in held.items() if sum(n >= merge_nodes for n in of.values()) > 1}
    length: Counter[int] = Counter()
    runs: dict[int, Counter[int]] = defaultdict(Counter)
    for u, v in edges:
        n = float(np.linalg.norm(nodes[u] - nodes[v]))
        length[skeletons[u]] += n
        if segments[u] == segments[v] and segments[u] and segments[u] not in merging:
            runs[skeletons[u]][segments[u]] += n
    total = sum(length.values())
    erl = 0.0
    for skeleton, whole in length.items():
        if whole:
            alone = sum(run * run / whole for run in runs[skeleton].values())
            erl += whole / total * alone
    return erl
