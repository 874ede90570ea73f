"""Checks of an output: audit, status, verify."""

from __future__ import annotations

import json
import sys
from typing import Any

import click

from chunkinfer.tools.cli.options import SCHEDULER, SOURCE, client_of, opened, without_source


@click.command()
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

    report = ci.audit(output, opened(volume, given), **without_source(given))
    click.echo(report)
    if not report.ok:
        sys.exit(2)


@click.command()
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


@click.command()
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

    source = opened(volume, given) if volume is not None else None
    asked = {"volume": source, **{name: given[name] for name in ("sample", "repair", "model", "trust")}}
    with client_of(given) as client:
        report = ci.verify(url, client=client, **asked)
    click.echo(report)
    if not report.ok:
        sys.exit(2)
