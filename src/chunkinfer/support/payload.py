"""Values that travel once per worker, opaque to the scheduler.

A graph refers to a volume, or to a network with its settings, by a key that holds a `Payload`. What is inside is
pickled only when it leaves the process and unpickled once per process that uses it: the scheduler, which unpickles task
arguments, sees bytes.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any, Literal, Protocol
from weakref import WeakValueDictionary

import cloudpickle
import dask.array as da
from dask.delayed import Delayed
from dask.highlevelgraph import HighLevelGraph, MaterializedLayer

from chunkinfer.support.facts import NetworkFacts
from chunkinfer.support.lru import Lru

KEPT_OPEN = 16
"""Payloads that a process keeps unpickled; the least recently used is dropped first."""

_open: Lru[str, Any] = Lru(KEPT_OPEN)
_staying: WeakValueDictionary[str, Payload] = WeakValueDictionary()
_lock = threading.Lock()

Kind = Literal["network", "reader", "step", "store"]
"""What a payload is to the tasks that use it."""


class Recipe(Protocol):
    """How a lazy array was made, so that it can be made again with other settings."""

    def with_settings(self, settings: Mapping[str, Any]) -> da.Array:
        """The same array with settings as an earlier run's ledger holds them."""


class Payload:
    """A value under a key.

    Parameters
    ----------
    kind
        What it is to the tasks that use it.
    key
        The dask key that holds it, unique to the value.
    value
        What travels.
    needs_device
        Whether tasks that use it run on a device that workers declare (a GPU), where any worker declares one.
    """

    def __init__(self, kind: Kind, key: str, value: Any, needs_device: bool = False) -> None:
        self.kind, self.key, self.needs_device = kind, key, needs_device
        self._value, self._data = value, b""
        self._stays = False

    def open(self) -> Any:
        """The value; unpickled once per process."""
        if self._value is not None:
            return self._value
        if not self._data:
            return _staying[self.key].open()
        with _lock:
            return _open.get_or_make(self.key, lambda: cloudpickle.loads(self._data))

    def staying(self) -> Payload:
        """The same for workers that are threads of this process: while it lives, only its key is pickled, so that a
        volume in memory is not copied."""
        payload = Payload(self.kind, self.key, self.open(), self.needs_device)
        payload._stays = True
        _staying[self.key] = payload
        return payload

    def __getstate__(self) -> dict[str, Any]:
        data = self._data if self._value is None or self._stays else cloudpickle.dumps(self._value)
        return {**vars(self), "_stays": False, "_value": None, "_data": data}

    def __dask_tokenize__(self) -> str:
        return self.key

    def __repr__(self) -> str:
        return f"<Payload {self.key}>"

    def delayed(self) -> Delayed:
        """The payload as an argument of a lazy task: one layer with one key."""
        return Delayed(self.key, HighLevelGraph({self.key: {self.key: self}}, {self.key: set()}), layer=self.key)


class NetworkPayload(Payload):
    """A network with its job, and what is known of it.

    Parameters
    ----------
    key, value, needs_device
        As for `Payload`.
    facts
        For ledgers and reports; readable everywhere.
    recipe
        Makes the network's lazy array again; stays in the process that made it.
    """

    def __init__(
        self, key: str, value: Any, facts: NetworkFacts, recipe: Recipe | None, needs_device: bool = False
    ) -> None:
        super().__init__("network", key, value, needs_device)
        self.facts, self.recipe = facts, recipe

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "recipe": None}


def values_of(layer: Any) -> list[Any]:
    """What a materialised layer of a graph holds, taken out of dask's own wrappers; nothing for other layers."""
    return [getattr(v, "value", v) for v in layer.mapping.values()] if isinstance(layer, MaterializedLayer) else []


def payloads_of(graph: Any) -> list[Payload]:
    """Every payload of a lazy array's graph."""
    values = (values_of(layer) for layer in getattr(graph, "layers", {}).values())
    return [held[0] for held in values if len(held) == 1 and isinstance(held[0], Payload)]


def networks_of(graph: Any) -> list[NetworkPayload]:
    """The networks of a lazy array's graph."""
    return [payload for payload in payloads_of(graph) if isinstance(payload, NetworkPayload)]
