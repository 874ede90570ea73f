"""Surfaces of labelled voxels by zmesh's marching cubes: the one place that knows zmesh.

zmesh marches once over a block, whatever the number of objects; scikit-image would march once for each. It is under the
LGPL-3.0 (or later), used as it is and only where it is installed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chunkinfer.errors import MissingExtra

Half = NDArray[np.int32]
"""Vertices (n, 3) along z, y, x in half voxels: between the centres of two voxels, so integers say them exactly."""
Faces = NDArray[np.uint32]
"""Triangles (n, 3) as numbers of vertices, anticlockwise where they are seen from outside."""


def require() -> None:
    """Raise `MissingExtra` where zmesh is not installed."""
    try:
        import zmesh  # noqa: F401
    except ImportError as problem:
        raise MissingExtra.of("Meshes", "zmesh", "mesh") from problem


def surfaces(labels: NDArray[Any]) -> Iterator[tuple[int, Half, Faces]]:
    """The surface of each label but 0, in ascending order, between the voxels of an array.

    A cell, the cube between the centres of eight voxels, is triangulated by what these hold and nothing else. So the
    cells of a volume give the same triangles in whichever parts they are marched.

    Parameters
    ----------
    labels
        (z, y, x), unsigned integers. The surface is open where an object reaches the array's faces.

    Returns
    -------
    iterator of (label, vertices, faces)
        Half voxels from the centre of the first voxel. Each vertex is given once.
    """
    require()
    import zmesh

    # zmesh thinks in x, y, z: of a transposed array in C order it gives coordinates in that order.
    mesher = zmesh.Mesher((1.0, 1.0, 1.0))
    mesher.mesh(np.ascontiguousarray(labels).T)
    for label in sorted(mesher.ids()):
        found = mesher.get(label, normals=False, reduction_factor=0, voxel_centered=False)
        mesher.erase(label)
        yield int(label), np.rint(2 * found.vertices[:, ::-1]).astype(np.int32), found.faces
