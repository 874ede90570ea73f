"""What a run reads, writes, computes and costs, from a plan and a measured speed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from itertools import pairwise
from math import ceil, prod
from typing import TYPE_CHECKING

import numpy as np

from chunkinfer.errors import PlanError

if TYPE_CHECKING:
    from chunkinfer.tiling.plan.plan import Plan


@dataclass(frozen=True)
class Prices:
    """Prices, in any one currency."""

    worker_hour: float = 0.0
    """Of one worker for an hour."""
    read_request: float = 0.0
    """Of one object or range read from the store."""
    write_request: float = 0.0
    """Of one object written."""
    egress_gib: float = 0.0
    """Of a GiB that leaves the store, as all that is read does where workers are in another region."""

    @classmethod
    def of(cls, given: Prices | Mapping[str, float] | None) -> Prices | None:
        """Prices from a mapping.

        Raises
        ------
        PlanError
            An unknown name, or no number from 0 on.
        """
        if given is None or isinstance(given, Prices):
            return given
        names = [f.name for f in fields(cls)]
        example = 'prices={"worker_hour": 2.5, "egress_gib": 0.09}'
        for name, value in given.items():
            number = isinstance(value, int | float) and not isinstance(value, bool) and value >= 0
            if name not in names or not number:
                raise PlanError(
                    f"prices: {name!r}: {value!r} is not known.",
                    f"There are {', '.join(names)}, each a number from 0 on, in one currency.",
                    [example, "leave prices= out"],
                )
        return cls(**given)


@dataclass(frozen=True)
class Traffic:
    """Bytes and requests between a run and its stores. Compression is not known beforehand: bytes are before it."""

    read_bytes: int
    read_requests: int
    """Chunks read; where they lie in shards, one more per shard for its index; none from memory."""
    written_bytes: int
    write_requests: int
    """Objects written: chunks, or shards."""


def traffic(plan: Plan) -> Traffic:
    """What all blocks read and write."""
    chunks = shards = 1
    stored = plan.source_shards or plan.source_chunks
    for d, (axis, chunk, shard) in enumerate(zip(plan.lattice.axes, plan.source_chunks, stored, strict=True)):
        spans = [axis.seen(a, b) for a, b in pairwise(plan.grid.edges[d])]
        chunks *= sum(ceil(high / chunk) - low // chunk for low, high in spans)
        shards *= sum(ceil(high / shard) - low // shard for low, high in spans)
    channels = ceil(plan.channels_in / plan.source_channels)
    in_memory = set(plan.source_chunks) == {1}
    read = prod(plan.lattice.shape) * plan.channels_in * np.dtype(plan.dtype_in).itemsize * plan.read_amplification
    unit = plan.layout.shards or plan.layout.chunks
    shape = (plan.channels_out, *plan.lattice.output)
    return Traffic(
        read_bytes=int(read),
        read_requests=0 if in_memory else chunks * channels + (shards if plan.source_shards else 0),
        written_bytes=prod(shape) * np.dtype(plan.dtype).itemsize,
        write_requests=prod(ceil(n / u) for n, u in zip(shape, unit, strict=True)),
    )


@dataclass(frozen=True)
class Estimate:
    """Time and money of a run, from a measured speed."""

    block_seconds: float
    """Of a full block, from reading to stored, while all kernels of its worker run."""
    seconds: float
    """Of the whole run, on all workers."""
    voxels_per_second: float
    """Output voxels, channels not counted, per second of one worker that is never idle."""
    energy_kwh: float | None
    cost: float | None


def estimate(plan: Plan) -> Estimate | None:
    """Time and money, or None where the speed was not measured."""
    speed = plan.speed
    if speed is None:
        return None
    largest = prod(
        max(len(axis.touching(a, b)) for a, b in pairwise(plan.grid.edges[d]))
        for d, axis in enumerate(plan.lattice.axes)
    )
    blocks, kernels = len(plan.grid), plan.kernels
    mean_batches = plan.patches / blocks / plan.batch

    def block_seconds(batches: float) -> float:
        """Of one kernel place. On a CPU, reading and writing take time from kernels; beside a GPU they hide."""
        compute = batches * speed.batch_seconds
        other = speed.transfer_seconds
        if plan.device == "cpu":
            return compute + other / plan.threads
        return max(compute, other * kernels / plan.slots)

    mean, places = block_seconds(mean_batches), plan.workers * kernels
    # Blocks are handed out as places fall free, so at the end half a block's time is lost, on average.
    seconds = max(block_seconds(largest / plan.batch), blocks * mean / places + (1 - 1 / places) * mean / 2)
    prices, moved = plan.prices, traffic(plan)
    cost = None
    if prices is not None:
        cost = (
            seconds / 3600 * plan.workers * prices.worker_hour
            + moved.read_requests * prices.read_request
            + moved.write_requests * prices.write_request
            + moved.read_bytes / 2**30 * prices.egress_gib
        )
    return Estimate(
        block_seconds=block_seconds(largest / plan.batch) if plan.device == "cpu" else mean,
        seconds=seconds,
        voxels_per_second=prod(plan.lattice.output) * kernels / (blocks * mean),
        energy_kwh=None if speed.watts is None else speed.watts * plan.workers * seconds / 3.6e6,
        cost=cost,
    )
