"""infer and plan: a network over a volume, lazily."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from math import prod
from os import PathLike
from typing import TYPE_CHECKING, Any, TypedDict, Unpack, overload

import dask.array as da
import numpy as np
from dask.base import tokenize
from numpy.typing import NDArray

from chunkinfer.errors import ChunkinferError, DeviceError, ModelError, SourceError, VolumeError
from chunkinfer.geometry.boxes import Box
from chunkinfer.networks.model import Model, open_model
from chunkinfer.runs.schedule.placement import active_client, room_of, workers_of
from chunkinfer.support.arguments import PerAxis
from chunkinfer.support.device import device_memory, resolve_device
from chunkinfer.support.facts import ModelFacts, NetworkFacts
from chunkinfer.support.payload import NetworkPayload, Payload
from chunkinfer.tiling.kernel.job import Job
from chunkinfer.tiling.kernel.normalize import Normalize, resolve_normalize, scaled
from chunkinfer.tiling.kernel.self_check import blocks_to_check
from chunkinfer.tiling.kernel.task import Network, infer_exchanging, infer_reading
from chunkinfer.tiling.plan.costs import Prices
from chunkinfer.tiling.plan.plan import Plan
from chunkinfer.tiling.plan.resolve import Planning, grid_for_exchange
from chunkinfer.tiling.settings import Place, Stored, Wishes, positive
from chunkinfer.volumes.alignment import resolve_mask
from chunkinfer.volumes.arrays.source import Source
from chunkinfer.volumes.derived import Derived
from chunkinfer.volumes.frame import Frame
from chunkinfer.volumes.lazy import check_reads, kept_decoded, must_exchange
from chunkinfer.volumes.masks import Mask
from chunkinfer.volumes.volume import Volume, as_volume, count_axes, source_of

if TYPE_CHECKING:
    import xarray as xr

    from chunkinfer.networks.trace.tracing import Trace

_SAMPLED = 64 << 20
"""Bytes that are decoded at most for one of the boxes of a volume from which probes are drawn."""


class Settings(TypedDict, total=False):
    """The keyword arguments of `infer`, for type checkers."""

    output: str | int | None
    patch: PerAxis
    overlap: PerAxis
    halo: PerAxis
    pad: str | None
    block: PerAxis
    window: str | None
    batch: int | None
    normalize: tuple[float, float] | Callable[[Any], Any] | None
    dtype: Any
    precision: str | None
    precision_tolerance: float | None
    engine: str | None
    cpu_engine: str | None
    device: str | None
    threads: int | None
    memory: int | str | None
    slots: int | None
    max_block_minutes: float | None
    calibrate: bool
    exchange: bool | None
    activation: str | Callable[[Any], Any] | None
    channels: int | Sequence[int] | None
    argmax: bool
    threshold: float | None
    mask: Any
    empty: float | str | None
    fill: float | None
    check: int | None
    version: str | None


@overload
def infer(volume: xr.DataArray | str | PathLike[str], model: Any, **settings: Unpack[Settings]) -> xr.DataArray: ...
@overload
def infer(volume: Any, model: Any, **settings: Unpack[Settings]) -> da.Array: ...
def infer(
    volume: Any,
    model: Any,
    *,
    output: str | int | None = None,
    patch: PerAxis = None,
    overlap: PerAxis = None,
    halo: PerAxis = None,
    pad: str | None = None,
    block: PerAxis = None,
    window: str | None = None,
    batch: int | None = None,
    normalize: tuple[float, float] | Callable[[Any], Any] | None = None,
    dtype: Any = None,
    precision: str | None = None,
    precision_tolerance: float | None = None,
    engine: str | None = None,
    cpu_engine: str | None = None,
    device: str | None = None,
    threads: int | None = None,
    memory: int | str | None = None,
    slots: int | None = None,
    max_block_minutes: float | None = None,
    calibrate: bool = False,
    exchange: bool | None = None,
    activation: str | Callable[[Any], Any] | None = None,
    channels: int | Sequence[int] | None = None,
    argmax: bool = False,
    threshold: float | None = None,
    mask: Any = None,
    empty: float | str | None = None,
    fill: float | None = None,
    check: int | None = None,
    version: str | None = None,
) -> xr.DataArray | da.Array:
    """Run a network over a volume: lazy, and equal to ``model(volume)`` however it is cut.

    Without ``overlap`` the result is exact: the context of every output voxel is traced from the network, patches are
    cut with that context, and only their clean zone is kept. With ``overlap``, overlapping patches on one lattice
    anchored at the volume's origin are blended with fixed weights in a fixed order. Either way, one network with the
    same patch, batch, precision, threads and type of device gives the same bits for every cut into blocks.

    Parameters
    ----------
    volume
        A DataArray, dask, zarr or numpy array, or a URL, with axes (z, y, x), (c, z, y, x), (y, x) or (c, y, x).
    model
        A `torch.nn.Module` in eval mode; the path or URL of a TorchScript, torch.export (.pt2), ONNX (.onnx) or
        OpenVINO (.xml) file; what `deliver` gives; or any function of numpy arrays. It takes (n, c, *space) and returns
        (n, c, *space).
    output
        Which output is taken, by name or number, of a network with several: the key of a dict, the field of a
        dataclass, the name that a file gives, or the place in a tuple. Without it several are refused.
    patch
        Input voxels that the network sees at a time: a number, a tuple (z, y, x), or a dict by axis. The plan chooses
        what is left open.
    overlap
        Input voxels that neighbouring patches share. Asks for blending.
    halo
        Less context around each clean zone than was traced, on purpose: input voxels kept on each side. Faster, and an
        approximation; the plan, the report and the output's metadata say so. `tiling_error` measures what it costs.
    pad
        "edge" means the volume with its last voxels repeated at the far end, up to lengths at which the network can be
        cut. By default that is done only where the network refuses the volume's length; the plan, the report and the
        output's metadata then say which volume is meant.
    block
        Output voxels that one task computes and writes; for exact tiling a multiple of the patch's clean zone.
    window
        Blending weights: "hann" (default), "linear", "gaussian" or "bump".
    batch
        Patches per forward pass, 1 by default.
    normalize
        ``(offset, scale)`` feeds ``(value - offset) / scale`` to the network; a callable is applied voxel by voxel.
        By default uint8 is divided by 255, floating-point values are taken as they are, other integers are refused.
    dtype
        Of the result; by default that of the network's weights. "uint8" quantises [0, 1] to [0, 255].
    precision
        "fp32" (default), "bf16" or "fp16" inside the network; results are accumulated in float32. Reduced precision is
        compared with fp32 on patches of this volume first; plan and report say what it changes.
    precision_tolerance
        Share of the decisions that reduced precision may flip, 0.01 by default: which channel is largest, or whether a
        probability is above its threshold. Of other outputs, the mean difference over their standard deviation. Above
        it the run is refused.
    engine
        What runs the network: "torch" (default, the reference), "openvino", "onnxruntime", "torchscript", "compile",
        "export", or "auto" for the fastest of those that are installed, by measurement, in the precision asked for.
    cpu_engine
        Lets workers that declare no GPU take part in a run on those that do: what they run the network with, in fp32.
        Blocks of two engines differ by rounding; report and ledger say which engine computed which.
    device
        "cpu" or "cuda"; by default CUDA where this machine has it.
    threads
        Intra-op threads of one kernel on a CPU, 1 by default: several kernels run side by side instead.
    memory
        Bytes that one worker process may take, or a text such as "16 GiB": patch and block are chosen to fit. By
        default they are chosen by constants, the same on every machine, and running is refused where workers are known
        to have less memory than the plan's sum.
    slots
        Blocks in flight in one process; by default one more than its kernels, and two per GPU.
    max_block_minutes
        The longest that a block should take, because a preempted block is lost work; needs ``calibrate``.
    calibrate
        Choose patch, batch and block by measuring, for a minute at most, what gives the most useful voxels per second
        on this machine; remembered for this model and device.
    exchange
        False: each block reads its own haloed box of the volume. True: blocks exchange halos through
        ``da.map_overlap``. By default halos are exchanged where the volume is in the memory of workers already or is
        another network's output.
    activation
        "sigmoid", "softmax" (over channels), "tanh", "relu", or a function of torch tensors (n, c, *space) that works
        voxel by voxel: applied to each patch, on the device.
    channels
        The channels that are kept, counted after the activation; the others are neither copied nor stored.
    argmax, threshold
        Store classes: the number of the largest channel, or 1 where a value is above the threshold and 0 elsewhere.
        Decided after blending. uint8, or uint16 for more than 256 channels.
    mask
        A volume of any resolution (a DataArray, URL or array), laid on the result by position: voxels where it is 0 are
        not computed. What is wanted has the same bits as without a mask.
    empty
        Leave out what is computed from nothing: voxels all of whose patches hold only this stored value, or only one
        value of any kind ("constant").
    fill
        What is stored in voxels that are left out, 0 by default.
    check
        Blocks of which a part is computed again, with more context, and compared; a difference ends the run. By default
        up to 8, and never more than 2 % of the patches, but at least one of a network that was only probed. 0: none.
    version
        A name that you change when you change the network: for one that calls compiled code of your own, or holds what
        cannot be looked into. The plan says so; such a run resumes only under a version.

    Returns
    -------
    xarray.DataArray or dask.array.Array
        (c, *space). A DataArray for a DataArray or a URL, with the coordinates of its voxels; a dask array otherwise.

    Raises
    ------
    NotExact
        The network cannot be tiled exactly and no ``overlap`` was given; names the layer.
    ModelError, PlanError, VolumeError, DeviceError
        The network, a number or the volume does not fit.
    """
    wishes = Wishes(
        patch=patch, overlap=overlap, halo=halo, pad=pad, block=block, window=window, batch=batch, dtype=dtype,
        precision=precision, precision_tolerance=precision_tolerance, engine=engine, cpu_engine=cpu_engine,
        threads=threads, device=device, normalize=normalize, memory=memory, slots=slots,
        max_block_minutes=max_block_minutes, calibrate=calibrate, activation=activation, channels=channels,
        argmax=argmax, threshold=threshold, mask=mask, empty=empty, fill=fill, check=check,
        version=version,
    )  # fmt: skip
    return _Inference.prepare(volume, open_model(model, output), wishes, exchange).result()


def infer_again(
    volume: Any, model: Model, exchange: bool | None, settings: Mapping[str, Any]
) -> xr.DataArray | da.Array:
    """`infer` with the settings of an earlier run: also those that only a plan chooses, such as ``halves``."""
    return _Inference.prepare(volume, model, Wishes(**settings), exchange).result()


def plan(
    volume: Any,
    model: Any,
    *,
    output: str | int | None = None,
    workers: int = 1,
    prices: Prices | Mapping[str, float] | None = None,
    **arguments: Any,
) -> Plan:
    """The numbers of a run before it runs; takes what `infer` takes.

    Parameters
    ----------
    volume, model, output, **arguments
        As for `infer`. With ``calibrate=True``, speed, time and cost are measured and not left out.
    workers
        Worker processes, for time and cost.
    prices
        A mapping with any of "worker_hour", "read_request", "write_request" and "egress_gib", in one currency.

    Returns
    -------
    Plan
        With a text and an HTML repr. A plan that does not fit into memory says so; only running it is refused.
    """
    arguments.pop("exchange", None)
    if unknown := sorted(set(arguments) - set(Wishes.__dataclass_fields__)):
        raise TypeError(
            f"plan() and infer() take no argument {unknown[0]!r}; they take output, "
            f"{', '.join(Wishes.__dataclass_fields__)}"
        )
    made = _Inference.prepare(volume, open_model(model, output), Wishes(**arguments), None).plan
    return replace(made, workers=positive("workers", workers), prices=Prices.of(prices))


@dataclass(frozen=True)
class _Inference:
    """Everything that a lazy result is made of, so that it can be made again with other settings."""

    volume: Volume
    model: Model
    trace: Trace
    normalize: Normalize
    wishes: Wishes
    plan: Plan
    job: Job
    exchange: bool
    mask: Mask | None

    @classmethod
    def prepare(cls, given: Any, model: Model, wishes: Wishes, exchange: bool | None) -> _Inference:
        model = model.versioned(wishes.version)
        volume, trace = _fit(given, model, wishes.normalize, wishes.pad is None and wishes.overlap is None)
        if "t" in volume.dims:
            n = volume.array.shape[volume.dims.index("t")]
            raise VolumeError(
                f"The volume has a time axis with {n} points.",
                "A network of this library sees one time point.",
                [
                    "infer(volume.isel(t=0), model)",
                    f"xarray.concat([infer(volume.isel(t=t), model) for t in range({n})], 't')",
                ],
            )
        normalize = resolve_normalize(wishes.normalize, volume.array.dtype, model.input_dtype())
        device, client = resolve_device(wishes.device), active_client()
        planning = Planning(
            wishes,
            axes=volume.frame.space,
            shape=volume.space_shape,
            stored=_stored(volume),
            dtype_in=volume.array.dtype,
            model=model,
            trace=trace,
            normalize=normalize,
            place=Place(device, *room_of(client, device), device_memory(device), calling=client is None),
            read=_sampler(volume),
            source=volume.array.name,
        )
        resolved, job = planning.made()
        exchanging = must_exchange(volume.array) if exchange is None else exchange
        _check_device(resolved)
        mask = None
        resolved = replace(resolved, doubt=_doubt(model, wishes))
        if wishes.mask is not None:
            mask = resolve_mask(wishes.mask, volume, _result_frame(volume, resolved), resolved.lattice.output)
            resolved = replace(resolved, skips={**(resolved.skips or {}), "mask": mask.about()})
        if not exchanging:
            grid, lattice = resolved.grid, resolved.lattice
            check_reads(volume.origin, [lattice.seen(block) for block in grid.sample()], len(grid))
            if mask is not None:
                check_reads(mask.reader.array, [mask.seen(block) for block in grid.sample()], len(grid))
        return cls(volume, model, trace, normalize, wishes, resolved, job, exchanging, mask)

    def with_settings(self, settings: Mapping[str, Any]) -> da.Array:
        """The same result with settings as an earlier run's ledger holds them."""
        frozen = {k: v for k, v in settings.items() if k in Wishes.__dataclass_fields__ and k != "normalize"}
        wishes = replace(self.wishes, **frozen, calibrate=False, max_block_minutes=None)
        return _Inference.prepare(self._given(), self.model, wishes, self.exchange).lazy()

    def _given(self) -> Any:
        v = self.volume
        return v.frame.label(v.array, v.dims, name=v.name, attrs=v.attrs, channel=v.channel) if v.labelled else v.array

    def lazy(self) -> da.Array:
        """The result as a dask array."""
        plan, volume = self.plan, self.volume
        grid = grid_for_exchange(plan) if self.exchange else plan.grid
        settings = plan.settings()
        programs = self._programs()
        token = tokenize(volume.array.name, volume.dims, plan.digest, programs, self.trace.operations, settings, grid)
        name = f"infer-{token}"
        facts = NetworkFacts(
            source=source_of(volume),
            model=ModelFacts(plan.model, plan.digest, self.model.version, self.model.output),
            settings=settings,
            axes=plan.axes,
            verdict=plan.verdict,
            programs=None if programs is None else tuple(programs),
            zone=tuple(a.zone for a in plan.lattice.axes) if plan.lattice.exact else None,
            doubt=plan.doubt,
            model_file=self.model.path or getattr(self.model.origin, "url", None),
            planned=dict(zip(plan.axes, plan.layout.chunks[1:], strict=True)),
            asked=plan.asked,
            plan=str(plan),
            precision_check=str(plan.check) if plan.check else None,
            slots=plan.slots,
            array=name,
        )
        checked = self._checked(token, len(grid))
        task = Network(
            self.model.fresh(), plan.engine, plan.precision, self.job, grid, self.mask, plan.misfit(), plan.cpu_engine,
            checked,
        )  # fmt: skip
        key = f"network-{token}-{self.wishes.check}"
        network = NetworkPayload(key, task, facts, recipe=self, needs_device=plan.cpu_engine is None)
        if self.exchange:
            return infer_exchanging(volume.array, volume.channels, network, plan.halo, name)
        reader = Payload("reader", f"reader-{tokenize(volume.array.name, volume.channels)}", volume.reader)
        return infer_reading(reader, network, name)

    def _checked(self, token: str, blocks: int) -> frozenset[int]:
        """The blocks that the run looks at again: of exact runs that are cut."""
        plan = self.plan
        if not plan.exact or len(plan.lattice) == 1:
            return frozenset()
        probed = not self.model.of_torch
        return blocks_to_check(blocks, plan.patches, self.wishes.check, probed, int(token[:8], 16))

    def _programs(self) -> list[str] | None:
        """What the network calls at the patches of this run; None where that is not known, or its file says it."""
        plan, patch = self.plan, self.plan.lattice.patch
        patches = [patch] if self.model.augmentation is None else self.model.augmentation.shapes(patch)
        found = [self.model.program((plan.batch, plan.channels_in, *each), plan.compute) for each in patches]
        known = [each for each in found if each is not None]
        return known if len(known) == len(found) else None

    def result(self) -> xr.DataArray | da.Array:
        """The lazy result in the caller's own kind."""
        array = self.lazy()
        if not self.volume.labelled:
            return array
        frame = _result_frame(self.volume, self.plan)
        name = self.model.name.partition(".")[0]
        return frame.label(array, ("c", *self.volume.frame.space), name=name, attrs=self.volume.attrs)


