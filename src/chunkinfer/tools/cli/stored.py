"""Stored volumes: copy, delete, info, pyramid."""

from __future__ import annotations

import json
import shlex
import sys
from typing import Any

import click

from chunkinfer.errors import DestinationError
from chunkinfer.tools.cli.options import (
    LOGGING,
    OUTPUT,
    SCHEDULER,
    SOURCE,
    Spans,
    Voxels,
    client_of,
    output_of,
    subscribers,
)


@click.command()
@click.argument("src")
@click.argument("dst")
@SOURCE
@click.option("--box", type=Spans(), help="Only this part, in stored voxels: z=0:100,y=10:.")
@OUTPUT
@SCHEDULER
@LOGGING
def copy(src: str, dst: str, log: str | None, metrics: int | None, **given: Any) -> None:
    """Copy the volume at SRC to DST, in other chunks, another encoding or another format.

    Voxels and their type stay as they are. Run again after a crash, the same command copies only what is missing.
    """
    import chunkinfer as ci

    events = subscribers(log, metrics)
    with client_of(given) as client:
        click.echo(ci.copy(src, dst, client=client, events=events, **output_of(given), **given))


@click.command()
@click.argument("url")
@click.option("--leftovers", is_flag=True, help="Only what dead runs left there; the volume stays.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def delete(url: str, leftovers: bool, yes: bool) -> None:
    """Delete the volume at URL, with its levels and the ledger of its run; nothing else.

    What will go is shown first, and you are asked.
    """
    import chunkinfer as ci

    found = ci.delete(url, leftovers=leftovers, dry_run=True)
    click.echo(found)
    if not (found.what or found.holder):
        return
    if not yes and not sys.stdin.isatty():
        words = ["chunkinfer", "delete", url, *["--leftovers"] * leftovers, "--yes"]
        raise DestinationError(
            "Nothing was deleted: there is no terminal at which somebody could be asked.",
            "A script says beforehand that what it names can go.",
            [shlex.join(words), "or run the command in a terminal"],
        )
    if not yes:
        click.confirm("Delete it?", abort=True)
    deleted = ci.delete(url, leftovers=leftovers)
    click.echo(f"{deleted.objects:,} objects deleted.")


@click.command()
@click.argument("url")
@click.option("--array", help="Only this array of a group or file.")
@click.option("--json", "as_json", is_flag=True, help="Print it for programs.")
def info(url: str, array: str | None, as_json: bool) -> None:
    """Show what is at URL: levels, arrays, sections, and how far the run is that writes it."""
    import chunkinfer as ci

    found = ci.info(url, array=array)
    click.echo(json.dumps(found.as_dict(), indent=1, default=str) if as_json else found)


@click.command()
@click.argument("url")
@click.option("--levels", type=int, help="How many; by default until the image is as small as a chunk.")
@click.option("--method", default="auto", help="mean, mode, min, max or stride; auto: mode for labels, else mean.")
@click.option("--factors", type=Voxels(), multiple=True, help="z,y,x for all levels; given again, one per level.")
@click.option("--missing", type=click.Choice(["error", "fill"]), default="error", help="What an absent chunk is.")
@click.option(
    "--overwrite",
    is_flag=True,
    help="Make the levels that are there anew; the image stays. What this same command began goes on.",
)
@SCHEDULER
def pyramid(url: str, factors: tuple[Any, ...], **given: Any) -> None:
    """Add coarser levels to the precomputed volume or OME-Zarr image at URL; the same command resumes."""
    import chunkinfer as ci

    rows = None if not factors else factors[0] if len(factors) == 1 else list(factors)
    with client_of(given) as client:
        click.echo(ci.pyramid(url, factors=rows, client=client, **given))
