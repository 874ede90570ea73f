"""Runs: infer, their plan, the network's field, the demo."""

from __future__ import annotations

from typing import Any

import click

from chunkinfer.tools.cli.options import (
    INFERENCE,
    LOGGING,
    ONE_OUTPUT,
    OUTPUT,
    SCHEDULER,
    SOURCE,
    client_of,
    opened,
    output_of,
    subscribers,
    without_source,
)


@click.command()
@click.argument("src")
@click.argument("dst")
@SOURCE
@INFERENCE
@OUTPUT
@SCHEDULER
@LOGGING
def infer(src: str, dst: str, log: str | None, metrics: int | None, **given: Any) -> None:
    """Run a network over the volume at SRC and store the result at DST.

    Run again after a crash, the same command computes only what is missing. Ctrl-C pauses (code 130); a second one
    stops at once.
    """
    import chunkinfer as ci

    events = subscribers(log, metrics)
    settings = output_of(given)
    with client_of(given) as client:
        result = ci.infer(opened(src, given), **without_source(given))
        click.echo(ci.save(result, dst, client=client, events=events, **settings))


@click.command()
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
    click.echo(ci.plan(opened(src, given), **without_source(given), workers=workers, prices=prices or None))


@click.command()
@click.argument("model")
@ONE_OUTPUT
@click.option("--channels", type=int, help="Input channels, where the file does not tell.")
@click.option("--ndim", type=int, help="Spatial axes, where the file does not tell.")
@click.option("--verify", is_flag=True, help="Check by running it on NaN: independent, and slower.")
def field(model: str, **given: Any) -> None:
    """Show what the network in the file MODEL reads around each output voxel, and which sizes it takes."""
    import chunkinfer as ci

    click.echo(ci.receptive_field(model, **given))


@click.command()
@click.argument("folder", default="demo-output")
@click.option("--workers", type=int, default=2, help="Worker processes of the local cluster.")
def demo(folder: str, workers: int) -> None:
    """Run a small network over a synthetic electron-microscopy volume; writes to FOLDER."""
    from chunkinfer.tools.demo.run import run

    run(folder, workers)
