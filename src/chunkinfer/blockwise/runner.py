"""Running a lazy array block by block, in windows: the scheduler never knows more than a few blocks per worker.

A window is the store layer's graph, fused and culled here, so that a block is one task and annotations survive
(the scheduler's own optimisation drops them). Volume and network are held as tasks of their own for the whole run.
"""

from __future__ import annotations

import copy
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import dask
import dask.array as da
from dask.blockwise import optimize_blockwise
from dask.highlevelgraph import HighLevelGraph

from chunkinfer.blockwise.payload import Payload, payloads_of, values_of
from chunkinfer.blockwise.placement import gpu_annotation, slots_of
from chunkinfer.errors import ModelError, OutputError, VolumeError
from chunkinfer.geometry import BlockGrid

RETRIES = 2
"""Times that a failed block is tried again, under a fresh key each time."""

CERTAIN = (ModelError, OutputError, VolumeError)
"""Errors that another try would meet again."""

BLOCKS_PER_SLOT = 4
"""Blocks that the scheduler knows, per task that can run at a time."""


@dataclass(frozen=True)
class Outcome:
    """What became of one block."""

    position: int
    """Its number in the grid."""
    record: Any = None
    """What its task returned."""
    error: BaseException | None = None
    """Why it failed after all retries; None if it is stored."""
    tries: int = 1


class Windows:
    """The graph of a run, cut into windows.

    Parameters
    ----------
    make
        Makes the lazy array of the run's tasks, one element per block, under a name that ends in the given suffix.
    grid
        The blocks.
    client
        Of the cluster.
    whole
        Submit everything at once: for graphs whose blocks share upstream tasks that are dear to compute twice.
    """

    def __init__(self, make: Callable[[str], da.Array], grid: BlockGrid, client: Any, whole: bool = False) -> None:
        self.make, self.grid, self.client, self.whole = make, grid, client, whole
        self.annotation = gpu_annotation(client)
        self._graphs: dict[int, tuple[str, HighLevelGraph]] = {}
        self._held: list[Any] = []
        self._payloads = payloads_of(make("").dask)

    @property
    def hopeless(self) -> int:
        """Failures after which a run without a single success should end."""
        return max(8, 2 * slots_of(self.client, self.annotation))

    def graph(self, attempt: int) -> tuple[str, HighLevelGraph]:
        """Name and fused graph of all blocks for the n-th attempt."""
        if attempt not in self._graphs:
            array = self.make(f"-{attempt}" if attempt else "")
            layers = {name: self._annotated(name, layer) for name, layer in array.dask.layers.items()}
            graph = HighLevelGraph(layers, array.dask.dependencies)
            keys = [(array.name, *index) for index in self.grid.indices()]
            with dask.config.set({"array.query-planning": False}):
                self._graphs[attempt] = array.name, optimize_blockwise(graph, keys=keys)
        return self._graphs[attempt]

    def window(self, keys: Sequence[tuple[Any, ...]], attempt: int) -> HighLevelGraph:
        """The graph of some blocks, without the payloads that are held as tasks."""
        _, graph = self.graph(attempt)
        culled = graph.cull(set(keys))
        layers = {n: x for n, x in culled.layers.items() if not any(isinstance(v, Payload) for v in values_of(x))}
        names = set(layers)
        return HighLevelGraph(layers, {n: culled.dependencies[n] & names for n in names})

    def hold(self) -> None:
        """Ship volume and network as tasks, kept while this object lives: recomputed if their worker dies."""
        if not self._held:
            if self.client.scheduler.address.startswith("inproc://"):
                self._payloads = [p.staying() for p in self._payloads]
            self._held = [self.client.submit(_keep, p, key=p.key, pure=False) for p in self._payloads]

    def run(self, positions: Sequence[int]) -> Iterator[Outcome]:
        """Run blocks; yields each as it ends, in no order."""
        from distributed import as_completed

        self.hold()
        size = len(positions) if self.whole else max(8, BLOCKS_PER_SLOT * slots_of(self.client, self.annotation))
        queue = deque((p, 0) for p in positions)
        running: dict[Any, tuple[int, int]] = {}
        ended = as_completed([], loop=self.client.loop)
        tries: Counter[int] = Counter()
        try:
            while queue or running:
                if queue and len(running) <= size // 2:
                    batch = [queue.popleft() for _ in range(min(len(queue), size - len(running)))]
                    for future, block in self._submit(batch):
                        running[future] = block
                        ended.add(future)
                future = next(ended)
                position, attempt = running.pop(future)
                tries[position] += 1
                if future.status == "finished":
                    yield Outcome(position, future.result(), tries=tries[position])
                    continue
                error = _error_of(future)
                if attempt < RETRIES and not isinstance(error, CERTAIN):
                    queue.append((position, attempt + 1))
                else:
                    yield Outcome(position, error=error, tries=tries[position])
        finally:
            for future in running:
                future.cancel()

    def _submit(self, batch: Sequence[tuple[int, int]]) -> Iterator[tuple[Any, tuple[int, int]]]:
        for attempt in sorted({a for _, a in batch}):
            blocks = [block for block in batch if block[1] == attempt]
            name, _ = self.graph(attempt)
            keys = [(name, *self.grid.unravel(p)) for p, _ in blocks]
            futures = self.client.get(self.window(keys, attempt), keys, sync=False)
            yield from zip(futures, blocks, strict=True)

    def _annotated(self, name: str, layer: Any) -> Any:
        """Kernels and what is fused with them go where GPUs are declared."""
        if self.annotation and name.startswith(("infer-", "save-")):
            layer = copy.copy(layer)
            layer.annotations = {**(layer.annotations or {}), **self.annotation}
        return layer


def _keep(payload: Payload) -> Payload:
    return payload


def _error_of(future: Any) -> BaseException:
    error = future.exception() if future.status == "error" else RuntimeError(f"the task was {future.status}")
    return error if isinstance(error, BaseException) else RuntimeError(str(error))
