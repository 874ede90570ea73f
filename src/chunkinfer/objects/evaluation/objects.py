"""Objects as tables: their statistics, and what other labels lie on them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from chunkinfer.errors import VolumeError
from chunkinfer.geometry.boxes import Box
from chunkinfer.objects.evaluation.laying import Laid, Part, labels_in, labels_of, laid, single
from chunkinfer.objects.evaluation.pairing import PAIRS, Compared
from chunkinfer.objects.evaluation.passing import tables_of
from chunkinfer.objects.evaluation.scoring import Parts
from chunkinfer.objects.evaluation.tables import Columns, lengths, starts
from chunkinfer.runs.events import Subscriber
from chunkinfer.runs.run import Where

if TYPE_CHECKING:
    from pandas import DataFrame

AXES = ("z", "y", "x")

STEPS = 1 << 16
"""Values of floating-point images are rounded to multiples of 1 / STEPS, so that their sums are exact."""
LARGEST = 1 << 31
"""What a value may be at most, in these steps: then its square is below 2^62."""

SIZES = Columns(
    keys=("label",),
    sums=("voxels", *(f"sum_{d}" for d in AXES)),
    least=tuple(f"start_{d}" for d in AXES),
    most=tuple(f"stop_{d}" for d in AXES),
)
"""A row for each label: its voxels, the sums of their coordinates, and its box; in voxels of the volume."""

VALUES = Columns(
    keys=SIZES.keys,
    sums=(*SIZES.sums, "sum_high", "sum_low", "squares_high", "squares_low"),
    least=(*SIZES.least, "min"),
    most=(*SIZES.most, "max"),
)
"""The same with intensities: a sum is ``high * 2^32 + low``, for that of squares outgrows 64 bits."""


def sizes(labels: NDArray[np.uint64], corner: tuple[int, int, int], values: NDArray[Any] | None) -> dict[str, Any]:
    """The table of a block of labels (z, y, x) that begins at ``corner``; label 0 is a label as any other."""
    flat, width = labels.reshape(-1), labels.shape[2]
    first = starts(flat, every=width)  # a run of one label ends where its row does
    n = lengths(first, flat.size)
    z, y, x = (i + c for i, c in zip(np.unravel_index(first, labels.shape), corner, strict=True))
    rows: dict[str, Any] = {
        "label": flat[first], "voxels": n, "sum_z": n * z, "sum_y": n * y, "sum_x": n * x + n * (n - 1) // 2,
        "start_z": z, "start_y": y, "start_x": x, "stop_z": z + 1, "stop_y": y + 1, "stop_x": x + n,
    }  # fmt: skip
    if values is None:
        return SIZES.reduced(rows)
    flat = values.reshape(-1)
    steps = in_steps(flat)
    squares = steps * steps
    for name, column in (("sum", steps), ("squares", squares)):
        rows[f"{name}_high"] = np.add.reduceat(column >> 32, first)
        rows[f"{name}_low"] = np.add.reduceat(column & 0xFFFFFFFF, first)
    rows["min"], rows["max"] = (f.reduceat(flat, first).astype(np.float64) for f in (np.minimum, np.maximum))
    return VALUES.reduced(rows)


def in_steps(values: NDArray[Any]) -> NDArray[np.int64]:
    """Intensities as integers: of floats, in steps of 1 / `STEPS`.

    Raises
    ------
    VolumeError
        One is NaN, or larger than such sums hold.
    """
    real = values.dtype.kind == "f"
    scaled = np.rint(values.astype(np.float64) * STEPS) if real else values
    if values.size and not (scaled.min() > -LARGEST and scaled.max() < LARGEST):
        most = LARGEST // STEPS if real else LARGEST
        raise VolumeError(
            f"The image has values from {values.min()} to {values.max()}.",
            f"Sums of intensities are exact for values within {most}, and none may be NaN.",
            [
                "take what is no number for 0: "
                "chunkinfer.operators.apply(image, lambda v: numpy.where(numpy.isfinite(v), v, 0))"
                if real and not np.isfinite(values).all()
                else "chunkinfer.operators.normalize(image, range=(0, 1))",
                "choose another image",
            ],
        )
    return scaled.astype(np.int64)


@dataclass(frozen=True)
class Measured:
    """What a pass over blocks finds: the sizes of labels, and intensities in them."""

    labels: Part
    image: Part | None

    def read(self, box: Box) -> dict[str, Any]:
        """The table of a block."""
        z, y, x = (0,) * (3 - len(box.start)) + box.start
        return sizes(self.labels.labels(box), (z, y, x), None if self.image is None else self.image.read(box))


def statistics(
    labels: Any,
    image: Any = None,
    *,
    ignore: Sequence[int] = (0,),
    url: str | os.PathLike[str] | None = None,
    block: int | Sequence[int] | None = None,
    overwrite: bool = False,
    client: Any = None,
    progress: bool | None = None,
    events: Sequence[Subscriber] = (),
) -> DataFrame:
    """Size, box, centroid and intensity of each object.

    Sums are of integers, so the numbers are the same for any cut into blocks.

    Parameters
    ----------
    labels
        A volume of labels, or its URL.
    image
        A volume of one channel that covers it, laid on by coordinates. Values of floats are rounded to multiples of
        2^-16 for mean and std.
    ignore
        Labels that get no row.
    url, block, overwrite, client, progress, events
        As for `evaluate`.

    Returns
    -------
    pandas.DataFrame
        A row per object, sorted: ``label``; ``voxels``; ``size``, in the voxel size's unit cubed (squared in 2D);
        ``z_start``, ``z_stop``, ... its half-open box, in voxels of the volume's coordinate system; ``z``, ``y``, ``x``
        its centroid, in the voxel size's unit; and with an image ``mean``, ``std`` (of all its voxels), ``min``,
        ``max``. ``attrs["unit"]`` names the unit.

    Raises
    ------
    VolumeError
        The volumes are no labels or image, or do not fit each other; a value is NaN or beyond 2^31, of floats 2^15.
    ChunkinferError
        As for `evaluate`.
    """
    import pandas as pd

    left_out = np.array(labels_in("ignore", ignore), np.uint64)
    volumes = {"labels": labels_of(labels, "labels")}
    if image is not None:
        volumes["image"] = single(image, "image", volumes["labels"])
    common = laid(volumes, block, covered=True)
    step = Measured(common.parts[0], common.parts[1] if image is not None else None)
    with tables_of(
        step, "statistics", common.grid, common.about(),
        url, overwrite, Where(client, progress, events),
    ) as tables:  # fmt: skip
        table = (SIZES if image is None else VALUES).joined(tables)
    kept = ~np.isin(table["label"], left_out)
    table = {name: column[kept] for name, column in table.items()}
    frame, n = common.frame, table["voxels"]
    columns: dict[str, Any] = {"label": table["label"], "voxels": n}
    columns["size"] = n * np.prod([frame.voxel_size[d] for d in frame.space])
    columns |= boxes(table, common)
    for d in frame.space:
        columns[d] = (table[f"sum_{d}"] / n + 0.5 + frame.origin[d]) * frame.voxel_size[d]
    if image is not None:
        columns |= _intensities(table, STEPS if volumes["image"].array.dtype.kind == "f" else 1)
    result = pd.DataFrame(columns)
    result.attrs["unit"] = frame.unit
    return result


def boxes(table: dict[str, NDArray[Any]], common: Laid) -> dict[str, NDArray[np.int64]]:
    """Boxes of rows, in voxels of the volume's coordinate system."""
    columns = {}
    for d in common.frame.space:
        corner = round(common.frame.origin[d])
        columns[f"{d}_start"], columns[f"{d}_stop"] = table[f"start_{d}"] + corner, table[f"stop_{d}"] + corner
    return columns


