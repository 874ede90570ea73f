"""What the audited run was: from the ledger beside its output, or from what the caller says."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import ceil
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chunkinfer.api.audit.report import Finding
from chunkinfer.api.infer import plan, trace_on
from chunkinfer.errors import ChunkinferError, DestinationError, PlanError, VolumeError
from chunkinfer.geometry.boxes import BlockGrid, Box
from chunkinfer.geometry.contract import AxisContract
from chunkinfer.geometry.lattice import exact_axis
from chunkinfer.networks.model import Model, open_model
from chunkinfer.networks.trace.tracing import Trace
from chunkinfer.runs.record.headers import OutputFacts, RunHeader
from chunkinfer.runs.record.ledger import Ledger
from chunkinfer.stores.files import Files
from chunkinfer.stores.urls import locate
from chunkinfer.support.arguments import per_axis
from chunkinfer.support.facts import ModelFacts, NetworkFacts, SourceFacts
from chunkinfer.tiling.kernel.normalize import Affine, Normalize, resolve_normalize
from chunkinfer.tiling.kernel.outputs import ACTIVATIONS, Output
from chunkinfer.tiling.plan.resolve import describe_normalize
from chunkinfer.volumes.arrays.placement import nanometres, short_unit
from chunkinfer.volumes.arrays.source import Source
from chunkinfer.volumes.volume import Volume, as_volume, source_of

Array = NDArray[Any]


@dataclass(frozen=True)
class Run:
    """A finished run: its input, its network, its settings and its output."""

    name: str
    """URL of the output, or what it is."""
    output: Volume
    volume: Volume
    model: Model
    trace: Trace
    settings: Mapping[str, Any]
    """As `Plan.settings` gives them."""
    device: str | None
    """Where the audit computes, whatever device the run had."""
    normalize: Normalize
    grid: BlockGrid
    """Blocks over the spatial axes."""
    finished: tuple[int, ...]
    """Numbers of the blocks to look at."""
    encoding: str
    """Of a precomputed output; jpeg is lossy."""
    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    stated_zone: tuple[int, ...] | None = None
    """Output voxels of a clean zone, as the ledger states them."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Output voxels along the spatial axes, as they should be."""
        return self.grid.shape

    @property
    def chunk(self) -> tuple[int, ...]:
        """Voxels of a stored chunk along the spatial axes."""
        origin = self.output.origin
        chunks = origin.chunks if isinstance(origin, Source) else [max(c) for c in self.output.array.chunks]
        return tuple(min(c or n, n) for c, n in zip(chunks[-len(self.shape) :], self.shape, strict=True))

    @property
    def zone(self) -> tuple[int, ...] | None:
        """Output voxels of a clean zone; None where patches are blended, or were of a network with another context."""
        if self.settings["overlap"] is not None or not (self.trace.exact or self.settings.get("halo")):
            return None
        if self.stated_zone is not None:
            return self.stated_zone
        try:
            axes = [
                exact_axis(c, n, patch)
                for c, n, patch in zip(self._contracts(), self.volume.space_shape, self.settings["patch"], strict=True)
            ]
        except PlanError:
            return None
        zone = tuple(a.zone for a in axes)
        whole = all(b % z == 0 or b >= n for b, z, n in zip(self.settings["block"], zone, self.shape, strict=True))
        return zone if whole else None

    def _contracts(self) -> Iterator[AxisContract]:
        """With the context that the run kept."""
        for c, h in zip(self.trace.axes, self.settings.get("halo") or (None,) * len(self.shape), strict=True):
            if h is None:
                yield c
                continue
            low, high = h if isinstance(h, Sequence) else (h, h)
            high = max(high, ceil(sum(c.crop)))
            yield (
                replace(c, low=min(c.low, low), high=min(c.high, high))
                if self.trace.exact
                else replace(c, low=low, high=high)
            )

    def steps(self) -> Output:
        """What the run made of the network's values.

        Raises
        ------
        PlanError
            It stored decisions, left voxels out, or took a function as activation: the output has no value at every
            voxel that could be compared.
        """
        said = dict(self.settings.get("output") or {})
        activation, channels = said.pop("activation", None), said.pop("channels", None)
        skips = self.settings.get("skips")
        if said or skips or (activation and activation not in ACTIVATIONS):
            what = "voxels that were left out" if skips else f"{next(iter(said), activation)}"
            raise PlanError(
                f"{self.name} cannot be audited: it was stored with {what}.",
                "An audit compares values at boxes with the network's, and there they cannot be told.",
                [
                    "store a part as values, and audit that: save(infer(volume.isel(z=slice(0, 64)), model), url)",
                    "resume the run: save(infer(volume, model, ...), url) computes what is missing",
                ],
            )
        return Output(activation, None if channels is None else tuple(channels))

    def stored(self, box: Box) -> Array:
        """The output's voxels, (channels, *space); raises `SourceError` where they cannot be read."""
        return self.output.reader(box)

    def input(self, box: Box) -> Array:
        """The volume's voxels, (channels, *space)."""
        return self.volume.reader(box)


