"""OME-Zarr's versions in one form: axes, and for each level a list of scales and translations along them.

Versions 0.1 to 0.5 say so directly. From 0.6 on (RFC-5) an image names coordinate systems, and each level has one
transformation into the intrinsic one::

    "coordinateSystems": [{"name": "physical", "axes": [...]}],
    "datasets": [{"path": "0", "coordinateTransformations": [
        {"type": "sequence", "input": "0", "output": "physical", "transformations": [scale, translation]}]}]

Voxels are placed in the intrinsic system. What leads from there to others, such as a registration, does not move them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from chunkinfer.errors import SourceError
from chunkinfer.volumes.arrays.axes import SYNONYMS

KNOWN = re.compile(r"0\.[1-6]([.-]?(dev|rc|a|b)\.?\d*)?")
"""Versions that are read, their drafts included."""

TYPES = {"t": "time", "c": "channel", "z": "space", "y": "space", "x": "space"}
"""Axis -> its type."""


def has_systems(image: Mapping[str, Any]) -> bool:
    """Whether an image names coordinate systems, as from version 0.6 on."""
    return "coordinateSystems" in image


def one_form(attributes: Mapping[str, Any], image: Mapping[str, Any], url: str) -> dict[str, Any]:
    """An image with ``axes``, and levels placed by a list of transformations, whatever its version.

    Parameters
    ----------
    attributes, image
        Of the group, and the image that they describe.
    url
        For messages.

    Raises
    ------
    SourceError
        The version is not known, an axis contradicts itself, or coordinate systems are not what they must be.
    """
    block = attributes.get("ome")
    version = block.get("version") if isinstance(block, Mapping) else image.get("version")
    if version is not None and not KNOWN.fullmatch(str(version)):
        raise SourceError(
            f"{url} is an image of OME-Zarr version {version!r}.",
            "Known are 0.1 to 0.6; what another one says of the place of voxels is not.",
            [f"open the array itself: {alone(image, 0, url)}", "or write it as version 0.5"],
        )
    made = _out_of_systems(image, url) if has_systems(image) else dict(image)
    if not made.get("axes") and str(version) >= "0.4" and version is not None:
        raise SourceError(
            f"{url} is an image of OME-Zarr version {version!r}, and its axes are not named.",
            "From version 0.4 on, every image names them, and its sizes are along them.",
            ["add axes to the image's metadata", f"or open the array itself: {alone(image, 0, url)}"],
        )
    for axis in made.get("axes") or []:
        _check_type(axis, image, url)
    return made


def alone(image: Mapping[str, Any], level: int, url: str) -> str:
    """The line that opens the array of a level without what the image says of it."""
    return f"open_volume({url!r}, array={str(image['datasets'][level]['path'])!r})"


def _check_type(axis: Any, image: Mapping[str, Any], url: str) -> None:
    name = str(axis["name"]).lower() if isinstance(axis, Mapping) else ""
    should = TYPES.get(SYNONYMS.get(name, name))
    if should and (axis.get("type") or should) != should:
        raise SourceError(
            f"An axis of {url} is named {axis['name']!r} and has the type {axis['type']!r}.",
            "One of them is wrong: t is time, c is channel, and z, y and x are space.",
            ["repair the axes in the image's metadata", f"or open the array itself: {alone(image, 0, url)}"],
        )


def _out_of_systems(image: Mapping[str, Any], url: str) -> dict[str, Any]:
    systems = {system["name"]: system["axes"] for system in image["coordinateSystems"]}
    if len(systems) < len(image["coordinateSystems"]):
        raise ValueError(f"two coordinate systems of {url} have one name")
    intrinsic = _name(_only(image, 0, url).get("output"), list(systems)[-1])
    if intrinsic not in systems:
        raise _unplaced(
            image, url, f"leads to {intrinsic!r}, which is not one of its coordinate systems {list(systems)}"
        )
    for step in steps_of(image):
        if _name(step.get("input"), "") != intrinsic or _name(step.get("output"), intrinsic) == intrinsic:
            raise _unplaced(
                image, url, f"is followed by one that does not lead from {intrinsic!r} to another system: {step}"
            )
    datasets = []
    for level, dataset in enumerate(image["datasets"]):
        step = _only(image, level, url)
        if _name(step.get("output"), intrinsic) != intrinsic:
            raise _unplaced(image, url, f"leads to {step['output']!r}, and that of the finest level to {intrinsic!r}")
        if _name(step.get("input"), dataset["path"]) != dataset["path"]:
            raise _unplaced(image, url, f"begins at {step['input']!r}, and the level lies at {dataset['path']!r}")
        steps = step.get("transformations") if step.get("type") == "sequence" else [step]
        if not isinstance(steps, list):
            raise _unplaced(image, url, "is a sequence without a list of transformations")
        datasets.append({**dataset, "coordinateTransformations": steps or [{"type": "identity"}]})
    kept = {name: value for name, value in image.items() if name != "coordinateTransformations"}
    return {**kept, "axes": systems[intrinsic], "datasets": datasets}


def _only(image: Mapping[str, Any], level: int, url: str) -> Mapping[str, Any]:
    """The one transformation of a level."""
    dataset = image["datasets"][level]
    steps = steps_of(dataset)
    if len(steps) != 1:
        raise _unplaced(image, url, f"is one of {len(steps)} of the level {dataset['path']!r}, which has exactly one")
    return steps[0]


def steps_of(stated: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The transformations of an image or a level; none where it states none."""
    steps = stated.get("coordinateTransformations")
    if steps is not None and not isinstance(steps, list):
        raise TypeError(f"coordinateTransformations is {steps!r}, and not a list")
    return steps or []


def _name(system: Any, absent: Any) -> Any:
    """The name of a coordinate system, by itself or, in later drafts, beside its path."""
    if isinstance(system, Mapping):
        system = system["name"] if "name" in system else system["path"]
    return absent if system in (None, "") else system


def _unplaced(image: Mapping[str, Any], url: str, why: str) -> SourceError:
    return SourceError(
        f"A coordinate transformation of {url} {why}.",
        "From version 0.6 on, each level has one transformation into the image's intrinsic coordinate system.",
        ["repair the multiscales metadata", f"or open the array itself, without a place: {alone(image, 0, url)}"],
    )
