"""What Neuroglancer is told: layers, shaders, and where voxels are. Plain values, made without Neuroglancer.

Neuroglancer takes the voxel at index 0 to reach from the origin to one voxel further, as precomputed volumes do; for an
OME-Zarr image it subtracts half a voxel, because that format places centres. Both lie at the same offset in
chunkinfer, so each layer says where it is by a transform of its own, except precomputed ones, which say it themselves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from chunkinfer.errors import VolumeError
from chunkinfer.objects.meshes.places import meshed
from chunkinfer.stores.urls import locate
from chunkinfer.support.colours import kind_of
from chunkinfer.volumes.arrays.placement import METRES
from chunkinfer.volumes.arrays.source import Source
from chunkinfer.volumes.frame import Frame
from chunkinfer.volumes.pictures.levels import Stored, channels_of
from chunkinfer.volumes.volume import Volume

DTYPES = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "float32")
"""What Neuroglancer can draw."""

FORMATS = ("precomputed", "zarr2", "zarr3")
"""What it can read."""

ACROSS = 400
"""Pixels that the volume shall fill at first: a panel of four in a window of usual height."""

GREY = """#uicontrol invlerp contrast
void main() {
  emitGrayscale(contrast());
}
"""

SEGMENTS = 1000
"""Objects whose meshes are shown where nobody chose some."""

HEAT = """#uicontrol invlerp contrast
void main() {
  emitRGB(clamp(3.0 * contrast() - vec3(0.0, 1.0, 2.0), 0.0, 1.0));
}
"""

COLOURS = """#uicontrol invlerp contrast
void main() {{
  float red = contrast(getDataValue(0));
  float green = contrast(getDataValue(1));
  emitRGB(vec3(red, green, {blue}));
}}
"""


@dataclass(frozen=True)
class Layer:
    """One layer of a view."""

    name: str
    kind: str
    """"image", "affinities" or "segmentation"."""
    volume: Volume
    stored: Stored | None = None
    """What lies at the URL, if it was given by one."""


def shader(kind: str, channels: int) -> str:
    """The program that colours a layer: grey for images, red, green and blue for affinities, black, red, yellow and
    white for affinities of one channel. Its control ``contrast`` is the range from dark to bright."""
    if channels == 1:
        return HEAT if kind == "affinities" else GREY
    return COLOURS.format(blue="0.5 * (red + green)" if channels == 2 else "contrast(getDataValue(2))")


def shown_dtype(dtype: np.dtype[Any], kind: str) -> np.dtype[Any]:
    """The nearest type that Neuroglancer can draw."""
    if dtype.name in DTYPES:
        return dtype
    return np.dtype("uint64" if kind == "segmentation" else "uint8" if dtype.kind == "b" else "float32")


def on_one_grid(layers: Sequence[Layer]) -> list[Layer]:
    """Layers that can be shown together.

    An array without coordinates lies where the first layer that has some lies. A unit that is not known is that of the
    others.
    """
    known = next((layer.volume.frame for layer in layers if layer.volume.labelled), None)
    unit = next((layer.volume.frame.unit for layer in layers if layer.volume.frame.unit), "")

    def placed(volume: Volume) -> Frame:
        frame = volume.frame
        if not volume.labelled and known is not None and set(frame.space) <= set(known.space):
            frame = replace(known, space=frame.space, coords={})
        return replace(frame, unit=frame.unit or unit)

    return [replace(layer, volume=replace(layer.volume, frame=placed(layer.volume))) for layer in layers]


# ---- where voxels are -------------------------------------------------------------------------------------------


def lengths(frame: Frame) -> dict[str, list[Any]]:
    """Neuroglancer's dimensions of a frame, x first: the length of a voxel and its unit."""
    metres = METRES.get(frame.unit)
    return {
        d: [frame.voxel_size[d], ""] if metres is None else [float(f"{frame.voxel_size[d] * metres:.12g}"), "m"]
        for d in reversed(frame.space)
    }


def transform(axes: Mapping[str, str], frame: Frame, shift: Mapping[str, float], channel: str) -> dict[str, Any]:
    """From a source's voxels to the view's.

    Parameters
    ----------
    axes
        Each axis in the source's order, and Neuroglancer's name for it there: by that it is told which one is meant.
    frame
        Length of a voxel.
    shift
        Voxels per axis by which the source is moved.
    channel
        The name that the axis c gets: one ending in ^ goes to the shader, one in ' has a slider.
    """
    sizes = {d: lengths(frame).get(d, [1, ""]) for d in axes}
    return {
        "outputDimensions": {channel if d == "c" else d: size for d, size in sizes.items()},
        "inputDimensions": {axes[d]: size for d, size in sizes.items()},
        "matrix": [[*(int(d == other) for other in axes), shift.get(d, 0)] for d in axes],
    }


# ---- sources ----------------------------------------------------------------------------------------------------


