"""Label volumes, stored segmentations, and readers of meshes that share nothing with what writes them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from numpy.typing import NDArray
from scipy import ndimage

import chunkinfer as ci

VOXEL, OFFSET = (40.0, 8.0, 4.0), (3, -5, 7)
"""Nanometres, and voxels, along z, y, x."""

Mesh = tuple[NDArray[Any], NDArray[Any]]


def blobs(shape: tuple[int, ...], sigma: float, seed: int = 0, dtype: str = "uint32") -> NDArray[Any]:
    """Objects that fill a volume but for gaps, touch each other, and reach its faces."""
    noise = np.random.default_rng(seed).normal(size=(4, *shape))
    smooth = np.stack([ndimage.gaussian_filter(part, sigma) for part in noise])
    kinds, best = smooth.argmax(0), smooth.max(0)
    labels, count = np.zeros(shape, dtype), 0
    for kind in range(4):
        part, found = ndimage.label((kinds == kind) & (best > np.quantile(best, 0.2)))
        labels += np.where(part > 0, part + count, 0).astype(dtype)
        count += found
    return labels


def volume_of(labels: NDArray[Any]) -> xr.DataArray:
    """The labels as a volume with voxel size and offset, in nanometres."""
    coords = {
        d: xr.Variable(d, (o + np.arange(n)) * s, {"units": "nm"})
        for d, n, s, o in zip("zyx", labels.shape, VOXEL, OFFSET, strict=True)
    }
    attrs = {"voxel_size": dict(zip("zyx", VOXEL, strict=True)), "unit": "nm"}
    return xr.DataArray(labels, dims=("z", "y", "x"), coords=coords, attrs=attrs)


def edges(faces: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Edges with their direction, each as one number, and how many triangles have it."""
    a = faces.astype(np.int64)
    found = np.concatenate([a[:, [0, 1]], a[:, [1, 2]], a[:, [2, 0]]])
    keys, times = np.unique(found[:, 0] << 32 | found[:, 1], return_counts=True)
    return keys, times


def watertight(faces: NDArray[Any]) -> bool:
    """Whether each edge is in two triangles, once in each direction."""
    keys, times = edges(faces)
    return bool((times == 1).all()) and np.array_equal(keys, np.unique(keys % 2**32 << 32 | keys >> 32))


def balanced(faces: NDArray[Any]) -> bool:
    """Whether there is no open edge: each is passed as often in one direction as in the other."""
    keys, times = edges(faces)
    turned = keys % 2**32 << 32 | keys >> 32
    order = np.argsort(turned)
    return np.array_equal(keys, turned[order]) and np.array_equal(times, times[order])


def enclosed(vertices: NDArray[Any], faces: NDArray[Any]) -> float:
    """The volume that a mesh of x, y, z encloses, by the divergence theorem."""
    corners = (vertices - vertices.mean(0)).astype(np.float64)[faces]
    return float(np.linalg.det(corners).sum() / 6)


def legacy(folder: Path, label: int) -> Mesh:
    """A legacy mesh: vertices in x, y, z and triangles."""
    (name,) = json.loads((folder / f"{label}:0").read_bytes())["fragments"]
    content = (folder / name).read_bytes()
    (count,) = np.frombuffer(content, "<u4", 1)
    vertices = np.frombuffer(content, "<f4", 3 * count, 4).reshape(-1, 3)
    return vertices, np.frombuffer(content, "<u4", offset=4 + 12 * int(count)).reshape(-1, 3)


@pytest.fixture
def segmentation(tmp_path: Path) -> Callable[..., str]:
    """Store labels as a precomputed segmentation; gives its URL."""

    def made(labels: NDArray[Any], name: str = "seg", chunks: int = 32) -> str:
        url = str(tmp_path / name)
        volume = volume_of(labels).assign_attrs(type="segmentation")
        ci.save(volume, url, format="precomputed", chunks=(chunks,) * 3, progress=False)
        return url

    return made
