"""HDF5 for `fuzzing`: arrays with attributes of several conventions, and what docs/formats.md says of them."""

from __future__ import annotations

import json
import math
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.lib.storage.fuzz_files_seen import BY_RANK, ORDER, SPACE, VALUES, is_size, read
from tests.lib.storage.fuzzing import Asked, Format, Seen

h5py = pytest.importorskip("h5py")


def write_h5(folder: Path) -> None:
    folder.mkdir()
    with h5py.File(folder / "a.h5", "w") as file:
        file["raw"] = VALUES[0]


def axistags(chance: random.Random, rank: int) -> Any:
    keys = chance.choice([BY_RANK[rank], BY_RANK[rank][::-1], "zyxc"[-rank:], "xyzct"[:rank], "zyx", "zyq", "ZYX"])
    tag = {"typeFlags": 2, "description": ""}
    found = [{**tag, "key": key, "resolution": chance.choice([0, 0, 0.5, 4, -1])} for key in keys]
    return chance.choice([json.dumps({"axes": found})] * 5 + [json.dumps(found), "{", 3, json.dumps({"axes": {}})])


def h5_attributes(place: Path, chance: random.Random) -> str:
    """Another array of two to five axes, with one to four attributes."""
    rank = chance.choice([2, 3, 3, 4, 4, 5])
    shape = tuple(chance.choice([1, 2, 3, 5]) for _ in range(rank))
    kind = chance.choice(["u1", ">u2", "<i4", "f4", ">f8", "f2", "?"])
    array = np.arange(math.prod(shape)).reshape(shape).astype(kind)
    number = (4, 0.5, 0, -2, math.nan, math.inf, "wide")

    def sizes() -> Any:
        one = chance.choice(
            [np.array([40.0, 4.0, 4.0]), np.array([0.3, 0.1, 0.1], "f4"), [40, 4, 4], (8, 8, 8, 8), (8, 8)]
        )
        return chance.choice(
            [one, one, one, np.float32(0.1), "8x8x8", [chance.choice(number[:-1]) for _ in range(3)], b"high"]
        )

    names = chance.choice(
        [BY_RANK[rank], BY_RANK[rank][::-1], "xyzct"[:rank], "ZYXCT"[:rank], "zzyxc"[:rank], "zyx", "ab"]
    )
    choices: dict[str, Callable[[], Any]] = {
        "resolution": sizes,
        "voxel_size": sizes,
        "element_size_um": sizes,
        "offset": lambda: chance.choice(
            [[400, 8, 4], [400.0, -8.0, 4.0], [1], "far", [np.nan, 4, 4], np.array([4.0, 4.0, 4.0, 4.0], "f4")]
        ),
        "units": lambda: chance.choice(["nm", "um", ["nm", "nm", "nm"], ["um", "nm", "nm"], 3, ""]),
        "axistags": lambda: axistags(chance, rank),
        "axis_units": lambda: json.dumps(chance.choice([{"z": "um", "y": "um", "x": "um"}, {"q": "nm"}, [3]])),
        "axis_names": lambda: chance.choice([list(names), list(names), [], "zyx", 3]),
        "_ARRAY_DIMENSIONS": lambda: chance.choice([list(names), ["dim_0", "dim_1", "dim_2"], ["time", "y", "x"]]),
        "labels": lambda: names if len(names) <= rank else "",
        "scales": lambda: [names, chance.choice([None, 1.0, 40.0, 0.5, -4.0, "uneven"]), chance.choice(["nm", "um"])],
        "comment": lambda: chance.choice(
            ["shot at dawn", np.float32(0.7), np.arange(3), np.void(b"x"), h5py.Empty("f4")]
        ),
    }
    drawn = {name: choices[name]() for name in chance.sample(list(choices), chance.choice([1, 2, 2, 3, 4]))}
    place.unlink()
    with h5py.File(place, "w") as file:
        file["raw"] = array
        for name, value in drawn.items():
            if name == "scales":
                attach(file, *value)
            elif name != "labels":
                file["raw"].attrs[name] = value
            else:
                for dim, label in zip(file["raw"].dims, value, strict=False):
                    dim.label = label
    return f"{kind} {shape} with {drawn}"


