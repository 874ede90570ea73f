"""Names and order of axes: whatever a format calls them, one order of ("t", "c", "z", "y", "x")."""

from __future__ import annotations

import re
from collections.abc import Sequence

from chunkinfer.errors import SourceError

ORDER = ("t", "c", "z", "y", "x")
"""The numpy order in which every volume keeps the axes it has."""
SPATIAL = ("z", "y", "x")
"""Axes with a voxel size and an offset."""
BY_RANK = {2: ("y", "x"), 3: ("z", "y", "x"), 4: ("c", "z", "y", "x"), 5: ORDER}
"""What unnamed axes are taken for."""
SYNONYMS = {"time": "t", "channel": "c", "channels": "c", "c^": "c"}
"""Names that other tools use."""


def canonical(dims: Sequence[str]) -> tuple[str, ...]:
    """The same axes in numpy order."""
    return tuple(dim for dim in ORDER if dim in dims)


def recognise(names: Sequence[str | None] | None, rank: int, url: str) -> tuple[str, ...]:
    """The axes of an array as stored, from the names in its metadata or, without names, from its rank.

    Raises
    ------
    SourceError
        The names are not understood, or an unnamed array has no rank from 2 to 5.
    """
    # xarray calls axes that nobody named dim_0, dim_1, ...
    if names is None or all(not name or re.fullmatch(r"dim_\d+", name) for name in names):
        if rank not in BY_RANK:
            raise SourceError(
                f"{url} is an array of rank {rank}.",
                "A volume has two to five axes out of (t, c, z, y, x).",
                ["choose another array", "or write it anew with a shape that has z, y and x"],
            )
        return BY_RANK[rank]
    dims = tuple(SYNONYMS.get(str(name).lower(), str(name).lower()) for name in names)
    if len(dims) != rank or len(set(dims)) != rank or not set(dims) <= set(ORDER) or rank < 2:
        raise SourceError(
            f"The axes of {url} are named {list(names)!r}.",
            f"A volume has two to five axes out of (t, c, z, y, x), each once; this array has rank {rank}.",
            [
                "rename them in the metadata: dimension_names in zarr.json, _ARRAY_DIMENSIONS in .zattrs",
                "or remove the names: unnamed axes are (y, x), (z, y, x), (c, z, y, x) or (t, c, z, y, x)",
            ],
        )
    return dims
