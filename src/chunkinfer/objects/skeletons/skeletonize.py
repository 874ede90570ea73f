"""Skeletons of objects by kimimaro: the one place that knows it.

kimimaro is under the GPL 3.0, this package under the BSD licence. So it comes with an extra of its own: who installs it
chooses it, and who gives away a program that contains both gives it away under the GPL.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chunkinfer.errors import MissingExtra, PlanError, VolumeError
from chunkinfer.geometry.boxes import Box
from chunkinfer.stores.store import kvstore
from chunkinfer.stores.urls import locate
from chunkinfer.volumes.arrays.erase import refused
from chunkinfer.volumes.arrays.placement import nanometres
from chunkinfer.volumes.kinds import as_labels, refuse_picture_for_labels
from chunkinfer.volumes.lazy import Reader
from chunkinfer.volumes.volume import as_volume

FORMATS = ("precomputed", "swc")
MOST = 2**31
"""Voxels that are taken at once, in memory: kimimaro sees an object as a whole."""
INFO = {
    "@type": "neuroglancer_skeletons",
    "transform": [1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0],
    "vertex_attributes": [{"id": "radius", "data_type": "float32", "num_components": 1}],
}


@dataclass(frozen=True)
class Skeleton:
    """A tree, or several, in the middle of an object."""

    vertices: NDArray[np.float32]
    """(n, 3): x, y, z in nanometres, where Neuroglancer has them."""
    edges: NDArray[np.uint32]
    """(m, 2): numbers of vertices."""
    radius: NDArray[np.float32]
    """(n,): distance to the object's surface in nanometres."""
    swc: str
    """The same as SWC, in nanometres."""

    def precomputed(self) -> bytes:
        """As Neuroglancer reads it, with the radius of each vertex."""
        head = np.array([len(self.vertices), len(self.edges)], "<u4").tobytes()
        return head + b"".join(
            part.tobytes()
            for part in (self.vertices.astype("<f4"), self.edges.astype("<u4"), self.radius.astype("<f4"))
        )


def skeletonize(
    labels: Any,
    url: Any = None,
    *,
    ids: Sequence[int] | None = None,
    scale: float = 1.5,
    const: float = 300,
    dust: int = 1000,
    format: str = "precomputed",
) -> dict[int, Skeleton]:
    """Find the skeletons of the objects of a label volume, in memory, by kimimaro (GPL 3.0) where it is installed.

    Parameters
    ----------
    labels
        (z, y, x), unsigned integers: a DataArray, dask, zarr or numpy array, or a URL; 0 is background. At most 2^31
        voxels: cut out what you need.
    url
        A folder to which they are written; by default they are only returned.
    ids
        Labels of the objects that are wanted; by default all.
    scale, const
        kimimaro's: a path takes what lies within ``scale`` times its distance to the surface, plus ``const``
        nanometres.
    dust
        Voxels of a piece below which it has no skeleton.
    format
        "precomputed" (``17`` and ``info``: Neuroglancer shows the folder as a layer) or "swc" (``17.swc``).

    Returns
    -------
    dict of int to Skeleton
        By label.

    Raises
    ------
    MissingExtra
        kimimaro is not installed.
    VolumeError
        These are no labels in three dimensions.
    PlanError
        There are too many voxels, or no such format.
    DestinationError
        They cannot be written.
    """
    try:
        import kimimaro
    except ImportError as problem:
        raise MissingExtra(
            "Skeletons need kimimaro, which is not installed.",
            "It comes with the extra skeleton. It is under the GPL 3.0, and so is a program that contains it.",
            ['pip install "chunkinfer[skeleton]"', "pip install kimimaro"],
        ) from problem
    volume = as_volume(labels)
    if volume.dims != ("z", "y", "x") or volume.array.dtype.kind not in "bu":
        raise VolumeError(
            f"Skeletons are made of labels (z, y, x) of unsigned integers; this is {volume.dims} of "
            f"{volume.array.dtype}.",
            "0 is background, and there are no channels.",
            [f"skeletonize({as_labels(volume)})", "segment it first, if these are no labels"],
        )
    refuse_picture_for_labels(volume, "labels")
    if format not in FORMATS:
        raise PlanError(
            f"format={format!r} is none of skeletons.",
            f"They are written as one of {', '.join(FORMATS)}.",
            [f"format={name!r}" for name in FORMATS],
        )
    if volume.array.size > MOST:
        planes = max(1, MOST // prod(volume.array.shape[1:]))
        raise PlanError(
            f"{volume.array.size:,} voxels, and at most {MOST:,} are taken.",
            "An object is looked at as a whole, in the memory of this process.",
            [f"skeletonize(labels[:{planes}])", "open a coarser level of them, with level="],
        )
    size = nanometres(volume.frame.voxel_size, volume.frame.unit)
    voxel = np.array([size[d] for d in "xyz"])
    origin = (np.array([volume.frame.origin[d] for d in "xyz"]) + 0.5) * voxel
    voxels = Reader(volume.origin, channels=False).read(Box.of_shape(volume.array.shape))
    found = kimimaro.skeletonize(
        np.asfortranarray(voxels.T), teasar_params={"scale": scale, "const": const}, anisotropy=tuple(voxel),
        object_ids=None if ids is None else [int(label) for label in ids], dust_threshold=dust, progress=False,
    )  # fmt: skip
    made = {}
    for label, skeleton in sorted(found.items()):
        skeleton.vertices = (skeleton.vertices + origin).astype(np.float32)
        made[int(label)] = Skeleton(skeleton.vertices, skeleton.edges, skeleton.radius, skeleton.to_swc())
    if url is not None:
        _write(made, url, format)
    return made


def _write(made: dict[int, Skeleton], url: Any, format: str) -> None:
    place = locate(url)
    if format == "swc":
        objects = {f"{label}.swc": skeleton.swc.encode() for label, skeleton in made.items()}
    else:
        objects = {str(label): skeleton.precomputed() for label, skeleton in made.items()}
        objects["info"] = json.dumps(INFO, indent=1).encode()
    with refused(place, "written"):
        store = kvstore(place.kvstore)
        for future in [store.write(name, content) for name, content in objects.items()]:
            future.result()