def _doubt(model: Model, wishes: Wishes) -> str | None:
    """Why another network or function may pass for this one in a ledger; None where that cannot be."""
    if model.version is not None or model.doubt is not None:
        return model.doubt
    from chunkinfer.networks.identity.code import code_of  # imports torch

    for name in ("activation", "normalize"):
        function = getattr(wishes, name)
        if callable(function) and (unknown := code_of(function).unknown):
            return f"{name}= leads to {unknown[0]}"
    return None


def _result_frame(volume: Volume, plan: Plan) -> Frame:
    """Where the result's voxels are."""
    axes = plan.lattice.axes
    return volume.frame.moved([float(a.contract.crop[0]) for a in axes], [float(a.stride) for a in axes])


def _fit(given: Any, model: Model, normalize: Any, own_lengths: bool) -> tuple[Volume, Trace]:
    """The volume and the network's trace on it; an unlabelled array's axes are what the network can read."""
    import xarray as xr

    def scaling(volume: Volume) -> Callable[[], Normalize]:
        return lambda: resolve_normalize(normalize, volume.array.dtype, model.input_dtype())

    if isinstance(given, xr.DataArray | xr.Dataset) or count_axes(given) != 3:
        volume = as_volume(given)
        return volume, trace_on(volume, model, scaling(volume), own_lengths)
    failures: list[ChunkinferError] = []
    for count in (3, 2):  # (z, y, x) or (c, y, x)
        volume = as_volume(given, count)
        try:
            return volume, trace_on(volume, model, scaling(volume), own_lengths)
        except ModelError as error:
            failures.append(error)
    raise failures[0]