def find_run(output: Any, volume: Any, model: Any, given: Mapping[str, Any]) -> Run | list[Finding]:
    """Put together what a run was; only findings where the network given cannot even be laid on the volume."""
    url = os.fspath(output) if isinstance(output, str | os.PathLike) else None
    ledger = Ledger(Files(locate(url).url)) if url is not None else None
    header = RunHeader.of(ledger) if ledger else None
    held = as_volume(output) if url is not None or hasattr(output, "dims") else as_volume(output, output.ndim - 1)
    opened = open_model(model, given.get("output"))
    name = f"an array {held.array.shape}" if url is None else locate(url).url
    if header is None or ledger is None:
        if url is not None and not given:
            raise _no_ledger(name)
        return _said(name, held, volume, opened, given)
    network = _network_of(name, header)
    if opened.output is None:
        opened = open_model(opened, network.model.output)
    source = as_volume(volume, len(network.axes))
    findings = [*_other_model(network.model, opened), *_other_source(network.source, source)]
    try:
        normalize, more = _normalize(network.settings["normalize"], given.get("normalize"), source.array.dtype)
        trace = trace_on(source, opened, lambda: normalize, _own_lengths(network.settings))
    except ChunkinferError as error:
        if not findings:
            raise
        return [*findings, Finding("model", f"it does not fit the volume: {error.what}")]
    settings, differing = _settings(network.settings, given, source.frame.space)
    shape = tuple(c.output_size(n) for c, n in zip(trace.axes, source.space_shape, strict=True))
    if any(n < 1 for n in shape):
        return [*findings, Finding("model", f"it gives no output for a volume of {source.space_shape} voxels")]
    grid, unfinished = _blocks(header.destination, shape, settings["block"])
    done, damaged = _done(ledger, len(grid)) if unfinished is None else (set(range(len(grid))), [unfinished])
    return Run(
        name, held, source, opened, trace, settings, given.get("device"), normalize, grid, tuple(sorted(done)),
        header.destination.encoding or "", [*findings, *differing, *more, *damaged],
        stated_zone=network.zone or None,
    )  # fmt: skip


def _said(name: str, output: Volume, volume: Any, model: Model, given: Mapping[str, Any]) -> Run:
    """A run without a ledger: as `infer` would resolve the caller's settings."""
    resolved = plan(volume, model, **{k: v for k, v in given.items() if k not in ("exchange", "output")})
    source = as_volume(volume, len(resolved.axes))
    normalize = resolve_normalize(given.get("normalize"), source.array.dtype, model.input_dtype())
    return Run(
        name, output, source, model,
        trace_on(source, model, lambda: normalize, _own_lengths(resolved.settings())), resolved.settings(),
        given.get("device"), normalize, resolved.grid, tuple(range(len(resolved.grid))), "",
        notes=["there is no ledger: settings are the caller's, and every block counts as finished"],
    )  # fmt: skip


def _own_lengths(settings: Mapping[str, Any]) -> bool:
    """Whether a run meant the volume at its own lengths."""
    return settings["overlap"] is None and settings.get("pad") is None


def _network_of(name: str, header: RunHeader) -> NetworkFacts:
    """The network whose output a run stored, unchanged."""
    ways = [
        "store what infer itself gives, and audit that: save(infer(volume, model), 'output.zarr')",
        f"state what was run: audit(open_volume({name!r}), volume, model, patch=...)",
    ]
    if not header.networks:
        raise VolumeError(f"No network made {name}, says its ledger.", "It is a copy of another array.", ways)
    if header.computation != header.networks[-1].array:
        raise VolumeError(
            f"{name} is not a network's own output, says its ledger.", "It was computed from one further on.", ways
        )
    return header.networks[-1]


def _no_ledger(name: str) -> DestinationError:
    return DestinationError(
        f"{name} has no ledger (.chunkinfer/ledger.json) that says which run made it.",
        "Another tool wrote it, or it was copied without its hidden files.",
        [
            f"state its settings, here the defaults: audit({name!r}, volume, model, precision='fp32')",
            "copy the folder .chunkinfer too: rsync -a keeps it",
        ],
    )


# ---- does the caller speak of the same run? --------------------------------------------------------------------------


def _other_model(then: ModelFacts, model: Model) -> Iterator[Finding]:
    if then.digest != (model := model.versioned(then.version)).digest:
        yield Finding(
            "model",
            f"the output was made with {then.name}, digest {then.digest[:12]}; "
            f"given is {model.name}, digest {model.digest[:12]}",
        )


def _other_source(source: SourceFacts, volume: Volume) -> Iterator[Finding]:
    then, now = (json.loads(json.dumps(each.to_json())) for each in (source, source_of(volume)))
    differ = sorted(k for k in then.keys() | now.keys() if then.get(k) != now.get(k))
    if "digest" in then and "digest" in now and differ == ["version"]:
        yield Finding(
            "source", f"{now['url']} was written again since the run: version {then['version']}, now {now['version']}"
        )
    elif differ:
        lines = [f"{k} {then.get(k, 'nothing')}, given {now.get(k, 'nothing')}" for k in differ]
        yield Finding("source", f"the output was made from another volume: {'; '.join(lines)}")


