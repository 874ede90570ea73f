"""Whether a network may be cut as a plan cuts it, and what is said where it may not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from chunkinfer.errors import ModelError, NotExact
from chunkinfer.geometry.lattice import AxisLattice, PatchLattice, exact_axis, round_up
from chunkinfer.networks.model import Model
from chunkinfer.networks.outputs import exporting

if TYPE_CHECKING:
    from chunkinfer.networks.augment import Variant
    from chunkinfer.networks.trace.dependence import Reason
    from chunkinfer.networks.trace.patches import Place
    from chunkinfer.networks.trace.tracing import Trace


CHECKED = 1 << 14
"""Voxels along an axis up to which a lattice is checked voxel by voxel; a longer one is checked at such a length, where
it reads the same if it does in the volume."""


def confirm(model: Model, trace: Trace, lattice: PatchLattice) -> None:
    """Trace the chosen patch and the volume at their own sizes: what holds at one size is not believed of another.

    Of a network with augmentation, in each shape in which it sees the volume.

    Raises
    ------
    NotExact
        The patches do not give what the network gives on the whole volume.
    """
    if len(lattice) == 1 or not model.of_torch:  # what can only be called was probed at several sizes
        return
    orders: dict[tuple[int, ...], list[Variant | None]] = {}
    if model.augmentation is None:
        orders[tuple(range(len(lattice.axes)))] = [None]
    else:
        trace = model.plain.trace(trace.channels_in, len(lattice.axes))
        for variant in model.augmentation.variants:
            orders.setdefault(variant.shape(range(len(lattice.axes))), []).append(variant)
    axes, thick = [_shortened(a) for a in lattice.axes], [_thickened(a) for a in lattice.axes]
    for order, variants in orders.items():
        reasons = _reasons(model, trace, lattice, axes, order, variants)
        if reasons and thick != axes:  # what the axes that are cut read may be hidden by a thin one that is not
            reasons = _reasons(model, trace, lattice, thick, order, variants)
        if reasons:
            raise NotExact(
                f"{model.name} cannot be tiled exactly with patches of {lattice.patch} voxels: {reasons[0]}.",
                "It is another network on the volume than on patches of this size.",
                [
                    "blend overlapping patches, which promises less: "
                    f"infer(volume, model, overlap={_overlap(lattice)})",
                    "take the size out of its forward, and infer(volume, model) again",
                ],
            )


def _overlap(lattice: PatchLattice) -> tuple[int, ...]:
    """An overlap that the patches of a lattice take, a quarter of them or 32 voxels."""
    found = []
    for axis in lattice.axes:
        least = max(int(sum(axis.contract.crop)), min(32, axis.patch // 4))
        found.append(least + (axis.patch - least) % axis.contract.stride.numerator)
    return tuple(found)


def _reasons(
    model: Model,
    trace: Trace,
    lattice: PatchLattice,
    axes: Sequence[AxisLattice],
    order: Sequence[int],
    variants: Sequence[Variant | None],
) -> tuple[Reason, ...]:
    """What is wrong where the network sees the axes in an order, some of them backwards."""
    from chunkinfer.networks.trace.patches import Cut, check_patches

    cuts = []
    for d in order:
        flips = {v is not None and d - len(axes) in v.flips for v in variants}
        shifts = (0, 0) if model.augmentation is None else model.augmentation.shifts(d - len(axes))
        places = tuple(place for flipped in sorted(flips) for place in _places(axes[d], flipped, shifts))
        # Along an axis that cannot be cut nothing is to be compared; the others are followed at a length that can.
        cannot = axes[d].contract.uncut
        cuts.append(Cut(axes[d].padded, axes[d].patch, places) if cannot is None else Cut(cannot.longer, cannot.longer))
    patch, volume = [lattice.patch[d] for d in order], [lattice.axes[d].padded for d in order]
    return check_patches(model.module_on("cpu"), trace, cuts, patch, volume)


def _shortened(axis: AxisLattice) -> AxisLattice:
    """The axis, or the same cut of a shorter volume where there are so many voxels that checking takes long."""
    limit = max(CHECKED, 4 * axis.patch)
    if axis.padded <= limit:
        return axis
    return exact_axis(axis.contract, axis.padded - round_up(axis.padded - limit, axis.contract.period), axis.patch)


def _thickened(axis: AxisLattice) -> AxisLattice:
    """As `_shortened`; an axis that one patch spans with at least as many voxels as show what the network reads."""
    c = axis.contract
    if len(axis.starts) > 1 or c.uncut is not None:
        return _shortened(axis)
    size = c.accepted_at_least(max(axis.padded, c.low + c.high + 4 * c.period))
    return exact_axis(c, size, size)


def _places(axis: AxisLattice, flipped: bool, shifts: tuple[int, int]) -> Iterator[Place]:
    """Where patches lie on the axis, as the network sees it; voxels of edges are read further on by a shift."""
    from chunkinfer.networks.trace.patches import Place

    end = axis.contract.output_size(axis.padded)
    for k, start in enumerate(axis.starts):
        first, stop = axis.owned(k)
        first, stop = max(0, first - shifts[0]), min(end, stop + shifts[1])
        yield Place(axis.padded - start - axis.patch, end - stop, end - first) if flipped else Place(start, first, stop)


def usual_overlap(ndim: int) -> tuple[int, ...]:
    """What is advised where no patch was asked for: less along z, where sections are thick."""
    return (4, 64, 64) if ndim == 3 else (64,) * ndim


def not_exact(model: Model, trace: Trace, axes: tuple[str, ...]) -> tuple[str, str, list[str]]:
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
    overlap = usual_overlap(len(axes))
    if any(c.only for c in trace.axes) and not training:
        return _of_one_size(f"{model.name} cannot be tiled exactly:\n{reasons}", trace, overlap)
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


def _of_one_size(what: str, trace: Trace, overlap: Sequence[int]) -> tuple[str, str, list[str]]:
    """The same of a file that runs at one size along some axis."""
    patch = tuple(c.smallest if c.only else None for c in trace.axes)
    fits = tuple(n // 4 if n else o for n, o in zip(patch, overlap, strict=True))
    return (
        what,
        "The file was exported for inputs of one size, so what the network reads around a voxel cannot be found out.",
        [
            f"blend patches of that size: infer(volume, model, patch={patch}, overlap={fits})",
            f"export it anew with the sizes left open, and it is exact if the network is: {exporting(len(patch))}",
        ],
    )


def _training(trace: Trace) -> Reason | None:
    """The layer whose mode is to blame: the tracer's reason then says what to call, as it does for no other."""
    return next((reason for reason in trace.reasons if "model.eval()" in reason.text), None)


def refuse_training(model: Model, trace: Trace) -> None:
    """Blending cannot mend a network in train mode: each forward pass changes it."""
    if reason := _training(trace):
        raise ModelError(
            f"{model.name} is in train mode: {reason.layer}: {reason.text}",
            "Its results change from patch to patch and from run to run.",
            ["model.eval()", f"write the file in eval mode: {exporting(len(trace.axes), 'module.eval()')}"],
        )
