"""Whether a network may be cut as a plan cuts it, and what is said where it may not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from chunkinfer.errors import ModelError, NotExact
from chunkinfer.geometry import PatchLattice, round_up
from chunkinfer.models import Model

if TYPE_CHECKING:
    from chunkinfer.models.trace import Reason, Trace


def confirm(model: Model, trace: Trace, lattice: PatchLattice) -> None:
    """Trace the chosen patch at its own size: what holds at one size is not believed of another.

    Of a network with augmentation, in each shape in which it sees the patch, with the network's own context.
    """
    if len(lattice) == 1 or not model.of_torch:  # what can only be called was probed at several sizes
        return
    cut = [len(a.starts) > 1 for a in lattice.axes]
    shapes: Sequence[tuple[int, ...]] = [lattice.patch]
    if model.augmentation is not None:
        trace = model.plain.trace(trace.channels_in, len(cut))
        shapes, cut = model.augmentation.shapes(lattice.patch), [True] * len(cut)
    for shape in shapes:
        _confirm_shape(model, trace, shape, cut)


def _confirm_shape(model: Model, trace: Trace, shape: Sequence[int], cut: Sequence[bool]) -> None:
    from chunkinfer.models.trace import check_patch

    clean: list[tuple[int, int] | None] = []
    sizes = []
    for c, n, is_cut in zip(trace.axes, shape, cut, strict=True):
        low = round_up(c.low, c.period)
        step = (n - low - c.high) // c.period * c.period
        # An axis that one patch spans has no cut to check; there a thin one would only hide what the others read.
        clean.append((low, low + step) if is_cut and step > 0 else None)
        sizes.append(n if clean[-1] else c.accepted_at_least(max(n, c.low + c.high + 4 * c.period)))
    reasons = check_patch(model.module_on("cpu"), trace, trace.channels_in, sizes, clean)
    if reasons:
        raise NotExact(
            f"{model.name} cannot be tiled exactly with patches of {tuple(shape)} voxels: {reasons[0].text}.",
            "Its context at this size is another than the one that was traced.",
            ["choose another patch: infer(volume, model, patch=...)", "blend: infer(volume, model, overlap=...)"],
        )


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
    overlap = (4, 64, 64) if len(axes) == 3 else (64,) * len(axes)
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
    free = ", ".join(f"{2 + d}: torch.export.Dim.AUTO" for d in range(len(patch)))
    return (
        what,
        "The file was exported for inputs of one size, so what the network reads around a voxel cannot be found out.",
        [
            f"blend patches of that size: infer(volume, model, patch={patch}, overlap={fits})",
            "export it anew with the sizes left open, and it is exact if the network is: "
            f"torch.export.export(model, (x,), dynamic_shapes=({{{free}}},))",
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
            ["model.eval()", "save it in eval mode: torch.jit.save(torch.jit.trace(model.eval(), x), path)"],
        )
