"""Stores to look at."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from numpy.typing import NDArray

from chunkinfer.volumes.arrays.create import ArraySpec, create

VOXEL = {"z": 40.0, "y": 8.0, "x": 8.0}


def write(url: Path | str, array: NDArray[Any], **about: Any) -> str:
    """Store an array, its last three axes z, y, x."""
    dims = ("c", "z", "y", "x")[-array.ndim :]
    about = {"voxel_size": VOXEL, "unit": "nm", **about}
    destination = create(url, ArraySpec(shape=array.shape, dtype=array.dtype, dims=dims, **about))
    destination.write([slice(0, n) for n in array.shape], array)
    return str(url)


@pytest.fixture
def stored(tmp_path: Path) -> Callable[..., str]:
    """Store an array under a name; gives its URL."""
    return lambda name, array, **about: write(tmp_path / name, array, **about)


@pytest.fixture
def pyramid(tmp_path: Path) -> Callable[..., str]:
    """Store levels, finest first, each of half the voxels per axis, as an OME-Zarr image; gives its URL."""

    def made(name: str, levels: list[NDArray[Any]], offset: int = 0) -> str:
        names = ("c", "z", "y", "x")[-levels[0].ndim :]
        datasets = []
        for level, array in enumerate(levels):
            write(tmp_path / name / str(level), array)
            scale = [VOXEL.get(d, 1.0) * (2**level if d in VOXEL else 1) for d in names]
            shift = [offset * VOXEL.get(d, 0.0) for d in names]
            steps = [{"type": "scale", "scale": scale}, {"type": "translation", "translation": shift}]
            datasets.append({"path": str(level), "coordinateTransformations": steps})
        kinds = {"c": {"type": "channel"}}
        axes = [{"name": d, **kinds.get(d, {"type": "space", "unit": "nanometer"})} for d in names]
        ome = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": datasets}]}
        group = {"zarr_format": 3, "node_type": "group", "attributes": {"ome": ome}}
        (tmp_path / name / "zarr.json").write_text(json.dumps(group))
        return str(tmp_path / name)

    return made