def _settings(
    stored: Mapping[str, Any], given: Mapping[str, Any], axes: tuple[str, ...]
) -> tuple[dict[str, Any], list[Finding]]:
    """The ledger's settings; what the caller gives comes before them, and is a finding where it differs."""
    settings = dict(stored)
    for name in ("patch", "overlap", "halo", "block"):
        if given.get(name) is not None:
            asked = per_axis(name, given[name], axes, 1 if name in ("patch", "block") else 0)
            rest = stored[name] or [0] * len(axes)
            settings[name] = [r if a is None else a for a, r in zip(asked, rest, strict=True)]
    for name in ("window", "precision"):
        settings[name] = given.get(name) or stored[name]
    if given.get("dtype") is not None:
        settings["dtype"] = str(np.dtype(given["dtype"]))
    differing = [
        Finding("settings", f"{name} was {stored[name]}, says the ledger; given is {settings[name]}")
        for name in settings
        if settings[name] != stored.get(name)
    ]
    return settings, differing


def _normalize(words: str, given: Any, dtype: np.dtype[Any]) -> tuple[Normalize, list[Finding]]:
    """The run's scaling, which the ledger holds in words."""
    if given is not None:
        normalize = resolve_normalize(given, dtype)
        said = describe_normalize(normalize)
        text = f"normalize was {words}, says the ledger; given is {said}"
        return normalize, [Finding("settings", text)] if said != words else []
    if words == describe_normalize(Affine()):
        return Affine(), []
    if numbers := re.fullmatch(r"\(value - (\S+)\) / (\S+)", words):
        normalize = Affine(float(numbers[1]), float(numbers[2]))
        return normalize, []
    raise PlanError(
        f"The run scaled voxels with a function, {words}, which its ledger cannot give back.",
        "A ledger holds the name and a digest of the code.",
        [
            "audit(output, volume, model, normalize=the_function)",
            "run with numbers, as normalize=(0, 255), which a ledger can hold",
        ],
    )


# ---- blocks ----------------------------------------------------------------------------------------------------------


def _blocks(made: OutputFacts, shape: tuple[int, ...], block: Sequence[int]) -> tuple[BlockGrid, Finding | None]:
    """Blocks that the ledger counts, over the spatial axes; a volume of another shape than the run's has others."""
    then = made.shape[-len(shape) :]
    if then != shape:
        text = (
            f"the network gives {shape} voxels for this volume; the run gave {then}: no ledger speaks of these blocks"
        )
        return BlockGrid.regular(shape, block), Finding("ledger", text)
    return BlockGrid(made.grid.sizes[-len(shape) :]), None


def _done(ledger: Ledger, blocks: int) -> tuple[set[int], list[Finding]]:
    try:
        return {int(i) for i in ledger.done(blocks).flags.nonzero()[0]}, []
    except DestinationError as error:
        return set(range(blocks)), [Finding("ledger", f"{error.what} Every block counts as finished")]


# ---- is the array what infer would give? -----------------------------------------------------------------------------


def placed_wrongly(run: Run) -> Iterator[Finding]:
    """Shape, dtype, voxel size and offset of the output against what `infer` gives."""
    array, axes = run.output.array, run.trace.axes
    expected = (run.steps().channels_of(run.trace.channels_out), *run.shape)
    shape = array.shape if run.output.channels else (1, *array.shape)
    if shape != expected:
        yield Finding("shape", f"the output has {shape} voxels, the network gives {expected}")
    if str(array.dtype) != run.settings["dtype"]:
        yield Finding("dtype", f"the output is stored as {array.dtype}, the run gives {run.settings['dtype']}")
    if not run.output.labelled:
        return
    should, frame = run.volume.frame, run.output.frame
    if run.volume.labelled:  # the result of an array without coordinates has none either
        should = should.moved([float(c.crop[0]) for c in axes], [float(c.stride) for c in axes])
    sizes, wanted = frame.voxel_size, should.voxel_size
    if short_unit(frame.unit) != short_unit(should.unit):
        sizes, wanted = nanometres(sizes, frame.unit), nanometres(wanted, should.unit)
    for d in should.space:
        if not np.isclose(sizes[d], wanted[d], rtol=1e-6):
            text = f"a voxel is {frame.voxel_size[d]:g} {frame.unit or '(no unit)'} along {d}"
            yield Finding("voxel size", f"{text}, and should be {should.voxel_size[d]:g} {should.unit}".rstrip())
        off = frame.origin[d] - should.origin[d]
        if abs(off) > 1e-3:
            text = f"the first voxel lies at {frame.origin[d]:g} along {d}, and should at {should.origin[d]:g}"
            yield Finding("offset", f"{text}: {off:+g} voxels", looks_like=f"offset by {off:g} along {d}")
