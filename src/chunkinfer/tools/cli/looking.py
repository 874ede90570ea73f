"""Looking at volumes: view, show, thumbnails."""

from __future__ import annotations

import json
from typing import Any

import click

from chunkinfer.tools.cli.options import Numbers, until_ctrl_c


@click.command()
@click.argument("urls", nargs=-1)
@click.option("--image", multiple=True, help="URL of an image, where it is not told from the data.")
@click.option("--affinities", multiple=True, help="URL of affinities.")
@click.option("--segmentation", multiple=True, help="URL of labels.")
@click.option("--position", type=Numbers(), help="z,y,x in voxels; the middle without it.")
@click.option("--contrast", type=Numbers(), help="Values of images that are black and white: 20,180.")
@click.option("--segment", "segments", type=int, multiple=True, help="Show this object; by default those with meshes.")
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
    import chunkinfer as ci

    given["segments"] = given["segments"] or None
    kinds: dict[str, Any] = {kind: list(given.pop(kind)) for kind in ("image", "affinities", "segmentation")}
    with ci.view(layers=list(urls), **kinds, **given) as shown:
        if state:
            click.echo(json.dumps(shown.state, indent=1))
        if screenshot is not None:
            shown.screenshot(screenshot, size=size, browser=browser)
        if state or screenshot is not None:
            return
        click.echo(shown.url)
        until_ctrl_c()


@click.command()
@click.argument("url")
@click.option("-o", "--out", type=click.Path(dir_okay=False), required=True, help="The PNG file.")
@click.option("--level", type=int, help="Of a multiscale image; by default the finest of at most 2000 voxels.")
@click.option("--position", type=Numbers(), help="z,y,x in voxels of the finest level; the middle without it.")
@click.option("--kind", type=click.Choice(["image", "affinities", "segmentation"]), help="By default by the data.")
def show(url: str, out: str, **given: Any) -> None:
    """Draw three orthogonal slices of the volume at URL into one PNG."""
    import chunkinfer as ci

    click.echo(ci.show(url, out, **given).path)


@click.command()
@click.argument("url")
@click.option("-o", "--out", type=click.Path(dir_okay=False), required=True, help="The PNG file.")
def thumbnails(url: str, out: str) -> None:
    """Draw the middle section of every level of the volume at URL into one PNG."""
    import chunkinfer as ci

    click.echo(ci.thumbnails(url, out).path)
