"""From stored values to what the network was trained on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from chunkinfer.errors import PlanError, VolumeError

Array = NDArray[Any]


@dataclass(frozen=True)
class Affine:
    """``(value - offset) / scale``, in the network's own floating-point type."""

    offset: float = 0.0
    scale: float = 1.0


Normalize = Affine | Callable[[Array], Array]


def resolve_normalize(normalize: object, dtype: DTypeLike, taken: str = "float32") -> Normalize:
    """The one form of ``normalize=``.

    Parameters
    ----------
    normalize
        None, a pair ``(offset, scale)``, or a callable ``array -> array`` that works voxel by voxel.
    dtype
        Of the volume. With None, floating-point values are taken as they are and uint8 is scaled to [0, 1].
    taken
        Name of the dtype that the network takes. One that takes integers is given the stored values as they are.

    Raises
    ------
    VolumeError
        The volume holds other integers and nothing says how to scale them; or the network takes integers, and the
        volume holds values that are none of these.
    PlanError
        ``normalize`` has another form, a scale of zero, or is a callable that looks at more than one voxel.
    """
    dtype = np.dtype(dtype)
    if np.dtype(taken).kind in "iu":
        return _as_stored(normalize, dtype, np.dtype(taken))
    if normalize is None:
        if dtype == np.uint8:
            return Affine(0.0, 255.0)
        if dtype.kind == "f":
            return Affine()
        top = 1 if dtype.kind == "b" else np.iinfo(dtype).max
        raise VolumeError(
            f"The volume's dtype is {dtype}, and nothing says how to scale it for the network.",
            "Only uint8 has a scaling that everybody means (to [0, 1]); others depend on the microscope.",
            [
                f"normalize=(0, {top}) gives value / {top}; any pair, (value - offset) / scale",
                "normalize=lambda array: (array - 1000.0) / 500.0, any function of single voxels",
            ],
        )
    if callable(normalize):
        _check_voxelwise(normalize, dtype)
        return normalize
    try:
        offset, scale = (float(v) for v in normalize)  # type: ignore[attr-defined]
    except (TypeError, ValueError) as error:
        raise PlanError(
            f"normalize={normalize!r} is neither a pair of numbers nor a callable.",
            "",
            [
                "normalize=(0, 4095): an offset and a scale, (value - offset) / scale",
                "normalize=lambda array: array / 4095.0",
            ],
        ) from error
    if not scale or not np.isfinite([offset, scale]).all():
        raise PlanError(
            f"normalize={normalize!r} does not give finite values.",
            "It means (value - offset) / scale.",
            [
                "normalize=(0, 255) divides by 255",
                "m, s = float(volume.mean()), float(volume.std()); infer(volume, model, normalize=(m, s))",
            ],
        )
    return Affine(offset, scale)


def scaled(normalize: Normalize, voxels: Array, dtype: DTypeLike) -> Array:
    """Stored voxels as a network takes them."""
    if isinstance(normalize, Affine):
        values = (voxels.astype(np.float32) - np.float32(normalize.offset)) / np.float32(normalize.scale)
        return values.astype(dtype, copy=False)
    return np.asarray(normalize(voxels)).astype(dtype, copy=False)


def _as_stored(normalize: object, dtype: np.dtype[Any], taken: np.dtype[Any]) -> Affine:
    """No scaling, for a network that takes integers and scales them itself."""
    if not (np.can_cast(dtype, taken) and np.can_cast(dtype, np.float32)):  # patches are float32 on their way
        raise VolumeError(
            f"The network takes {taken}, and the volume's dtype is {dtype}.",
            "Such a network scales stored values itself; others would be cut off.",
            [
                f'convert the volume, if its values fit: infer(volume.astype("{taken}"), model)',
                "export the network with an input in float32, and give normalize=",
            ],
        )
    if normalize is not None and (callable(normalize) or tuple(normalize) != (0, 1)):  # type: ignore[arg-type]
        raise PlanError(
            f"normalize={normalize!r}, and the network takes {taken}: it is given stored values as they are.",
            "Such a network scales them itself; what was scaled before would be cut off to whole numbers.",
            ["leave normalize= out", "export the network with an input in float32"],
        )
    return Affine()


def _check_voxelwise(normalize: Callable[[Array], Array], dtype: np.dtype[Any]) -> None:
    """Refuse a callable whose result depends on how the volume was cut, such as a z-score of each patch."""
    rng = np.random.default_rng(0)
    sample = rng.random((1, 4, 5, 6)) if dtype.kind == "f" else rng.integers(0, 100, (1, 4, 5, 6))
    sample = sample.astype(dtype)
    try:
        whole, part = (np.asarray(normalize(a.copy())) for a in (sample, sample[..., 1:3, 2:]))
    except Exception as error:
        raise PlanError(
            f"normalize= fails on an array of {dtype} {sample.shape}: {type(error).__name__}: {error}",
            "It is given the voxels of a patch, (channels, *space), as a numpy array.",
            [
                "normalize=lambda array: array / 4095.0",
                "normalize=(0, 4095): an offset and a scale, (value - offset) / scale",
            ],
        ) from error
    if whole.shape != sample.shape or not np.array_equal(whole[..., 1:3, 2:], part, equal_nan=True):
        raise PlanError(
            "normalize= gives a voxel another value when the array around it is cut differently.",
            "Usually it computes a mean, a minimum or a percentile of the patch it is given, which makes seams.",
            [
                "take the numbers from the volume once: m, s = float(volume.mean()), float(volume.std()); "
                "infer(volume, model, normalize=(m, s))",
                "use a function of single voxels: normalize=lambda array: array / 4095.0",
            ],
        )
