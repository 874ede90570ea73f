"""audit: is a stored output really what its network gives on its volume?"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from math import prod
from typing import Any, Unpack

import numpy as np

from chunkinfer.api.audit.boxes import Planes, Tiles, block_boxes, face_boxes, seam_boxes, seams, touching
from chunkinfer.api.audit.compare import Comparing
from chunkinfer.api.audit.faults import FOLLOW_UP, name_faults, worst_of
from chunkinfer.api.audit.reference import Blended, Reference, Whole, box_within, forward_of, margins
from chunkinfer.api.audit.report import AuditReport, Finding, Kind
from chunkinfer.api.audit.run import Run, find_run, placed_wrongly
from chunkinfer.api.infer import Settings
from chunkinfer.errors import PlanError
from chunkinfer.geometry.boxes import BlockGrid, Box
from chunkinfer.networks.forward_cost import activation_bytes, assumed_pass
from chunkinfer.runs.progress import Progress
from chunkinfer.support.device import resolve_device
from chunkinfer.tiling.plan.blocks import Budget

SCANNED = 8 << 30
"""Bytes of the largest output that is read as a whole unless told otherwise."""


def audit(
    output: Any,
    /,
    volume: Any,
    model: Any,
    *,
    samples: int = 64,
    tolerance: float | None = None,
    seed: int = 0,
    scan: bool | None = None,
    progress: bool | None = None,
    **settings: Unpack[Settings],
) -> AuditReport:
    """Compare a stored output with what its network gives, recomputed box by box from the definition.

    Where the output is exact, a box is recomputed in one pass over a crop with more context than was traced: no patch,
    block or kernel of the run takes part. Where it is blended, from all patches that touch the box, in plain loops and
    double precision. What the run was is read from the ledger beside the output.

    Every block is looked at before any is looked at twice, and so is every chunk of a block; thin boxes lie across the
    planes between blocks and clean zones, and others at faces, corners and edges. The output is also read as a whole,
    which finds chunks that are missing, damaged, or hold NaN; chunks with one value throughout are recomputed first.

    Parameters
    ----------
    output
        URL of what `save` wrote; or any array or DataArray with the axes (c, *space), with ``settings``.
    volume, model
        What `infer` was given.
    samples
        Boxes at random; a quarter as many at seams, at faces, and in chunks with one value only. With as many as there
        are chunks, no stale block and no empty chunk stays hidden.
    tolerance
        Largest absolute difference that counts as none, in units of the output: levels for uint8. By default round-off
        of the run's precision and stored type; the report names both.
    seed
        Of the random boxes.
    scan
        Read the whole output once; by default if it has no more than 8 GiB.
    progress
        Show a progress bar; by default in terminals and notebooks.
    **settings
        Of the run, as for `infer`, where no ledger holds them (``output=`` too, of a network with several).
        Given beside a ledger they are used instead of its own, and a difference is a finding. ``normalize`` must be
        given again if it was a function; ``device`` is where the audit computes.

    Returns
    -------
    AuditReport
        ``ok`` if there are no findings. With a text and an HTML repr.

    Raises
    ------
    DestinationError
        There is no ledger, and no settings are given.
    VolumeError
        The ledger says that the output is no network's own.
    SourceError, ModelError, PlanError, DeviceError
        Volume, network or settings cannot be used at all.
    """
    start = time.perf_counter()
    if samples < 1:
        raise PlanError(f"samples={samples} is no count.", "Boxes are looked at.", ["samples=64", "leave samples= out"])
    run = find_run(output, volume, model, {k: v for k, v in settings.items() if v is not None})
    if not isinstance(run, Run):
        return _nothing_compared(str(output), run, start)
    wrong = list(placed_wrongly(run))
    run.findings.extend(wrong)
    reference, size = _reference(run)
    if reference is None or any(f.kind == "shape" for f in wrong):
        return _nothing_compared(run.name, run.findings, start, run.notes)
    planes = seams(run.grid, run.zone)
    comparing = Comparing(run, reference, tolerance, planes)
    across: set[tuple[int, int]] = set()
    scanned = (run.output.array.nbytes <= SCANNED) if scan is None else scan
    suspects = comparing.scan() if scanned else []
    if not scanned:
        run.notes.append("only chunks under the boxes were read; scan=True reads all")
    rng = np.random.default_rng(seed)
    boxes = list(_boxes(run, comparing, suspects, planes, size, samples, rng))
    bar = Progress(sum(box.size for _, box, _ in boxes), len(boxes), progress)
    try:
        for kind, box, plane in boxes:
            if comparing.compare(kind, box) is not None and plane is not None:
                across.add(plane)
            bar.advance(box.size)
    finally:
        bar.close()
    halo = run.settings.get("halo")
    judged = halo is None or tolerance is not None
    if judged:
        run.findings.extend(name_faults(comparing, planes, size))
    run.findings.extend(comparing.unreadable())
    if halo is not None:
        largest = max((c.largest for c in comparing.done), default=0.0)
        run.notes.append(f"the halo was reduced on purpose, to {halo} voxels: largest difference {largest:.3g}")
    return _report(run, comparing, judged, (len(across), sum(len(a) + len(b) for a, b in planes)), start)


Planned = tuple[str, Box, tuple[int, int] | None]
"""Kind, box, and the seam (axis, position) that it lies across."""


def _boxes(
    run: Run,
    comparing: Comparing,
    suspects: list[Box],
    planes: list[Planes],
    size: tuple[int, ...],
    samples: int,
    rng: np.random.Generator,
) -> Iterator[Planned]:
    """What is looked at, in finished blocks only."""
    few = max(2 * len(size), samples // 4)
    for i in rng.permutation(len(suspects))[:few]:
        low = suspects[i].start
        high = tuple(min(a + s, b) for a, s, b in zip(low, size, suspects[i].stop, strict=True))
        yield "constant chunks", Box(low, high), None
    for box in islice(block_boxes(run.grid, run.finished, run.chunk, size, rng), samples):
        yield "boxes", box, None
    across = (("seams", box, plane) for plane, box in seam_boxes(planes, run.shape, size, rng))
    at = (("faces", box, None) for box in face_boxes(run.shape, size, rng))
    for boxes in (across, at):
        yield from islice((b for b in boxes if comparing.looks_at(b[1])), few)


def _reference(run: Run) -> tuple[Reference | None, tuple[int, ...]]:
    """How boxes are recomputed, and their size; None where the network has no definition that fits in memory."""
    settings, trace, sizes = run.settings, run.trace, run.volume.space_shape
    device = resolve_device(run.device)
    forward = forward_of(run.model, device, run.normalize, settings["precision"], run.steps())
    axes = trace.axes
    if settings["overlap"] is not None:
        patch, overlap = tuple(settings["patch"]), tuple(settings["overlap"])
        size = tuple(max(1, int(p / c.stride) // 2) for p, c in zip(patch, axes, strict=True))
        most = box_within(axes, (0,) * len(axes), 0.0, 1).shape
        blended = Blended(run.input, forward, axes, sizes, patch, overlap, settings["window"])
        return blended, tuple(map(min, size, most))
    probe = [c.accepted_at_least(max(48, c.low + c.high + c.period)) for c in axes]
    if run.model.of_torch:
        module = run.model.module_on("cpu")
        held = activation_bytes(module, trace.channels_in, tuple(probe), run.model.compute_dtype())
    else:
        held = assumed_pass(trace.channels_in, probe).tensors
    per_voxel = held / prod(probe)
    if not trace.exact:
        if prod(sizes) * per_voxel > Budget().activations:
            text = (
                f"{trace.reasons[0].layer}: {trace.reasons[0].text}; nothing was recomputed, as the volume is too large"
            )
            run.findings.append(Finding("exactness", f"{text} for one pass"))
            return None, ()
        axes = tuple(replace(c, low=n, high=n) for c, n in zip(axes, sizes, strict=True))
        run.notes.append("the network cannot be tiled exactly, so each box was cut out of one pass over the volume")
        if settings.get("halo") is None:
            run.findings.append(Finding("exactness", f"{trace.reasons[0].layer}: {trace.reasons[0].text}"))
    margin = margins(axes) if trace.exact else (0,) * len(axes)
    size = box_within(trace.axes, margin, per_voxel, Budget().activations).shape
    return Whole(run.input, forward, axes, sizes, margin), size


def _report(run: Run, comparing: Comparing, judged: bool, across: tuple[int, int], start: float) -> AuditReport:
    done = comparing.done
    worst = worst_of(done) if done else None
    looked = {b for c in done for b in touching(run.grid, c.box)}
    cells = BlockGrid.regular(run.shape, run.chunk)
    chunks = {i for c in done for i in touching(cells, c.box)}
    stored = len(cells)
    if not comparing.all_finished:
        stored = sum(len(Tiles(run.grid.box(run.grid.unravel(b)), run.chunk)) for b in run.finished)
    names = ("boxes", "constant chunks", "seams", "faces", FOLLOW_UP)
    return AuditReport(
        output=run.name,
        verdict=_verdict(run.settings),
        kinds=tuple(_kind(name, comparing) for name in names if any(c.kind == name for c in done)),
        largest=worst.largest if worst else 0.0,
        where=worst.where if worst else None,
        stored=worst.stored if worst else 0.0,
        expected=worst.expected if worst else 0.0,
        tolerance=comparing.tolerance,
        judged=judged,
        reason=comparing.reason,
        findings=tuple(run.findings),
        notes=tuple(run.notes),
        blocks=(len(looked), len(run.finished)),
        chunks=(len(chunks), stored),
        seams=across,
        unfinished=len(run.grid) - len(run.finished),
        seconds=time.perf_counter() - start,
    )


def _kind(name: str, comparing: Comparing) -> Kind:
    mine = [c for c in comparing.done if c.kind == name]
    over = sum(c in mine for c in comparing.over())
    return Kind(name, len(mine), sum(c.box.size for c in mine), max(c.largest for c in mine), over)


def _verdict(settings: Mapping[str, Any]) -> str:
    if settings["overlap"] is not None:
        overlap, patch = tuple(settings["overlap"]), tuple(settings["patch"])
        return f"patches of {patch} voxels that share {overlap}, blended with {settings['window']} windows"
    how = settings["precision"]
    return f"the network on the whole volume, {how}"


def _nothing_compared(output: str, findings: Sequence[Finding], start: float, notes: Sequence[str] = ()) -> AuditReport:
    """A report of findings that leave nothing to recompute."""
    return AuditReport(
        output, "not known", (), 0.0, None, 0.0, 0.0, 0.0, True, "nothing was compared", tuple(findings),
        (*notes, "nothing was recomputed"), (0, 0), (0, 0), (0, 0), 0, time.perf_counter() - start,
    )  # fmt: skip
