"""What less context costs and errs: the effective context of a trained network.

The traced context is what an output voxel can depend on. What it does depend on is often less, once a network is
trained: this measures how the error falls as the halo grows, and what each halo costs.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import prod
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chunkinfer.api.infer import infer, plan
from chunkinfer.api.tiling_error.report import REPEATS, TilingError, TilingErrors, full, on_front
from chunkinfer.api.tiling_error.zones import Zones
from chunkinfer.errors import PlanError
from chunkinfer.networks.model import open_model
from chunkinfer.support.arguments import PerAxis, per_axis
from chunkinfer.tiling.plan.plan import Plan
from chunkinfer.tiling.plan.show import human_bytes
from chunkinfer.volumes.open import open_volume
from chunkinfer.volumes.volume import count_axes

__all__ = ["TilingError", "TilingErrors", "tiling_error"]

Array = NDArray[Any]

UNKNOWN_MEMORY = 8 << 30
"""Bytes that the reference may take where the system does not tell how many are available."""

EVERYTHING = 1 << 40
"""Voxels of a patch, and of a block, that no sample exceeds: one for all."""


def tiling_error(
    model: Any,
    sample: Any,
    *,
    output: str | int | None = None,
    halos: Sequence[PerAxis] | None = None,
    overlaps: Sequence[PerAxis] | None = None,
    patch: PerAxis = None,
    normalize: tuple[float, float] | Callable[[Any], Any] | None = None,
    threshold: float | None = 0.5,
    window: str = "hann",
    device: str | None = None,
    timed: bool = True,
) -> TilingErrors:
    """Measure what less context than was traced, or blending, costs and errs: the effective context of a network.

    The reference is the network on the whole sample at once. So the sample must be small enough for that, and large
    enough to be cut: there are no seams where nothing is. Clean zones stay where they are, so that rows differ in the
    halo alone::

        halo 0          |=zone=|=zone=|=zone=|
        halo h      ----|=zone=|----                patch = halo + zone + halo
        exact   --------|=zone=|--------

    Parameters
    ----------
    model, sample, output, normalize, device
        As the network and the volume of `infer`. The sample is read into memory.
    halos
        Input voxels kept on each side of a clean zone: a sequence of numbers, tuples (z, y, x) or dicts by axis. By
        default about six, from 0 up to the context. The exact row is there in any case, if the network has one.
    overlaps
        Input voxels that neighbouring patches share when blended, in the same forms; by default an eighth, a quarter
        and half of the patch. An empty sequence leaves blending out.
    patch
        Of the exact row and of the blended ones, in input voxels; by default such that the sample is cut into three or
        four clean zones along each axis, and half of the sample at most for the blended ones. An axis that is no longer
        than the patch is not cut.
    threshold
        A decision is an output above it: 0.5 after a sigmoid, 0 for logits. None: the channel with the largest output.
    window
        Of the blended rows.
    timed
        Whether to measure seconds per patch, each variant three times in turn with the others. Otherwise a row's cost
        is its patch voxels. Patches run one after the other, with ``torch.get_num_threads()`` threads. Either cost is
        that in a large volume: in a small sample the last patches overlap their neighbours by more than was asked for.

    Returns
    -------
    TilingErrors
        With a text and an HTML repr, ``pareto()``, ``as_dict()`` and ``plot(path)``.

    Raises
    ------
    PlanError
        The sample is too large for the reference or too small to be cut; or a number does not fit the network.
    ModelError, VolumeError, DeviceError
        As `infer`.

    Examples
    --------
    >>> errors = tiling_error(model, volume[:128, :256, :256])  # doctest: +SKIP
    >>> errors.plot("tiling_error.png")  # doctest: +SKIP
    >>> affinities = infer(volume, model, halo=errors.effective_halo)  # doctest: +SKIP
    """
    import torch

    opened = open_model(model, output)
    sample = open_volume(sample) if isinstance(sample, str | os.PathLike) else sample
    common: dict[str, Any] = {"normalize": normalize, "device": device, "threads": torch.get_num_threads()}
    everything = {"patch": EVERYTHING, "halo": 0, **common}
    whole = plan(sample, opened, **everything)
    _check_threshold(threshold, whole.channels_out)
    _check_memory(whole, count_axes(sample))
    given = [per_axis("halo", halo, whole.axes, 0) for halo in _several("halos", halos)]
    zones = Zones.of(whole, per_axis("patch", patch, whole.axes, 1), given)
    zones = zones.settled(plan(sample, opened, **zones.largest, **common))
    shares = [per_axis("overlap", overlap, whole.axes, 0) for overlap in _several("overlaps", overlaps)]
    variants = [
        *zones.cropped(zones.steps() if halos is None else given),
        *zones.blended(zones.shares() if overlaps is None else shares, window),
    ]
    if not variants:
        raise PlanError("There is nothing to measure.", "halos= and overlaps= are both empty.",
                        ["tiling_error(model, sample)", "tiling_error(model, sample, halos=[0, 4, 8])"])  # fmt: skip

    sample = sample.compute() if hasattr(sample, "compute") else sample  # reading is no part of what is timed
    reference = _run(infer(sample, opened, block=EVERYTHING, **everything))
    decided = _decide(reference, threshold)
    rows, runs = [], []
    for kind, halo, overlap, settings, _, recompute in variants:
        runs.append(infer(sample, opened, block=EVERYTHING, **settings, **common))
        result = _run(runs[-1])
        flipped = float(np.mean(_decide(result, threshold) != decided))
        np.subtract(result, reference, out=result)
        rows.append(
            TilingError(
                kind=kind,
                halo=halo,
                overlap=overlap,
                patch=settings["patch"],
                recompute=recompute,
                rmse=float(np.sqrt(np.mean(np.square(result), dtype=np.float64))),
                max=float(np.abs(result).max()),
                flipped=flipped,
            )
        )
    errors = TilingErrors(
        model=whole.model,
        axes=whole.axes,
        shape=whole.lattice.shape,
        context=whole.context,
        reasons=whole.reasons,
        zone=zones.zone,
        peak=float(np.abs(reference).max()) or 1.0,
        threshold=threshold,
        decisions=decided.size,
        window=window,
        rows=tuple(rows),
    )
    if timed:
        taken = zip(_seconds(runs), variants, rows, strict=True)
        costs = [seconds / v.patches * row.recompute / prod(row.patch) for seconds, v, row in taken]
        one = costs[rows.index(errors.base)]
        rows = [replace(row, time=cost / one) for row, cost in zip(rows, costs, strict=True)]
    front = on_front([row.cost for row in rows], [max(row.rmse, errors.round_off) for row in rows])
    return replace(errors, rows=tuple(replace(row, on_pareto=f) for row, f in zip(rows, front, strict=True)))


def _run(lazy: Any) -> Array:
    """The values of a lazy result, (channels, *space), computed in this thread."""
    return np.array(lazy.compute(scheduler="synchronous"))


def _decide(values: Array, threshold: float | None) -> Array:
    """What is decided from a network's output: per voxel and channel, or per voxel."""
    decided: Array = values.argmax(0) if threshold is None else values > threshold
    return decided