def readable(layer: Layer) -> bool:
    """Whether Neuroglancer can read the stored volume itself."""
    if layer.stored is None:
        return False
    source = layer.stored.source
    sizes, chunks = (dict(zip(source.dims, part, strict=True)) for part in (source.shape, source.chunks))
    # A shader sees the channels of one chunk; as an image, they can be looked at one by one instead.
    together = chunks.get("c", 1) == sizes.get("c", 1) or layer.kind == "image"
    # Images older than OME-Zarr 0.4 name their axes by letters, or not at all.
    image = layer.stored.image
    described = image is None or all(isinstance(axis, Mapping) for axis in image.get("axes") or [None])
    return source.format in FORMATS and source.dtype.name in DTYPES and together and described


def stored_source(layer: Layer, base: str) -> dict[str, Any]:
    """A source that the browser reads, below the URL ``base``."""
    assert layer.stored is not None
    source = layer.stored.source
    url = f"{source.format}://{base.rstrip('/')}"
    if source.format == "precomputed":
        return {"url": url}
    frame, axes = layer.volume.frame, layer.stored.axes
    shift = frame.origin if layer.stored.image is None else dict.fromkeys(axes, 0.5)
    return {"url": f"{url}/", "transform": transform(axes, frame, shift, _channel(layer, source))}


def _channel(layer: Layer, source: Source) -> str:
    sizes, chunks = (dict(zip(source.dims, part, strict=True)) for part in (source.shape, source.chunks))
    return "c^" if layer.kind != "segmentation" and chunks.get("c") == sizes.get("c") else "c'"


def remote_url(url: str) -> str:
    """The URL by which a browser reads what lies in a bucket or on a web server."""
    store = locate(url).kvstore
    if store["driver"] == "s3" and "endpoint" in store:
        return f"s3+{store['endpoint']}/{store['bucket']}/{store['path']}"
    return url


# ---- the state --------------------------------------------------------------------------------------------------


def layer_state(
    layer: Layer, source: dict[str, Any], contrast: tuple[float, float] | None, segments: Sequence[int] | None = None
) -> dict[str, Any]:
    """A layer in Neuroglancer's words; ``segments`` are shown, with their meshes, or all that have some."""
    state: dict[str, Any] = {"name": layer.name, "source": source}
    if layer.kind == "segmentation":
        chosen = _meshed(layer) if segments is None else segments
        return {**state, "type": "segmentation", "selectedAlpha": 0.4, "segments": [str(i) for i in chosen]}
    channels = channels_of(layer.volume)
    if "c'" in source.get("transform", {}).get("outputDimensions", {}):  # one at a time, the first to begin with
        channels = 1
        state |= {"localDimensions": {"c'": [1, ""]}, "localPosition": [0.5]}
    state |= {"type": "image", "shader": shader(layer.kind, channels), "opacity": 1}
    if layer.kind == "affinities":
        state["opacity"] = 0.6
    if contrast is not None and contrast[0] < contrast[1]:
        whole = layer.volume.array.dtype.kind in "iu"
        state["shaderControls"] = {"contrast": {"range": [round(v) if whole else v for v in contrast]}}
    return state


def _meshed(layer: Layer) -> list[int]:
    if layer.stored is None or layer.stored.source.format != "precomputed":
        return []
    return meshed(layer.stored.source.url, SEGMENTS)


def view_state(
    layers: Sequence[Layer], states: Sequence[dict[str, Any]], position: Sequence[float] | None, layout: str
) -> dict[str, Any]:
    """The whole view: the first layer's voxels, its middle or ``position`` (z, y, x), and as much as fits."""
    dimensions: dict[str, list[Any]] = {}
    for layer in layers:
        for d, length in lengths(layer.volume.frame).items():
            dimensions.setdefault(d, length)
    dimensions = {d: dimensions[d] for d in "xyz" if d in dimensions}
    frame, shape = layers[0].volume.frame, layers[0].volume.space_shape
    if position is None:
        centre = {d: frame.origin[d] + n // 2 for d, n in zip(frame.space, shape, strict=True)}
    else:
        if len(position) != len(frame.space):
            raise VolumeError(
                f"position={tuple(position)} is not a place in the volume.",
                f"It has one number for each of {frame.space}, in voxels.",
                [f"position={tuple(n // 2 for n in shape)}", "leave position= out: it is the middle"],
            )
        centre = dict(zip(frame.space, map(float, position), strict=True))
    least = min(length for length, _ in dimensions.values())
    extent = max(n * frame.voxel_size[d] for d, n in zip(frame.space, shape, strict=True))
    extent *= METRES.get(frame.unit, 1.0) / least
    return {
        "dimensions": dimensions,
        "position": [centre.get(d, 0) + 0.5 for d in dimensions],
        "crossSectionScale": extent / ACROSS,
        "projectionScale": 1.5 * extent,
        "layers": list(states),
        "layout": layout,
    }


def layer_of(name: str, kind: str | None, volume: Volume, found: Stored | None) -> Layer:
    """A layer, its kind told from the volume if nobody said it."""
    return Layer(name, kind_of(volume.array.dtype, channels_of(volume), kind), volume, found)
