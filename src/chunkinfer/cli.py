"""The command line: the same words as in Python. Each command parses and calls one public function."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click

from chunkinfer.errors import ChunkinferError, RunPaused


class _Voxels(click.ParamType[Any]):
    """``64`` for all axes, or ``20,256,256`` in the order z, y, x."""

    name = "VOXELS"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        try:
            numbers = tuple(int(v) for v in value.split(","))
        except ValueError:
            self.fail(f"{value!r} is no voxel count: 64 for all axes, or 20,256,256 in the order z,y,x", param, ctx)
        return numbers[0] if len(numbers) == 1 else numbers


class _Numbers(click.ParamType[Any]):
    """Numbers with commas between."""

    name = "NUMBERS"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        try:
            return tuple(float(v) for v in value.split(","))
        except ValueError:
            self.fail(f"{value!r} is not a list of numbers such as 40,4,4", param, ctx)


class _Empty(click.ParamType[Any]):
    """A number, or the word constant."""

    name = "VALUE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str) or value == "constant":
            return value
        try:
            return float(value)
        except ValueError:
            self.fail(f"{value!r} is neither a number nor constant", param, ctx)


def _options(*options: Callable[..., Any]) -> Callable[..., Any]:
    def add(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            command = option(command)
        return command

    return add


SOURCE = _options(
    click.option("--level", type=int, default=0, help="Level of a multiscale image; 0 is the finest."),
    click.option("--array", help="Array of a zarr group."),
    click.option("--voxel-size", type=_Numbers(), help="z,y,x; overrides the metadata."),
    click.option("--offset", type=_Numbers(), help="z,y,x in voxels; overrides the metadata."),
    click.option("--missing", type=click.Choice(["error", "fill"]), default="error", help="What an absent chunk is."),
)

INFERENCE = _options(
    click.option("--model", required=True, help="TorchScript or torch.export (.pt2) file; it is code that you trust."),
    click.option("--patch", type=_Voxels(), help="What the network sees at a time."),
    click.option("--overlap", type=_Voxels(), help="Blend patches that overlap by this much; exact tiling without it."),
    click.option("--halo", type=_Voxels(), help="Less context than the network's, on purpose: faster, approximate."),
    click.option("--block", type=_Voxels(), help="What one task computes and writes."),
    click.option("--window", help="hann, linear, gaussian or bump."),
    click.option("--batch", type=int, help="Patches per forward pass."),
    click.option("--normalize", type=_Numbers(), help="offset,scale: (value - offset) / scale."),
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
    click.option("--channels", type=_Voxels(), help="Of the output, after the activation: 0 or 0,2."),
    click.option("--argmax", is_flag=True, help="Store the number of the largest channel."),
    click.option("--threshold", type=float, help="Store 1 above it and 0 elsewhere."),
    click.option("--mask", help="URL of a volume of any resolution: where it is 0, nothing is computed."),
    click.option(
        "--empty", type=_Empty(), help='Leave out what holds only this stored value, or only one ("constant").'
    ),
    click.option("--fill", type=float, help="Stored where nothing is computed; 0."),
    click.option("--calibrate", is_flag=True, help="Measure, for a minute at most, which patch and batch is fastest."),
)


SCHEDULER = _options(
    click.option("--scheduler", help="Address of a dask scheduler; without it, an in-process cluster."),
    click.option("--tls", help="Join it with the certificates of this name: slurm, local, or a Kubernetes cluster's."),
)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="chunkinfer")
def main() -> None:
    """Run a convolutional network over an image volume of any size: exact, block by block, on dask."""


@main.command()
@click.argument("src")
@click.argument("dst")
@SOURCE
@INFERENCE
@click.option("--format", help="zarr3, zarr2 or precomputed.")
@click.option("--chunks", type=_Voxels(), help="Of the output, c,z,y,x.")
@click.option("--shards", type=_Voxels(), help="Of the output, c,z,y,x.")
@click.option("--encoding", help="Of precomputed: raw, jpeg or compressed_segmentation.")
@click.option("--overwrite", is_flag=True, help="Delete what is stored at DST and start anew.")
@SCHEDULER
@click.option("--log", type=click.Path(dir_okay=False), help="Append a line of JSON to this file for whatever happens.")
@click.option("--metrics", type=int, help="Serve numbers for Prometheus at this port of the loopback interface.")
def infer(src: str, dst: str, log: str | None, metrics: int | None, **given: Any) -> None:
    """Run a network over the volume at SRC and store the result at DST.

    Run again after a crash, the same command computes only what is missing. Ctrl-C pauses (code 130); a second one
    stops at once.
    """
    import chunkinfer as ci
    from chunkinfer.watching import JsonLines, Metrics

    events: list[Any] = [] if log is None else [JsonLines(log)]
    if metrics is not None:
        events.append(Metrics(metrics))
    settings = {k: given.pop(k) for k in ("format", "chunks", "shards", "encoding", "overwrite")}
    with _client(given) as client:
        result = ci.infer(_open(src, given), **_inference(given))
        click.echo(ci.save(result, dst, client=client, events=events, **settings))


@main.command()
@click.argument("src")
@SOURCE
@INFERENCE
@click.option("--workers", type=int, default=1, help="Worker processes, for time and cost.")
@click.option("--price-per-hour", type=float, help="Of one worker.")
@click.option("--price-per-read", type=float, help="Of one request to the store.")
@click.option("--price-per-write", type=float, help="Of one object written.")
@click.option("--price-per-gib", type=float, help="Of a GiB read, where it leaves its region.")
def plan(src: str, workers: int, **given: Any) -> None:
    """Show the numbers of a run before it runs."""
    import chunkinfer as ci

    names = {"hour": "worker_hour", "read": "read_request", "write": "write_request", "gib": "egress_gib"}
    asked = {name: given.pop(f"price_per_{word}") for word, name in names.items()}
    prices = {name: price for name, price in asked.items() if price is not None}
    click.echo(ci.plan(_open(src, given), **_inference(given), workers=workers, prices=prices or None))


@main.command()
@click.argument("model")
@click.option("--channels", type=int, help="Input channels, where the file does not tell.")
@click.option("--ndim", type=int, help="Spatial axes, where the file does not tell.")
@click.option("--verify", is_flag=True, help="Check by running it on NaN: independent, and slower.")
def field(model: str, **given: Any) -> None:
    """Show what the network in the file MODEL reads around each output voxel, and which sizes it takes."""
    import chunkinfer as ci

    click.echo(ci.receptive_field(model, **given))


@main.command()
@click.argument("output")
@click.argument("volume")
@SOURCE
@click.option("--model", required=True, help="TorchScript or torch.export (.pt2) file; it is code that you trust.")
@click.option("--samples", type=int, default=64, help="Boxes at random; a quarter as many at seams and at faces.")
@click.option("--tolerance", type=float, help="Largest difference that is none; round-off without it.")
@click.option("--seed", type=int, default=0, help="Of the random boxes.")
@click.option("--scan/--no-scan", default=None, help="Read the whole output once; by default up to 8 GiB.")
@click.option("--device", help="cpu or cuda.")
def audit(output: str, volume: str, **given: Any) -> None:
    """Compare what is stored at OUTPUT with what the network gives on the volume at VOLUME.

    Ends with code 2 if anything is found.
    """
    import chunkinfer as ci

    report = ci.audit(output, _open(volume, given), **_inference(given))
    click.echo(report)
    if not report.ok:
        sys.exit(2)


@main.command()
@click.argument("url")
@click.option("--plot", type=click.Path(dir_okay=False), help="Draw the grid of blocks into this PNG file.")
@click.option("--json", "as_json", is_flag=True, help="Print numbers for programs.")
def status(url: str, plot: str | None, as_json: bool) -> None:
    """Show how far the run that writes URL is: blocks done, failed and missing, since when, how fast, and who writes.

    Only the ledger is read. Ends with code 0 if every block is done, with 3 if not.
    """
    import chunkinfer as ci

    found = ci.status(url)
    click.echo(json.dumps(found.as_dict(), indent=1) if as_json else found)
    if plot is not None:
        found.plot(plot)
    if not found.complete:
        sys.exit(3)


@main.command()
@click.argument("url")
@click.option("--sample", type=float, help="Read so many blocks, or such a share of them if below 1, at random.")
@click.option("--repair", is_flag=True, help="Compute torn blocks again, and whatever is missing.")
@click.option("--volume", help="For a repair: URL of the input; by default what the ledger names.")
@SOURCE
@click.option("--model", help="For a repair: the network's file; it is code that you trust.")
@click.option("--trust", is_flag=True, help="For a repair: open the model file that the ledger names.")
@SCHEDULER
def verify(url: str, volume: str | None, **given: Any) -> None:
    """Read the finished blocks at URL back and compare them with the checksums recorded when they were written.

    Ends with code 0 if all are right, with 2 if torn ones were found and not repaired.
    """
    import chunkinfer as ci

    opened = _open(volume, given) if volume is not None else None
    asked = {"volume": opened, **{name: given[name] for name in ("sample", "repair", "model", "trust")}}
    with _client(given) as client:
        report = ci.verify(url, client=client, **asked)
    click.echo(report)
    if not report.ok:
        sys.exit(2)


@main.command()
@click.argument("url")
@SOURCE
def info(url: str, **given: Any) -> None:
    """Show what an array at URL is."""
    from chunkinfer.storage import open_source
    from chunkinfer.volume import describe

    volume = _open(url, given)
    click.echo(describe(volume, open_source(url, level=given["level"], array=given["array"])))


@main.command()
@click.argument("folder", default="demo-output")
@click.option("--workers", type=int, default=2, help="Worker processes of the local cluster.")
def demo(folder: str, workers: int) -> None:
    """Run a small network over a synthetic electron-microscopy volume; writes to FOLDER."""
    from chunkinfer.demo.run import run

    run(folder, workers)


def _open(url: str, given: dict[str, Any]) -> Any:
    import chunkinfer as ci

    names = ("level", "array", "voxel_size", "offset", "missing")
    return ci.open_volume(url, **{k: given[k] for k in names})


@contextmanager
def _client(given: dict[str, Any]) -> Iterator[Any]:
    """The client of ``--scheduler``; None without it. Takes its options out of ``given``."""
    address, tls = given.pop("scheduler"), given.pop("tls")
    if address is None:
        yield None
        return
    from distributed import Client

    import chunkinfer as ci

    with Client(address, security=ci.clusters.tls(tls) if tls else None) as client:
        yield client


def _inference(given: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in given.items() if k not in ("level", "array", "voxel_size", "offset", "missing")}


def _with_malloc_settings() -> None:
    """Start this process anew with the settings under which kernels are fastest: glibc reads them at the start only.

    Whoever has set one of them is left alone, and so is every other system.
    """
    from chunkinfer.kernel.allocator import ENVIRONMENT

    if sys.platform != "linux" or ENVIRONMENT.keys() & os.environ.keys():
        return
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, **ENVIRONMENT})


def run() -> None:
    """Entry point: errors of this library are shown without a traceback and end with code 1."""
    _with_malloc_settings()
    try:
        main()
    except ChunkinferError as error:
        click.echo(f"{type(error).__name__}: {error}", err=True)
        sys.exit(130 if isinstance(error, RunPaused) else 1)


if __name__ == "__main__":
    run()
