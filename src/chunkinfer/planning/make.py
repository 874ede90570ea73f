"""From what the caller asked for to a plan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import count
from math import ceil, prod
from typing import TYPE_CHECKING, Any

import numpy as np

from chunkinfer.errors import ModelError, NotExact, PlanError
from chunkinfer.geometry import AxisContract, BlockGrid, PatchLattice, blended_axis, round_up
from chunkinfer.kernel import WINDOWS, Affine, Normalize, cores
from chunkinfer.models import Model
from chunkinfer.models.activations import activation_bytes
from chunkinfer.planning.forms import PerAxis, per_axis
from chunkinfer.planning.plan import Plan
from chunkinfer.planning.search import choose_blended_patch, choose_block, choose_exact

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

    def asked(self) -> tuple[str, ...]:
        """Names of the arguments that were given."""
        return tuple(name for name, value in vars(self).items() if value is not None)


def make_plan(
    wishes: Wishes,
    *,
    axes: tuple[str, ...],
    shape: Sequence[int],
    source_chunks: Sequence[int],
    dtype_in: np.dtype[Any],
    model: Model,
    trace: Trace,
    normalize: Normalize,
    device: str,
) -> Plan:
    """Resolve every choice of a run.

    Parameters
    ----------
    wishes
        What the caller asked for.
    axes, shape, source_chunks
        Names, voxels and chunk voxels of the volume's spatial axes.
    dtype_in
        dtype of the volume.
    model, trace
        The network and what was traced from it.
    normalize, device
        Already resolved.

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
    batch = _count("batch", wishes.batch)
    threads = _count("threads", wishes.threads)
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
    if overlap is None:
        lattice = _exact_lattice(model, trace, axes, shape, patch, block, reduced is not None)
    else:
        lattice = _blended_lattice(model, trace, axes, shape, patch, overlap)
    dtype = _result_dtype(wishes.dtype, compute)
    blocks = choose_block(lattice, trace.channels_out, np.dtype(compute).itemsize, block)
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
        device=device,
        threads=threads,
        kernels=max(1, cores() // threads) if device == "cpu" else 1,
        model=model.name,
        digest=model.digest,
        model_bytes=model.parameter_bytes(),
        activations=_activations(model, trace, lattice.patch) * batch,
        reasons=tuple(f"{r.layer}: {r.text}" for r in trace.reasons),
        source_chunks=tuple(source_chunks),
        asked=wishes.asked(),
    )


def _exact_lattice(
    model: Model,
    trace: Trace,
    axes: tuple[str, ...],
    shape: Sequence[int],
    patch: Sequence[int | None],
    block: Sequence[int | None],
    reduced: bool,
) -> PatchLattice:
    """The lattice of clean zones that computes least, with what the caller gave kept; confirmed at its patch's own size
    unless its context was reduced on purpose."""
    if not (trace.exact or reduced):
        raise NotExact(*_not_exact(model, trace, axes))
    probe = [c.accepted_at_least(max(48, c.low + c.high + c.period)) for c in trace.axes]
    per_voxel = _activations(model, trace, probe) / prod(probe)
    lattice = choose_exact(trace.axes, shape, axes, per_voxel, patch, block)
    if not reduced:
        _confirm(model, trace, lattice)
    return lattice


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


def _blended_lattice(
    model: Model,
    trace: Trace,
    axes: tuple[str, ...],
    shape: Sequence[int],
    patch: Sequence[int | None],
    overlap: Sequence[int | None],
) -> PatchLattice:
    """The lattice of overlapping patches; axes without an overlap have none."""
    _refuse_training(model, trace)
    lattices = []
    for c, n, p, o, axis in zip(trace.axes, shape, patch, overlap, axes, strict=True):
        lattices.append(blended_axis(c, n, p or choose_blended_patch(c, n, o or 0), o or 0, axis))
    return PatchLattice(tuple(lattices))


def _activations(model: Model, trace: Trace, patch: Sequence[int]) -> int:
    return activation_bytes(model.module_on("cpu"), trace.channels_in, tuple(patch), model.compute_dtype())


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
        return f"(value - {normalize.offset:g}) / {normalize.scale:g}" if normalize != Affine() else "as they are"
    import hashlib

    import cloudpickle

    code = hashlib.blake2b(cloudpickle.dumps(normalize), digest_size=8).hexdigest()
    return f"{getattr(normalize, '__qualname__', type(normalize).__name__)} {code}"


def _count(name: str, value: int | None) -> int:
    if value is None:
        return 1
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