def _intensities(table: dict[str, NDArray[Any]], steps: int) -> dict[str, Any]:
    """Mean and standard deviation out of exact sums: only the last division rounds."""
    means, stds = [], []
    for n, sum_high, sum_low, high, low in zip(
        *(table[name].tolist() for name in ("voxels", "sum_high", "sum_low", "squares_high", "squares_low")),
        strict=True,
    ):
        total, squares = (sum_high << 32) + sum_low, (high << 32) + low
        means.append(total / (n * steps))
        stds.append(((n * squares - total * total) / (n * steps) ** 2) ** 0.5)
    return {"mean": means, "std": stds, "min": table["min"], "max": table["max"]}


def majority(
    labels: Any,
    other: Any,
    *,
    ignore: Sequence[int] = (0,),
    url: str | os.PathLike[str] | None = None,
    block: int | Sequence[int] | None = None,
    overwrite: bool = False,
    client: Any = None,
    progress: bool | None = None,
    events: Sequence[Subscriber] = (),
) -> DataFrame:
    """The most frequent other label on each object: its class, its cell, its compartment.

    Parameters
    ----------
    labels
        A volume of labels, or its URL.
    other
        Another one that covers it, laid on by coordinates; its label 0 is a label as any other.
    ignore
        Labels of the first that get no row.
    url, block, overwrite, client, progress, events
        As for `evaluate`.

    Returns
    -------
    pandas.DataFrame
        A row per object, sorted: ``label``; ``majority``, of equally frequent ones the least; ``voxels`` of the object;
        ``share`` of these that have the majority's label.

    Raises
    ------
    ChunkinferError
        As for `statistics`.
    """
    import pandas as pd

    left_out = np.array(labels_in("ignore", ignore), np.uint64)
    volumes = {"labels": labels_of(labels, "labels")}
    volumes["other"] = labels_of(other, "other", volumes["labels"])
    common = laid(volumes, block, covered=True)
    step = Compared(common.parts[1], common.parts[0], np.zeros((0, 3), np.int64))
    with tables_of(
        step, "majority", common.grid, common.about(),
        url, overwrite, Where(client, progress, events),
    ) as tables:  # fmt: skip
        parts = Parts.of(PAIRS.joined(tables), "truth", "segment")
    share = (parts.voxels - parts.lost) / parts.voxels
    table = {"label": parts.labels, "majority": parts.main, "voxels": parts.voxels, "share": share}
    kept = ~np.isin(parts.labels, left_out)
    return pd.DataFrame({name: column[kept] for name, column in table.items()})
