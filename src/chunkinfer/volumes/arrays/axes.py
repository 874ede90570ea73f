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


def recognise(
    names: Sequence[str | None] | None,
    rank: int,
    url: str,
    kept: str = "under axes",
    array: str = "",
    instead: str = "or remove the names",
) -> tuple[str, ...]:
    """The axes of an array as stored, from the names in its metadata or, without names, from its rank.

    Parameters
    ----------
    names, rank
        Of the array.
    url, kept, array, instead
        For messages: where it is, under what its metadata keeps the names, and a line that gives its numbers without
        them, or another way out.

    Raises
    ------
    SourceError
        The names are not understood, or an unnamed array has no rank from 2 to 5.
    """
    if rank not in BY_RANK:
        more = f"take a part of it, such as the first: {array}[{', '.join('0' * (rank - 5))}]"
        raise SourceError(
            f"{url} is an array of rank {rank}.",
            "A volume has two to five axes out of (t, c, z, y, x).",
            ["choose another array", more if array and rank > 5 else "or write it anew with the axes of a volume"],
        )
    # xarray calls axes that nobody named dim_0, dim_1, ...
    if names is None or all(not name or re.fullmatch(r"dim_\d+", name) for name in names):
        return BY_RANK[rank]
    dims = tuple(SYNONYMS.get(str(name).lower(), str(name).lower()) for name in names)
    if len(dims) != rank or len(set(dims)) != rank or not set(dims) <= set(ORDER):
        raise SourceError(
            f"The axes of {url} are named {list(names)!r}.",
            f"A volume has two to five axes out of (t, c, z, y, x), each once; this array has rank {rank}.",
            [
                f"rename them in its metadata, {kept}",
                f"give other names here: xarray.DataArray({array}, dims={BY_RANK[rank]})" if array else instead,
            ],
        )
    return dims
