"""Objects: segment; and segmentations as numbers: evaluate, statistics, contacts, majority."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from chunkinfer.tools.cli.options import (
    LOGGING,
    SCHEDULER,
    SOURCE,
    client_of,
    opened,
    subscribers,
    together,
    without_source,
)

if TYPE_CHECKING:
    from pandas import DataFrame

PASS = together(
    click.option("--level", type=int, default=0, help="Level of multiscale volumes; 0 is the finest."),
    click.option("--block", type=int, help="Edge of a block in voxels; by default whole chunks, 4 million voxels."),
    click.option("--folder", help="Keep the tables of blocks here, so that the same command resumes."),
    click.option(
        "--overwrite",
        is_flag=True,
        help="Forget the tables in the folder, but go on with those that this same command began.",
    ),
    SCHEDULER,
)

IGNORE = click.option(
    "--ignore", type=int, multiple=True, default=(0,), help="Labels to leave out, by default 0; -1 for none."
)

TABLE = together(
    click.option("-o", "--out", type=click.Path(dir_okay=False), help="Write the table to this file of CSV."),
    click.option("--json", "as_json", is_flag=True, help="Print it for programs."),
)


@click.command()
@click.argument("affinities")
@click.argument("output")
@SOURCE
@click.option("--work", help="Keep fragments and tables here, for other thresholds; by default OUTPUT.work.")
@click.option("--low", type=float, default=0.05, show_default=True, help="Edges of this affinity or less are cut.")
@click.option("--high", type=float, default=0.995, show_default=True, help="Edges above it count as this.")
@click.option("--merge-threshold", type=float, default=0.5, show_default=True, help="Of the strongest contact.")
@click.option("--merge-size", type=int, default=250, show_default=True, help="Voxels of an object that is not small.")
@click.option("--dust-size", type=int, default=100, show_default=True, help="Voxels of the smallest object.")
@click.option("--agglomerate", type=float, default=0.6, show_default=True, help="Least mean affinity.")
@click.option("--order", type=click.Choice(["zyx", "xyz"]), default="zyx", show_default=True, help="Of the channels.")
@click.option(
    "--sign",
    type=click.Choice(["-1", "1"]),
    default="-1",
    show_default=True,
    help="Edge before, or behind.",
)
@click.option("--mask", help="A volume of any resolution; where it is 0 is background.")
@click.option("--consecutive", is_flag=True, help="Labels 1, 2, ... instead of those that tell where objects begin.")
@click.option("--pyramid", is_flag=True, help="Write coarser levels, too.")
@click.option(
    "--overwrite", is_flag=True, help="Start anew, but go on with what this same command began and did not end."
)
@SCHEDULER
@LOGGING
def segment(
    affinities: str, output: str, work: str | None, sign: str, consecutive: bool, pyramid: bool, log: str | None,
    metrics: int | None, **given: Any,
) -> None:  # fmt: skip
    """Cut AFFINITIES into objects, and store their labels at OUTPUT. The same command resumes."""
    import chunkinfer as ci

    volume, events = opened(affinities, given), subscribers(log, metrics)
    with client_of(given) as client:
        how = {"client": client, "events": events, "overwrite": given["overwrite"]}
        settings = {**without_source(given), **how, "sign": int(sign)}
        found = ci.segment(volume, work or f"{output.rstrip('/')}.work", **settings)
        labels = found.consecutive() if consecutive else found.labels
        click.echo(found)
        click.echo(ci.save(labels, output, pyramid=pyramid, **how))


@click.command()
@click.argument("segmentation")
@click.argument("truth", required=False)
@click.option("--skeletons", help="An .npz file, an SWC file or a folder of them, for the expected run length.")
@click.option("--unit", default="physical", help="Of their positions: physical or voxels.")
@click.option("--merge-nodes", type=int, default=1, help="Nodes of each of two skeletons that a merging segment holds.")
@IGNORE
@PASS
@click.option("--json", "as_json", is_flag=True, help="Print numbers for programs.")
@click.option("--splits", type=click.Path(dir_okay=False), help="Write the objects that are split to this CSV file.")
@click.option("--merges", type=click.Path(dir_okay=False), help="Write the segments that merge to this CSV file.")
@click.option("-o", "--out", type=click.Path(dir_okay=False), help="Draw splits and merges into this PNG file.")
def evaluate(
    segmentation: str, truth: str | None, as_json: bool, out: str | None, splits: str | None, merges: str | None,
    skeletons: str | None, unit: str, **given: Any,
) -> None:  # fmt: skip
    """Compare the labels at SEGMENTATION with those at TRUTH: adapted Rand error, variation of information, ERL."""
    from chunkinfer.objects.evaluation.evaluating import evaluate as compare
    from chunkinfer.objects.evaluation.skeletons import Skeletons
    from chunkinfer.support.picture import check_name, require_matplotlib

    if out is not None:
        require_matplotlib()
        check_name(out)
    volumes = _opened(given, segmentation, truth)
    traced = None if skeletons is None else Skeletons.of(skeletons, unit=unit)
    with client_of(given) as client:
        found = compare(*volumes, skeletons=traced, client=client, **_pass(given))
    click.echo(json.dumps(found.as_dict(), indent=1) if as_json else found)
    for path, name in ((splits, "splits"), (merges, "merges")):
        if path is not None:
            getattr(found, name).to_csv(path, index=False)
    if out is not None:
        found.show(out)


@click.command()
@click.argument("labels")
@click.argument("image", required=False)
@IGNORE
@PASS
@TABLE
def statistics(labels: str, image: str | None, out: str | None, as_json: bool, **given: Any) -> None:
    """Size, box and centroid of each object at LABELS, and its intensity in IMAGE."""
    from chunkinfer.objects.evaluation.objects import statistics as measure

    volumes = _opened(given, labels, image)
    with client_of(given) as client:
        _tell(measure(*volumes, client=client, **_pass(given)), out, as_json)


@click.command()
@click.argument("labels")
@PASS
@TABLE
def contacts(labels: str, out: str | None, as_json: bool, **given: Any) -> None:
    """Which objects at LABELS touch, and on what area."""
    from chunkinfer.objects.evaluation.contacts import contact_sites

    volumes = _opened(given, labels)
    with client_of(given) as client:
        _tell(contact_sites(*volumes, client=client, **_pass(given)), out, as_json)


@click.command()
@click.argument("labels")
@click.argument("other")
@IGNORE
@PASS
@TABLE
def majority(labels: str, other: str, out: str | None, as_json: bool, **given: Any) -> None:
    """The most frequent label of OTHER on each object at LABELS."""
    from chunkinfer.objects.evaluation.objects import majority as most

    volumes = _opened(given, labels, other)
    with client_of(given) as client:
        _tell(most(*volumes, client=client, **_pass(given)), out, as_json)


def _opened(given: dict[str, Any], *urls: str | None) -> list[Any]:
    import chunkinfer as ci

    level = given.pop("level")
    return [ci.open_volume(url, level=level) for url in urls if url is not None]


def _pass(given: dict[str, Any]) -> dict[str, Any]:
    """The options of `PASS` and `IGNORE` as arguments."""
    if "ignore" in given:
        given["ignore"] = [label for label in given["ignore"] if label != -1]
    return {"url": given.pop("folder"), **given}


def _tell(table: DataFrame, out: str | None, as_json: bool) -> None:
    if out is not None:
        table.to_csv(out, index=False)
    if as_json:
        click.echo(json.dumps({**table.attrs, "rows": table.to_dict("records")}, indent=1))
    elif out is None:
        click.echo(table.to_csv(index=False), nl=False)
