"""The plan: every number of a run before anything runs, frozen, with a text and an HTML repr."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from math import ceil, prod
from typing import Any

from chunkinfer.errors import PlanError, PrecisionError
from chunkinfer.geometry.boxes import BlockGrid
from chunkinfer.geometry.lattice import PatchLattice
from chunkinfer.networks.forward_cost import ForwardPass
from chunkinfer.tiling.plan import show
from chunkinfer.tiling.plan.costs import Estimate, Prices, Traffic, estimate, traffic
from chunkinfer.tiling.plan.memory import Terms, device_terms, host_terms
from chunkinfer.tiling.plan.precision import PrecisionCheck
from chunkinfer.tiling.plan.speed import Speed
from chunkinfer.volumes.arrays.layout import Layout

MEBIBYTE = 1 << 20

SETTLED = ("libraries", "model", "the caller's own module", "read cache", "kept by the allocator")
"""Terms of a process's memory that patch and block don't change, or hardly."""


@dataclass(frozen=True)
class Plan:
    """What a run is: everything that fixes its bits, and the numbers that follow."""

    axes: tuple[str, ...]
    """Names of the spatial axes, in order."""
    lattice: PatchLattice
    """Where the patches lie."""
    overlap: tuple[int, ...] | None
    """Input voxels that neighbouring patches share; None for exact tiling."""
    context: tuple[tuple[int, int], ...] | None
    """Input voxels, low and high, that the output was traced to read along each axis; None where that is unbounded."""
    pad: str | None
    """How the caller wants the volume made longer where that is not needed to run; None: not at all."""
    reduced: tuple[int, ...] | None
    """The context kept around clean zones where the caller asked for less than was traced; None otherwise."""
    block: tuple[int, ...]
    """Output voxels of what one task writes."""
    window: str
    """Blending window; without meaning for exact tiling."""
    batch: int
    """Patches per forward pass."""
    normalize: str
    """How stored values are scaled, in words."""
    channels_in: int
    network_channels: int
    """Channels that the network gives."""
    channels_out: int
    """Channels of the result: fewer where the output takes some of them, or decides between them."""
    output: dict[str, Any] | None
    """What is done with the network's output before it is stored; None if nothing."""
    skips: dict[str, Any] | None
    """What is not computed: mask, empty input, and what is stored there; None if all is computed."""
    dtype_in: str
    """dtype of the volume."""
    dtype: str
    """dtype of the result."""
    compute: str
    """Floating-point type in which the network runs."""
    precision: str
    """fp32, bf16 or fp16 inside the network."""
    tolerance: float
    """Share of decisions that reduced precision may flip."""
    check: PrecisionCheck | None
    """Reduced precision against fp32 on samples of the volume; None in fp32, and where this process lacks the
    device."""
    engine: str
    """What runs the network."""
    engine_why: str
    """Why it is this one."""
    cpu_engine: str | None
    """What runs it, in fp32, on workers that declare no GPU; None: nothing else than the engine."""
    device: str
    """cpu or cuda."""
    threads: int
    """Intra-op threads of one kernel on a CPU."""
    kernels: int
    """Kernels at a time in one process."""
    model: str
    """Name of the model."""
    digest: str
    """Its digest."""
    doubt: str | None
    """Why another network may have this digest; None where that cannot be."""
    network_output: str | None
    """Name or number of the network's output that is taken; None for the only one."""
    augmentation: str | None
    """Variants of each patch that are averaged, in words; None if there are none."""
    model_bytes: int
    """Bytes of its weights."""
    own_bytes: int
    """Bytes of the caller's own module, which stays beside the copy that runs; 0 where another process runs it."""
    forward: ForwardPass
    """Memory and arithmetic of one batch."""
    reasons: tuple[str, ...]
    """Why the network cannot be tiled exactly; empty if it can."""
    probed: bool
    """Whether the context was found by running the network, so that it holds as far as that shows."""
    source_chunks: tuple[int, ...]
    """Voxels of the volume's chunks along the spatial axes."""
    source_shards: tuple[int, ...] | None
    """Voxels of the volume's shards along the spatial axes; None where each chunk is an object of its own."""
    source_channels: int
    """Channels of one of the volume's chunks."""
    source_decoded: int
    """Bytes of decoded parts of the volume, such as sections, that a process keeps."""
    layout: Layout
    """Chunks and shards of the output, (c, *space), unless `save` is told others."""
    slots: int
    """Blocks in flight in one process: those that compute, and those that are read or written meanwhile."""
    limit: int | None
    """Bytes of memory that a worker process may take; None where nothing is known of it."""
    device_limit: int | None
    """Bytes of memory of a worker's GPU; None on a CPU, or where nothing is known of it."""
    best: float
    """Patch voxels that the best patch found computes, as a fraction of what this one does; 1 if this is it."""
    freest: float
    """Patch voxels that the best choice of any blocks computes, as a fraction of what whole chunks make this one do."""
    speed: Speed | None
    """Measured on this machine; None before calibration."""
    max_block_minutes: float | None
    """The longest that a block should take."""
    workers: int
    """Worker processes, for time and cost."""
    prices: Prices | None
    """For cost."""
    asked: tuple[str, ...]
    """Arguments that the caller gave; the others may be adopted from an earlier run on resume."""

    @property
    def exact(self) -> bool:
        """Whether the result is the network's on the whole volume."""
        return self.lattice.exact and self.reduced is None

    @cached_property
    def grid(self) -> BlockGrid:
        """The blocks of the output."""
        return BlockGrid.regular(self.lattice.output, self.block)

    def settings(self) -> dict[str, Any]:
        """What fixes the bits and the blocks of a run, as plain values for a ledger or a comparison."""
        return {
            "patch": list(self.lattice.patch),
            "overlap": list(self.overlap) if self.overlap else None,
            "halo": list(self.reduced) if self.reduced else None,
            "pad": self.pad,
            "block": list(self.block),
            "halves": [a.halved for a in self.lattice.axes],
            "window": self.window,
            "batch": self.batch,
            "normalize": self.normalize,
            "dtype": self.dtype,
            "precision": self.precision,
            "engine": self.engine,
            "cpu_engine": self.cpu_engine,
            "output": self.output,
            "skips": self.skips,
            "device": self.device,
            "threads": self.threads,
        }

    # ---- what follows -------------------------------------------------------------------------------------------

    def _spans(self, d: int) -> list[tuple[int, int]]:
        edges = self.grid.edges[d]
        return list(pairwise(edges))

    @property
    def patches(self) -> int:
        """Patches that the run computes, those that two blocks share counted twice."""
        return prod(
            sum(len(axis.touching(*span)) for span in self._spans(d)) for d, axis in enumerate(self.lattice.axes)
        )

    @property
    def recompute(self) -> float:
        """Patch voxels that the network sees per voxel of the volume."""
        return self.patches * prod(self.lattice.patch) / prod(self.lattice.shape)

    @property
    def read_amplification(self) -> float:
        """Voxels of stored chunks read per voxel of the volume: halos, rounded out to chunks."""
        factor = 1.0
        for d, (axis, chunk) in enumerate(zip(self.lattice.axes, self.source_chunks, strict=True)):
            touched = 0
            for span in self._spans(d):
                low, high = axis.seen(*span)
                touched += min(ceil(high / chunk) * chunk, axis.size) - low // chunk * chunk
            factor *= touched / axis.size
        return factor

    @property
    def halo(self) -> tuple[tuple[int, int], ...]:
        """The most extra input voxels, low and high, that a block reads along each axis."""
        halos = []
        for d, axis in enumerate(self.lattice.axes):
            low = high = 0
            for a, b in self._spans(d):
                seen = axis.seen(a, b)
                low = max(low, int(a * axis.stride) - seen[0])
                high = max(high, seen[1] - int(b * axis.stride))
            halos.append((low, high))
        return tuple(halos)

    def memory(self) -> Terms:
        """Projected bytes on the host of one worker process, as a sum whose terms can be checked."""
        return host_terms(self)

    def device_memory(self) -> Terms:
        """Projected bytes on the GPU of one worker, likewise; empty on a CPU."""
        return device_terms(self)

    @property
    def activations(self) -> int:
        """Bytes that a forward pass of one batch takes."""
        return self.forward.peak

    @property
    def fits(self) -> bool:
        """Whether a worker has the memory, as far as is known."""
        return not self._excess()

    def _excess(self) -> tuple[Terms, int, str] | None:
        """The sum that is over its limit, the limit, and whose memory that is."""
        for terms, limit, whose in (
            (self.memory(), self.limit, "a worker process"),
            (self.device_memory(), self.device_limit, "a worker's GPU"),
        ):
            if limit is not None and sum(size for _, size in terms) > limit:
                return terms, limit, whose
        return None

    def misfit(self) -> PlanError | PrecisionError | None:
        """The error of running a plan that does not fit into memory or its precision; None if it does."""
        if self.check is not None and (changes := self.check.excess(self.tolerance)):
            return changes
        if (excess := self._excess()) is None:
            return None
        terms, limit, whose = excess
        settled = sum(size for name, size in terms if name in SETTLED)
        largest, _ = max((term for term in terms if term[0] not in SETTLED), key=lambda term: term[1])
        smaller = "patch" if "activations" in largest else "block"
        means = f"Most of what can be changed goes to {largest}."
        ways = []
        if settled >= limit:
            means = f"{show.human_bytes(settled)} of it are the same for every patch and block."
        elif "memory" in self.asked:
            ways = [f"take a smaller {smaller}=, or leave it to the plan; fewer blocks are in flight with slots=1"]
        else:
            ways = [
                f"take a smaller {smaller}=, fewer blocks in flight with slots=1, or leave {smaller}= to the plan: "
                f"infer(volume, model, memory={limit})"
            ]
        # With more memory other patches and blocks are chosen, which take a little more than these.
        enough = ceil(sum(size for _, size in terms) * 1.05 / MEBIBYTE) * MEBIBYTE
        return PlanError(
            f"The run takes more memory than the {show.human_bytes(limit)} of {whose}: {show.as_sum(terms)}.",
            means,
            [
                *ways,
                "take workers with more memory; if they have it already, say so: "
                f"infer(volume, model, memory={enough})",
            ],
        )

    @property
    def flops_per_voxel(self) -> float:
        """Floating-point operations per output voxel (channels not counted), recomputation included."""
        return self.forward.flops * self.patches / self.batch / prod(self.lattice.output)

    @property
    def traffic(self) -> Traffic:
        """Bytes and requests between the run and its stores."""
        return traffic(self)

    @property
    def estimate(self) -> Estimate | None:
        """Time and money; None before calibration."""
        return estimate(self)

    @property
    def meant(self) -> str:
        """The volume that the network is thought to run on, in words."""
        more = [
            f"{a.padded - a.size} more {'plane' if a.padded - a.size == 1 else 'planes'} at the end of {name}"
            for name, a in zip(self.axes, self.lattice.axes, strict=True)
            if a.padded > a.size
        ]
        if not more:
            return "the whole volume"
        lengths = " and ".join(
            f"{a.size} voxels along {name}"
            for name, a in zip(self.axes, self.lattice.axes, strict=True)
            if a.padded > a.size
        )
        why = "as asked by pad=" if self.pad else f"because the network gives nothing for {lengths}"
        return f"the volume and {', '.join(more)}, edge-padded ({why}),"

    @property
    def verdict(self) -> str:
        """What kind of equality with the network on the whole volume this run gives, in words."""
        if self.exact:
            how = "to round-off" if self.precision == "fp32" else f"to the round-off of {self.precision}"
            what = f"the network, {self.augmentation}," if self.augmentation else "the network"
            shown = ", as far as probing shows" if self.probed else ""
            return f"exact{shown}: equal to {what} on {self.meant} {how}"
        why = f" ({self.reasons[0]})" if self.reasons else ""
        if self.reduced:
            context = " x ".join(f"{max(pair)}" for pair in self.context) if self.context else "unbounded"
            kept = " x ".join(map(str, self.reduced))
            return f"halo reduced on purpose to {kept} voxels, where the context is {context}: an approximation{why}"
        return f"blended with {self.window} windows: an approximation of the network on the whole volume{why}"

    # ---- to look at ---------------------------------------------------------------------------------------------

    def __str__(self) -> str:
        return show.text(self)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return show.as_html(self)
