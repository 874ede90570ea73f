"""What commands share: types of parameters, groups of options, and what they stand for."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from threading import Event
from typing import Any

import click


class Voxels(click.ParamType[Any]):
    """``64`` for all axes, ``20,256,256`` in the order z, y, x, or ``z=20`` for some."""

    name = "VOXELS"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        try:
            if "=" in value:
                return {axis: int(v) for axis, _, v in (part.partition("=") for part in value.split(","))}
            numbers = tuple(int(v) for v in value.split(","))
        except ValueError:
            forms = "64 for all axes, 20,256,256 in the order z,y,x, or z=20 where the others are left open"
            self.fail(f"{value!r} is no voxel count: {forms}", param, ctx)
        return numbers[0] if len(numbers) == 1 else numbers


class Numbers(click.ParamType[Any]):
    """Numbers with commas between."""

    name = "NUMBERS"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        try:
            return tuple(float(v) for v in value.split(","))
        except ValueError:
            self.fail(f"{value!r} is not a list of numbers such as 40,4,4", param, ctx)


class Spans(click.ParamType[Any]):
    """``z=0:100,y=10:``, or ``0:100,10:,:`` in the order z, y, x."""

    name = "SPANS"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        parts = [re.fullmatch(r"(?:([zyx])=)?(\d*):(\d*)", part) for part in value.split(",")]
        spans = [(p[1], slice(*(int(n) if n else None for n in (p[2], p[3])))) for p in parts if p]
        named = {name for name, _ in spans} - {None}
        if len(spans) < len(parts) or len(named) not in (0, len(spans)):
            self.fail(f"{value!r} is no box: z=0:100,y=10: or 0:100,10:,: in the order z,y,x", param, ctx)
        return dict(spans) if named else tuple(span for _, span in spans)


class Empty(click.ParamType[Any]):
    """A number, or the word constant."""

    name = "VALUE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str) or value == "constant":
            return value
        try:
            return float(value)
        except ValueError:
            self.fail(f"{value!r} is neither a number nor constant", param, ctx)


def together(*options: Callable[..., Any]) -> Callable[..., Any]:
    """Several options as one decorator."""

    def add(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            command = option(command)
        return command

    return add


SOURCE = together(
    click.option("--level", type=int, default=0, help="Level of a multiscale image; 0 is the finest."),
    click.option("--array", help="Array of a zarr group."),
    click.option("--voxel-size", type=Numbers(), help="z,y,x; overrides the metadata."),
    click.option("--offset", type=Numbers(), help="z,y,x in voxels; overrides the metadata."),
    click.option("--missing", type=click.Choice(["error", "fill"]), default="error", help="What an absent chunk is."),
)

_OF_SOURCE = ("level", "array", "voxel_size", "offset", "missing")

ONE_OUTPUT = click.option("--output", help="Name or number of the one that is taken, of a network's several outputs.")

INFERENCE = together(
    click.option("--model", required=True, help="TorchScript or torch.export (.pt2) file; it is code that you trust."),
    ONE_OUTPUT,
    click.option("--patch", type=Voxels(), help="What the network sees at a time."),
    click.option("--overlap", type=Voxels(), help="Blend patches that overlap by this much; exact tiling without it."),
    click.option("--pad", type=click.Choice(["edge"]), help="Repeat the last voxels up to a length that can be cut."),
    click.option("--check", type=int, help="Blocks that the run computes again in part, to check itself; 0: none."),
    click.option("--halo", type=Voxels(), help="Less context than the network's, on purpose: faster, approximate."),
    click.option("--block", type=Voxels(), help="What one task computes and writes."),
    click.option("--window", help="hann, linear, gaussian or bump."),
    click.option("--batch", type=int, help="Patches per forward pass."),
    click.option("--normalize", type=Numbers(), help="offset,scale: (value - offset) / scale."),
    click.option("--dtype", help="Of the result; uint8 quantises [0, 1]."),
    click.option("--precision", help="fp32, bf16 or fp16."),
    click.option("--precision-tolerance", type=float, help="Share of decisions that reduced precision may flip; 0.01."),
    click.option("--engine", help="torch, openvino, onnxruntime, torchscript, compile, export, or auto: the fastest."),
    click.option("--cpu-engine", help="Lets workers without a GPU take part, with this engine."),
    click.option("--device", help="cpu or cuda."),
    click.option("--threads", type=int, help="Intra-op threads of a kernel on a CPU."),
    click.option("--memory", help='Of a worker process, such as "16 GiB": patch and block are chosen to fit.'),
    click.option("--slots", type=int, help="Blocks in flight in one process."),
    click.option("--max-block-minutes", type=float, help="The longest that a block should take; needs --calibrate."),
    click.option("--activation", help="sigmoid, softmax, tanh or relu, on the network's output."),
    click.option("--channels", type=Voxels(), help="Of the output, after the activation: 0 or 0,2."),
    click.option("--argmax", is_flag=True, help="Store the number of the largest channel."),
    click.option("--threshold", type=float, help="Store 1 above it and 0 elsewhere."),
    click.option("--mask", help="URL of a volume of any resolution: where it is 0, nothing is computed."),
    click.option(
        "--empty", type=Empty(), help='Leave out what holds only this stored value, or only one ("constant").'
    ),
    click.option("--fill", type=float, help="Stored where nothing is computed; 0."),
    click.option("--calibrate", is_flag=True, help="Measure, for a minute at most, which patch and batch is fastest."),
)


OUTPUT = together(
    click.option("--format", help="zarr3, zarr2, precomputed, ome-zarr, ome-zarr-0.4 or n5."),
    click.option("--pyramid", is_flag=True, help="Write coarser levels too: precomputed and OME-Zarr."),
    click.option("--chunks", type=Voxels(), help="Of the output, c,z,y,x."),
    click.option("--shards", type=Voxels(), help="Of the output, c,z,y,x."),
    click.option("--no-shards", is_flag=True, help="Each chunk is an object."),
    click.option("--encoding", help="Of precomputed: raw, jpeg or compressed_segmentation."),
    click.option("--compression", help="Of zarr and N5: zstd, blosc, gzip or none."),
    click.option(
        "--overwrite",
        is_flag=True,
        help="Delete what is stored at DST and start anew, but go on with what this same command began.",
    ),
)

_OF_OUTPUT = ("format", "pyramid", "chunks", "shards", "encoding", "compression", "overwrite")

SCHEDULER = together(
    click.option("--scheduler", help="Address of a dask scheduler; without it, an in-process cluster."),
    click.option("--tls", help="Join it with the certificates of this name: slurm, local, or a Kubernetes cluster's."),
)


LOGGING = together(
    click.option(
        "--log", type=click.Path(dir_okay=False), help="Append a line of JSON to this file for whatever happens."
    ),
    click.option("--metrics", type=int, help="Serve numbers for Prometheus at this port of the loopback interface."),
)


RUNNING = together(
    click.option("--dry-run", is_flag=True, help="Print what each step declares and the plan; compute nothing."),
    click.option("--yaml", "as_yaml", is_flag=True, help="Print the pipeline as a file, and run nothing."),
    SCHEDULER,
    LOGGING,
)


def opened(url: str, given: dict[str, Any]) -> Any:
    """The volume at a URL, by the options of `SOURCE`."""
    import chunkinfer as ci

    return ci.open_volume(url, **{k: given[k] for k in _OF_SOURCE})


def without_source(given: dict[str, Any]) -> dict[str, Any]:
    """What was given besides the options of `SOURCE`."""
    return {k: v for k, v in given.items() if k not in _OF_SOURCE}


def output_of(given: dict[str, Any]) -> dict[str, Any]:
    """What was given for the options of `OUTPUT`; takes them out of ``given``."""
    unsharded = given.pop("no_shards")
    return {k: given.pop(k) for k in _OF_OUTPUT} | ({"shards": False} if unsharded else {})


def subscribers(log: str | None, metrics: int | None) -> list[Any]:
    """What hears of a run's events, by the options of `LOGGING`."""
    from chunkinfer.runs.exporters.jsonlines import JsonLines
    from chunkinfer.runs.exporters.prometheus import Metrics

    events: list[Any] = [] if log is None else [JsonLines(log)]
    return events if metrics is None else [*events, Metrics(metrics)]


def until_ctrl_c() -> None:
    """While what is shown is looked at."""
    click.echo("Ctrl-C ends it.")
    with suppress(KeyboardInterrupt):
        Event().wait()


@contextmanager
def client_of(given: dict[str, Any]) -> Iterator[Any]:
    """The client of ``--scheduler``; None without it. Takes its options out of ``given``."""
    address, tls = given.pop("scheduler"), given.pop("tls")
    if address is None:
        yield None
        return
    from chunkinfer.tools.clusters.joining import client_at

    with client_at(address, tls) as client:
        yield client
