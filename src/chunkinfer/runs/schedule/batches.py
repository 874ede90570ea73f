"""The graph of a run, cut into windows of blocks.

A window is the store layer's graph, fused and culled here, so that a block is one task and annotations survive
(the scheduler's own optimisation drops them). Volume and network are held as tasks of their own for the whole run.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from graphlib import TopologicalSorter
from typing import Any

import dask
import dask.array as da
from dask._task_spec import Task, TaskRef
from dask.blockwise import Blockwise, optimize_blockwise
from dask.highlevelgraph import HighLevelGraph

from chunkinfer.geometry.boxes import BlockGrid
from chunkinfer.runs.schedule.workers import Workers
from chunkinfer.support.payload import Payload, payloads_of, values_of


@dataclass
class Block:
    """A block on its way."""

    position: int
    attempt: int = 0
    """Submissions before this one; each has keys of its own, so that no worker's death counts against the next."""
    failures: int = 0
    """Times that it raised an error."""
    deaths: int = 0
    """Times that dask gave it up because workers that ran it died."""
    sent: float = 0.0
    """When it was submitted."""
    told: bool = False
    """Whether it was told to be slow."""


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

    def __init__(
        self,
        make: Callable[[str], da.Array],
        grid: BlockGrid,
        client: Any,
        whole: bool = False,
    ) -> None:
        self.make, self.grid, self.client, self.whole = make, grid, client, whole
        self._payloads = payloads_of(make("").dask)
        self.needs_device = any(payload.needs_device for payload in self._payloads)
        self.workers = Workers(client, self.needs_device)
        self._where: tuple[dict[str, Any], dict[str, Any]] = {}, {}
        """Annotations of kernels, and of everything else."""
        self._graphs: dict[int, tuple[str, HighLevelGraph]] = {}
        self._held: dict[str, Any] = {}
        self.given_up = 0
        """Times that dask gave up a volume, network or destination that is held, because each worker that got it died;
        since a block was last finished."""

    @property
    def hopeless(self) -> int:
        """Failures after which a run without a single success should end."""
        return max(8, 2 * self.workers.slots)

    def graph(self, attempt: int) -> tuple[str, HighLevelGraph]:
        """Name and fused graph of all blocks for the n-th attempt, without the payloads that are held as tasks."""
        if self._where != (where := (self.workers.where(True), self.workers.where(False))):
            self._where = where
            self._graphs.clear()
        if attempt not in self._graphs:
            array = self.make(f"-{attempt}" if attempt else "")
            graph = HighLevelGraph(self._annotated(array.dask), array.dask.dependencies)
            # Of the keys it takes the names only: one stands for ten million.
            with dask.config.set({"array.query-planning": False}):
                fused = optimize_blockwise(graph, keys=[(array.name,)])
            # Culling a graph that holds values, which payloads are to dask, makes a table of all its keys.
            layers = {n: x for n, x in fused.layers.items() if not any(isinstance(v, Payload) for v in values_of(x))}
            names = set(layers)
            dependencies = {name: fused.dependencies[name] & names for name in names}
            self._graphs[attempt] = array.name, HighLevelGraph(layers, dependencies)
        return self._graphs[attempt]

    def window(self, keys: Sequence[tuple[Any, ...]], attempt: int) -> HighLevelGraph:
        """The graph of some blocks."""
        _, graph = self.graph(attempt)
        return graph.cull(set(keys))

    def hold(self) -> None:
        """Ship volume and network as tasks, kept while this object lives: recomputed if their worker dies, and shipped
        again if dask gave them up or the scheduler is another one."""
        if not self._held and self.client.scheduler.address.startswith("inproc://"):
            self._payloads = [p.staying() for p in self._payloads]
        for payload in self._payloads:
            held = self._held.pop(payload.key, None)
            if held is None or held.status not in ("pending", "finished"):
                self.given_up += held is not None and held.status == "error"
                del held  # or the scheduler would give the old answer
                held = self.client.submit(_keep, payload, key=payload.key, pure=False, **self.workers.where(False))
            self._held[payload.key] = held

    def submit(self, blocks: Sequence[Block], in_turn: int = 1) -> Iterator[tuple[Any, list[Block]]]:
        """Futures of the blocks' tasks; those that were begun before go first.

        Where blocks share no task with others, so many that follow each other become one task that runs them
        ``in_turn`` and returns a list; those that are tried again have tasks of their own.
        """
        for attempt in sorted({b.attempt for b in blocks}):
            some = [b for b in blocks if b.attempt == attempt]
            name, _ = self.graph(attempt)
            keys = [(name, *self.grid.unravel(b.position)) for b in some]
            graph: Any = self.window(keys, attempt)
            n, where = 1, dict[str, Any]()
            if not self.whole and len(tasks := graph.to_dict()) == len(keys):
                n, where = in_turn if attempt == 0 else 1, self._where[not self.needs_device]
                groups = [keys[i : i + n] for i in range(0, len(keys), n)]
                graph = {group[0]: _sealed(group[0], [tasks[key] for key in group]) for group in groups}
            futures = self.client.get(graph, keys[::n], sync=False, priority=int(attempt > 0), **where)
            yield from zip(futures, (some[i : i + n] for i in range(0, len(some), n)), strict=True)

    def _annotated(self, graph: HighLevelGraph) -> dict[str, Any]:
        """The layers, each with where its tasks may run."""
        kernels = self._kernels(graph)
        layers = {}
        for name, layer in graph.layers.items():
            if where := self._where[name not in kernels]:
                layer = copy.copy(layer)
                layer.annotations = {**(layer.annotations or {}), **where}
            layers[name] = layer
        return layers

    def _kernels(self, graph: HighLevelGraph) -> set[str]:
        """Layers that run on a device: those that use what needs one, and those that are fused with them."""
        needing = {payload.key for payload in self._payloads if payload.needs_device}
        kernels: set[str] = set()
        for name in TopologicalSorter(graph.dependencies).static_order():
            below = graph.dependencies[name]
            if below & needing or (below & kernels and isinstance(graph.layers[name], Blockwise)):
                kernels.add(name)
        return kernels


def _keep(payload: Payload) -> Payload:
    return payload


def _sealed(key: Any, tasks: Sequence[Any]) -> Task:
    """A task that runs others in turn: bytes to the scheduler, which keeps the last thousand of each worker."""
    from distributed.protocol.pickle import dumps

    needs = sorted(set().union(*(task.dependencies for task in tasks)))
    return Task(key, _in_turn, dumps(list(tasks)), tuple(needs), *map(TaskRef, needs))


def _in_turn(tasks: bytes, names: Sequence[str], *values: Any) -> list[Any]:
    from distributed.protocol.pickle import loads

    known = dict(zip(names, values, strict=True))
    return [task(known) for task in loads(tasks)]
