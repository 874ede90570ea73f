"""`open_volume`: a stored volume by its URL, as a lazy DataArray."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from chunkinfer.errors import VolumeError
from chunkinfer.geometry.boxes import Box
from chunkinfer.support.arguments import every_axis
from chunkinfer.volumes.arrays.axes import SPATIAL as SPACE
from chunkinfer.volumes.arrays.open import open_source
from chunkinfer.volumes.arrays.placement import METRES, short_unit
from chunkinfer.volumes.frame import Frame
from chunkinfer.volumes.lazy import lazy_source

if TYPE_CHECKING:
    import xarray as xr


def open_volume(
    url: Any,
    *,
    level: int = 0,
    array: str | None = None,
    box: Sequence[slice] | Mapping[str, slice] | None = None,
    voxel_size: Sequence[float] | None = None,
    offset: Sequence[float] | None = None,
    missing: str = "error",
    chunks: Sequence[int] | None = None,
) -> xr.DataArray:
    """Open an image volume lazily; no voxel is read.

    Parameters
    ----------
    url
        A path, or a ``file://``, ``s3://`` or ``gs://`` URL of a zarr array (v2, v3, sharded), an OME-Zarr image, a
        Neuroglancer precomputed volume or a .npy file.
    level
        Of a multiscale image: 0 is the finest.
    array
        Which array of a zarr group, where it holds several.
    box
        Open only this part: slices in voxels of the stored array, per spatial axis (z, y, x), or by name. For parts of
        volumes of more than 10^5 chunks it is much faster than slicing what was opened whole.
    voxel_size
        (z, y, x), overrides the metadata; in the metadata's unit, or nanometres where it names none.
    offset
        (z, y, x) of the first stored voxel, in voxels of the volume's coordinate system; overrides the metadata.
    missing
        ``"error"``: a chunk that is not stored raises when it is read; ``"fill"``: it reads as the fill value.
    chunks
        Of the lazy array, in the order of its axes; by default whole stored chunks of at least 64^3 voxels.

    Returns
    -------
    xarray.DataArray
        dims out of (t, c, z, y, x); coordinates of the spatial axes are positions in the unit of the voxel size:
        ``(offset + i) * voxel_size``. ``attrs`` holds ``voxel_size`` (by axis), ``unit`` and ``source``.

    Raises
    ------
    SourceError
        Nothing is there, it cannot be read, it is ambiguous, or it is known to read as silent zeros.
    VolumeError
        ``voxel_size``, ``offset`` or ``box`` do not fit the volume.
    PlanError
        ``chunks`` do not fit its axes.
    """
    source = open_source(url, level=level, array=array, missing=missing)
    space = tuple(d for d in source.dims if d in SPACE)
    sizes = _per_axis("voxel_size", voxel_size, space) or source.voxel_size
    origin = _per_axis("offset", offset, space) or source.offset
    if any(not np.isfinite(s) or s <= 0 for s in sizes.values()):
        raise VolumeError(
            f"A voxel size of {tuple(sizes.values())} is not positive.",
            "Sizes are edge lengths of a voxel, in (z, y, x).",
            ["voxel_size=(40, 4, 4)", "leave voxel_size= out to take the metadata's"],
        )
    lengths = dict(zip(source.dims, source.shape, strict=True))
    if box is not None:
        cut = _box_of(box, space, lengths)
        source = source.cropped(tuple(cut.get(d, (0, n)) for d, n in lengths.items()))
        origin = {d: origin[d] + cut[d][0] for d in space}
    data = lazy_source(source, None if chunks is None else every_axis("chunks", chunks, source.dims))
    frame = Frame(
        space=space,
        voxel_size={d: float(sizes[d]) for d in space},
        origin={d: float(origin[d]) for d in space},
        unit=source.unit or ("nm" if voxel_size is not None else ""),
    )
    names = source.names.get("channel_names")
    channel = None if "c" not in source.dims or not names or len(names) != lengths["c"] else list(names)
    # Which sections a stack has, its coordinates say, also after it was cut.
    kept = {k: v for k, v in source.names.items() if k not in ("channel_names", "sections")}
    if short_unit(str(kept.get("unit"))) not in METRES:  # of what the numbers count, such as electrons
        kept.pop("unit", None)
    attrs = {**kept, "source": source.url}
    result = frame.label(data, source.dims, name=_stem(source.url), attrs=attrs, channel=channel)
    if lengths.get("t") == 1:
        result = result.isel(t=0, drop=True)
    return result


def _stem(url: str) -> str:
    """The last part of a URL without its suffix: a name to show."""
    return url.rstrip("/").rpartition("/")[2].partition(".")[0] or "volume"


def _per_axis(name: str, values: Sequence[float] | None, space: tuple[str, ...]) -> dict[str, float] | None:
    if values is None:
        return None
    try:
        numbers = [float(v) for v in values]
    except (TypeError, ValueError):
        numbers = []
    if len(numbers) != len(space) or not np.isfinite(numbers).all():
        raise VolumeError(
            f"{name}={values!r} does not give one number for each of {space}.",
            "It is in numpy's order, (z, y, x).",
            [f"{name}={tuple(8 for _ in space)}", f"leave {name}= out to take the metadata's"],
        )
    return dict(zip(space, numbers, strict=True))


def _box_of(box: Any, space: tuple[str, ...], lengths: Mapping[str, int]) -> dict[str, tuple[int, int]]:
    """Start and stop of ``box=`` along each axis, inside the volume."""
    parts = box.slices if isinstance(box, Box) else box
    named = isinstance(parts, Mapping) or (isinstance(parts, Sequence) and len(parts) == len(space))
    given = dict(parts if isinstance(parts, Mapping) else zip(space, parts, strict=True)) if named else {}
    ends = [min(lengths[d], n) for d, n in zip(space, (512, 512, 100)[: len(space)][::-1], strict=True)]
    example = f"box=({', '.join(f'slice(0, {n})' for n in ends)})"
    if not named or set(given) - set(space) or not all(isinstance(part, slice) for part in given.values()):
        raise VolumeError(
            f"box={box!r} does not give slices of the axes {space}.",
            "Other axes are opened whole.",
            [example, f"box={{{space[0]!r}: slice(0, {ends[0]})}}"],
        )
    cut = {}
    for d in space:
        part = given.get(d, slice(None))
        start, stop = part.start or 0, lengths[d] if part.stop is None else part.stop
        if part.step not in (None, 1) or not 0 <= start < stop <= lengths[d]:
            raise VolumeError(
                f"box= takes [{part.start}:{part.stop}:{part.step}] of axis {d}, which has {lengths[d]} voxels.",
                "It counts stored voxels from 0, whatever the volume's offset.",
                [example, f"open it whole, and select along {d} by position with sel"],
            )
        cut[d] = int(start), int(stop)
    return cut
