"""From what the caller asked for to a plan."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import count
from math import ceil, inf, prod
from typing import TYPE_CHECKING, Any

import numpy as np

from chunkinfer.errors import ModelError, NotExact, PlanError
from chunkinfer.geometry import AxisContract, BlockGrid, Box, PatchLattice, blended_axis, round_up
from chunkinfer.kernel import WINDOWS, Affine, Job, Normalize, cores
from chunkinfer.models import Model
from chunkinfer.models.activations import ForwardPass, forward_pass
from chunkinfer.planning.calibration import Calibration
from chunkinfer.planning.forms import PerAxis, byte_count, per_axis
from chunkinfer.planning.layout import Layout, choose_layout
from chunkinfer.planning.memory import KEPT, LIBRARIES
from chunkinfer.planning.plan import Plan
from chunkinfer.planning.search import Budget, choose_blended_patch, choose_block, exact_lattices
from chunkinfer.storage.store import CACHE_BYTES

if TYPE_CHECKING:
    from chunkinfer.models.trace import Reason, Trace

PRECISIONS = {"fp32": None, "bf16": "bfloat16", "fp16": "float16"}
"""Names of precisions and torch's names of their types."""


@dataclass(frozen=True)
class Wishes:
    """The arguments of `infer` that shape a plan, as the caller gave them; None leaves a choice to the plan."""

    patch: PerAxis = None
    overlap: PerAxis = None
    halo: PerAxis = None
    block: PerAxis = None
    window: str | None = None
    batch: int | None = None
    dtype: Any = None
    precision: str | None = None
    threads: int | None = None
    device: str | None = None
    normalize: Any = None
    memory: int | str | None = None
    slots: int | None = None
    max_block_minutes: float | None = None
    calibrate: bool = False

    def memory_bytes(self) -> int | None:
        """The memory of a worker process, in bytes; None where it was left open."""
        return None if self.memory is None else byte_count("memory", self.memory)

    def asked(self) -> tuple[str, ...]:
        """Names of the arguments that were given."""
        return tuple(name for name, value in vars(self).items() if value not in (None, False))


@dataclass(frozen=True)
class Stored:
    """How the volume is stored: chunks and shards of its spatial axes, in voxels, and channels of a chunk."""

    chunks: tuple[int, ...]
    shards: tuple[int, ...] | None = None
    channels: int = 1


@dataclass(frozen=True)
class Place:
    """Where a run will take place, as far as is known."""

    device: str
    """cpu or cuda."""
    slots: int | None = None
    """Blocks in flight in one process."""
    memory: int | None = None
    """Bytes of one process."""
    device_memory: int | None = None
    """Bytes of its GPU."""