def _seconds(runs: Sequence[Any]) -> list[float]:
    """Median seconds of each run; they take turns, so that a busy machine slows all alike."""
    taken: list[list[float]] = [[] for _ in runs]
    for _ in range(REPEATS):
        for run, times in zip(runs, taken, strict=True):
            start = time.perf_counter()
            _run(run)
            times.append(time.perf_counter() - start)
    return [median(times) for times in taken]


def _several(name: str, values: Any) -> Sequence[Any]:
    """A sequence of values, or `PlanError`."""
    if values is None:
        return ()
    if isinstance(values, str | Mapping) or not isinstance(values, Sequence):
        raise PlanError(
            f"{name}={values!r} is not a sequence.",
            f"Each of {name} is one row: a number, a tuple per axis or a dict by axis.",
            [f"{name}=[{values!r}]", f"leave {name}= out"],
        )
    return values


def _check_threshold(threshold: object, channels: int) -> None:
    if threshold is None and channels == 1:
        what, means = "threshold=None, and the network has one channel.", "It is the largest everywhere."
    elif threshold is not None and (isinstance(threshold, bool) or not isinstance(threshold, int | float)):
        what, means = f"threshold={threshold!r} is not a number.", "A decision is an output above it."
    else:
        return
    raise PlanError(what, means, ["threshold=0.5 after a sigmoid", "threshold=0.0 for logits"])


def _check_memory(whole: Plan, count: int | None) -> None:
    """`PlanError` unless the reference fits in memory, as far as that is known beforehand."""
    voxels = prod(whole.lattice.output) * whole.channels_out * np.dtype(whole.dtype).itemsize
    needed, available = whole.activations + 3 * voxels, _available(whole.device)
    if needed > available:
        fits = (available / needed) ** (1 / len(whole.axes))
        lead = [":"] * ((count or 0) - len(whole.axes))
        box = ", ".join([*lead, *(f":{max(1, int(n * fits))}" for n in whole.lattice.shape)])
        raise PlanError(
            f"The network on all {full(whole.lattice.shape)} voxels at once takes about {human_bytes(needed)}, and "
            f"{human_bytes(available)} are available.",
            "The errors of tilings are measured against that, so the sample must be small.",
            [f"take a part of it: sample[{box}]", "run on a machine, or a device, with more memory"],
        )


def _available(device: str) -> int:
    """Bytes of memory that a device has left."""
    if device == "cuda":
        import torch

        free: int = torch.cuda.mem_get_info()[0]
        return free
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return UNKNOWN_MEMORY
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), UNKNOWN_MEMORY)
