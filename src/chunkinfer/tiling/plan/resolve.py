"""From what the caller asked for to a plan."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from math import ceil, inf, prod
from typing import TYPE_CHECKING, Any

import numpy as np

from chunkinfer.errors import NotExact, PlanError
from chunkinfer.geometry.boxes import BlockGrid, Box
from chunkinfer.geometry.contract import AxisContract
from chunkinfer.geometry.lattice import PatchLattice, blended_axis
from chunkinfer.networks.engines.contract import Setup
from chunkinfer.networks.engines.opening import AUTO, ENGINES, open_network, require
from chunkinfer.networks.forward_cost import model_pass
from chunkinfer.networks.model import Model
from chunkinfer.stores.store import CACHE_BYTES
from chunkinfer.support.arguments import per_axis
from chunkinfer.support.device import cores, kernel_threads
from chunkinfer.tiling.kernel.blend_weights import WINDOWS
from chunkinfer.tiling.kernel.job import Job
from chunkinfer.tiling.kernel.normalize import Affine, Normalize
from chunkinfer.tiling.kernel.outputs import describe_function, resolve_output
from chunkinfer.tiling.kernel.skip import resolve_empty, resolve_fill
from chunkinfer.tiling.plan import engine as engine_choice
from chunkinfer.tiling.plan import speed
from chunkinfer.tiling.plan.aligning import Found, Room, aligned
from chunkinfer.tiling.plan.blocks import Budget, choose_block, most_patches
from chunkinfer.tiling.plan.calibrate import Calibration
from chunkinfer.tiling.plan.engine import EngineChoice, choose_engine, name_engine
from chunkinfer.tiling.plan.exactness import confirm, not_exact, refuse_training, usual_overlap
from chunkinfer.tiling.plan.measuring import Measuring
from chunkinfer.tiling.plan.memory import KEPT, LARGEST_ENGINE, LIBRARIES, activation_share
from chunkinfer.tiling.plan.plan import Plan
from chunkinfer.tiling.plan.precision import PrecisionCheck, check_precision
from chunkinfer.tiling.plan.search import CONSIDERED, Network, choose_blended_patch, exact_lattices
from chunkinfer.tiling.settings import (
    PADS,
    PRECISIONS,
    Place,
    Stored,
    Wishes,
    check_minutes,
    count,
    one_of,
    positive,
    result_dtype,
    tolerance,
)
from chunkinfer.volumes.arrays.chunk_shape import default_chunks
from chunkinfer.volumes.arrays.layout import Layout, choose_layout

if TYPE_CHECKING:
    from chunkinfer.networks.trace.tracing import Trace

ENGINES_SHARE = 0.5
"""Of the time that calibration takes, what may go into the choice of an engine."""

WORTH_THREADS = 0.85
"""More threads a kernel are taken where they leave at most this share of the work: several kernels of few threads use
the cores a little better."""


class Planning:
    """One plan on its way: what was asked for, resolved step by step, and then `made`.

    Parameters
    ----------
    wishes
        What the caller asked for.
    axes, shape
        Names and voxels of the volume's spatial axes.
    stored
        How the volume is stored.
    dtype_in
        dtype of the volume.
    model, trace
        The network and what was traced from it.
    normalize
        Already resolved.
    place
        Where the run will take place.
    read
        Reads a box of the volume, for calibration and for the check of reduced precision.
    source
        Names the volume, so that it is not read again for the same check.

    Raises
    ------
    NotExact
        No overlap was given, and the network cannot be tiled exactly.
    PlanError
        A number does not fit the network or the volume.
    EngineError
        No engine runs the network as asked, or reduced precision changes too much.
    """

    def __init__(
        self,
        wishes: Wishes,
        *,
        axes: tuple[str, ...],
        shape: Sequence[int],
        stored: Stored,
        dtype_in: np.dtype[Any],
        model: Model,
        trace: Trace,
        normalize: Normalize,
        place: Place,
        read: Callable[[Box], Any],
        source: str,
    ) -> None:
        self.wishes, self.axes, self.shape, self.stored, self.dtype_in = wishes, axes, shape, stored, dtype_in
        self.model, self.normalize, self.place, self.read, self.source = model, normalize, place, read, source
        self.patch = per_axis("patch", wishes.patch, axes, 1)
        self.overlap = None if wishes.overlap is None else per_axis("overlap", wishes.overlap, axes, 0)
        self.block = per_axis("block", wishes.block, axes, 1)
        self.halves = wishes.halves or (False,) * len(axes)
        self.batch = count("batch", wishes.batch)
        self.asked_slots = None if wishes.slots is None else positive("slots", wishes.slots)
        self._use_threads(count("threads", wishes.threads))
        check_minutes(wishes.max_block_minutes, wishes.calibrate)
        if wishes.check is not None and wishes.check != 0:
            positive("check", wishes.check)
        if wishes.pad is not None:
            one_of("pad", wishes.pad, PADS)
        self.window = one_of("window", wishes.window or "hann", WINDOWS)
        self.precision = one_of("precision", wishes.precision or "fp32", PRECISIONS)
        self.tolerance = tolerance(wishes.precision_tolerance)
        self.asked_engine = name_engine(wishes.engine, model)
        self.cpu_engine = None if wishes.cpu_engine is None else one_of("cpu_engine", wishes.cpu_engine, ENGINES)
        self.compute = model.compute_dtype()
        if self.compute == "float64" and self.precision != "fp32":
            raise PlanError(
                f"precision={self.precision!r} and a network in double precision contradict each other.",
                "",
                ["model.float()", "leave precision= out"],
            )
        _check_output(trace.axes, shape, axes)
        self.traced, self.reduced = trace, self._reduced(trace)
        self.trace = trace if self.reduced is None else replace(trace, axes=self.reduced)
        if not (trace.exact or self.overlap is not None or self.reduced):
            raise NotExact(*not_exact(model, trace, axes))
        self.output = resolve_output(
            trace.channels_out, activation=wishes.activation, channels=wishes.channels, argmax=wishes.argmax,
            threshold=wishes.threshold, dtype=wishes.dtype, ndim=len(axes), compute=self.compute,
        )  # fmt: skip
        values = None if self.output.decides else wishes.dtype
        self.dtype = self.output.dtype_of(trace.channels_out, result_dtype(values, self.compute))
        self.empty = resolve_empty(wishes.empty)
        self.fill = resolve_fill(wishes.fill or 0, self.dtype)

    def _use_threads(self, threads: int) -> None:
        """So many intra-op threads a kernel, and as many kernels as the cores then have room for."""
        kernels = max(1, cores() // threads) if self.place.device == "cpu" else 1
        self.threads = threads
        self.slots = self.asked_slots or self.place.slots or kernels + 1
        self.kernels = min(kernels, self.slots)

    def _reduced(self, trace: Trace) -> tuple[AxisContract, ...] | None:
        """The contracts with the halo asked for; None where none was, or where it is no less than was traced."""
        if self.wishes.halo is None:
            return None
        if self.overlap is not None:
            raise PlanError(
                "halo= and overlap= contradict each other.",
                "A halo is cut off each patch's output; an overlap is blended.",
                ["infer(volume, model, halo=8)", f"infer(volume, model, overlap={usual_overlap(len(self.axes))})"],
            )
        reduced = _reduced(trace, per_axis("halo", self.wishes.halo, self.axes, 0))
        if reduced:
            refuse_training(self.model, trace)
        return reduced

    # ---- the steps ----------------------------------------------------------------------------------------------

    def made(self) -> tuple[Plan, Job]:
        """The plan, and the kernel's job."""
        plan = self._plan()
        return plan, self._job(plan.lattice, plan.batch)

    def _plan(self) -> Plan:
        """Patch, engine, batch and block, in this order; then the check of reduced precision."""
        open_choice = any(p is None for p in self.patch)
        found, budget = self._best_threads()
        nothing: tuple[None, ...] = (None,) * len(self.axes)
        others = None if open_choice and not any(self.block) else self._lattices(nothing, nothing, budget)
        time = Measuring(speed.SECONDS if self.wishes.calibrate else engine_choice.SECONDS)
        engine = self._engine(found.lattices[0], time.first(ENGINES_SHARE) if self.wishes.calibrate else time)
        if self.wishes.calibrate:
            kept = found if open_choice else replace(found, lattices=found.lattices[:1])
            made = self._calibrated(engine, kept, others.lattices if others else [], budget, time)
        else:
            made = self._plan_of(found, self.batch, budget, engine)
            made = replace(made, best=min(1.0, others.computed / found.computed) if others else 1.0)
        if self.reduced is None and self.overlap is None:
            confirm(self.model, self.trace, made.lattice)
        return made if self.precision == "fp32" else replace(made, check=self._checked(made))

    def _best_threads(self) -> tuple[Found, Budget]:
        """As `_affordable`; where memory is given and threads are open, with fewer kernels of more threads each if the
        larger patches or blocks that then fit save enough."""
        if self.wishes.memory is None or self.wishes.threads is not None or self.place.device != "cpu":
            return self._affordable()
        (found, budget), threads = self._affordable(), 1
        least = self._longest(found, budget)
        for more in (t for t in range(2, cores() + 1) if cores() % t == 0):
            self._use_threads(more)
            other, other_budget = self._affordable()
            if (longest := self._longest(other, other_budget) / more) < WORTH_THREADS * least:
                found, budget, threads, least = other, other_budget, more, longest
        self._use_threads(threads)
        return found, budget

    def _longest(self, found: Found, budget: Budget) -> float:
        """Patch voxels that the kernel which ends last may have to compute."""
        lattice = found.lattices[0]
        return most_patches(lattice, self._block(found, budget), self.kernels) * prod(lattice.patch)

    def _affordable(self) -> tuple[Found, Budget]:
        """Lattices, the best first, that fit into the memory given, and the budget that they keep."""
        wishes, place = self.wishes, self.place
        budget = _budget(
            wishes.memory_bytes(), self.batch, self.kernels, self.slots, self.model, self.overlap is not None
        )
        if wishes.calibrate and place.device_memory:  # a GPU's own memory is what bounds its patches
            budget = replace(budget, activations=int(0.7 * place.device_memory) // self.kernels // self.batch)
        found = self._lattices(self.patch, self.block, budget)
        # "auto" may take the engine with the largest libraries.
        undecided = EngineChoice(LARGEST_ENGINE if self.asked_engine == AUTO else self.asked_engine, "")
        bounded = wishes.memory is not None or wishes.calibrate
        for _ in range(24):  # the budget is a guess, the plan's sum decides
            if not bounded or self._plan_of(found, self.batch, budget, undecided).fits:
                break
            budget = Budget(max(1, int(0.9 * budget.activations)), max(1, int(0.9 * budget.block)))
            found = self._lattices(self.patch, self.block, budget)
        return found, budget

    def _lattices(self, patch: Sequence[int | None], block: Sequence[int | None], budget: Budget) -> Found:
        """Lattices, the best first, and the chunks of which blocks are whole numbers."""
        anything = (1,) * len(self.axes)
        search = self._exact(patch, block, budget) if self.overlap is None else self._blended(patch, block, budget)
        free, unit = search(anything), self.wishes.shards or self.wishes.chunks
        found = search(tuple(unit)) if unit else aligned(self._rooms(free.lattices[0], patch, block), search, free)
        return replace(found, freest=min(1.0, free.computed / found.computed))

    def _exact(
        self, patch: Sequence[int | None], block: Sequence[int | None], budget: Budget
    ) -> Callable[[tuple[int, ...]], Found]:
        """From chunks to lattices of clean zones."""
        share = activation_share(self.asked_engine, self.precision) if self.place.device == "cpu" else 1.0
        network = _searched(self.model, self.trace, self.axes, self.shape, share, self._bytes_per_voxel())
        most = CONSIDERED if self.wishes.calibrate else 1
        return lambda chunks: exact_lattices(network, patch, block, self.halves, budget, chunks, most)

    def _blended(
        self, patch: Sequence[int | None], block: Sequence[int | None], budget: Budget
    ) -> Callable[[tuple[int, ...]], Found]:
        """From chunks to lattices of overlapping patches, which are the same for all."""
        lattices = _blended_lattices(self.model, self.trace, self.axes, self.shape, patch, self.overlap or ())
        best, bytes_per_voxel = lattices[0], self._bytes_per_voxel()

        def search(chunks: tuple[int, ...]) -> Found:
            cut = choose_block(best, bytes_per_voxel, block, budget, self.kernels, chunks)
            cost = most_patches(best, cut, self.kernels)
            over = max(0.0, prod(cut) * bytes_per_voxel / budget.block - 1)
            return Found(lattices, chunks, over, cost, int(most_patches(best, cut, 1)) * prod(best.patch))

        return search

    def _rooms(self, free: PatchLattice, patch: Sequence[int | None], block: Sequence[int | None]) -> list[Room]:
        """What the chunks of the output should be along each axis."""
        contracts, output = (
            self.trace.axes,
            [c.output_size(n) for c, n in zip(self.trace.axes, self.shape, strict=True)],
        )
        size = {d: v * float(c.stride) for d, v, c in zip(self.axes, self.stored.voxel_size, contracts, strict=True)}
        wanted, rooms = default_chunks(output, self.axes, size), []
        for d, name in enumerate(self.axes):
            zone = free.axes[d].zone if patch[d] or self.overlap else None
            rooms.append(Room(name, output[d], wanted[d], block[d], zone))
        return rooms

    def _bytes_per_voxel(self) -> int:
        """Of the output in the network's own type, all channels."""
        return self.output.channels_of(self.trace.channels_out) * np.dtype(self.compute).itemsize

    def _engine(self, lattice: PatchLattice, time: Measuring) -> EngineChoice:
        setup = self._setup(lattice, self.batch)
        if self.cpu_engine:
            require(self.cpu_engine, self.model, replace(setup, device="cpu", precision="fp32"))
        clocks = {name: self._clock(name, time) for name in ENGINES}
        return choose_engine(
            self.asked_engine,
            self.model,
            setup,
            seconds=lambda name: clocks[name].batch_seconds(lattice, self.batch),
            known=lambda name: clocks[name].known(lattice, self.batch),
            time=time,
        )

    def _calibrated(
        self,
        engine: EngineChoice,
        found: Found,
        others: list[PatchLattice],
        budget: Budget,
        time: Measuring,
    ) -> Plan:
        clock, fixed = self._clock(engine.engine, time), self.wishes.batch is not None
        lattice, batch, seconds = clock.fastest(found.lattices, self.batch, fixed=fixed)
        best = 1.0
        if others:
            other, other_batch, other_seconds = clock.fastest(others, batch, fixed=True)
            best = min(1.0, other_seconds * len(other) / other_batch / (seconds * len(lattice) / batch))
        minutes = self.wishes.max_block_minutes
        most = inf if not minutes else 60 * minutes / seconds * batch
        made = self._plan_of(replace(found, lattices=[lattice]), batch, budget, engine, most)
        return replace(made, best=best, speed=clock.speed(made, seconds, self.read))

    def _checked(self, plan: Plan) -> PrecisionCheck | None:
        """Reduced precision on samples of the volume; None where this process lacks the device."""
        if plan.device == "cuda" and self.place.device_memory is None:
            return None
        model = self.model
        # In a kernel's thread: what an engine allocates for a thread is then what the run's kernels use.
        return kernel_threads(plan.device, self.kernels).run(
            lambda: check_precision(
                self._job(plan.lattice, plan.batch),
                self.precision,
                model.network(plan.device),
                lambda crop: open_network(model, self._setup(crop, 1), plan.engine),
                self.read,
                (model.digest, plan.engine, plan.threads, plan.device, plan.normalize, self.source, plan.lattice.patch),
            )
        )

    # ---- what the steps are made of -----------------------------------------------------------------------------

    def _clock(self, engine: str, time: Measuring) -> Calibration:
        return Calibration(self._job, self._setup, self.model, engine, self.dtype_in, time)

    def _setup(self, lattice: PatchLattice, batch: int) -> Setup:
        patch = (batch, self.trace.channels_in, *lattice.patch)
        return Setup(patch, self.place.device, self.threads, self.kernels, self.compute, self.precision)

    def _job(self, lattice: PatchLattice, batch: int) -> Job:
        return Job(
            lattice=lattice, window=self.window, normalize=self.normalize, channels_in=self.trace.channels_in,
            channels_out=self.trace.channels_out, compute=np.dtype(self.compute), dtype=self.dtype, batch=batch,
            device=self.place.device, threads=self.threads, output=self.output, empty=self.empty, fill=self.fill,
        )  # fmt: skip

    def _skips(self) -> dict[str, Any] | None:
        """What is left out, without the mask, which is laid on the result by whoever knows where both are."""
        if self.wishes.mask is None and self.empty is None:
            return None
        return {"empty": self.empty, "fill": self.fill}

    def _block(self, found: Found, budget: Budget, most: float = inf) -> tuple[int, ...]:
        """The block, of so many patches at most."""
        lattice = found.lattices[0]
        return choose_block(lattice, self._bytes_per_voxel(), self.block, budget, self.kernels, found.chunks, most)

    def _layout(self, lattice: PatchLattice, channels: int, block: Sequence[int], chunks: Sequence[int]) -> Layout:
        """How `save` stores the output unless it is told otherwise."""
        wishes = {"chunks": self.wishes.chunks, "shards": self.wishes.shards}
        asked = {name: (channels, *sizes) for name, sizes in wishes.items() if sizes}
        shape, dims = (channels, *lattice.output), ("c", *self.axes)
        return choose_layout("plan.zarr", "zarr3", shape, dims, (channels, *block), asked, (channels, *chunks))

    def _plan_of(self, found: Found, batch: int, budget: Budget, engine: EngineChoice, most: float = inf) -> Plan:
        model, trace, wishes, lattice = self.model, self.trace, self.wishes, found.lattices[0]
        channels = self.output.channels_of(trace.channels_out)
        blocks = self._block(found, budget, most)
        if wishes.halves is None:  # else an earlier plan chose both
            _check_block(lattice, self.patch, self.block, self.axes)
        return Plan(
            axes=self.axes,
            lattice=lattice,
            overlap=None if self.overlap is None else tuple(a.patch - a.step for a in lattice.axes),
            context=tuple((c.low, c.high) for c in self.traced.axes) if self.traced.exact else None,
            pad=wishes.pad,
            reduced=None if self.reduced is None else tuple(max(c.low, c.high) for c in self.reduced),
            block=blocks,
            window=self.window,
            batch=batch,
            normalize=describe_normalize(self.normalize),
            channels_in=trace.channels_in,
            network_channels=trace.channels_out,
            channels_out=channels,
            output=self.output.describe() or None,
            skips=self._skips(),
            dtype_in=str(self.dtype_in),
            dtype=str(self.dtype),
            compute=self.compute,
            precision=self.precision,
            tolerance=self.tolerance,
            check=None,
            engine=engine.engine,
            engine_why=engine.why,
            cpu_engine=self.cpu_engine,
            device=self.place.device,
            threads=self.threads,
            kernels=self.kernels,
            model=model.name,
            digest=model.digest,
            doubt=model.doubt,
            network_output=model.output,
            augmentation=None if model.augmentation is None else model.augmentation.describe(),
            model_bytes=model.parameter_bytes(),
            own_bytes=model.parameter_bytes() if self.place.calling and model.is_copy else 0,
            forward=model_pass(model, trace, lattice.patch, batch),
            reasons=tuple(f"{r.layer}: {r.text}" for r in trace.reasons),
            probed=trace.probed,
            source_chunks=self.stored.chunks,
            source_shards=self.stored.shards,
            source_channels=self.stored.channels,
            source_decoded=self.stored.decoded,
            layout=self._layout(lattice, channels, blocks, found.chunks),
            slots=self.slots,
            limit=wishes.memory_bytes() or self.place.memory,
            device_limit=self.place.device_memory,
            best=1.0,
            freest=found.freest,
            speed=None,
            max_block_minutes=wishes.max_block_minutes,
            workers=1,
            prices=None,
            asked=wishes.asked(),
        )


def _budget(memory: int | None, batch: int, kernels: int, slots: int, model: Model, blended: bool) -> Budget:
    """The default budgets, or, of the memory given, the most that there can be for activations."""
    default = Budget()
    if memory is None:
        return Budget(default.activations // batch, default.block)
    free = max(memory - LIBRARIES - KEPT - model.parameter_bytes() - CACHE_BYTES, 1)
    activations = int(free * 0.95 / kernels / batch)
    # An exact patch takes what it can get and a block little; a blended patch is given, and large blocks save work.
    block = int(free / 2 / (slots + 2)) if blended else min(default.block, int(free / 4 / (slots + 2)))
    return Budget(max(activations, 1), max(block, 1))


def _searched(
    model: Model, trace: Trace, axes: tuple[str, ...], shape: Sequence[int], share: float, output: int
) -> Network:
    """What a search knows of a network; ``share`` of torch's activations is what the engine takes."""
    # Never beyond the volume: a network may take the length that is there, and none that is longer.
    probe = [
        c.accepted_at_least(min(max(48, c.low + c.high + c.period), n)) for c, n in zip(trace.axes, shape, strict=True)
    ]
    per_voxel = share * model_pass(model, trace, probe).tensors / prod(probe)
    return Network(tuple(trace.axes), tuple(shape), axes, per_voxel, output)


def _reduced(trace: Trace, halo: Sequence[int | None]) -> tuple[AxisContract, ...] | None:
    """The contracts with less context than was traced; None where that is no less.

    A valid network's output is smaller than its input by its crop, which no reduction gives back.
    """
    contracts = []
    for c, h in zip(trace.axes, halo, strict=True):
        if h is None:
            contracts.append(c)
        elif trace.exact:
            contracts.append(replace(c, low=min(c.low, h), high=min(c.high, max(h, ceil(sum(c.crop))))))
        else:  # the context is unknown, so what is asked for is all there is
            contracts.append(replace(c, low=h, high=max(h, ceil(sum(c.crop)))))
    return None if trace.exact and tuple(contracts) == trace.axes else tuple(contracts)


def _blended_lattices(
    model: Model,
    trace: Trace,
    axes: tuple[str, ...],
    shape: Sequence[int],
    patch: Sequence[int | None],
    overlap: Sequence[int | None],
) -> list[PatchLattice]:
    """The lattice of overlapping patches; axes without an overlap have none. Then larger patches, if they are open."""
    refuse_training(model, trace)
    found = []
    for times in (1, 1.5, 2, 3):
        lattices = []
        for c, n, p, o, axis in zip(trace.axes, shape, patch, overlap, axes, strict=True):
            least = choose_blended_patch(c, n, o or 0)
            larger = c.accepted_at_least(ceil(times * least))
            lattices.append(blended_axis(c, n, p or (larger if larger <= max(n, least) else least), o or 0, axis))
        found.append(PatchLattice(tuple(lattices)))
    return list({lattice.patch: lattice for lattice in found}.values())


def describe_normalize(normalize: Normalize) -> str:
    """The scaling in words; a callable by its name and its code, so that another one is another run."""
    if isinstance(normalize, Affine):
        if normalize == Affine():
            return "as they are"
        offset, scale = (repr(v).removesuffix(".0") for v in (float(normalize.offset), float(normalize.scale)))
        return f"(value - {offset}) / {scale}"
    return describe_function(normalize)


def _check_output(contracts: Sequence[AxisContract], shape: Sequence[int], names: Sequence[str]) -> None:
    """A volume may be smaller than what a valid network crops."""
    for c, n, name in zip(contracts, shape, names, strict=True):
        if not c.output_size(n):
            least = next(size for size in itertools.count(n) if c.output_size(size))
            raise PlanError(
                f"The network gives no output for {n} voxels along {name}.",
                f"It crops {sum(c.crop)} voxels there, so it needs {least} or more.",
                ["take a larger part of the volume", f"volume.pad({name}={least - n}, mode='edge')"],
            )


def _check_block(
    lattice: PatchLattice, patch: Sequence[int | None], block: Sequence[int | None], names: Sequence[str]
) -> None:
    """Where the caller gives both, exact blocks are whole zones, so that no patch runs twice; where only the block, it
    is a multiple of what zones are."""
    if not lattice.exact:
        return
    for name, axis, p, b in zip(names, lattice.axes, patch, block, strict=True):
        zone = axis.zone if p else int(axis.contract.period / axis.stride)
        if b and b < axis.output and b % zone:
            near = dict.fromkeys(n for n in (b // zone * zone, -(-b // zone) * zone) if n)
            raise PlanError(
                f"A block of {b} voxels on axis {name} is not a multiple of the patch's clean zone, {zone}.",
                "Patches at such cuts would run twice: 2 to 8 times the work.",
                [
                    *(f"block={{{name!r}: {n}}}" for n in near),
                    "leave patch= out: the plan chooses one whose clean zone divides the block",
                ],
            )


def grid_for_exchange(plan: Plan) -> BlockGrid:
    """Blocks for map_overlap, which takes a halo from the next neighbour only: none is thinner than the halo.

    Blocks grow by whole blocks until they hold the halo, and a thin tail joins its neighbour. Thin is what has few
    input voxels: a strided network's last output voxel may stand for less than a whole stride of them.
    """
    thinnest, block = [], []
    for axis, b, (low, high) in zip(plan.lattice.axes, plan.block, plan.halo, strict=True):
        need = max(low, high, 1)
        last_start = ceil((axis.size - need + 1) / axis.stride) - 1
        thinnest.append(max(1, axis.output - last_start))
        block.append(-(-ceil(need / axis.stride) // b) * b)
    return BlockGrid.regular(plan.lattice.output, block, thinnest)