def make_plan(
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
) -> Plan:
    """Resolve every choice of a run.

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
        Reads a box of the volume, for calibration.

    Raises
    ------
    NotExact
        No overlap was given, and the network cannot be tiled exactly.
    PlanError
        A number does not fit the network or the volume.
    """
    patch = per_axis("patch", wishes.patch, axes, 1)
    overlap = None if wishes.overlap is None else per_axis("overlap", wishes.overlap, axes, 0)
    halo = None if wishes.halo is None else per_axis("halo", wishes.halo, axes, 0)
    block = per_axis("block", wishes.block, axes, 1)
    threads = _count("threads", wishes.threads)
    slots = None if wishes.slots is None else positive("slots", wishes.slots)
    kernels = max(1, cores() // threads) if place.device == "cpu" else 1
    slots = slots or place.slots or kernels + 1
    _check_minutes(wishes.max_block_minutes, wishes.calibrate)
    window = _one_of("window", wishes.window or "hann", WINDOWS)
    precision = _one_of("precision", wishes.precision or "fp32", PRECISIONS)
    compute = model.compute_dtype()
    if compute == "float64" and precision != "fp32":
        raise PlanError(
            f"precision={precision!r} and a network in double precision contradict each other.",
            "",
            ["model.float()", "leave precision= out"],
        )
    _check_output(trace.axes, shape, axes)
    traced, reduced = trace.axes, None
    if halo is not None:
        _refuse_both(overlap)
        reduced = _reduced(trace, halo)
    if reduced:
        _refuse_training(model, trace)
        trace = replace(trace, axes=reduced)
    if not (trace.exact or overlap is not None or reduced):
        raise NotExact(*_not_exact(model, trace, axes))
    dtype = _result_dtype(wishes.dtype, compute)

    def job(lattice: PatchLattice, batch: int) -> Job:
        return Job(
            lattice=lattice, window=window, normalize=normalize, channels_in=trace.channels_in,
            channels_out=trace.channels_out, compute=np.dtype(compute), dtype=dtype, batch=batch, device=place.device,
            threads=threads, autocast=PRECISIONS[precision],
        )  # fmt: skip

    def plan_of(lattice: PatchLattice, batch: int, budget: Budget, most_patches: float = inf) -> Plan:
        size = np.dtype(compute).itemsize
        blocks = choose_block(lattice, trace.channels_out, size, block, budget, most_patches)
        _check_block(lattice, blocks, axes)
        return Plan(
            axes=axes,
            lattice=lattice,
            overlap=None if overlap is None else tuple(a.patch - a.step for a in lattice.axes),
            context=tuple((c.low, c.high) for c in traced) if trace.exact else None,
            reduced=None if reduced is None else tuple(max(c.low, c.high) for c in reduced),
            block=blocks,
            window=window,
            batch=batch,
            normalize=describe_normalize(normalize),
            channels_in=trace.channels_in,
            channels_out=trace.channels_out,
            dtype_in=str(dtype_in),
            dtype=str(dtype),
            compute=compute,
            precision=precision,
            device=place.device,
            threads=threads,
            kernels=min(kernels, slots),
            model=model.name,
            digest=model.digest,
            model_bytes=model.parameter_bytes(),
            forward=_forward(model, trace, lattice.patch, batch),
            reasons=tuple(f"{r.layer}: {r.text}" for r in trace.reasons),
            source_chunks=stored.chunks,
            source_shards=stored.shards,
            source_channels=stored.channels,
            layout=_layout(lattice, axes, trace.channels_out, blocks),
            slots=slots,
            limit=wishes.memory_bytes() or place.memory,
            device_limit=place.device_memory,
            best=1.0,
            speed=None,
            max_block_minutes=wishes.max_block_minutes,
            workers=1,
            prices=None,
            asked=wishes.asked(),
        )

    def lattices(given: Sequence[int | None], blocks: Sequence[int | None], budget: Budget) -> list[PatchLattice]:
        if overlap is None:
            return _exact_lattices(model, trace, axes, shape, given, blocks, budget)
        return _blended_lattices(model, trace, axes, shape, given, overlap)

    batch = _count("batch", wishes.batch)
    nothing: tuple[None, ...] = (None,) * len(axes)
    budget = _budget(wishes.memory_bytes(), batch, min(kernels, slots), slots, model)
    if wishes.calibrate and place.device_memory:  # a GPU's own memory is what bounds its patches
        budget = replace(budget, activations=int(0.7 * place.device_memory) // kernels // batch)
    found = lattices(patch, block, budget)
    for _ in range(8):  # the budget is a guess, the plan's sum decides
        if (wishes.memory is None and not wishes.calibrate) or plan_of(found[0], batch, budget).fits:
            break
        budget = Budget(max(1, int(0.8 * budget.activations)), max(1, int(0.8 * budget.block)))
        found = lattices(patch, block, budget)
    open_choice = any(p is None for p in patch)
    others = [] if open_choice and not any(block) else lattices(nothing, nothing, budget)
    if not wishes.calibrate:
        if reduced is None and overlap is None:
            _confirm(model, trace, found[0])
        made = plan_of(found[0], batch, budget)
        return replace(made, best=min([1.0, *(computed(o) / computed(found[0]) for o in others[:1])]))
    clock = Calibration(job, model, place.device, min(kernels, slots), trace.channels_in, dtype_in, precision, threads)
    lattice, batch, seconds = clock.fastest(found if open_choice else found[:1], batch, fixed=wishes.batch is not None)
    if reduced is None and overlap is None:
        _confirm(model, trace, lattice)
    best = 1.0
    if others:
        other, other_batch, other_seconds = clock.fastest(others, batch, fixed=True)
        best = min(1.0, other_seconds * len(other) / other_batch / (seconds * len(lattice) / batch))
    most = inf if not wishes.max_block_minutes else 60 * wishes.max_block_minutes / seconds * batch
    made = plan_of(lattice, batch, budget, most)
    return replace(made, best=best, speed=clock.speed(made, seconds, read))


def _check_minutes(minutes: float | None, calibrate: bool) -> None:
    if minutes is None or (calibrate and minutes > 0):
        return
    raise PlanError(
        f"max_block_minutes={minutes!r} "
        + ("is no duration." if calibrate else "needs the speed of a block, which is not known before calibrate=True."),
        "",
        ["infer(volume, model, calibrate=True, max_block_minutes=30)", "leave max_block_minutes= out"],
    )


def computed(lattice: PatchLattice) -> int:
    """Patch voxels that a network sees on all patches: the model of the cost where nothing was measured."""
    return len(lattice) * prod(lattice.patch)


def _budget(memory: int | None, batch: int, kernels: int, slots: int, model: Model) -> Budget:
    """The default budgets, or about what fits into the memory given: two thirds of it for activations."""
    default = Budget()
    if memory is None:
        return Budget(default.activations // batch, default.block)
    free = max(memory - LIBRARIES - KEPT - model.parameter_bytes() - CACHE_BYTES, 1)
    activations = int(free * 2 / 3 / kernels / batch)
    return Budget(max(activations, 1), max(1, min(default.block, int(free / 4 / (slots + 2)))))


def _layout(lattice: PatchLattice, axes: Sequence[str], channels: int, block: Sequence[int]) -> Layout:
    """How `save` stores the output unless it is told otherwise."""
    shape = (channels, *lattice.output)
    return choose_layout("plan.zarr", "zarr3", shape, ("c", *axes), (channels, *block), {})


def _exact_lattices(
    model: Model,
    trace: Trace,
    axes: tuple[str, ...],
    shape: Sequence[int],
    patch: Sequence[int | None],
    block: Sequence[int | None],
    budget: Budget,
) -> list[PatchLattice]:
    """Lattices of clean zones, those that compute least first, with what the caller gave kept."""
    probe = [c.accepted_at_least(max(48, c.low + c.high + c.period)) for c in trace.axes]
    per_voxel = _forward(model, trace, probe).tensors / prod(probe)
    return exact_lattices(trace.axes, shape, axes, per_voxel, patch, block, budget)


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


def _refuse_both(overlap: Sequence[int | None] | None) -> None:
    if overlap is not None:
        raise PlanError(
            "halo= and overlap= contradict each other.",
            "A halo is cut off each patch's output; an overlap is blended.",
            ["infer(volume, model, halo=8)", "infer(volume, model, overlap=(4, 64, 64))"],
        )


def _blended_lattices(
    model: Model,
    trace: Trace,
    axes: tuple[str, ...],
    shape: Sequence[int],
    patch: Sequence[int | None],
    overlap: Sequence[int | None],
) -> list[PatchLattice]:
    """The lattice of overlapping patches; axes without an overlap have none. Then larger patches, if they are open."""
    _refuse_training(model, trace)
    found = []
    for times in (1, 1.5, 2, 3):
        lattices = []
        for c, n, p, o, axis in zip(trace.axes, shape, patch, overlap, axes, strict=True):
            least = choose_blended_patch(c, n, o or 0)
            larger = c.accepted_at_least(ceil(times * least))
            lattices.append(blended_axis(c, n, p or (larger if larger <= max(n, least) else least), o or 0, axis))
        found.append(PatchLattice(tuple(lattices)))
    return list({lattice.patch: lattice for lattice in found}.values())


@lru_cache(maxsize=256)
def _forward_of(model: Model, channels: int, patch: tuple[int, ...], batch: int) -> ForwardPass:
    return forward_pass(model.module_on("cpu"), channels, patch, model.compute_dtype(), batch)


def _forward(model: Model, trace: Trace, patch: Sequence[int], batch: int = 1) -> ForwardPass:
    return _forward_of(model, trace.channels_in, tuple(patch), batch)


def _confirm(model: Model, trace: Trace, lattice: PatchLattice) -> None:
    """Trace the chosen patch at its own size: what holds at one size is not believed of another."""
    from chunkinfer.models.trace import check_patch

    if len(lattice) == 1:
        return
    clean = [
        None if len(a.starts) == 1 else (low := round_up(a.contract.low, a.contract.period), low + a.step)
        for a in lattice.axes
    ]
    # An axis that one patch spans has no cut to check; there a thin one would only hide what the other axes read.
    sizes = []
    for a, zone in zip(lattice.axes, clean, strict=True):
        c = a.contract
        sizes.append(a.patch if zone else c.accepted_at_least(max(a.patch, c.low + c.high + 4 * c.period)))
    reasons = check_patch(model.module_on("cpu"), trace, trace.channels_in, sizes, clean)
    if reasons:
        raise NotExact(
            f"{model.name} cannot be tiled exactly with patches of {lattice.patch} voxels: {reasons[0].text}.",
            "Its context at this size is another than the one that was traced.",
            ["choose another patch: infer(volume, model, patch=...)", "blend: infer(volume, model, overlap=...)"],
        )


def describe_normalize(normalize: Normalize) -> str:
    """The scaling in words; a callable by its name and its code, so that another one is another run."""
    if isinstance(normalize, Affine):
        if normalize == Affine():
            return "as they are"
        offset, scale = (repr(v).removesuffix(".0") for v in (float(normalize.offset), float(normalize.scale)))
        return f"(value - {offset}) / {scale}"
    import hashlib

    import cloudpickle

    code = hashlib.blake2b(cloudpickle.dumps(normalize), digest_size=8).hexdigest()
    return f"{getattr(normalize, '__qualname__', type(normalize).__name__)} {code}"


def _count(name: str, value: Any) -> int:
    """1 where the caller left it open."""
    return 1 if value is None else positive(name, value)


def positive(name: str, value: Any) -> int:
    """A whole number from 1 on, or `PlanError`."""
    if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < 1:
        raise PlanError(
            f"{name}={value!r} is no count.", "It is a whole number, 1 or more.", [f"{name}=1", f"leave {name}= out"]
        )
    return int(value)


def _one_of(name: str, value: str, table: dict[str, Any]) -> str:
    if not isinstance(value, str) or value not in table:
        raise PlanError(
            f"{name}={value!r} is not known.", f"There are: {', '.join(table)}.",
            [f"{name}={next(iter(table))!r}", f"leave {name}= out"],
        )  # fmt: skip
    return value


def _result_dtype(asked: Any, compute: str) -> np.dtype[Any]:
    if asked is None:
        return np.dtype(compute)
    ways = ['dtype="uint8" quantises [0, 1] to [0, 255]', 'dtype="float16" halves the bytes']
    try:
        dtype: np.dtype[Any] = np.dtype(asked)
    except TypeError:
        raise PlanError(f"dtype={asked!r} is no dtype.", "", ways) from None
    if dtype != np.uint8 and dtype.kind != "f":
        raise PlanError(f"A network's output cannot be stored as {dtype}.", "It holds real numbers.", ways)
    return dtype


def _check_output(contracts: Sequence[AxisContract], shape: Sequence[int], names: Sequence[str]) -> None:
    """A volume may be smaller than what a valid network crops."""
    for c, n, name in zip(contracts, shape, names, strict=True):
        if not c.output_size(n):
            least = next(size for size in count(n) if c.output_size(size))
            raise PlanError(
                f"The network gives no output for {n} voxels along {name}.",
                f"It crops {sum(c.crop)} voxels there, so it needs {least} or more.",
                ["take a larger part of the volume", f"volume.pad({name}={least - n}, mode='edge')"],
            )


def _check_block(lattice: PatchLattice, block: Sequence[int], names: Sequence[str]) -> None:
    """Exact blocks are whole zones, so that no patch runs twice."""
    if not lattice.exact:
        return
    for name, axis, b in zip(names, lattice.axes, block, strict=True):
        if b < axis.output and b % axis.zone:
            down, up = b // axis.zone * axis.zone, -(-b // axis.zone) * axis.zone
            raise PlanError(
                f"A block of {b} voxels on axis {name} is not a multiple of the patch's clean zone, {axis.zone}.",
                "Patches at such cuts would run twice: 2 to 8 times the work.",
                [
                    f"take a block of {down or up} or {up} on this axis",
                    "leave patch= out: the plan chooses one whose clean zone divides the block",
                ],
            )


def _not_exact(model: Model, trace: Trace, axes: tuple[str, ...]) -> tuple[str, str, list[str]]:
    """What `NotExact` says: the layers, why, and the line to paste."""
    training = _training(trace)
    layers: dict[str, list[str]] = {}
    for reason in trace.reasons:
        layers.setdefault(reason.text, []).append(reason.layer)
    lines = []
    for text, names in layers.items():
        more = f" and {len(names) - 2} more" if len(names) > 2 else ""
        lines.append(f"  {', '.join(names[:2])}{more}: {text}")
    reasons = "\n".join(lines)
    overlap = (4, 64, 64) if len(axes) == 3 else (64,) * len(axes)
    return (
        f"{model.name} cannot be tiled exactly:\n{reasons}",
        "Its output at a voxel depends on more than a bounded neighbourhood, so every cut changes it.",
        ["put it in inference mode first: model.eval()", "then infer(volume, model)"]
        if training
        else [
            f"blend overlapping patches: infer(volume, model, overlap={overlap})",
            "replace the layer by one with local context (BatchNorm in eval mode, for instance) and train again",
        ],
    )


def _training(trace: Trace) -> Reason | None:
    """The layer whose mode is to blame: the tracer's reason then says what to call, as it does for no other."""
    return next((reason for reason in trace.reasons if "model.eval()" in reason.text), None)


def _refuse_training(model: Model, trace: Trace) -> None:
    """Blending cannot mend a network in train mode: each forward pass changes it."""
    if reason := _training(trace):
        raise ModelError(
            f"{model.name} is in train mode: {reason.layer}: {reason.text}",
            "Its results change from patch to patch and from run to run.",
            ["model.eval()", "save it in eval mode: torch.jit.save(torch.jit.trace(model.eval(), x), path)"],
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
