"""Where the voxels of a volume are: voxel size, origin and unit of each axis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import xarray as xr


@dataclass(frozen=True)
class Frame:
    """Where the voxels of an array are."""

    space: tuple[str, ...]
    """Spatial axes, in order."""
    voxel_size: dict[str, float]
    """Edge length of a voxel per axis, in ``unit``."""
    origin: dict[str, float]
    """Volume coordinate of index 0 per axis, in voxels."""
    unit: str = ""
    """nm, um, ...; empty if unknown."""
    coords: dict[str, Any] = field(default_factory=dict, compare=False)
    """Coordinates of the volume this frame was read from: an output on the same grid takes these very objects."""
    fixed: dict[str, Any] = field(default_factory=dict, compare=False)
    """Coordinates with one value for all voxels, such as the position of the section that was selected."""
    fixed_size: dict[str, float] = field(default_factory=dict, compare=False)
    """Edge length of a voxel along the spatial axes among them."""

    def label(
        self,
        data: Any,
        dims: Sequence[str],
        *,
        name: str,
        attrs: Mapping[str, Any],
        channel: Sequence[Any] | None = None,
    ) -> xr.DataArray:
        """An array with this frame's coordinates."""
        import xarray as xr

        coords: dict[str, Any] = {}
        for d, n in zip(dims, data.shape, strict=True):
            if d in self.coords and self.coords[d].sizes[d] == n:
                coords[d] = self.coords[d]
            elif d in self.space:
                unit = {"units": self.unit} if self.unit else {}
                coords[d] = xr.Variable(d, coordinates(self.origin[d], n, self.voxel_size[d]), unit)
        if channel is not None:
            coords["c"] = list(channel)
        coords |= {name: value for name, value in self.fixed.items() if name not in dims}
        sizes = {d: size for d, size in self.fixed_size.items() if d not in dims}
        about = {"voxel_size": {**sizes, **self.voxel_size}, **({"unit": self.unit} if self.unit else {})}
        return xr.DataArray(data, dims=tuple(dims), coords=coords, attrs={**attrs, **about}, name=name)

    def moved(self, crop: Sequence[float], stride: Sequence[float]) -> Frame:
        """The frame of a network's output, per spatial axis: ``crop`` voxels lost at the low end, ``stride`` input
        voxels per output voxel."""
        if not any(crop) and all(s == 1 for s in stride):
            return self
        return Frame(
            self.space,
            {d: self.voxel_size[d] * s for d, s in zip(self.space, stride, strict=True)},
            {d: (self.origin[d] + c) / s for d, c, s in zip(self.space, crop, stride, strict=True)},
            self.unit,
            {d: self.coords[d] for d, c, s in zip(self.space, crop, stride, strict=True)
             if d in self.coords and not c and s == 1},
            self.fixed,
            self.fixed_size,
        )  # fmt: skip


def coordinates(origin: float, n: int, voxel_size: float) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Positions of ``n`` voxels: ``(origin + i) * voxel_size``. The only place where coordinates are computed."""
    return np.asarray((origin + np.arange(n)) * voxel_size, np.float64)