def trace_on(volume: Volume, model: Model, scaling: Callable[[], Normalize], own_lengths: bool) -> Trace:
    """The network's trace on a volume.

    Parameters
    ----------
    volume, model
        The two.
    scaling
        Gives the scaling of the volume's values: a network that is probed is given some of them.
    own_lengths
        Whether the contracts at the volume's own lengths are meant, as for exact tiling, unless it is made longer.
    """

    def voxels() -> list[NDArray[Any]]:
        return [scaled(scaling(), box, model.input_dtype()) for box in _some_voxels(volume)]

    shape = volume.space_shape
    return model.trace(_channels(volume), len(shape), volume=shape if own_lengths else None, voxels=voxels)


def _some_voxels(volume: Volume) -> list[NDArray[Any]]:
    """A few boxes of a volume that is stored or in memory, (channels, *space) each; none of one that is dear to read.

    A chunk that is missing is left out here: whether that is an error shows when the volume runs.
    """
    stored, shape = _stored(volume), volume.space_shape
    if not _is_held(volume.origin):
        return []
    for most in (32, 16, 8):
        extent = [min(n, most) for n in shape]
        touched = [-(-e // c) * c for e, c in zip(extent, stored.chunks, strict=True)]
        if prod(touched) * _channels(volume) * volume.array.dtype.itemsize <= _SAMPLED:
            break
    else:
        return []
    found = []
    for part in (1, 3, 5):
        axes = zip(shape, stored.chunks, extent, strict=True)
        start = [max(0, min(n * part // 6 // c * c, n - e)) for n, c, e in axes]
        with suppress(SourceError):
            box = Box(tuple(start), tuple(a + e for a, e in zip(start, extent, strict=True)))
            found.append(volume.reader(box))
    return found


def _is_held(origin: Any) -> bool:
    """Whether an array is stored or in memory, or computed voxel by voxel from such ones."""
    if isinstance(origin, Derived):
        return all(map(_is_held, origin.inputs))
    return isinstance(origin, Source | np.ndarray)


def _sampler(volume: Volume) -> Callable[[Box], Any]:
    """Reads boxes of the volume in this process, for what is measured before a run."""
    if not must_exchange(volume.array):
        return volume.reader
    array = volume.array if volume.channels else volume.array[np.newaxis]  # its chunks are on a cluster
    return lambda box: np.asarray(array[(slice(None), *box.slices)].compute())


def _channels(volume: Volume) -> int:
    return volume.array.shape[volume.dims.index("c")] if volume.channels else 1


def _stored(volume: Volume) -> Stored:
    """How a source is stored; of another volume, its largest lazy chunks; of one in memory, its voxels."""
    origin = volume.origin
    whole: Sequence[int] = [max(c) for c in volume.array.chunks]
    if isinstance(origin, Source):
        whole = origin.chunks
    elif isinstance(origin, np.ndarray):
        whole = [1] * origin.ndim
    space = len(volume.frame.space)
    shards = None
    if isinstance(origin, Source) and origin.shards != origin.chunks:
        shards = origin.shards[-space:]
    channels = whole[volume.dims.index("c")] if volume.channels else 1
    voxel_size = tuple(volume.frame.voxel_size.get(d, 1.0) for d in volume.frame.space)
    return Stored(voxel_size, tuple(whole[-space:]), shards, channels, kept_decoded(origin))


def _check_device(plan: Plan) -> None:
    """``device="cuda"`` needs a CUDA device here, or workers that declare GPU."""
    import torch

    if plan.device != "cuda" or torch.cuda.is_available():
        return
    client = active_client()
    if client is not None and any(w["resources"].get("GPU") for w in workers_of(client).values()):
        return
    raise DeviceError(
        'device="cuda", and there is no CUDA device here and no dask worker that declares GPU.',
        "The driver is missing, torch is a CPU build, or workers were started without --resources.",
        ['start workers with: dask worker ADDRESS --resources "GPU=1"', 'infer(volume, model, device="cpu")'],
    )
