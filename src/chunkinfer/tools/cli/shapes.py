"""Shapes of objects: mesh."""

from __future__ import annotations

from typing import Any

import click

from chunkinfer.tools.cli.options import (
    LOGGING,
    SCHEDULER,
    SOURCE,
    Voxels,
    client_of,
    opened,
    subscribers,
    without_source,
)


@click.command()
@click.argument("labels")
@click.argument("url")
@SOURCE
@click.option("--id", "ids", type=int, multiple=True, help="Only this object; given again, several. All without it.")
@click.option("--simplify", type=float, default=100, show_default=True, help="One of so many triangles is enough.")
@click.option("--max-error", type=float, help="Nanometres that simplification may cost; by default half a voxel.")
@click.option("--format", type=click.Choice(["legacy", "multires"]), default="legacy", show_default=True)
@click.option("--sharded", is_flag=True, help="Store many objects together; multires only.")
@click.option("--block", type=Voxels(), help="Voxels that a task marches over.")
@click.option(
    "--overwrite",
    is_flag=True,
    help="Delete the meshes that are there and start anew; labels stay. What this same command began goes on.",
)
@SCHEDULER
@LOGGING
def mesh(
    labels: str, url: str, ids: tuple[int, ...], log: str | None, metrics: int | None, **given: Any
) -> None:  # fmt: skip
    """Make Neuroglancer meshes of the objects in LABELS.

    URL is a precomputed segmentation, often LABELS itself, or a folder for meshes alone. The same command resumes.
    """
    from chunkinfer.objects.meshes.meshing import mesh as made

    volume, events = opened(labels, given), subscribers(log, metrics)
    with client_of(given) as client:
        click.echo(made(volume, url, ids=ids or None, client=client, events=events, **without_source(given)))
