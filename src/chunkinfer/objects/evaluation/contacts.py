"""Where objects touch: faces between voxels of two labels."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from chunkinfer.geometry.boxes import Box
from chunkinfer.objects.evaluation.laying import Part, labels_of, laid
from chunkinfer.objects.evaluation.objects import AXES, boxes
from chunkinfer.objects.evaluation.passing import tables_of
from chunkinfer.objects.evaluation.tables import Columns
from chunkinfer.runs.events import Subscriber
from chunkinfer.runs.run import Where

if TYPE_CHECKING:
    from pandas import DataFrame

CONTACTS = Columns(
    keys=("label_a", "label_b"),
    sums=tuple(f"faces_{d}" for d in AXES),
    least=tuple(f"start_{d}" for d in AXES),
    most=tuple(f"stop_{d}" for d in AXES),
)
"""A row for each pair of labels, the smaller one first: faces along each axis, and the box of the voxels at them."""


def contacts(labels: NDArray[np.uint64], corner: tuple[int, int, int], halo: tuple[int, int, int]) -> dict[str, Any]:
    """The table of a block: the faces between its voxels and those before them along each axis.

    Parameters
    ----------
    labels
        (z, y, x), with the planes before the block where there are any.
    corner
        Where ``labels`` begin.
    halo
        Planes before the block along each axis: 1, or 0 at the volume's faces.
    """
    rows: dict[str, list[NDArray[Any]]] = {name: [] for name in CONTACTS.names}
    for axis, d in enumerate(AXES):
        own = [slice(h, None) for h in halo]
        n = labels.shape[axis]
        after = labels[tuple(slice(1, n) if a == axis else part for a, part in enumerate(own))]
        before = labels[tuple(slice(0, n - 1) if a == axis else part for a, part in enumerate(own))]
        touch = np.nonzero((after != before) & (after != 0) & (before != 0))
        a, b = before[touch], after[touch]
        rows["label_a"].append(np.minimum(a, b))
        rows["label_b"].append(np.maximum(a, b))
        for other, e in enumerate(AXES):
            at = touch[other] + corner[other] + (0 if other == axis else halo[other])
            rows[f"faces_{e}"].append(np.full(len(at), e == d, np.int64))
            rows[f"start_{e}"].append(at)
            rows[f"stop_{e}"].append(at + (2 if other == axis else 1))
    return CONTACTS.reduced({name: np.concatenate(parts) for name, parts in rows.items()})


@dataclass(frozen=True)
class Touching:
    """What a pass over blocks finds: the contacts whose upper voxel lies in the block."""

    labels: Part

    def read(self, box: Box) -> dict[str, Any]:
        """The table of a block."""
        low = tuple(max(0, a - 1) for a in box.start)
        (z, y, x), (hz, hy, hx) = (
            (0,) * (3 - len(box.start)) + part
            for part in (low, tuple(a - b for a, b in zip(box.start, low, strict=True)))
        )
        return contacts(self.labels.labels(Box(low, box.stop)), (z, y, x), (hz, hy, hx))


def contact_sites(
    labels: Any,
    *,
    url: str | os.PathLike[str] | None = None,
    block: int | Sequence[int] | None = None,
    overwrite: bool = False,
    client: Any = None,
    progress: bool | None = None,
    events: Sequence[Subscriber] = (),
) -> DataFrame:
    """Which objects touch, where, and on what area.

    Two voxels touch that share a face; label 0 touches nothing. The numbers are the same for any cut into blocks.

    Parameters
    ----------
    labels
        A volume of labels, or its URL.
    url, block, overwrite, client, progress, events
        As for `evaluate`.

    Returns
    -------
    pandas.DataFrame
        A row per pair, sorted: ``label_a`` < ``label_b``; ``faces_z``, ``faces_y``, ``faces_x``: faces between voxels
        that follow each other along an axis; ``area`` of all of them, in the voxel size's unit squared (in 2D a
        length); ``z_start``, ``z_stop``, ... the half-open box of the voxels on both sides, in voxels of the volume's
        coordinate system. ``attrs["unit"]`` names the unit.

    Raises
    ------
    ChunkinferError
        As for `statistics`.
    """
    import pandas as pd

    common = laid({"labels": labels_of(labels, "labels")}, block)
    with tables_of(
        Touching(common.parts[0]), "contacts", common.grid, common.about(),
        url, overwrite, Where(client, progress, events),
    ) as tables:  # fmt: skip
        table = CONTACTS.joined(tables)
    frame = common.frame
    columns: dict[str, Any] = {name: table[name] for name in CONTACTS.keys}
    columns |= {f"faces_{d}": table[f"faces_{d}"] for d in frame.space}
    columns["area"] = sum(
        table[f"faces_{d}"] * float(np.prod([frame.voxel_size[e] for e in frame.space if e != d])) for d in frame.space
    )
    result = pd.DataFrame({**columns, **boxes(table, common)})
    result.attrs["unit"] = frame.unit
    return result
