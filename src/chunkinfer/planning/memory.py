"""Projected memory of one worker process, as a sum whose terms can be checked.

The constants were measured by ``benchmarks/memory.py``, on Linux with glibc's default settings.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

import numpy as np

from chunkinfer.storage.store import CACHE_BYTES

if TYPE_CHECKING:
    from chunkinfer.planning.plan import Plan

Terms = tuple[tuple[str, int], ...]
"""Name and bytes of each term of a sum."""

LIBRARIES = 480_000_000
"""Python, torch, dask, tensorstore and what they load on first use, resident."""

KEPT, KEPT_PER_SLOT = 100_000_000, 40_000_000
"""What the allocator holds between freed pieces, beside the small activations of each kernel; and more for each slot
beyond the kernels and one."""


def host_terms(plan: Plan) -> Terms:
    """Bytes on the host. A block is in flight in each slot, and one more may wait to be taken up or recorded."""
    size_in, size_out = block_bytes(plan)
    slots, kernels = min(plan.slots, len(plan.grid)), min(plan.kernels, len(plan.grid))
    held = min(slots + 1, len(plan.grid))
    terms = [
        ("libraries", LIBRARIES),
        ("model", plan.model_bytes),
        (f"haloed inputs of {held} block(s)", size_in * held),
        (f"outputs of {held} block(s)", size_out * held),
        ("read cache", CACHE_BYTES),
        ("a block as it is stored", size_out),
        ("kept by the allocator", KEPT + KEPT_PER_SLOT * max(0, slots - kernels - 1)),
    ]
    if plan.device == "cpu":
        name, held_back = terms.pop()
        terms.append((name, held_back + plan.forward.pooled * kernels))
        terms.insert(2, (f"activations of {kernels} kernel(s)", plan.forward.peak * kernels))
    return tuple(terms)


def device_terms(plan: Plan) -> Terms:
    """Bytes on the GPU of a worker; empty on a CPU. What cuDNN takes as workspace is not known before it runs."""
    if plan.device == "cpu":
        return ()
    _, size_out = block_bytes(plan)
    return (
        ("model", plan.model_bytes),
        (f"activations of {plan.kernels} kernel(s)", plan.forward.tensors * plan.kernels),
        (f"outputs of {plan.kernels} block(s)", size_out * plan.kernels),
    )


def block_bytes(plan: Plan) -> tuple[int, int]:
    """Bytes of the largest block's haloed input, as stored, and of its output, as accumulated."""
    largest = [min(b, n) for b, n in zip(plan.block, plan.lattice.output, strict=True)]
    seen = [
        min(int(b * a.stride) + low + high, a.size)
        for b, a, (low, high) in zip(largest, plan.lattice.axes, plan.halo, strict=True)
    ]
    read = prod(seen) * plan.channels_in * np.dtype(plan.dtype_in).itemsize
    return read, prod(largest) * plan.channels_out * np.dtype(plan.compute).itemsize