def attach(file: Any, names: str, step: Any, unit: str) -> None:
    """Scales as netCDF writes them, with positions or none."""
    for axis, name in enumerate(names[: file["raw"].ndim]):
        n = file["raw"].shape[axis]
        at = np.arange(n) ** 2.0 if step == "uneven" else 8.0 + np.arange(n) * (step or 0)
        if f"{name}" not in file:
            file[name] = at
            file[name].make_scale(name if step else "This is a netCDF dimension but not a netCDF variable.")
            file[name].attrs["units"] = unit
        if len(file[name]) == n:
            file["raw"].dims[axis].attach_scale(file[name])


def by_h5py(place: Path, asked: Asked) -> Seen:
    """The conventions of docs/formats.md, read plainly."""
    with h5py.File(place) as file:
        dataset = file["raw"]
        values, about = dataset[...], dict(dataset.attrs)
        labels = [dim.label for dim in dataset.dims]
        scales = [(dim[0].name[1:], dim[0][...], dict(dim[0].attrs)) if len(dim) else None for dim in dataset.dims]
    tags = json.loads(about["axistags"])["axes"] if "axistags" in about else []
    names = labels if any(labels) else [tag["key"] for tag in tags]
    for name in ("axis_names", "_ARRAY_DIMENSIONS"):
        if not len(names) and name in about:
            names = list(about[name])
    if not len(names) and any(scales):
        names = [scale[0] if scale else "" for scale in scales]
    if not len(names) or all(re.fullmatch(r"dim_\d", name) for name in names):
        names = list(BY_RANK[values.ndim])
    axes = [{"time": "t", "channel": "c"}.get(name.lower(), name.lower()) for name in names]
    assert set(axes) <= set(ORDER)
    space = [dim for dim in axes if dim in SPACE]

    def each(given: Any) -> dict[str, Any]:
        listed = np.atleast_1d(given).tolist() if isinstance(given, np.ndarray) and given.ndim else []
        if len(listed) == len(space):
            return dict(zip(space, listed, strict=True))
        return {d: v for d, v in zip(axes, listed, strict=True) if d in SPACE} if len(listed) == len(axes) else {}

    said: list[tuple[dict[str, Any], Any]] = []
    if "element_size_um" in about:
        said.append((each(about["element_size_um"]), "um"))
    said.append((each(about.get("voxel_size", about.get("resolution"))), about.get("units", "")))
    if tags:
        named = json.loads(about.get("axis_units", "{}"))
        unit = {d: named.get(d, "") for d in SPACE} if isinstance(named, dict) else ""
        tagged = {tag["key"].lower(): tag["resolution"] for tag in tags}
        said.append(({dim: tagged.get(dim) for dim in space}, unit))
    world = each(about.get("offset"))
    world = world if all(map(math.isfinite, world.values())) else {}
    for sizes, unit in said:
        if sizes and all(map(is_size, sizes.values())):
            units = unit if isinstance(unit, str | dict) else each(unit)
            return read(values, axes, sizes, units, {d: world[d] / sizes[d] for d in world})
    placed = {d: scale for d, scale in zip(axes, scales, strict=True) if d in SPACE and scale and len(scale[1]) > 1}
    placed = {d: s for d, s in placed.items() if not s[2]["NAME"].startswith(b"This is a netCDF dimension but")}
    sizes = {d: np.diff(at).mean() for d, (_, at, _) in placed.items()}
    assert all(np.allclose(np.diff(at), sizes[d]) and sizes[d] > 0 for d, (_, at, _) in placed.items())
    return read(
        values, axes, sizes, {d: about["units"] for d, (_, _, about) in placed.items()},
        {d: at[0] / sizes[d] for d, (_, at, _) in placed.items()},
    )  # fmt: skip


HDF5 = (Format("HDF5", write_h5, h5_attributes, [by_h5py], "a.h5"),)
