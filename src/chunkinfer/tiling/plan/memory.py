"""Projected memory of one worker process, as a sum whose terms can be checked.

The constants were measured by ``benchmarks/memory.py``, on Linux with glibc's default settings.
"""

from __future__ import annotations

from math import ceil, prod
from typing import TYPE_CHECKING

import numpy as np

from chunkinfer.stores.store import CACHE_BYTES
from chunkinfer.tiling.kernel.transfer import BUFFERS, buffer_bytes

if TYPE_CHECKING:
    from chunkinfer.tiling.plan.plan import Plan

Terms = tuple[tuple[str, int], ...]
"""Name and bytes of each term of a sum."""

LIBRARIES = 590_000_000
"""Python, torch, dask, tensorstore, numba and what they load on first use, resident."""

ENGINE_LIBRARIES = {"openvino": 60_000_000, "onnxruntime": 30_000_000, "torchscript": 30_000_000, "compile": 60_000_000}
"""What an engine's own libraries take beside them."""

ARENAS = {("openvino", "fp32"): 0.75, ("openvino", "bf16"): 0.42, ("openvino", "fp16"): 0.42}
"""Engine and precision -> activations as a share of what torch takes for them, of engines that keep them in one piece
of memory. The largest of four networks; a torch module of plain convolutions takes the most."""

LARGEST_ENGINE = max(ENGINE_LIBRARIES, key=lambda engine: ENGINE_LIBRARIES[engine])

PENDING_CHUNK = 2_700
"""What tensorstore's transaction takes for a chunk beside its voxels: of tiny chunks, many times as much as these."""

KEPT, KEPT_PER_SLOT = 100_000_000, 40_000_000
"""What the allocator holds between freed pieces, beside the small activations of each kernel; and more for each slot
beyond the kernels and one."""


def host_terms(plan: Plan) -> Terms:
    """Bytes on the host. A block is in flight in each slot, and one more may wait to be taken up or recorded."""
    size_in, size_out, sums = block_bytes(plan)
    slots, kernels = min(plan.slots, len(plan.grid)), min(plan.kernels, len(plan.grid))
    held = min(slots + 1, len(plan.grid))
    terms = [
        ("libraries", LIBRARIES + ENGINE_LIBRARIES.get(plan.engine, 0)),
        ("model", plan.model_bytes),
        (f"haloed inputs of {held} block(s)", size_in * held),
        (f"outputs of {held} block(s)", size_out * held),
        ("read cache", CACHE_BYTES + plan.source_decoded),
        ("a block as it is stored", size_out),
        (f"chunks of {slots} block(s) on their way", PENDING_CHUNK * _chunks(plan) * slots),
        ("kept by the allocator", KEPT + KEPT_PER_SLOT * max(0, slots - kernels - 1)),
    ]
    if plan.own_bytes:
        terms.insert(2, ("the caller's own module", plan.own_bytes))
    if plan.device == "cuda":
        terms.insert(2, ("page-locked buffers", BUFFERS * buffer_bytes(max(size_in, size_out))))
        return tuple(terms)
    share = activation_share(plan.engine, plan.precision)
    if share == 1:
        name, held_back = terms.pop()
        terms.append((name, held_back + plan.forward.pooled * kernels))
    if sums:
        terms.insert(2, (f"sums of {kernels} kernel(s)", sums * kernels))
    terms.insert(2, (f"activations of {kernels} kernel(s)", int(plan.forward.peak * share) * kernels))
    return tuple(terms)


def activation_share(engine: str, precision: str) -> float:
    """Activations of an engine on a CPU, as a share of torch's."""
    return ARENAS.get((engine, precision), 1.0)


def device_terms(plan: Plan) -> Terms:
    """Bytes on the GPU of a worker; empty on a CPU. What cuDNN takes as workspace is not known before it runs."""
    if plan.device == "cpu":
        return ()
    size_in, size_out, sums = block_bytes(plan)
    patch = 4 * plan.network_channels * plan.batch * prod(a.patch_output for a in plan.lattice.axes)
    return (
        ("model", plan.model_bytes),
        (f"activations of {plan.kernels} kernel(s)", (plan.forward.tensors + patch) * plan.kernels),
        (f"haloed inputs of {plan.slots} block(s)", size_in * plan.slots),
        (f"sums of {plan.slots} block(s)", (sums or size_out) * plan.slots),
        (f"outputs of {plan.slots} block(s)", size_out * plan.slots),
    )


def _chunks(plan: Plan) -> int:
    """Chunks of the largest block, all of which are on their way to the store at a time."""
    sizes = (plan.channels_out, *map(min, plan.block, plan.lattice.output))
    return prod(ceil(n / chunk) for n, chunk in zip(sizes, plan.layout.chunks, strict=True))


def block_bytes(plan: Plan) -> tuple[int, int, int]:
    """Bytes of the largest block's haloed input, as stored; of its output, as stored; and of the float32 in which its
    patches are added, 0 where they are written as they are stored."""
    largest = [min(b, n) for b, n in zip(plan.block, plan.lattice.output, strict=True)]
    seen = [
        min(int(b * a.stride) + low + high, a.size)
        for b, a, (low, high) in zip(largest, plan.lattice.axes, plan.halo, strict=True)
    ]
    read = prod(seen) * plan.channels_in * np.dtype(plan.dtype_in).itemsize
    kept = (plan.output or {}).get("channels")
    added = prod(largest) * (plan.network_channels if kept is None else len(kept)) * np.dtype(plan.compute).itemsize
    directly = plan.dtype == plan.compute or (plan.lattice.exact and np.dtype(plan.dtype).kind == "u")
    return read, prod(largest) * plan.channels_out * np.dtype(plan.dtype).itemsize, 0 if directly else added
