"""Steps that look around each voxel: boxes with a halo, or blocks that exchange theirs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import dask.array as da
from dask.array.overlap import ensure_minimum_chunksize
from numpy.typing import NDArray

from chunkinfer.geometry.boxes import BlockGrid, Box
from chunkinfer.support.tokens import keep_tokens
from chunkinfer.volumes.derived import Step
from chunkinfer.volumes.operators.steps import Function, Made


@dataclass(frozen=True)
class Local:
    """Each voxel out of those around it. At the volume's faces the function sees where the volume ends."""

    function: Function
    """Of an array to one of the same shape."""
    halo: tuple[int, ...]
    """Voxels that are needed on each side, per axis."""
    shape: tuple[int, ...]

    def reads(self, box: Box) -> tuple[Box, ...]:
        grown = Box(
            tuple(a - h for a, h in zip(box.start, self.halo, strict=True)),
            tuple(b + h for b, h in zip(box.stop, self.halo, strict=True)),
        )
        return (grown & Box.of_shape(self.shape),)

    def compute(self, box: Box, seen: tuple[Box, ...], parts: Sequence[NDArray[Any]]) -> NDArray[Any]:
        return self.function(parts[0])[box.relative_to(seen[0].start).slices]

    def chunks(self, sizes: Sequence[int]) -> tuple[int, ...]:
        return tuple(sizes)

    def on_arrays(self, arrays: Sequence[da.Array], made: Made) -> da.Array:
        return exchanged(self, self.halo, arrays[0], made)


def exchanged(step: Step, halo: Sequence[int], array: da.Array, made: Made) -> da.Array:
    """A step on blocks with the voxels around them, which neighbours give.

    An axis whose blocks are thinner than these is cut less, or not at all.

    Parameters
    ----------
    step
        Of one input; the result has its shape.
    halo
        Voxels that are needed on each side, per axis, at most.
    array, made
        The input, and the result.
    """
    depth, chunks = {}, []
    for axis, (sizes, around) in enumerate(zip(array.chunks, halo, strict=True)):
        whole = len(sizes) == 1 or sum(sizes) <= 2 * around
        depth[axis] = 0 if whole else around
        chunks.append((sum(sizes),) if whole else tuple(ensure_minimum_chunksize(around, sizes)))
    array = array.rechunk(tuple(chunks))
    result: da.Array = da.map_overlap(
        _with_halo, array, depth=depth, boundary="none", trim=False, allow_rechunk=False, chunks=array.chunks,
        step=step, grid=BlockGrid(array.chunks), halo=tuple(depth.values()), **made.labels,
    )  # fmt: skip
    return result


def _with_halo(
    part: NDArray[Any], step: Step, grid: BlockGrid, halo: tuple[int, ...], block_id: tuple[int, ...] = ()
) -> NDArray[Any]:
    box = grid.box(block_id)
    start = tuple(max(0, a - h) for a, h in zip(box.start, halo, strict=True))
    seen = Box(start, tuple(a + n for a, n in zip(start, part.shape, strict=True)))
    return step.compute(box, (seen,), (part,))


keep_tokens(globals(), "chunkinfer.operators.steps")
