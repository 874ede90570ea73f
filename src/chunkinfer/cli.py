"""The command line: the same words as in Python. Each command parses and calls one public function."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
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


LOGGING = _options(
    click.option(
        "--log", type=click.Path(dir_okay=False), help="Append a line of JSON to this file for whatever happens."
    ),
    click.option("--metrics", type=int, help="Serve numbers for Prometheus at this port of the loopback interface."),
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
@click.option("--format", help="zarr3, zarr2, precomputed, ome-zarr, ome-zarr-0.4 or n5.")
@click.option("--pyramid", is_flag=True, help="Write coarser levels too: precomputed and OME-Zarr.")
@click.option("--chunks", type=_Voxels(), help="Of the output, c,z,y,x.")
@click.option("--shards", type=_Voxels(), help="Of the output, c,z,y,x.")
@click.option("--encoding", help="Of precomputed: raw, jpeg or compressed_segmentation.")
@click.option("--overwrite", is_flag=True, help="Delete what is stored at DST and start anew.")
@SCHEDULER
@LOGGING
def infer(src: str, dst: str, log: str | None, metrics: int | None, **given: Any) -> None:
    """Run a network over the volume at SRC and store the result at DST.

    Run again after a crash, the same command computes only what is missing. Ctrl-C pauses (code 130); a second one
    stops at once.
    """
    import chunkinfer as ci

    events = _subscribers(log, metrics)
    settings = {k: given.pop(k) for k in ("format", "chunks", "shards", "encoding", "pyramid", "overwrite")}
    with _client(given) as client:
        result = ci.infer(_open(src, given), **_inference(given))
        click.echo(ci.save(result, dst, client=client, events=events, **settings))


RUNNING = _options(
    click.option("--dry-run", is_flag=True, help="Print what each step declares and the plan; compute nothing."),
    click.option("--yaml", "as_yaml", is_flag=True, help="Print the pipeline as a file, and run nothing."),
    SCHEDULER,
    LOGGING,
)


@main.command("open", context_settings={"ignore_unknown_options": True, "help_option_names": []})
@click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="URL [OPTIONS] STEP [OPTIONS] ... save URL")
@click.option("--plugin", "plugins", multiple=True, help="module:function, a step of your own; it is code.")
@RUNNING
def open_(words: tuple[str, ...], plugins: tuple[str, ...], **given: Any) -> None:
    """Open a volume, take it through a chain of steps, and save it, in one pass.

    Every option of a step comes after its name. --as NAME names a step's result, and --from NAME works on it. Options
    of the run may stand anywhere.
    """
    from chunkinfer.pipelines import Pipeline, commands

    if helped := {"-h", "--help"}.intersection(words):
        table = commands(plugins)
        before = ["open", *words[: min(words.index(word) for word in helped)]]
        named = [word for word in before if word in table]
        click.echo(_help_of(table[named[-1]]) if len(before) > 1 else _overview(table))
        return
    _run(Pipeline.from_words(["open", *words], plugins), **given)


@main.command("run")
@click.argument("file")
@click.option("--output", "outputs", multiple=True, help="Instead of the file's; once for each save, in their order.")
@click.option("--trust", is_flag=True, help="Run the code that the file names: .pt2 models, plugins, functions.")
@RUNNING
def run_file(file: str, outputs: tuple[str, ...], trust: bool, **given: Any) -> None:
    """Run the pipeline in FILE, a path or URL of YAML; also .chunkinfer/pipeline.yaml beside an output.

    A file says what is read, written and, with overwrite, deleted: look with --dry-run before you run a stranger's.
    """
    from chunkinfer.pipelines import Pipeline, read_file

    pipeline = Pipeline.from_yaml(read_file(file), trust=trust)
    _run(pipeline.with_outputs(outputs) if outputs else pipeline, **given)


@main.command()
@click.argument("name", required=False)
@click.option("--plugin", "plugins", multiple=True, help="module:function, a step of your own; it is code.")
def operators(name: str | None, plugins: tuple[str, ...]) -> None:
    """List the steps of a chain, or show what the one called NAME takes."""
    from chunkinfer.pipelines import command, commands

    table = commands(plugins)
    click.echo(_overview(table) if name is None else _help_of(command(table, name)))


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
    click.echo(describe(volume, open_source(url, level=given["level"], array=given["array"], missing=given["missing"])))


@main.command()
@click.argument("url")
@click.option("--levels", type=int, help="How many; by default until the image is as small as a chunk.")
@click.option("--method", default="auto", help="mean, mode, min, max or stride; auto: mode for labels, else mean.")
@click.option("--factors", type=_Voxels(), multiple=True, help="z,y,x for all levels; given again, one per level.")
@click.option("--missing", type=click.Choice(["error", "fill"]), default="error", help="What an absent chunk is.")
@click.option("--overwrite", is_flag=True, help="Make the levels that are there anew; the image stays.")
@SCHEDULER
def pyramid(url: str, factors: tuple[Any, ...], **given: Any) -> None:
    """Add coarser levels to the precomputed volume or OME-Zarr image at URL; the same command resumes."""
    import chunkinfer as ci

    rows = None if not factors else factors[0] if len(factors) == 1 else list(factors)
    with _client(given) as client:
        click.echo(ci.pyramid(url, factors=rows, client=client, **given))


@main.command()
@click.argument("urls", nargs=-1)
@click.option("--image", multiple=True, help="URL of an image, where it is not told from the data.")
@click.option("--affinities", multiple=True, help="URL of affinities.")
@click.option("--segmentation", multiple=True, help="URL of labels.")
@click.option("--position", type=_Numbers(), help="z,y,x in voxels; the middle without it.")
@click.option("--contrast", type=_Numbers(), help="Values of images that are black and white: 20,180.")
@click.option("--layout", default="4panel", help="4panel, xy, xz, yz, 3d or xy-3d.")
@click.option("--reader", type=click.Choice(["browser", "process"]), default="browser", help="Who reads the stores.")
@click.option("--host", default="127.0.0.1", help="Where the page is served; this machine only by default.")
@click.option("--port", type=int, default=0, help="Of the page; a free one by default.")
@click.option("--screenshot", type=click.Path(dir_okay=False), help="Draw the view into this PNG file, and end.")
@click.option("--size", type=int, nargs=2, default=(1200, 900), help="Width and height of the screenshot in pixels.")
@click.option("--browser", help="The Chromium or Chrome that draws the screenshot.")
@click.option("--state", is_flag=True, help="Print Neuroglancer's state as JSON, and end.")
def view(
    urls: tuple[str, ...], screenshot: str | None, size: tuple[int, int], browser: str | None, state: bool, **given: Any
) -> None:
    """Show the volumes at URLS in Neuroglancer, until Ctrl-C.

    What a volume is, is told from its data: labels are integers of 32 bits or more, several channels are affinities.
    """
    from threading import Event

    import chunkinfer as ci

    kinds: dict[str, Any] = {kind: list(given.pop(kind)) for kind in ("image", "affinities", "segmentation")}
    with ci.view(layers=list(urls), **kinds, **given) as shown:
        if state:
            click.echo(json.dumps(shown.state, indent=1))
        if screenshot is not None:
            shown.screenshot(screenshot, size=size, browser=browser)
        if state or screenshot is not None:
            return
        click.echo(f"{shown.url}\nCtrl-C ends it.")
        with suppress(KeyboardInterrupt):
            Event().wait()


@main.command()
@click.argument("url")
@click.option("-o", "--out", type=click.Path(dir_okay=False), required=True, help="The PNG file.")
@click.option("--level", type=int, help="Of a multiscale image; by default the finest of at most 2000 voxels.")
@click.option("--position", type=_Numbers(), help="z,y,x in voxels of the finest level; the middle without it.")
@click.option("--kind", type=click.Choice(["image", "affinities", "segmentation"]), help="By default by the data.")
def show(url: str, out: str, **given: Any) -> None:
    """Draw three orthogonal slices of the volume at URL into one PNG."""
    import chunkinfer as ci

    click.echo(ci.show(url, out, **given).path)


@main.command()
@click.argument("url")
@click.option("-o", "--out", type=click.Path(dir_okay=False), required=True, help="The PNG file.")
def thumbnails(url: str, out: str) -> None:
    """Draw the middle section of every level of the volume at URL into one PNG."""
    import chunkinfer as ci

    click.echo(ci.thumbnails(url, out).path)


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


def _subscribers(log: str | None, metrics: int | None) -> list[Any]:
    from chunkinfer.watching import JsonLines, Metrics

    events: list[Any] = [] if log is None else [JsonLines(log)]
    return events if metrics is None else [*events, Metrics(metrics)]


def _run(pipeline: Any, dry_run: bool, as_yaml: bool, log: str | None, metrics: int | None, **given: Any) -> None:
    """Run a pipeline, or print what it is."""
    if as_yaml:
        click.echo(pipeline.to_yaml(), nl=False)
    elif dry_run:
        click.echo(pipeline.plan())
    else:
        with _client(given) as client:
            for report in pipeline.run(client=client, events=_subscribers(log, metrics)):
                click.echo(report)


def _help_of(command: Any) -> str:
    """What a step takes."""
    shown = click.HelpFormatter(max_width=110)
    shown.write_usage(command.name, command.usage.removeprefix(command.name).strip())
    shown.write_paragraph()
    shown.write_text(command.summary)
    arguments = [(p.name.upper(), p.help) for p in command.arguments]
    options = [(_option(p), p.help) for p in command.parameters if not p.argument]
    links = [("--as NAME", "Name the result for later steps.")] if command.name != "save" else []
    links += [("--from NAME", "Work on the result of that name.")] if command.name != "open" else []
    for title, rows in (("Arguments", arguments), ("Options", [*options, *links])):
        if rows:
            with shown.section(title):
                shown.write_dl(rows, col_max=34)
    return shown.getvalue().rstrip()


def _option(parameter: Any) -> str:
    """``--sections / --no-sections``, or with the name of its value and its default."""
    if parameter.kinds == {"bool"}:
        return f"{parameter.option} / --no-{parameter.option[2:]}"
    value = f" [{parameter.name.upper()}]" if parameter.flag else f" {parameter.name.upper()}"
    default = "" if parameter.default in (None, False) else f" ({parameter.default})"
    return f"{parameter.option}{value}{'...' if parameter.several else ''}{default}"


def _overview(table: Any) -> str:
    """The steps of a chain, and the options of the run."""
    shown = click.HelpFormatter(max_width=110)
    shown.write_usage("chunkinfer open", "URL [OPTIONS] STEP [OPTIONS] ... save URL [OPTIONS]")
    shown.write_paragraph()
    shown.write_text(
        "A chain of steps is one lazy graph and one pass. --as NAME names a step's result, --from NAME works on it. "
        "Help on a step: chunkinfer operators STEP."
    )
    with shown.section("Steps"):
        shown.write_dl([(c.usage.removesuffix(" [OPTIONS]"), c.summary) for c in table.values()], col_max=34)
    with shown.section("Options of the run"):
        context = click.Context(open_)
        shown.write_dl([r for p in open_.params if (r := p.get_help_record(context)) and r[0].startswith("-")])
    return shown.getvalue().rstrip()


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
        notes = "".join(f"\n  ({note})" for note in getattr(error, "__notes__", ()))
        click.echo(f"{type(error).__name__}: {error}{notes}", err=True)
        sys.exit(130 if isinstance(error, RunPaused) else 1)


if __name__ == "__main__":
    run()
